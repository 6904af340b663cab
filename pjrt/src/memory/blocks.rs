//! Large blocks: mapped from the system, and kept when they are freed.
//!
//! Nothing here allocates, except by asking the system for pages: it is what allocation is made of.

use std::{
    ffi::c_void,
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Blocks of at least this size are ours.
const LARGE: usize = 1 << 20;

/// Blocks begin at multiples of this, the size of a huge page: fewer pages to clear, and to tell our blocks from the
/// C library's costs next to nothing.
const START: usize = 2 << 20;

/// They end at multiples of this. A huge page is not begun for a few bytes.
const PAGE: usize = 4 << 10;

/// The most blocks there can be. Beyond it the C library serves.
const MOST: usize = 4096;

/// Whether blocks are kept. Until then none are ours.
static KEEPS: AtomicBool = AtomicBool::new(false);

static POOL: Mutex<Pool> = Mutex::new(Pool { blocks: [NONE; MOST], count: 0, in_use: 0 });

#[derive(Clone, Copy)]
struct Block {
    address: usize,
    size: usize,
    /// Bytes that were asked for; 0 if the block is free.
    wanted: usize,
}

const NONE: Block = Block { address: 0, size: 0, wanted: 0 };

struct Pool {
    blocks: [Block; MOST],
    count: usize,
    /// The sum of what was asked for.
    in_use: usize,
}

/// A block that was taken.
pub(super) struct Taken {
    pub address: *mut c_void,
    /// Whether the system has just cleared it.
    pub is_zero: bool,
}

pub(super) fn keep() {
    KEEPS.store(true, Ordering::Release);
}

pub(super) fn in_use() -> Option<usize> {
    KEEPS.load(Ordering::Acquire).then(|| pool().in_use)
}

/// A block of `size` bytes at a multiple of `align`; nothing if such blocks are not ours, or there is no memory.
pub(super) fn take(size: usize, align: usize) -> Option<Taken> {
    if size < LARGE || align > START || !KEEPS.load(Ordering::Acquire) {
        return None;
    }
    let whole = size.checked_next_multiple_of(PAGE)?;
    pool().take(size, whole)
}

/// Takes a block back. False if it is not ours.
pub(super) fn put(address: *mut c_void) -> bool {
    may_be_ours(address) && pool().put(address as usize)
}

/// The room in a block; nothing if it is not ours.
pub(super) fn room(address: *mut c_void) -> Option<usize> {
    if !may_be_ours(address) {
        return None;
    }
    let pool = pool();
    pool.find(address as usize).map(|i| pool.blocks[i].size)
}

/// Gives free blocks back to the system.
pub(super) fn give_back() {
    pool().give_back(usize::MAX);
}

fn may_be_ours(address: *mut c_void) -> bool {
    !address.is_null() && (address as usize).is_multiple_of(START) && KEEPS.load(Ordering::Acquire)
}

fn pool() -> MutexGuard<'static, Pool> {
    // Nothing in here panics half way.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn take(&mut self, wanted: usize, size: usize) -> Option<Taken> {
        // The smallest that fits; one much larger is left for what needs it.
        let most = size + size / 4;
        let best = (0..self.count)
            .filter(|i| self.blocks[*i].wanted == 0 && (size..=most).contains(&self.blocks[*i].size))
            .min_by_key(|i| self.blocks[*i].size);
        if let Some(i) = best {
            self.blocks[i].wanted = wanted;
            self.in_use += wanted;
            return Some(Taken { address: self.blocks[i].address as *mut c_void, is_zero: false });
        }
        // Other sizes are wanted than before: as much as is taken now is given back.
        self.give_back(size);
        if self.count == MOST {
            return None;
        }
        let address = map(size)?;
        self.blocks[self.count] = Block { address, size, wanted };
        self.count += 1;
        self.in_use += wanted;
        Some(Taken { address: address as *mut c_void, is_zero: true })
    }

    fn put(&mut self, address: usize) -> bool {
        let Some(i) = self.find(address) else { return false };
        self.in_use -= self.blocks[i].wanted;
        self.blocks[i].wanted = 0;
        true
    }

    fn find(&self, address: usize) -> Option<usize> {
        (0..self.count).find(|i| self.blocks[*i].address == address && self.blocks[*i].wanted > 0)
    }

    /// Unmaps free blocks until they make up `bytes`.
    fn give_back(&mut self, bytes: usize) {
        let mut given = 0;
        let mut i = 0;
        while i < self.count && given < bytes {
            let block = self.blocks[i];
            if block.wanted > 0 {
                i += 1;
                continue;
            }
            // SAFETY: the block is a mapping of this size that we made and nobody uses.
            unsafe { libc::munmap(block.address as *mut c_void, block.size) };
            given += block.size;
            self.count -= 1;
            self.blocks[i] = self.blocks[self.count];
        }
    }
}

/// A mapping of `size` bytes at a multiple of [`START`].
fn map(size: usize) -> Option<usize> {
    let whole = size.checked_add(START)?;
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at a place of the system's choice touches nothing that is there.
    let found = unsafe { libc::mmap(ptr::null_mut(), whole, access, kind, -1, 0) };
    if found == libc::MAP_FAILED {
        return None;
    }
    let start = found as usize;
    let address = start.next_multiple_of(START);
    let (before, after) = (address - start, start + whole - (address + size));
    // SAFETY: both ends are parts of the mapping just made, outside of what is kept of it. Where the system has no
    // huge pages to give, the advice does nothing.
    unsafe {
        if before > 0 {
            libc::munmap(found, before);
        }
        if after > 0 {
            libc::munmap((address + size) as *mut c_void, after);
        }
        libc::madvise(address as *mut c_void, size, libc::MADV_HUGEPAGE);
    }
    Some(address)
}

//! The pool of large blocks: mapped from the system, and cached when they are freed.
//!
//! Nothing here calls `malloc`, which is implemented with it; memory comes from `mmap` and a static table
//! alone.

use std::{
    ffi::c_void,
    ptr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// The smallest size in bytes that the pool serves.
const LARGE: usize = 1 << 20;

/// Alignment of blocks in bytes, the size of a huge page. There are fewer pages to clear, and an address that
/// is not aligned so is known at once to be the C library's.
const ALIGNMENT: usize = 2 << 20;

/// Sizes are rounded up to this many bytes, not to huge pages.
const PAGE: usize = 4 << 10;

/// The maximum number of blocks. Beyond it, the C library serves.
const MAX_BLOCKS: usize = 4096;

/// True once blocks are cached. Until then the pool serves nothing.
static ENABLED: AtomicBool = AtomicBool::new(false);

static POOL: Mutex<Pool> = Mutex::new(Pool { blocks: [UNUSED; MAX_BLOCKS], count: 0, in_use: 0 });

#[derive(Clone, Copy)]
struct Block {
    address: usize,
    size: usize,
    /// Bytes that were requested; 0 if the block is free.
    requested: usize,
}

const UNUSED: Block = Block { address: 0, size: 0, requested: 0 };

struct Pool {
    blocks: [Block; MAX_BLOCKS],
    count: usize,
    /// The sum of the requested bytes.
    in_use: usize,
}

/// A block from the pool.
pub(super) struct Taken {
    pub address: *mut c_void,
    /// True if all of its bytes are 0, because it was just mapped.
    pub is_zero: bool,
}

pub(super) fn keep() {
    ENABLED.store(true, Ordering::Release);
}

pub(super) fn in_use() -> Option<usize> {
    ENABLED.load(Ordering::Acquire).then(|| pool().in_use)
}

/// Takes a block of at least `size` bytes at a multiple of `align`. `None` if the pool does not serve such
/// blocks, or there is no memory.
pub(super) fn take(size: usize, align: usize) -> Option<Taken> {
    if size < LARGE || align > ALIGNMENT || !ENABLED.load(Ordering::Acquire) {
        return None;
    }
    let whole = size.checked_next_multiple_of(PAGE)?;
    pool().take(size, whole)
}

/// Returns a block to the pool. False if it is not from the pool.
pub(super) fn put(address: *mut c_void) -> bool {
    may_be_pooled(address) && pool().put(address as usize)
}

/// Returns the usable bytes of a block. `None` if it is not from the pool.
pub(super) fn room(address: *mut c_void) -> Option<usize> {
    if !may_be_pooled(address) {
        return None;
    }
    let pool = pool();
    pool.find(address as usize).map(|i| pool.blocks[i].size)
}

/// Unmaps all free blocks.
pub(super) fn give_back() {
    pool().give_back(usize::MAX);
}

fn may_be_pooled(address: *mut c_void) -> bool {
    !address.is_null() && (address as usize).is_multiple_of(ALIGNMENT) && ENABLED.load(Ordering::Acquire)
}

fn pool() -> MutexGuard<'static, Pool> {
    // No code panics while it holds the lock.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn take(&mut self, requested: usize, size: usize) -> Option<Taken> {
        // The smallest block that fits, unless it is much larger than requested.
        let most = size + size / 4;
        let best = (0..self.count)
            .filter(|i| self.blocks[*i].requested == 0 && (size..=most).contains(&self.blocks[*i].size))
            .min_by_key(|i| self.blocks[*i].size);
        if let Some(i) = best {
            self.blocks[i].requested = requested;
            self.in_use += requested;
            return Some(Taken { address: self.blocks[i].address as *mut c_void, is_zero: false });
        }
        // The sizes of requests have changed: unmap as many bytes as will be mapped.
        self.give_back(size);
        if self.count == MAX_BLOCKS {
            return None;
        }
        let address = map(size)?;
        self.blocks[self.count] = Block { address, size, requested };
        self.count += 1;
        self.in_use += requested;
        Some(Taken { address: address as *mut c_void, is_zero: true })
    }

    fn put(&mut self, address: usize) -> bool {
        let Some(i) = self.find(address) else { return false };
        self.in_use -= self.blocks[i].requested;
        self.blocks[i].requested = 0;
        true
    }

    fn find(&self, address: usize) -> Option<usize> {
        (0..self.count).find(|i| self.blocks[*i].address == address && self.blocks[*i].requested > 0)
    }

    /// Unmaps free blocks until they amount to `bytes`.
    fn give_back(&mut self, bytes: usize) {
        let mut given = 0;
        let mut i = 0;
        while i < self.count && given < bytes {
            let block = self.blocks[i];
            if block.requested > 0 {
                i += 1;
                continue;
            }
            // SAFETY: the block is a mapping of this size made by `map`, and it is free.
            unsafe { libc::munmap(block.address as *mut c_void, block.size) };
            given += block.size;
            self.count -= 1;
            self.blocks[i] = self.blocks[self.count];
        }
    }
}

/// Maps `size` bytes at a multiple of [`ALIGNMENT`].
fn map(size: usize) -> Option<usize> {
    let whole = size.checked_add(ALIGNMENT)?;
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address that the system chooses does not affect existing memory.
    let found = unsafe { libc::mmap(ptr::null_mut(), whole, access, kind, -1, 0) };
    if found == libc::MAP_FAILED {
        return None;
    }
    let start = found as usize;
    let address = start.next_multiple_of(ALIGNMENT);
    let (before, after) = (address - start, start + whole - (address + size));
    // SAFETY: both ends are parts of the new mapping outside of the block. If the system has no huge pages,
    // the advice does nothing.
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

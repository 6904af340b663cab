//! The C library's functions for memory, in whose place these stand: large blocks come from [`blocks`], all others
//! from the C library as before.
//!
//! glibc's manual says how ("Replacing malloc"): a program that defines these functions has them used by all of the
//! process, shared libraries included. The set is the manual's, so that every way to a block leads here. What
//! they mean is the C standard's and POSIX's.

use super::blocks;
use std::{
    ffi::{c_int, c_void},
    ptr,
    sync::OnceLock,
};

unsafe extern "C" {
    // glibc's own, under the names that it keeps for programs that replace them.
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
    fn __libc_free(block: *mut c_void);
    fn malloc_trim(pad: usize) -> c_int;
}

pub(super) fn trim() {
    // SAFETY: malloc_trim gives pages back that nothing uses; it is safe between threads.
    unsafe { malloc_trim(0) };
}

// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    match blocks::take(size, 1) {
        Some(taken) => taken.address,
        // SAFETY: it takes any size.
        None => unsafe { __libc_malloc(size) },
    }
}

// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let bytes = count.checked_mul(size);
    match bytes.and_then(|bytes| blocks::take(bytes, 1)) {
        Some(taken) => {
            if !taken.is_zero {
                // SAFETY: the block has at least that many bytes, and nobody else knows it yet.
                unsafe { ptr::write_bytes(taken.address.cast::<u8>(), 0, count * size) };
            }
            taken.address
        }
        // SAFETY: it takes any sizes, and refuses those whose product is too large.
        None => unsafe { __libc_calloc(count, size) },
    }
}

/// # Safety
/// `block` is null or a block in use.
// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(block: *mut c_void) {
    if !blocks::put(block) {
        // SAFETY: not ours, so the C library's, in use as the caller promises.
        unsafe { __libc_free(block) };
    }
}

/// # Safety
/// `block` is null or a block in use.
// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    let Some(room) = blocks::room(block) else {
        // SAFETY: not ours, so the C library's, in use as the caller promises. It stays the C library's however much it
        // grows: to move it here we would have to know its size.
        return unsafe { __libc_realloc(block, size) };
    };
    if size <= room && size >= room / 2 {
        return block;
    }
    if size == 0 {
        blocks::put(block);
        return ptr::null_mut();
    }
    let moved = malloc(size);
    if !moved.is_null() {
        // SAFETY: two blocks in use, which do not overlap, of at least that many bytes.
        unsafe { ptr::copy_nonoverlapping(block.cast::<u8>(), moved.cast::<u8>(), size.min(room)) };
        blocks::put(block);
    }
    moved
}

// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match blocks::take(size, align) {
        Some(taken) => taken.address,
        // SAFETY: it takes any numbers, and refuses what it cannot do.
        None => unsafe { __libc_memalign(align, size) },
    }
}

// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    memalign(align, size)
}

/// # Safety
/// `block` can be written to.
// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(block: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    let address = memalign(align, size);
    if address.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: as the caller promises.
    unsafe { *block = address };
    0
}

// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn valloc(size: usize) -> *mut c_void {
    memalign(system_page(), size)
}

// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn pvalloc(size: usize) -> *mut c_void {
    let page = system_page();
    // A size that cannot be rounded up is too large anyway.
    memalign(page, size.checked_next_multiple_of(page).unwrap_or(usize::MAX))
}

/// # Safety
/// `block` is null or a block in use.
// SAFETY: signature and meaning are those of the C library's function that it replaces.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    type Usable = unsafe extern "C" fn(*mut c_void) -> usize;
    // glibc has no other name for it: the next function of this name after ours.
    static NEXT: OnceLock<Option<Usable>> = OnceLock::new();
    if let Some(room) = blocks::room(block) {
        return room;
    }
    let next = NEXT.get_or_init(|| {
        // SAFETY: a name that ends with 0; what is found under it has this type.
        unsafe {
            let found = libc::dlsym(libc::RTLD_NEXT, c"malloc_usable_size".as_ptr());
            (!found.is_null()).then(|| std::mem::transmute::<*mut c_void, Usable>(found))
        }
    });
    // SAFETY: not ours, so the C library's, in use as the caller promises.
    next.map_or(0, |usable| unsafe { usable(block) })
}

fn system_page() -> usize {
    // SAFETY: it takes any number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use crate::{give_back_memory, keep_freed_memory, memory_in_use};
    use std::ffi::c_void;

    const MIB: usize = 1 << 20;

    /// Other tests of this process take no blocks of more than a megabyte.
    #[test]
    fn large_blocks_of_the_process_and_of_libraries_are_kept() {
        keep_freed_memory();
        let before = memory_in_use().unwrap();
        let mut own = vec![7_u8; 10 * MIB];
        assert_eq!(memory_in_use(), Some(before + 10 * MIB));
        assert_eq!(own.as_ptr() as usize % (2 * MIB), 0);

        // A library's: the C library's own `strndup` asks for its memory as every library does.
        own[9 * MIB] = 0;
        // SAFETY: the text ends with 0, within the block.
        let copy = unsafe { libc::strdup(own.as_ptr().cast()) };
        assert_eq!(memory_in_use(), Some(before + 19 * MIB + 1));
        let place = copy as usize;
        // SAFETY: what `strdup` gives is to be freed so.
        unsafe { libc::free(copy.cast()) };
        assert_eq!(memory_in_use(), Some(before + 10 * MIB));

        // The same block again, cleared where that is asked for; of the kept size or a little less.
        // SAFETY: what `calloc` gives has that many bytes, and is to be freed so.
        unsafe {
            let again = libc::calloc(9 * MIB, 1);
            assert_eq!(again as usize, place);
            assert_eq!(libc::malloc_usable_size(again), 9 * MIB + 4096);
            assert!(std::slice::from_raw_parts(again.cast::<u8>(), 9 * MIB).iter().all(|b| *b == 0));
            let grown = libc::realloc(again, 21 * MIB);
            assert_eq!((libc::malloc_usable_size(grown), *grown.cast::<u8>()), (21 * MIB, 0));
            libc::free(grown);
            let mut aligned: *mut c_void = std::ptr::null_mut();
            assert_eq!(libc::posix_memalign(&mut aligned, 3, MIB), libc::EINVAL);
            assert_eq!(libc::posix_memalign(&mut aligned, 64, 3 * MIB), 0);
            assert_eq!(memory_in_use(), Some(before + 13 * MIB));
            libc::free(aligned);
        }

        // Small blocks are the C library's.
        let small = vec![1_u8; MIB / 2];
        assert_eq!(memory_in_use(), Some(before + 10 * MIB));
        drop((small, own));
        assert_eq!(memory_in_use(), Some(before));
        give_back_memory();
        // A block that grew out of the C library's stays there.
        let mut grows = vec![1_u8; MIB / 2];
        grows.resize(4 * MIB, 2);
        assert_eq!((grows[0], grows[4 * MIB - 1]), (1, 2));
    }
}

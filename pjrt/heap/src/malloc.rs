//! Definitions of the C library's allocation functions: large blocks come from [`blocks`], all others from
//! glibc.
//!
//! If a program defines these functions, the whole process uses them, shared libraries included ("Replacing
//! malloc" in glibc's manual). The set of functions is the manual's, so that every request for memory is seen
//! here. Their meaning is that of the C standard and POSIX.

use super::blocks;
use std::{
    ffi::{c_int, c_void},
    ptr,
    sync::OnceLock,
};

unsafe extern "C" {
    // glibc's implementations, under the names it exports for programs that replace them.
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(block: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
    fn __libc_free(block: *mut c_void);
    fn malloc_trim(pad: usize) -> c_int;
}

pub(super) fn trim() {
    // SAFETY: malloc_trim returns unused pages to the system; it is thread-safe.
    unsafe { malloc_trim(0) };
}

// SAFETY: it has the signature and meaning of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    match blocks::take(size, 1) {
        Some(taken) => taken.address,
        // SAFETY: any size is allowed.
        None => unsafe { __libc_malloc(size) },
    }
}

// SAFETY: it has the signature and meaning of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let bytes = count.checked_mul(size);
    match bytes.and_then(|bytes| blocks::take(bytes, 1)) {
        Some(taken) => {
            if !taken.is_zero {
                // SAFETY: the block has at least that many bytes, and no one else has its address yet.
                unsafe { ptr::write_bytes(taken.address.cast::<u8>(), 0, count * size) };
            }
            taken.address
        }
        // SAFETY: any sizes are allowed; it returns null if their product overflows.
        None => unsafe { __libc_calloc(count, size) },
    }
}

/// # Safety
/// `block` is null or a block in use.
// SAFETY: it has the signature and meaning of the C library's function that it replaces.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(block: *mut c_void) {
    if !blocks::put(block) {
        // SAFETY: not from the pool, so the C library's, and in use as the caller promises.
        unsafe { __libc_free(block) };
    }
}

/// # Safety
/// `block` is null or a block in use.
// SAFETY: it has the signature and meaning of the C library's function that it replaces.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    let Some(room) = blocks::room(block) else {
        // SAFETY: not from the pool, so the C library's, and in use as the caller promises. It stays there
        // however much it grows: its size, which a move into the pool would need, is not known.
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

// SAFETY: it has the signature and meaning of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    match blocks::take(size, align) {
        Some(taken) => taken.address,
        // SAFETY: any arguments are allowed; it returns null for invalid ones.
        None => unsafe { __libc_memalign(align, size) },
    }
}

// SAFETY: it has the signature and meaning of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    memalign(align, size)
}

/// # Safety
/// `block` can be written to.
// SAFETY: it has the signature and meaning of the C library's function that it replaces.
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

// SAFETY: it has the signature and meaning of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn valloc(size: usize) -> *mut c_void {
    memalign(system_page(), size)
}

// SAFETY: it has the signature and meaning of the C library's function that it replaces.
#[unsafe(no_mangle)]
extern "C" fn pvalloc(size: usize) -> *mut c_void {
    let page = system_page();
    // A size that overflows when rounded up is too large for any allocator.
    memalign(page, size.checked_next_multiple_of(page).unwrap_or(usize::MAX))
}

/// # Safety
/// `block` is null or a block in use.
// SAFETY: it has the signature and meaning of the C library's function that it replaces.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    type Usable = unsafe extern "C" fn(*mut c_void) -> usize;
    // glibc exports no other name for it; this finds the next definition after ours.
    static NEXT: OnceLock<Option<Usable>> = OnceLock::new();
    if let Some(room) = blocks::room(block) {
        return room;
    }
    let next = NEXT.get_or_init(|| {
        // SAFETY: the name ends with 0, and the symbol has this type.
        unsafe {
            let found = libc::dlsym(libc::RTLD_NEXT, c"malloc_usable_size".as_ptr());
            (!found.is_null()).then(|| std::mem::transmute::<*mut c_void, Usable>(found))
        }
    });
    // SAFETY: not from the pool, so the C library's, and in use as the caller promises.
    next.map_or(0, |usable| unsafe { usable(block) })
}

fn system_page() -> usize {
    // SAFETY: any argument is allowed.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use crate::{give_back_memory, keep_freed_memory, memory_in_use};
    use std::ffi::c_void;

    const MIB: usize = 1 << 20;

    /// Other tests of this process allocate no blocks of more than a megabyte.
    #[test]
    fn large_blocks_of_the_process_and_of_libraries_are_cached() {
        keep_freed_memory();
        let before = memory_in_use().unwrap();
        let mut own = vec![7_u8; 10 * MIB];
        assert_eq!(memory_in_use(), Some(before + 10 * MIB));
        assert_eq!(own.as_ptr() as usize % (2 * MIB), 0);

        // A block that a library allocates: the C library's `strdup` calls `malloc` as any library does.
        own[9 * MIB] = 0;
        // SAFETY: the text ends with 0, within the block.
        let copy = unsafe { libc::strdup(own.as_ptr().cast()) };
        assert_eq!(memory_in_use(), Some(before + 19 * MIB + 1));
        let place = copy as usize;
        // SAFETY: the result of `strdup` is freed with `free`.
        unsafe { libc::free(copy.cast()) };
        assert_eq!(memory_in_use(), Some(before + 10 * MIB));

        // The same block again, zeroed by `calloc`; it serves its own size or a little less.
        // SAFETY: the result of `calloc` has that many bytes and is freed with `free`.
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
        // A block that the C library allocated stays there when it grows.
        let mut grows = vec![1_u8; MIB / 2];
        grows.resize(4 * MIB, 2);
        assert_eq!((grows[0], grows[4 * MIB - 1]), (1, 2));
    }
}

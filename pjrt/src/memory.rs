//! How the process keeps memory that plugins free.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether [`keep_freed_memory`] was called where it does something.
static KEPT: AtomicBool = AtomicBool::new(false);

/// Makes the C library's allocator keep what is freed instead of giving it back to the system, for the whole
/// process. Call it before a CPU plugin is loaded; calling it again changes nothing.
///
/// XLA's CPU plugin allocates the temporary memory and the outputs of a program anew in every run. Blocks of
/// that size glibc maps and unmaps each time, and the system clears every page on its first touch: a quarter
/// of the time of a step on hundreds of megabytes. With these settings they come from one heap that stays, and
/// are touched already. The price is that the process never gets smaller than its largest moment.
///
/// Does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        glibc::keep();
        KEPT.store(true, Ordering::Relaxed);
    }
}

/// Makes room in the heap for runs that allocate `bytes` in large blocks, at most, at a time. Does nothing unless
/// [`keep_freed_memory`] did.
///
/// A heap that keeps what is freed has a hole where the temporary memory of the run before was, and without
/// this it just fits. A small block put into it, and the next run takes new memory, as much again. So this
/// makes a hole with room to spare, and a smaller one, which the allocator prefers for small blocks. Nothing
/// of it is touched: it takes addresses, not memory.
pub fn make_room(bytes: usize) {
    const SPARE: usize = 64 << 20;
    const SMALL: usize = 32 << 20;
    if !KEPT.load(Ordering::Relaxed) || bytes == 0 {
        return;
    }
    let block = |size: usize| {
        let mut block: Vec<u8> = Vec::new();
        // Where there are no addresses left, runs will say so better.
        block.try_reserve_exact(size).ok()?;
        Some(black_box(block))
    };
    let hole = block(bytes.saturating_add(SPARE));
    let wall = block(SMALL);
    let small = block(SMALL);
    let end = block(SMALL);
    // Walls stay, so that holes neither join nor become the end of the heap, of which all that fits in no
    // hole is cut.
    std::mem::forget((wall, end));
    drop((hole, small));
}

/// Gives memory that is free back to the system, after a compilation for example: hundreds of megabytes then.
pub fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::give_back();
}

/// How many bytes that the C library gave out are in use, by plugins too; where it cannot tell, nothing.
pub fn memory_in_use() -> Option<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return glibc::in_use();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use libloading::os::unix::Library;
    use std::{ffi::c_int, sync::OnceLock};

    unsafe extern "C" {
        fn mallopt(param: c_int, value: c_int) -> c_int;
        fn malloc_trim(pad: usize) -> c_int;
    }

    // From glibc's malloc.h, where they cannot change: programs have them compiled in.
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_TOP_PAD: c_int = -2;
    const M_MMAP_MAX: c_int = -4;
    const M_ARENA_MAX: c_int = -8;

    pub(super) fn keep() {
        let settings = [
            // No block has a mapping of its own, which would be undone when it is freed.
            (M_MMAP_MAX, 0),
            // The end of the heap is never cut off.
            (M_TRIM_THRESHOLD, c_int::MAX),
            // The heap grows by this much more than is asked for.
            (M_TOP_PAD, 64 << 20),
            // Heaps of threads are mappings of limited size, too small for large blocks: all share the main one.
            (M_ARENA_MAX, 1),
        ];
        for (param, value) in settings {
            // SAFETY: mallopt takes any numbers, and refuses those it does not know; it is safe between threads.
            // Where it refuses one, programs run as before.
            unsafe { mallopt(param, value) };
        }
    }

    /// What `mallinfo2` gives, in the order of glibc's malloc.h.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Information {
        arena: usize,
        ordblks: usize,
        smblks: usize,
        hblks: usize,
        hblkhd: usize,
        usmblks: usize,
        fsmblks: usize,
        uordblks: usize,
        fordblks: usize,
        keepcost: usize,
    }

    /// What is in use of the main heap, and blocks with mappings of their own.
    pub(super) fn in_use() -> Option<usize> {
        type MallInfo2 = unsafe extern "C" fn() -> Information;
        // glibc has it since 2.33; asked for by name, so that older ones still load this program.
        static FOUND: OnceLock<Option<MallInfo2>> = OnceLock::new();
        let found = FOUND.get_or_init(|| {
            // SAFETY: the symbol, where there is one, is glibc's function of this signature, and glibc stays loaded.
            unsafe { Library::this().get::<MallInfo2>(b"mallinfo2\0").ok().map(|f| *f) }
        });
        // SAFETY: it takes nothing, and is safe between threads but for options that change meanwhile.
        found.map(|mallinfo2| unsafe { mallinfo2() }).map(|i| i.uordblks + i.hblkhd)
    }

    pub(super) fn give_back() {
        // SAFETY: malloc_trim gives pages back that nothing uses; it is safe between threads.
        unsafe { malloc_trim(0) };
    }
}

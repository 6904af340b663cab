//! Large blocks of memory for CPU plugins.
//!
//! XLA's CPU plugin allocates the temporary memory of a program anew in every run, hundreds of megabytes, and
//! frees it afterwards. glibc maps and unmaps blocks of that size each time, and the system clears every page on
//! its first touch: a quarter of the time of a training step. Told to keep such blocks in its heap, glibc puts
//! small ones into the holes between runs, and the next run takes as much memory again. So large blocks of the
//! whole process, plugins included, come from here: [`blocks`] keeps what is freed, whole, for the next request
//! of about that size; [`malloc`] puts it in the place of the C library's functions.
//!
//! Where the C library is not glibc, nothing of this is there, and memory is as the C library makes it.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod blocks;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod malloc;

/// Keeps large blocks of memory that the process or a plugin frees from now on, for the next ones that are asked
/// for. Call it before a CPU plugin runs programs; calling it again changes nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    blocks::keep();
}

/// Gives memory that is free back to the system, after a compilation for example: hundreds of megabytes then.
pub fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        blocks::give_back();
        malloc::trim();
    }
}

/// How many bytes of large blocks are in use, by plugins too; nothing unless [`keep_freed_memory`] was called where
/// it does something.
pub fn memory_in_use() -> Option<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return blocks::in_use();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

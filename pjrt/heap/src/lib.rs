//! Replaces `malloc` of a program that runs CPU plugins, so that large freed blocks are reused.
//!
//! XLA's CPU plugin allocates the temporary memory of a program anew in every run, hundreds of megabytes, and
//! frees it afterwards. glibc maps and unmaps blocks of that size each time, and the kernel clears every page
//! on first touch: a quarter of the time of a training step. When glibc is told to keep such blocks in its
//! heap, it puts small blocks into the holes between runs, and the next run takes as much memory again.
//! Therefore this crate allocates the large blocks of the whole process, plugins included: `blocks` caches
//! a freed block, whole, for the next request of about its size, and `malloc` defines the C library's
//! functions in terms of it.
//!
//! Linking this crate replaces the allocator, so only binaries depend on it, never libraries (ADR 0008).
//! Without glibc it defines nothing, and memory is allocated by the C library as usual.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod blocks;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod malloc;

/// Starts to cache large blocks that the process or a plugin frees, for later requests. Call it before a CPU
/// plugin is loaded; later calls change nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    blocks::keep();
}

/// Returns free memory to the system. After a compilation, for example, this is hundreds of megabytes.
pub fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        blocks::give_back();
        malloc::trim();
    }
}

/// Returns the bytes in use in large blocks of the process, plugins included. `None` if [`keep_freed_memory`]
/// was not called, or without glibc.
pub fn memory_in_use() -> Option<usize> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return blocks::in_use();
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

//! The process that builds and runs programs: its messages and its memory.

use runtime::HostAllocator;

/// The services of the process. Libraries neither print nor replace the allocator.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Shows a line of text to the user.
    pub say: fn(&str),
    /// Makes the allocator keep large freed blocks for later requests. It is called before a CPU plugin is
    /// loaded.
    pub keep_freed_memory: fn(),
    /// The allocator of sessions.
    pub allocator: HostAllocator,
}

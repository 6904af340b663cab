//! The services of this process to builds: lines on standard error, and the allocator. Its version.

use super::stream::errln;
use driver::host::Host;
use runtime::HostAllocator;

/// The version with the commit that it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("MESH_COMMIT"), ")");

/// This process.
pub const HOST: Host = Host {
    say: |line| errln!("{line}"),
    keep_freed_memory: cpu_heap::keep_freed_memory,
    allocator: HostAllocator { in_use: cpu_heap::memory_in_use, trim: cpu_heap::give_back_memory },
};

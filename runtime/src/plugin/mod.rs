//! Finding, installing and examining PJRT plugins, and what they need to know of this machine and the job.
//!
//! Search order: the path on the command line, `MESH_PJRT_PLUGIN`, `TPU_LIBRARY_PATH` (for TPUs), installed
//! Python wheels, the cache. The CPU plugin is installed into the cache if none is found.

mod doctor;
mod faults;
pub mod gpu;
mod install;
mod search;
mod store;
pub mod tpu;

pub use doctor::{Examination, examine};
pub use faults::known_faults;
pub use install::{CPU, Wheel, install};
pub use search::{Platform, PluginFile, SearchPaths, find, list};
pub use store::JobStore;

use crate::{Error, Result};
use std::path::Path;

/// Loads the plugin at `path`.
///
/// CPU plugins allocate the temporary memory of a program anew in every run. A binary that runs them calls
/// `cpu_heap::keep_freed_memory` first.
pub fn load(path: &Path, platform: Platform) -> Result<pjrt::Plugin> {
    pjrt::Plugin::load(path).map_err(Error::pjrt(format!("loading the {platform} plugin")))
}

/// True if this machine's processor has no units for bf16 products (AVX512-BF16, or BF16 of Arm). Processors
/// with AMX-BF16 have AVX512-BF16 too.
pub fn lacks_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(target_arch = "aarch64")]
    return !std::arch::is_aarch64_feature_detected!("bf16");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return true;
}

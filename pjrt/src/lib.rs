//! Safe bindings to PJRT plugins, the shared libraries through which XLA compiles and runs programs on CPUs,
//! GPUs and TPUs.
//!
//! The declarations of the C API are hand-written ([`Function`] lists the function table); nothing of XLA is
//! linked. One build works with every plugin from API 0.57 on, whether older or newer than the declarations.
//!
//! # Overview
//!
//! | Type | What it is | Made by |
//! |---|---|---|
//! | [`Plugin`] | a loaded shared library | [`Plugin::load`] |
//! | [`Client`] | this process's view of the devices | [`Client::create`] with [`ClientOptions`] |
//! | [`Device`] | one device | [`Client::addressable_devices`] |
//! | [`Topology`] | a machine to compile for, present or not | [`Topology::create`], [`Client::topology`] |
//! | [`Executable`] | a compiled program: its costs, its bytes | [`Topology::compile`] |
//! | [`LoadedExecutable`] | the same on devices | [`Client::compile`], [`Client::load_serialized`] |
//! | [`Buffer`] | an array on a device | [`Client::buffer_from_slice`], [`Client::buffer_from_host`], a run |
//! | [`Execution`] | a run | [`LoadedExecutable::execute`] |
//! | [`Profiler`] | a profile of the devices | [`Profiler::start`] |
//! | [`Event`] | something that becomes ready | a run, [`Buffer::ready`] |
//! | [`Error`] | which call failed, where, why | all calls |
//!
//! ```no_run
//! use pjrt::{Argument, Client, ClientOptions, ElementType, ExecuteOptions, HostArray, Plugin, Program};
//!
//! # fn main() -> pjrt::Result<()> {
//! # let (hlo, compile_options): (Vec<u8>, Vec<u8>) = Default::default();
//! let plugin = Plugin::load("pjrt_c_api_cpu_plugin.so")?;
//! let client = Client::create(&plugin, &ClientOptions::new().with("cpu_device_count", 8))?;
//! let program = client.compile(&Program::hlo(&hlo), &compile_options)?;
//!
//! let mut arguments = Vec::new();
//! for device in program.devices() {
//!     let x = client.buffer_from_slice(&[0; 16], &HostArray::dense(ElementType::F32, &[4]), device)?;
//!     arguments.push(vec![Argument::Donate(x)]);
//! }
//! let outputs = program.execute(arguments, &ExecuteOptions::default())?.wait()?;
//! let bytes = outputs[0][0].to_vec()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! * All types are `Send` and `Sync`, and keep alive the objects they depend on: buffers and executables keep
//!   their client, a client's topology keeps the client. A plugin stays loaded for the life of the process.
//! * All objects are freed on drop, also when a call fails halfway. Dropping the last reference to a client
//!   waits for runs and copies in flight.
//! * Background work of a plugin is observed through events. Borrowed host memory is kept alive until the
//!   plugin no longer uses it.
//! * A donated buffer is consumed. Borrowed arguments are never overwritten, even if the program declares an
//!   alias.
//! * A capability that the plugin lacks (no such function, or the code UNIMPLEMENTED) is `None` where the
//!   result is optional, as in [`Executable::cost_analysis`], and [`Error::MissingFunction`] where the
//!   operation cannot proceed without it.
//! * Panics of callbacks do not reach the plugin. A plugin can abort the process (XLA does so on inconsistent
//!   programs), so run untrusted programs in a child process.
//!
//! # Tests
//!
//! Tests on a real CPU plugin use the one in `MESH_PJRT_PLUGIN`, else a `pjrt_c_api_cpu_plugin.so` below the
//! cache directory (`MESH_CACHE`, else `mesh` in the user's cache directory). Without one they print that
//! they are skipped; with `MESH_REQUIRE_PLUGIN=1` they fail. `MESH_PJRT_MATRIX=path:path` adds further CPU
//! plugins, `MESH_TPU_PLUGIN` a libtpu and `MESH_GPU_PLUGIN` a CUDA plugin. The other tests compile small
//! plugins with the C compiler `cc`.

mod api;
mod array_type;
mod buffer;
mod client;
mod custom_call;
mod device;
mod element_type;
mod error;
mod event;
mod executable;
mod execute;
mod ffi;
mod host;
mod in_flight;
mod key_value;
#[cfg(test)]
mod layout_tests;
mod plugin;
mod profiler;
mod program;
mod signature;
mod topology;
mod value;
mod version;

pub use array_type::ArrayType;
pub use buffer::{Buffer, PendingRead, read_all};
pub use client::{Client, ClientOptions};
pub use custom_call::{CustomCall, CustomCalls};
pub use device::{Device, DeviceDescription, MemoryUse};
pub use element_type::ElementType;
pub use error::{CallError, Code, Error, Result};
pub use event::{Event, wait_all};
pub use executable::{Executable, HostMemoryStats, LoadedExecutable, MemoryStats, OptimizedCode};
pub use execute::{Argument, ExecuteError, ExecuteOptions, Execution};
pub use ffi::Function;
pub use host::{AlignedBytes, HostArray, HostUse};
pub use key_value::{KeyValueStore, StoreError};
pub use plugin::Plugin;
pub use profiler::Profiler;
pub use program::Program;
pub use topology::Topology;
pub use value::{Named, Value};
pub use version::{ApiVersion, OLDEST};

//! Safe access to PJRT plugins: the shared libraries through which XLA compiles for and runs on CPUs, GPUs and TPUs.
//!
//! Declarations of the C API are hand-written ([`Function`] lists the table); nothing of XLA is linked. One build
//! speaks to every plugin from API 0.57 on, older or newer than the declarations.
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
//! | [`Event`] | something that becomes ready | a run, [`Buffer::ready`] |
//! | [`Error`] | which call failed, where, why | everything |
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
//! # What the types promise
//!
//! * Everything is `Send` and `Sync`, and keeps alive what it came from: buffers and executables their client, a
//!   client's topology its client. A plugin stays loaded for the life of the process.
//! * Everything is freed on drop, also where a call fails halfway. Dropping the last owner of a client waits for runs and
//!   copies that are still under way.
//! * What a plugin does in the background is seen through events, and no memory is used longer than it lives: lent host
//!   memory is held until the plugin is done with it.
//! * A donated buffer is consumed. Borrowed arguments are never overwritten, whatever the program says.
//! * A capability that the plugin lacks (no such function, or the answer UNIMPLEMENTED) is `None` where it is an answer
//!   among others, such as [`Executable::cost_analysis`], and [`Error::MissingFunction`] where there is no way on.
//! * Panics of callbacks do not reach the plugin. A plugin can abort the process by itself (XLA does so on inconsistent
//!   programs); foreign programs belong into a child process.
//!
//! # Tests
//!
//! Tests on a real CPU plugin take the one at `MESH_PJRT_PLUGIN`, else a `pjrt_c_api_cpu_plugin.so` below the cache directory
//! (`MESH_CACHE`, else `mesh` in the user's cache directory). Where there is none they say that they are skipped; with
//! `MESH_REQUIRE_PLUGIN=1` they fail. `MESH_PJRT_MATRIX=path:path` adds further CPU plugins, `MESH_TPU_PLUGIN` a libtpu and
//! `MESH_GPU_PLUGIN` a CUDA plugin. The others compile small plugins with the C compiler `cc`.

mod api;
mod array_type;
mod buffer;
mod client;
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
mod program;
mod signature;
mod topology;
mod value;
mod version;

pub use array_type::ArrayType;
pub use buffer::{Buffer, PendingRead, read_all};
pub use client::{Client, ClientOptions};
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
pub use program::Program;
pub use topology::Topology;
pub use value::{Named, Value};
pub use version::{ApiVersion, OLDEST};

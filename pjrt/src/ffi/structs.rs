//! Argument structs.
//!
//! Most functions of the API take one object and return one value, one text or one array, so their structs
//! share a few generic types; the others are declared one by one. Fields are in the order of the C API. `out`
//! marks fields that the plugin writes.

use super::{
    Args, Buffer, Client, Device, Error, Event, Executable, Head, LoadedExecutable, SerializedAssignment,
    SerializedExecutable, SerializedTopology, Topology,
};
use std::ffi::{c_char, c_int, c_void};

/// A C `int` or enum, and the padding after it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Int {
    pub value: c_int,
    pub padding: u32,
}

/// A C `bool`, and the padding after it. Read as a byte, so that no value written by a plugin is undefined
/// behaviour.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Bool {
    pub value: u8,
    pub padding: [u8; 7],
}

impl Bool {
    /// Returns true if the plugin wrote a value other than 0.
    pub fn get(self) -> bool {
        self.value != 0
    }
}

/// No arguments.
#[repr(C)]
pub(crate) struct Nothing {
    pub head: Head,
}

/// One object.
#[repr(C)]
pub(crate) struct Object<O> {
    pub head: Head,
    pub object: *mut O,
}

/// One object in, one word out.
#[repr(C)]
pub(crate) struct Get<O, T> {
    pub head: Head,
    pub object: *mut O,
    pub value: T, // out
}

/// One object in, pointer and length out. `Span<O, u8>` is a text.
#[repr(C)]
pub(crate) struct Span<O, T> {
    pub head: Head,
    pub object: *mut O,
    pub items: *const T, // out
    pub len: usize,      // out
}

/// One object in, length and pointer out. Some functions have this order instead of that of [`Span`].
#[repr(C)]
pub(crate) struct SpanLenFirst<O, T> {
    pub head: Head,
    pub object: *mut O,
    pub len: usize,      // out
    pub items: *const T, // out
}

/// The plugin's attributes.
#[repr(C)]
pub(crate) struct PluginAttributes {
    pub head: Head,
    pub items: *const NamedValue, // out
    pub len: usize,               // out
}

/// A named option or attribute. An element of arrays, so it is never padded.
#[repr(C)]
pub(crate) struct NamedValue {
    pub head: Head,
    pub name: *const c_char,
    pub name_size: usize,
    pub kind: Int,
    pub value: NamedValueData,
    pub value_size: usize,
}

/// Stride of arrays of [`NamedValue`].
pub(crate) const NAMED_VALUE_SIZE: usize = 56;
const _: () = assert!(size_of::<NamedValue>() == NAMED_VALUE_SIZE);

/// The value of a [`NamedValue`], selected by its `kind`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) union NamedValueData {
    pub text: *const c_char,
    pub int: i64,
    pub ints: *const i64,
    pub float: f32,
    pub bool: u8,
}

/// Callback with the event's error (owned by the callee) once the event is ready.
pub(crate) type OnReady = unsafe extern "C" fn(error: *mut Error, user: *mut c_void);

#[repr(C)]
pub(crate) struct EventOnReady {
    pub head: Head,
    pub event: *mut Event,
    pub callback: Option<OnReady>,
    pub user: *mut c_void,
}

/// Creates an error of the plugin, to be returned from a callback.
pub(crate) type MakeError =
    unsafe extern "C" fn(code: c_int, message: *const c_char, size: usize) -> *mut Error;
/// Frees a value that a key-value callback returned.
pub(crate) type FreeValue = unsafe extern "C" fn(value: *mut c_char);

/// Argument of the callback that waits for a key.
#[repr(C)]
pub(crate) struct KeyValueGet {
    pub head: Head,
    pub key: *const c_char,
    pub key_size: usize,
    pub timeout_ms: Int,
    pub make_error: *const MakeError,
    pub user: *mut c_void,
    pub value: *mut c_char,      // out
    pub value_size: usize,       // out
    pub free: Option<FreeValue>, // out
}

/// Argument of the callback that looks up a key.
#[repr(C)]
pub(crate) struct KeyValueTryGet {
    pub head: Head,
    pub key: *const c_char,
    pub key_size: usize,
    pub make_error: *const MakeError,
    pub user: *mut c_void,
    pub value: *mut c_char,      // out
    pub value_size: usize,       // out
    pub free: Option<FreeValue>, // out
}

/// Argument of the callback that stores a value.
#[repr(C)]
pub(crate) struct KeyValuePut {
    pub head: Head,
    pub key: *const c_char,
    pub key_size: usize,
    pub value: *const c_char,
    pub value_size: usize,
    pub make_error: *const MakeError,
    pub user: *mut c_void,
}

pub(crate) type KeyValueGetCallback = unsafe extern "C" fn(args: *mut KeyValueGet) -> *mut Error;
pub(crate) type KeyValueTryGetCallback = unsafe extern "C" fn(args: *mut KeyValueTryGet) -> *mut Error;
pub(crate) type KeyValuePutCallback = unsafe extern "C" fn(args: *mut KeyValuePut) -> *mut Error;

#[repr(C)]
pub(crate) struct ClientCreate {
    pub head: Head,
    pub options: *const NamedValue,
    pub num_options: usize,
    pub kv_get: Option<KeyValueGetCallback>,
    pub kv_get_user: *mut c_void,
    pub kv_put: Option<KeyValuePutCallback>,
    pub kv_put_user: *mut c_void,
    pub client: *mut Client, // out
    pub kv_try_get: Option<KeyValueTryGetCallback>,
    pub kv_try_get_user: *mut c_void,
}

#[repr(C)]
pub(crate) struct DefaultDeviceAssignment {
    pub head: Head,
    pub client: *mut Client,
    pub num_replicas: c_int,
    pub num_partitions: c_int,
    pub len: usize,
    pub assignment: *mut c_int, // out, in the caller's memory
}

/// A program to compile, or one returned by the plugin.
#[repr(C)]
pub(crate) struct Program {
    pub head: Head,
    pub code: *mut c_char,
    pub code_size: usize,
    pub format: *const c_char,
    pub format_size: usize,
}

#[repr(C)]
pub(crate) struct ClientCompile {
    pub head: Head,
    pub client: *mut Client,
    pub program: *const Program,
    pub options: *const c_char,
    pub options_size: usize,
    pub executable: *mut LoadedExecutable, // out
}

#[repr(C)]
pub(crate) struct Compile {
    pub head: Head,
    pub topology: *const Topology,
    pub program: *const Program,
    pub options: *const c_char,
    pub options_size: usize,
    pub client: *mut Client,
    pub executable: *mut Executable, // out
}

/// A layout as a list of dims, from minor to major, without tiles. The C API has it in a union with the
/// strided layout; this is the larger of the two.
#[repr(C)]
pub(crate) struct MemoryLayout {
    pub head: Head,
    pub tiled_head: Head,
    pub minor_to_major: *const i64,
    pub minor_to_major_size: usize,
    pub tile_dims: *const i64,
    pub tile_dim_sizes: *const usize,
    pub num_tiles: usize,
    pub kind: Int,
}

#[repr(C)]
pub(crate) struct BufferFromHost {
    pub head: Head,
    pub client: *mut Client,
    pub data: *const c_void,
    pub element_type: Int,
    pub dims: *const i64,
    pub num_dims: usize,
    pub byte_strides: *const i64,
    pub num_byte_strides: usize,
    pub semantics: Int,
    pub device: *mut Device,
    pub memory: *mut c_void,
    pub device_layout: *mut MemoryLayout,
    pub done_with_host: *mut Event, // out
    pub buffer: *mut Buffer,        // out
}

/// A number that a plugin may not report.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MaybeStat {
    pub value: i64,
    pub is_set: Bool,
}

#[repr(C)]
pub(crate) struct DeviceMemoryStats {
    pub head: Head,
    pub device: *mut Device,
    pub bytes_in_use: i64, // out, as all below
    pub peak_bytes_in_use: MaybeStat,
    pub num_allocs: MaybeStat,
    pub largest_alloc_size: MaybeStat,
    pub bytes_limit: MaybeStat,
    pub bytes_reserved: MaybeStat,
    pub peak_bytes_reserved: MaybeStat,
    pub bytes_reservable_limit: MaybeStat,
    pub largest_free_block_bytes: MaybeStat,
    pub pool_bytes: MaybeStat,
    pub peak_pool_bytes: MaybeStat,
}

#[repr(C)]
pub(crate) struct OptimizedProgram {
    pub head: Head,
    pub executable: *mut Executable,
    pub program: *mut Program, // out: see `Executable::optimized_program`
}

#[repr(C)]
pub(crate) struct CompiledMemoryStats {
    pub head: Head,
    pub executable: *mut Executable,
    pub generated_code: i64, // out, as all below
    pub arguments: i64,
    pub outputs: i64,
    pub aliased: i64,
    pub temporaries: i64,
    pub host_generated_code: i64,
    pub host_arguments: i64,
    pub host_outputs: i64,
    pub host_aliased: i64,
    pub host_temporaries: i64,
    pub peak: i64,
}

#[repr(C)]
pub(crate) struct OutputDimensions {
    pub head: Head,
    pub executable: *mut Executable,
    pub num_outputs: usize,  // out
    pub dims: *const i64,    // out: all outputs' dims, one after another
    pub ranks: *const usize, // out: how many of them belong to each output
}

#[repr(C)]
pub(crate) struct SerializeExecutable {
    pub head: Head,
    pub executable: *const Executable,
    pub bytes: *const u8,                                              // out
    pub len: usize,                                                    // out
    pub owner: *mut SerializedExecutable,                              // out
    pub free: Option<unsafe extern "C" fn(*mut SerializedExecutable)>, // out
}

#[repr(C)]
pub(crate) struct SerializeAssignment {
    pub head: Head,
    pub executable: *mut LoadedExecutable,
    pub bytes: *const u8,                                              // out
    pub len: usize,                                                    // out
    pub owner: *mut SerializedAssignment,                              // out
    pub free: Option<unsafe extern "C" fn(*mut SerializedAssignment)>, // out
}

#[repr(C)]
pub(crate) struct DeserializeAndLoad {
    pub head: Head,
    pub client: *mut Client,
    pub bytes: *const c_char,
    pub len: usize,
    pub executable: *mut LoadedExecutable, // out
    pub options: *const c_char,
    pub options_size: usize,
}

#[repr(C)]
pub(crate) struct ExecuteOptions {
    pub head: Head,
    pub send_callbacks: *mut c_void,
    pub recv_callbacks: *mut c_void,
    pub num_send_ops: usize,
    pub num_recv_ops: usize,
    pub launch_id: Int,
    pub non_donatable: *const i64,
    pub num_non_donatable: usize,
    pub context: *mut c_void,
    pub call_location: *const c_char,
    pub num_tasks: usize,
    pub task_ids: *mut c_int,
    pub incarnation_ids: *mut i64,
}

#[repr(C)]
pub(crate) struct Execute {
    pub head: Head,
    pub executable: *mut LoadedExecutable,
    pub options: *mut ExecuteOptions,
    pub arguments: *const *const *mut Buffer,
    pub num_devices: usize,
    pub num_args: usize,
    pub outputs: *const *mut *mut Buffer, // in the caller's memory, filled by the plugin
    pub done: *mut *mut Event,            // in the caller's memory, filled by the plugin
    pub device: *mut Device,
}

#[repr(C)]
pub(crate) struct BufferToHost {
    pub head: Head,
    pub buffer: *mut Buffer,
    pub layout: *mut MemoryLayout,
    pub dst: *mut c_void,
    pub dst_size: usize,   // in, and out where `dst` is null
    pub event: *mut Event, // out
}

#[repr(C)]
pub(crate) struct CopyToDevice {
    pub head: Head,
    pub buffer: *mut Buffer,
    pub device: *mut Device,
    pub copy: *mut Buffer, // out
}

#[repr(C)]
pub(crate) struct TopologyCreate {
    pub head: Head,
    pub name: *const c_char,
    pub name_size: usize,
    pub options: *const NamedValue,
    pub num_options: usize,
    pub topology: *mut Topology, // out
}

#[repr(C)]
pub(crate) struct SerializeTopology {
    pub head: Head,
    pub topology: *mut Topology,
    pub bytes: *const u8,                                            // out
    pub len: usize,                                                  // out
    pub owner: *mut SerializedTopology,                              // out
    pub free: Option<unsafe extern "C" fn(*mut SerializedTopology)>, // out
}

#[repr(C)]
pub(crate) struct DeserializeTopology {
    pub head: Head,
    pub bytes: *const c_char,
    pub len: usize,
    pub topology: *mut Topology, // out
}

/// Implements [`Args`] for structs with and without type parameters.
macro_rules! args {
    ($($name:ident $(<$($param:ident),*>)?),* $(,)?) => {
        $(
            // SAFETY: the struct above is `repr(C)`, begins with `Head`, declares its padding, and consists
            // of pointers, integers and optional function pointers, for which zero is valid.
            unsafe impl $(<$($param),*>)? Args for $name $(<$($param),*>)? {}
        )*
    };
}

args! {
    Nothing, Object<O>, Span<O, T>, SpanLenFirst<O, T>, PluginAttributes, EventOnReady, ClientCreate,
    DefaultDeviceAssignment, Program, ClientCompile, Compile, BufferFromHost, DeviceMemoryStats, OptimizedProgram,
    CompiledMemoryStats, OutputDimensions, SerializeExecutable, SerializeAssignment, DeserializeAndLoad, ExecuteOptions,
    Execute, BufferToHost, CopyToDevice, TopologyCreate, SerializeTopology, DeserializeTopology,
}

/// Types of the value of a [`Get`].
///
/// # Safety
/// One word long, without implicit padding, valid when zero.
pub(crate) unsafe trait Word {}

// SAFETY: pointers, integers and padded structs of one word.
unsafe impl<T> Word for *mut T {}
// SAFETY: as above.
unsafe impl Word for usize {}
// SAFETY: as above.
unsafe impl Word for i64 {}
// SAFETY: as above.
unsafe impl Word for Int {}
// SAFETY: as above.
unsafe impl Word for Bool {}

// SAFETY: `Word` guarantees for the value what `Args` requires of the whole.
unsafe impl<O, T: Word> Args for Get<O, T> {}

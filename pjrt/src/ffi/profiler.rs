//! Hand-written declarations of PJRT's profiler extension. Its structs have exact sizes: plugins refuse
//! larger ones.

use std::ffi::{c_char, c_int, c_void};

/// The number of the profiler extension in PJRT's list of extensions.
pub(crate) const PROFILER_EXTENSION: c_int = 1;

/// A serialized `ProfileOptions`: host tracer level 2, device tracer level 1, version 1, with HLO programs.
pub(crate) const OPTIONS: [u8; 8] = [0x10, 2, 0x18, 1, 0x28, 1, 0x38, 1];

/// Declares opaque types.
macro_rules! opaque {
    ($($name:ident),*) => { $(#[repr(C)] #[derive(Debug)] pub(crate) struct $name { _private: [u8; 0] })* };
}

opaque!(Error, Profiler);

/// The extension.
#[repr(C)]
pub(crate) struct ProfilerExtension {
    pub struct_size: usize,
    pub kind: c_int,
    _pad: c_int,
    pub next: *const c_void,
    pub api: *const ProfilerApi,
}

/// A function that takes `A`, and returns null or an error.
pub(crate) type Call<A> = unsafe extern "C" fn(args: *mut A) -> *mut Error;
/// A function that takes `A` and returns nothing.
pub(crate) type VoidCall<A> = unsafe extern "C" fn(args: *mut A);

/// The functions; `None` for those that the plugin lacks. Newer plugins have more of them at the end.
#[repr(C)]
pub(crate) struct ProfilerApi {
    pub struct_size: usize,
    _private: *mut c_void,
    pub error_destroy: Option<VoidCall<DestroyErrorArgs>>,
    pub error_message: Option<VoidCall<MessageArgs>>,
    _error_code: *const c_void,
    pub create: Option<Call<CreateArgs>>,
    pub destroy: Option<Call<ProfilerArgs>>,
    pub start: Option<Call<ProfilerArgs>>,
    pub stop: Option<Call<ProfilerArgs>>,
    pub collect_data: Option<Call<CollectArgs>>,
}

#[repr(C)]
pub(crate) struct DestroyErrorArgs {
    pub struct_size: usize,
    pub private: *mut c_void,
    pub error: *mut Error,
}

#[repr(C)]
pub(crate) struct MessageArgs {
    pub struct_size: usize,
    pub private: *mut c_void,
    pub error: *const Error,
    /// Lives as long as the error.
    pub message: *const c_char,
    pub message_size: usize,
}

#[repr(C)]
pub(crate) struct CreateArgs {
    pub struct_size: usize,
    pub options: *const c_char,
    pub options_size: usize,
    pub profiler: *mut Profiler,
}

#[repr(C)]
pub(crate) struct ProfilerArgs {
    pub struct_size: usize,
    pub profiler: *mut Profiler,
}

#[repr(C)]
pub(crate) struct CollectArgs {
    pub struct_size: usize,
    pub profiler: *mut Profiler,
    /// Null in the first call, which sets the size.
    pub buffer: *mut u8,
    pub buffer_size: usize,
}

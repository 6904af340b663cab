//! Hand-written declarations of the part of XLA's FFI that custom calls use, and of PJRT's FFI extension.
//!
//! XLA's FFI is versioned apart from the PJRT API. Between its versions 0.1 and 0.4 structs and the function
//! table have only grown at their end, so the prefixes declared here hold for all of them.

use std::ffi::{c_char, c_int, c_void};

/// The number of the FFI extension in PJRT's list of extensions.
pub(crate) const FFI_EXTENSION: c_int = 5;
/// The stage in which a custom call runs. In the other stages there is nothing to do.
pub(crate) const EXECUTE: c_int = 3;
/// The extension of a call frame that asks for the handler's metadata.
pub(crate) const METADATA_EXTENSION: c_int = 1;
/// The kind of an attribute that is a scalar, and of an argument or result that is an array.
pub(crate) const SCALAR_ATTRIBUTE: c_int = 3;
pub(crate) const BUFFER: c_int = 1;
/// The element type of 64-bit attributes.
pub(crate) const S64: c_int = 5;

/// PJRT's FFI extension. `type_register` and `user_data_add` are not used.
#[repr(C)]
pub(crate) struct FfiExtension {
    pub struct_size: usize,
    pub kind: c_int,
    _pad: c_int,
    pub next: *const c_void,
    pub type_register: *const c_void,
    pub user_data_add: *const c_void,
    /// Null, or beyond the end, in plugins that cannot register handlers.
    pub register_handler: Option<RegisterHandler>,
}

/// Registers a typed handler for a platform. Unlike other argument structs it has no extension pointer.
pub(crate) type RegisterHandler = unsafe extern "C" fn(args: *mut RegisterHandlerArgs) -> *mut super::Error;

#[repr(C)]
pub(crate) struct RegisterHandlerArgs {
    pub struct_size: usize,
    pub target: *const c_char,
    pub target_size: usize,
    pub handler: Handler,
    pub platform: *const c_char,
    pub platform_size: usize,
    pub traits: u32,
    pub _pad: u32,
}

/// A handler. Returns null, or an error made with the frame's own functions.
pub(crate) type Handler = unsafe extern "C" fn(frame: *mut CallFrame) -> *mut FfiError;

/// Declares opaque types.
macro_rules! opaque {
    ($($name:ident),*) => { $(#[repr(C)] pub(crate) struct $name { _private: [u8; 0] })* };
}

opaque!(FfiError, Future, Context);

/// Head of every struct: its size, and a list of extensions.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct FfiHead {
    pub struct_size: usize,
    pub extensions: *const ExtensionHead,
}

/// Head of every extension.
#[repr(C)]
pub(crate) struct ExtensionHead {
    pub struct_size: usize,
    pub kind: c_int,
    _pad: c_int,
    pub next: *const ExtensionHead,
}

/// The extension that asks a handler for its metadata.
#[repr(C)]
pub(crate) struct MetadataExtension {
    pub head: ExtensionHead,
    pub metadata: *mut Metadata,
}

/// A handler's answer: the FFI version it was written for.
#[repr(C)]
pub(crate) struct Metadata {
    pub struct_size: usize,
    pub version: FfiVersion,
    pub traits: u32,
}

#[repr(C)]
pub(crate) struct FfiVersion {
    pub head: FfiHead,
    pub major: c_int,
    pub minor: c_int,
}

/// One call of a handler.
#[repr(C)]
pub(crate) struct CallFrame {
    pub head: FfiHead,
    pub api: *const FfiTable,
    pub context: *mut Context,
    pub stage: c_int,
    pub _pad: c_int,
    pub args: Values,
    pub results: Values,
    pub attributes: Attributes,
    /// Set by a handler that finishes later.
    pub future: *mut Future,
}

/// Arguments or results: kinds, and pointers to [`FfiBuffer`] for arrays.
#[repr(C)]
pub(crate) struct Values {
    pub head: FfiHead,
    pub len: i64,
    pub kinds: *const c_int,
    pub values: *const *const FfiBuffer,
}

/// Attributes, sorted by name.
#[repr(C)]
pub(crate) struct Attributes {
    pub head: FfiHead,
    pub len: i64,
    pub kinds: *const c_int,
    pub names: *const *const c_void,
    pub values: *const *const Scalar,
}

/// The value of a scalar attribute.
#[repr(C)]
pub(crate) struct Scalar {
    pub element_type: c_int,
    pub _pad: c_int,
    pub value: *const c_void,
}

/// An array in host memory, dense and row-major.
#[repr(C)]
pub(crate) struct FfiBuffer {
    pub head: FfiHead,
    pub element_type: c_int,
    pub _pad: c_int,
    pub data: *mut c_void,
    pub rank: i64,
    pub dims: *const i64,
}

/// The function table of XLA's FFI.
#[repr(C)]
pub(crate) struct FfiTable {
    pub head: FfiHead,
    pub version: FfiVersion,
    pub internal: *const c_void,
    pub error_create: unsafe extern "C" fn(*mut ErrorCreate) -> *mut FfiError,
    pub error_message: *const c_void,
    pub error_destroy: unsafe extern "C" fn(*mut ErrorDestroy),
    _unused: [*const c_void; 10],
    pub future_create: Option<unsafe extern "C" fn(*mut FutureCreate) -> *mut FfiError>,
    pub future_set_available: Option<unsafe extern "C" fn(*mut FutureSet) -> *mut FfiError>,
    pub future_set_error: Option<unsafe extern "C" fn(*mut FutureSetError) -> *mut FfiError>,
}

#[repr(C)]
pub(crate) struct ErrorCreate {
    pub head: FfiHead,
    pub message: *const c_char,
    pub code: c_int,
    pub _pad: c_int,
}

#[repr(C)]
pub(crate) struct ErrorDestroy {
    pub head: FfiHead,
    pub error: *mut FfiError,
}

#[repr(C)]
pub(crate) struct FutureCreate {
    pub head: FfiHead,
    pub future: *mut Future,
}

#[repr(C)]
pub(crate) struct FutureSet {
    pub head: FfiHead,
    pub future: *mut Future,
}

#[repr(C)]
pub(crate) struct FutureSetError {
    pub head: FfiHead,
    pub future: *mut Future,
    pub error: *mut FfiError,
}

impl FfiHead {
    /// The head of a struct of type `T`.
    pub fn of<T>() -> Self {
        FfiHead { struct_size: size_of::<T>(), extensions: std::ptr::null() }
    }
}

const _: () = {
    // The layouts of the C header on 64-bit machines.
    assert!(size_of::<FfiExtension>() == 48);
    assert!(size_of::<CallFrame>() == 176);
    assert!(std::mem::offset_of!(FfiTable, error_create) == 48);
    assert!(std::mem::offset_of!(FfiTable, future_create) == 152);
    assert!(size_of::<FfiBuffer>() == 48);
};

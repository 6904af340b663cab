//! Custom calls: running programs that call into this process and may wait for the answer.
//!
//! A program names a target; the plugin passes each of its custom calls to the handler that is registered for
//! the target. The handler may return at once and finish the call later from another thread, so that a
//! program that waits for another process holds no thread of the plugin. CPU plugins offer this through
//! PJRT's FFI extension.

use crate::array_type::byte_size;
use crate::error::Result;
use crate::event::catch_panic;
use crate::ffi::Function;
use crate::ffi::xla_ffi::{
    BUFFER, CallFrame, EXECUTE, ErrorCreate, ErrorDestroy, FFI_EXTENSION, FfiBuffer, FfiError, FfiExtension,
    FfiHead, FfiTable, Future, FutureCreate, FutureSet, FutureSetError, METADATA_EXTENSION,
    MetadataExtension, RegisterHandlerArgs, S64, SCALAR_ATTRIBUTE, Values,
};
use crate::{ElementType, Plugin};
use std::ffi::{CString, c_int};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

/// The platform that CPU plugins register handlers for.
const PLATFORM: &str = "Host";
/// XLA's code for an internal error.
const INTERNAL: c_int = 13;

/// Takes the custom calls of running programs.
pub trait CustomCalls: Send + Sync {
    /// Starts a call. Must not block on anything that waits for another call: the plugin may have no other
    /// thread. [`CustomCall::finish`] or [`CustomCall::fail`] ends the call, from any thread.
    fn call(&self, call: CustomCall);
}

/// The handler of this process. XLA passes no user argument to handlers, hence a global.
static HANDLER: OnceLock<Arc<dyn CustomCalls>> = OnceLock::new();

impl Plugin {
    /// Registers `handler` for custom calls of `target`. A process has one handler for all targets and
    /// plugins: later registrations must pass the same one.
    ///
    /// # Errors
    /// [`crate::Error::Contract`] if the plugin has no FFI extension that registers handlers, if another
    /// handler is registered, or if the plugin refuses.
    pub fn register_custom_calls(&self, target: &str, handler: &Arc<dyn CustomCalls>) -> Result<()> {
        let refuse = |reason: &str| self.api.contract(Function::PluginInitialize, reason);
        let registered = HANDLER.get_or_init(|| Arc::clone(handler));
        if !std::ptr::addr_eq(Arc::as_ptr(registered), Arc::as_ptr(handler)) {
            return Err(refuse("another handler of custom calls is registered in this process"));
        }
        let register = self.register_handler().ok_or_else(|| {
            refuse("it cannot register custom calls (no FFI extension), which several CPU processes need")
        })?;
        let mut args = RegisterHandlerArgs {
            struct_size: size_of::<RegisterHandlerArgs>() - size_of::<u32>(),
            target: target.as_ptr().cast(),
            target_size: target.len(),
            handler: handle,
            platform: PLATFORM.as_ptr().cast(),
            platform_size: PLATFORM.len(),
            traits: 0,
            _pad: 0,
        };
        // SAFETY: the arguments are those of this function and live during the call; the handler is a static
        // function; the error belongs to this plugin and passes to us.
        unsafe { self.api.take_error(register(&raw mut args), Function::PluginInitialize) }
    }

    /// Returns the function of the FFI extension that registers handlers.
    fn register_handler(&self) -> Option<crate::ffi::xla_ffi::RegisterHandler> {
        let extension = self.extension::<FfiExtension>(FFI_EXTENSION)?;
        // SAFETY: the extension is of this type, immutable, and lives as long as the plugin.
        unsafe { (*extension.as_ptr()).register_handler }
    }
}

/// An array of a custom call.
#[derive(Clone, Copy)]
struct Array {
    element_type: ElementType,
    data: NonNull<u8>,
    bytes: usize,
}

/// One custom call of a running program. Ends with an error if dropped without [`CustomCall::finish`].
pub struct CustomCall {
    number: i64,
    inputs: Vec<Array>,
    outputs: Vec<Array>,
    end: Option<End>,
}

/// The means to end a call.
struct End {
    table: &'static FfiTable,
    future: NonNull<Future>,
}

// SAFETY: XLA keeps arguments and results of a call alive and unmoved until its future is set, which happens
// only when the call is consumed or dropped; futures may be set from any thread.
unsafe impl Send for CustomCall {}

impl CustomCall {
    /// The attribute `call` of the instruction.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// The number of arguments.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// Element type and bytes of an argument, dense and row-major.
    ///
    /// # Panics
    /// There is no such argument.
    pub fn input(&self, index: usize) -> (ElementType, &[u8]) {
        let Array { element_type, data, bytes } = self.inputs[index];
        // SAFETY: `arrays` checked pointer and size; the array lives as long as the call (see `Send`), and
        // XLA does not write to arguments.
        (element_type, unsafe { std::slice::from_raw_parts(data.as_ptr(), bytes) })
    }

    /// The number of bytes of a result.
    ///
    /// # Panics
    /// There is no such result.
    pub fn output_bytes(&self, index: usize) -> usize {
        self.outputs[index].bytes
    }

    /// The bytes of a result, dense and row-major.
    ///
    /// # Panics
    /// There is no such result.
    pub fn output(&mut self, index: usize) -> &mut [u8] {
        let Array { element_type: _, data, bytes } = self.outputs[index];
        // SAFETY: as for arguments; results do not overlap each other or the arguments, and `&mut self` makes
        // this the only access.
        unsafe { std::slice::from_raw_parts_mut(data.as_ptr(), bytes) }
    }

    /// Ends the call with success: its results are complete.
    pub fn finish(mut self) {
        if let Some(End { table, future }) = self.end.take()
            && let Some(set) = table.future_set_available
        {
            let mut args = FutureSet { head: FfiHead::of::<FutureSet>(), future: future.as_ptr() };
            // SAFETY: the future is this call's, not set yet, and not used afterwards.
            unsafe { discard(table, set(&raw mut args)) };
        }
    }

    /// Ends the call, and with it the run of the program, with an error.
    pub fn fail(mut self, message: &str) {
        self.fail_once(message);
    }

    fn fail_once(&mut self, message: &str) {
        if let Some(End { table, future }) = self.end.take()
            && let Some(set) = table.future_set_error
        {
            let error = new_error(table, message);
            let mut args =
                FutureSetError { head: FfiHead::of::<FutureSetError>(), future: future.as_ptr(), error };
            // SAFETY: the future is this call's, not set yet, and not used afterwards; the error passes to
            // XLA.
            unsafe { discard(table, set(&raw mut args)) };
        }
    }
}

impl Drop for CustomCall {
    fn drop(&mut self) {
        self.fail_once("the handler of a custom call dropped it");
    }
}

impl std::fmt::Debug for CustomCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "custom call {}", self.number)
    }
}

/// The function that plugins call.
///
/// # Safety
/// `frame` is a call frame of XLA's FFI, valid during the call.
unsafe extern "C" fn handle(frame: *mut CallFrame) -> *mut FfiError {
    // SAFETY: XLA passes a valid frame; its function table is a static of the plugin.
    let (frame, table) = unsafe { (&mut *frame, &*(*frame).api) };
    // SAFETY: extensions of a frame begin with a head; the metadata extension is followed by its pointer.
    unsafe {
        if let Some(extension) = frame.head.extensions.as_ref()
            && extension.kind == METADATA_EXTENSION
        {
            let extension = &*frame.head.extensions.cast::<MetadataExtension>();
            let metadata = &mut *extension.metadata;
            // Other versions than the plugin's own are refused; the structs used here are the same in all.
            metadata.version.major = table.version.major;
            metadata.version.minor = table.version.minor;
            metadata.traits = 0;
            return std::ptr::null_mut();
        }
    }
    if frame.stage != EXECUTE {
        return std::ptr::null_mut();
    }
    // SAFETY: the frame is in its execution stage, in which its arrays exist.
    match catch_panic(|| unsafe { start(frame, table) }) {
        Some(Ok(())) => std::ptr::null_mut(),
        Some(Err(message)) => new_error(table, &message),
        None => new_error(table, "the handler of a custom call panicked"),
    }
}

/// # Safety
/// `frame` is a valid frame in its execution stage, and `table` its function table.
unsafe fn start(frame: &mut CallFrame, table: &'static FfiTable) -> std::result::Result<(), String> {
    let handler = HANDLER.get().ok_or("no handler of custom calls is registered")?;
    // SAFETY: the caller guarantees the frame.
    let (number, inputs, outputs) =
        unsafe { (number(frame)?, arrays(&frame.args)?, arrays(&frame.results)?) };
    let create = table.future_create.ok_or("the plugin's FFI has no futures")?;
    let mut args = FutureCreate { head: FfiHead::of::<FutureCreate>(), future: std::ptr::null_mut() };
    // SAFETY: the function takes this struct.
    unsafe { discard(table, create(&raw mut args)) };
    let future = NonNull::new(args.future).ok_or("the plugin made no future")?;
    frame.future = future.as_ptr();
    handler.call(CustomCall { number, inputs, outputs, end: Some(End { table, future }) });
    Ok(())
}

/// Returns the only attribute, a 64-bit number.
///
/// # Safety
/// `frame` is a valid frame.
unsafe fn number(frame: &CallFrame) -> std::result::Result<i64, String> {
    let attributes = &frame.attributes;
    if attributes.len != 1 {
        return Err(format!("a custom call has {} attributes, not 1", attributes.len));
    }
    // SAFETY: the arrays have one element; a scalar attribute points to a scalar of its element type.
    unsafe {
        let (kind, scalar) = (*attributes.kinds, *attributes.values);
        if kind != SCALAR_ATTRIBUTE || (*scalar).element_type != S64 {
            return Err(format!("the attribute of a custom call is of kind {kind}, not a 64-bit number"));
        }
        Ok((*scalar).value.cast::<i64>().read_unaligned())
    }
}

/// # Safety
/// `values` are a frame's, in its execution stage.
unsafe fn arrays(values: &Values) -> std::result::Result<Vec<Array>, String> {
    let count = usize::try_from(values.len).map_err(|_| "a negative number of arrays")?;
    (0..count)
        .map(|i| {
            // SAFETY: both lists have `len` elements.
            let (kind, buffer) = unsafe { (*values.kinds.add(i), *values.values.add(i)) };
            if kind != BUFFER {
                return Err(format!("value {i} of a custom call is of kind {kind}, not an array"));
            }
            // SAFETY: values of this kind point to a buffer.
            unsafe { array(&*buffer) }
        })
        .collect()
}

/// # Safety
/// `buffer` is a buffer of a frame in its execution stage.
unsafe fn array(buffer: &FfiBuffer) -> std::result::Result<Array, String> {
    // XLA numbers element types as HLO does, which differs from the C API from 13 on.
    let element_type = match buffer.element_type {
        16 => ElementType::Bf16,
        known @ 1..=12 => ElementType::from_raw(known),
        other => return Err(format!("a custom call has an array of element type number {other}")),
    };
    let dims: &[i64] = match usize::try_from(buffer.rank) {
        Ok(0) => &[],
        // SAFETY: a buffer has as many dims as its rank says.
        Ok(rank) => unsafe { std::slice::from_raw_parts(buffer.dims, rank) },
        Err(_) => return Err(format!("an array of rank {}", buffer.rank)),
    };
    let bytes = (element_type.byte_size().and_then(|size| byte_size(size, dims)))
        .ok_or_else(|| format!("a custom call has an array of {element_type:?} {dims:?}"))?;
    let data = NonNull::new(buffer.data.cast::<u8>()).unwrap_or(NonNull::dangling());
    if bytes > 0 && buffer.data.is_null() {
        return Err("a custom call has an array without memory".to_owned());
    }
    Ok(Array { element_type, data, bytes })
}

fn new_error(table: &FfiTable, message: &str) -> *mut FfiError {
    let message = CString::new(message.replace('\0', " ")).expect("zero bytes are replaced");
    let mut args = ErrorCreate {
        head: FfiHead::of::<ErrorCreate>(),
        message: message.as_ptr(),
        code: INTERNAL,
        _pad: 0,
    };
    // SAFETY: the function takes this struct and copies the message.
    unsafe { (table.error_create)(&raw mut args) }
}

/// Frees an error of XLA's FFI that nobody can handle.
///
/// # Safety
/// `error` is null or an error that we own.
unsafe fn discard(table: &FfiTable, error: *mut FfiError) {
    if !error.is_null() {
        let mut args = ErrorDestroy { head: FfiHead::of::<ErrorDestroy>(), error };
        // SAFETY: the caller owns the error, which is not used afterwards.
        unsafe { (table.error_destroy)(&raw mut args) };
    }
}

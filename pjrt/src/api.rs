//! The function table of a loaded plugin. All calls of its functions are made here.

use crate::error::{CallError, Code, Error, Result};
use crate::ffi::calls::Call;
use crate::ffi::structs::{Get, Int, Object, Span};
use crate::ffi::{self, Args, Callee, Function, Padded, VoidCallee};
use crate::version::ApiVersion;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

/// A function table and its origin.
///
/// Every object of the safe layer holds an [`Arc`] of it. The library stays loaded for the life of the
/// process (see [`crate::Plugin::load`]), so the table's pointers are always valid.
pub(crate) struct Api {
    table: NonNull<u8>,
    table_size: usize,
    pub version: ApiVersion,
    pub path: PathBuf,
}

// SAFETY: the plugin does not change the table after creating it, and the C API requires that its functions
// can be called from any thread.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

impl Api {
    /// # Safety
    /// `table` points to a function table of `table_size` bytes that lives as long as the process and has a
    /// supported version.
    pub unsafe fn new(table: NonNull<u8>, table_size: usize, version: ApiVersion, path: PathBuf) -> Self {
        Api { table, table_size, version, path }
    }

    /// Returns the address of the table, which identifies the plugin.
    pub fn table(&self) -> NonNull<u8> {
        self.table
    }

    /// Returns the function's pointer. `None` if the table is too short or holds null.
    pub fn pointer(&self, function: Function) -> Option<NonNull<c_void>> {
        let offset = function.offset();
        if offset + size_of::<usize>() > self.table_size {
            return None;
        }
        // SAFETY: the table has `table_size` bytes, and the pointer ends within them.
        NonNull::new(unsafe { self.table.as_ptr().add(offset).cast::<*mut c_void>().read_unaligned() })
    }

    /// Checks that the table has all of these functions. Called before an object is created, so that it can
    /// be freed.
    ///
    /// # Errors
    /// [`Error::MissingFunction`] with the first missing function.
    pub fn require(&self, functions: &[Function]) -> Result<()> {
        functions.iter().try_for_each(|function| self.find(*function).map(drop))
    }

    fn find(&self, function: Function) -> Result<NonNull<c_void>> {
        self.pointer(function).ok_or_else(|| Error::MissingFunction {
            function: function.name(),
            path: self.path.clone(),
            version: self.version,
        })
    }

    /// Calls a function of the table.
    ///
    /// # Safety
    /// The arguments point to what the function expects: live objects of this plugin, and memory of the
    /// stated size.
    pub unsafe fn call<A: Args>(&self, call: Call<A>, args: &mut Padded<A>) -> Result<()> {
        let function = self.find(call.function)?;
        // SAFETY: every function of the table but two has this type, and no `Call` exists for those two.
        let function = unsafe { std::mem::transmute::<NonNull<c_void>, Callee>(function) };
        // SAFETY: `Call` pairs the function with its argument struct, `Padded` sets its size, and the caller
        // guarantees the rest.
        let error = unsafe { function(args.as_ptr().cast()) };
        // SAFETY: the function just returned this error and passed its ownership to us.
        unsafe { self.take_error(error, call.function) }
    }

    /// Calls a function that takes one object and returns one word.
    ///
    /// # Safety
    /// `object` is alive and of this plugin.
    pub unsafe fn get<O, T: Copy>(&self, call: Call<Get<O, T>>, object: NonNull<O>) -> Result<T>
    where
        Get<O, T>: Args,
    {
        let mut args = Padded::<Get<O, T>>::new(|args| args.object = object.as_ptr());
        // SAFETY: the caller guarantees that the object is valid.
        unsafe { self.call(call, &mut args)? };
        Ok(args.value)
    }

    /// Calls a function that takes one object and returns an array owned by it.
    ///
    /// # Safety
    /// `object` is of this plugin and stays alive for `'a`.
    pub unsafe fn span<'a, O, T>(&self, call: Call<Span<O, T>>, object: NonNull<O>) -> Result<&'a [T]> {
        let mut args = Padded::<Span<O, T>>::new(|args| args.object = object.as_ptr());
        // SAFETY: the caller guarantees that the object is valid; the plugin guarantees the array that it
        // owns.
        unsafe {
            self.call(call, &mut args)?;
            self.slice(call.function, args.items, args.len)
        }
    }

    /// Calls a function that takes one object and returns a text owned by it, and copies the text.
    ///
    /// # Safety
    /// `object` is alive and of this plugin.
    pub unsafe fn text_of<O>(&self, call: Call<Span<O, u8>>, object: NonNull<O>) -> Result<String> {
        // SAFETY: the caller guarantees that the object is valid; the bytes are copied before anything else
        // happens to it.
        Ok(String::from_utf8_lossy(unsafe { self.span(call, object)? }).into_owned())
    }

    /// Converts an array from a plugin to a slice. A null pointer is allowed if the array is empty.
    ///
    /// # Safety
    /// `items` points to `len` items that live for `'a`.
    pub unsafe fn slice<'a, T>(&self, function: Function, items: *const T, len: usize) -> Result<&'a [T]> {
        if len == 0 {
            return Ok(&[]);
        }
        if items.is_null()
            || !items.is_aligned()
            || len.checked_mul(size_of::<T>()).is_none_or(|n| n > MAX_BYTES)
        {
            return Err(self.contract(function, format!("it returned an array of {len} items at {items:p}")));
        }
        // SAFETY: not null, aligned, and of a possible size; the caller guarantees the rest.
        Ok(unsafe { std::slice::from_raw_parts(items, len) })
    }

    /// Copies a text from a plugin.
    ///
    /// # Safety
    /// `bytes` points to `len` bytes during the call.
    pub unsafe fn text(&self, function: Function, bytes: *const u8, len: usize) -> Result<String> {
        // SAFETY: the caller guarantees that the bytes are valid; they are copied at once.
        Ok(String::from_utf8_lossy(unsafe { self.slice(function, bytes, len)? }).into_owned())
    }

    /// Frees an object. An error of the destructor is freed and ignored, because no caller could handle it.
    ///
    /// # Safety
    /// `destroy` is the destructor of `object`, which is alive, of this plugin, and not used afterwards.
    pub unsafe fn destroy<O>(&self, destroy: Function, object: NonNull<O>) {
        if let Some(function) = self.pointer(destroy) {
            let mut args = Padded::<Object<O>>::new(|args| args.object = object.as_ptr());
            // SAFETY: destructors take one object and return an error; the caller guarantees that the object
            // is valid.
            unsafe {
                let function = std::mem::transmute::<NonNull<c_void>, Callee>(function);
                let error = function(args.as_ptr().cast());
                drop(self.take_error(error, destroy));
            }
        }
    }

    /// Converts an error of the plugin to [`Error::Call`] and frees it. Null is success.
    ///
    /// # Safety
    /// `error` is null or an error of this plugin that we own; it is not used afterwards.
    pub unsafe fn take_error(&self, error: *mut ffi::Error, function: Function) -> Result<()> {
        let Some(error) = NonNull::new(error) else {
            return Ok(());
        };
        // SAFETY: we own the error, and it is alive until `destroy_error`.
        let (code, message) = unsafe { (self.error_code(error), self.error_message(error)) };
        // SAFETY: we own the error and do not use it after this.
        unsafe { self.destroy_error(error) };
        Err(Error::Call(Box::new(CallError {
            code,
            message,
            function: function.name(),
            plugin: self.path.clone(),
            executable: None,
            device: None,
        })))
    }

    /// # Safety
    /// `error` is alive and of this plugin.
    unsafe fn error_code(&self, error: NonNull<ffi::Error>) -> Code {
        let Some(function) = self.pointer(Function::ErrorGetCode) else {
            return Code::Unknown;
        };
        let mut args = Padded::<Get<ffi::Error, Int>>::new(|args| args.object = error.as_ptr());
        // SAFETY: this function takes that struct; the caller guarantees that the error is valid.
        let failure = unsafe {
            let function = std::mem::transmute::<NonNull<c_void>, Callee>(function);
            NonNull::new(function(args.as_ptr().cast()))
        };
        match failure {
            None => Code::from_raw(args.value.value),
            Some(failure) => {
                // SAFETY: the function passed the ownership of this second error to us.
                unsafe { self.destroy_error(failure) };
                Code::Unknown
            }
        }
    }

    /// # Safety
    /// `error` is alive and of this plugin.
    unsafe fn error_message(&self, error: NonNull<ffi::Error>) -> String {
        let Some(function) = self.pointer(Function::ErrorMessage) else {
            return "the plugin gives no message".to_owned();
        };
        let mut args = Padded::<Span<ffi::Error, u8>>::new(|args| args.object = error.as_ptr());
        // SAFETY: this function takes that struct and returns nothing; the message lives as long as the
        // error.
        unsafe {
            let function = std::mem::transmute::<NonNull<c_void>, VoidCallee>(function);
            function(args.as_ptr().cast());
            self.text(Function::ErrorMessage, args.items, args.len)
                .unwrap_or_else(|_| "the plugin gives no readable message".to_owned())
        }
    }

    /// # Safety
    /// We own `error`, which is alive, of this plugin, and not used afterwards.
    unsafe fn destroy_error(&self, error: NonNull<ffi::Error>) {
        if let Some(function) = self.pointer(Function::ErrorDestroy) {
            let mut args = Padded::<Object<ffi::Error>>::new(|args| args.object = error.as_ptr());
            // SAFETY: this function takes that struct and returns nothing; the caller guarantees that the
            // error is valid.
            unsafe {
                let function = std::mem::transmute::<NonNull<c_void>, VoidCallee>(function);
                function(args.as_ptr().cast());
            }
        }
    }

    /// Returns an error for a plugin that violates the C API.
    pub fn contract(&self, function: Function, reason: impl Into<String>) -> Error {
        Error::Contract { path: self.path.clone(), function: function.name(), reason: reason.into() }
    }

    /// Returns the object behind a pointer that a plugin returned with success.
    ///
    /// # Errors
    /// [`Error::Contract`] if the pointer is null.
    pub fn non_null<O>(&self, function: Function, pointer: *mut O) -> Result<NonNull<O>> {
        NonNull::new(pointer).ok_or_else(|| self.contract(function, "it reported success but returned null"))
    }
}

/// The largest size of a slice in bytes.
const MAX_BYTES: usize = isize::MAX as usize;

/// Objects that we own and free.
pub(crate) trait Owned {
    /// The destructor.
    const DESTROY: Function;
}

impl Owned for ffi::Event {
    const DESTROY: Function = Function::EventDestroy;
}

impl Owned for ffi::Client {
    const DESTROY: Function = Function::ClientDestroy;
}

impl Owned for ffi::Topology {
    const DESTROY: Function = Function::TopologyDescriptionDestroy;
}

impl Owned for ffi::Executable {
    const DESTROY: Function = Function::ExecutableDestroy;
}

impl Owned for ffi::LoadedExecutable {
    const DESTROY: Function = Function::LoadedExecutableDestroy;
}

impl Owned for ffi::Buffer {
    const DESTROY: Function = Function::BufferDestroy;
}

/// An object of a plugin, freed when this is dropped.
pub(crate) struct Handle<O: Owned> {
    pub api: Arc<Api>,
    pub ptr: NonNull<O>,
    owns: PhantomData<O>,
}

// SAFETY: the C API requires implementations to be thread-safe: any thread may use or free any object.
// Freeing an object while it is used is excluded by ownership.
unsafe impl<O: Owned> Send for Handle<O> {}
// SAFETY: as above.
unsafe impl<O: Owned> Sync for Handle<O> {}

impl<O: Owned> Handle<O> {
    /// Takes ownership of an object that a plugin returned with success.
    ///
    /// # Errors
    /// [`Error::Contract`], which names the function, if the pointer is null.
    ///
    /// # Safety
    /// If not null, `pointer` is an object of this plugin that nothing else frees.
    pub unsafe fn new(api: &Arc<Api>, function: Function, pointer: *mut O) -> Result<Self> {
        Ok(Handle { api: Arc::clone(api), ptr: api.non_null(function, pointer)?, owns: PhantomData })
    }
}

impl<O: Owned> Drop for Handle<O> {
    fn drop(&mut self) {
        // SAFETY: `new` took ownership of the object, and this is its last use.
        unsafe { self.api.destroy(O::DESTROY, self.ptr) }
    }
}

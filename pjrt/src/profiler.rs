//! Profiles of devices, through PJRT's profiler extension.
//!
//! A profile is an `XSpace` message, which xprof and TensorBoard read. A process has at most one profiler at
//! a time.

use crate::error::{Error, Result};
use crate::ffi::profiler::{
    self as ffi, Call, CollectArgs, CreateArgs, DestroyErrorArgs, MessageArgs, OPTIONS, PROFILER_EXTENSION,
    ProfilerApi, ProfilerArgs, ProfilerExtension, VoidCall,
};
use crate::plugin::Plugin;
use std::ptr::NonNull;

/// A profiler that records.
#[derive(Debug)]
pub struct Profiler {
    plugin: Plugin,
    functions: Functions,
    handle: NonNull<ffi::Profiler>,
}

// SAFETY: the plugin's profiler belongs to no thread, and calls need the only reference.
unsafe impl Send for Profiler {}

impl Profiler {
    /// Starts to record the work of all devices. `None` means that the plugin has no profiler.
    ///
    /// # Errors
    /// The plugin reports an error, such as a profiler that records already, or devices that are missing.
    pub fn start(plugin: &Plugin) -> Result<Option<Self>> {
        let Some(functions) = Functions::of(plugin) else { return Ok(None) };
        let mut args = CreateArgs {
            struct_size: size_of::<CreateArgs>(),
            options: OPTIONS.as_ptr().cast(),
            options_size: OPTIONS.len(),
            profiler: std::ptr::null_mut(),
        };
        // SAFETY: the arguments live during the call, and the plugin copies the options.
        let error = unsafe { (functions.create)(&raw mut args) };
        functions.check(plugin, error, "PLUGIN_Profiler_Create")?;
        let Some(handle) = NonNull::new(args.profiler) else {
            return Err(failed(plugin, "PLUGIN_Profiler_Create", "it returned no profiler".to_owned()));
        };
        let profiler = Self { plugin: plugin.clone(), functions, handle };
        profiler.call(functions.start, "PLUGIN_Profiler_Start")?;
        Ok(Some(profiler))
    }

    /// Stops, and returns what was recorded: a serialized `XSpace`.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn stop(self) -> Result<Vec<u8>> {
        self.call(self.functions.stop, "PLUGIN_Profiler_Stop")?;
        let mut args = CollectArgs {
            struct_size: size_of::<CollectArgs>(),
            profiler: self.handle.as_ptr(),
            buffer: std::ptr::null_mut(),
            buffer_size: 0,
        };
        let collect = |args: &mut CollectArgs| {
            // SAFETY: the arguments and the buffer they name live during the call.
            let error = unsafe { (self.functions.collect_data)(&raw mut *args) };
            self.functions.check(&self.plugin, error, "PLUGIN_Profiler_CollectData")
        };
        // The first call returns the size.
        collect(&mut args)?;
        let size = args.buffer_size;
        let mut bytes = vec![0; size];
        args.buffer = bytes.as_mut_ptr();
        if size > 0 {
            collect(&mut args)?;
        }
        if args.buffer_size > size || args.buffer != bytes.as_mut_ptr() {
            let why = "it did not write to the buffer of the caller".to_owned();
            return Err(failed(&self.plugin, "PLUGIN_Profiler_CollectData", why));
        }
        bytes.truncate(args.buffer_size);
        Ok(bytes)
    }

    fn call(&self, function: Call<ProfilerArgs>, name: &'static str) -> Result<()> {
        let mut args =
            ProfilerArgs { struct_size: size_of::<ProfilerArgs>(), profiler: self.handle.as_ptr() };
        // SAFETY: the profiler is alive, and the arguments live during the call.
        let error = unsafe { function(&raw mut args) };
        self.functions.check(&self.plugin, error, name)
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = self.call(self.functions.destroy, "PLUGIN_Profiler_Destroy");
    }
}

/// The functions of a plugin's profiler. They live as long as the process: plugins are never unloaded.
#[derive(Clone, Copy, Debug)]
struct Functions {
    error_destroy: VoidCall<DestroyErrorArgs>,
    error_message: VoidCall<MessageArgs>,
    create: Call<CreateArgs>,
    destroy: Call<ProfilerArgs>,
    start: Call<ProfilerArgs>,
    stop: Call<ProfilerArgs>,
    collect_data: Call<CollectArgs>,
}

impl Functions {
    /// Returns the functions of the plugin's profiler. `None` means that it has none, or lacks a function.
    fn of(plugin: &Plugin) -> Option<Self> {
        let extension = plugin.extension::<ProfilerExtension>(PROFILER_EXTENSION)?;
        // SAFETY: the extension is of this type, immutable, and lives as long as the plugin.
        let api = NonNull::new(unsafe { (*extension.as_ptr()).api }.cast_mut())?;
        // SAFETY: the table begins with its size, the only part that is read before the size is known.
        let size = unsafe { (&raw const (*api.as_ptr()).struct_size).read() };
        if size < size_of::<ProfilerApi>() {
            return None;
        }
        // SAFETY: the table has all these fields, of which each may be null; it is immutable and lives as
        // long as the plugin.
        let api = unsafe { api.as_ref() };
        Some(Self {
            error_destroy: api.error_destroy?,
            error_message: api.error_message?,
            create: api.create?,
            destroy: api.destroy?,
            start: api.start?,
            stop: api.stop?,
            collect_data: api.collect_data?,
        })
    }

    /// Turns an error of the profiler into one of this crate, and frees it.
    fn check(&self, plugin: &Plugin, error: *mut ffi::Error, function: &'static str) -> Result<()> {
        if error.is_null() {
            return Ok(());
        }
        let mut message = MessageArgs {
            struct_size: size_of::<MessageArgs>(),
            private: std::ptr::null_mut(),
            error,
            message: std::ptr::null(),
            message_size: 0,
        };
        let mut destroy = DestroyErrorArgs {
            struct_size: size_of::<DestroyErrorArgs>(),
            private: std::ptr::null_mut(),
            error,
        };
        // SAFETY: the error is alive until it is destroyed here, and so is its message, which is copied
        // before.
        let text = unsafe {
            (self.error_message)(&raw mut message);
            let text = match message.message.is_null() {
                true => String::new(),
                false => {
                    let bytes = message.message.cast::<u8>();
                    let bytes = std::slice::from_raw_parts(bytes, message.message_size);
                    String::from_utf8_lossy(bytes).into_owned()
                }
            };
            (self.error_destroy)(&raw mut destroy);
            text
        };
        Err(failed(plugin, function, text))
    }
}

fn failed(plugin: &Plugin, function: &'static str, reason: String) -> Error {
    Error::Profiler { path: plugin.path().to_owned(), function, reason }
}

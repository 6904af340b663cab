//! Profiles of devices, through PJRT's profiler extension.
//!
//! A profile is an `XSpace` message, which xprof and TensorBoard read. A process has at most one profiler at
//! a time.

use crate::error::{Error, Result};
use crate::ffi::TABLE_EXTENSIONS;
use crate::ffi::profiler::{
    self as ffi, CollectArgs, CreateArgs, DestroyErrorArgs, MessageArgs, OPTIONS, ProfilerApi, ProfilerArgs,
    ProfilerExtension,
};
use crate::plugin::Plugin;
use std::ptr::NonNull;

/// A profiler that records.
#[derive(Debug)]
pub struct Profiler {
    plugin: Plugin,
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
        let Some(api) = api(plugin) else { return Ok(None) };
        let mut args = CreateArgs {
            struct_size: size_of::<CreateArgs>(),
            options: OPTIONS.as_ptr().cast(),
            options_size: OPTIONS.len(),
            profiler: std::ptr::null_mut(),
        };
        // SAFETY: the arguments live during the call, and the plugin copies the options.
        let error = unsafe { (api.create)(&raw mut args) };
        check(plugin, api, error, "PLUGIN_Profiler_Create")?;
        let Some(handle) = NonNull::new(args.profiler) else {
            return Err(failed(plugin, "PLUGIN_Profiler_Create", "it returned no profiler".to_owned()));
        };
        let profiler = Self { plugin: plugin.clone(), handle };
        profiler.call(api, api.start, "PLUGIN_Profiler_Start")?;
        Ok(Some(profiler))
    }

    /// Stops, and returns what was recorded: a serialized `XSpace`.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn stop(self) -> Result<Vec<u8>> {
        let Some(api) = api(&self.plugin) else { return Ok(Vec::new()) };
        self.call(api, api.stop, "PLUGIN_Profiler_Stop")?;
        let mut args = CollectArgs {
            struct_size: size_of::<CollectArgs>(),
            profiler: self.handle.as_ptr(),
            buffer: std::ptr::null_mut(),
            buffer_size: 0,
        };
        let collect = |args: &mut CollectArgs| {
            // SAFETY: the arguments and the buffer they name live during the call.
            let error = unsafe { (api.collect_data)(&raw mut *args) };
            check(&self.plugin, api, error, "PLUGIN_Profiler_CollectData")
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

    fn call(&self, api: &ProfilerApi, function: ffi::ProfilerCall, name: &'static str) -> Result<()> {
        let mut args =
            ProfilerArgs { struct_size: size_of::<ProfilerArgs>(), profiler: self.handle.as_ptr() };
        // SAFETY: the profiler is alive, and the arguments live during the call.
        let error = unsafe { function(&raw mut args) };
        check(&self.plugin, api, error, name)
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        if let Some(api) = api(&self.plugin) {
            // There is nobody to tell.
            let _ = self.call(api, api.destroy, "PLUGIN_Profiler_Destroy");
        }
    }
}

/// Returns the functions of the plugin's profiler.
fn api(plugin: &Plugin) -> Option<&ProfilerApi> {
    // SAFETY: the table has at least its header, which contains this pointer; the list belongs to the table,
    // is immutable, and ends with null. Every extension begins with its size, kind and successor; the
    // functions are read only if extension and function table are long enough, and they live as long as the
    // plugin, which is never unloaded.
    unsafe {
        let start = plugin.api.table().as_ptr().add(TABLE_EXTENSIONS);
        let mut next = start.cast::<*const ProfilerExtension>().read_unaligned();
        for _ in 0..1000 {
            if next.is_null() {
                return None;
            }
            if (*next).kind == ffi::PROFILER_EXTENSION {
                let is_whole = (*next).struct_size >= size_of::<ProfilerExtension>();
                let api = if is_whole { (*next).api.as_ref() } else { None };
                return api.filter(|api| api.struct_size >= size_of::<ProfilerApi>());
            }
            next = (*next).next.cast();
        }
        None
    }
}

/// Turns an error of the profiler into one of this crate, and frees it.
fn check(plugin: &Plugin, api: &ProfilerApi, error: *mut ffi::Error, function: &'static str) -> Result<()> {
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
    let mut destroy =
        DestroyErrorArgs { struct_size: size_of::<DestroyErrorArgs>(), private: std::ptr::null_mut(), error };
    // SAFETY: the error is alive until it is destroyed here, and so is its message, which is copied before.
    let text = unsafe {
        (api.error_message)(&raw mut message);
        let text = match message.message.is_null() {
            true => String::new(),
            false => {
                let bytes = std::slice::from_raw_parts(message.message.cast::<u8>(), message.message_size);
                String::from_utf8_lossy(bytes).into_owned()
            }
        };
        (api.error_destroy)(&raw mut destroy);
        text
    };
    Err(failed(plugin, function, text))
}

fn failed(plugin: &Plugin, function: &'static str, reason: String) -> Error {
    Error::Profiler { path: plugin.path().to_owned(), function, reason }
}

//! The key-value store through which the processes of a job find each other while they create their clients.
//!
//! GPU plugins exchange addresses through a store that the caller provides; TPU and CPU plugins need none.

use crate::error::Code;
use crate::event::catch_panic;
use crate::ffi;
use crate::ffi::structs::{KeyValueGet, KeyValuePut, KeyValueTryGet, MakeError};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ffi::{c_char, c_void};
use std::sync::Arc;
use std::time::Duration;

/// A store of bytes by key, shared by all processes of a job.
pub trait KeyValueStore: Send + Sync {
    /// Returns the value under `key`. Waits at most `limit` until a process puts it.
    ///
    /// # Errors
    /// [`Code::DeadlineExceeded`] after `limit`, or another error of the store.
    fn get(&self, key: &[u8], limit: Duration) -> Result<Vec<u8>, StoreError>;

    /// Returns the value under `key` without waiting.
    ///
    /// # Errors
    /// [`Code::NotFound`] if there is none yet, or another error of the store.
    fn try_get(&self, key: &[u8]) -> Result<Vec<u8>, StoreError>;

    /// Stores `value` under `key`.
    ///
    /// # Errors
    /// An error of the store.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
}

/// An error of a [`KeyValueStore`], passed through the plugin.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message} ({code})")]
pub struct StoreError {
    /// The error's code.
    pub code: Code,
    /// The message.
    pub message: String,
}

impl StoreError {
    /// Creates an error with a code and a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        StoreError { code, message: message.into() }
    }
}

/// A store at a fixed address, for as long as a client uses it.
pub(crate) struct SharedStore(Arc<dyn KeyValueStore>);

impl SharedStore {
    pub fn boxed(store: Arc<dyn KeyValueStore>) -> Box<Self> {
        Box::new(SharedStore(store))
    }

    /// Returns the user argument of the callbacks.
    pub fn user(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }
}

/// The callback that waits for a key.
pub(crate) unsafe extern "C" fn get(args: *mut KeyValueGet) -> *mut ffi::Error {
    // SAFETY: the plugin passes a live struct of this type, which it owns during the call.
    let args = unsafe { &mut *args };
    args.free = Some(take_back);
    let limit = Duration::from_millis(u64::try_from(args.timeout_ms.value).unwrap_or(0));
    // SAFETY: the plugin guarantees that the key is valid; `user` is the store that the client was created
    // with.
    let outcome = unsafe { answer(args.user, args.key, args.key_size, |store, key| store.get(key, limit)) };
    match outcome {
        Ok(value) => {
            (args.value, args.value_size) = (lend(&value), value.len());
            std::ptr::null_mut()
        }
        // SAFETY: the plugin passes a pointer to its function.
        Err(error) => unsafe { make_error(args.make_error, &error) },
    }
}

/// The callback that looks up a key without waiting.
pub(crate) unsafe extern "C" fn try_get(args: *mut KeyValueTryGet) -> *mut ffi::Error {
    // SAFETY: the plugin passes a live struct of this type, which it owns during the call.
    let args = unsafe { &mut *args };
    args.free = Some(take_back);
    // SAFETY: the plugin guarantees that the key is valid; `user` is the store that the client was created
    // with.
    let outcome = unsafe { answer(args.user, args.key, args.key_size, |store, key| store.try_get(key)) };
    match outcome {
        Ok(value) => {
            (args.value, args.value_size) = (lend(&value), value.len());
            std::ptr::null_mut()
        }
        // SAFETY: the plugin passes a pointer to its function.
        Err(error) => unsafe { make_error(args.make_error, &error) },
    }
}

/// The callback that stores a value.
pub(crate) unsafe extern "C" fn put(args: *mut KeyValuePut) -> *mut ffi::Error {
    // SAFETY: the plugin passes a live struct of this type, which it owns during the call.
    let args = unsafe { &mut *args };
    // SAFETY: the plugin guarantees that key and value are valid; `user` is the store that the client was
    // created with.
    let outcome = unsafe {
        let value = bytes(args.value, args.value_size);
        answer(args.user, args.key, args.key_size, |store, key| store.put(key, value))
    };
    match outcome {
        Ok(()) => std::ptr::null_mut(),
        // SAFETY: the plugin passes a pointer to its function.
        Err(error) => unsafe { make_error(args.make_error, &error) },
    }
}

/// Calls the store, and converts a panic to an error, because it must not unwind into the plugin.
///
/// # Safety
/// `user` is a [`SharedStore`]; `key` points to `key_size` bytes.
unsafe fn answer<T>(
    user: *mut c_void,
    key: *const c_char,
    key_size: usize,
    ask: impl FnOnce(&dyn KeyValueStore, &[u8]) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // SAFETY: the caller guarantees it.
    let (store, key) = unsafe { (&*user.cast::<SharedStore>(), bytes(key, key_size)) };
    catch_panic(|| ask(&*store.0, key))
        .unwrap_or_else(|| Err(StoreError::new(Code::Internal, "the key-value store panicked")))
}

/// # Safety
/// `start` points to `len` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const c_char, len: usize) -> &'a [u8] {
    if len == 0 || start.is_null() {
        return &[];
    }
    // SAFETY: the caller guarantees it.
    unsafe { std::slice::from_raw_parts(start.cast(), len) }
}

/// # Safety
/// `make` is null or points to the plugin's function.
unsafe fn make_error(make: *const MakeError, error: &StoreError) -> *mut ffi::Error {
    // SAFETY: the caller guarantees it.
    match unsafe { make.as_ref() } {
        // SAFETY: the function copies the message.
        Some(make) => unsafe {
            make(error.code.to_raw(), error.message.as_ptr().cast(), error.message.len())
        },
        // Without this function no error can be made. The callback then reports success with an empty value.
        None => std::ptr::null_mut(),
    }
}

/// Bytes in front of a lent value that hold its size, because the plugin returns only the pointer.
const SIZE_PREFIX: usize = size_of::<usize>();

/// Copies the value for the plugin, which returns it through [`take_back`].
fn lend(value: &[u8]) -> *mut c_char {
    let layout = prefixed(value.len());
    // SAFETY: the layout is not empty; both writes are within it.
    unsafe {
        let start = alloc(layout);
        if start.is_null() {
            handle_alloc_error(layout);
        }
        start.cast::<usize>().write(value.len());
        let lent = start.add(SIZE_PREFIX);
        lent.copy_from_nonoverlapping(value.as_ptr(), value.len());
        lent.cast()
    }
}

/// Frees a value from [`lend`].
unsafe extern "C" fn take_back(value: *mut c_char) {
    if value.is_null() {
        return;
    }
    // SAFETY: the plugin returns the pointer from `lend`, once; the size is stored in front of it.
    unsafe {
        let start = value.cast::<u8>().sub(SIZE_PREFIX);
        let len = start.cast::<usize>().read();
        dealloc(start, prefixed(len));
    }
}

fn prefixed(len: usize) -> Layout {
    Layout::from_size_align(SIZE_PREFIX + len, align_of::<usize>())
        .expect("a value that is in memory leaves room for one word")
}

#[cfg(test)]
mod tests {
    use super::{lend, take_back};

    #[test]
    fn lent_values_come_back() {
        for value in [&b""[..], b"x", b"10.0.0.1:1234\0more"] {
            let lent = lend(value);
            // SAFETY: `lend` allocated as many bytes as the value has, and they are returned once.
            unsafe {
                assert_eq!(std::slice::from_raw_parts(lent.cast::<u8>(), value.len()), value);
                take_back(lent);
            }
        }
    }
}

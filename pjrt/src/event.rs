//! Waiting for background work of a plugin.

use crate::api::{Api, Handle};
use crate::error::{Error, Result};
use crate::ffi::calls::{EVENT_AWAIT, EVENT_IS_READY, EVENT_ON_READY};
use crate::ffi::structs::{EventOnReady, Object};
use crate::ffi::{self, Function, Padded};
use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Background work that becomes ready, with success or with an error.
///
/// Dropping an event neither waits nor cancels; it only discards the outcome.
#[must_use = "the error of what happens in the background arrives through its event"]
pub struct Event {
    handle: Handle<ffi::Event>,
    about: About,
}

/// The subject of an event, for its error message.
#[derive(Clone)]
pub(crate) struct About {
    /// The function that returned the event.
    pub function: Function,
    /// The executable that is running.
    pub executable: Option<Arc<str>>,
    /// The device that the work runs on.
    pub device: Option<i32>,
}

impl About {
    pub fn function(function: Function) -> Self {
        About { function, executable: None, device: None }
    }

    /// Adds the subject to an error.
    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Call(mut call) => {
                call.function = self.function.name();
                call.executable = self.executable.as_deref().map(str::to_owned);
                call.device = self.device;
                Error::Call(call)
            }
            other => other,
        }
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({})", self.about.function.name())
    }
}

impl Event {
    /// # Safety
    /// As for [`Handle::new`].
    pub(crate) unsafe fn new(api: &Arc<Api>, event: *mut ffi::Event, about: About) -> Result<Self> {
        // SAFETY: the caller guarantees it.
        let handle = unsafe { Handle::new(api, about.function, event)? };
        Ok(Event { handle, about })
    }

    /// Blocks until ready and returns the outcome.
    ///
    /// # Errors
    /// The error of the background work, with the call that started it.
    pub fn wait(&self) -> Result<()> {
        let mut args = Padded::<Object<ffi::Event>>::new(|args| args.object = self.handle.ptr.as_ptr());
        // SAFETY: the event is alive.
        unsafe { self.handle.api.call(EVENT_AWAIT, &mut args) }.map_err(|error| self.about.explain(error))
    }

    /// Returns true if [`Event::wait`] would return at once.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn is_ready(&self) -> Result<bool> {
        // SAFETY: the event is alive.
        unsafe { self.handle.api.get(EVENT_IS_READY, self.handle.ptr) }.map(|ready| ready.get())
    }

    /// Like [`Event::wait`], but returns `None` after `limit`. The background work continues.
    ///
    /// # Errors
    /// As for [`Event::wait`].
    pub fn wait_timeout(&self, limit: Duration) -> Result<Option<()>> {
        let (sender, receiver) = sync_channel(1);
        // If the receiver is gone, the outcome is no longer needed.
        self.on_ready(move |outcome| drop(sender.try_send(outcome)))?;
        match receiver.recv_timeout(limit) {
            Ok(outcome) => outcome.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self
                .handle
                .api
                .contract(Function::EventOnReady, "it dropped a callback without calling it")),
        }
    }

    /// Calls `callback` with the outcome once it is known, on a thread of the plugin or on this one. Plugins
    /// have few threads, so the callback should pass the outcome on, and not wait or run programs. A panic of
    /// the callback is caught and discarded: it must not unwind into the plugin.
    ///
    /// # Errors
    /// The plugin reports an error; then `callback` is dropped without being called.
    pub fn on_ready(&self, callback: impl FnOnce(Result<()>) + Send + 'static) -> Result<()> {
        let user = Box::into_raw(Box::new(Callback {
            api: Arc::clone(&self.handle.api),
            about: self.about.clone(),
            run: Box::new(callback),
        }));
        let mut args = Padded::<EventOnReady>::new(|args| {
            args.event = self.handle.ptr.as_ptr();
            args.callback = Some(call_back);
            args.user = user.cast();
        });
        // SAFETY: the event is alive, and `user` has the type that `call_back` expects.
        let registered = unsafe { self.handle.api.call(EVENT_ON_READY, &mut args) };
        registered.inspect_err(|_| {
            // SAFETY: a failed registration never calls back, so we still own the box.
            drop(unsafe { Box::from_raw(user) });
        })
    }
}

/// Waits for all events, even if some fail, and returns the first error.
///
/// # Errors
/// As for [`Event::wait`].
pub fn wait_all(events: impl IntoIterator<Item = Event>) -> Result<()> {
    let mut outcome = Ok(());
    for event in events {
        outcome = outcome.and(event.wait());
    }
    outcome
}

/// The data of a callback.
struct Callback {
    api: Arc<Api>,
    about: About,
    run: Box<dyn FnOnce(Result<()>) + Send>,
}

/// The function that the plugin calls.
unsafe extern "C" fn call_back(error: *mut ffi::Error, user: *mut c_void) {
    // SAFETY: `on_ready` passed a box of this type, and the plugin calls back once.
    let callback = unsafe { Box::from_raw(user.cast::<Callback>()) };
    let outer = IN_CALLBACK.replace(true);
    catch_panic(move || {
        let Callback { api, about, run } = *callback;
        // SAFETY: the plugin passes ownership of the error to the callback.
        let outcome = unsafe { api.take_error(error, about.function) };
        run(outcome.map_err(|error| about.explain(error)));
    });
    IN_CALLBACK.set(outer);
}

thread_local! {
    /// True while this thread runs a callback, and may therefore be a thread of the plugin.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Returns true if this thread is running a callback, and may therefore be a thread of the plugin.
pub(crate) fn in_callback() -> bool {
    IN_CALLBACK.get()
}

/// Returns the result of `run`, or `None` if it panics: a panic that unwound into the plugin would abort the
/// process.
pub(crate) fn catch_panic<T>(run: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => Some(value),
        Err(payload) => {
            // Dropping the panic payload runs foreign code, which may panic again.
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
            None
        }
    }
}

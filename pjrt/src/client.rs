//! A client: one process's view of the devices of a platform.

use crate::api::{Api, Handle};
use crate::error::{Error, Result};
use crate::event::in_callback;
use crate::ffi::calls::{
    CLIENT_CREATE, CLIENT_DEFAULT_DEVICE_ASSIGNMENT, CLIENT_PLATFORM_NAME, CLIENT_PLATFORM_VERSION,
    CLIENT_PROCESS_INDEX,
};
use crate::ffi::structs::{self, ClientCreate};
use crate::ffi::{self, Function, Padded};
use crate::in_flight::InFlight;
use crate::key_value::{self, KeyValueStore, SharedStore};
use crate::plugin::Plugin;
use crate::value::{self, Named, Value, to_ffi};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

/// Options for creating a client.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// Options defined by the plugin, such as `cpu_device_count` (CPU), `memory_fraction`, `visible_devices`,
    /// `node_id` and `num_nodes` (GPU).
    pub options: Vec<Named>,
    /// The store through which the processes of a job find each other. GPUs of several processes need it.
    pub store: Option<Arc<dyn KeyValueStore>>,
}

impl ClientOptions {
    /// Creates empty options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an option.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.options.push((name.into(), value.into()));
        self
    }

    /// Sets the store through which processes find each other.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn KeyValueStore>) -> Self {
        self.store = Some(store);
        self
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { options, store } = self;
        f.debug_struct("ClientOptions").field("options", options).field("store", &store.is_some()).finish()
    }
}

/// A client. Cheap to clone; all objects created through it keep it alive. Dropping the last reference waits
/// for runs and copies in flight.
#[derive(Clone)]
pub struct Client {
    inner: Arc<ClientInner>,
}

struct ClientInner {
    parts: ManuallyDrop<Parts>,
    in_flight: InFlight,
}

/// Fields are dropped in this order: the client before the store that its callbacks use.
struct Parts {
    handle: Handle<ffi::Client>,
    _store: Option<Box<SharedStore>>,
}

impl Drop for ClientInner {
    fn drop(&mut self) {
        // SAFETY: the parts are taken only here, and nothing is used after `drop`.
        let parts = unsafe { ManuallyDrop::take(&mut self.parts) };
        let in_flight = self.in_flight.clone();
        if !in_callback() {
            in_flight.wait();
            drop(parts);
            return;
        }
        // On a thread of the plugin, the work in flight cannot be waited for, because it may need this
        // thread, nor can the client be destroyed, which would wait for this thread to end. If no thread can
        // be started, leaking the client is better than a deadlock.
        let parts = ManuallyDrop::new(parts);
        let end = move || {
            in_flight.wait();
            drop(ManuallyDrop::into_inner(parts));
        };
        drop(std::thread::Builder::new().name("pjrt-client-end".to_owned()).spawn(end));
    }
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Client {}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.plugin())
    }
}

impl Client {
    /// Creates a client. On platforms whose devices belong to one process at a time, it acquires them.
    ///
    /// # Errors
    /// The plugin reports an error, for example no device, an unknown option, or devices in use.
    pub fn create(plugin: &Plugin, options: &ClientOptions) -> Result<Self> {
        let api = &plugin.api;
        value::check("creating a client", &options.options)?;
        api.require(&[Function::ClientDestroy])?;
        let named = to_ffi(&options.options);
        let store = options.store.clone().map(SharedStore::boxed);
        let mut args = Padded::<ClientCreate>::new(|args| {
            args.options = named.as_ptr();
            args.num_options = named.len();
            if let Some(store) = &store {
                let user = store.user();
                args.kv_get = Some(key_value::get);
                args.kv_get_user = user;
                args.kv_put = Some(key_value::put);
                args.kv_put_user = user;
                args.kv_try_get = Some(key_value::try_get);
                args.kv_try_get_user = user;
            }
        });
        // SAFETY: `named` points into `options`, and both are alive during the call; the store lives as long
        // as the client.
        let handle = unsafe {
            api.call(CLIENT_CREATE, &mut args)?;
            Handle::new(api, Function::ClientCreate, args.client)?
        };
        let parts = ManuallyDrop::new(Parts { handle, _store: store });
        Ok(Client { inner: Arc::new(ClientInner { parts, in_flight: InFlight::default() }) })
    }

    pub(crate) fn api(&self) -> &Arc<Api> {
        &self.inner.parts.handle.api
    }

    /// Returns the counter of runs and copies in flight.
    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.inner.in_flight
    }

    pub(crate) fn ptr(&self) -> NonNull<ffi::Client> {
        self.inner.parts.handle.ptr
    }

    pub(crate) fn as_ptr(&self) -> *mut ffi::Client {
        self.ptr().as_ptr()
    }

    /// Returns the plugin that created the client.
    pub fn plugin(&self) -> Plugin {
        Plugin { api: Arc::clone(self.api()) }
    }

    /// Returns the platform, such as `cpu`, `cuda` or `tpu`.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn platform_name(&self) -> Result<String> {
        // SAFETY: the client is alive.
        unsafe { self.api().text_of(CLIENT_PLATFORM_NAME, self.ptr()) }
    }

    /// Returns the vendor's version string of the platform. Serialized executables are bound to it.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn platform_version(&self) -> Result<String> {
        // SAFETY: the client is alive.
        unsafe { self.api().text_of(CLIENT_PLATFORM_VERSION, self.ptr()) }
    }

    /// Returns the index of this process in the job.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn process_index(&self) -> Result<i32> {
        // SAFETY: the client is alive.
        unsafe { self.api().get(CLIENT_PROCESS_INDEX, self.ptr()) }.map(|index| index.value)
    }

    /// Returns the ids of the devices in the plugin's default assignment. Replica `r`, partition `p` is at
    /// index `r * partitions + p`.
    ///
    /// # Errors
    /// The plugin reports an error, such as too few devices.
    pub fn default_device_assignment(&self, replicas: usize, partitions: usize) -> Result<Vec<i32>> {
        let too_many = || {
            Error::invalid(
                "asking for a device assignment",
                format!(
                    "{replicas} replicas of {partitions} partitions are more than any machine has devices"
                ),
            )
        };
        let as_int = |n: usize| i32::try_from(n).map_err(|_| too_many());
        let (num_replicas, num_partitions) = (as_int(replicas)?, as_int(partitions)?);
        let len = replicas.checked_mul(partitions).filter(|n| *n <= 1 << 20).ok_or_else(too_many)?;
        let mut assignment = vec![0; len];
        let mut args = Padded::<structs::DefaultDeviceAssignment>::new(|args| {
            args.client = self.as_ptr();
            args.num_replicas = num_replicas;
            args.num_partitions = num_partitions;
            args.len = len;
            args.assignment = assignment.as_mut_ptr();
        });
        // SAFETY: the client is alive, and the plugin fills as many ints as the vector holds.
        unsafe { self.api().call(CLIENT_DEFAULT_DEVICE_ASSIGNMENT, &mut args)? };
        Ok(assignment)
    }
}

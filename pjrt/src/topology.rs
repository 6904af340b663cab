//! Topologies: descriptions of machines to compile for, whether present or not.

use crate::api::{Api, Handle};
use crate::client::Client;
use crate::device::DeviceDescription;
use crate::error::{Result, optional};
use crate::ffi::calls::{
    CLIENT_TOPOLOGY, TOPOLOGY_ATTRIBUTES, TOPOLOGY_CREATE, TOPOLOGY_DESERIALIZE,
    TOPOLOGY_DEVICE_DESCRIPTIONS, TOPOLOGY_PLATFORM_NAME, TOPOLOGY_PLATFORM_VERSION, TOPOLOGY_SERIALIZE,
};
use crate::ffi::structs::{DeserializeTopology, SerializeTopology, TopologyCreate};
use crate::ffi::{self, Function, Padded};
use crate::plugin::Plugin;
use crate::value::{self, Named, from_ffi, to_ffi};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

/// A topology. Cheap to clone.
#[derive(Clone)]
pub struct Topology {
    inner: Arc<TopologyInner>,
}

struct TopologyInner {
    api: Arc<Api>,
    ptr: NonNull<ffi::Topology>,
    _owner: Owner,
}

/// The owner of the C object.
enum Owner {
    /// This value frees it.
    Own { _handle: Handle<ffi::Topology> },
    /// The client frees it, and must therefore stay alive.
    Client { _client: Client },
}

// SAFETY: a topology is immutable, and its owner is `Send` and `Sync`.
unsafe impl Send for TopologyInner {}
// SAFETY: as above.
unsafe impl Sync for TopologyInner {}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topology({})", self.inner.api.path.display())
    }
}

impl Topology {
    /// Creates the topology with a name such as `v4:2x2x1` or `v5e:2x4` (libtpu).
    ///
    /// # Errors
    /// The plugin reports an error: an unknown name or option, or no support for topologies.
    pub fn create(plugin: &Plugin, name: &str, options: &[Named]) -> Result<Self> {
        value::check("creating a topology", options)?;
        let api = &plugin.api;
        api.require(&[Function::TopologyDescriptionDestroy])?;
        let named = to_ffi(options);
        let mut args = Padded::<TopologyCreate>::new(|args| {
            args.name = name.as_ptr().cast();
            args.name_size = name.len();
            args.options = named.as_ptr();
            args.num_options = named.len();
        });
        // SAFETY: name and options are alive during the call; ownership of the topology passes to us.
        unsafe {
            api.call(TOPOLOGY_CREATE, &mut args)?;
            Ok(Self::owned(Handle::new(api, Function::TopologyDescriptionCreate, args.topology)?))
        }
    }

    /// Deserializes a topology from [`Topology::serialize`].
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn deserialize(plugin: &Plugin, bytes: &[u8]) -> Result<Self> {
        let api = &plugin.api;
        api.require(&[Function::TopologyDescriptionDestroy])?;
        let mut args = Padded::<DeserializeTopology>::new(|args| {
            args.bytes = bytes.as_ptr().cast();
            args.len = bytes.len();
        });
        // SAFETY: the bytes are alive during the call; ownership of the topology passes to us.
        unsafe {
            api.call(TOPOLOGY_DESERIALIZE, &mut args)?;
            Ok(Self::owned(Handle::new(api, Function::TopologyDescriptionDeserialize, args.topology)?))
        }
    }

    fn owned(handle: Handle<ffi::Topology>) -> Self {
        let (api, ptr) = (Arc::clone(&handle.api), handle.ptr);
        Topology { inner: Arc::new(TopologyInner { api, ptr, _owner: Owner::Own { _handle: handle } }) }
    }

    pub(crate) fn api(&self) -> &Arc<Api> {
        &self.inner.api
    }

    pub(crate) fn as_ptr(&self) -> *mut ffi::Topology {
        self.inner.ptr.as_ptr()
    }

    /// # Safety
    /// The topology belongs to the client.
    unsafe fn of_client(client: &Client, topology: *mut ffi::Topology) -> Result<Self> {
        let api = Arc::clone(client.api());
        let ptr = api.non_null(Function::ClientTopologyDescription, topology)?;
        Ok(Topology {
            inner: Arc::new(TopologyInner { api, ptr, _owner: Owner::Client { _client: client.clone() } }),
        })
    }

    /// Returns the platform, such as `tpu`.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn platform_name(&self) -> Result<String> {
        // SAFETY: the topology is alive.
        unsafe { self.inner.api.text_of(TOPOLOGY_PLATFORM_NAME, self.inner.ptr) }
    }

    /// Returns the vendor's version string of the platform.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn platform_version(&self) -> Result<String> {
        // SAFETY: the topology is alive.
        unsafe { self.inner.api.text_of(TOPOLOGY_PLATFORM_VERSION, self.inner.ptr) }
    }

    /// Returns the devices, sorted by id.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn devices(&self) -> Result<Vec<DeviceDescription>> {
        let TopologyInner { api, ptr, .. } = &*self.inner;
        // SAFETY: the topology is alive and owns the descriptions, which are copied.
        unsafe {
            let mut devices = api
                .span(TOPOLOGY_DEVICE_DESCRIPTIONS, *ptr)?
                .iter()
                .map(|description| {
                    let function = Function::TopologyDescriptionGetDeviceDescriptions;
                    DeviceDescription::read(api, api.non_null(function, *description)?)
                })
                .collect::<Result<Vec<_>>>()?;
            devices.sort_by_key(|device| device.id);
            Ok(devices)
        }
    }

    /// Returns the plugin's attributes of the topology. Empty if it has none.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn attributes(&self) -> Result<Vec<Named>> {
        let TopologyInner { api, ptr, .. } = &*self.inner;
        // SAFETY: the topology is alive and owns the attributes, which are copied.
        unsafe {
            match optional(api.span(TOPOLOGY_ATTRIBUTES, *ptr))? {
                Some(items) => {
                    from_ffi(api, Function::TopologyDescriptionAttributes, items.as_ptr(), items.len())
                }
                None => Ok(Vec::new()),
            }
        }
    }

    /// Serializes the topology for the same plugin. `None` if the plugin cannot.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn serialize(&self) -> Result<Option<Vec<u8>>> {
        let TopologyInner { api, ptr, .. } = &*self.inner;
        let mut args = Padded::<SerializeTopology>::new(|args| args.topology = ptr.as_ptr());
        // SAFETY: the topology is alive; the bytes are copied, then freed once by the function that was
        // returned with them.
        unsafe {
            if optional(api.call(TOPOLOGY_SERIALIZE, &mut args))?.is_none() {
                return Ok(None);
            }
            let bytes =
                api.slice(Function::TopologyDescriptionSerialize, args.bytes, args.len).map(<[u8]>::to_vec);
            if let Some(free) = args.free {
                free(args.owner);
            }
            bytes.map(Some)
        }
    }
}

impl Client {
    /// Returns the topology of this client's devices. `None` if the plugin does not provide it.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn topology(&self) -> Result<Option<Topology>> {
        // SAFETY: the client is alive.
        let answer = unsafe { self.api().get(CLIENT_TOPOLOGY, self.ptr()) };
        match optional(answer)? {
            // SAFETY: the topology belongs to this client.
            Some(topology) => unsafe { Topology::of_client(self, topology) }.map(Some),
            None => Ok(None),
        }
    }
}

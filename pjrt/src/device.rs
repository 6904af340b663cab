//! Devices and their descriptions.

use crate::api::Api;
use crate::client::Client;
use crate::error::{Result, optional};
use crate::ffi::calls::{
    CLIENT_ADDRESSABLE_DEVICES, CLIENT_DEVICES, Call, DESCRIPTION_ATTRIBUTES, DESCRIPTION_ID,
    DESCRIPTION_KIND, DESCRIPTION_PROCESS_INDEX, DESCRIPTION_TO_STRING, DEVICE_GET_DESCRIPTION,
    DEVICE_IS_ADDRESSABLE, DEVICE_LOCAL_HARDWARE_ID, DEVICE_MEMORY_STATS,
};
use crate::ffi::structs::{DeviceMemoryStats, MaybeStat, Span, SpanLenFirst};
use crate::ffi::{self, Function, Padded};
use crate::value::{Named, Value, from_ffi};
use std::fmt;
use std::ptr::NonNull;

/// A device of a client. Cheap to clone; keeps the client alive.
#[derive(Clone)]
pub struct Device {
    pub(crate) client: Client,
    pub(crate) ptr: NonNull<ffi::Device>,
    id: i32,
}

// SAFETY: a device is immutable and belongs to the client, which is `Send` and `Sync`.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        self.ptr == other.ptr
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.id)
    }
}

impl Device {
    /// # Safety
    /// `device` is a device of `client`.
    pub(crate) unsafe fn new(client: &Client, device: *mut ffi::Device, function: Function) -> Result<Self> {
        let api = client.api();
        let ptr = api.non_null(function, device)?;
        // SAFETY: the caller guarantees that the device is valid.
        let id = unsafe { id_of(api, description_of(api, ptr)?)? };
        Ok(Device { client: client.clone(), ptr, id })
    }

    /// Returns the device's id, unique among the devices of all processes. Device assignments in compile
    /// options use it.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Returns the client that the device belongs to.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns true if this process can use the device.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn is_addressable(&self) -> Result<bool> {
        // SAFETY: the device lives as long as the client.
        unsafe { self.client.api().get(DEVICE_IS_ADDRESSABLE, self.ptr) }.map(|flag| flag.get())
    }

    /// Returns the device's index on this machine, as its hardware numbers it.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn local_hardware_id(&self) -> Result<i32> {
        // SAFETY: the device lives as long as the client.
        unsafe { self.client.api().get(DEVICE_LOCAL_HARDWARE_ID, self.ptr) }.map(|id| id.value)
    }

    /// Returns the device's description.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn description(&self) -> Result<DeviceDescription> {
        let api = self.client.api();
        // SAFETY: the device lives as long as the client, and its description as long as the device.
        unsafe { DeviceDescription::read(api, description_of(api, self.ptr)?) }
    }

    /// Returns the memory statistics of the device. `None` if the plugin does not count them.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn memory_stats(&self) -> Result<Option<MemoryUse>> {
        let mut args = Padded::<DeviceMemoryStats>::new(|args| args.device = self.ptr.as_ptr());
        // SAFETY: the device lives as long as the client.
        let answer = unsafe { self.client.api().call(DEVICE_MEMORY_STATS, &mut args) };
        Ok(optional(answer)?.map(|()| MemoryUse {
            bytes_in_use: args.bytes_in_use,
            peak_bytes_in_use: known(args.peak_bytes_in_use),
            allocations: known(args.num_allocs),
            largest_allocation: known(args.largest_alloc_size),
            bytes_limit: known(args.bytes_limit),
            bytes_reserved: known(args.bytes_reserved),
            peak_bytes_reserved: known(args.peak_bytes_reserved),
            bytes_reservable_limit: known(args.bytes_reservable_limit),
            largest_free_block: known(args.largest_free_block_bytes),
            pool_bytes: known(args.pool_bytes),
            peak_pool_bytes: known(args.peak_pool_bytes),
        }))
    }
}

fn known(stat: MaybeStat) -> Option<i64> {
    stat.is_set.get().then_some(stat.value)
}

impl Client {
    /// Returns the devices of all processes.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn devices(&self) -> Result<Vec<Device>> {
        self.devices_by(CLIENT_DEVICES)
    }

    /// Returns the devices that this process can use.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn addressable_devices(&self) -> Result<Vec<Device>> {
        self.devices_by(CLIENT_ADDRESSABLE_DEVICES)
    }

    fn devices_by(&self, call: Call<Span<ffi::Client, *mut ffi::Device>>) -> Result<Vec<Device>> {
        // SAFETY: the client is alive and owns its devices.
        let devices = unsafe { self.api().span(call, self.ptr())? };
        // SAFETY: these are devices of this client.
        devices.iter().map(|device| unsafe { Device::new(self, *device, call.function) }).collect()
    }
}

/// Statistics of a device's allocator, in bytes. `None` if the plugin does not count the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the documentation.
pub struct MemoryUse {
    pub bytes_in_use: i64,
    pub peak_bytes_in_use: Option<i64>,
    pub allocations: Option<i64>,
    pub largest_allocation: Option<i64>,
    /// Bytes of the device's memory that the allocator may use.
    pub bytes_limit: Option<i64>,
    pub bytes_reserved: Option<i64>,
    pub peak_bytes_reserved: Option<i64>,
    pub bytes_reservable_limit: Option<i64>,
    pub largest_free_block: Option<i64>,
    pub pool_bytes: Option<i64>,
    pub peak_pool_bytes: Option<i64>,
}

/// A description of a device, which may be part of a topology and not present.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceDescription {
    /// See [`Device::id`].
    pub id: i32,
    /// The index of the process that can use the device.
    pub process_index: i32,
    /// The vendor's name for this kind of device, such as `TPU v4`.
    pub kind: String,
    /// A short text for log messages.
    pub text: String,
    /// Attributes specific to this kind of device, such as `coords` and `core_on_chip` on TPUs.
    pub attributes: Vec<Named>,
}

impl DeviceDescription {
    /// Returns the attribute with this name.
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// # Safety
    /// `description` is alive and of this plugin.
    pub(crate) unsafe fn read(api: &Api, description: NonNull<ffi::DeviceDescription>) -> Result<Self> {
        let mut attributes = Padded::<SpanLenFirst<_, _>>::new(|args| args.object = description.as_ptr());
        // SAFETY: the caller guarantees that the description is valid; it owns all data read here.
        unsafe {
            let attributes = match optional(api.call(DESCRIPTION_ATTRIBUTES, &mut attributes))? {
                Some(()) => {
                    from_ffi(api, Function::DeviceDescriptionAttributes, attributes.items, attributes.len)?
                }
                None => Vec::new(),
            };
            Ok(DeviceDescription {
                id: id_of(api, description)?,
                process_index: api.get(DESCRIPTION_PROCESS_INDEX, description)?.value,
                kind: api.text_of(DESCRIPTION_KIND, description)?,
                text: api.text_of(DESCRIPTION_TO_STRING, description)?,
                attributes,
            })
        }
    }
}

/// # Safety
/// `device` is alive and of this plugin.
unsafe fn description_of(api: &Api, device: NonNull<ffi::Device>) -> Result<NonNull<ffi::DeviceDescription>> {
    // SAFETY: the caller guarantees it.
    let description = unsafe { api.get(DEVICE_GET_DESCRIPTION, device)? };
    api.non_null(Function::DeviceGetDescription, description)
}

/// # Safety
/// `description` is alive and of this plugin.
unsafe fn id_of(api: &Api, description: NonNull<ffi::DeviceDescription>) -> Result<i32> {
    // SAFETY: the caller guarantees it.
    Ok(unsafe { api.get(DESCRIPTION_ID, description)? }.value)
}

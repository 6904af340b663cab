//! Arrays on devices.

use crate::api::Handle;
use crate::array_type::{ArrayType, byte_size};
use crate::device::Device;
use crate::element_type::ElementType;
use crate::error::{Error, Result};
use crate::event::{About, Event, wait_all};
use crate::ffi::calls::{
    BUFFER_COPY_TO_DEVICE, BUFFER_DELETE, BUFFER_DIMENSIONS, BUFFER_ELEMENT_TYPE, BUFFER_IS_DELETED,
    BUFFER_ON_DEVICE_SIZE, BUFFER_READY_EVENT, BUFFER_TO_HOST,
};
use crate::ffi::structs::{BufferToHost, CopyToDevice, MemoryLayout, Object};
use crate::ffi::{self, Function, Padded};
use std::fmt;
use std::ptr::NonNull;

/// An array on a device.
///
/// A buffer that a run consumed ([`crate::Argument::Donate`]) no longer exists, and neither does its Rust
/// value: using one would cause an error, a deadlock or a crash, depending on the plugin.
pub struct Buffer {
    /// Dropped before the device, which keeps the client alive.
    handle: Handle<ffi::Buffer>,
    device: Device,
    /// True if the device may be using memory lent by [`crate::Client::buffer_from_host`], which no output
    /// may overwrite.
    pub(crate) borrows_host: bool,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.array_type() {
            Ok(array) => write!(f, "Buffer({array} on {:?})", self.device),
            Err(_) => write!(f, "Buffer(on {:?})", self.device),
        }
    }
}

impl Buffer {
    /// # Safety
    /// As for [`Handle::new`]; the buffer is on the device.
    pub(crate) unsafe fn new(device: &Device, buffer: *mut ffi::Buffer, function: Function) -> Result<Self> {
        // SAFETY: the caller guarantees it.
        let handle = unsafe { Handle::new(device.client().api(), function, buffer)? };
        Ok(Buffer { handle, device: device.clone(), borrows_host: false })
    }

    pub(crate) fn ptr(&self) -> NonNull<ffi::Buffer> {
        self.handle.ptr
    }

    /// Returns the device of the array.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the type of the elements.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn element_type(&self) -> Result<ElementType> {
        // SAFETY: the buffer is alive.
        let raw = unsafe { self.handle.api.get(BUFFER_ELEMENT_TYPE, self.handle.ptr)? };
        Ok(ElementType::from_raw(raw.value))
    }

    /// Returns the dim sizes, outermost first.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn dims(&self) -> Result<&[i64]> {
        // SAFETY: the buffer is alive and owns its dims, which are immutable and borrowed from it.
        unsafe { self.handle.api.span(BUFFER_DIMENSIONS, self.handle.ptr) }
    }

    /// Returns element type and dims.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn array_type(&self) -> Result<ArrayType> {
        Ok(ArrayType { element_type: self.element_type()?, dims: self.dims()?.to_vec() })
    }

    /// Returns the bytes that the array takes on the device, including padding of the device's layout.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn on_device_size(&self) -> Result<usize> {
        // SAFETY: the buffer is alive.
        unsafe { self.handle.api.get(BUFFER_ON_DEVICE_SIZE, self.handle.ptr) }
    }

    /// Returns the bytes of the array on the host, dense and row-major.
    ///
    /// # Errors
    /// The element type has no size on the host, or the plugin reports an error.
    pub fn host_size(&self) -> Result<usize> {
        let array = self.array_type()?;
        array.element_type.byte_size().and_then(|element| byte_size(element, &array.dims)).ok_or_else(|| {
            read_error(format!("an array {array} has no size on the host; convert it in the program"))
        })
    }

    /// Returns an event that becomes ready with the array, or with the error of the run that computes it.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn ready(&self) -> Result<Event> {
        let function = Function::BufferReadyEvent;
        // SAFETY: the buffer is alive; we own the returned event.
        unsafe {
            let event = self.handle.api.get(BUFFER_READY_EVENT, self.handle.ptr)?;
            Event::new(
                &self.handle.api,
                event,
                About { device: Some(self.device.id()), ..About::function(function) },
            )
        }
    }

    /// Copies the array, dense and row-major, into memory of exactly [`Buffer::host_size`] bytes, and waits
    /// for the copy.
    ///
    /// # Errors
    /// `dst` has another size, the run that computes the array failed, or the plugin reports an error.
    pub fn read_into(&self, dst: &mut [u8]) -> Result<()> {
        read_all([(self, dst)])
    }

    /// Copies the array, dense and row-major, and waits for the copy.
    ///
    /// # Errors
    /// As for [`Buffer::read_into`].
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.host_size()?];
        self.read_into(&mut bytes)?;
        Ok(bytes)
    }

    /// Starts to copy the array to the host. The buffer may be dropped or donated while the copy runs.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn start_read(&self) -> Result<PendingRead> {
        let size = self.host_size()?;
        // Not zeroed: the plugin writes all bytes, and zeroing would take as long as the copy.
        let mut bytes = Vec::with_capacity(size);
        // SAFETY: there is room for `size` bytes, and `PendingRead` keeps it, untouched, until the event is
        // ready.
        let event = unsafe { self.start_read_to(bytes.as_mut_ptr(), size)? };
        self.device.client().in_flight().track(&event);
        Ok(PendingRead { state: Some((event, bytes, size)) })
    }

    /// # Safety
    /// `dst` has `room` bytes and is not accessed until the event is ready.
    unsafe fn start_read_to(&self, dst: *mut u8, room: usize) -> Result<Event> {
        let array = self.array_type()?;
        let size = self.host_size()?;
        if room != size {
            return Err(read_error(format!(
                "an array {array} has {size} bytes, but there is memory of {room}"
            )));
        }
        let minor_to_major: Vec<i64> = (0..array.dims.len() as i64).rev().collect();
        let mut layout = row_major(&minor_to_major);
        let mut args = Padded::<BufferToHost>::new(|args| {
            args.buffer = self.handle.ptr.as_ptr();
            args.layout = &raw mut layout;
            args.dst = dst.cast();
            args.dst_size = room;
        });
        // SAFETY: buffer and layout are alive during the call, the memory has the stated size, and the caller
        // does not access it. We own the returned event.
        unsafe {
            self.handle.api.call(BUFFER_TO_HOST, &mut args)?;
            let about =
                About { device: Some(self.device.id()), ..About::function(Function::BufferToHostBuffer) };
            Event::new(&self.handle.api, args.event, about)
        }
    }

    /// Copies the array to another device of the same client.
    ///
    /// # Errors
    /// The device belongs to another client, or the plugin reports an error.
    pub fn copy_to_device(&self, device: &Device) -> Result<Buffer> {
        if device.client() != self.device.client() {
            let reason = format!("{device:?} belongs to another client; read the buffer and send it there");
            return Err(Error::invalid("copying a buffer", reason));
        }
        let mut args = Padded::<CopyToDevice>::new(|args| {
            args.buffer = self.handle.ptr.as_ptr();
            args.device = device.ptr.as_ptr();
        });
        // SAFETY: buffer and device are alive and of the same client; we own the copy.
        unsafe {
            self.handle.api.call(BUFFER_COPY_TO_DEVICE, &mut args)?;
            Buffer::new(device, args.copy, Function::BufferCopyToDevice)
        }
    }

    /// Frees the device memory now, or as soon as the runs that use it have ended. Dropping does the same,
    /// but cannot report an error.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn delete(self) -> Result<()> {
        let mut args = Padded::<Object<ffi::Buffer>>::new(|args| args.object = self.handle.ptr.as_ptr());
        // SAFETY: the buffer is alive, and consumed here.
        unsafe { self.handle.api.call(BUFFER_DELETE, &mut args) }
    }

    /// Returns true if a run that failed consumed the buffer all the same.
    pub(crate) fn is_deleted(&self) -> Result<bool> {
        // SAFETY: the buffer object is alive, even if its memory is freed.
        unsafe { self.handle.api.get(BUFFER_IS_DELETED, self.handle.ptr) }.map(|flag| flag.get())
    }
}

/// Copies several arrays concurrently, each into memory of exactly its [`Buffer::host_size`], and waits for
/// all.
///
/// # Errors
/// The first error of any copy, after all have ended.
pub fn read_all<'a>(reads: impl IntoIterator<Item = (&'a Buffer, &'a mut [u8])>) -> Result<()> {
    let mut started = Pending(Vec::new());
    let mut failure = Ok(());
    for (buffer, dst) in reads {
        // SAFETY: every event is waited for before this returns, even during a panic, and `dst` is borrowed
        // until then.
        match unsafe { buffer.start_read_to(dst.as_mut_ptr(), dst.len()) } {
            Ok(event) => started.0.push(event),
            Err(error) => {
                failure = Err(error);
                break;
            }
        }
    }
    let ended = started.wait();
    failure.and(ended)
}

/// Copies in flight into borrowed memory.
struct Pending(Vec<Event>);

impl Pending {
    /// Waits for all and returns the first error.
    fn wait(&mut self) -> Result<()> {
        wait_all(self.0.drain(..))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Events are left only after a panic of the caller's iterator, and then there is nowhere to report an
        // error.
        let _ = self.wait();
    }
}

/// A copy to the host in flight. If it is dropped, the copy ends in the background.
#[must_use = "the copy is only of use once it is waited for"]
pub struct PendingRead {
    /// The vector has this capacity and no contents yet.
    state: Option<(Event, Vec<u8>, usize)>,
}

impl fmt::Debug for PendingRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PendingRead")
    }
}

impl PendingRead {
    /// Returns true if [`PendingRead::wait`] would return at once.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn is_ready(&self) -> Result<bool> {
        self.state.as_ref().map_or(Ok(true), |(event, ..)| event.is_ready())
    }

    /// Waits for the copy and returns the array, dense and row-major.
    ///
    /// # Errors
    /// The run that computes the array failed, or the plugin reports an error.
    pub fn wait(mut self) -> Result<Vec<u8>> {
        let (event, mut bytes, size) =
            self.state.take().expect("only `wait` and `drop` take it, and each runs once");
        event.wait()?;
        // SAFETY: the capacity is at least `size`, and the copy ended without error and wrote all bytes.
        unsafe { bytes.set_len(size) };
        Ok(bytes)
    }
}

impl Drop for PendingRead {
    fn drop(&mut self) {
        if let Some((event, bytes, _)) = self.state.take() {
            let keep = std::sync::Arc::new(bytes);
            let kept = std::sync::Arc::clone(&keep);
            if event.on_ready(move |_| drop(kept)).is_err() {
                // Without a callback, the memory must stay until the event reports the end of the copy.
                let _ = event.wait();
            }
        }
    }
}

/// Returns a row-major layout on the host. Points to `minor_to_major`.
fn row_major(minor_to_major: &[i64]) -> MemoryLayout {
    const TILED: i32 = 0;
    let head = |size| ffi::Head { struct_size: size, extension: std::ptr::null_mut() };
    MemoryLayout {
        head: head(size_of::<MemoryLayout>()),
        tiled_head: head(
            std::mem::offset_of!(MemoryLayout, kind) - std::mem::offset_of!(MemoryLayout, tiled_head),
        ),
        minor_to_major: minor_to_major.as_ptr(),
        minor_to_major_size: minor_to_major.len(),
        tile_dims: std::ptr::null(),
        tile_dim_sizes: std::ptr::null(),
        num_tiles: 0,
        kind: ffi::structs::Int { value: TILED, padding: 0 },
    }
}

fn read_error(reason: String) -> Error {
    Error::invalid("reading a buffer", reason)
}

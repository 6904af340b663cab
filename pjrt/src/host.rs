//! Arrays in host memory, and their transfer to devices.

use crate::array_type::byte_size;
use crate::buffer::Buffer;
use crate::client::Client;
use crate::device::Device;
use crate::element_type::ElementType;
use crate::error::{Error, Result};
use crate::event::{About, Event};
use crate::ffi::calls::CLIENT_BUFFER_FROM_HOST;
use crate::ffi::structs::BufferFromHost;
use crate::ffi::{Function, Padded};
use std::ops::{Deref, DerefMut};

/// The layout of an array in host memory.
#[derive(Clone, Copy, Debug)]
pub struct HostArray<'a> {
    /// The type of the elements.
    pub element_type: ElementType,
    /// Dim sizes, outermost first.
    pub dims: &'a [i64],
    /// The distance in bytes between neighbours along each dim; `None` is dense row-major. With strides, a
    /// shard of a larger array is sent without copying it first.
    pub byte_strides: Option<&'a [i64]>,
    /// The byte offset of the element with all indices 0.
    pub offset: usize,
}

impl<'a> HostArray<'a> {
    /// Creates a dense row-major array at offset 0.
    pub fn dense(element_type: ElementType, dims: &'a [i64]) -> Self {
        HostArray { element_type, dims, byte_strides: None, offset: 0 }
    }

    /// Sets strides and offset, in bytes.
    #[must_use]
    pub fn strided(self, byte_strides: &'a [i64], offset: usize) -> Self {
        HostArray { byte_strides: Some(byte_strides), offset, ..self }
    }

    /// Returns the bytes of the dense array.
    ///
    /// # Errors
    /// A dim is negative, the size overflows, or the element type has no size.
    pub fn byte_size(&self) -> Result<usize> {
        let element = self.element_type.byte_size().ok_or_else(|| {
            invalid(format!(
                "elements of {} have no fixed size on the host; use another type",
                self.element_type
            ))
        })?;
        byte_size(element, self.dims).ok_or_else(|| {
            invalid(format!(
                "an array of {} with dims {:?} has no possible size",
                self.element_type, self.dims
            ))
        })
    }

    /// Checks that every element lies within `available` bytes.
    fn check(&self, available: usize) -> Result<()> {
        let size = self.byte_size()?;
        let Some(strides) = self.byte_strides else {
            return match self.offset.checked_add(size) {
                Some(end) if end == available || (self.offset != 0 && end <= available) => Ok(()),
                Some(_) | None => Err(invalid(format!(
                    "{} with dims {:?} needs {size} bytes from byte {} on, but there are {available}",
                    self.element_type, self.dims, self.offset
                ))),
            };
        };
        if strides.len() != self.dims.len() {
            return Err(invalid(format!("there are {} strides for {} dims", strides.len(), self.dims.len())));
        }
        if size == 0 {
            return Ok(());
        }
        // The first and the last byte of any element.
        let (mut first, mut last) = (self.offset as i128, self.offset as i128);
        for (dim, stride) in self.dims.iter().zip(strides) {
            let reach = (i128::from(*dim) - 1) * i128::from(*stride);
            if reach < 0 {
                first += reach;
            } else {
                last += reach;
            }
        }
        last += self.element_type.byte_size().unwrap_or(1) as i128;
        if first < 0 || last > available as i128 {
            return Err(invalid(format!(
                "dims {:?} with strides {strides:?} from byte {} on reach from byte {first} to byte {last}, but there \
                 are {available} bytes",
                self.dims, self.offset
            )));
        }
        Ok(())
    }
}

fn invalid(reason: String) -> Error {
    Error::invalid("sending an array to a device", reason)
}

/// The time for which the plugin may use host memory that is passed to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostUse {
    /// Until the array is on the device.
    UntilTransferred,
    /// As long as the buffer lives, if host and device share memory (CPU plugins, for memory aligned like
    /// [`AlignedBytes`]); otherwise until the array is on the device. The plugin does not write to the
    /// memory, and outputs never reuse such a buffer: a run that consumes it copies it first.
    ZeroCopy,
}

/// Values of `PJRT_HostBufferSemantics` in the C API.
const ONLY_DURING_CALL: i32 = 0;
const UNTIL_TRANSFERRED: i32 = 1;
const ZERO_COPY: i32 = 2;

impl Client {
    /// Creates a buffer with a copy of `bytes`.
    ///
    /// # Errors
    /// The array does not fit the memory, the device belongs to another client, or the plugin reports an
    /// error.
    pub fn buffer_from_slice(&self, bytes: &[u8], array: &HostArray<'_>, device: &Device) -> Result<Buffer> {
        // SAFETY: the memory is borrowed during the call, and used no longer.
        let (buffer, done) = unsafe { self.send(bytes, array, device, ONLY_DURING_CALL)? };
        drop(done);
        Ok(buffer)
    }

    /// Creates a buffer from owned memory, without a copy on the host. `data` is dropped on a thread of the
    /// plugin once the plugin no longer uses it.
    ///
    /// # Errors
    /// As for [`Client::buffer_from_slice`].
    pub fn buffer_from_host<T>(
        &self,
        data: T,
        array: &HostArray<'_>,
        device: &Device,
        host_use: HostUse,
    ) -> Result<Buffer>
    where
        T: AsRef<[u8]> + Send + Sync + 'static,
    {
        // The box gives the data a stable address, even if the bytes are stored in `T` itself.
        let data = Box::new(data);
        let semantics = match host_use {
            HostUse::UntilTransferred => UNTIL_TRANSFERRED,
            HostUse::ZeroCopy => ZERO_COPY,
        };
        // SAFETY: the memory belongs to `data`, which nothing else can access and which lives until `done`.
        let (mut buffer, done) = unsafe { self.send((*data).as_ref(), array, device, semantics)? };
        buffer.borrows_host = host_use == HostUse::ZeroCopy;
        let keep = std::sync::Arc::new(data);
        let kept = std::sync::Arc::clone(&keep);
        // With zero copy, the event becomes ready with the end of the buffer, which keeps the client alive
        // anyway.
        let work = (host_use == HostUse::UntilTransferred).then(|| self.in_flight().begin());
        if let Err(error) = done.on_ready(move |_| drop((kept, work))) {
            // The callback could not be registered, so wait here. With zero copy, the plugin is done when the
            // buffer is freed.
            drop(buffer);
            // The outcome does not matter: either way the plugin is done.
            let _ = done.wait();
            return Err(error);
        }
        Ok(buffer)
    }

    /// # Safety
    /// `bytes` stays valid and unchanged as long as `semantics` requires; the returned event tells when that
    /// ends.
    unsafe fn send(
        &self,
        bytes: &[u8],
        array: &HostArray<'_>,
        device: &Device,
        semantics: i32,
    ) -> Result<(Buffer, Event)> {
        array.check(bytes.len())?;
        if device.client() != self {
            return Err(invalid(format!("{device:?} belongs to another client; use a device of this one")));
        }
        let api = self.api();
        api.require(&[Function::BufferDestroy])?;
        let mut args = Padded::<BufferFromHost>::new(|args| {
            args.client = self.as_ptr();
            args.data = bytes.as_ptr().wrapping_add(array.offset).cast();
            args.element_type.value = array.element_type.to_raw();
            args.dims = array.dims.as_ptr();
            args.num_dims = array.dims.len();
            // Null means that there are no strides; an empty array of strides aborts XLA.
            if let Some(strides) = array.byte_strides {
                args.byte_strides = strides.as_ptr();
                args.num_byte_strides = strides.len();
            }
            args.semantics.value = semantics;
            args.device = device.ptr.as_ptr();
        });
        // SAFETY: client, device and both arrays are alive during the call, `check` verified that all
        // elements are within `bytes`, and the caller guarantees that `bytes` stays valid. We own the
        // returned buffer and event.
        unsafe {
            api.call(CLIENT_BUFFER_FROM_HOST, &mut args)?;
            let function = Function::ClientBufferFromHostBuffer;
            // Take ownership of both before checking either, so that neither leaks.
            let done = Event::new(api, args.done_with_host, About::function(function));
            let buffer = Buffer::new(device, args.buffer, function);
            Ok((buffer?, done?))
        }
    }
}

/// Bytes at an address that CPU plugins can use without a copy.
pub struct AlignedBytes {
    chunks: Vec<Chunk>,
    len: usize,
}

/// The alignment that XLA requires of memory used in place.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Chunk([u8; 64]);

impl AlignedBytes {
    /// Creates `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        AlignedBytes { chunks: vec![Chunk([0; 64]); len.div_ceil(64)], len }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the chunks are arrays of bytes without padding, and `len` is within them.
        unsafe { std::slice::from_raw_parts(self.chunks.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the chunks are mutably borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.chunks.as_mut_ptr().cast(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<&[u8]> for AlignedBytes {
    fn from(bytes: &[u8]) -> Self {
        let mut aligned = AlignedBytes::zeroed(bytes.len());
        aligned.copy_from_slice(bytes);
        aligned
    }
}

#[cfg(test)]
mod tests {
    use super::{AlignedBytes, HostArray};
    use crate::ElementType::{F32, Other};

    #[track_caller]
    fn refused(array: &HostArray<'_>, available: usize, why: &str) {
        let message = array.check(available).expect_err("must be refused").to_string();
        assert!(message.contains(why), "{message}");
    }

    #[test]
    fn dense_arrays_must_fill_their_memory() {
        let array = HostArray::dense(F32, &[2, 3]);
        assert_eq!(array.byte_size().expect("a size"), 24);
        array.check(24).expect("fits");
        refused(&array, 23, "needs 24 bytes from byte 0 on, but there are 23");
        refused(&array, 25, "needs 24 bytes from byte 0 on, but there are 25");
        HostArray { offset: 8, ..array }.check(40).expect("fits behind a header");
        refused(&HostArray { offset: 8, ..array }, 31, "from byte 8 on");
        refused(&HostArray { offset: usize::MAX, ..array }, 31, "there are 31");
        HostArray::dense(F32, &[]).check(4).expect("a scalar is one element");
        HostArray::dense(F32, &[0, 7]).check(0).expect("nothing fits into nothing");
    }

    #[test]
    fn strides_must_stay_inside() {
        // Columns 1 and 2 of a 4 x 3 array.
        let array = HostArray::dense(F32, &[4, 2]).strided(&[12, 4], 4);
        array.check(48).expect("fits");
        refused(&array, 47, "to byte 48, but there are 47");
        refused(&HostArray::dense(F32, &[4, 2]).strided(&[12], 0), 48, "1 strides for 2 dims");
        HostArray::dense(F32, &[4]).strided(&[-4], 12).check(16).expect("backwards");
        refused(&HostArray::dense(F32, &[4]).strided(&[-4], 8), 16, "from byte -4");
        refused(&HostArray::dense(F32, &[i64::MAX, 1]).strided(&[i64::MAX, 1], 8), 16, "no possible size");
    }

    #[test]
    fn impossible_arrays_are_refused() {
        refused(&HostArray::dense(F32, &[-1]), 0, "no possible size");
        refused(&HostArray::dense(F32, &[1 << 40, 1 << 40]), 0, "no possible size");
        refused(&HostArray::dense(Other(14), &[1]), 8, "no fixed size");
    }

    #[test]
    fn aligned_bytes_are_aligned() {
        for len in [0, 1, 64, 65] {
            let mut bytes = AlignedBytes::zeroed(len);
            bytes.fill(7);
            assert_eq!((bytes.len(), bytes.as_ptr() as usize % 64), (len, 0));
            assert!(bytes.iter().all(|byte| *byte == 7));
        }
        assert_eq!(&*AlignedBytes::from(&b"abc"[..]), b"abc");
    }
}

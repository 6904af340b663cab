//! Hand-written declarations of the part of the PJRT C API that this crate uses.
//!
//! Facts about the layout that the declarations rely on:
//!
//! * Every argument struct begins with its size and an extension pointer ([`Head`]). Since API 0.57 structs
//!   have only grown at their end, and a plugin refuses a struct that is smaller than the one it was built
//!   with. [`Padded`] therefore appends zero words and counts them, which newer plugins read as default
//!   values.
//! * The function table begins with a header of [`TABLE_HEAD`] bytes, followed by one pointer per
//!   [`Function`].
//! * Arrays of structs (`NamedValue`) have a fixed stride and are never padded.
//!
//! Padding bytes inside structs are declared as fields, so all bytes passed to a plugin are initialized.

pub(crate) mod calls;
mod functions;
pub(crate) mod profiler;
pub(crate) mod structs;
pub(crate) mod xla_ffi;

pub use functions::Function;

use std::ffi::c_void;
use std::ops::{Deref, DerefMut};

/// Size of the table's header: struct size, extension pointer, version (size, extension pointer, major,
/// minor).
pub(crate) const TABLE_HEAD: usize = 40;
/// Offset of the extension list's head in the table.
pub(crate) const TABLE_EXTENSIONS: usize = 8;
/// Offset of the major version (an `int`) in the table.
pub(crate) const TABLE_MAJOR: usize = 32;
/// Offset of the minor version (an `int`) in the table.
pub(crate) const TABLE_MINOR: usize = 36;

/// Zero words appended to every argument struct. The structs used here grew by at most a handful of words
/// over 60 minor versions.
const TAIL_WORDS: usize = 32;

/// The type of the table's functions, except `PJRT_Error_Destroy` and `PJRT_Error_Message`, which return
/// nothing.
pub(crate) type Callee = unsafe extern "C" fn(args: *mut c_void) -> *mut Error;
/// The type of `PJRT_Error_Destroy` and `PJRT_Error_Message`.
pub(crate) type VoidCallee = unsafe extern "C" fn(args: *mut c_void);

/// Declares opaque types of the C API.
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            pub(crate) struct $name {
                _private: [u8; 0],
            }
        )*
    };
}

opaque! {
    /// An error of the plugin, freed by its receiver.
    Error,
    /// Background work that becomes ready.
    Event,
    /// A process's view of the devices.
    Client,
    /// A device of a client, owned by it.
    Device,
    /// The description of a device, owned by a device or a topology.
    DeviceDescription,
    /// A description of a machine to compile for.
    Topology,
    /// A compiled program.
    Executable,
    /// A compiled program on a client's devices.
    LoadedExecutable,
    /// An array on a device.
    Buffer,
    /// Bytes of a serialized executable, owned by the plugin.
    SerializedExecutable,
    /// Bytes of a serialized device assignment, owned by the plugin.
    SerializedAssignment,
    /// Bytes of a serialized topology, owned by the plugin.
    SerializedTopology,
}

/// The head of every argument struct.
#[repr(C)]
pub(crate) struct Head {
    /// Bytes of the struct as the caller declares it, set by [`Padded`].
    pub struct_size: usize,
    /// Always null: this crate passes no extensions.
    pub extension: *mut c_void,
}

/// An argument struct.
///
/// # Safety
/// The type is `repr(C)`, begins with a [`Head`], has no implicit padding, and is valid when all bytes are
/// zero.
pub(crate) unsafe trait Args: Sized {}

/// An argument struct followed by zero words that its size includes.
#[repr(C)]
pub(crate) struct Padded<A> {
    args: A,
    tail: [usize; TAIL_WORDS],
}

impl<A: Args> Padded<A> {
    /// Creates a struct of zeros except for the size, then calls `fill`.
    pub fn new(fill: impl FnOnce(&mut A)) -> Self {
        const {
            assert!(
                size_of::<A>().is_multiple_of(8) && align_of::<A>() == 8,
                "an argument struct has odd size"
            );
        }
        // SAFETY: `Args` guarantees that zero bytes are a valid `A`; the tail consists of integers.
        let mut padded: Self = unsafe { std::mem::zeroed() };
        // SAFETY: `Args` guarantees that `A` begins with a `Head`, and we own `padded`.
        unsafe { (*(&raw mut padded).cast::<Head>()).struct_size = size_of::<Self>() };
        fill(&mut padded.args);
        padded
    }

    /// Returns the pointer to pass to C. It covers the tail as well.
    pub fn as_ptr(&mut self) -> *mut Self {
        self
    }
}

impl<A> Deref for Padded<A> {
    type Target = A;

    fn deref(&self) -> &A {
        &self.args
    }
}

impl<A> DerefMut for Padded<A> {
    fn deref_mut(&mut self) -> &mut A {
        &mut self.args
    }
}

#[cfg(test)]
mod tests {
    use super::structs::Object;
    use super::{Client, Padded};

    #[test]
    fn the_tail_is_zero_and_counted() {
        let args = Padded::<Object<Client>>::new(|_| ());
        assert_eq!(args.head.struct_size, 24 + 32 * 8);
        assert!(args.head.extension.is_null() && args.object.is_null());
        assert_eq!(args.tail, [0; 32]);
    }
}

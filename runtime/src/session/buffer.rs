//! Shards of tensors, in the memory of a device or, for an interpreter, of the host.

use crate::{Error, HostTensor, Result};

/// A shard.
#[derive(Debug)]
pub(crate) enum Buffer {
    /// In the memory of a plugin's device.
    Device(pjrt::Buffer),
    /// A whole tensor.
    Host(HostTensor),
}

/// A copy of a shard to the host in flight.
#[derive(Debug)]
pub(crate) enum PendingRead {
    /// From a plugin's device.
    Device(pjrt::PendingRead),
    /// The bytes.
    Host(Vec<u8>),
}

impl Buffer {
    /// Starts to copy the shard to the host. `name` is that of its tensor, for errors, here and below.
    pub(crate) fn start_read(&self, name: &str) -> Result<PendingRead> {
        match self {
            Self::Device(buffer) => Ok(PendingRead::Device(buffer.start_read().map_err(reading(name))?)),
            Self::Host(tensor) => Ok(PendingRead::Host(tensor.bytes.clone())),
        }
    }

    /// Copies the shard to the host.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        self.start_read(name)?.wait(name)
    }

    /// Returns the buffer of a plugin.
    pub(super) fn on_device(&self) -> &pjrt::Buffer {
        match self {
            Self::Device(buffer) => buffer,
            Self::Host(_) => unreachable!("{MIXED}"),
        }
    }

    /// [`Buffer::on_device`], by value.
    pub(super) fn into_device(self) -> pjrt::Buffer {
        match self {
            Self::Device(buffer) => buffer,
            Self::Host(_) => unreachable!("{MIXED}"),
        }
    }

    /// Returns the tensor of an interpreter.
    pub(super) fn on_host(&self) -> &HostTensor {
        match self {
            Self::Host(tensor) => tensor,
            Self::Device(_) => unreachable!("{MIXED}"),
        }
    }
}

const MIXED: &str = "all buffers of a session are on devices of its plugin, or all are its interpreter's";

impl PendingRead {
    /// Returns true if the copy has ended.
    pub(crate) fn is_ready(&self, name: &str) -> Result<bool> {
        match self {
            Self::Device(read) => read.is_ready().map_err(reading(name)),
            Self::Host(_) => Ok(true),
        }
    }

    /// Waits for the end of the copy, and returns the bytes.
    pub(crate) fn wait(self, name: &str) -> Result<Vec<u8>> {
        match self {
            Self::Device(read) => read.wait().map_err(reading(name)),
            Self::Host(bytes) => Ok(bytes),
        }
    }
}

fn reading(name: &str) -> impl FnOnce(pjrt::Error) -> Error {
    Error::pjrt(format!("reading `{name}`"))
}

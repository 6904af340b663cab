//! Transfers of tensors between host and devices.

use super::{
    assignment::DeviceAssignment,
    buffer::{Buffer, PendingRead},
};
use crate::{
    Error, HostTensor, Result,
    shard::{self, Region},
    tensor::element_type,
};
use pjrt::{Client, Device, HostArray};
use proto::manifest::Tensor;
use std::borrow::Borrow;

/// One result of a call.
pub struct Output {
    /// Its name.
    pub name: String,
    tensor: Tensor,
    /// Each distinct region, and the transfer of it to the host.
    reads: Vec<(Region, PendingRead)>,
}

impl Output {
    /// Its type.
    pub(super) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Waits for all shards and assembles the tensor.
    pub fn wait(self) -> Result<HostTensor> {
        let dtype = element_type(&self.tensor.dtype)?;
        let element = dtype.byte_size().expect("element types of manifests have a size");
        let dims = shard::dims(&self.tensor);
        let mut bytes = vec![0; dims.iter().product::<usize>() * element];
        for (region, read) in self.reads {
            let part = read.wait(&self.name)?;
            shard::paste(&mut bytes, &dims, element, &region, &part);
        }
        Ok(HostTensor { dtype, dims, bytes })
    }
}

/// Starts to read one copy of every region of a tensor. `buffers` are its shards by local index.
pub(super) fn start_reads(
    name: &str,
    tensor: &Tensor,
    assignment: &DeviceAssignment,
    buffers: &[impl Borrow<Buffer>],
) -> Result<Output> {
    let elements = |sizes: &[usize]| sizes.iter().product::<usize>();
    let regions = assignment.regions(tensor);
    let here: usize = regions.iter().map(|(region, _)| elements(&region.sizes)).sum();
    if here < elements(&shard::dims(tensor)) {
        return Err(Error::Job(format!(
            "`{name}` cannot be read: other processes hold parts of it (of {} elements, {here} are here)",
            elements(&shard::dims(tensor))
        )));
    }
    let mut reads = Vec::new();
    for (region, holders) in regions {
        reads.push((region, buffers[holders[0]].borrow().start_read(name)?));
    }
    Ok(Output { name: name.to_owned(), tensor: tensor.clone(), reads })
}

/// Reads one copy of every region of a tensor that devices of this process hold.
pub(super) fn local_regions(
    name: &str,
    tensor: &Tensor,
    assignment: &DeviceAssignment,
    buffers: &[impl Borrow<Buffer>],
) -> Result<Vec<(Region, Vec<u8>)>> {
    let regions = assignment.regions(tensor).into_iter();
    regions.map(|(region, holders)| Ok((region, buffers[holders[0]].borrow().read(name)?))).collect()
}

/// Sends each device of this process its shard of `value`. Shards are read from the logical tensor without a
/// copy on the host.
pub(super) fn send_shards(
    client: &Client,
    assignment: &DeviceAssignment,
    tensor: &Tensor,
    value: &HostTensor,
) -> Result<Vec<Buffer>> {
    let element = value.dtype.byte_size().expect("the type was checked against the manifest");
    let strides = shard::strides(&value.dims, element);
    let byte_strides: Vec<i64> = strides.iter().map(|s| *s as i64).collect();
    let mut buffers = Vec::new();
    for (local, device) in assignment.devices().enumerate() {
        let region = assignment.region(tensor, local);
        let sizes: Vec<i64> = region.sizes.iter().map(|s| *s as i64).collect();
        let array = HostArray::dense(value.dtype, &sizes);
        let array = if region.sizes == value.dims {
            array
        } else {
            array.strided(&byte_strides, shard::offset(&region, &strides))
        };
        let buffer = client.buffer_from_slice(&value.bytes, &array, device);
        buffers.push(Buffer::Device(buffer.map_err(Error::pjrt("sending a tensor to a device"))?));
    }
    Ok(buffers)
}

/// Sends a dense tensor to one device.
pub(super) fn send(client: &Client, part: &HostTensor, device: &Device) -> Result<Buffer> {
    let sizes: Vec<i64> = part.dims.iter().map(|s| *s as i64).collect();
    let array = HostArray::dense(part.dtype, &sizes);
    let sent = client.buffer_from_slice(&part.bytes, &array, device);
    Ok(Buffer::Device(sent.map_err(Error::pjrt("sending a tensor to a device"))?))
}

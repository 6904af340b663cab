//! The assignment of devices to positions in the mesh.
//!
//! A device's *position* is its index in the mesh, row-major over the axes. Its *local index* counts only the
//! devices that this process addresses. Buffers, arguments and outputs are lists by local index, and only
//! [`DeviceAssignment`] translates a local index to a position.
//!
//! [`DeviceAssignment::of_client`] is the one place that assumes that all devices of the mesh are addressable
//! by this process. In a job of several processes a process addresses some of them, and they are not
//! neighbours in the mesh: the assignment then has to be made from explicit device ids, the same in all
//! processes, and `local` holds the devices of this process in the order of
//! `PJRT_LoadedExecutable_AddressableDevices`.

use super::ownership::{self, Part};
use crate::{
    Error, Result,
    shard::{self, Region},
};
use pjrt::{Client, Device};
use proto::manifest::{Mesh, Tensor};
use std::collections::HashMap;

/// The mesh, and the positions in it of the devices of this process.
#[derive(Clone, Debug)]
pub(crate) struct DeviceAssignment {
    mesh: Mesh,
    /// The rank of this process.
    rank: usize,
    /// By position in the mesh: the rank of the process that addresses the device.
    ranks: Vec<usize>,
    /// By local index.
    local: Vec<LocalDevice>,
}

#[derive(Clone, Debug)]
struct LocalDevice {
    position: usize,
    device: Device,
}

impl DeviceAssignment {
    /// Assigns the first addressable devices of `client` to the mesh, in their order.
    ///
    /// # Errors
    /// The client addresses fewer devices than the mesh has.
    pub(super) fn of_client(client: &Client, mesh: Mesh) -> Result<Self> {
        let mut devices = client.addressable_devices().map_err(Error::pjrt("listing devices"))?;
        let (have, want) = (devices.len(), shard::devices(&mesh));
        if have < want {
            return Err(Error::input(
                format!(
                    "the mesh has {want} devices, but `{}` offers {have}",
                    client.plugin().path().display()
                ),
                "use a smaller mesh, or more devices",
            ));
        }
        devices.truncate(want);
        let local = devices.into_iter().enumerate();
        let local = local.map(|(position, device)| LocalDevice { position, device }).collect();
        Ok(Self { mesh, rank: 0, ranks: vec![0; want], local })
    }

    /// Assigns the first addressable devices of process `rank` of `size` to the mesh: those of rank 0 come
    /// first, then those of rank 1, and so on.
    ///
    /// # Errors
    /// The processes cannot have the same number of devices, or the client addresses fewer.
    pub(super) fn of_rank(client: &Client, mesh: Mesh, (rank, size): (usize, usize)) -> Result<Self> {
        let want = shard::devices(&mesh);
        if !want.is_multiple_of(size) {
            return Err(Error::input(
                format!("the mesh has {want} devices, which {size} processes cannot share equally"),
                "use a number of processes that divides the number of devices",
            ));
        }
        let own = want / size;
        let mut devices = client.addressable_devices().map_err(Error::pjrt("listing devices"))?;
        if devices.len() < own {
            return Err(Error::input(
                format!("rank {rank} needs {own} devices, but its client offers {}", devices.len()),
                "use a smaller mesh, or more devices",
            ));
        }
        devices.truncate(own);
        let local = devices.into_iter().enumerate();
        let local = local.map(|(i, device)| LocalDevice { position: rank * own + i, device }).collect();
        let ranks = (0..want).map(|position| position / own).collect();
        Ok(Self { mesh, rank, ranks, local })
    }

    /// Returns the devices of this process, by local index.
    pub(crate) fn devices(&self) -> impl ExactSizeIterator<Item = &Device> {
        self.local.iter().map(|local| &local.device)
    }

    /// Returns the region of `tensor` that a device of this process holds.
    pub(crate) fn region(&self, tensor: &Tensor, local: usize) -> Region {
        shard::region(tensor, &self.mesh, self.local[local].position)
    }

    /// Returns the parts of the tensors that this process writes to a checkpoint: for each tensor, regions
    /// and the local index of a device that holds them. The parts of all processes together cover every
    /// tensor once.
    pub(crate) fn owned(&self, tensors: &[&Tensor]) -> Vec<Vec<(Region, usize)>> {
        let owners = ownership::owners(&self.mesh, &self.ranks, tensors);
        let local = |position: usize| self.local.iter().position(|local| local.position == position);
        let own = |parts: Vec<Part>| {
            let parts = parts.into_iter().filter(|part| part.owner == self.rank);
            let with_local = parts.filter_map(|part| {
                let local = part.positions.iter().find_map(|position| local(*position))?;
                Some((part.region, local))
            });
            with_local.collect()
        };
        owners.into_iter().map(own).collect()
    }

    /// Returns the distinct regions of `tensor` on the devices of this process, each with the local indices
    /// of the devices that hold it, in order.
    pub(crate) fn regions(&self, tensor: &Tensor) -> Vec<(Region, Vec<usize>)> {
        let mut regions: Vec<(Region, Vec<usize>)> = Vec::new();
        let mut index = HashMap::new();
        for local in 0..self.local.len() {
            let region = self.region(tensor, local);
            let i = *index.entry(region.clone()).or_insert_with(|| {
                regions.push((region, Vec::new()));
                regions.len() - 1
            });
            regions[i].1.push(local);
        }
        regions
    }
}

//! The assignment of devices to positions in the mesh.
//!
//! A device's *position* is its index in the mesh, row-major over the axes. Positions follow the ids of the
//! devices of all processes, in ascending order: TPUs number their cores and chips along the torus, slice by
//! slice, and GPUs process by process. The lists of a client are in no such order, and the devices of one
//! process are not neighbours, so nothing here depends on the place of a device in a list.
//!
//! A *local index* counts only the devices of this process, by position. Arguments and outputs of a program
//! are lists in the order of the devices of the executable; [`DeviceAssignment::order`] translates it to
//! local indices.

use super::ownership::{self, Part};
use crate::{
    Error, Result,
    shard::{self, Region},
};
use pjrt::{Client, Device, LoadedExecutable};
use proto::{
    Message,
    manifest::{Mesh, Tensor},
    xla::DeviceAssignmentProto,
};
use std::collections::HashMap;

/// The mesh, and the devices at its positions.
#[derive(Clone, Debug)]
pub(crate) struct DeviceAssignment {
    mesh: Mesh,
    /// The ids that programs are compiled for: by position, or those of this process if it compiles for its
    /// own devices only.
    ids: Vec<i64>,
    /// The number of this process. Processes of one client are numbered by the plugin's index, others by
    /// rank.
    process: usize,
    /// The number of the process that has the device at each position.
    processes: Vec<usize>,
    /// By local index.
    local: Vec<LocalDevice>,
    /// True if other processes have devices of the same client.
    is_shared: bool,
}

#[derive(Clone, Debug)]
struct LocalDevice {
    position: usize,
    /// `None` means that of an interpreter.
    device: Option<Device>,
}

/// The view that one process has of the devices, for comparison with the other processes.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Placement {
    /// The plugin's number of the process, which need not be its rank.
    pub process_index: i32,
    /// The id of the device at each position of the mesh.
    pub ids: Vec<i64>,
    /// The positions of the devices of this process.
    pub positions: Vec<usize>,
}

impl Placement {
    /// Compares the views of all processes, by rank.
    ///
    /// # Errors
    /// Two processes see different devices, or a position belongs to no process or to two.
    pub fn compare(all: &[Placement]) -> Result<()> {
        let help = "all processes must belong to one slice or job; check the variables of the environment that \
                    describe it, such as TPU_WORKER_ID and MEGASCALE_SLICE_ID";
        let Some(first) = all.first() else { return Ok(()) };
        if let Some(rank) = all.iter().position(|other| other.ids != first.ids) {
            let (here, there) = (listed(&first.ids), listed(&all[rank].ids));
            return Err(Error::input(format!("rank 0 sees devices {here}, but rank {rank} {there}"), help));
        }
        for (position, id) in first.ids.iter().enumerate() {
            let owners: Vec<String> = (0..all.len())
                .filter(|rank| all[*rank].positions.contains(&position))
                .map(|rank| format!("{rank} (process {})", all[rank].process_index))
                .collect();
            if owners.len() != 1 {
                let owners = if owners.is_empty() { "no rank".into() } else { owners.join(" and ") };
                return Err(Error::input(format!("device {id} belongs to {owners}, not to one rank"), help));
            }
        }
        Ok(())
    }
}

impl DeviceAssignment {
    /// Assigns devices to the mesh by id. If all devices of `client` belong to this process, it may have more
    /// than the mesh.
    ///
    /// # Errors
    /// There are too few devices, or several processes with more devices than the mesh.
    pub(super) fn of_client(client: &Client, mesh: Mesh) -> Result<Self> {
        let listing = || Error::pjrt("listing devices");
        let own = client.addressable_devices().map_err(listing())?;
        let all = client.devices().map_err(listing())?;
        let mut ids: Vec<i64> = all.iter().map(|device| i64::from(device.id())).collect();
        let (have, want) = (ids.len(), shard::devices(&mesh));
        let is_shared = have > own.len();
        if have < want || (is_shared && have > want) {
            let offers = if is_shared {
                format!("the processes of the job have {have}, {} of them here", own.len())
            } else {
                format!("`{}` offers {have}", client.plugin().path().display())
            };
            return Err(Error::input(
                format!("the mesh has {want} devices, but {offers}"),
                if have < want {
                    "use a smaller mesh, or more devices"
                } else {
                    "use a mesh of all devices of the job"
                },
            ));
        }
        ids.sort_unstable();
        ids.truncate(want);
        let (process, processes) = if is_shared { processes(client, &all)? } else { (0, vec![0; want]) };
        let mut local: Vec<LocalDevice> = own
            .into_iter()
            .filter_map(|device| {
                let position = ids.binary_search(&i64::from(device.id())).ok()?;
                Some(LocalDevice { position, device: Some(device) })
            })
            .collect();
        local.sort_unstable_by_key(|local| local.position);
        Ok(Self { mesh, ids, process, processes, local, is_shared })
    }

    /// Assigns the devices of process `rank` of `size`, whose client knows only its own devices: those of
    /// rank 0 come first, then those of rank 1, and so on.
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
        devices.sort_unstable_by_key(Device::id);
        devices.truncate(own);
        let ids = devices.iter().map(|device| i64::from(device.id())).collect();
        let local = devices.into_iter().enumerate();
        let local =
            local.map(|(i, device)| LocalDevice { position: rank * own + i, device: Some(device) }).collect();
        let processes = (0..want).map(|position| position / own).collect();
        Ok(Self { mesh, ids, process: rank, processes, local, is_shared: false })
    }

    /// Assigns all positions of a mesh to an interpreter, which holds whole tensors.
    pub(super) fn of_interpreter() -> Self {
        let local = vec![LocalDevice { position: 0, device: None }];
        Self { mesh: Mesh::default(), ids: vec![0], process: 0, processes: vec![0], local, is_shared: false }
    }

    /// Returns the ids that programs are compiled for.
    pub(super) fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// Returns true if other processes have devices of the same client, so that a run is a run of several
    /// processes.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Returns the number of shards that this process holds: that of its devices, or 1 for an interpreter.
    pub(crate) fn shards(&self) -> usize {
        self.local.len()
    }

    /// Returns the devices of this process, by local index; none for an interpreter.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.local.iter().filter_map(|local| local.device.as_ref())
    }

    /// Returns this process's view of the devices.
    pub(super) fn placement(&self, client: Option<&Client>) -> Result<Placement> {
        let process_index = client.map_or(Ok(0), Client::process_index);
        Ok(Placement {
            process_index: process_index.map_err(Error::pjrt("asking for the process's index"))?,
            ids: self.ids.clone(),
            positions: self.local.iter().map(|local| local.position).collect(),
        })
    }

    /// Checks that `executable` runs on the devices of the mesh in the order of the mesh, and on all devices
    /// of this process.
    ///
    /// # Errors
    /// It does not; the message has both lists of ids.
    pub(super) fn check(&self, executable: &LoadedExecutable) -> std::result::Result<(), String> {
        let assigned = executable.device_assignment().map_err(|error| error.to_string())?;
        if let Some(bytes) = assigned {
            let assigned = DeviceAssignmentProto::decode(&bytes[..])
                .map_err(|error| format!("the plugin's device assignment is no message: {error}"))?;
            // One replica of several partitions, or several replicas of one.
            let computations = assigned.computation_devices.into_iter();
            let assigned: Vec<i64> = computations.flat_map(|c| c.replica_device_ids).collect();
            if assigned != self.ids {
                return Err(format!(
                    "the plugin assigned it to devices {}, not to {}",
                    listed(&assigned),
                    listed(&self.ids)
                ));
            }
        }
        let ids = |devices: &mut dyn Iterator<Item = &Device>| -> Vec<i64> {
            devices.map(|device| i64::from(device.id())).collect()
        };
        let (mut runs, mut own) = (ids(&mut executable.devices().iter()), ids(&mut self.devices()));
        runs.sort_unstable();
        own.sort_unstable();
        if runs == own {
            return Ok(());
        }
        Err(format!("it runs on devices {} of this process, not on {}", listed(&runs), listed(&own)))
    }

    /// Returns the local index of each device of `executable`, in its own order.
    pub(super) fn order(&self, executable: &LoadedExecutable) -> Vec<usize> {
        let local = |device: &Device| {
            let found = self.local.iter().position(|local| local.device.as_ref() == Some(device));
            found.expect("executables are checked when they are made")
        };
        executable.devices().iter().map(local).collect()
    }

    /// Returns the region of `tensor` that a device of this process holds.
    pub(crate) fn region(&self, tensor: &Tensor, local: usize) -> Region {
        shard::region(tensor, &self.mesh, self.local[local].position)
    }

    /// Returns the parts of the tensors that this process writes to a checkpoint: for each tensor, regions
    /// and the local index of a device that holds them. The parts of all processes together cover every
    /// tensor once.
    pub(crate) fn owned(&self, tensors: &[&Tensor]) -> Vec<Vec<(Region, usize)>> {
        let owners = ownership::owners(&self.mesh, &self.processes, tensors);
        let local = |position: usize| self.local.iter().position(|local| local.position == position);
        let own = |parts: Vec<Part>| {
            let parts = parts.into_iter().filter(|part| part.owner == self.process);
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

/// Returns the number of this process and those of the processes that have `devices`, by ascending id of the
/// device. Processes are numbered without gaps, in the order of the plugin's indices.
fn processes(client: &Client, devices: &[Device]) -> Result<(usize, Vec<usize>)> {
    let mut indices = Vec::new();
    for device in devices {
        let description = device.description().map_err(Error::pjrt("describing a device"))?;
        indices.push((device.id(), description.process_index));
    }
    indices.sort_unstable();
    let mut known: Vec<i32> = indices.iter().map(|(_, index)| *index).collect();
    known.sort_unstable();
    known.dedup();
    let number = |index: i32| known.partition_point(|known| *known < index);
    let own = client.process_index().map_err(Error::pjrt("asking for the process's index"))?;
    Ok((number(own), indices.into_iter().map(|(_, index)| number(index)).collect()))
}

/// Returns items in the order of an executable's devices by local index. `order` is
/// [`DeviceAssignment::order`].
pub(super) fn by_local_index<T>(order: &[usize], items: Vec<T>) -> Vec<T> {
    let mut items: Vec<(usize, T)> = order.iter().copied().zip(items).collect();
    items.sort_by_key(|(local, _)| *local);
    items.into_iter().map(|(_, item)| item).collect()
}

/// Writes ids, with an ellipsis for the middle of long lists.
fn listed(ids: &[i64]) -> String {
    let text = |ids: &[i64]| ids.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
    if ids.len() <= 16 {
        text(ids)
    } else {
        format!("{},…,{} ({} devices)", text(&ids[..8]), text(&ids[ids.len() - 4..]), ids.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_belongs_to_one_rank() {
        let ids = vec![0, 1, 2, 3, 8, 9, 10, 11];
        let view = |process_index, positions: &[usize]| Placement {
            process_index,
            ids: ids.clone(),
            positions: positions.to_vec(),
        };
        let fails = |all: &[Placement], parts: &[&str]| {
            let error = Placement::compare(all).unwrap_err().to_string();
            parts.iter().for_each(|part| assert!(error.contains(part), "`{part}` is not in: {error}"));
        };
        Placement::compare(&[]).unwrap();
        // The process numbers of the plugin are not the ranks.
        let (first, second) = (view(1, &[2, 3, 4, 5]), view(0, &[0, 1, 6, 7]));
        Placement::compare(&[first.clone(), second.clone()]).unwrap();
        fails(std::slice::from_ref(&second), &["device 2 belongs to no rank"]);
        fails(
            &[first.clone(), second, view(2, &[5])],
            &["device 9 belongs to 0 (process 1) and 2 (process 2)"],
        );
        let mut other = view(0, &[0, 1, 6, 7]);
        other.ids[7] = 100_011;
        fails(&[first, other], &["rank 0 sees devices 0,1,2,3,8,9,10,11, but rank 1 0,1,2,3,8,9,10,100011"]);
    }

    #[test]
    fn items_follow_local_indices() {
        assert_eq!(by_local_index(&[2, 0, 1], vec!["c", "a", "b"]), ["a", "b", "c"]);
        assert_eq!(listed(&(0..20).collect::<Vec<_>>()), "0,1,2,3,4,5,6,7,…,16,17,18,19 (20 devices)");
    }
}

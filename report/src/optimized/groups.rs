//! The device groups of a collective, in the forms that compilers write them, and the mesh axes that they
//! span.

use compiler::cost::time::group;
use mesh::{AxisId, Mesh};
use proto::xla::{
    HloInstructionProto, IotaReplicaGroupListProto, MeshAxesReplicaGroupListProto, ReplicaGroup,
};

/// Groups of equal shape.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Groups {
    /// The number of devices in one group.
    pub size: u64,
    /// The devices of the first group, in order; empty for a permutation.
    pub first: Vec<i64>,
    /// For a permutation, pairs of sender and receiver.
    pub pairs: Vec<(i64, i64)>,
}

/// The groups of an instruction; without any, all devices are one group.
pub(super) fn of(inst: &HloInstructionProto, devices: u64) -> Groups {
    if !inst.source_target_pairs.is_empty() {
        let pairs = inst.source_target_pairs.iter().map(|p| (p.source, p.target)).collect();
        return Groups { size: 2, first: Vec::new(), pairs };
    }
    let list = inst.collective_device_list.as_ref();
    let explicit = |groups: &[ReplicaGroup]| groups.first().map(|g| g.replica_ids.clone());
    let first = (inst.mesh_axes_replica_group_list.as_ref().and_then(by_axes))
        .or_else(|| inst.iota_collective_device_list.as_ref().map(by_iota))
        .or_else(|| list.and_then(|l| l.iota_replica_group_list.as_ref()).map(by_iota))
        .or_else(|| list.and_then(|l| explicit(&l.replica_groups)))
        .or_else(|| explicit(&inst.replica_groups));
    let mut first = first.unwrap_or_else(|| (0..devices as i64).collect());
    first.sort_unstable();
    Groups { size: first.len().max(1) as u64, first, pairs: Vec::new() }
}

/// The numbers 0, 1, 2, … reshaped, transposed and sliced.
fn by_iota(list: &IotaReplicaGroupListProto) -> Vec<i64> {
    let perm: Vec<i64> = list.iota_transpose_perm.iter().map(|p| i64::from(*p)).collect();
    let order = iota(&list.iota_reshape_dims, &perm);
    order.into_iter().take(usize::try_from(list.num_devices_per_group).unwrap_or(0)).collect()
}

fn iota(dims: &[i64], perm: &[i64]) -> Vec<i64> {
    let strides: Vec<i64> = (0..dims.len()).map(|i| dims[i + 1..].iter().product()).collect();
    let perm: Vec<usize> = match perm {
        [] => (0..dims.len()).collect(),
        perm => perm.iter().filter_map(|p| usize::try_from(*p).ok()).filter(|p| *p < dims.len()).collect(),
    };
    let mut order = vec![0];
    for p in perm {
        let steps = 0..dims[p];
        order = order
            .iter()
            .flat_map(|at| steps.clone().map(move |i| (*at, i)))
            .map(|(at, i)| at + i * strides[p])
            .collect();
    }
    order
}

/// Groups along (parts of) the axes of a grid.
fn by_axes(list: &MeshAxesReplicaGroupListProto) -> Option<Vec<i64>> {
    let mesh = list.mesh.as_ref()?;
    let sizes: Vec<i64> = mesh.axes.iter().map(|a| a.size).collect();
    let devices = match (&mesh.device_ids[..], &mesh.iota_transform) {
        ([], None) => (0..sizes.iter().product()).collect(),
        ([], Some(t)) => iota(&t.reshape_dims, &t.transpose_perm),
        (ids, _) => ids.to_vec(),
    };
    let mut members = vec![0];
    for axis in &list.axes {
        let at = usize::try_from(axis.mesh_axis_index).ok().filter(|i| *i < sizes.len())?;
        let mut stride: i64 = sizes[at + 1..].iter().product();
        let mut size = sizes[at];
        if let Some(part) = &axis.sub_axis_info {
            stride *= sizes[at].checked_div(part.pre_size * part.size)?;
            size = part.size;
        }
        members = members.iter().flat_map(|m| (0..size).map(move |i| m + i * stride)).collect();
    }
    members.into_iter().map(|m| devices.get(usize::try_from(m).ok()?).copied()).collect()
}

impl Groups {
    /// Names of the axes that the groups span; if they span no mesh axes, the number of devices of a group.
    pub fn axes(&self, mesh: &Mesh) -> Vec<String> {
        let ids: Vec<AxisId> = mesh.ids().collect();
        let named = |axes: &[AxisId]| axes.iter().map(|a| mesh.name(*a).to_string()).collect();
        if !self.pairs.is_empty() {
            let inside = |d: i64| usize::try_from(d).ok().filter(|d| *d < mesh.devices());
            let differ = |axis: &&AxisId| {
                self.pairs.iter().any(|(a, b)| match (inside(*a), inside(*b)) {
                    (Some(a), Some(b)) => mesh.index_along(a, &[**axis]) != mesh.index_along(b, &[**axis]),
                    _ => false,
                })
            };
            return named(&ids.iter().filter(differ).copied().collect::<Vec<_>>());
        }
        for set in 0..1u32 << ids.len().min(16) {
            let axes: Vec<AxisId> =
                ids.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, a)| *a).collect();
            // Axes of size 1 change no group; leave them out.
            if axes.iter().any(|a| mesh.size(*a) == 1) || mesh.product(&axes) as u64 != self.size {
                continue;
            }
            let mut members: Vec<i64> = group(mesh, &axes).map(|d| d as i64).collect();
            members.sort_unstable();
            if members == self.first {
                return named(&axes);
            }
        }
        vec![format!("{} devices", self.size)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::xla::{
        AxisRefProto, CollectiveDeviceListProto, MeshProto, SourceTarget, axis_ref_proto::SubAxis,
        mesh_proto::MeshAxis,
    };

    fn axes(inst: HloInstructionProto) -> (u64, String) {
        let mesh = Mesh::parse("data=2,expert=4,model=2").unwrap();
        let groups = of(&inst, 16);
        (groups.size, groups.axes(&mesh).join("+"))
    }

    #[test]
    fn all_forms_are_read() {
        let explicit = |ids: &[i64]| HloInstructionProto {
            collective_device_list: Some(CollectiveDeviceListProto {
                replica_groups: vec![ReplicaGroup { replica_ids: ids.to_vec() }],
                iota_replica_group_list: None,
            }),
            ..Default::default()
        };
        assert_eq!(axes(explicit(&[0, 1])), (2, "model".into()));
        assert_eq!(axes(explicit(&[0, 8, 1, 9])), (4, "data+model".into()));
        assert_eq!(axes(explicit(&[0, 3])), (2, "2 devices".into()));
        assert_eq!(axes(HloInstructionProto::default()), (16, "data+expert+model".into()));
        let iota = IotaReplicaGroupListProto {
            num_replica_groups: 4,
            num_devices_per_group: 4,
            iota_reshape_dims: vec![2, 4, 2],
            iota_transpose_perm: vec![0, 2, 1],
        };
        let iota = HloInstructionProto { iota_collective_device_list: Some(iota), ..Default::default() };
        assert_eq!(axes(iota), (4, "expert".into()));
        let axis = |name: &str, size| MeshAxis { name: name.into(), size };
        let list = MeshAxesReplicaGroupListProto {
            mesh: Some(MeshProto { axes: vec![axis("a", 8), axis("b", 2)], ..Default::default() }),
            axes: vec![AxisRefProto {
                mesh_axis_index: 0,
                sub_axis_info: Some(SubAxis { pre_size: 2, size: 4 }),
            }],
        };
        let list = HloInstructionProto { mesh_axes_replica_group_list: Some(list), ..Default::default() };
        assert_eq!(axes(list), (4, "expert".into()));
        let pairs = vec![SourceTarget { source: 0, target: 8 }, SourceTarget { source: 8, target: 0 }];
        let permute = HloInstructionProto { source_target_pairs: pairs, ..Default::default() };
        assert_eq!(axes(permute), (2, "data".into()));
    }
}

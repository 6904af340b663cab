//! Shardings and replica groups.

use crate::xla::op_sharding::Type;
use crate::xla::{
    HloInstructionProto, IotaReplicaGroupListProto, MeshAxesReplicaGroupListProto, MeshProto, OpSharding,
    ReplicaGroup,
};

/// A sharding: `{manual}`, `{replicated}`, `{devices=[2,4]<=[8]}`, or a tuple of them.
pub fn sharding(sharding: &OpSharding) -> String {
    match sharding.r#type() {
        Type::Replicated => "{replicated}".to_string(),
        Type::Manual => "{manual}".to_string(),
        Type::Unknown => "{unknown}".to_string(),
        Type::Unreduced => "{unreduced}".to_string(),
        Type::Maximal => {
            let device = sharding.tile_assignment_devices.first().copied().unwrap_or_default();
            format!("{{maximal device={device}}}")
        }
        Type::Tuple => {
            let elements = sharding.tuple_shardings.iter().map(self::sharding);
            format!("{{{}}}", super::join(elements))
        }
        Type::Other => tiled(sharding),
    }
}

fn tiled(sharding: &OpSharding) -> String {
    let tiles = numbers(&sharding.tile_assignment_dimensions);
    let devices = if sharding.iota_reshape_dims.is_empty() {
        numbers(&sharding.tile_assignment_devices)
    } else {
        iota(&sharding.iota_reshape_dims, &sharding.iota_transpose_perm)
    };
    let last = if sharding.replicate_on_last_tile_dim {
        " last_tile_dim_replicate".to_string()
    } else if sharding.last_tile_dims.is_empty() {
        String::new()
    } else {
        let kinds = sharding.last_tile_dims().map(|kind| match kind {
            Type::Replicated => "replicated",
            Type::Manual => "manual",
            Type::Unreduced => "unreduced",
            Type::Maximal | Type::Tuple | Type::Other | Type::Unknown => "unknown",
        });
        format!(" last_tile_dims={{{}}}", super::join(kinds.map(str::to_string)))
    };
    format!("{{devices=[{tiles}]{devices}{last}}}")
}

/// The replica groups of a collective, in the form that the instruction has; `None` if it has none.
pub(super) fn replica_groups(instruction: &HloInstructionProto) -> Option<String> {
    if let Some(list) = &instruction.mesh_axes_replica_group_list {
        return Some(mesh_groups(list));
    }
    if let Some(list) = &instruction.iota_collective_device_list {
        return Some(iota_groups(list));
    }
    if let Some(list) = &instruction.collective_device_list {
        return Some(match &list.iota_replica_group_list {
            Some(list) => iota_groups(list),
            None => explicit(&list.replica_groups),
        });
    }
    (!instruction.replica_groups.is_empty()).then(|| explicit(&instruction.replica_groups))
}

fn iota_groups(list: &IotaReplicaGroupListProto) -> String {
    let order = iota(&list.iota_reshape_dims, &list.iota_transpose_perm);
    format!("[{},{}]{order}", list.num_replica_groups, list.num_devices_per_group)
}

/// `mesh['a'=2,'b'=4] {'a'}`: groups along axis `a` of a mesh.
fn mesh_groups(list: &MeshAxesReplicaGroupListProto) -> String {
    let no_mesh = MeshProto::default();
    let mesh = list.mesh.as_ref().unwrap_or(&no_mesh);
    let axes = mesh.axes.iter().map(|axis| format!("'{}'={}", axis.name, axis.size));
    let axes = axes.collect::<Vec<_>>().join(",");
    let order = match &mesh.iota_transform {
        Some(iota) if iota.transpose_perm.is_sorted() => {
            format!(", device_ids=([{}])", numbers(&iota.reshape_dims))
        }
        Some(iota) => {
            let (dims, transpose) = (numbers(&iota.reshape_dims), numbers(&iota.transpose_perm));
            format!(", device_ids=([{dims}]T({transpose}))")
        }
        None if mesh.device_ids.is_empty() => String::new(),
        None => format!(", device_ids=({})", numbers(&mesh.device_ids)),
    };
    let along = list.axes.iter().map(|axis| {
        let index = axis.mesh_axis_index;
        let named = usize::try_from(index).ok().and_then(|index| mesh.axes.get(index));
        let name = named.map_or_else(|| format!("axis {index}"), |axis| axis.name.clone());
        match &axis.sub_axis_info {
            Some(part) => format!("'{name}':({}){}", part.pre_size, part.size),
            None => format!("'{name}'"),
        }
    });
    format!("mesh[{axes}]{order} {{{}}}", along.collect::<Vec<_>>().join(","))
}

fn explicit(groups: &[ReplicaGroup]) -> String {
    let groups: Vec<String> = groups.iter().map(|group| super::braced(&group.replica_ids)).collect();
    format!("{{{}}}", groups.join(","))
}

/// `<=[8]`, or `<=[2,4]T(1,0)` if it is transposed.
fn iota(dims: &[i64], transpose: &[i32]) -> String {
    let identity = transpose.iter().enumerate().all(|(i, &p)| i64::from(p) == i as i64);
    let transpose: Vec<i64> = transpose.iter().map(|&p| i64::from(p)).collect();
    let transpose = if identity { String::new() } else { format!("T({})", numbers(&transpose)) };
    format!("<=[{}]{transpose}", numbers(dims))
}

fn numbers(numbers: &[i64]) -> String {
    numbers.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

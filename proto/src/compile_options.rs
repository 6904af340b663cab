//! Compile options for PJRT plugins.

use crate::xla::device_assignment_proto::ComputationDevice;
use crate::xla::{
    CompileOptionsProto, DeviceAssignmentProto, ExecutableBuildOptionsProto, OptionOverrideProto,
};
use crate::{DecodeError, Message};

/// Returns options for one SPMD program on `partitions` devices.
///
/// `device_ids` has the physical device of each partition; `None` means the plugin's default order. Every
/// other field has the plugins' default value.
pub fn single_program(partitions: usize, device_ids: Option<&[i64]>) -> CompileOptionsProto {
    let build = ExecutableBuildOptionsProto {
        // Not set. 0 would request device 0.
        device_ordinal: -1,
        num_replicas: 1,
        num_partitions: partitions as i64,
        // Plugins refuse several partitions without this. Every instruction has manual sharding, so XLA's
        // partitioner changes nothing.
        use_spmd_partitioning: partitions > 1,
        device_assignment: device_ids.map(one_replica),
        allow_spmd_sharding_propagation_to_output: vec![false],
        allow_spmd_sharding_propagation_to_parameters: vec![false],
        process_count: 1,
        ..Default::default()
    };
    CompileOptionsProto { executable_build_options: Some(build), ..Default::default() }
}

/// Assigns the partitions of one replica to devices: all other options stay.
///
/// # Errors
/// `options` is no protobuf message.
pub fn assign_devices(options: &[u8], device_ids: &[i64]) -> Result<Vec<u8>, DecodeError> {
    let mut options = CompileOptionsProto::decode(options)?;
    let build = options.executable_build_options.get_or_insert_default();
    build.device_assignment = Some(one_replica(device_ids));
    Ok(options.encode_to_vec())
}

/// Sets the compiler flag `name`. `true`, `false`, integers and decimal numbers are set as such; other values
/// are strings.
pub fn set_flag(options: &mut CompileOptionsProto, name: &str, value: &str) {
    use crate::xla::option_override_proto::Value;
    let value = if let Ok(flag) = value.parse::<bool>() {
        Value::BoolField(flag)
    } else if let Ok(number) = value.parse::<i64>() {
        Value::IntField(number)
    } else if let Ok(number) = value.parse::<f64>() {
        Value::DoubleField(number)
    } else {
        Value::StringField(value.to_string())
    };
    options.env_option_overrides.insert(name.to_string(), OptionOverrideProto { value: Some(value) });
}

fn one_replica(ids: &[i64]) -> DeviceAssignmentProto {
    DeviceAssignmentProto {
        replica_count: 1,
        computation_count: ids.len() as i32,
        computation_devices: ids
            .iter()
            .map(|&id| ComputationDevice { replica_device_ids: vec![id] })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xla::option_override_proto::Value;

    /// The default options that jaxlib 0.10.2 serializes, without debug options, which plugins fill in:
    /// fields, order and values.
    #[test]
    fn one_device_is_the_plugins_default() {
        let bytes = single_program(1, None).encode_to_vec();
        let expected = b"\x1a\x19\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x20\x01\x28\x01\x62\x01\x00\x92\x01\x01\x00\xb8\x01\x01";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn several_devices_are_one_program() {
        let build = single_program(4, Some(&[3, 2, 1, 0])).executable_build_options.unwrap();
        assert!(build.use_spmd_partitioning);
        assert_eq!(build.num_partitions, 4);
        let devices = build.device_assignment.unwrap();
        assert_eq!((devices.replica_count, devices.computation_count), (1, 4));
        assert_eq!(devices.computation_devices[0].replica_device_ids, [3]);
    }

    #[test]
    fn devices_are_assigned_without_other_changes() {
        let mut options = single_program(2, None);
        set_flag(&mut options, "a", "true");
        let assigned = assign_devices(&options.encode_to_vec(), &[9, 3]).unwrap();
        let assigned = CompileOptionsProto::decode(&assigned[..]).unwrap();
        options.executable_build_options.as_mut().unwrap().device_assignment = Some(one_replica(&[9, 3]));
        assert_eq!(assigned, options);
        assert!(assign_devices(&[0xff], &[0]).is_err());
    }

    #[test]
    fn flags_take_their_types() {
        let mut options = CompileOptionsProto::default();
        for (name, value) in [("a", "true"), ("b", "-3"), ("c", "0.5"), ("d", "auto")] {
            set_flag(&mut options, name, value);
        }
        let values: Vec<_> =
            options.env_option_overrides.values().map(|v| v.value.clone().unwrap()).collect();
        let expected = [
            Value::BoolField(true),
            Value::IntField(-3),
            Value::DoubleField(0.5),
            Value::StringField("auto".into()),
        ];
        assert_eq!(values, expected);
    }
}

//! Checks of the compile options of an artefact, before a plugin gets them.
//!
//! Compilers of plugins end the process for options that contradict each other. An artefact is data, so its
//! options must be those that our compiler writes: [`single_program`] for the devices of the mesh, with an
//! assignment of devices and flags of the compiler.

use crate::{
    Message,
    compile_options::single_program,
    xla::{CompileOptionsProto, DeviceAssignmentProto},
};
use std::collections::HashSet;

/// Words in the names of flags that make a compiler read or write files.
const FILES: [&str; 8] = ["dump", "dir", "dirs", "directory", "file", "filename", "path", "paths"];

/// Checks the serialized options of a program for `devices` devices.
///
/// # Errors
/// They are no options, have unknown fields, or differ from what our compiler writes in more than devices and
/// flags. A flag names files, or has no value.
pub fn check(bytes: &[u8], devices: usize) -> Result<(), String> {
    let options = CompileOptionsProto::decode(bytes).map_err(|e| format!("they are no options: {e}"))?;
    if options.encoded_len() != bytes.len() {
        return Err("they have fields that are unknown or occur twice".to_owned());
    }
    let build = options.executable_build_options.as_ref().ok_or("they have no build options")?;
    let found = (build.num_replicas, build.num_partitions);
    if found != (1, devices as i64) {
        return Err(format!(
            "they are for {} replicas of {} partitions, but the mesh has {devices} devices",
            found.0, found.1
        ));
    }
    if let Some(assignment) = &build.device_assignment {
        check_assignment(assignment, devices)?;
    }
    for (name, flag) in &options.env_option_overrides {
        check_flag(name)?;
        if flag.value.is_none() {
            return Err(format!("the flag `{name}` has no value"));
        }
    }
    let mut expected = single_program(devices, None);
    expected.env_option_overrides = options.env_option_overrides.clone();
    let ours = expected.executable_build_options.get_or_insert_default();
    ours.device_assignment = build.device_assignment.clone();
    if options != expected {
        return Err("they have values that the compiler does not write".to_owned());
    }
    Ok(())
}

/// Checks the name of a flag of a plugin's compiler.
///
/// # Errors
/// It is no name, or that of a flag that makes the compiler read or write files.
pub fn check_flag(name: &str) -> Result<(), String> {
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return Err(format!("`{name}` is not the name of a flag"));
    }
    if name.split('_').any(|word| FILES.contains(&word)) {
        return Err(format!(
            "the flag `{name}` names files, and artefacts cannot have it: set it in XLA_FLAGS of the process"
        ));
    }
    Ok(())
}

/// Checks that one replica is assigned to distinct devices.
fn check_assignment(assignment: &DeviceAssignmentProto, devices: usize) -> Result<(), String> {
    let of: Vec<&[i64]> = assignment.computation_devices.iter().map(|d| &d.replica_device_ids[..]).collect();
    let counts = (assignment.replica_count, assignment.computation_count);
    if counts != (1, devices as i32) || of.len() != devices {
        return Err(format!(
            "they assign {} replicas of {} partitions to {} groups of devices, but the mesh has {devices} devices",
            counts.0,
            counts.1,
            of.len()
        ));
    }
    let mut seen = HashSet::new();
    let is_device = |ids: &&[i64]| matches!(ids, [id] if i32::try_from(*id).is_ok_and(|id| id >= 0));
    if !of.iter().all(|ids| is_device(ids) && seen.insert(ids[0])) {
        return Err("they assign a partition to no device or to two, or two to one device".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compile_options::set_flag, xla::OptionOverrideProto};

    /// Checks the answer for the options of four devices, changed by `change`.
    #[track_caller]
    fn check_changed(change: impl FnOnce(&mut CompileOptionsProto), expect: &str) {
        let mut options = single_program(4, Some(&[3, 2, 1, 0]));
        change(&mut options);
        let said = check(&options.encode_to_vec(), 4).err().unwrap_or_default();
        assert!(
            said.contains(expect) && said.is_empty() == expect.is_empty(),
            "{said}\ndoes not say\n{expect}"
        );
    }

    #[test]
    fn only_devices_and_flags_differ() {
        check_changed(|_| (), "");
        check_changed(|o| set_flag(o, "xla_tpu_enable_bidirectional_rings", "true"), "");
        check_changed(|o| o.executable_build_options = None, "no build options");
        let build = |change: fn(&mut crate::xla::ExecutableBuildOptionsProto)| {
            move |o: &mut CompileOptionsProto| change(o.executable_build_options.get_or_insert_default())
        };
        check_changed(build(|b| b.device_assignment = None), "");
        check_changed(build(|b| b.num_replicas = -1), "-1 replicas of 4 partitions");
        check_changed(build(|b| b.num_partitions = i64::MAX), "1 replicas of 9223372036854775807");
        check_changed(build(|b| b.device_ordinal = 7), "values that the compiler does not write");
        check_changed(build(|b| b.optimization_level = 77), "does not write");
        check_changed(build(|b| b.device_memory_size = -5), "does not write");
        check_changed(build(|b| b.run_backend_only = true), "does not write");
        check_changed(|o| o.profile_version = 1, "does not write");
        check_changed(|o| o.serialized_multi_slice_config = vec![1], "does not write");
    }

    #[test]
    fn assignments_fit_the_mesh() {
        let change = |change: fn(&mut DeviceAssignmentProto)| {
            move |o: &mut CompileOptionsProto| {
                let build = o.executable_build_options.get_or_insert_default();
                change(build.device_assignment.get_or_insert_default());
            }
        };
        check_changed(change(|a| a.replica_count = 2), "assign 2 replicas of 4 partitions");
        check_changed(change(|a| a.computation_count = -4), "1 replicas of -4 partitions");
        check_changed(change(|a| drop(a.computation_devices.pop())), "to 3 groups");
        check_changed(change(|a| a.computation_devices[0].replica_device_ids.clear()), "to no device");
        check_changed(change(|a| a.computation_devices[0].replica_device_ids.push(9)), "or to two");
        check_changed(change(|a| a.computation_devices[0].replica_device_ids[0] = 0), "two to one device");
        check_changed(change(|a| a.computation_devices[0].replica_device_ids[0] = -1), "to no device");
        check_changed(change(|a| a.computation_devices[0].replica_device_ids[0] = 1 << 40), "to no device");
    }

    #[test]
    fn flags_name_no_files() {
        for name in ["xla_dump_to", "xla_gpu_cuda_data_dir", "xla_gpu_kernel_cache_file", "XLA_dump_hlo"] {
            check_changed(|o| set_flag(o, name, "/tmp/x"), "names files");
        }
        check_changed(|o| set_flag(o, "", "1"), "is not the name of a flag");
        check_changed(|o| set_flag(o, "a\u{1b}[0m", "1"), "is not the name of a flag");
        let none = OptionOverrideProto { value: None };
        check_changed(|o| drop(o.env_option_overrides.insert("a".into(), none)), "`a` has no value");
    }

    #[test]
    fn every_flipped_bit_is_found_or_changes_nothing_but_flags_and_devices() {
        let mut options = single_program(2, None);
        set_flag(&mut options, "xla_flag", "7");
        let bytes = options.encode_to_vec();
        check(&bytes, 2).expect("they are our own");
        let mut passed = 0;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if check(&flipped, 2).is_ok() {
                passed += 1;
                let same = CompileOptionsProto::decode(&flipped[..]).expect("it was decoded above");
                assert_eq!(same.executable_build_options, options.executable_build_options, "bit {bit}");
            }
        }
        // Other names and values of the flag.
        assert!(passed > 0);
        // A field that no version of the message has.
        assert!(check(&[&bytes[..], &[0xf8, 0x7f, 1]].concat(), 2).unwrap_err().contains("unknown"));
    }
}

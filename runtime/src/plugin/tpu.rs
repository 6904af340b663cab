//! TPUs of this machine, and the variables of the environment that libtpu reads when it is loaded.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The PCI vendor number of Google. Network cards of Google Cloud's VMs have it too.
pub const VENDOR: &str = "0x1ae0";

/// The folder in which Linux lists PCI devices.
pub const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// Flags that libtpu gets unless `LIBTPU_INIT_ARGS` has them: hosts that start different programs are noticed
/// when they start, and slices that lose each other end instead of waiting.
const FLAGS: [(&str, &str); 2] =
    [("--xla_tpu_use_enhanced_launch_barrier", "true"), ("--megascale_abort_on_hangs", "true")];

/// Returns true if this machine has a PCI device of Google. Elsewhere there is neither a TPU nor a metadata
/// server. `root` is the root of the file system.
pub fn is_google_machine(root: &Path) -> bool {
    let Ok(devices) = fs::read_dir(below(root, PCI_DEVICES)) else { return false };
    let vendor = |device: fs::DirEntry| fs::read_to_string(device.path().join("vendor")).ok();
    devices.flatten().filter_map(vendor).any(|vendor| vendor.trim() == VENDOR)
}

/// Returns false if this machine certainly has no TPU: no PCI device of Google, and no device node through
/// which libtpu could reach a chip. `root` is the root of the file system.
pub fn is_present(root: &Path) -> bool {
    let is_node = |folder: &str, prefix: &str| {
        let entries = fs::read_dir(below(root, folder)).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| {
            let number = name.strip_prefix(prefix).unwrap_or_default();
            !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        })
    };
    is_google_machine(root) || is_node("/dev", "accel") || is_node("/dev/vfio", "")
}

/// Returns the variables to set before libtpu is loaded to use a TPU, given the values of the environment.
///
/// Without a metadata server, libtpu would ask for one for minutes. It finds out everything else by itself.
pub fn variables(
    is_google_machine: bool,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Vec<(&'static str, String)> {
    if !is_google_machine {
        let skip = ("TPU_SKIP_MDS_QUERY", "1".to_owned());
        return if environment(skip.0).is_none() { vec![skip] } else { Vec::new() };
    }
    let given = environment("LIBTPU_INIT_ARGS").unwrap_or_default();
    let has = |flag: &str| given.split_whitespace().any(|word| word.split('=').next() == Some(flag));
    let missing = FLAGS.iter().filter(|(flag, _)| !has(flag)).map(|(flag, value)| format!("{flag}={value}"));
    let all: Vec<String> = given.split_whitespace().map(str::to_owned).chain(missing).collect();
    let all = all.join(" ");
    if all == given { Vec::new() } else { vec![("LIBTPU_INIT_ARGS", all)] }
}

/// Returns the absolute `path` in the file system at `root`.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tpus_are_pci_devices_or_nodes() {
        #[track_caller]
        fn check(files: &[(&str, &str)], google: bool, present: bool) {
            let root = tempfile::tempdir().unwrap();
            for (name, contents) in files {
                let path = root.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, contents).unwrap();
            }
            assert_eq!(
                (is_google_machine(root.path()), is_present(root.path())),
                (google, present),
                "{files:?}"
            );
        }
        let pci = |vendor| [("sys/bus/pci/devices/0000:00:05.0/vendor", vendor)];
        check(&[], false, false);
        check(&pci("0x8086\n"), false, false);
        check(&pci("0x1ae0\n"), true, true);
        check(&[("dev/accel0", "")], false, true);
        check(&[("dev/vfio/vfio", ""), ("dev/accelerometer", "")], false, false);
        check(&[("dev/vfio/vfio", ""), ("dev/vfio/0", "")], false, true);
    }

    #[test]
    fn the_environment_is_completed_once() {
        let with = |google: bool, given: &[(&str, &str)]| {
            let get = |name: &str| given.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
            variables(google, &get)
        };
        assert_eq!(with(false, &[]), [("TPU_SKIP_MDS_QUERY", "1".to_owned())]);
        assert_eq!(with(false, &[("TPU_SKIP_MDS_QUERY", "0")]), []);
        let both = "--xla_tpu_use_enhanced_launch_barrier=true --megascale_abort_on_hangs=true";
        assert_eq!(with(true, &[]), [("LIBTPU_INIT_ARGS", both.to_owned())]);
        assert_eq!(with(true, &[("LIBTPU_INIT_ARGS", both)]), []);
        let own = "--megascale_abort_on_hangs=false --a=b";
        let all = format!("{own} --xla_tpu_use_enhanced_launch_barrier=true");
        assert_eq!(with(true, &[("LIBTPU_INIT_ARGS", own)]), [("LIBTPU_INIT_ARGS", all)]);
    }
}

//! Measurements of steps: model FLOPs utilization and memory.

use crate::{Result, Session};
use std::fs;

/// Peak FLOPs per second of GPUs in bf16, dense, by parts of the device name that the plugin reports (such as
/// `NVIDIA H100 80GB HBM3`). The first match counts. NVIDIA's data sheets state twice these values, with
/// sparsity: A100 624, H100 PCIe 1513, H100 NVL and H200 NVL 1671, H100 SXM and H200 SXM 1979 TFLOPS.
const GPUS: [(&[&str], f64); 6] = [
    (&["H200", "NVL"], 835.5e12),
    (&["H100", "NVL"], 835.5e12),
    (&["H100", "PCIe"], 756.5e12),
    (&["H200"], 989.5e12),
    (&["H100"], 989.5e12),
    (&["A100"], 312e12),
];

/// The quantities needed to measure steps of a program on its devices.
#[derive(Debug)]
pub(super) struct Meter {
    devices: Vec<pjrt::Device>,
    /// The model FLOPs of a step divided by the peak FLOPs per second of all devices. The error says why it
    /// is unknown.
    ideal_seconds: std::result::Result<f64, String>,
}

impl Meter {
    /// Creates a meter. `peak` is the peak FLOPs per second of one device, if known.
    pub(super) fn new(session: &Session, peak: Option<f64>) -> Result<Self> {
        let devices: Vec<pjrt::Device> = session.assignment().devices().cloned().collect();
        let ideal_seconds = ideal_seconds(session, &devices, peak);
        Ok(Self { devices, ideal_seconds })
    }

    /// Returns why utilization cannot be measured. `None` if it can.
    pub(super) fn reason(&self) -> Option<&str> {
        self.ideal_seconds.as_ref().err().map(String::as_str)
    }

    /// Returns the model FLOPs utilization of a step that took `seconds`.
    pub(super) fn utilization(&self, seconds: f64) -> Option<f64> {
        self.ideal_seconds.as_ref().ok().map(|ideal| ideal / seconds.max(1e-9))
    }

    /// Returns the largest number of bytes in use on one device. `None` if the plugin does not count them.
    pub(super) fn device_memory(&self) -> Option<u64> {
        let stats = self.devices.iter().filter_map(|d| d.memory_stats().ok().flatten());
        stats.map(|s| u64::try_from(s.bytes_in_use).unwrap_or(0)).max()
    }
}

fn ideal_seconds(
    session: &Session,
    devices: &[pjrt::Device],
    peak: Option<f64>,
) -> std::result::Result<f64, String> {
    let target = &session.artefact().manifest.target;
    let about = devices.first().and_then(|d| d.description().ok()).map(|d| d.kind).unwrap_or_default();
    let peak = peak.or_else(|| of_gpu(&about).filter(|_| target == "gpu")).ok_or_else(|| {
        format!("the peak FLOPs per second of a device of target {target} ({about}) are unknown")
    })?;
    let needed = model_flops(session).ok_or("the program does not state the FLOPs of a step")?;
    Ok(needed / (peak * devices.len() as f64))
}

fn of_gpu(kind: &str) -> Option<f64> {
    GPUS.iter().find(|(parts, _)| parts.iter().all(|part| kind.contains(part))).map(|(_, peak)| *peak)
}

/// Returns the FLOPs of a step without recomputation: three times those of a forward pass, taken from
/// `eval_step`. For programs without `eval_step`, all FLOPs of `train_step`.
fn model_flops(session: &Session) -> Option<f64> {
    let manifest = &session.artefact().manifest;
    let devices = proto::manifest_check::devices(manifest).unwrap_or(1) as f64;
    let of = |name: &str| {
        let f = manifest.functions.iter().find(|f| f.name == name)?;
        f.cost.map(|cost| cost.flops_per_device as f64 * devices).filter(|flops| *flops > 0.0)
    };
    of("eval_step").map(|forward| 3.0 * forward).or_else(|| of("train_step"))
}

/// Returns the resident bytes of this process. `None` if the system is not Linux.
pub(super) fn host_memory() -> Option<u64> {
    status("VmRSS:")
}

/// Returns the largest number of resident bytes of this process so far. `None` if the system is not Linux.
pub fn peak_memory() -> Option<u64> {
    status("VmHWM:")
}

fn status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_recognized_by_name() {
        for (kind, peak) in [
            ("NVIDIA A100-SXM4-40GB", Some(312e12)),
            ("NVIDIA A100 80GB PCIe", Some(312e12)),
            ("NVIDIA H100 80GB HBM3", Some(989.5e12)),
            ("NVIDIA H100 PCIe", Some(756.5e12)),
            ("NVIDIA H100 NVL", Some(835.5e12)),
            ("NVIDIA H200", Some(989.5e12)),
            ("NVIDIA H200 NVL", Some(835.5e12)),
            ("NVIDIA GeForce RTX 3090", None),
        ] {
            assert_eq!(of_gpu(kind), peak, "{kind}");
        }
    }

    #[test]
    fn linux_reports_memory() {
        if cfg!(target_os = "linux") {
            let (now, most) = (host_memory().unwrap(), peak_memory().unwrap());
            assert!(now > 1 << 20 && most >= now / 2, "{now} {most}");
        }
    }
}

//! What steps take: memory, and what share of the chips' arithmetic they use.

use crate::{Result, Session};
use std::fs;

/// TPU generations and the most operations a second of a chip, in bf16, as their maker states them.
const CHIPS: [(&str, f64); 7] = [
    ("v2", 46e12),
    ("v3", 123e12),
    ("v4", 275e12),
    ("v5e", 197e12),
    ("v5p", 459e12),
    ("v6e", 918e12),
    ("tpu7x", 2307e12),
];
/// The same of GPUs, by a part of the name that the plugin gives; matrices without sparsity.
const GPUS: [(&str, f64); 3] = [("H200", 989e12), ("H100", 989e12), ("A100", 312e12)];

/// What it knows of the program and its devices.
#[derive(Debug)]
pub(super) struct Meter {
    devices: Vec<pjrt::Device>,
    /// Operations of a step that the model needs, by those that all devices can do in a second.
    ideal_seconds: std::result::Result<f64, String>,
}

impl Meter {
    pub(super) fn new(session: &Session) -> Result<Self> {
        let devices = session.state_devices()?;
        let ideal_seconds = ideal_seconds(session, &devices);
        Ok(Self { devices, ideal_seconds })
    }

    /// Why there is no utilization, if there is none.
    pub(super) fn reason(&self) -> Option<&str> {
        self.ideal_seconds.as_ref().err().map(String::as_str)
    }

    /// Model FLOPs utilization of a step that took so many seconds.
    pub(super) fn utilization(&self, seconds: f64) -> Option<f64> {
        self.ideal_seconds.as_ref().ok().map(|ideal| ideal / seconds.max(1e-9))
    }

    /// The most bytes that are in use on one device, where its plugin counts them.
    pub(super) fn device_memory(&self) -> Option<u64> {
        let stats = self.devices.iter().filter_map(|d| d.memory_stats().ok().flatten());
        stats.map(|s| u64::try_from(s.bytes_in_use).unwrap_or(0)).max()
    }
}

fn ideal_seconds(session: &Session, devices: &[pjrt::Device]) -> std::result::Result<f64, String> {
    let manifest = &session.artefact().manifest;
    let mut parts = manifest.target.split(':');
    let all = match (parts.next(), parts.next(), parts.next()) {
        (Some("tpu"), Some(generation), Some(shape)) => {
            let chip = CHIPS.iter().find(|(name, _)| *name == generation);
            let (_, peak) = chip.ok_or_else(|| format!("the peak of TPU {generation} is not known"))?;
            peak * shape.split('x').filter_map(|n| n.parse::<f64>().ok()).product::<f64>()
        }
        (Some("gpu"), ..) => {
            let about = devices.first().map(pjrt::Device::description).transpose();
            let about = about.map_err(|e| e.to_string())?.map(|d| d.kind).unwrap_or_default();
            let known = GPUS.iter().find(|(name, _)| about.contains(name));
            let (_, peak) = known.ok_or_else(|| format!("the peak of `{about}` is not known"))?;
            peak * devices.len() as f64
        }
        _ => return Err(format!("the peak of target {} is not known", manifest.target)),
    };
    let needed = model_flops(session).ok_or("the program does not say how many operations a step is")?;
    Ok(needed / all)
}

/// Operations of a step without what is computed a second time to save memory: three times a forward pass, which the
/// evaluation of a batch is. Programs without one: all of a step.
fn model_flops(session: &Session) -> Option<f64> {
    let manifest = &session.artefact().manifest;
    let devices = proto::manifest_check::devices(manifest).unwrap_or(1) as f64;
    let of = |name: &str| {
        let f = manifest.functions.iter().find(|f| f.name == name)?;
        f.cost.map(|cost| cost.flops_per_device as f64 * devices).filter(|flops| *flops > 0.0)
    };
    of("eval_step").map(|forward| 3.0 * forward).or_else(|| of("train_step"))
}

/// Bytes of memory that this process has now, where the system says it as Linux does.
pub(super) fn host_memory() -> Option<u64> {
    status("VmRSS:")
}

/// The most memory that this process has had, where the system says it as Linux does.
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
    fn linux_says_how_much_memory_there_is() {
        if cfg!(target_os = "linux") {
            let (now, most) = (host_memory().unwrap(), peak_memory().unwrap());
            assert!(now > 1 << 20 && most >= now / 2, "{now} {most}");
        }
    }
}

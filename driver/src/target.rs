//! Compilation targets: CPUs, GPUs, TPU slices.

use crate::failure::failure;
use anyhow::Result;
use compiler::cost::target::{Slice, generations};
use pjrt::Value;
use runtime::plugin::Platform;
use std::{fmt, str::FromStr};

/// A platform; for TPUs with the slice.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Target {
    /// CPUs, with as many virtual devices as the mesh has.
    #[default]
    Cpu,
    /// GPUs of this machine.
    Gpu,
    /// A TPU slice such as `v5e:2x4`. It need not be attached.
    Tpu(Box<Slice>),
}

impl Target {
    /// Returns the platform of the plugin.
    pub fn platform(&self) -> Platform {
        match self {
            Self::Cpu => Platform::Cpu,
            Self::Gpu => Platform::Gpu,
            Self::Tpu(_) => Platform::Tpu,
        }
    }

    /// Returns the TPU slice. `None` for other targets.
    pub fn slice(&self) -> Option<&Slice> {
        match self {
            Self::Cpu | Self::Gpu => None,
            Self::Tpu(slice) => Some(slice),
        }
    }
}

/// A target, and options of its slice.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TargetOptions {
    /// The target. `None` means the platform of the plugin.
    pub target: Option<Target>,
    /// Topology options of libtpu that the slice's name cannot express.
    pub slice_options: Vec<(String, Value)>,
}

impl TargetOptions {
    /// Returns the target with these options of its slice. Options that the name of a slice can express
    /// become part of it.
    pub fn new(mut target: Target, slice_options: &[(String, Value)]) -> Result<Self> {
        let mut others = Vec::new();
        for (key, value) in slice_options {
            let Target::Tpu(slice) = &mut target else {
                let help = "leave it out, or name a TPU slice with --target tpu:GENERATION:SHAPE";
                let what = format!("`--target-option {key}` has no effect on the target {target}");
                return Err(failure(what, help));
            };
            let wrong = |what: String| {
                failure(format!("`--target-option {key}`: {what}"), "see `meshc compile --help`")
            };
            match (key.as_str(), value) {
                ("chip_config_name", Value::Text(name)) => slice.set_config(name).map_err(wrong)?,
                ("num_slices", Value::Int(n)) if (1..=256).contains(n) => slice.slices = *n as usize,
                ("num_slices", _) => return Err(wrong("must be an integer from 1 to 256".into())),
                _ => others.push((key.clone(), value.clone())),
            }
        }
        Ok(Self { target: Some(target), slice_options: others })
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || {
            let names: Vec<String> = generations().into_iter().map(|g| g.name).collect();
            format!(
                "targets are cpu, gpu and tpu:GENERATION:SHAPE, such as tpu:v5e:2x4 or \
                 tpu:v4:8x8x8:megacore:slices=2; generations: {}",
                names.join(", ")
            )
        };
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "gpu" => Ok(Self::Gpu),
            None if text == "tpu" => Err(format!("a TPU target must name a slice: {}", known())),
            Some(("tpu", slice)) => Slice::parse(slice).map(|s| Self::Tpu(Box::new(s))),
            Some(_) | None => Err(known()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu => f.write_str("gpu"),
            Self::Tpu(slice) => write!(f, "tpu:{slice}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_round_trip_and_mistakes_say_what_there_is() {
        for text in ["cpu", "gpu", "tpu:v4:8x8x8", "tpu:tpu7x:2x2x1", "tpu:v4:8x8x8:megacore:slices=2"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "cuda", "tpu", "gpu:1"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains("tpu:v5e:2x4"), "{text}: {error}");
        }
        for text in ["tpu:v5e", "tpu:v5e:2x", "tpu:v5e:0x4"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains("shapes: 1x1, 2x2, 2x4"), "{text}: {error}");
        }
    }
}

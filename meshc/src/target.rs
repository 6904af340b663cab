//! What a program is compiled for.

use anyhow::Result;
use runtime::plugin::Platform;
use std::{fmt, str::FromStr};

/// A platform, for TPUs with the slice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Target {
    /// CPUs, as many virtual devices as the mesh has.
    #[default]
    Cpu,
    /// GPUs of this machine.
    Gpu,
    /// A TPU slice such as `v5e:2x4`, present or not.
    Tpu(String),
}

impl Target {
    /// The kind of plugin it needs.
    pub fn platform(&self) -> Platform {
        match self {
            Self::Cpu => Platform::Cpu,
            Self::Gpu => Platform::Gpu,
            Self::Tpu(_) => Platform::Tpu,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = "targets are cpu, gpu and tpu:GENERATION:SHAPE such as tpu:v5e:2x4";
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "gpu" => Ok(Self::Gpu),
            None if text == "tpu" => Err(format!("a TPU target names its slice: {known}")),
            Some(("tpu", slice)) => match slice.split_once(':') {
                Some((generation, shape)) if Self::is_slice(generation, shape) => {
                    Ok(Self::Tpu(slice.to_owned()))
                }
                Some(_) | None => Err(format!("`{slice}` is not the name of a TPU slice: {known}")),
            },
            Some(_) | None => Err(known.to_owned()),
        }
    }
}

impl Target {
    fn is_slice(generation: &str, shape: &str) -> bool {
        let word = !generation.is_empty() && generation.chars().all(|c| c.is_ascii_alphanumeric());
        word && shape.split('x').all(|n| n.parse::<u32>().is_ok_and(|n| n > 0))
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
        for text in ["cpu", "gpu", "tpu:v4:8x8x8", "tpu:tpu7x:2x2x1"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "cuda", "tpu", "tpu:v5e", "tpu:v5e:2x", "tpu:v5e:0x4", "gpu:1"] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains("tpu:v5e:2x4"), "{text}: {error}");
        }
    }
}

//! Everything that a plugin is given: client options, topology options, compiler flags, environment
//! variables.

use super::target::Target;
use crate::output::failure::failure;
use anyhow::{Context, Result};
use compiler::cost::target::{OVERLAP, Slice};
use pjrt::{ClientOptions, Value};
use runtime::plugin::Platform;
use std::path::Path;

/// The plugin and the options of its client.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PluginArgs {
    /// PJRT plugin: a shared library, or cpu, gpu or tpu. Default: the plugin of the target
    #[arg(long, value_name = "PATH|PLATFORM")]
    pub plugin: Option<String>,
    /// Option of the plugin's client, such as memory_fraction=0.8; repeatable
    #[arg(long = "client-option", value_name = "KEY=VALUE", value_parser = named_value)]
    pub given_options: Vec<(String, Value)>,
    /// Neither read nor write the cache of compiled executables
    #[arg(long)]
    pub no_executable_cache: bool,
}

/// Parses `key=value`. Numbers, `true`, `false` and lists of integers such as `2,2,1` become typed values.
pub fn named_value(text: &str) -> Result<(String, Value), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no value: write {text}=VALUE"))?;
    let ints = || value.split(',').map(|n| n.trim().parse::<i64>().ok()).collect::<Option<Vec<i64>>>();
    let value = if let Ok(flag) = value.parse::<bool>() {
        Value::Bool(flag)
    } else if let Ok(number) = value.parse::<i64>() {
        Value::Int(number)
    } else if let Some(numbers) = ints() {
        Value::Ints(numbers)
    } else if let Ok(number) = value.parse::<f32>() {
        Value::Float(number)
    } else {
        Value::Text(value.to_owned())
    };
    Ok((key.to_owned(), value))
}

impl PluginArgs {
    /// Returns the platform of the plugin that the user named. `None` if none was named, or if its file name
    /// does not tell.
    pub fn platform(&self) -> Option<Platform> {
        match self.plugin.as_deref()? {
            "cpu" => Some(Platform::Cpu),
            "gpu" => Some(Platform::Gpu),
            "tpu" => Some(Platform::Tpu),
            path => guess(Path::new(path)),
        }
    }

    /// Returns the options of a client for `devices` devices.
    pub fn client_options(&self, platform: Platform, devices: u64) -> ClientOptions {
        let mut options = ClientOptions::new();
        let given = |key: &str| self.given_options.iter().any(|(k, _)| k == key);
        // The CPU plugin creates as many devices as requested; other plugins find the hardware.
        if platform == Platform::Cpu && !given("cpu_device_count") {
            options = options.with("cpu_device_count", i64::try_from(devices).unwrap_or(i64::MAX));
        }
        for (key, value) in &self.given_options {
            options = options.with(key, value.clone());
        }
        options
    }
}

/// The target of a compilation.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TargetArgs {
    /// Target: cpu, gpu, or a TPU slice such as tpu:v5e:2x4, tpu:v4:8x8x8:megacore, tpu:v5e:4x4:slices=2
    #[arg(long, default_value = "cpu")]
    pub target: Target,
    /// Topology option of libtpu, such as wrap=true,true; repeatable
    #[arg(long = "target-option", value_name = "KEY=VALUE", value_parser = named_value)]
    pub slice_options: Vec<(String, Value)>,
}

impl TargetArgs {
    /// Moves options that the name of a slice can express into the name.
    pub fn normalized(&self) -> Result<Self> {
        let mut normalized = Self { target: self.target.clone(), slice_options: Vec::new() };
        for (key, value) in &self.slice_options {
            let Target::Tpu(slice) = &mut normalized.target else {
                let help = "leave it out, or name a TPU slice with --target tpu:GENERATION:SHAPE";
                let what = format!("`--target-option {key}` has no effect on the target {}", self.target);
                return Err(failure(what, help));
            };
            let wrong = |what: String| {
                failure(format!("`--target-option {key}`: {what}"), "see `meshc compile --help`")
            };
            match (key.as_str(), value) {
                ("chip_config_name", Value::Text(name)) => slice.set_config(name).map_err(wrong)?,
                ("num_slices", Value::Int(n)) if (1..=256).contains(n) => slice.slices = *n as usize,
                ("num_slices", _) => return Err(wrong("must be an integer from 1 to 256".into())),
                _ => normalized.slice_options.push((key.clone(), value.clone())),
            }
        }
        Ok(normalized)
    }
}

/// Returns the options with which libtpu creates the topology of a slice.
pub fn topology_options(slice: &Slice, more: &[(String, Value)]) -> Vec<(String, Value)> {
    let mut options = more.to_vec();
    if let Some(config) = &slice.mode.config {
        options.push(("chip_config_name".into(), Value::Text(config.clone())));
    }
    if slice.slices > 1 {
        options.push(("num_slices".into(), Value::Int(slice.slices as i64)));
    }
    options
}

/// Flags of the plugin's compiler.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct FlagArgs {
    /// Flag of the plugin's compiler, stored in the artefact; repeatable
    #[arg(long = "flag", value_name = "KEY=VALUE", value_parser = flag)]
    pub given: Vec<(String, String)>,
    /// TPU slices: overlap all-to-alls and all-gathers with independent computation (see the schedule key
    /// exchange_parts)
    #[arg(long)]
    pub overlap: bool,
}

impl FlagArgs {
    /// Returns all flags for `target`. Flags given by name come last and take precedence.
    pub fn of(&self, target: &Target) -> Result<Vec<(String, String)>> {
        if self.overlap && target.slice().is_none() {
            return Err(failure(
                format!("`--overlap` is an option of TPU slices, and the target is {target}"),
                "leave it out: compilers of other targets overlap without being told",
            ));
        }
        let overlap = OVERLAP.iter().filter(|_| self.overlap).map(|f| ((*f).to_owned(), "true".to_owned()));
        Ok(overlap.chain(self.given.iter().cloned()).collect())
    }

    /// Returns the options as words of a command line.
    pub fn words(&self) -> impl Iterator<Item = String> {
        let given = self.given.iter().map(|(key, value)| format!("--flag {key}={value}"));
        self.overlap.then(|| "--overlap".to_owned()).into_iter().chain(given)
    }
}

/// Parses `key=value` as text.
fn flag(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no value: write {text}=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Guesses the platform of a plugin from its file name. A plugin that was named by its path need not be one
/// for the artefact's target: HLO is the same for all.
pub fn guess(path: &Path) -> Option<Platform> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| name.contains(w));
    if has(&["cuda", "gpu", "rocm"]) {
        Some(Platform::Gpu)
    } else if has(&["tpu"]) {
        Some(Platform::Tpu)
    } else if has(&["cpu"]) {
        Some(Platform::Cpu)
    } else {
        None
    }
}

/// Restarts this process with the environment variables that plugins read when they are loaded.
///
/// XLA's log messages for its own developers are silenced. To compile for a TPU slice that is not attached,
/// libtpu must not search for a TPU or for other processes that use it. Variables that the user has set take
/// precedence. A process with threads cannot change its environment safely, so the process replaces itself;
/// call this first.
pub fn environment(target: Option<&Target>) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut wanted = vec![("TF_CPP_MIN_LOG_LEVEL", "2")];
    if let Some(Target::Tpu(_)) = target {
        wanted.extend([("TPU_SKIP_MDS_QUERY", "1"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")]);
        // Silences messages about the missing TPU, and answers questions about this host that do not affect
        // the compiled program.
        wanted.extend([("TPU_MIN_LOG_LEVEL", "3"), ("TPU_WORKER_HOSTNAMES", "localhost")]);
        wanted.push(("TPU_ACCELERATOR_TYPE", "v5litepod-8"));
    }
    wanted.retain(|(name, _)| std::env::var_os(name).is_none());
    if wanted.is_empty() {
        return Ok(());
    }
    let this = std::env::current_exe().context("finding the executable of this process")?;
    let mut again = std::process::Command::new(this);
    again.args(std::env::args_os().skip(1)).envs(wanted);
    // Returns only if it fails.
    Err(again.exec()).context("restarting with the environment variables of plugins")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_values_take_their_types() {
        let value = |text| named_value(text).unwrap().1;
        assert_eq!(value("a=1"), Value::Int(1));
        assert_eq!(value("a=0.5"), Value::Float(0.5));
        assert_eq!(value("a=true"), Value::Bool(true));
        assert_eq!(value("a=2,2,1"), Value::Ints(vec![2, 2, 1]));
        assert_eq!(value("a=megacore"), Value::Text("megacore".into()));
        assert!(named_value("a").unwrap_err().contains("a=VALUE"));
    }

    #[test]
    fn platforms_are_guessed_from_file_names() {
        let at = |name: &str| guess(Path::new(name));
        assert_eq!(at("/x/tpu/pjrt_c_api_cpu_plugin.so"), Some(Platform::Cpu));
        assert_eq!(at("xla_cuda_plugin.so"), Some(Platform::Gpu));
        assert_eq!(at("libtpu.so"), Some(Platform::Tpu));
        assert_eq!(at("plugin.so"), None);
    }

    #[test]
    fn flags_given_by_name_take_precedence() {
        let flags = |overlap, given: &[&str], target: &str| {
            let given = given.iter().map(|f| flag(f).unwrap()).collect();
            FlagArgs { given, overlap }.of(&target.parse().unwrap())
        };
        let own = format!("{}=false", OVERLAP[0]);
        let all = flags(true, &[&own], "tpu:v5e:2x4").unwrap();
        assert_eq!(all.len(), OVERLAP.len() + 1);
        assert_eq!(all.last().unwrap(), &(OVERLAP[0].to_owned(), "false".to_owned()));
        assert_eq!(flags(false, &["a=b=c"], "cpu").unwrap(), [("a".to_owned(), "b=c".to_owned())]);
        assert!(flags(true, &[], "cpu").unwrap_err().to_string().contains("--overlap"));
        assert!(flag("a").is_err());
    }
}

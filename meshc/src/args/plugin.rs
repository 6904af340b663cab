//! Everything that a plugin is told: options of its client, options of a topology, flags of its compiler, and the
//! environment it reads.

use super::target::Target;
use crate::output::failure::failure;
use anyhow::{Context, Result};
use compiler::cost::target::{OVERLAP, Slice};
use pjrt::{ClientOptions, Value};
use runtime::plugin::Platform;
use std::path::Path;

/// Which plugin, and with which options.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PluginArgs {
    /// The PJRT plugin: a shared library, or cpu, gpu or tpu. Default: the one for the artefact's target
    #[arg(long, value_name = "PATH|PLATFORM")]
    pub plugin: Option<String>,
    /// An option for the plugin's client, such as memory_fraction=0.8; may be given several times
    #[arg(long = "client-option", value_name = "KEY=VALUE", value_parser = named_value)]
    pub given_options: Vec<(String, Value)>,
    /// Compile, even if the same was compiled before, and keep nothing of it
    #[arg(long)]
    pub no_executable_cache: bool,
}

/// Reads `key=value`. Numbers, `true` and `false`, and lists of numbers such as `2,2,1` take their types.
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
    /// What the plugin is for that the user named, as far as its name says.
    pub fn platform(&self) -> Option<Platform> {
        match self.plugin.as_deref()? {
            "cpu" => Some(Platform::Cpu),
            "gpu" => Some(Platform::Gpu),
            "tpu" => Some(Platform::Tpu),
            path => guess(Path::new(path)),
        }
    }

    /// What a client for `devices` devices gets.
    pub fn client_options(&self, platform: Platform, devices: u64) -> ClientOptions {
        let mut options = ClientOptions::new();
        let given = |key: &str| self.given_options.iter().any(|(k, _)| k == key);
        // The CPU plugin has as many devices as it is asked for; the others have what there is.
        if platform == Platform::Cpu && !given("cpu_device_count") {
            options = options.with("cpu_device_count", i64::try_from(devices).unwrap_or(i64::MAX));
        }
        for (key, value) in &self.given_options {
            options = options.with(key, value.clone());
        }
        options
    }
}

/// What a program is compiled for, apart from its mesh.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TargetArgs {
    /// cpu, gpu or a TPU slice such as tpu:v5e:2x4, tpu:v4:8x8x8:megacore or tpu:v5e:4x4:slices=2
    #[arg(long, default_value = "cpu")]
    pub target: Target,
    /// An option of libtpu's for the topology of a slice, such as wrap=true,true; may be given several times
    #[arg(long = "target-option", value_name = "KEY=VALUE", value_parser = named_value)]
    pub slice_options: Vec<(String, Value)>,
}

impl TargetArgs {
    /// The same with options that the name of the slice can say in its name.
    pub fn settled(&self) -> Result<Self> {
        let mut settled = Self { target: self.target.clone(), slice_options: Vec::new() };
        for (key, value) in &self.slice_options {
            let Target::Tpu(slice) = &mut settled.target else {
                let help = "leave --target-option out, or name a slice with --target tpu:GENERATION:SHAPE";
                return Err(failure(format!("{} has no options", self.target), help));
            };
            let wrong =
                |what: String| failure(format!("--target-option {key}: {what}"), "see `meshc help compile`");
            match (key.as_str(), value) {
                ("chip_config_name", Value::Text(name)) => slice.set_config(name).map_err(wrong)?,
                ("num_slices", Value::Int(n)) if (1..=256).contains(n) => slice.slices = *n as usize,
                ("num_slices", _) => return Err(wrong("it is a number from 1 to 256".into())),
                _ => settled.slice_options.push((key.clone(), value.clone())),
            }
        }
        Ok(settled)
    }
}

/// What libtpu is told about the topology of a slice.
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

/// Those that a command takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct FlagArgs {
    /// A flag for the plugin's compiler, stored in the artefact; may be given several times
    #[arg(long = "flag", value_name = "KEY=VALUE", value_parser = flag)]
    pub given: Vec<(String, String)>,
    /// On a TPU slice: exchanges and gathers run beside work that does not need them (see `exchange_parts`)
    #[arg(long)]
    pub overlap: bool,
}

impl FlagArgs {
    /// All of them for `target`; what is given by name comes last and holds.
    pub fn of(&self, target: &Target) -> Result<Vec<(String, String)>> {
        if self.overlap && target.slice().is_none() {
            return Err(failure(
                format!("--overlap is for TPU slices, and the target is {target}"),
                "leave it out: other compilers overlap what they can without being told",
            ));
        }
        let overlap = OVERLAP.iter().filter(|_| self.overlap).map(|f| ((*f).to_owned(), "true".to_owned()));
        Ok(overlap.chain(self.given.iter().cloned()).collect())
    }

    /// As they are written on the command line.
    pub fn words(&self) -> impl Iterator<Item = String> {
        let given = self.given.iter().map(|(key, value)| format!("--flag {key}={value}"));
        self.overlap.then(|| "--overlap".to_owned()).into_iter().chain(given)
    }
}

/// Reads `key=value`, both text.
fn flag(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no value: write {text}=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What the plugin in this file is for, as its name says: one that was named by path need not be for the artefact's
/// target, since HLO is the same for all.
pub fn guess(path: &Path) -> Option<Platform> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| name.contains(w));
    match () {
        () if has(&["cuda", "gpu", "rocm"]) => Some(Platform::Gpu),
        () if has(&["tpu"]) => Some(Platform::Tpu),
        () if has(&["cpu"]) => Some(Platform::Cpu),
        () => None,
    }
}

/// Plugins read the environment when they are loaded. XLA's notes for its own developers are not for our users; and
/// libtpu, to compile for a slice that is not here, must be told not to look for a TPU, nor for other processes that
/// use it. What the user has set holds. A process with threads cannot safely change its environment, so this one begins
/// again with it; call this first.
pub fn environment(target: Option<&Target>) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut wanted = vec![("TF_CPP_MIN_LOG_LEVEL", "2")];
    if let Some(Target::Tpu(_)) = target {
        wanted.extend([("TPU_SKIP_MDS_QUERY", "1"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")]);
        // What it would say about the TPU that is not here. Answers to its questions about this host change nothing in
        // what it compiles.
        wanted.extend([("TPU_MIN_LOG_LEVEL", "3"), ("TPU_WORKER_HOSTNAMES", "localhost")]);
        wanted.push(("TPU_ACCELERATOR_TYPE", "v5litepod-8"));
    }
    wanted.retain(|(name, _)| std::env::var_os(name).is_none());
    if wanted.is_empty() {
        return Ok(());
    }
    let this = std::env::current_exe().context("finding this program")?;
    let mut again = std::process::Command::new(this);
    again.args(std::env::args_os().skip(1)).envs(wanted);
    // Returns only if it fails.
    Err(again.exec()).context("starting again with the environment that plugins want")
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
    fn a_plugin_says_in_its_name_what_it_is_for() {
        let at = |name: &str| guess(Path::new(name));
        assert_eq!(at("/x/tpu/pjrt_c_api_cpu_plugin.so"), Some(Platform::Cpu));
        assert_eq!(at("xla_cuda_plugin.so"), Some(Platform::Gpu));
        assert_eq!(at("libtpu.so"), Some(Platform::Tpu));
        assert_eq!(at("plugin.so"), None);
    }

    #[test]
    fn what_is_given_by_name_holds() {
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

//! Everything that a plugin is given: client options, topology options, compiler flags, environment
//! variables.

use anyhow::{Context, Result};
use driver::{
    plugin::{Flags, PluginOptions},
    target::{Target, TargetOptions},
};
use pjrt::Value;
use runtime::plugin::tpu;
use std::path::Path;

/// The plugin and the options of its client.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PluginArgs {
    /// PJRT plugin: a shared library, or cpu, gpu or tpu; `interpreter` with `meshc run` and `meshc train`
    /// needs none, for tiny programs. Default: the plugin of the target
    #[arg(long, value_name = "PATH|PLATFORM")]
    plugin: Option<String>,
    /// Option of the plugin's client, such as memory_fraction=0.8; repeatable
    #[arg(long = "client-option", value_name = "KEY=VALUE", value_parser = named_value)]
    given_options: Vec<(String, Value)>,
    /// Neither read nor write the cache of compiled executables
    #[arg(long)]
    no_executable_cache: bool,
}

impl PluginArgs {
    /// Returns the plugin and its options.
    pub fn options(&self) -> PluginOptions {
        let Self { plugin, given_options, no_executable_cache } = self.clone();
        PluginOptions { plugin, client_options: given_options, no_executable_cache }
    }
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

/// The target of a compilation.
#[derive(clap::Args, Clone, Debug)]
pub struct TargetArgs {
    /// Target: cpu, gpu, or a TPU slice such as tpu:v5e:2x4, tpu:v4:8x8x8:megacore, tpu:v5e:4x4:slices=2
    #[arg(long, default_value = "cpu")]
    pub target: Target,
    /// Topology option of libtpu, such as wrap=true,true; repeatable
    #[arg(long = "target-option", value_name = "KEY=VALUE", value_parser = named_value)]
    slice_options: Vec<(String, Value)>,
}

impl TargetArgs {
    /// Returns the target. Options that the name of a slice can express are part of it.
    pub fn options(&self) -> Result<TargetOptions> {
        TargetOptions::new(self.target.clone(), &self.slice_options)
    }
}

/// Flags of the plugin's compiler.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct FlagArgs {
    /// Flag of the plugin's compiler, stored in the artefact; repeatable
    #[arg(long = "flag", value_name = "KEY=VALUE", value_parser = flag)]
    given: Vec<(String, String)>,
    /// TPU slices: overlap all-to-alls and all-gathers with independent computation (see the schedule key
    /// exchange_parts)
    #[arg(long)]
    overlap: bool,
}

impl FlagArgs {
    /// Returns the flags.
    pub fn options(&self) -> Flags {
        let Self { given, overlap } = self.clone();
        Flags { given, overlap }
    }
}

/// Parses `key=value` as text.
fn flag(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no value: write {text}=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Restarts this process with the environment variables that plugins read when they are loaded.
///
/// XLA's log messages for its own developers are silenced. To compile for a TPU slice that is not attached,
/// libtpu must not search for a TPU or for other processes that use it. Variables that the user has set take
/// precedence. A process with threads cannot change its environment safely, so the process replaces itself;
/// call this first.
pub fn environment(target: Option<&Target>) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut absent = vec![("TF_CPP_MIN_LOG_LEVEL", "2")];
    let mut wanted: Vec<(&str, String)> = Vec::new();
    if let Some(Target::Tpu(_)) = target {
        absent.extend([("TPU_SKIP_MDS_QUERY", "1"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")]);
        // Silences messages about the missing TPU, and answers questions about this host that do not affect
        // the compiled program.
        absent.extend([("TPU_MIN_LOG_LEVEL", "3"), ("TPU_WORKER_HOSTNAMES", "localhost")]);
        absent.push(("TPU_ACCELERATOR_TYPE", "v5litepod-8"));
    } else {
        wanted = tpu::variables(tpu::is_google_machine(Path::new("/")), &|name| std::env::var(name).ok());
    }
    absent.retain(|(name, _)| std::env::var_os(name).is_none());
    wanted.extend(absent.into_iter().map(|(name, value)| (name, value.to_owned())));
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
        assert!(flag("a").is_err());
        assert_eq!(flag("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
    }
}

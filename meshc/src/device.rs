//! Plugins and clients for a command.

use crate::{model::cache, target::Target};
use anyhow::{Context, Result};
use pjrt::{ClientOptions, Plugin, Value};
use runtime::{
    Artefact, Executables, Session,
    plugin::{self, Found, Platform, Surroundings, find},
};
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

/// A plugin that is loaded, and what it is for.
#[derive(Debug)]
pub struct Chosen {
    /// The plugin.
    pub plugin: Plugin,
    /// What its client takes as options.
    pub platform: Platform,
    /// Where it came from.
    pub found: Found,
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

    /// The plugin to use for `platform`, if the user names no other.
    pub fn load(&self, platform: Platform) -> Result<Chosen> {
        let around = Surroundings::of_process()?;
        let named = self.plugin.as_deref();
        let explicit = named.filter(|name| !["cpu", "gpu", "tpu"].contains(name)).map(Path::new);
        let wanted = self.platform().unwrap_or(platform);
        let found = find(wanted, explicit, &around, &mut |line| eprintln!("{line}"))?;
        let platform = guess(&found.path).unwrap_or(wanted);
        let plugin = plugin::load(&found.path, platform)?;
        Ok(Chosen { plugin, platform, found })
    }

    /// A session for `artefact` on the plugin of its target.
    pub fn session(&self, artefact: Artefact) -> Result<Session> {
        let platform = Platform::of_target(&artefact.manifest.target)?;
        let chosen = self.load(platform)?;
        let devices = proto::manifest_check::devices(&artefact.manifest).unwrap_or(1);
        let options = self.client_options(chosen.platform, devices);
        let mut session = Session::open(&chosen.plugin, artefact, options)?;
        if !self.no_executable_cache {
            session.keep_executables(Executables::in_cache(&cache()?));
        }
        Ok(session)
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

/// What the plugin in this file is for, as its name says: one that was named by path need not be for the artefact's
/// target, since HLO is the same for all.
fn guess(path: &Path) -> Option<Platform> {
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
}

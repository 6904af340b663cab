//! The plugin, the options of its client, and the flags of its compiler.

use crate::{failure::failure, target::Target};
use anyhow::Result;
use compiler::cost::target::OVERLAP;
use pjrt::{ClientOptions, Value};
use runtime::plugin::Platform;
use std::path::Path;

/// The name of the reference interpreter, which runs programs without a plugin.
pub const INTERPRETER: &str = "interpreter";

/// The plugin and the options of its client.
#[derive(Clone, Debug, Default)]
pub struct PluginOptions {
    /// A shared library, or `cpu`, `gpu` or `tpu`, or [`INTERPRETER`]. `None` means the plugin of the target.
    pub plugin: Option<String>,
    /// Options of the client.
    pub client_options: Vec<(String, Value)>,
    /// True if the cache of compiled executables is neither read nor written.
    pub no_executable_cache: bool,
}

impl PluginOptions {
    /// Returns true if the reference interpreter takes the place of a plugin.
    pub fn is_interpreter(&self) -> bool {
        self.plugin.as_deref() == Some(INTERPRETER)
    }

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
        let given = |key: &str| self.client_options.iter().any(|(k, _)| k == key);
        // The CPU plugin creates as many devices as requested; other plugins find the hardware.
        if platform == Platform::Cpu && !given("cpu_device_count") {
            options = options.with("cpu_device_count", i64::try_from(devices).unwrap_or(i64::MAX));
        }
        for (key, value) in &self.client_options {
            options = options.with(key, value.clone());
        }
        options
    }
}

/// Flags of the plugin's compiler.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// Flags by name.
    pub given: Vec<(String, String)>,
    /// True if all-to-alls and all-gathers of TPU slices are overlapped with independent computation.
    pub overlap: bool,
}

impl Flags {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let flags = |overlap, given: &[(&str, &str)], target: &str| {
            let given = given
                .iter()
                .map(|(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            Flags { given, overlap }.of(&target.parse().unwrap())
        };
        let all = flags(true, &[(OVERLAP[0], "false")], "tpu:v5e:2x4").unwrap();
        assert_eq!(all.len(), OVERLAP.len() + 1);
        assert_eq!(all.last().unwrap(), &(OVERLAP[0].to_owned(), "false".to_owned()));
        assert_eq!(flags(false, &[("a", "b=c")], "cpu").unwrap(), [("a".to_owned(), "b=c".to_owned())]);
        assert!(flags(true, &[], "cpu").unwrap_err().to_string().contains("--overlap"));
    }
}

//! The properties of a plugin, for `meshc plugin doctor`.

use pjrt::{Client, ClientOptions, Plugin};
use std::path::Path;

/// The result of examining a plugin.
#[derive(Clone, Debug, Default)]
pub struct Examination {
    /// The version of its API.
    pub version: Option<String>,
    /// Functions of the API that it lacks.
    pub missing: Vec<String>,
    /// Platform name and version.
    pub platform: Option<String>,
    /// Number of devices.
    pub devices: Option<usize>,
    /// Errors, in the order in which they occurred.
    pub problems: Vec<String>,
}

impl Examination {
    /// Returns true if programs can run on the plugin.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Loads the plugin at `path` and creates a client with `options`. Errors are part of the result.
pub fn examine(path: &Path, options: &ClientOptions) -> Examination {
    let mut seen = Examination::default();
    let plugin = match Plugin::load(path) {
        Ok(plugin) => plugin,
        Err(error) => {
            seen.problems.push(error.to_string());
            return seen;
        }
    };
    seen.version = Some(plugin.version().to_string());
    seen.missing = plugin.missing_functions().iter().map(|f| format!("{f:?}")).collect();
    let client = match Client::create(&plugin, options) {
        Ok(client) => client,
        Err(error) => {
            seen.problems.push(error.to_string());
            return seen;
        }
    };
    match (client.platform_name(), client.platform_version()) {
        (Ok(name), Ok(version)) => seen.platform = Some(format!("{name}, {version}")),
        (Err(error), _) | (_, Err(error)) => seen.problems.push(error.to_string()),
    }
    match client.addressable_devices() {
        Ok(devices) => seen.devices = Some(devices.len()),
        Err(error) => seen.problems.push(error.to_string()),
    }
    seen
}

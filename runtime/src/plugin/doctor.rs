//! What a plugin is and can do, for `meshc plugin doctor`.

use pjrt::{Client, ClientOptions, Plugin};
use std::path::Path;

/// What was learnt about one plugin.
#[derive(Clone, Debug, Default)]
pub struct Examination {
    /// The API version it speaks.
    pub version: Option<String>,
    /// Functions of the API that it lacks.
    pub missing: Vec<String>,
    /// Platform name and version that its client reports.
    pub platform: Option<String>,
    /// How many devices its client has.
    pub devices: Option<usize>,
    /// What went wrong, first things first.
    pub problems: Vec<String>,
}

impl Examination {
    /// Whether programs can run on it.
    pub fn is_healthy(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Loads the plugin at `path`, and makes a client with `options`.
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

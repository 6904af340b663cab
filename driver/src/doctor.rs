//! Examination of plugins.

use crate::plugin::guess;
use anyhow::{Context, Result};
use pjrt::ClientOptions;
use runtime::plugin::{Examination, Platform, PluginFile, SearchPaths, examine, known_faults, list, tpu};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Returns all plugins that are found, in order of preference.
///
/// # Errors
/// The folders to search are unknown.
pub fn found() -> Result<Vec<(Platform, PluginFile)>> {
    let around = SearchPaths::from_environment()?;
    let mut all: Vec<(Platform, PluginFile)> = Vec::new();
    for platform in Platform::ALL {
        for found in list(platform, None, &around)? {
            // MESH_PJRT_PLUGIN is listed for every platform.
            if !all.iter().any(|(_, f)| f.path == found.path) {
                all.push((platform, found));
            }
        }
    }
    Ok(all)
}

/// The result of an examination.
#[derive(Serialize, Deserialize, Debug, Default)]
pub struct Examined {
    /// The shared library.
    pub path: PathBuf,
    /// The version of its API. `None` means that it was not found out, here and below.
    pub version: Option<String>,
    /// The functions of the API that it lacks.
    pub missing: Vec<String>,
    /// The name of its platform.
    pub platform: Option<String>,
    /// The number of its devices.
    pub devices: Option<usize>,
    /// The reasons why no program can run on it.
    pub problems: Vec<String>,
    /// Wrong results that are publicly reported for this version.
    pub faults: Vec<String>,
}

impl Examined {
    fn new(path: &Path, e: Examination) -> Self {
        let Examination { version, missing, platform, devices, mut problems } = e;
        let is_tpu = version.is_some() && guess(path) == Some(Platform::Tpu);
        if is_tpu && !problems.is_empty() && !tpu::is_present(Path::new("/")) {
            let only = "this machine has no TPU: it compiles programs ahead of time (`meshc compile --target \
                        tpu:v5e:2x4`, `meshc plan`), and runs none";
            problems.insert(0, only.to_owned());
        }
        let faults = known_faults(path);
        Self { path: path.to_owned(), version, missing, platform, devices, problems, faults }
    }

    fn problem(path: &Path, problem: String) -> Self {
        Self { path: path.to_owned(), problems: vec![problem], ..Self::default() }
    }
}

/// Examines a plugin in this process, which a broken plugin may end.
pub fn examine_here(path: &Path) -> Examined {
    Examined::new(path, examine(path, &ClientOptions::new()))
}

/// Examines a plugin in another process of this executable, by its command `plugin doctor --here`: a broken
/// plugin may crash the process, and a plugin that searches for missing hardware may take long.
///
/// # Errors
/// The process cannot be started.
pub fn examine_apart(path: &Path) -> Result<Examined> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let this = std::env::current_exe().context("finding the executable of this process")?;
    let mut child = Command::new(this)
        .args(["plugin", "doctor", "--here"])
        .arg(path)
        .envs(tpu::variables(tpu::is_google_machine(Path::new("/")), &|name| std::env::var(name).ok()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting a process to examine a plugin")?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            let patience = PATIENCE.as_secs();
            return Ok(Examined::problem(path, format!("it did not create a client within {patience} s")));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = child.wait_with_output()?;
    Ok(serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| Examined::problem(path, format!("it ended its process: {status}"))))
}

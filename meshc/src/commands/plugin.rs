//! `meshc plugin`: lists, installs and diagnoses plugins.

use crate::output::stream::{out, outln};
use anyhow::{Context, Result};
use driver::failure::failure;
use pjrt::ClientOptions;
use report::table::table;
use runtime::plugin::{
    CPU, Examination, Platform, PluginFile, SearchPaths, examine, install, known_faults, list, tpu,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the plugins that are found, in order of preference
    List {
        /// Print a list of {"platform", "path", "source"}
        #[arg(long)]
        json: bool,
    },
    /// Install a plugin into the cache
    Install {
        /// Platform of the plugin
        #[arg(default_value = "cpu")]
        platform: String,
        /// Print {"platform", "path"}
        #[arg(long)]
        json: bool,
    },
    /// Load plugins and report their version, devices and problems
    Doctor {
        /// Shared libraries to examine. Default: all that are found
        paths: Vec<PathBuf>,
        /// Print a list of {"path", "version", "missing", "platform", "devices", "problems", "faults"}
        #[arg(long)]
        json: bool,
        /// Examine in this process, which a broken plugin may end
        #[arg(long, hide = true)]
        here: bool,
    },
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    match &args.action {
        Action::List { json } => show(*json),
        Action::Install { platform, json } => fetch(platform, *json),
        Action::Doctor { paths, here: true, .. } => {
            let path = paths.first().context("--here takes one path")?;
            outln!("{}", serde_json::to_string(&Seen::new(path, examine(path, &ClientOptions::new())))?);
            Ok(())
        }
        Action::Doctor { paths, json, here: false } => doctor(paths, *json),
    }
}

fn found() -> Result<Vec<(Platform, PluginFile)>> {
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

fn show(as_json: bool) -> Result<()> {
    let found = found()?;
    if as_json {
        let entry = |(platform, f): &(Platform, PluginFile)| json!({"platform": platform.to_string(), "path": f.path, "source": f.source});
        outln!("{:#}", found.iter().map(entry).collect::<serde_json::Value>());
        return Ok(());
    }
    if found.is_empty() {
        outln!("no plugins found; `meshc plugin install cpu` installs one for the CPU");
        return Ok(());
    }
    let row = |(platform, f): &(Platform, PluginFile)| {
        vec![platform.to_string(), f.source.clone(), f.path.display().to_string()]
    };
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    let mut text = String::new();
    table(&mut text, &["platform", "found by", "path"], "<<<", &rows)?;
    out!("{text}");
    Ok(())
}

fn fetch(platform: &str, as_json: bool) -> Result<()> {
    let help = match platform {
        "cpu" => {
            let path = install(&CPU, &SearchPaths::from_environment()?.cache)?;
            if as_json {
                outln!("{:#}", json!({"platform": platform, "path": path}))
            } else {
                outln!("{} {} is in {}", CPU.package, CPU.version, path.display())
            }
            return Ok(());
        }
        "gpu" => {
            "install it with `pip install \"jax-cuda13-plugin[with-cuda]\"` for your driver; meshc finds it there"
        }
        "tpu" => "install it with `pip install libtpu`; meshc finds it there",
        _ => "platforms are cpu, gpu and tpu; meshc installs only the CPU plugin",
    };
    Err(failure(format!("meshc cannot install a plugin for `{platform}`"), help))
}

/// The result of an examination, as printed.
#[derive(Serialize, Deserialize, Debug, Default)]
struct Seen {
    path: PathBuf,
    version: Option<String>,
    missing: Vec<String>,
    platform: Option<String>,
    devices: Option<usize>,
    problems: Vec<String>,
    /// Wrong results that are publicly reported for this version.
    faults: Vec<String>,
}

impl Seen {
    fn new(path: &Path, e: Examination) -> Self {
        let Examination { version, missing, platform, devices, problems } = e;
        let faults = known_faults(path);
        Self { path: path.to_owned(), version, missing, platform, devices, problems, faults }
    }

    fn problem(path: &Path, problem: String) -> Self {
        Self { path: path.to_owned(), problems: vec![problem], ..Self::default() }
    }
}

fn doctor(paths: &[PathBuf], as_json: bool) -> Result<()> {
    let paths = match paths {
        [] => found()?.into_iter().map(|(_, f)| f.path).collect(),
        paths => paths.to_vec(),
    };
    let seen = paths.iter().map(|p| examined(p)).collect::<Result<Vec<Seen>>>()?;
    if as_json {
        outln!("{}", serde_json::to_string_pretty(&seen)?);
    } else {
        seen.iter().for_each(tell);
    }
    let broken: Vec<String> =
        seen.iter().filter(|s| !s.problems.is_empty()).map(|s| s.path.display().to_string()).collect();
    if paths.is_empty() {
        return Err(failure("no plugins found", "`meshc plugin install cpu` installs one for the CPU"));
    }
    if !broken.is_empty() {
        return Err(failure(
            format!("no program can run on {}", broken.join(", ")),
            "see the problems above; --plugin and MESH_PJRT_PLUGIN select another plugin",
        ));
    }
    Ok(())
}

fn tell(seen: &Seen) {
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    outln!("{}", seen.path.display());
    outln!("  API       {}", or(&seen.version));
    outln!("  platform  {}", or(&seen.platform));
    outln!("  devices   {}", or(&seen.devices.map(|n| n.to_string())));
    if !seen.missing.is_empty() {
        outln!("  lacks     {}", seen.missing.join(", "));
    }
    seen.problems
        .iter()
        .for_each(|problem| outln!("  problem   {}", problem.replace('\n', "\n            ")));
    seen.faults.iter().for_each(|fault| outln!("  warning   {fault}"));
}

/// Examines a plugin in a separate process: a broken plugin may crash the process, and a plugin that searches
/// for missing hardware may take long.
fn examined(path: &Path) -> Result<Seen> {
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
            return Ok(Seen::problem(path, format!("it did not create a client within {patience} s")));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = child.wait_with_output()?;
    Ok(serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| Seen::problem(path, format!("it ended its process: {status}"))))
}

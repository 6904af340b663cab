//! `meshc plugin`: lists, installs and diagnoses plugins.

use crate::output::stream::{out, outln};
use anyhow::{Context, Result};
use driver::{
    doctor::{Examined, examine_apart, examine_here, found},
    failure::failure,
};
use report::table::table;
use runtime::plugin::{CPU, Platform, PluginFile, SearchPaths, install};
use serde_json::json;
use std::path::PathBuf;

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
            outln!("{}", serde_json::to_string(&examine_here(path))?);
            Ok(())
        }
        Action::Doctor { paths, json, here: false } => doctor(paths, *json),
    }
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

fn doctor(paths: &[PathBuf], as_json: bool) -> Result<()> {
    let paths = match paths {
        [] => found()?.into_iter().map(|(_, f)| f.path).collect(),
        paths => paths.to_vec(),
    };
    let seen = paths.iter().map(|p| examine_apart(p)).collect::<Result<Vec<Examined>>>()?;
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

fn tell(seen: &Examined) {
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

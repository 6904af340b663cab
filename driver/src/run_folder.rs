//! The directory of a training run: options, description, metrics, checkpoints.

use crate::{
    device::Chosen,
    failure::failure,
    files::{numbered_folder, numbered_folders, write_file},
    host::Host,
    hosts::agree,
    plugin::INTERPRETER,
};
use anyhow::{Context, Result};
use proto::manifest::Manifest;
use runtime::{
    Compilation,
    checkpoint::{folder::list, is_url},
    train,
};
use serde_json::{Value, json};
use std::{
    env, fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// The options, in the run directory or in the checkpoint directory.
pub const CONFIG: &str = "config.toml";
/// The description of the run.
pub const RUN: &str = "run.json";
/// The parameters that were taken from the checkpoint of `--from`.
pub const LOADED: &str = "loaded.json";
/// The metrics: one JSON object per step.
pub const METRICS: &str = "metrics.jsonl";
/// TensorBoard events.
pub const TENSORBOARD: &str = "tensorboard";
/// Predictions of tasks: one file per evaluation.
pub const PREDICTIONS: &str = "predictions";
/// The checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// A run directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunFolder {
    /// The path of the directory.
    pub dir: PathBuf,
}

impl RunFolder {
    /// Refuses a URL, before anything is loaded.
    ///
    /// # Errors
    /// It is a URL.
    pub fn check(dir: &Path) -> Result<()> {
        if is_url(dir) {
            return Err(failure(
                format!("`--run-dir` must be a local directory (got {})", dir.display()),
                "give a local one, and --checkpoint-dir for checkpoints in a bucket",
            ));
        }
        Ok(())
    }

    /// Creates the directory unless it exists.
    ///
    /// # Errors
    /// It is a URL, or it cannot be created.
    pub fn create(dir: &Path) -> Result<Self> {
        Self::check(dir)?;
        fs::create_dir_all(dir).with_context(|| format!("creating the run directory `{}`", dir.display()))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Returns a path in the directory.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes the description: the program, its executables, the warnings of the run, and all its starts.
    /// `start` is the one of this process.
    pub fn describe(
        &self,
        manifest: &Manifest,
        made: &[Compilation],
        warnings: &[String],
        start: &Value,
    ) -> Result<()> {
        let axes = manifest.mesh.iter().flat_map(|m| &m.axes);
        let mesh: Vec<String> = axes.map(|a| format!("{}={}", a.name, a.size)).collect();
        let summary = manifest.summary.unwrap_or_default();
        let executables: Vec<Value> = made
            .iter()
            .map(|m| {
                json!({
                    "function": m.function,
                    "cached": m.cached,
                    "seconds": (m.elapsed.as_secs_f64() * 1e3).round() / 1e3,
                    "file": m.entry.as_ref().map(|p| p.display().to_string()),
                })
            })
            .collect();
        let about = json!({
            "program": manifest.program,
            "producer": manifest.producer,
            "target": manifest.target,
            "mesh": mesh.join(","),
            "layout": manifest.layout,
            "state_layout": manifest.state_layout,
            "parameters": summary.parameters,
            "flops_per_step": summary.flops_per_step,
            "meta": manifest.meta,
            "executables": executables,
            "warnings": warnings,
            "starts": self.starts(start),
        });
        write_file(&self.at(RUN), format!("{about:#}\n").as_bytes())
    }

    /// Returns the starts in the description, and this one if it is new.
    fn starts(&self, start: &Value) -> Vec<Value> {
        let about: Value = proto::regular::read(&self.at(RUN))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let mut starts = about["starts"].as_array().cloned().unwrap_or_default();
        if !starts.contains(start) {
            starts.push(start.clone());
        }
        starts
    }
}

/// A run directory that this process has created. Dropping removes it if nothing was written to it.
#[derive(Default, Debug)]
pub struct Reserved(Option<PathBuf>);

impl Reserved {
    /// The directory, if one was created.
    pub fn dir(&self) -> Option<&Path> {
        self.0.as_deref()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.iter().for_each(|dir| remove_unused(dir));
    }
}

/// Chooses the directory of a run of `program` in `runs`: with `resume`, the newest one with checkpoints, of
/// which `host` prints a line; otherwise, and if there is none, a new one.
///
/// # Errors
/// `runs` cannot be read or written, or the checkpoints cannot be resumed.
pub fn choose(runs: &Path, program: &str, resume: bool, host: &Host) -> Result<(PathBuf, Reserved)> {
    let has_checkpoints = |dir: &PathBuf| list(&dir.join(CHECKPOINTS)).is_ok_and(|found| !found.is_empty());
    let before = if resume { numbered_folders(runs, program)? } else { Vec::new() };
    if let Some(newest) = before.into_iter().rev().find(has_checkpoints) {
        (host.say)(&format!("--resume: the newest run of `{program}` is in {}", newest.display()));
        train::check_folder(&newest.join(CHECKPOINTS), true)?;
        return Ok((newest, Reserved::default()));
    }
    let new = numbered_folder(runs, program)?;
    Ok((new.clone(), Reserved(Some(new))))
}

/// Removes a run directory that this process has created, if the run has written nothing to it.
pub fn remove_unused(dir: &Path) {
    train::remove_unused(&dir.join(CHECKPOINTS));
    let _ = fs::remove_dir(dir); // A directory with files remains.
}

/// Describes the start of this process: time, host, command line, `version` of meshc, and plugin; `None`
/// means the interpreter.
pub fn start(chosen: Option<&Chosen>, version: &str) -> Value {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let words: Vec<String> = env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    json!({
        "time": (seconds * 1e3).round() / 1e3,
        "host": fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim(),
        "process": std::process::id(),
        "command": words,
        "meshc": version,
        "plugin": chosen.map_or_else(|| json!({ "platform": INTERPRETER }), plugin),
    })
}

fn plugin(chosen: &Chosen) -> Value {
    let path = &chosen.found.path;
    json!({
        "path": path.display().to_string(),
        "found_by": chosen.found.source,
        "api": chosen.plugin.version().to_string(),
        "blake3": agree::digest(path).ok(),
        "platform": chosen.platform.to_string(),
    })
}

/// Writes the options of a run to a directory.
pub fn keep_config(folder: &Path, toml: &str) -> Result<()> {
    let head = "# Options of `meshc train` with their origins. `--config` reads this file.\n";
    write_file(&folder.join(CONFIG), format!("{head}{toml}").as_bytes())
}

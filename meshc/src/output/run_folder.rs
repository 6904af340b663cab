//! The folder of a training run: its configuration, what it is, its metrics, and its checkpoints.

use super::files::write_file;
use anyhow::{Context, Result};
use proto::manifest::Manifest;
use runtime::Compilation;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The configuration, in a run's folder or in that of its checkpoints.
pub const CONFIG: &str = "config.toml";
/// What the run is.
pub const RUN: &str = "run.json";
/// One JSON object a step.
pub const METRICS: &str = "metrics.jsonl";
/// Events that TensorBoard reads.
pub const TENSORBOARD: &str = "tensorboard";
/// The checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";

/// Where things of a run go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunFolder {
    /// All of it.
    pub dir: PathBuf,
}

impl RunFolder {
    /// Makes the folder if there is none.
    pub fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("creating the run's folder `{}`", dir.display()))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Says what is trained, and which executables do it.
    pub fn describe(&self, manifest: &Manifest, made: &[Compilation]) -> Result<()> {
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
        });
        write_file(&self.at(RUN), format!("{about:#}\n").as_bytes())
    }
}

/// Writes the configuration to a folder.
pub fn keep_config(folder: &Path, toml: &str) -> Result<()> {
    let head = "# What `meshc train` ran with; behind each value, where it comes from. `--config` takes this file.\n";
    write_file(&folder.join(CONFIG), format!("{head}{toml}").as_bytes())
}

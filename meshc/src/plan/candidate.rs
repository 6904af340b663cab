//! One way to run a model, and what it would cost by our estimate; kept from run to run.

use crate::{
    folder::write_file,
    model::{self, ModelArgs, Program},
};
use anyhow::{Result, anyhow};
use compiler::{
    artefact::digest,
    cost::target::Slice,
    pipeline::{self, Placement, Stage, unobserved},
};
use mesh::{Layout, Mesh, verify::Global};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::UNIX_EPOCH,
};

/// One way to run a model. Everything is as on the command line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Candidate {
    /// Settings besides those that are given.
    pub settings: Vec<String>,
    /// The mesh.
    pub mesh: String,
    /// The compute layout.
    pub layout: String,
    /// The state layout.
    pub state_layout: String,
}

impl Candidate {
    /// The same under other settings.
    pub fn with(&self, settings: Vec<String>) -> Self {
        Self { settings, ..self.clone() }
    }

    /// Its mesh and how large its microbatches are, as a setting: what says how large the tensors of a device are.
    pub fn kind(&self) -> (String, Option<String>) {
        (self.mesh.clone(), self.settings.iter().find(|s| s.starts_with("microbatches=")).cloned())
    }

    /// Where it puts a program.
    pub fn placement(&self) -> Result<Placement> {
        let wrong = |what: String| anyhow!("{what}");
        Ok(Placement {
            mesh: Mesh::parse(&self.mesh).map_err(wrong)?,
            layout: Layout::parse(&self.layout).map_err(wrong)?,
            state_layout: Layout::parse(&self.state_layout).map_err(wrong)?,
        })
    }
}

/// What one step costs on one device by our estimate.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Estimate {
    /// Bytes at the peak.
    pub bytes: u64,
    /// Arithmetic of einsums.
    pub flops: u64,
    /// Bytes that it sends.
    pub wire_bytes: u64,
    /// Seconds of einsums.
    pub products: f64,
    /// Seconds of everything else that passes over memory.
    pub memory: f64,
    /// Seconds of collectives.
    pub network: f64,
}

impl Estimate {
    /// Seconds of a step.
    pub fn seconds(&self) -> f64 {
        self.products + self.memory + self.network
    }
}

/// Estimates candidates for one function of a model on one slice.
pub struct Evaluator<'a> {
    model: &'a Path,
    given: &'a ModelArgs,
    function: String,
    slice: &'a Slice,
    /// Where estimates are kept; nowhere if they are not to be.
    cache: Option<PathBuf>,
    /// What estimates depend on besides the program: this compiler and the slice.
    version: String,
    programs: Mutex<BTreeMap<Vec<String>, Option<Arc<Loaded>>>>,
}

/// A program, and when it is first needed, its optimized form.
struct Loaded {
    program: Program,
    global: Mutex<Option<Arc<Global>>>,
}

/// What is kept: nothing for a candidate that is not legal.
#[derive(Serialize, Deserialize)]
struct Kept {
    estimate: Option<Estimate>,
}

impl<'a> Evaluator<'a> {
    /// For `function` of `model` under the settings that are `given`.
    pub fn new(
        model: &'a Path,
        given: &'a ModelArgs,
        function: &str,
        slice: &'a Slice,
        keep: bool,
    ) -> Result<Self> {
        let this = env::current_exe().and_then(fs::metadata)?;
        let changed = this.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let version = format!("{} {} {changed} {slice}", env!("CARGO_PKG_VERSION"), this.len());
        let cache = if keep { Some(model::cache()?.join("plans")) } else { None };
        let function = function.to_owned();
        Ok(Self { model, given, function, slice, cache, version, programs: Mutex::default() })
    }

    /// The model's settings for a candidate.
    pub fn settings(&self, more: &[String]) -> ModelArgs {
        let mut settings = self.given.clone();
        settings.settings.extend(more.iter().cloned());
        settings
    }

    /// The program under these settings; nothing where the model refuses them.
    pub fn program(&self, settings: &[String]) -> Option<Program> {
        self.load(settings).map(|loaded| loaded.program.clone())
    }

    fn load(&self, settings: &[String]) -> Option<Arc<Loaded>> {
        // One after the other: a model is built and run but once.
        let mut programs = self.programs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = programs.get(settings) {
            return known.clone();
        }
        let mut program = model::load(self.model, &self.settings(settings)).ok();
        if let Some(program) = &mut program {
            program.module.functions.retain(|f| f.name == *self.function);
        }
        let loaded = program.map(|program| Arc::new(Loaded { program, global: Mutex::default() }));
        programs.insert(settings.to_vec(), loaded.clone());
        loaded
    }

    /// What a candidate would cost; nothing where it is not legal.
    pub fn estimate(&self, candidate: &Candidate) -> Option<Estimate> {
        let loaded = self.load(&candidate.settings)?;
        let key =
            serde_json::to_vec(&(&self.version, &loaded.program.sha256, &self.function, candidate)).ok()?;
        let file = self.cache.as_ref().map(|folder| folder.join(format!("{}.json", &digest(&key)[..32])));
        if let Some(kept) = file.as_ref().and_then(|file| fs::read(file).ok())
            && let Ok(kept) = serde_json::from_slice::<Kept>(&kept)
        {
            return kept.estimate;
        }
        let estimate = self.made(&loaded, candidate).ok();
        if let Some(file) = &file
            && let Ok(bytes) = serde_json::to_vec(&Kept { estimate })
        {
            // A cache that cannot be written costs time and nothing else.
            let _ = write_file(file, &bytes);
        }
        estimate
    }

    fn made(&self, loaded: &Loaded, candidate: &Candidate) -> Result<Estimate> {
        let global = {
            let mut global = loaded.global.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match &*global {
                Some(global) => global.clone(),
                None => {
                    let verified = pipeline::verify(loaded.program.module.clone(), &mut unobserved)?;
                    let made = Arc::new(pipeline::optimize(verified, Stage::Simplify, &mut unobserved)?);
                    *global = Some(made.clone());
                    made
                }
            }
        };
        let placement = candidate.placement()?;
        let (compute, state) = placement.resolve()?;
        compiler::partition::check(global.module(), &placement.mesh, &compute, &state)?;
        let local = pipeline::localize(&global, &placement, Stage::Tidy, &mut unobserved)?;
        let report = report::report(local.module(), Some(&self.function))?;
        let work =
            report::work(&placement.mesh, local.module().require_function(&self.function)?, self.slice);
        Ok(Estimate {
            bytes: report.peak_bytes_per_device.total,
            flops: report.flops_per_device,
            wire_bytes: report.traffic.iter().map(|t| t.wire_bytes).sum(),
            products: work.products,
            memory: work.memory,
            network: work.network,
        })
    }
}

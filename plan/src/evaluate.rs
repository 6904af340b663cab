//! Estimated costs of candidates, cached on disk.

use crate::candidate::{Candidate, Estimate};
use anyhow::Result;
use compiler::{
    artefact::digest,
    cost::target::Slice,
    pipeline::{self, Placement, Stage, unobserved},
};
use mesh::{
    Module,
    schedule::{ENTRIES, Entry, Schedule},
    verify::Global,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

/// The model to plan for.
pub trait Model: Sync {
    /// Returns the model's program under these entries of the schedule, besides those that are fixed. `None`
    /// means that the model refuses them.
    fn program(&self, schedule: &[String]) -> Option<Module>;

    /// Returns the entry that `module`, a program of this model, needs in addition for a placement; `None`
    /// means none.
    fn needed(&self, module: &Module, placement: &Placement) -> Option<String> {
        let _ = (module, placement);
        None
    }
}

/// The cache of estimates.
#[derive(Clone, Debug)]
pub struct Cache {
    /// The cache directory.
    pub folder: PathBuf,
    /// The version of this program. Estimates of other versions are ignored.
    pub version: String,
}

/// Estimates candidates for one function of a model on one slice.
pub struct Evaluator<'a> {
    model: &'a dyn Model,
    function: String,
    slice: &'a Slice,
    cache: Option<Cache>,
    programs: Mutex<BTreeMap<Vec<String>, Option<Arc<Loaded>>>>,
}

/// A program, and its optimized form once that is needed.
struct Loaded {
    module: Module,
    /// Digest of the program's text.
    digest: String,
    global: Mutex<Option<Arc<Global>>>,
}

/// A cached estimate. `None` means that the candidate is invalid.
#[derive(Serialize, Deserialize)]
struct Cached {
    estimate: Option<Estimate>,
}

impl<'a> Evaluator<'a> {
    /// Returns an evaluator for `function` of `model` on `slice`. `None` for `cache` means that nothing is
    /// cached.
    pub fn new(model: &'a dyn Model, function: &str, slice: &'a Slice, cache: Option<Cache>) -> Self {
        Self { model, function: function.to_owned(), slice, cache, programs: Mutex::default() }
    }

    /// Returns the program under these entries of the schedule. `None` means that the model refuses them.
    pub fn program(&self, schedule: &[String]) -> Option<Module> {
        self.load(schedule).map(|loaded| loaded.module.clone())
    }

    /// Returns the values to try for each schedule entry that the model reads, of those that `values` has.
    /// `is_given` is true for keys that the user has fixed.
    pub fn entries(
        &self,
        values: fn(&Entry) -> &'static [&'static str],
        is_given: &dyn Fn(&str) -> bool,
    ) -> Vec<Vec<String>> {
        // An entry that changes no function and no entry that passes read is not read by this model.
        let passes = |schedule: Schedule| (schedule.gather, schedule.cast, schedule.attention_minor);
        let read = |schedule: &[String]| self.program(schedule).map(|m| (m.functions, passes(m.schedule)));
        let own = read(&[]);
        let changing = |entry: &Entry| -> Vec<String> {
            let words = values(entry).iter().map(|value| format!("{}={value}", entry.key));
            // A value that changes nothing is the model's default.
            words.filter(|w| read(std::slice::from_ref(w)).is_some_and(|f| Some(f) != own)).collect()
        };
        ENTRIES.iter().filter(|k| !is_given(k.key)).map(changing).filter(|v| !v.is_empty()).collect()
    }

    fn load(&self, schedule: &[String]) -> Option<Arc<Loaded>> {
        // The lock is held during the load, so that each model is built and run only once.
        let mut programs = self.programs.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = programs.get(schedule) {
            return known.clone();
        }
        let loaded = self.model.program(schedule).map(|mut module| {
            module.functions.retain(|f| f.name == *self.function);
            let digest = digest(mesh::text::print(&module).as_bytes());
            Arc::new(Loaded { module, digest, global: Mutex::default() })
        });
        programs.insert(schedule.to_vec(), loaded.clone());
        loaded
    }

    /// Returns the estimated cost of a candidate. `None` means that it is invalid.
    pub fn estimate(&self, candidate: &Candidate) -> Option<Estimate> {
        let mut loaded = self.load(&candidate.schedule)?;
        if let Some(entry) = self.model.needed(&loaded.module, &candidate.placement().ok()?) {
            loaded = self.load(&[&candidate.schedule[..], &[entry]].concat())?;
        }
        let file = self.cache.as_ref().and_then(|cache| {
            let slice = self.slice.to_string();
            let key = (&cache.version, slice, &loaded.digest, &self.function, candidate);
            let key = serde_json::to_vec(&key).ok()?;
            Some(cache.folder.join(format!("{}.json", &digest(&key)[..32])))
        });
        if let Some(bytes) = file.as_ref().and_then(|file| fs::read(file).ok())
            && let Ok(cached) = serde_json::from_slice::<Cached>(&bytes)
        {
            return cached.estimate;
        }
        let estimate = self.computed(&loaded, candidate).ok();
        if let Some(file) = &file
            && let Ok(bytes) = serde_json::to_vec(&Cached { estimate })
        {
            // A cache that cannot be written only costs time.
            let _ = write(file, &bytes);
        }
        estimate
    }

    fn computed(&self, loaded: &Loaded, candidate: &Candidate) -> Result<Estimate> {
        let global = {
            let mut global = loaded.global.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match &*global {
                Some(global) => global.clone(),
                None => {
                    let verified = pipeline::verify(loaded.module.clone(), &mut unobserved)?;
                    let optimized =
                        Arc::new(pipeline::optimize(verified, Stage::SimplifyGradients, &mut unobserved)?);
                    *global = Some(optimized.clone());
                    optimized
                }
            }
        };
        let placement = candidate.placement()?;
        pipeline::check_layout(&global, &placement)?;
        let local = pipeline::localize(&global, &placement, Stage::SimplifyLocal, &mut unobserved)?;
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

/// Writes a file atomically: under a temporary name, then renamed.
fn write(file: &Path, bytes: &[u8]) -> Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut scratch = tempfile::NamedTempFile::new_in(folder)?;
    scratch.write_all(bytes)?;
    scratch.persist(file)?;
    Ok(())
}

//! A program through the stages of the compiler, with somebody looking on.

use super::program::Program;
use crate::{
    args::target::Target,
    output::{diagnostics::Mistakes, failure::failure, files::write_file},
};
use anyhow::Result;
use compiler::{
    artefact::{Artefact, Settings},
    cost::target::Slice,
    pipeline::{self, Placement, Stage, Step},
};
use mesh::verify::Local;
use proto::{Message, manifest_json};
use report::{Report, report};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// The file with the reports on all functions.
pub const REPORT: &str = "report.json";

/// Looks on while the stages run.
#[derive(Debug, Default)]
pub struct Watch {
    /// Where the program goes after each stage.
    pub dump: Option<PathBuf>,
    /// Whether to say how long each stage took.
    pub timings: bool,
    /// The last stage whose text is wanted, and what it was.
    pub last: Option<(Stage, Vec<(String, String)>)>,
    since: Option<Instant>,
    failed: Option<anyhow::Error>,
}

impl Watch {
    fn see(&mut self, step: Step) {
        let took = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        if self.timings {
            let (name, ms) = (step.stage.name(), took.as_secs_f64() * 1e3);
            match step.instructions() {
                0 => eprintln!("{name:10} {ms:8.1} ms"),
                n => eprintln!("{name:10} {ms:8.1} ms {n:7} instructions"),
            }
        }
        let wanted = self.last.as_ref().is_some_and(|(stage, _)| *stage == step.stage);
        if wanted || self.dump.is_some() {
            let files = step.dump();
            for (name, text) in
                self.dump.iter().flat_map(|dir| files.iter().map(move |f| (dir.join(&f.0), &f.1)))
            {
                if let Err(error) = write_file(&name, text.as_bytes()) {
                    self.failed.get_or_insert(error);
                }
            }
            if wanted {
                self.last = Some((step.stage, files));
            }
        }
        self.since = Some(Instant::now());
    }

    fn start(&mut self) {
        self.since = Some(Instant::now());
    }
}

/// A lowered program.
#[derive(Debug)]
pub struct Lowered {
    /// One device's program.
    pub local: Local,
    /// What each of its functions costs.
    pub reports: Vec<Report>,
}

/// Runs the stages up to `last`. `None` where that is before the program of one device is complete.
pub fn lower(
    program: &Program,
    placement: &Placement,
    last: Stage,
    watch: &mut Watch,
) -> Result<Option<Lowered>> {
    let result = stages(program, placement, last, watch);
    match watch.failed.take() {
        Some(error) => Err(error),
        None => result,
    }
}

fn stages(
    program: &Program,
    placement: &Placement,
    last: Stage,
    watch: &mut Watch,
) -> Result<Option<Lowered>> {
    watch.start();
    let wrong = |diagnostics| program.mistakes(&diagnostics);
    let global = pipeline::verify(program.module.clone(), &mut |step| watch.see(step)).map_err(wrong)?;
    // The lines of the model itself show best what is wrong with a layout, so it is checked before the program is
    // rewritten.
    let layout_wrong = |diagnostics: mesh::Diagnostics| {
        let subject = format!("the layout of `{}` on the mesh {}", program.module.name, placement.mesh);
        anyhow::Error::new(Mistakes::new(subject, &diagnostics, &program.sources))
    };
    let (compute, state) = placement.resolve().map_err(|d| layout_wrong(d.into()))?;
    compiler::partition::check(global.module(), &placement.mesh, &compute, &state).map_err(layout_wrong)?;
    let global = pipeline::optimize(global, last, &mut |step| watch.see(step)).map_err(wrong)?;
    if last < Stage::Partition {
        return Ok(None);
    }
    let local =
        pipeline::localize(&global, placement, last, &mut |step| watch.see(step)).map_err(layout_wrong)?;
    if last < Stage::Tidy {
        return Ok(None);
    }
    let report = |name: &mesh::Name| report(local.module(), Some(name)).map_err(|d| wrong(d.into()));
    let reports = local.module().functions.iter().map(|f| report(&f.name)).collect::<Result<_>>()?;
    Ok(Some(Lowered { local, reports }))
}

/// Makes the artefact: its manifest, and all files with their names.
pub fn emit(
    program: &Program,
    placement: &Placement,
    target: &Target,
    flags: &[(String, String)],
    lowered: &Lowered,
    watch: &mut Watch,
) -> Result<Artefact> {
    let costs = lowered.reports.iter().map(|r| (r.function.clone(), r.cost())).collect();
    let settings = Settings {
        producer: concat!("meshc ", env!("CARGO_PKG_VERSION")).to_owned(),
        target: target.to_string(),
        layout: placement.layout.clone(),
        state_layout: placement.state_layout.clone(),
        source: program.name.clone(),
        source_sha256: program.sha256.clone(),
        flags: flags.to_vec(),
        device_ids: target.slice().and_then(Slice::device_ids),
        costs,
    };
    watch.start();
    let emitted = pipeline::emit(&lowered.local, &settings, &mut |step| watch.see(step));
    let artefact = emitted.map_err(|diagnostics| program.mistakes(&diagnostics))?;
    match watch.failed.take() {
        Some(error) => Err(error),
        None => Ok(artefact),
    }
}

/// The files of an artefact directory.
pub fn files(artefact: &Artefact, reports: &[Report]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = artefact.files.clone();
    files.push(("manifest.pb".to_owned(), artefact.manifest.encode_to_vec()));
    files.push(("manifest.json".to_owned(), manifest_json::to_json(&artefact.manifest).into_bytes()));
    let mut report = serde_json::to_vec_pretty(reports)?;
    report.push(b'\n');
    files.push((REPORT.to_owned(), report));
    Ok(files)
}

/// The report on `function`; without a name on `train_step`, else `eval_step`, else the first function that does more
/// than make the state.
pub fn choose<'r>(reports: &'r [Report], function: Option<&str>) -> Result<&'r Report> {
    let find = |name: &str| reports.iter().find(|r| r.function == name);
    let found = match function {
        Some(name) => find(name),
        None => {
            let other = || reports.iter().find(|r| r.function != "init");
            find("train_step").or_else(|| find("eval_step")).or_else(other).or(reports.first())
        }
    };
    found.ok_or_else(|| {
        let known: Vec<&str> = reports.iter().map(|r| r.function.as_str()).collect();
        match function {
            Some(name) => {
                failure(format!("there is no function `{name}`"), format!("there are {}", known.join(", ")))
            }
            None => failure("the program has no function", "define one in the model with `p.function(…)`"),
        }
    })
}

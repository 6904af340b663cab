//! Compilation of a program with the stages of the compiler, observed for dumps and timings.

use crate::{diagnostics::Mistakes, failure::failure, files::write_file, program::Program, target::Target};
use anyhow::Result;
use compiler::{
    artefact::{Artefact, Settings},
    cost::target::Slice,
    pipeline::{self, Placement, Stage, Step},
};
use mesh::verify::Local;
use proto::{Message, manifest_json};
use report::{Report, report};
use runtime::plugin::lacks_bf16;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// The file with the reports on all functions.
pub const REPORT: &str = "report.json";

/// Observes the stages.
#[derive(Debug, Default)]
pub struct Watch {
    /// The folder for the program after each stage.
    pub dump: Option<PathBuf>,
    /// True if the program is also dumped after each pass that changed it.
    pub dump_passes: bool,
    /// Shows a line with the time of each stage and pass.
    pub timings: Option<fn(&str)>,
    /// The stage whose text is requested, and its files once it has run.
    pub last: Option<(Stage, Vec<(String, String)>)>,
    /// The passes of the stage that runs, with their runs and time.
    passes: Vec<(&'static str, usize, Duration)>,
    since: Option<Instant>,
    failed: Option<anyhow::Error>,
}

impl Watch {
    fn see(&mut self, step: Step) {
        let took = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        match step.pass {
            Some(pass) => {
                match self.passes.iter_mut().find(|(name, _, _)| *name == pass.name) {
                    Some((_, runs, time)) => (*runs, *time) = (*runs + 1, *time + took),
                    None => self.passes.push((pass.name, 1, took)),
                }
                if self.dump_passes && pass.changed {
                    self.write(&step.dump());
                }
            }
            None => self.stage(step, took),
        }
        self.since = Some(Instant::now());
    }

    /// A whole stage has run; `took` is the time since its last pass.
    fn stage(&mut self, step: Step, took: Duration) {
        let passes = std::mem::take(&mut self.passes);
        if let Some(say) = self.timings {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let all = took + passes.iter().map(|(_, _, time)| *time).sum::<Duration>();
            let count = match step.instructions() {
                0 => String::new(),
                n => format!(" {n:7} instructions"),
            };
            say(&format!("{:18} {:8.1} ms{count}", step.stage.name(), ms(all)));
            for (name, runs, time) in passes {
                say(&format!("  {name:16} {:8.1} ms {runs:7} runs", ms(time)));
            }
        }
        let wanted = self.last.as_ref().is_some_and(|(stage, _)| *stage == step.stage);
        if wanted || self.dump.is_some() {
            let files = step.dump();
            self.write(&files);
            if wanted {
                self.last = Some((step.stage, files));
            }
        }
    }

    /// Writes files into the dump folder, if there is one.
    fn write(&mut self, files: &[(String, String)]) {
        let Some(folder) = &self.dump else { return };
        for (name, text) in files {
            if let Err(error) = write_file(&folder.join(name), text.as_bytes()) {
                self.failed.get_or_insert(error);
            }
        }
    }

    fn start(&mut self) {
        self.since = Some(Instant::now());
    }
}

/// A compiled program before emission.
#[derive(Debug)]
pub struct Lowered {
    /// One device's program.
    pub local: Local,
    /// The report on each of its functions.
    pub reports: Vec<Report>,
}

/// Runs the stages up to `last`. `None` if that stage comes before the program of one device is complete.
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
    if !program.module.env.mesh.axes().is_empty() {
        // A dump of a Local program: every stage but the last has run.
        let local =
            pipeline::verify_local(program.module.clone(), &mut |step| watch.see(step)).map_err(wrong)?;
        return if last < Stage::SimplifyLocal { Ok(None) } else { lowered(program, local).map(Some) };
    }
    let global = pipeline::verify(program.module.clone(), &mut |step| watch.see(step)).map_err(wrong)?;
    // The layout is checked before the program is rewritten, so that mistakes point to lines of the model.
    let layout_wrong = |diagnostics: mesh::Diagnostics| {
        let subject = format!("the layout of `{}` on the mesh {}", program.module.name, placement.mesh);
        anyhow::Error::new(Mistakes::new(subject, &diagnostics, &program.sources))
    };
    pipeline::check_layout(&global, placement).map_err(layout_wrong)?;
    let global = pipeline::optimize(global, last, &mut |step| watch.see(step)).map_err(wrong)?;
    if last < Stage::Partition {
        return Ok(None);
    }
    let local =
        pipeline::localize(&global, placement, last, &mut |step| watch.see(step)).map_err(layout_wrong)?;
    if last < Stage::SimplifyLocal {
        return Ok(None);
    }
    lowered(program, local).map(Some)
}

fn lowered(program: &Program, local: Local) -> Result<Lowered> {
    let report =
        |name: &mesh::Name| report(local.module(), Some(name)).map_err(|d| program.mistakes(&d.into()));
    let reports = local.module().functions.iter().map(|f| report(&f.name)).collect::<Result<_>>()?;
    Ok(Lowered { local, reports })
}

/// Returns the program with outputs that are whole on every device.
pub fn whole_outputs(program: &Program, before: Lowered) -> Result<Lowered> {
    let local = pipeline::replicate_outputs(before.local).map_err(|d| program.mistakes(&d))?;
    lowered(program, local)
}

/// Emits the artefact: its manifest, and all files with their names.
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
        lacks_bf16: lacks_bf16(),
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

/// Returns the files of an artefact directory.
pub fn files(artefact: &Artefact, reports: &[Report]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = artefact.files.clone();
    files.push(("manifest.pb".to_owned(), artefact.manifest.encode_to_vec()));
    files.push(("manifest.json".to_owned(), manifest_json::to_json(&artefact.manifest).into_bytes()));
    let mut report = serde_json::to_vec_pretty(reports)?;
    report.push(b'\n');
    files.push((REPORT.to_owned(), report));
    Ok(files)
}

/// Returns the report on `function`. Without a name, the report on `train_step`, else on `eval_step`, else on
/// the first function except `init`.
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
            None => failure("the program has no functions", "define one in the model with `p.function(…)`"),
        }
    })
}

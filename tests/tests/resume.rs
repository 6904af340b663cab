//! Interrupted runs that resume from a checkpoint: the same results as an uninterrupted run, and errors.

use models::Config;
use runtime::{
    Checkpoint, HostTensor, Session,
    checkpoint::{Keep, Mapping, folder},
    train::{self, Observer, Options, Saving, Source, Step, Summary},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};
use tests::training::{session, small_switch, source};

fn tiny() -> Config {
    Config { encoder_layers: 1, decoder_layers: 1, ..small_switch() }
}

/// An observer that records all events and runs an action after a step.
#[derive(Default)]
struct Log<'a> {
    losses: Vec<f64>,
    saved: Vec<u64>,
    warnings: Vec<String>,
    after: Option<(u64, Box<dyn Fn() + 'a>)>,
}

impl Observer for Log<'_> {
    fn on_step(&mut self, step: &Step) {
        self.losses.push(step.loss);
        if let Some((when, act)) = &self.after
            && *when == step.step
        {
            act();
        }
    }
    fn on_saved(&mut self, step: u64, dir: &Path) {
        assert_eq!(Checkpoint::open(dir).map(|c| c.step()).unwrap(), step);
        self.saved.push(step);
    }
    fn on_warning(&mut self, what: &str) {
        self.warnings.push(what.to_owned());
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
    fn folder(&self) -> PathBuf {
        self.dir.path().join("checkpoints")
    }
    fn metrics(&self) -> PathBuf {
        self.dir.path().join("metrics.jsonl")
    }
    fn options(&self, steps: u64, resume: bool) -> Options {
        let saving = Saving { folder: self.folder(), every: Some(4), keep: Keep::newest(2), resume };
        Options { steps, metrics: Some(self.metrics()), saving: Some(saving), ..Options::default() }
    }
    /// Returns step, loss, gradient norm and loads of every line.
    fn lines(&self) -> Vec<[Value; 4]> {
        let text = fs::read_to_string(self.metrics()).unwrap();
        let lines = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        lines.map(|l| ["step", "loss", "grad_norm", "encoder_load"].map(|key| l[key].clone())).collect()
    }
    /// Flips a bit of the last tensor in a checkpoint.
    fn flip(&self, step: u64) {
        let dir = folder::path(&self.folder(), step);
        let path = dir.join("00000.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 2;
        fs::write(path, bytes).unwrap();
    }
}

fn run_on(
    text: &str,
    session: &mut Session,
    options: &Options,
    log: &mut Log<'_>,
    stop: &AtomicBool,
) -> runtime::Result<Summary> {
    let data = source(session, &[text], 0.0);
    train::run(session, data, options, log, stop)
}

#[track_caller]
fn run(session: &mut Session, options: &Options) -> (Summary, Log<'static>) {
    let mut log = Log::default();
    let summary = run_on("LICENSE", session, options, &mut log, &AtomicBool::new(false));
    (summary.unwrap_or_else(|e| panic!("{e}")), log)
}

#[track_caller]
fn fails(session: &mut Session, options: &Options, parts: &[&str]) {
    let error = run_on("LICENSE", session, options, &mut Log::default(), &AtomicBool::new(false));
    let error = error.unwrap_err().to_string();
    assert!(parts.iter().all(|p| error.contains(p)), "{error}");
}

fn values(session: &Session) -> BTreeMap<String, HostTensor> {
    let names = session.artefact().manifest.state.iter().map(|s| &s.name);
    names.map(|n| (n.clone(), session.state(n).unwrap())).collect()
}

#[test]
fn an_interrupted_run_is_the_same_bit_for_bit() {
    let (straight, broken) = (Place::new(), Place::new());
    let mut all = session(&tiny(), "data=2", "*:data");
    let (_, log) = run(&mut all, &Options { seed: Some(4), ..straight.options(10, false) });
    assert_eq!(log.saved, [4, 8, 10], "the last step is saved too");
    assert_eq!(folder::list(&straight.folder()).unwrap().iter().map(|f| f.step).collect::<Vec<_>>(), [8, 10]);

    // The first run is killed in step 7 and leaves a checkpoint of step 4, an incomplete one, and metrics up
    // to 6.
    let mut first = session(&tiny(), "data=2", "*:data");
    let (_, before) = run(&mut first, &Options { seed: Some(4), ..broken.options(6, false) });
    assert_eq!(before.saved, [4, 6]);
    fs::rename(folder::path(&broken.folder(), 6), broken.folder().join(".unfinished-step_00000006.x"))
        .unwrap();
    let mut text = fs::read_to_string(broken.metrics()).unwrap();
    text.push_str("{\"step\":7,\"lo");
    fs::write(broken.metrics(), text).unwrap();
    drop(first);

    // The seed comes from the checkpoint.
    let mut second = session(&tiny(), "data=2", "*:data");
    let (summary, after) = run(&mut second, &broken.options(10, true));
    assert_eq!((summary.step, summary.steps, after.warnings.len()), (10, 6, 0));
    assert_eq!(after.losses, log.losses[4..]);
    assert!(values(&all) == values(&second), "parameters, slots and step");
    assert_eq!(broken.lines(), straight.lines());
    assert_eq!(broken.lines().len(), 10);
    let names: Vec<_> = fs::read_dir(broken.folder()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "what was not finished is gone: {names:?}");

    // On other devices, results agree up to the rounding of sums.
    fs::remove_dir_all(folder::path(&broken.folder(), 10)).unwrap();
    let mut other = session(&tiny(), "expert=4,model=2", "");
    let (_, there) = run(&mut other, &broken.options(10, true));
    for (a, b) in there.losses.iter().zip(&log.losses[8..]) {
        assert!((a - b).abs() <= 1e-4 * b.abs(), "{:?} {:?}", there.losses, log.losses);
    }

    // All steps are done.
    let (summary, log) = run(&mut other, &broken.options(10, true));
    assert_eq!((summary.step, summary.steps, log.saved.len()), (10, 0, 0));
}

#[test]
fn damaged_checkpoints_are_skipped_and_named() {
    let place = Place::new();
    let mut first = session(&tiny(), "", "");
    // There is no checkpoint yet.
    let (_, log) = run(&mut first, &place.options(8, true));
    assert_eq!(log.saved, [4, 8]);
    fails(&mut first, &place.options(9, false), &["already has checkpoints", "step 8", "--resume"]);
    place.flip(8);
    let mut second = session(&tiny(), "", "");
    let (summary, log) = run(&mut second, &place.options(8, true));
    assert_eq!((summary.step, summary.steps), (8, 4));
    assert_eq!(log.warnings.len(), 1);
    assert!(
        log.warnings[0].contains("step_00000008") && log.warnings[0].contains("altered"),
        "{:?}",
        log.warnings
    );
    assert!(values(&first) == values(&second));
    // The valid checkpoint is used instead.
    Checkpoint::open(&folder::path(&place.folder(), 8)).and_then(|c| c.verify()).unwrap();
    place.flip(8);
    fs::remove_file(folder::path(&place.folder(), 4).join("COMMIT")).unwrap();
    fails(&mut second, &place.options(9, true), &["none of the 2 checkpoints", "is valid"]);
}

#[test]
fn what_a_run_cannot_go_on_with_is_said() {
    let place = Place::new();
    let mut first = session(&tiny(), "", "");
    run(&mut first, &place.options(1, false));
    fails(
        &mut first,
        &Options { seed: Some(5), ..place.options(2, true) },
        &["`--seed` is 5", "made with seed 0", "leave out --seed"],
    );
    let mut other = session(&Config { d_ff: 128, ..tiny() }, "", "");
    fails(&mut other, &place.options(2, true), &["does not fit the program", "d_ff=64", "d_ff=128"]);
    let mut log = Log::default();
    let stop = AtomicBool::new(false);
    run_on("README.md", &mut first, &place.options(2, true), &mut log, &stop).unwrap();
    assert!(
        log.warnings[0].contains("other data") && log.warnings[0].contains("step 2"),
        "{:?}",
        log.warnings
    );
}

#[test]
fn a_stop_saves_and_a_disk_that_fails_does_not_end_training() {
    let place = Place::new();
    let stop = AtomicBool::new(false);
    let mut session = session(&tiny(), "", "");
    let mut log =
        Log { after: Some((2, Box::new(|| stop.store(true, Ordering::Relaxed)))), ..Log::default() };
    let summary = run_on("LICENSE", &mut session, &place.options(100, false), &mut log, &stop).unwrap();
    assert_eq!((summary.step, summary.stopped, &log.saved[..]), (2, true, &[2][..]));

    // From step 3 on, a file replaces the folder.
    let folder = place.folder();
    let vanish = || {
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "").unwrap();
    };
    let mut log = Log { after: Some((3, Box::new(vanish))), ..Log::default() };
    stop.store(false, Ordering::Relaxed);
    let error = run_on("LICENSE", &mut session, &place.options(6, true), &mut log, &stop).unwrap_err();
    assert_eq!(log.losses.len(), 4, "training went on to the end");
    assert!(error.to_string().contains("checkpoints"), "{error}");
    assert!(
        log.warnings.iter().any(|w| w.contains("continues without a new checkpoint")),
        "{:?}",
        log.warnings
    );
    assert_eq!(session.state("step").unwrap().to_f64().unwrap(), [6.0]);
}

#[test]
fn a_run_begins_with_the_parameters_of_another_one() {
    let place = Place::new();
    let mut first = session(&tiny(), "", "");
    run(&mut first, &place.options(8, false));
    let from = Source::new(Some(folder::path(&place.folder(), 8)), Mapping::default(), None).unwrap();
    // Another optimizer on another mesh; no step runs.
    let mut config = tiny();
    config.optimizer.method = models::Method::Sgd;
    let mut second = session(&config, "model=2", "");
    let next = Place::new();
    run(&mut second, &Options { from: from.clone(), ..next.options(0, true) });
    let (before, after) = (values(&first), values(&second));
    for (name, value) in &after {
        match name.as_str() {
            "step" | "skipped" => assert_eq!(value.to_f64().unwrap(), [0.0]),
            _ => assert!(*value == before[name], "{name}"),
        }
    }
    // A resumed run has separate metrics.
    run(&mut second, &Options { from: from.clone(), ..next.options(2, true) });
    let trained = values(&second);
    run(&mut second, &Options { from: from.clone(), ..next.options(2, true) });
    assert!(values(&second) == trained && trained != after);
    let mut other = session(&Config { d_ff: 128, ..tiny() }, "", "");
    let last = Place::new();
    let options = Options { from, ..last.options(2, false) };
    fails(&mut other, &options, &["does not fit the program", "d_ff=128"]);
    assert!(!other.is_initialized());
}

/// Runs with an observer that panics after step 5, and returns its reports.
fn interrupted(session: &mut Session, options: &Options) -> Log<'static> {
    let mut log = Log { after: Some((5, Box::new(|| panic!("the observer fails")))), ..Log::default() };
    let stop = AtomicBool::new(false);
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run_on("LICENSE", session, options, &mut log, &stop)
    }));
    let panic = ran.expect_err("the panic goes on after the state is saved");
    assert_eq!(panic.downcast_ref(), Some(&"the observer fails"));
    log
}

#[test]
fn a_panic_in_the_loop_saves_the_state() {
    let (straight, broken) = (Place::new(), Place::new());
    let (_, whole) = run(&mut session(&tiny(), "", ""), &straight.options(8, false));
    for lag in [0, 2] {
        let place = if lag == 0 { &broken } else { &Place::new() };
        let options = Options { lag: Some(lag), ..place.options(8, false) };
        let log = interrupted(&mut session(&tiny(), "", ""), &options);
        // The steps in flight are finished first.
        assert_eq!(log.saved, [4, 5 + lag as u64], "{:?}", log.warnings);
    }
    let (_, rest) = run(&mut session(&tiny(), "", ""), &broken.options(8, true));
    assert_eq!(rest.losses, whole.losses[5..], "the resumed run is the same bit for bit");
    assert_eq!(broken.lines(), straight.lines());
}

#[test]
fn logs_on_a_full_disk_do_not_end_training() {
    let place = Place::new();
    let options = Options { metrics: Some("/dev/full".into()), ..place.options(6, false) };
    let (summary, log) = run(&mut session(&tiny(), "", ""), &options);
    assert_eq!((summary.step, &log.saved[..]), (6, &[4, 6][..]));
    assert!(summary.log_error.is_some_and(|error| error.contains("/dev/full")));
    assert_eq!(log.warnings.len(), 1, "{:?}", log.warnings);
    assert!(log.warnings[0].contains("the log of this run is incomplete"), "{:?}", log.warnings);
}

//! The training loop on the CPU plugin: metrics, evaluation, stopping, resuming, and errors.

use models::{Config, LrSchedule};
use runtime::{
    Session,
    train::{self, Observer, Options, Step, Summary},
};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};
use tests::training::{Steps, session, small_switch, source};

/// A model with one layer per stack, which compiles quickly.
fn tiny() -> Config {
    Config { encoder_layers: 1, decoder_layers: 1, ..small_switch() }
}

#[track_caller]
fn run(session: &mut Session, options: &Options) -> (Summary, Steps) {
    let data = source(session, &["LICENSE"], 0.1);
    let mut steps = Steps::default();
    let summary = train::run(session, data, options, &mut steps, &AtomicBool::new(false));
    (summary.unwrap_or_else(|e| panic!("{e}")), steps)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the file was written");
    text.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect()
}

#[test]
fn a_run_writes_every_step_and_can_go_on() {
    let folder = tempfile::tempdir().expect("a folder for the metrics");
    let path = folder.path().join("metrics.jsonl");
    let options = |steps, lag| Options {
        steps,
        lag: Some(lag),
        seed: Some(4),
        metrics: Some(path.clone()),
        eval_every: Some(5),
        peak: Some(1e9),
        ..Options::default()
    };
    let mut straight = session(&tiny(), "data=2", "");
    let (summary, steps) = run(&mut straight, &options(12, 2));
    assert_eq!((summary.step, summary.steps, summary.stopped), (12, 12, false));
    let losses = steps.losses();
    assert_eq!((summary.first_loss, summary.last_loss), (Some(losses[0]), Some(losses[11])));
    assert!(losses[11] < losses[0], "{losses:?}");
    assert!(summary.unigram_entropy > 2.0 && summary.unigram_entropy < 4.5, "{summary:?}");

    let written = lines(&path);
    assert_eq!(written.len(), 12);
    // Two devices of 10^9 FLOPs per second: MFU is the model's FLOPs divided by what they do in a step's
    // time.
    let functions = &straight.artefact().manifest.functions;
    let forward =
        functions.iter().find(|f| f.name == "eval_step").and_then(|f| f.cost).expect("it has a cost");
    for line in &written {
        let step_ms = line["step_ms"].as_f64().unwrap();
        let used = line["mfu"].as_f64().unwrap() * step_ms / 1e3 * 2e9;
        let needed = 3.0 * 2.0 * forward.flops_per_device as f64;
        // Steps that finish at once are short, and their time is rounded to microseconds.
        let rounding = 0.5e-3 / step_ms;
        assert!((used / needed - 1.0).abs() < 1.01 * rounding + 1e-9, "{used} {needed} in {step_ms} ms");
    }
    for (n, line) in written.iter().enumerate() {
        assert_eq!(line["step"], n as u64 + 1);
        for key in ["loss", "tokens_per_s", "step_ms", "wait_ms", "grad_norm", "learning_rate", "aux_loss"] {
            assert!(line[key].is_f64(), "{key}: {line}");
        }
        assert_eq!(line["loss"].as_f64().map(|l| l as f32), Some(losses[n] as f32));
        let load = line["encoder_load"].as_array().expect("a list of layers");
        assert_eq!(load[0].as_array().map(Vec::len), Some(8), "a list of experts: {line}");
        let evaluated = line["eval"]["loss"].as_f64();
        assert_eq!(evaluated.is_some(), (n + 1) % 5 == 0, "{line}");
    }
    assert_eq!(summary.eval.as_ref().map(|e| e["loss"]), written[9]["eval"]["loss"].as_f64());
    let dropped = written[9]["eval"]["encoder_dropped"].as_f64().expect("a mean over layers");
    assert!((0.0..=1.0).contains(&dropped), "{dropped}");
    assert!(written[9]["eval"].get("encoder_load").is_none(), "a load has a number for each expert");

    // The state contains the step; neither an interruption nor the lag of the host changes the result.
    let mut again = session(&tiny(), "data=2", "");
    let (_, first) = run(&mut again, &options(7, 0));
    let (summary, second) = run(&mut again, &options(12, 1));
    assert_eq!((summary.step, summary.steps, second.0[0].step), (12, 5, 8));
    assert_eq!([first.losses(), second.losses()].concat(), losses);
    for entry in &straight.artefact().manifest.state {
        assert_eq!(straight.state(&entry.name).unwrap(), again.state(&entry.name).unwrap(), "{}", entry.name);
    }
    let (summary, steps) = run(&mut again, &options(12, 1));
    assert_eq!((summary.step, summary.steps, steps.0.len()), (12, 0, 0));
}

/// An observer that requests a stop after a step.
struct StopAfter<'a>(u64, &'a AtomicBool, u64);

impl Observer for StopAfter<'_> {
    fn on_step(&mut self, step: &Step) {
        self.2 = step.step;
        if step.step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn stopping_finishes_the_steps_under_way() {
    let stop = AtomicBool::new(false);
    let mut session = session(&tiny(), "", "");
    let data = source(&session, &["LICENSE"], 0.0);
    let options = Options { steps: 1000, lag: Some(2), ..Options::default() };
    let mut observer = StopAfter(3, &stop, 0);
    let summary = train::run(&mut session, data.clone(), &options, &mut observer, &stop).unwrap();
    assert_eq!((summary.step, summary.stopped, observer.2), (5, true, 5), "two more were under way");
    assert_eq!(session.state("step").unwrap().to_f64().unwrap(), [5.0]);

    // A stop before the first step: nothing runs and nothing is compiled.
    let mut fresh = tests::training::session(&tiny(), "", "");
    let summary = train::run(&mut fresh, data, &options, &mut (), &stop).unwrap();
    assert_eq!((summary.step, summary.steps, summary.stopped), (0, 0, true));
    assert!(!fresh.is_initialized());
}

#[test]
fn a_loss_that_is_no_number_ends_training_unless_allowed() {
    let mut config = tiny();
    config.optimizer.clip = 0.0;
    config.optimizer.skip_non_finite = false;
    config.optimizer.schedule = LrSchedule { rate: 1e30, warmup: 0, ..LrSchedule::default() };
    let folder = tempfile::tempdir().expect("a folder for the metrics");
    let path = folder.path().join("metrics.jsonl");
    let mut session = session(&config, "", "");
    let data = source(&session, &["LICENSE"], 0.0);
    let mut options = Options { steps: 8, metrics: Some(path.clone()), ..Options::default() };
    let stop = AtomicBool::new(false);
    let error = train::run(&mut session, data.clone(), &options, &mut (), &stop).unwrap_err().to_string();
    let last = lines(&path).pop().expect("the step is written before training ends");
    let step = last["step"].as_u64().expect("steps are numbers");
    assert!(error.contains(&format!("in step {step}")) && error.contains("learning rate"), "{error}");
    assert!(last["loss"].is_null() && last["non_finite"][0] == "loss", "{last}");
    options.allow_non_finite = true;
    let summary = train::run(&mut session, data.clone(), &options, &mut (), &stop).unwrap();
    assert_eq!(summary.step, 8);

    // If such steps are skipped, the state does not change, and training ends after too many of them.
    config.optimizer.skip_non_finite = true;
    let mut guarded = tests::training::session(&config, "", "");
    let mut options = Options { steps: 30, ..Options::default() };
    let error = train::run(&mut guarded, data.clone(), &options, &mut (), &stop).unwrap_err().to_string();
    assert!(error.contains("10 steps in a row up to step 11 were skipped"), "{error}");
    options.allow_non_finite = true;
    assert_eq!(train::run(&mut guarded, data, &options, &mut (), &stop).unwrap().step, 30);
    assert!(guarded.state("skipped").unwrap().to_f64().unwrap()[0] > 20.0);
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_compiled() {
    let mut session = session(&tiny(), "", "");
    let data = source(&session, &["LICENSE"], 0.0);
    let nowhere = tempfile::tempdir().expect("a folder").path().join("gone/metrics.jsonl");
    for (options, part) in [
        (Options { metrics: Some(nowhere), ..Options::default() }, "creating the metrics file"),
        (Options { eval_every: Some(5), ..Options::default() }, "at least one batch of held-out rows"),
    ] {
        let stop = AtomicBool::new(false);
        let error = train::run(&mut session, data.clone(), &options, &mut (), &stop).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(!session.is_initialized());
    }
}

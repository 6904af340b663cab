//! `meshc train`: compile, then hand over to the runtime's training loop, and show how it goes.

use super::refuse_options;
use crate::{
    data_options::DataOptions,
    device::{PluginArgs, environment},
    failure::failure,
    folder,
    lower::{Watch, emit, lower},
    model::{self, ModelArgs},
    placement::{PlacementArgs, place},
    progress::Progress,
    summary,
    target::Target,
};
use anyhow::{Context, Result};
use compiler::pipeline::Stage;
use runtime::{Artefact, data::Task, plugin::Platform, train};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};
use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A model (.rs or .mesh), an artefact directory, or a checkpoint, whose parameters training begins with
    #[arg(value_name = "MODEL|ARTEFACT|CHECKPOINT")]
    subject: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// cpu, gpu or a TPU slice such as tpu:v5e:2x4. Default: what the plugin is for
    #[arg(long)]
    target: Option<Target>,
    /// How many steps
    #[arg(long, default_value_t = 100)]
    steps: u64,
    /// Seed of the initial values, of dropout, and of the order of the data. Default: the checkpoint's with --resume, else
    /// 0
    #[arg(long)]
    seed: Option<u32>,
    /// Write one JSON object a step to this file, one on a line; with --resume, after those that are there
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// A checkpoint that the parameters come from when a run begins, such as one that `meshc convert` made
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<PathBuf>,
    /// Save the state after the last step, also when training is stopped, in a folder DIR/step_N
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    /// Save every so many steps as well
    #[arg(long, value_name = "STEPS", requires = "checkpoint_dir", value_parser = clap::value_parser!(u64).range(1..))]
    save_every: Option<u64>,
    /// Keep this many checkpoints, the newest. Default: all
    #[arg(long, value_name = "N", requires = "checkpoint_dir", value_parser = at_least_one)]
    keep: Option<usize>,
    /// Go on from the newest good checkpoint in the folder, if there are any
    #[arg(long, requires = "checkpoint_dir")]
    resume: bool,
    /// Evaluate on held-out text every so many steps
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    eval_every: Option<u64>,
    /// The most batches of an evaluation
    #[arg(long, value_name = "N", requires = "eval_every")]
    eval_batches: Option<usize>,
    /// Share of the text, at its end, that is kept for evaluation. Default: 0.05 with --eval-every, else 0
    #[arg(long, value_name = "SHARE")]
    held_out: Option<f64>,
    /// Go on when a loss is no finite number
    #[arg(long)]
    allow_non_finite: bool,
    /// Print the summary as one JSON object, and everything else on standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plugin: PluginArgs,
}

/// Trains.
pub fn run(args: &Args) -> Result<ExitCode> {
    environment(None)?;
    let texts = args.data.open()?;
    let is_checkpoint = model::is_checkpoint(&args.subject);
    let artefact = if args.subject.is_dir() && !is_checkpoint { opened(args)? } else { compiled(args)? };
    let held_out = args.held_out.unwrap_or(if args.eval_every.is_some() { 0.05 } else { 0.0 });
    let source = texts.source(Task::of(&artefact)?, held_out)?;
    let said = format!("{}{}", summary::artefact(&artefact.manifest), summary::data(&source));
    if args.json {
        eprint!("{said}")
    } else {
        print!("{said}")
    }
    // Before the plugin is loaded: its threads must not take the signals' first meaning.
    let signals = Signals::watch()?;
    let mut session = args.plugin.session(artefact)?;
    let options = train::Options {
        steps: args.steps,
        seed: args.seed,
        metrics: args.metrics.clone(),
        from: args.from.clone().or(is_checkpoint.then(|| args.subject.clone())),
        saving: args.checkpoint_dir.clone().map(|folder| train::Saving {
            folder,
            every: args.save_every,
            keep: args.keep,
            resume: args.resume,
        }),
        eval_every: args.eval_every,
        eval_batches: args.eval_batches,
        allow_non_finite: args.allow_non_finite,
        ..train::Options::default()
    };
    let mut progress = Progress::new(args.steps, signals.stop.clone());
    let result = train::run(&mut session, source, &options, &mut progress, &signals.stop);
    progress.end();
    let kept = || {
        let metrics = match &args.metrics {
            Some(path) => format!("metrics of the finished steps are in {}", path.display()),
            None => "no metrics were kept: --metrics FILE keeps them".to_owned(),
        };
        match &args.checkpoint_dir {
            Some(folder) => format!("{metrics}; checkpoints are in {}", folder.display()),
            None => metrics,
        }
    };
    let summary = result.with_context(|| format!("training stopped ({})", kept()))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        println!("{summary}\n{}", kept());
    }
    Ok(match summary.stopped {
        // As if the signal had ended it, so that scripts do not go on.
        true => ExitCode::from(128 + signals.which()),
        false => ExitCode::SUCCESS,
    })
}

fn opened(args: &Args) -> Result<Artefact> {
    refuse_options(&args.subject, &args.settings, &args.placement)?;
    let artefact = folder::open(&args.subject)?;
    match &args.target {
        Some(target) if target.to_string() != artefact.manifest.target => Err(failure(
            format!(
                "`{}` is compiled for {}, not for {target}",
                args.subject.display(),
                artefact.manifest.target
            ),
            "leave --target out; --plugin chooses what it runs on",
        )),
        Some(_) | None => Ok(artefact),
    }
}

/// The model's artefact, in memory.
fn compiled(args: &Args) -> Result<Artefact> {
    let program = model::load(&args.subject, &args.settings)?;
    let placement = place(&program.module, &args.placement)?;
    let target = match (&args.target, args.plugin.platform()) {
        (Some(target), _) => target.clone(),
        (None, Some(Platform::Gpu)) => Target::Gpu,
        (None, Some(Platform::Tpu)) => {
            return Err(failure(
                "a TPU plugin does not say for which slice to compile",
                "name it with --target",
            ));
        }
        (None, Some(Platform::Cpu) | None) => Target::Cpu,
    };
    let mut watch = Watch::default();
    let lowered = lower(&program, &placement, Stage::Emit, &mut watch)?.context("all stages ran")?;
    let built = emit(&program, &placement, &target, &[], &lowered, &mut watch)?;
    Ok(Artefact::new(program.name.clone(), built.manifest, built.files.into_iter().collect())?)
}

/// A number of things of which there must be one.
pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least the newest is kept".to_owned()),
        Ok(n) => Ok(n),
        Err(e) => Err(e.to_string()),
    }
}

/// What asks for an end.
pub(super) struct Signals {
    /// Set by the first Ctrl-C or SIGTERM.
    pub stop: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// Watches from now on.
    pub fn watch() -> Result<Self> {
        let signals = Self { stop: Arc::default(), number: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            let context = || format!("watching for signal {signal}");
            // In this order: the second signal finds what the first has set, and ends the process.
            flag::register_conditional_shutdown(signal, 128 + signal, signals.stop.clone())
                .with_context(context)?;
            flag::register(signal, signals.stop.clone()).with_context(context)?;
            flag::register_usize(signal, signals.number.clone(), signal as usize).with_context(context)?;
        }
        Ok(signals)
    }

    /// The number of the signal that came.
    pub fn which(&self) -> u8 {
        u8::try_from(self.number.load(Ordering::Relaxed)).unwrap_or(0)
    }
}

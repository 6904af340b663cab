//! `meshc train`: compile, then hand over to the runtime's training loop, and show how it goes.

use crate::{
    args::{
        config::{Origin, Resolved},
        data::DataOptions,
        model::ModelArgs,
        placement::PlacementArgs,
        plugin::{FlagArgs, PluginArgs, environment},
        ranges::at_least_one,
        subject::refuse_options,
        target::Target,
    },
    build::{artefact, device, program},
    output::{
        failure::failure,
        files,
        progress::Progress,
        run_folder::{self, RunFolder},
        signals::Signals,
        summary,
    },
};
use anyhow::{Context, Result};
use clap::ArgGroup;
use data::BatchSource;
use runtime::{
    Artefact,
    checkpoint::{Keep, is_checkpoint, is_url},
    train::{self, Spikes},
};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

/// Arguments.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("place").args(["run_dir", "checkpoint_dir"]).multiple(true)))]
pub struct Args {
    /// A model (.rs or .mesh), an artefact directory, or a checkpoint, whose parameters training begins with
    #[arg(value_name = "MODEL|ARTEFACT|CHECKPOINT")]
    subject: PathBuf,
    /// Options from a file: their names without dashes, `steps = 100`, and a table for --set. Those given here hold
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// cpu, gpu or a TPU slice such as tpu:v5e:2x4. Default: what the plugin is for
    #[arg(long)]
    target: Option<Target>,
    #[command(flatten)]
    flags: FlagArgs,
    /// How many steps
    #[arg(long, default_value_t = 100)]
    steps: u64,
    /// Seed of the initial values, of dropout, and of the order of the data. Default: the checkpoint's with --resume, else
    /// 0
    #[arg(long)]
    seed: Option<u32>,
    /// The run's folder: its configuration, metrics.jsonl, tensorboard/ and checkpoints/, if these have no other places
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
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
    #[arg(long, value_name = "STEPS", requires = "place", value_parser = clap::value_parser!(u64).range(1..))]
    save_every: Option<u64>,
    /// Keep this many checkpoints, the newest. Default: all, or 1 with one of the next two
    #[arg(long, value_name = "N", requires = "place", value_parser = at_least_one)]
    keep: Option<usize>,
    /// Keep those of every so many steps as well
    #[arg(long, value_name = "STEPS", requires = "place", value_parser = clap::value_parser!(u64).range(1..))]
    keep_every: Option<u64>,
    /// Keep this many with the smallest loss on held-out text as well, and save whenever an evaluation is the best so far
    #[arg(long, value_name = "N", requires = "place", requires = "eval_every", value_parser = at_least_one)]
    keep_best: Option<usize>,
    /// Go on from the newest good checkpoint in the folder, if there are any
    #[arg(long, requires = "place")]
    resume: bool,
    /// Write events that TensorBoard reads to this folder
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Evaluate on held-out text every so many steps
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    eval_every: Option<u64>,
    /// Text that is evaluated on, like --data. Default: a share of --data, which is not trained on
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "eval_every")]
    eval_data: Vec<PathBuf>,
    /// The most batches of an evaluation
    #[arg(long, value_name = "N", requires = "eval_every")]
    eval_batches: Option<usize>,
    /// Share of the text, at its end, that is kept for evaluation. Default: 0.05 with --eval-every, else 0
    #[arg(long, value_name = "SHARE")]
    held_out: Option<f64>,
    /// Stop when so many evaluations in a row were not better than the best one
    #[arg(long, value_name = "N", requires = "eval_every", value_parser = clap::value_parser!(u64).range(1..))]
    patience: Option<u64>,
    /// By how much the loss on held-out text must be smaller to be better
    #[arg(long, value_name = "NATS", default_value_t = 0.0)]
    min_delta: f64,
    /// Go back to the last checkpoint, and leave out the batches since then, when a loss is so many standard deviations
    /// above the mean of those before
    #[arg(long, value_name = "SIGMAS", requires = "place")]
    spike_sigmas: Option<f64>,
    /// How many losses before
    #[arg(long, value_name = "STEPS", default_value_t = Spikes::default().window)]
    spike_window: usize,
    /// How often training may go back
    #[arg(long, value_name = "N", default_value_t = Spikes::default().rollbacks)]
    max_rollbacks: u64,
    /// Stop when so many steps in a row were skipped because they were not finite
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    max_skipped: u64,
    /// Go on when a loss is no finite number, and when one step after the other is skipped
    #[arg(long)]
    allow_non_finite: bool,
    /// Print the summary as one JSON object, and everything else on standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plugin: PluginArgs,
    /// Every value, and where it comes from.
    #[arg(skip)]
    pub resolved: Resolved,
}

/// Trains.
pub fn run(mut args: Args) -> Result<ExitCode> {
    environment(None)?;
    let signals = Signals::watch()?;
    let texts = args.data.open()?;
    let eval_texts =
        (!args.eval_data.is_empty()).then(|| args.data.open_others(&args.eval_data)).transpose()?;
    let of_checkpoint = is_checkpoint(&args.subject);
    let artefact = if args.subject.is_dir() && !of_checkpoint { opened(&args)? } else { compiled(&args)? };
    let shares = args.eval_every.is_some() && eval_texts.is_none();
    let held_out = args.held_out.unwrap_or(if shares { 0.05 } else { 0.0 });
    let task = train::task(&artefact)?;
    let source = texts.mixture(task, held_out)?;
    let eval_data: Option<Arc<dyn BatchSource>> = match eval_texts {
        Some(texts) => Some(texts.mixture(task, 0.0)?),
        None => None,
    };
    let run_folder = args.run_dir.clone().map(|dir| RunFolder::create(&dir)).transpose()?;
    args.complete(&artefact, held_out);
    let said = format!(
        "{}{}{}",
        args.resolved.toml(),
        summary::artefact(&artefact.manifest),
        summary::data(&source)
    );
    if args.json {
        eprint!("{said}")
    } else {
        print!("{said}")
    }
    let mut session = device::session(&args.plugin, artefact)?;
    signals.begin();
    let from = args.from.clone().or(of_checkpoint.then(|| args.subject.clone()));
    let target: Option<Target> = session.artefact().manifest.target.parse().ok();
    let peak = target.as_ref().and_then(Target::slice).map(|slice| slice.speed().flops);
    let options = train::Options { from, eval_data, peak, ..args.options() };
    let manifest = session.artefact().manifest.clone();
    let (about, folder) = (args.resolved.clone(), args.run_dir.clone().or(args.checkpoint_dir.clone()));
    let folder = folder.filter(|folder| !is_url(folder));
    let run = run_folder.clone();
    let mut progress = Progress::new(args.steps, signals.stop.clone()).first(move || {
        folder.map_or(Ok(()), |folder| run_folder::keep_config(&folder, &about.toml()))?;
        run.map_or(Ok(()), |run| run.describe(&manifest, &[]))
    });
    let result = train::run(&mut session, source, &options, &mut progress, &signals.stop);
    progress.end();
    // A run that was refused leaves what another one has written.
    if let Some(folder) = run_folder.as_ref().filter(|_| !session.compilations().is_empty()) {
        folder.describe(&session.artefact().manifest, session.compilations())?;
    }
    let summary = result.with_context(|| format!("training stopped ({})", args.kept()))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        println!("{summary}\n{}", args.kept());
    }
    Ok(match summary.stopped {
        true => ExitCode::from(signals.code()),
        false => ExitCode::SUCCESS,
    })
}

impl Args {
    /// Puts what was not said where it follows from other options, and notes it with what the model says.
    fn complete(&mut self, artefact: &Artefact, held_out: f64) {
        let all = &mut self.resolved;
        if let Some(dir) = &self.run_dir {
            let place = |name: &str| Some(dir.join(name));
            self.metrics = self.metrics.take().or_else(|| place(run_folder::METRICS));
            self.checkpoint_dir = self.checkpoint_dir.take().or_else(|| place(run_folder::CHECKPOINTS));
            self.tensorboard = self.tensorboard.take().or_else(|| place(run_folder::TENSORBOARD));
        }
        let path = |path: &Path| path.display().to_string();
        let places = [
            ("metrics", &self.metrics),
            ("checkpoint-dir", &self.checkpoint_dir),
            ("tensorboard", &self.tensorboard),
        ];
        for (key, value) in places {
            value.iter().for_each(|value| all.derive(key, &path(value), Origin::Derived));
        }
        if self.eval_data.is_empty() {
            all.derive("held-out", &held_out.to_string(), Origin::Derived);
        }
        // A run that goes on takes the checkpoint's.
        if !self.resume {
            all.derive("seed", "0", Origin::Derived);
        }
        let manifest = &artefact.manifest;
        all.derive("target", &manifest.target, Origin::Derived);
        all.derive("layout", &manifest.layout, Origin::Model);
        all.derive("state-layout", &manifest.state_layout, Origin::Model);
        manifest.meta.iter().for_each(|(key, value)| all.meta(key, value));
    }

    /// How to train.
    fn options(&self) -> train::Options {
        let saving = |folder: &PathBuf| train::Saving {
            folder: folder.clone(),
            every: self.save_every,
            keep: Keep { newest: self.keep, every: self.keep_every, best: self.keep_best },
            resume: self.resume,
        };
        let spikes = |sigmas| Spikes { sigmas, window: self.spike_window, rollbacks: self.max_rollbacks };
        train::Options {
            steps: self.steps,
            seed: self.seed,
            metrics: self.metrics.clone(),
            tensorboard: self.tensorboard.clone(),
            saving: self.checkpoint_dir.as_ref().map(saving),
            eval_every: self.eval_every,
            eval_batches: self.eval_batches,
            patience: self.patience,
            min_delta: self.min_delta,
            spikes: self.spike_sigmas.map(spikes),
            most_skipped: self.max_skipped,
            allow_non_finite: self.allow_non_finite,
            ..train::Options::default()
        }
    }

    /// What there is of the run.
    fn kept(&self) -> String {
        let metrics = match &self.metrics {
            Some(path) => format!("metrics of the finished steps are in {}", path.display()),
            None => "no metrics were kept: --metrics FILE keeps them".to_owned(),
        };
        match &self.checkpoint_dir {
            Some(folder) => format!("{metrics}; checkpoints are in {}", folder.display()),
            None => metrics,
        }
    }
}

fn opened(args: &Args) -> Result<Artefact> {
    refuse_options(&args.subject, &args.settings, &args.placement)?;
    if let Some(word) = args.flags.words().next() {
        return Err(failure(
            format!("`{}` is compiled: {word} says nothing any more", args.subject.display()),
            "give flags to `meshc compile`, which keeps them in the artefact",
        ));
    }
    let artefact = files::open(&args.subject)?;
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
    let program = program::load(&args.subject, &args.settings)?;
    artefact::of_program(&program, &args.placement, args.target.as_ref(), &args.flags, &args.plugin)
}

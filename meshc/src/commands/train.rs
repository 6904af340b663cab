//! `meshc train`: compiles a model and trains it.

use crate::{
    args::{
        config::{Origin, Resolved},
        data::{self, DataOptions, FORMS},
        hosts::HostArgs,
        model::ModelArgs,
        placement::PlacementArgs,
        plugin::{FlagArgs, PluginArgs, environment},
        ranges::{
            at_least_one, at_least_two, not_negative, positive, share, steps, whole, whole_32, whole_64,
        },
    },
    output::{
        host::{HOST, VERSION},
        progress::Progress,
        signals::Signals,
        stream::{err, out, outln},
    },
};
use ::data::BatchSource;
use anyhow::{Context, Result};
use clap::ArgGroup;
use driver::{
    artefact,
    device::{self, Backend, Chosen},
    failure::failure,
    files::{numbered_folder, numbered_folders},
    hosts::{
        HostOptions,
        agree::{self, Facts, agree},
        device as several, launch,
        member::Member,
        start,
    },
    interpreter, overview,
    profile::{Profile, Profiled},
    program::{self, Program},
    request::Request,
    run_folder::{self, RunFolder},
    session,
    subject::{has_checkpoints, is_compiled, newest_path},
    target::{Target, TargetOptions},
    task_metrics::TaskMetrics,
};
use mesh::task::check::Purpose;
use runtime::{
    Artefact, Interpreter,
    checkpoint::{Keep, Mapping, Pattern, Rule, folder::list, is_url},
    train::{self, Evaluator, Observer, Source, Spikes, Summary},
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    sync::Arc,
};

/// Arguments.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("text").args(FORMS).required(true)))]
#[command(group(ArgGroup::new("place").args(["run_dir", "checkpoint_dir"]).multiple(true)))]
pub struct Args {
    /// Model (built-in, .rs or .mesh), artefact directory, or checkpoint whose parameters training starts
    /// from
    #[arg(value_name = "MODEL|ARTEFACT|CHECKPOINT")]
    subject: PathBuf,
    /// Read options from a TOML file: names without dashes (steps = 100), a table [set] for --set. Options on
    /// the command line take precedence
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    #[command(flatten)]
    data: DataOptions,
    #[command(flatten)]
    settings: ModelArgs,
    #[command(flatten)]
    placement: PlacementArgs,
    /// Target: cpu, gpu, or a TPU slice such as tpu:v5e:2x4. Default: the platform of the plugin
    #[arg(long)]
    target: Option<Target>,
    #[command(flatten)]
    flags: FlagArgs,
    /// Number of steps
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = steps, allow_negative_numbers = true)]
    steps: u64,
    /// Seed of initialization, dropout and data order. Default: the seed of the checkpoint with --resume,
    /// else 0
    #[arg(long, value_name = "N", value_parser = whole_32, allow_negative_numbers = true)]
    seed: Option<u32>,
    /// Directory of the run: options, metrics.jsonl, tensorboard/ and checkpoints/, unless given separately
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Write no run directory. Default: runs/PROGRAM-N, unless --run-dir, --checkpoint-dir, --metrics,
    /// --tensorboard or several processes are given
    #[arg(long, conflicts_with = "run_dir")]
    no_run_dir: bool,
    /// Write a profile of the start and of N further steps to profile/ in the run directory: trace.json, and
    /// that of the plugin if it has a profiler
    #[arg(long, value_name = "N", conflicts_with = "no_run_dir", value_parser = steps, allow_negative_numbers = true)]
    profile: Option<u64>,
    /// Print the phases of the start with their times
    #[arg(long)]
    timings: bool,
    /// Write one JSON object per step, one per line, to this file; --resume appends
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Checkpoint that provides the initial parameters, such as the output of `meshc convert`
    #[arg(long, value_name = "CHECKPOINT")]
    from: Option<PathBuf>,
    /// Take the parameters TO from the tensors FROM of the checkpoint; `*` stands for any text; repeatable
    #[arg(long, value_name = "TO=FROM")]
    map: Vec<Rule>,
    /// Initialize parameters of this pattern that the checkpoint lacks; repeatable
    #[arg(long, value_name = "PATTERN")]
    allow_missing: Vec<Pattern>,
    /// Ignore tensors of this pattern in the checkpoint; repeatable
    #[arg(long, value_name = "PATTERN")]
    ignore: Vec<Pattern>,
    /// Distil the model in this checkpoint into MODEL: its settings become --set teacher.KEY=VALUE, and
    /// parameters come from it, unless --from names others
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "teacher_logits")]
    teacher: Option<PathBuf>,
    /// Do not train parameters of this pattern, as `--set freeze=PATTERN,…` does; repeatable
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Save the state to DIR/step_N after the last step, also if training is stopped
    #[arg(long, value_name = "DIR")]
    checkpoint_dir: Option<PathBuf>,
    /// Also save every N steps
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    save_every: Option<u64>,
    /// Keep the newest N checkpoints. Default: all, or 1 with --keep-every or --keep-best
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    keep: Option<usize>,
    /// Also keep the checkpoints of every N steps
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    keep_every: Option<u64>,
    /// Also keep the N checkpoints with the smallest held-out loss, and save after each evaluation that is
    /// the best so far
    #[arg(long, value_name = "N", requires = "eval_every", value_parser = at_least_one,
        allow_negative_numbers = true)]
    keep_best: Option<usize>,
    /// Continue from the newest valid checkpoint in the directory, if there is one. Without a directory, that
    /// of the newest run of the program in runs/
    #[arg(long)]
    resume: bool,
    /// Write TensorBoard events to this directory
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    /// Evaluate on held-out text every N steps
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    eval_every: Option<u64>,
    /// With --tasks: also generate at each evaluation and compute the metrics of the tasks; with --run-dir,
    /// the predictions are in RUN_DIR/predictions
    #[arg(long, requires = "tasks", requires = "eval_every")]
    eval_metrics: bool,
    /// Largest number of examples of each task for --eval-metrics. Default: all
    #[arg(long, value_name = "N", requires = "eval_metrics", value_parser = at_least_one,
        allow_negative_numbers = true)]
    eval_examples: Option<usize>,
    /// Value of evaluations, such as TASK/generate/accuracy, whose largest is best for --keep-best and
    /// --patience. Default: the smallest held-out loss
    #[arg(long, value_name = "METRIC", requires = "eval_every")]
    best: Option<String>,
    /// Text to evaluate on, in the forms of --data. Default: the held-out share of --data
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "eval_every", conflicts_with = "teacher_logits")]
    eval_data: Vec<PathBuf>,
    /// Largest number of batches per evaluation
    #[arg(long, value_name = "N", requires = "eval_every", value_parser = at_least_one,
        allow_negative_numbers = true)]
    eval_batches: Option<usize>,
    /// Share of the text, from its end, that is held out for evaluation. Default: 0.05 with --eval-every,
    /// else 0
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true)]
    held_out: Option<f64>,
    /// Stop after N evaluations in a row without a new best held-out loss
    #[arg(long, value_name = "N", requires = "eval_every", value_parser = steps, allow_negative_numbers = true)]
    patience: Option<u64>,
    /// Decrease of the held-out loss that counts as a new best
    #[arg(long, value_name = "NATS", default_value_t = 0.0, value_parser = not_negative,
        allow_negative_numbers = true)]
    min_delta: f64,
    /// Roll back to the last checkpoint and skip the batches since then if a loss exceeds the mean of the
    /// preceding losses by this many standard deviations
    #[arg(long, value_name = "SIGMAS", value_parser = positive, allow_negative_numbers = true)]
    spike_sigmas: Option<f64>,
    /// Number of preceding losses for --spike-sigmas
    #[arg(long, value_name = "N", default_value_t = Spikes::default().window, value_parser = at_least_two,
        allow_negative_numbers = true)]
    spike_window: usize,
    /// Largest number of rollbacks of a run
    #[arg(long, value_name = "N", default_value_t = Spikes::default().rollbacks, value_parser = whole_64,
        allow_negative_numbers = true)]
    max_rollbacks: u64,
    /// Stop after N skipped steps in a row (a step with non-finite gradients is skipped)
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = steps, allow_negative_numbers = true)]
    max_skipped: u64,
    /// Continue after non-finite losses and any number of skipped steps
    #[arg(long)]
    allow_non_finite: bool,
    /// Print the summary as one JSON object, and everything else to standard error
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hosts: HostArgs,
    /// Start the processes of --processes again from the newest checkpoint, at most N times, if one is lost
    #[arg(long, value_name = "N", requires = "processes", requires = "place", value_parser = whole,
        allow_negative_numbers = true)]
    restarts: Option<usize>,
    #[command(flatten)]
    plugin: PluginArgs,
    /// Every value and its origin.
    #[arg(skip)]
    pub resolved: Resolved,
}

/// Trains, or starts the processes that train.
pub fn run(args: Args) -> Result<ExitCode> {
    let hosts = HostOptions { restarts: args.restarts.unwrap_or(0), ..args.hosts.options() };
    if let Some(size) = launch::wanted(&hosts) {
        let logs = launch::logs(args.run_dir.as_deref())?;
        let signals = Signals::watch()?;
        signals.begin();
        return launch::run(&hosts, size, args.resume, &logs, &signals.stop, HOST.say);
    }
    environment(None)?;
    let signals = Signals::watch()?;
    let member = start::join(&hosts, &args.request())?;
    signals.tell(&member.job);
    let result = train(args, &member, &signals);
    member.end(result)
}

/// Trains, alone or as a member of a job.
fn train(args: Args, member: &Member, signals: &Signals) -> Result<ExitCode> {
    member.job.enter("load", 0);
    let mut profile = Profile::start("program and data");
    let resolved = Run::resolve(args, member).and_then(|run| {
        run.reserved.tell(signals);
        profile.phase("plugin");
        let backend = run.backend()?;
        let facts = backend.plugin().map_or(Ok(Facts::new()), |chosen| run.facts(chosen, member))?;
        Ok(((run, backend), facts))
    });
    let (run, backend) = agree(member, "start", resolved)?;
    let Run { reserved: _dropped_last, args, request, artefact, source, options, run_folder, .. } = run;
    let chosen = backend.plugin();
    let of_data = overview::source(&source);
    let before = format!("{}{}{of_data}", args.resolved.toml(), overview::artefact(&artefact.manifest));
    if args.json {
        err!("{before}");
    } else {
        out!("{before}");
    }
    profile.phase("client");
    let mut session = match chosen.filter(|_| member.is_in_job()) {
        Some(chosen) => several::session(&request, chosen, artefact, member)?,
        None => backend.session(&request, artefact)?,
    };
    let start = run_folder.as_ref().map_or(Value::Null, |_| run_folder::start(chosen, VERSION));
    let place = run_folder.as_ref().map(|folder| (folder, &start));
    let mut progress = progress(&args, member.job.is_first(), session.artefact(), place, signals);
    profile.phase("checkpoints and logs");
    let recorded = run_folder.as_ref().and_then(|folder| Some((args.profile?, folder.at("profile"))));
    let timings = args.timings.then_some(HOST.say);
    let plugin = chosen.map(|chosen| &chosen.plugin);
    let mut observer = Profiled::new(&mut progress, profile, plugin, recorded, timings);
    let result = train::run(&mut session, source.batches(), &options, &mut observer, &signals.stop);
    observer.end();
    progress.end();
    // A run that was refused keeps the description that an earlier run has written.
    let began = result.is_ok() || !session.compilations().is_empty();
    if let Some(folder) = run_folder.as_ref().filter(|_| began) {
        let described = folder.describe(
            &session.artefact().manifest,
            session.compilations(),
            progress.warnings(),
            &start,
        );
        if let Err(error) = described {
            progress.on_warning(&format!("{error:#}"));
        }
    }
    show(&args, result, signals)
}

/// Prints the results of a run.
fn show(args: &Args, result: runtime::Result<Summary>, signals: &Signals) -> Result<ExitCode> {
    let written = args.written();
    let summary = result.with_context(|| match written.as_str() {
        "" => "training stopped".to_owned(),
        written => format!("training stopped ({written})"),
    })?;
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        out!("{}", overview::run(&summary));
        if !written.is_empty() {
            outln!("{written}");
        }
        out!("{}", args.next());
    }
    if summary.stopped { Ok(ExitCode::from(signals.code())) } else { Ok(ExitCode::SUCCESS) }
}

/// A run directory that this process has created. It is removed at the end if nothing was written to it.
#[derive(Default)]
struct Reserved(Option<PathBuf>);

impl Reserved {
    /// Has the directory removed if a signal ends the process before training begins.
    fn tell(&self, signals: &Signals) {
        self.0.iter().for_each(|dir| signals.reserved(dir));
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.iter().for_each(|dir| run_folder::remove_unused(dir));
    }
}

/// A run, resolved from the arguments before a device is used.
struct Run {
    reserved: Reserved,
    args: Args,
    request: Request,
    artefact: Artefact,
    /// The interpreter of the program, if it takes the place of a plugin.
    interpreter: Option<Arc<dyn Interpreter>>,
    source: data::Source,
    options: train::Options,
    run_folder: Option<RunFolder>,
}

impl Run {
    fn resolve(mut args: Args, member: &Member) -> Result<Self> {
        args.run_dir.as_deref().map_or(Ok(()), RunFolder::check)?;
        args.check_place(member)?;
        // Rank 0 uses the folder for all. A run that cannot save is refused before anything is built.
        if let Some(folder) = args.checkpoints().filter(|_| member.job.is_first()) {
            train::check_folder(&folder, args.resume)?;
        }
        let mut request = Request { several_hosts: member.is_in_job(), ..args.request() };
        args.check_interpreter(&request, member)?;
        let teacher = args.add_teacher(&mut request)?;
        let program = if is_compiled(&args.subject) { None } else { Some(program(&args, &request)?) };
        let named = args.from.as_ref().or(has_checkpoints(&args.subject).then_some(&args.subject));
        let from = named.map(|dir| newest_path(dir, HOST.say)).transpose()?;
        let texts = args.data.open(&member.job, from.as_deref())?;
        let eval_texts = match args.eval_data.as_slice() {
            [] => None,
            files => Some(args.data.open_others(&member.job, files, &texts)?),
        };
        let (artefact, interpreter) = match &program {
            Some(program) if request.plugin.is_interpreter() => {
                let (artefact, interpreter) = interpreter::of_program(program, &request)?;
                (artefact, Some(interpreter))
            }
            Some(program) => (artefact::of_program(program, &request)?, None),
            None => (artefact::opened(&request)?, None),
        };
        let holds_out = args.eval_every.is_some() && eval_texts.is_none();
        let held_out = args.held_out.unwrap_or(if holds_out { 0.05 } else { 0.0 });
        let source = texts.source(&artefact, held_out)?;
        let eval_data: Option<Arc<dyn BatchSource>> = match eval_texts {
            Some(texts) => Some(texts.source(&artefact, 1.0)?.batches()),
            None => None,
        };
        let reserved = args.choose_run_dir(member, &artefact.manifest.program)?;
        // Rank 0 writes what exists once.
        let run_dir = args.run_dir.as_ref().filter(|_| member.job.is_first());
        let run_folder = run_dir.map(|dir| RunFolder::create(dir)).transpose()?;
        args.complete(&artefact, held_out);
        let record = run_folder.as_ref().map(|folder| folder.at(run_folder::LOADED));
        let from = Source::new(from, args.mapping(), record)?;
        let target: Option<Target> = artefact.manifest.target.parse().ok();
        let peak = target.as_ref().and_then(Target::slice).map(|slice| slice.speed().flops);
        let evaluator = args.evaluator(&request, &source, run_folder.as_ref())?;
        let options = train::Options {
            from,
            teacher,
            eval_data,
            evaluator,
            peak,
            job: member.job.clone(),
            ..args.options()
        };
        Ok(Self { reserved, args, request, artefact, interpreter, source, options, run_folder })
    }

    /// Loads the plugin, unless the interpreter takes its place.
    fn backend(&self) -> Result<Backend> {
        match &self.interpreter {
            Some(interpreter) => Ok(Backend::Interpreter(interpreter.clone())),
            None => Ok(Backend::Plugin(device::load_for(&self.request, &self.artefact)?)),
        }
    }

    /// Returns the facts that must be equal in all processes of a job.
    fn facts(&self, chosen: &Chosen, member: &Member) -> Result<Facts> {
        if !member.is_in_job() {
            return Ok(Facts::new());
        }
        let mut facts = agree::of_program()?;
        facts.extend(agree::of_options(self.args.resolved.values()));
        facts.insert("plugin".to_owned(), agree::digest(&chosen.found.path)?);
        facts.insert("program".to_owned(), agree::of_artefact(&self.artefact)?);
        facts.insert("data".to_owned(), self.source.batches().digest());
        facts.insert("tokenizer".to_owned(), self.source.batches().tokenizer_identity().to_owned());
        if let Some(data) = &self.options.eval_data {
            facts.insert("data of --eval-data".to_owned(), data.digest());
        }
        if let Some(folder) = self.args.checkpoint_dir.as_ref().filter(|_| self.args.resume) {
            let newest = list(folder)?.into_iter().rev().find(|found| found.checkpoint.is_ok());
            let step = newest.map_or("none".to_owned(), |found| format!("step {}", found.step));
            facts.insert("checkpoint to resume from".to_owned(), step);
        }
        Ok(facts)
    }
}

/// Returns the observer of a run, which writes the options and the description of the run when training
/// begins.
fn progress(
    args: &Args,
    is_first: bool,
    artefact: &Artefact,
    run: Option<(&RunFolder, &Value)>,
    signals: &Signals,
) -> Progress {
    let folder = args.run_dir.clone().or(args.checkpoint_dir.clone());
    let folder = folder.filter(|folder| is_first && !is_url(folder));
    let (options, manifest) = (args.resolved.toml(), artefact.manifest.clone());
    let run = run.map(|(folder, start)| (folder.clone(), start.clone()));
    Progress::new(args.steps, signals.stop.clone()).at_state(signals.beginning()).first(move || {
        folder.map_or(Ok(()), |folder| run_folder::keep_config(&folder, &options))?;
        run.map_or(Ok(()), |(run, start)| run.describe(&manifest, &[], &[], &start))
    })
}

impl Args {
    fn request(&self) -> Request {
        Request {
            settings: self.settings.options().with("freeze", &self.freeze),
            placement: self.placement.options(),
            target: TargetOptions { target: self.target.clone(), ..TargetOptions::default() },
            flags: self.flags.options(),
            plugin: self.plugin.options(),
            ..Request::new(&self.subject, HOST)
        }
    }

    /// Refuses what the interpreter cannot do.
    fn check_interpreter(&self, request: &Request, member: &Member) -> Result<()> {
        if !request.plugin.is_interpreter() {
            return Ok(());
        }
        interpreter::check(request)?;
        let given = [
            ("--profile", self.profile.is_some()),
            ("--eval-metrics", self.eval_metrics),
            ("--processes", member.is_in_job()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((option, _)) => Err(interpreter::unused(option)),
            None => Ok(()),
        }
    }

    /// Adds the settings of the teacher. Returns its checkpoint if the parameters come from another one;
    /// otherwise they come from the teacher's.
    fn add_teacher(&mut self, request: &mut Request) -> Result<Option<PathBuf>> {
        if let Some(file) = &self.data.teacher_logits {
            session::add_teacher_logits(request, file)?;
        }
        let Some(dir) = &self.teacher else { return Ok(None) };
        let teacher = session::add_teacher(request, dir, self.from.as_deref())?;
        if self.from.is_some() {
            return Ok(Some(teacher));
        }
        self.from = Some(teacher);
        Ok(None)
    }

    /// True if the options name no place for what the run writes.
    fn has_default_run_dir(&self) -> bool {
        let named = [&self.run_dir, &self.checkpoint_dir, &self.metrics, &self.tensorboard];
        !self.no_run_dir && named.iter().all(|place| place.is_none())
    }

    /// Refuses options of checkpoints and profiles for a run that has no place for them.
    fn check_place(&self, member: &Member) -> Result<()> {
        let has_default = self.has_default_run_dir() && !member.is_in_job();
        if self.profile.is_some() && self.run_dir.is_none() && !has_default {
            return Err(failure(
                "`--profile` writes to a run directory, and there is none",
                "add --run-dir DIR",
            ));
        }
        if self.checkpoints().is_some() || has_default {
            return Ok(());
        }
        let given = [
            ("--save-every", self.save_every.is_some()),
            ("--keep", self.keep.is_some()),
            ("--keep-every", self.keep_every.is_some()),
            ("--keep-best", self.keep_best.is_some()),
            ("--resume", self.resume),
            ("--spike-sigmas", self.spike_sigmas.is_some()),
        ];
        match given.iter().find(|(_, is_given)| *is_given) {
            None => Ok(()),
            Some((option, _)) => Err(failure(
                format!("`{option}` needs a directory for checkpoints, and this run has none"),
                "add --run-dir DIR or --checkpoint-dir DIR",
            )),
        }
    }

    /// Chooses the run directory unless one is given: with `--resume`, the newest one of the program that has
    /// checkpoints; otherwise, and if there is none, a new one, which is returned.
    fn choose_run_dir(&mut self, member: &Member, program: &str) -> Result<Reserved> {
        if !self.has_default_run_dir() || member.is_in_job() {
            return Ok(Reserved::default());
        }
        let runs = Path::new("runs");
        let has_checkpoints =
            |dir: &PathBuf| list(&dir.join(run_folder::CHECKPOINTS)).is_ok_and(|found| !found.is_empty());
        let before = if self.resume { numbered_folders(runs, program)? } else { Vec::new() };
        if let Some(newest) = before.into_iter().rev().find(has_checkpoints) {
            (HOST.say)(&format!("--resume: the newest run of `{program}` is in {}", newest.display()));
            train::check_folder(&newest.join(run_folder::CHECKPOINTS), true)?;
            self.run_dir = Some(newest);
            return Ok(Reserved::default());
        }
        let new = numbered_folder(runs, program)?;
        self.run_dir = Some(new.clone());
        Ok(Reserved(Some(new)))
    }

    /// Returns the commands that continue with the results of the run; empty without checkpoints.
    fn next(&self) -> String {
        let has_checkpoints = |folder: &&PathBuf| list(folder).is_ok_and(|found| !found.is_empty());
        let (Some(dir), Some(_)) = (&self.run_dir, self.checkpoint_dir.as_ref().filter(has_checkpoints))
        else {
            return String::new();
        };
        let dir = dir.display();
        format!(
            "next:\n  meshc runs {dir}\n  meshc generate {dir} --input FILE\n  meshc train --config \
             {dir}/config.toml --resume --steps {}\n",
            self.steps * 2
        )
    }

    /// Returns the folder of checkpoints, if the run saves any.
    fn checkpoints(&self) -> Option<PathBuf> {
        let of_run = || self.run_dir.as_ref().map(|dir| dir.join(run_folder::CHECKPOINTS));
        self.checkpoint_dir.clone().or_else(of_run)
    }

    /// Completes values that derive from other options, and records them with the meta entries of the model.
    fn complete(&mut self, artefact: &Artefact, held_out: f64) {
        let all = &mut self.resolved;
        if let Some(dir) = &self.run_dir {
            // An option, so that `--config` of this file resumes the run.
            all.derive("run-dir", &dir.display().to_string(), Origin::Default);
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
        // A resumed run takes the seed of the checkpoint.
        if !self.resume {
            all.derive("seed", "0", Origin::Derived);
        }
        let manifest = &artefact.manifest;
        all.derive("target", &manifest.target, Origin::Derived);
        all.derive("layout", &manifest.layout, Origin::Model);
        all.derive("state-layout", &manifest.state_layout, Origin::Model);
        manifest.meta.iter().for_each(|(key, value)| all.meta(key, value));
    }

    /// Returns what computes the metrics of tasks, if they are wanted.
    fn evaluator(
        &self,
        request: &Request,
        source: &data::Source,
        run: Option<&RunFolder>,
    ) -> Result<Option<Rc<dyn Evaluator>>> {
        if !self.eval_metrics {
            return Ok(None);
        }
        if self.data.tasks.is_empty() {
            return Err(failure("`--eval-metrics` has no effect without tasks", "name tasks with --tasks"));
        }
        let wanted = self.data.examples(self.eval_examples)?;
        let folder = run.map(|folder| folder.at(run_folder::PREDICTIONS));
        Ok(Some(Rc::new(TaskMetrics::new(request, wanted, source.tokenizer().clone(), folder)?)))
    }

    fn mapping(&self) -> Mapping {
        let Self { map: rules, allow_missing, ignore, .. } = self;
        let (rules, allow_missing, ignore) = (rules.clone(), allow_missing.clone(), ignore.clone());
        Mapping { rules, allow_missing, ignore, ..Mapping::default() }
    }

    /// Returns the options of the training loop.
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
            settings: train::Settings {
                text: self.resolved.toml(),
                values: self
                    .resolved
                    .values()
                    .map(|(key, value)| (key, value.trim_matches('"').to_owned()))
                    .collect(),
            },
            saving: self.checkpoint_dir.as_ref().map(saving),
            eval_every: self.eval_every,
            eval_batches: self.eval_batches,
            best: self.best.clone(),
            patience: self.patience,
            min_delta: self.min_delta,
            spikes: self.spike_sigmas.map(spikes),
            max_skipped: self.max_skipped,
            allow_non_finite: self.allow_non_finite,
            ..train::Options::default()
        }
    }

    /// Returns a sentence about the files that the run has written; empty if there are none.
    fn written(&self) -> String {
        let mut all = Vec::new();
        if let Some(path) = self.metrics.as_ref().filter(|path| path.exists()) {
            all.push(format!("metrics of the finished steps are in {}", path.display()));
        }
        let has_checkpoints = |folder: &&PathBuf| list(folder).is_ok_and(|found| !found.is_empty());
        if let Some(folder) = self.checkpoint_dir.as_ref().filter(has_checkpoints) {
            all.push(format!("checkpoints are in {}", folder.display()));
        }
        all.join("; ")
    }
}

/// Returns the program of the model, ready for training.
fn program(args: &Args, request: &Request) -> Result<Program> {
    let program = program::load(request)?;
    program.require(Purpose::Train)?;
    if args.eval_every.is_some() {
        program.require(Purpose::Evaluate)?;
    }
    Ok(program)
}

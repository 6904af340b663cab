//! Arguments of `meshc train`.

use crate::{
    args::{
        config::{Origin, Resolved},
        data::{self, DataOptions, FORMS},
        hosts::HostArgs,
        model::ModelArgs,
        placement::PlacementArgs,
        plugin::{FlagArgs, PluginArgs},
        ranges::{
            at_least_one, at_least_two, not_negative, positive, share, steps, whole, whole_32, whole_64,
        },
    },
    output::host::HOST,
};
use anyhow::Result;
use clap::ArgGroup;
use driver::{
    failure::failure,
    hosts::member::Member,
    interpreter,
    request::Request,
    run_folder::{self, Reserved, RunFolder},
    session,
    target::{Target, TargetOptions},
    task_metrics::TaskMetrics,
};
use runtime::{
    Artefact,
    checkpoint::{Keep, Mapping, Pattern, Rule, folder::list},
    train::{self, Evaluator, Spikes},
};
use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

/// Arguments.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("text").args(FORMS).required(true)))]
#[command(group(ArgGroup::new("place").args(["run_dir", "checkpoint_dir"]).multiple(true)))]
pub struct Args {
    /// Model (built-in, .rs or .mesh), artefact directory, or checkpoint whose parameters training starts
    /// from
    #[arg(value_name = "MODEL|ARTEFACT|CHECKPOINT")]
    pub(super) subject: PathBuf,
    /// Read options from a TOML file: names without dashes (steps = 100), a table `[set]` for --set. Options
    /// on the command line take precedence
    #[arg(long, value_name = "FILE.toml")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) data: DataOptions,
    #[command(flatten)]
    pub(super) settings: ModelArgs,
    #[command(flatten)]
    pub(super) placement: PlacementArgs,
    /// Target: cpu, gpu, or a TPU slice such as tpu:v5e:2x4. Default: the platform of the plugin
    #[arg(long)]
    pub(super) target: Option<Target>,
    #[command(flatten)]
    pub(super) flags: FlagArgs,
    /// Number of steps
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = steps, allow_negative_numbers = true)]
    pub(super) steps: u64,
    /// Seed of initialization, dropout and data order. Default: the seed of the checkpoint with --resume,
    /// else 0
    #[arg(long, value_name = "N", value_parser = whole_32, allow_negative_numbers = true)]
    pub(super) seed: Option<u32>,
    /// Directory of the run: options, metrics.jsonl, tensorboard/ and checkpoints/, unless given separately
    #[arg(long, value_name = "DIR")]
    pub(super) run_dir: Option<PathBuf>,
    /// Write no run directory. Default: runs/PROGRAM-N, unless --run-dir, --checkpoint-dir, --metrics,
    /// --tensorboard or several processes are given
    #[arg(long, conflicts_with = "run_dir")]
    pub(super) no_run_dir: bool,
    /// Write a profile of the start and of N further steps to profile/ in the run directory: trace.json, and
    /// that of the plugin if it has a profiler
    #[arg(long, value_name = "N", conflicts_with = "no_run_dir", value_parser = steps, allow_negative_numbers = true)]
    pub(super) profile: Option<u64>,
    /// Print the phases of the start with their times
    #[arg(long)]
    pub(super) timings: bool,
    /// Write one JSON object per step, one per line, to this file; --resume appends
    #[arg(long, value_name = "FILE")]
    pub(super) metrics: Option<PathBuf>,
    /// Checkpoint that provides the initial parameters, such as the output of `meshc convert`
    #[arg(long, value_name = "CHECKPOINT")]
    pub(super) from: Option<PathBuf>,
    /// Take the parameters TO from the tensors FROM of the checkpoint; `*` stands for any text; repeatable
    #[arg(long, value_name = "TO=FROM")]
    pub(super) map: Vec<Rule>,
    /// Initialize parameters of this pattern that the checkpoint lacks; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(super) allow_missing: Vec<Pattern>,
    /// Ignore tensors of this pattern in the checkpoint; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(super) ignore: Vec<Pattern>,
    /// Distil the model in this checkpoint into MODEL: its settings become --set teacher.KEY=VALUE, and
    /// parameters come from it, unless --from names others
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "teacher_logits")]
    pub(super) teacher: Option<PathBuf>,
    /// Do not train parameters of this pattern, as `--set freeze=PATTERN,…` does; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(super) freeze: Vec<String>,
    /// Save the state to DIR/step_N after the last step, also if training is stopped
    #[arg(long, value_name = "DIR")]
    pub(super) checkpoint_dir: Option<PathBuf>,
    /// Also save every N steps
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    pub(super) save_every: Option<u64>,
    /// Keep the newest N checkpoints. Default: all, or 1 with --keep-every or --keep-best
    #[arg(long, value_name = "N", value_parser = at_least_one, allow_negative_numbers = true)]
    pub(super) keep: Option<usize>,
    /// Also keep the checkpoints of every N steps
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    pub(super) keep_every: Option<u64>,
    /// Also keep the N checkpoints with the smallest held-out loss, and save after each evaluation that is
    /// the best so far
    #[arg(long, value_name = "N", requires = "eval_every", value_parser = at_least_one,
        allow_negative_numbers = true)]
    pub(super) keep_best: Option<usize>,
    /// Continue from the newest valid checkpoint in the directory, if there is one. Without a directory, that
    /// of the newest run of the program in runs/
    #[arg(long)]
    pub(super) resume: bool,
    /// Write TensorBoard events to this directory
    #[arg(long, value_name = "DIR")]
    pub(super) tensorboard: Option<PathBuf>,
    /// Evaluate on held-out text every N steps
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    pub(super) eval_every: Option<u64>,
    /// With --tasks: also generate at each evaluation and compute the metrics of the tasks; with --run-dir,
    /// the predictions are in RUN_DIR/predictions
    #[arg(long, requires = "tasks", requires = "eval_every")]
    pub(super) eval_metrics: bool,
    /// Largest number of examples of each task for --eval-metrics. Default: all
    #[arg(long, value_name = "N", requires = "eval_metrics", value_parser = at_least_one,
        allow_negative_numbers = true)]
    pub(super) eval_examples: Option<usize>,
    /// Value of evaluations, such as TASK/generate/accuracy, whose largest is best for --keep-best and
    /// --patience. Default: the smallest held-out loss
    #[arg(long, value_name = "METRIC", requires = "eval_every")]
    pub(super) best: Option<String>,
    /// Text to evaluate on, in the forms of --data. Default: the held-out share of --data
    #[arg(long, num_args = 1.., value_name = "FILE", requires = "eval_every", conflicts_with = "teacher_logits")]
    pub(super) eval_data: Vec<PathBuf>,
    /// Largest number of batches per evaluation
    #[arg(long, value_name = "N", requires = "eval_every", value_parser = at_least_one,
        allow_negative_numbers = true)]
    pub(super) eval_batches: Option<usize>,
    /// Share of the text, from its end, that is held out for evaluation. Default: 0.05 with --eval-every,
    /// else 0
    #[arg(long, value_name = "SHARE", value_parser = share, allow_negative_numbers = true)]
    pub(super) held_out: Option<f64>,
    /// Stop after N evaluations in a row without a new best held-out loss
    #[arg(long, value_name = "N", requires = "eval_every", value_parser = steps, allow_negative_numbers = true)]
    pub(super) patience: Option<u64>,
    /// Decrease of the held-out loss that counts as a new best
    #[arg(long, value_name = "NATS", default_value_t = 0.0, value_parser = not_negative,
        allow_negative_numbers = true)]
    pub(super) min_delta: f64,
    /// Roll back to the last checkpoint and skip the batches since then if a loss exceeds the mean of the
    /// preceding losses by this many standard deviations
    #[arg(long, value_name = "SIGMAS", value_parser = positive, allow_negative_numbers = true)]
    pub(super) spike_sigmas: Option<f64>,
    /// Number of preceding losses for --spike-sigmas
    #[arg(long, value_name = "N", default_value_t = Spikes::default().window, value_parser = at_least_two,
        allow_negative_numbers = true)]
    pub(super) spike_window: usize,
    /// Largest number of rollbacks of a run
    #[arg(long, value_name = "N", default_value_t = Spikes::default().rollbacks, value_parser = whole_64,
        allow_negative_numbers = true)]
    pub(super) max_rollbacks: u64,
    /// Stop after N skipped steps in a row (a step with non-finite gradients is skipped)
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = steps, allow_negative_numbers = true)]
    pub(super) max_skipped: u64,
    /// Continue after non-finite losses and any number of skipped steps
    #[arg(long)]
    pub(super) allow_non_finite: bool,
    /// Print the summary as one JSON object, and everything else to standard error
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) hosts: HostArgs,
    /// Start the processes of --processes again from the newest checkpoint, at most N times, if one is lost
    #[arg(long, value_name = "N", requires = "processes", requires = "place", value_parser = whole,
        allow_negative_numbers = true)]
    pub(super) restarts: Option<usize>,
    #[command(flatten)]
    pub(super) plugin: PluginArgs,
    /// Every value and its origin.
    #[arg(skip)]
    pub resolved: Resolved,
}

impl Args {
    pub(super) fn request(&self) -> Request {
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
    pub(super) fn check_interpreter(&self, request: &Request, member: &Member) -> Result<()> {
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
    pub(super) fn add_teacher(&mut self, request: &mut Request) -> Result<Option<PathBuf>> {
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
    pub(super) fn check_place(&self, member: &Member) -> Result<()> {
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

    /// Chooses the run directory unless one is given.
    pub(super) fn choose_run_dir(&mut self, member: &Member, program: &str) -> Result<Reserved> {
        if !self.has_default_run_dir() || member.is_in_job() {
            return Ok(Reserved::default());
        }
        let (dir, reserved) = run_folder::choose(Path::new("runs"), program, self.resume, &HOST)?;
        self.run_dir = Some(dir);
        Ok(reserved)
    }

    /// Returns the commands that continue with the results of the run; empty without checkpoints.
    pub(super) fn next(&self) -> String {
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
    pub(super) fn checkpoints(&self) -> Option<PathBuf> {
        let of_run = || self.run_dir.as_ref().map(|dir| dir.join(run_folder::CHECKPOINTS));
        self.checkpoint_dir.clone().or_else(of_run)
    }

    /// Completes values that derive from other options, and records them with the meta entries of the model.
    pub(super) fn complete(&mut self, artefact: &Artefact, held_out: f64) {
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
    pub(super) fn evaluator(
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

    pub(super) fn mapping(&self) -> Mapping {
        let Self { map: rules, allow_missing, ignore, .. } = self;
        let (rules, allow_missing, ignore) = (rules.clone(), allow_missing.clone(), ignore.clone());
        Mapping { rules, allow_missing, ignore, ..Mapping::default() }
    }

    /// Returns the options of the training loop.
    pub(super) fn options(&self) -> train::Options {
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
    pub(super) fn written(&self) -> String {
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

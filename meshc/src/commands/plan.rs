//! `meshc plan`: searches for a mesh, layouts and a schedule for a model on a TPU slice.

use crate::{
    args::{
        model::ModelArgs,
        placement::PlacementArgs,
        plugin::{FlagArgs, PluginArgs, TargetArgs, environment},
        ranges::{at_least_one, not_negative, whole},
    },
    output::{
        host::HOST,
        signals::Signals,
        stream::{errln, out, outln},
    },
};
use anyhow::Result;
use compiler::cost::target::Slice;
use driver::{
    failure::failure,
    files::cache,
    measured::measure,
    placement::{PlacementOptions, check_devices},
    planned::Variants,
    program,
    request::Request,
    settings::Settings,
    target::Target,
};
use indicatif::{ProgressBar, ProgressStyle};
use plan::{
    Budget, Cache, Candidate, Compile, Evaluator, Fixed, Limits, Ranked, Seen, Verified, moves, search,
    verify,
    verify::{describe, seconds},
};
use report::{compiled::Compiled, table::size};
use serde_json::{Value, json};
use std::{
    env, fs,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::Ordering,
    time::{Duration, Instant, UNIX_EPOCH},
};

/// The share of the time budget after which the search tries no more changes, so that time is left for
/// compilations.
const SEARCH_SHARE: f64 = 0.5;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Model: built-in (see `meshc models`), a Rust program (.rs) or program text (.mesh)
    model: PathBuf,
    /// Given schedule entries are fixed; the others are searched.
    #[command(flatten)]
    settings: ModelArgs,
    /// A given mesh and given layouts are fixed; the others are searched.
    #[command(flatten)]
    placement: PlacementArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    flags: FlagArgs,
    /// Function to plan for
    #[arg(long, default_value = "train_step")]
    function: String,
    /// Number of best candidates to compile with libtpu, one per mesh and number of microbatches; 0 for none
    #[arg(long, value_name = "K", default_value_t = 4, value_parser = whole, allow_negative_numbers = true)]
    verify: usize,
    /// Time budget in minutes: after half of it no more rules are tried, and no compilation starts that would
    /// exceed it
    #[arg(long, value_name = "MINUTES", default_value_t = 10.0, value_parser = not_negative,
        allow_negative_numbers = true)]
    within: f64,
    /// Number of candidates to print
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_one, allow_negative_numbers = true)]
    top: usize,
    /// Ignore cached estimates and compilations, and cache nothing
    #[arg(long)]
    no_cache: bool,
    /// Print the candidates as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plugin: PluginArgs,
}

/// A search, resolved from the arguments.
struct Job<'a> {
    args: &'a Args,
    request: Request,
    target: Target,
    slice: Slice,
}

/// Plans.
pub fn run(args: &Args) -> Result<ExitCode> {
    environment(Some(&args.target.target))?;
    let job = Job::resolve(args)?;
    let Job { request, target, slice, .. } = &job;
    let since = Instant::now();
    let program = program::load_for_search(request)?;
    let function = program.module.require_function(&args.function);
    let function = function.map_err(|d| program.mistakes(&d.into()))?;
    let cache = if args.no_cache { None } else { Some(estimates()?) };
    let model = Variants { request };
    let evaluator = Evaluator::new(&model, &args.function, slice, cache);
    let PlacementOptions { mesh, layout, state_layout } = request.placement.clone();
    let fixed = &Fixed { mesh, layout, state_layout };
    let is_given = |key: &str| request.settings.sets(key);
    let mut space = plan::space(&evaluator, &program.module, slice.devices(), fixed, &is_given);
    space.dims = moves::dims(&program.module, function);
    let signals = Signals::watch()?;
    // From here on, a stop prints the results so far.
    signals.begin();
    let bar = bar();
    let best = |ranked: &Ranked| format!("{} {}", ranked.candidate.mesh, seconds(ranked.estimate.seconds()));
    let progress = |done: usize, all: usize, found: Option<&Ranked>| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(found.map_or_else(String::new, best));
    };
    // A year, to which larger values are reduced, is a duration on every platform.
    let within = Duration::from_secs_f64((args.within * 60.0).min(31e6));
    let share = if args.verify == 0 { 1.0 } else { SEARCH_SHARE };
    let limits = Limits { stop: &signals.stop, until: Some(since + within.mul_f64(share)) };
    let found = search(&evaluator, &space, slice.hbm(), limits, &progress);
    bar.finish_and_clear();
    if found.ranked.is_empty() && !signals.stop.load(Ordering::Relaxed) {
        return Err(failure(
            format!(
                "no mesh over the {} devices of {} is valid for `{}`",
                slice.devices(),
                target,
                args.model.display()
            ),
            "choose one and run `meshc check --mesh` to see the reason",
        ));
    }
    let mut verified: Vec<Verified> = found.ranked.iter().cloned().map(Verified::from).collect();
    let searched = since.elapsed();
    let budget = Budget { candidates: args.verify, since, within };
    if verify(&mut verified, slice, &budget, &Libtpu { job: &job, signals: &signals })? {
        errln!("stopped compiling: the next compilation would exceed `--within {}` minutes", args.within);
    }
    say(&job, &found, &verified, searched)?;
    if signals.stop.load(Ordering::Relaxed) {
        errln!("stopped early: these are the best candidates so far");
        Ok(ExitCode::from(signals.code()))
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

impl<'a> Job<'a> {
    fn resolve(args: &'a Args) -> Result<Self> {
        let request = Request {
            settings: args.settings.options(),
            placement: args.placement.options(),
            target: args.target.options()?,
            flags: args.flags.options(),
            plugin: args.plugin.options(),
            ..Request::new(&args.model, HOST)
        };
        let target = request.target.target.clone().unwrap_or_default();
        let Some(slice) = target.slice().cloned() else {
            let help = "name a slice with --target, such as --target tpu:v5e:4x8";
            return Err(failure(format!("`--target {target}`: plans are for TPU slices only"), help));
        };
        if let Some(mesh) = &request.placement.mesh {
            check_devices(mesh, &target, slice.devices())?;
        }
        Ok(Self { args, request, target, slice })
    }
}

/// The compiler of TPUs.
struct Libtpu<'a> {
    job: &'a Job<'a>,
    signals: &'a Signals,
}

impl Compile for Libtpu<'_> {
    fn compile(&self, number: usize, candidate: &Candidate) -> Result<Option<Result<Compiled, String>>> {
        let Job { args, request, target, .. } = self.job;
        errln!("compiling {number}/{} for {target}: {}", args.verify, candidate.options());
        let placement = candidate.placement()?;
        let mut program = program::load_placed(&request.scheduled(&candidate.schedule), &placement)?;
        program.module.functions.retain(|f| *f.name == *args.function);
        measure(request, target, &program, &placement, !args.no_cache, &self.signals.stop)
    }

    fn is_stopped(&self) -> bool {
        self.signals.stop.load(Ordering::Relaxed)
    }
}

/// Returns the cache of estimates. Other builds of this program do not share them.
fn estimates() -> Result<Cache> {
    let this = env::current_exe().and_then(fs::metadata)?;
    let changed = this.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let version = format!("{} {} {changed}", env!("CARGO_PKG_VERSION"), this.len());
    Ok(Cache { folder: cache()?.join("plans"), version })
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    // The template is a valid constant; the default style would do as well.
    if let Ok(style) = ProgressStyle::with_template("{elapsed} [{bar:24}] {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Returns the command that compiles a candidate.
fn command(job: &Job<'_>, candidate: &Candidate) -> String {
    let Job { request, target, .. } = job;
    let Settings { dtype, settings, schedule } = &request.settings;
    let mut words = vec![format!("meshc compile {} --target {target}", request.subject.display())];
    words.extend(dtype.iter().map(|d| format!("--dtype {d}")));
    words.extend(settings.iter().map(|s| format!("--set {s}")));
    words.extend(schedule.iter().map(|s| format!("--schedule {s}")));
    words.extend(request.flags.words());
    words.push(candidate.options());
    words.join(" ")
}

fn say(job: &Job<'_>, found: &Seen, verified: &[Verified], searched: Duration) -> Result<()> {
    let Job { args, target, slice, .. } = job;
    let some = &verified[..verified.len().min(args.top)];
    if args.json {
        let object = |v: &Verified| v.json(slice, &command(job, &v.ranked.candidate));
        let candidates: Vec<Value> = some.iter().map(object).collect();
        let all = json!({
            "model": args.model.display().to_string(),
            "target": target.to_string(),
            "function": args.function,
            "estimated": found.ranked.len(),
            "illegal": found.illegal,
            "search_seconds": searched.as_secs_f64(),
            "candidates": candidates,
        });
        outln!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    outln!(
        "{} candidates estimated for {target} in {:.0} s, {} invalid; memory per device {}",
        found.ranked.len(),
        searched.as_secs_f64(),
        found.illegal,
        size(slice.hbm())
    );
    let mut text = String::new();
    describe(&mut text, some, slice)?;
    out!("{text}");
    match verified.first() {
        Some(best) if best.fits(slice) => outln!("{}", command(job, &best.ranked.candidate)),
        Some(_) => outln!("no candidate fits by the estimate: use a larger slice"),
        None => {}
    }
    Ok(())
}

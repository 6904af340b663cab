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
use anyhow::{Context, Result};
use compiler::{
    artefact::{Artefact, digest},
    cost::target::Slice,
    pipeline::Stage,
};
use driver::{
    ahead::Ahead,
    device,
    failure::failure,
    files::{cache, write_file},
    lower::{Watch, emit, lower},
    placement::{PlacementOptions, check_devices},
    program::{self, Program},
    request::Request,
    settings::Settings,
    target::Target,
};
use indicatif::{ProgressBar, ProgressStyle};
use mesh::{
    Module,
    schedule::{ENTRIES, Entry},
};
use plan::{Cache, Candidate, Estimate, Evaluator, Fixed, Ranked, Seen, Space, search};
use report::{
    compiled::Compiled,
    table::{count, size, table},
};
use serde_json::{Value, json};
use std::{
    env, fs,
    path::PathBuf,
    process::ExitCode,
    sync::{atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

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
    /// Time budget in minutes: stop starting compilations that would exceed it
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

/// A candidate and the result of its compilation.
struct Shown {
    ranked: Ranked,
    /// `None` if it was not compiled; the plugin's message if it does not fit.
    compiled: Option<Result<Compiled, String>>,
}

/// Plans.
pub fn run(args: &Args) -> Result<ExitCode> {
    environment(Some(&args.target.target))?;
    let job = Job::resolve(args)?;
    let Job { request, target, slice, .. } = &job;
    let since = Instant::now();
    let program = program::load(request)?;
    program.module.require_function(&args.function).map_err(|d| program.mistakes(&d.into()))?;
    let cache = if args.no_cache { None } else { Some(estimates()?) };
    let evaluator = Evaluator::new(&job, &args.function, slice, cache);
    let PlacementOptions { mesh, layout, state_layout } = request.placement.clone();
    let mut space = Space::new(&program.module, slice.devices(), &Fixed { mesh, layout, state_layout });
    space.entries = entries(request, &evaluator);
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
    let found = search(&evaluator, &space, slice.hbm(), &signals.stop, &progress);
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
    let mut shown: Vec<Shown> =
        found.ranked.iter().cloned().map(|ranked| Shown { ranked, compiled: None }).collect();
    let searched = since.elapsed();
    verify(&job, &signals, since, &mut shown)?;
    say(&job, &found, &shown, searched)?;
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

impl plan::Model for Job<'_> {
    fn program(&self, schedule: &[String]) -> Option<Module> {
        program::load_variant(&self.request.scheduled(schedule)).ok().map(|program| program.module)
    }
}

/// Returns the cache of estimates. Other builds of this program do not share them.
fn estimates() -> Result<Cache> {
    let this = env::current_exe().and_then(fs::metadata)?;
    let changed = this.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let version = format!("{} {} {changed}", env!("CARGO_PKG_VERSION"), this.len());
    Ok(Cache { folder: cache()?.join("plans"), version })
}

/// Returns the schedule entries to search: those that the model reads and the user has not fixed.
fn entries(request: &Request, evaluator: &Evaluator) -> Vec<Vec<String>> {
    let fixed = || request.settings.settings.iter().chain(&request.settings.schedule);
    let given = |key: &str| fixed().any(|s| s.split('=').next().map(str::trim) == Some(key));
    // An entry that changes no function is not read by this model.
    let functions = |schedule: &[String]| evaluator.program(schedule).map(|m| m.functions);
    let own = functions(&[]);
    let values = |entry: &Entry| -> Vec<String> {
        let words = entry.candidates.iter().map(|value| format!("{}={value}", entry.key));
        // A value that changes nothing is the model's default.
        words.filter(|w| functions(std::slice::from_ref(w)).is_some_and(|f| Some(f) != own)).collect()
    };
    ENTRIES.iter().filter(|k| !given(k.key)).map(values).filter(|v| !v.is_empty()).collect()
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    // The template is a valid constant; the default style would do as well.
    if let Ok(style) = ProgressStyle::with_template("{elapsed} [{bar:24}] {pos}/{len} {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Compiles the best candidates with libtpu until `--verify` of them fit, then sorts these first, by libtpu's
/// cycles.
///
/// Of the candidates with the same mesh and number of microbatches only one that fits is compiled: the
/// estimates are less exact between such groups than within one.
fn verify(job: &Job<'_>, signals: &Signals, since: Instant, shown: &mut [Shown]) -> Result<()> {
    let Job { args, target, .. } = job;
    // A candidate that does not fit by the estimate may fit: one more than requested is compiled.
    let (mut fit, mut tried, mut longest) = (Vec::new(), 0, Duration::ZERO);
    let too_late = |longest: Duration| (since.elapsed() + longest).as_secs_f64() > args.within * 60.0;
    for row in shown.iter_mut() {
        if fit.len() == args.verify || tried > args.verify || signals.stop.load(Ordering::Relaxed) {
            break;
        }
        let candidate = row.ranked.candidate.clone();
        let kind = candidate.kind();
        if fit.contains(&kind) {
            continue;
        }
        if tried > 0 && too_late(longest) {
            errln!("stopped compiling: the next compilation would exceed `--within {}` minutes", args.within);
            break;
        }
        let begin = Instant::now();
        errln!("compiling {}/{} for {}: {}", tried + 1, args.verify, target, options(&candidate));
        let mut program = program::load_variant(&job.request.scheduled(&candidate.schedule))?;
        program.module.functions.retain(|f| *f.name == *args.function);
        let artefact = artefact(job, &program, &candidate)?;
        let outcome = match cached(job, &artefact) {
            Some(known) => Ok(known),
            None => {
                let Some(outcome) = interruptible(job, &candidate, &artefact, signals)? else {
                    break;
                };
                if let Ok(compiled) = &outcome {
                    store(job, &artefact, compiled);
                }
                outcome
            }
        };
        longest = longest.max(begin.elapsed());
        tried += 1;
        if outcome.is_ok() {
            fit.push(kind);
        }
        row.compiled = Some(outcome);
    }
    let rank = |s: &Shown| match &s.compiled {
        Some(Ok(compiled)) => (0, time(&s.ranked.estimate, compiled, &job.slice)),
        None => (1, 0.0),
        Some(Err(_)) => (2, 0.0),
    };
    shown.sort_by(|a, b| rank(a).0.cmp(&rank(b).0).then(rank(a).1.total_cmp(&rank(b).1)));
    Ok(())
}

/// Compiles in a separate thread, so that Ctrl-C need not wait for libtpu, which cannot be interrupted.
///
/// `None` means that the user stopped it; the inner error is the plugin's message for a program that does not
/// fit.
fn interruptible(
    job: &Job<'_>,
    candidate: &Candidate,
    artefact: &Artefact,
    signals: &Signals,
) -> Result<Option<Result<Compiled, String>>> {
    let (send, receive) = mpsc::channel();
    let (request, target, artefact) = (job.request.clone(), job.target.clone(), artefact.clone());
    let mesh = candidate.placement()?.mesh;
    thread::spawn(move || {
        let compiled = || -> Result<Result<Compiled, String>> {
            let ahead = Ahead::new(&request, &target, &mesh)?;
            let function = artefact.manifest.functions.first().context("the artefact has the function")?;
            Ok(ahead.compile(&artefact, function)?.map(|o| o.compiled).map_err(|e| e.0))
        };
        // After a stop nobody receives the result.
        let _ = send.send(compiled());
    });
    loop {
        match receive.recv_timeout(Duration::from_millis(100)) {
            Ok(result) => return result.map(Some),
            Err(mpsc::RecvTimeoutError::Timeout) if signals.stop.load(Ordering::Relaxed) => return Ok(None),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                anyhow::bail!("the compiler's thread ended without a result")
            }
        }
    }
}

fn artefact(job: &Job<'_>, program: &Program, candidate: &Candidate) -> Result<Artefact> {
    let Job { args, request, target, .. } = job;
    let placement = candidate.placement()?;
    let mut watch = Watch::default();
    let lowered = lower(program, &placement, Stage::Hlo, &mut watch)?.context("all stages ran")?;
    let mut artefact = emit(program, &placement, target, &request.flags.of(target)?, &lowered, &mut watch)?;
    artefact.manifest.functions.retain(|f| *f.name == *args.function);
    Ok(artefact)
}

/// Returns the cache file for libtpu's numbers about exactly this program. `None` without a cache.
fn cached_file(job: &Job<'_>, artefact: &Artefact) -> Option<PathBuf> {
    if job.args.no_cache {
        return None;
    }
    let found = device::load(&job.request, runtime::plugin::Platform::Tpu).ok()?.found.path;
    let size = fs::metadata(&found).map(|m| m.len()).unwrap_or_default();
    let mut key = format!("{} {} {size} ", artefact.manifest.target, found.display()).into_bytes();
    artefact.files.iter().for_each(|(_, bytes)| key.extend(digest(bytes).bytes()));
    let name = format!("compiled-{}.json", &digest(&key)[..32]);
    Some(cache().ok()?.join("plans").join(name))
}

fn cached(job: &Job<'_>, artefact: &Artefact) -> Option<Compiled> {
    serde_json::from_slice(&fs::read(cached_file(job, artefact)?).ok()?).ok()
}

fn store(job: &Job<'_>, artefact: &Artefact, compiled: &Compiled) {
    if let (Some(file), Ok(bytes)) = (cached_file(job, artefact), serde_json::to_vec(compiled)) {
        // A cache that cannot be written only costs time.
        let _ = write_file(&file, &bytes);
    }
}

/// Returns the seconds of a step: libtpu's cycles, plus the estimate of communication.
fn time(estimate: &Estimate, compiled: &Compiled, slice: &Slice) -> f64 {
    match &compiled.program {
        Some(program) if program.estimated_cycles > 0 => {
            program.estimated_cycles as f64 / slice.speed().hertz + estimate.network
        }
        _ => estimate.seconds(),
    }
}

/// Formats a candidate as options.
fn options(candidate: &Candidate) -> String {
    let mut words = Vec::new();
    if !candidate.mesh.is_empty() {
        words.push(format!("--mesh {}", candidate.mesh));
    }
    words.push(format!("--layout '{}'", candidate.layout));
    words.push(format!("--state-layout '{}'", candidate.state_layout));
    words.extend(candidate.schedule.iter().map(|s| format!("--schedule {s}")));
    words.join(" ")
}

fn seconds(s: f64) -> String {
    if s < 1.0 { format!("{:.1} ms", s * 1e3) } else { format!("{s:.2} s") }
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
    words.push(options(candidate));
    words.join(" ")
}

fn say(job: &Job<'_>, found: &Seen, shown: &[Shown], searched: Duration) -> Result<()> {
    let Job { args, target, slice, .. } = job;
    let some = &shown[..shown.len().min(args.top)];
    if args.json {
        let candidates: Vec<Value> = some.iter().map(|s| object(job, s)).collect();
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
    let heads = [
        "step",
        "products",
        "memory",
        "network",
        "FLOPs",
        "sent",
        "peak",
        "libtpu: peak",
        "cycles",
        "mesh",
        "state",
        "schedule",
    ];
    let rows: Vec<Vec<String>> = some.iter().map(|s| row(s, slice)).collect();
    let mut text = String::new();
    table(&mut text, &heads, ">>>>>>>>><<<", &rows)?;
    out!("{text}");
    match shown.first() {
        Some(best) if best.ranked.fits(slice.hbm()) || matches!(best.compiled, Some(Ok(_))) => {
            outln!("{}", command(job, &best.ranked.candidate));
        }
        Some(_) => outln!("no candidate fits by the estimate: use a larger slice"),
        None => {}
    }
    Ok(())
}

fn row(shown: &Shown, slice: &Slice) -> Vec<String> {
    let (c, e) = (&shown.ranked.candidate, &shown.ranked.estimate);
    let guess = format!("~{}", seconds(e.seconds()));
    let (step, peak, cycles) = match &shown.compiled {
        None => (guess, if shown.ranked.fits(slice.hbm()) { "-" } else { "no" }.to_owned(), "-".to_owned()),
        Some(Err(_)) => (guess, "does not fit".to_owned(), "-".to_owned()),
        Some(Ok(compiled)) => (
            seconds(time(e, compiled, slice)),
            compiled.memory.map_or_else(|| "-".to_owned(), |m| size(m.peak)),
            compiled.program.as_ref().map_or_else(|| "-".to_owned(), |p| count(p.estimated_cycles)),
        ),
    };
    vec![
        step,
        seconds(e.products),
        seconds(e.memory),
        seconds(e.network),
        count(e.flops),
        size(e.wire_bytes),
        size(e.bytes),
        peak,
        cycles,
        c.mesh.clone(),
        c.state_layout.clone(),
        c.schedule.join(" "),
    ]
}

fn object(job: &Job<'_>, shown: &Shown) -> Value {
    let slice = &job.slice;
    let (candidate, estimate) = (&shown.ranked.candidate, &shown.ranked.estimate);
    let step = match &shown.compiled {
        Some(Ok(compiled)) => time(estimate, compiled, slice),
        Some(Err(_)) | None => estimate.seconds(),
    };
    json!({
        "candidate": candidate,
        "estimate": estimate,
        "fits": shown.ranked.fits(slice.hbm()),
        "step_seconds": step,
        "compiled": shown.compiled.as_ref().and_then(|c| c.as_ref().ok()),
        "does_not_fit": shown.compiled.as_ref().and_then(|c| c.as_ref().err()),
        "command": command(job, candidate),
    })
}

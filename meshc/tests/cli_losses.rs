//! Losses and stops of processes at random moments of every phase, and the runs that resume after them.

use crate::support::{
    Ran, Workplace,
    job::{self, Job, bigram, copy_begun},
    say, say_skipped,
};
use std::{
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::Command,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// A moment of a run: how to reach it, and what the survivors of a loss may call it.
struct Phase {
    name: &'static str,
    /// Options that make the phase long.
    options: &'static [&'static str],
    /// The output of the process after which the phase begins. Empty for the start of the process.
    begins_after: &'static str,
    /// The signal is sent at a random moment of this time, in ms.
    lasts: u64,
    /// The phases that a survivor may name: those that occur in this time.
    named: &'static [&'static str],
}

const PHASES: [Phase; 6] = [
    Phase { name: "join", options: &[], begins_after: "", lasts: 150, named: &["join", "start", "load"] },
    Phase {
        name: "load",
        options: &[],
        begins_after: "rank ",
        lasts: 150,
        named: &["join", "start", "load", "compile"],
    },
    Phase {
        name: "compile",
        options: &["--no-executable-cache"],
        begins_after: "compiling train_step",
        lasts: 400,
        named: &["compile", "step"],
    },
    Phase {
        name: "step",
        options: &["--save-every", "20"],
        begins_after: "step 4/",
        lasts: 500,
        named: &["compile", "step", "save"],
    },
    Phase {
        name: "evaluate",
        options: &["--eval-every", "2", "--eval-batches", "8", "--save-every", "20"],
        begins_after: "step 4: held-out",
        lasts: 500,
        named: &["step", "evaluate", "save"],
    },
    Phase {
        name: "save",
        options: &["--save-every", "1"],
        begins_after: "step 4: saved",
        lasts: 500,
        named: &["step", "save"],
    },
];

/// Seconds of silence after which a process counts as lost.
const DEAD_AFTER: &str = "4";
/// Seconds for all processes to join.
const JOIN_WITHIN: &str = "4";
/// Longest time from a loss to the end of a survivor, on a machine with other work.
const LIMIT: Duration = Duration::from_secs(20);

fn is_slow() -> bool {
    std::env::var_os("MESH_SLOW").is_some_and(|v| v == "1")
}

/// The command that resumes a run in `place`.
fn train(place: &Workplace, more: &[&str]) -> Command {
    let fixed = ["--resume", "--checkpoint-dir", "c", "--metrics", "m.jsonl", "--held-out", "0.2"];
    job::train(place, &bigram(), &[&fixed[..], more].concat())
}

/// Returns the losses of a run without interruptions, by step.
fn reference() -> &'static [f64] {
    static ONCE: OnceLock<Vec<f64>> = OnceLock::new();
    ONCE.get_or_init(|| {
        let place = Workplace::new();
        let steps = if is_slow() { "150" } else { "30" };
        Ran::new(train(&place, &["--steps", steps, "--processes", "2"]).output().unwrap()).succeeds();
        losses(&place)
    })
}

/// Returns the losses in a metrics file. Its lines must be those of all steps, once and in order.
#[track_caller]
fn losses(place: &Workplace) -> Vec<f64> {
    let lines = place.metrics("m.jsonl");
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=lines.len() as u64).collect::<Vec<_>>());
    lines.iter().map(|line| line["loss"].as_f64().unwrap()).collect()
}

/// Resumes a run at step 3, to reach a phase.
fn start(size: usize, phase: &Phase) -> Job {
    let place = Workplace::new();
    copy_begun(place.path());
    Job::start(place, size, |place, _| {
        let fixed = ["--steps", "100000", "--join-within", JOIN_WITHIN, "--dead-after", DEAD_AFTER];
        train(place, &[&fixed, phase.options].concat())
    })
}

/// Returns the steps of the committed checkpoints.
fn committed(place: &Workplace) -> Vec<u64> {
    let folders = place.folders("c").into_iter();
    let folders = folders.filter(|name| place.at(&format!("c/{name}/COMMIT")).exists());
    // The folders of attempts have other names.
    folders.filter_map(|name| name.strip_prefix("step_")?.parse().ok()).collect()
}

/// Starts a run again. It must resume from the newest checkpoint, which is at least as new as every one that
/// was reported, and go on as if nothing had happened.
#[track_caller]
fn resumes(job: &Job) {
    let before = committed(&job.place);
    let reported = (0..job.size()).flat_map(|rank| saved(&job.output(rank)));
    for step in reported {
        assert!(before.contains(&step), "step {step} is lost, {before:?} remain:\n{}", job.outputs());
    }
    let newest = before.last().copied().unwrap_or_else(|| panic!("no checkpoint:\n{}", job.outputs()));
    let more = ["--steps", &(newest + 3).to_string(), "--processes", "2"];
    let again = Ran::new(train(&job.place, &more).output().unwrap()).succeeds();
    let expected = format!("resuming from c/step_{newest:08}");
    assert!(again.err.contains(&expected), "`{expected}`:\n{}\n{}", again.err, job.outputs());
    assert!(before.iter().all(|step| committed(&job.place).contains(step)), "{before:?}");
    let all = losses(&job.place);
    assert_eq!(all.len() as u64, newest + 3);
    let both = all.len().min(reference().len());
    assert_eq!(all[..both], reference()[..both], "losses:\n{}", job.outputs());
}

/// Returns the steps that an output reports as saved.
fn saved(output: &str) -> Vec<u64> {
    let step = |line: &str| line.strip_prefix("step ")?.split_once(": saved in ")?.0.parse().ok();
    output.lines().filter_map(step).collect()
}

/// Returns the phase in which a survivor says that `victim` was lost.
fn named(output: &str, victim: usize) -> Option<String> {
    let absent = ["have not joined: ", "joined and ended again: "].iter().any(|words| {
        let ranks =
            output.split_once(words).map_or("", |(_, ranks)| ranks.lines().next().unwrap_or_default());
        ranks.split([',', ';']).any(|rank| rank.trim() == victim.to_string())
    });
    if absent || victim == 0 && output.contains("rank 0 must be running there") {
        return Some("join".into());
    }
    let (_, told) = output.split_once(&format!("lost rank {victim} ("))?;
    let told = told.lines().next()?;
    if told.contains("before its first heartbeat") {
        return Some("join".into());
    }
    if told.contains(" in step ") {
        return Some("step".into());
    }
    let (_, phase) = told.split_once("in phase `")?;
    Some(phase.split_once('`')?.0.to_owned())
}

/// Sends a signal to a process at a random moment of a phase. Returns the times from the loss to the end of
/// each survivor.
#[track_caller]
fn lose(how: &str, phase: &Phase, (victim, size): (usize, usize), random: &mut Random) -> Vec<Duration> {
    let mut job = start(size, phase);
    job.wait_for(victim, phase.begins_after);
    thread::sleep(Duration::from_millis(random.below(phase.lasts)));
    job.signal(victim, how);
    let begin = Instant::now();
    let survivors: Vec<usize> = (0..size).filter(|rank| *rank != victim).collect();
    let mut times = Vec::new();
    let what = format!("{how} of rank {victim} of {size} in phase {}", phase.name);
    for rank in survivors {
        let code = job.end(rank, LIMIT);
        times.push(begin.elapsed());
        let output = job.output(rank);
        let named = named(&output, victim);
        let named = named.unwrap_or_else(|| panic!("{what}: rank {rank} names nobody:\n{}", job.outputs()));
        assert!(phase.named.contains(&named.as_str()), "{what}: `{named}` is named:\n{}", job.outputs());
        let expected = if output.contains("lost rank") { 42 } else { 1 };
        assert_eq!(code, Some(expected), "{what}: rank {rank}:\n{}", job.outputs());
    }
    job.signal(victim, "-KILL");
    job.end(victim, LIMIT);
    resumes(&job);
    times
}

/// Sends SIGTERM to a process at a random moment of a phase. All stop after the same step, or there is
/// nothing to save and that process ends at once. Returns the times to the end of both processes.
#[track_caller]
fn stop(phase: &Phase, rank: usize, random: &mut Random) -> Vec<Duration> {
    let mut job = start(2, phase);
    job.wait_for(rank, phase.begins_after);
    thread::sleep(Duration::from_millis(random.below(phase.lasts)));
    job.signal(rank, "-TERM");
    let begin = Instant::now();
    let what = format!("SIGTERM of rank {rank} in phase {}", phase.name);
    let code = job.end(rank, LIMIT);
    let own = begin.elapsed();
    let other = 1 - rank;
    let other_code = job.end(other, LIMIT);
    let times = vec![own, begin.elapsed()];
    // Before a process watches for signals, they end it by default.
    assert!(matches!(code, Some(143) | None), "{what}: {code:?}\n{}", job.outputs());
    let early = code.is_none() || job.output(rank).contains("before training began");
    if early {
        let output = job.output(other);
        assert!(named(&output, rank).is_some(), "{what}: rank {other} names nobody:\n{}", job.outputs());
        let expected = if output.contains("lost rank") { 42 } else { 1 };
        assert_eq!(other_code, Some(expected), "{what}:\n{}", job.outputs());
    } else {
        assert_eq!(other_code, Some(143), "{what}:\n{}", job.outputs());
        assert!(job.output(rank).contains("stopped"), "{what}:\n{}", job.outputs());
        let done = losses(&job.place).len() as u64;
        assert_eq!(committed(&job.place).last(), Some(&done), "{what}:\n{}", job.outputs());
    }
    assert!(early || !["join", "load"].contains(&phase.name), "{what}:\n{}", job.outputs());
    resumes(&job);
    times
}

/// Numbers that depend on a seed.
struct Random(u64);

impl Random {
    /// Returns the numbers of this run, which `MESH_SEED` changes.
    fn new() -> Self {
        Self(std::env::var("MESH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

#[test]
fn survivors_of_a_killed_process_end_and_name_it() {
    lose("-KILL", &PHASES[3], (1, 2), &mut Random::new());
}

#[test]
fn survivors_of_a_lost_coordinator_end_and_name_it() {
    lose("-KILL", &PHASES[2], (0, 2), &mut Random::new());
}

#[test]
fn survivors_of_a_halted_process_end_and_name_it() {
    lose("-STOP", &PHASES[3], (1, 2), &mut Random::new());
}

#[test]
fn a_signal_to_one_process_stops_all_at_one_step_and_the_run_resumes() {
    stop(&PHASES[3], 1, &mut Random::new());
}

#[test]
fn a_signal_before_training_ends_the_process_at_once() {
    stop(&PHASES[2], 1, &mut Random::new());
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let mut job = start(2, &PHASES[3]);
    job.wait_for(0, PHASES[3].begins_after);
    // Without the other process there is no agreement at which step to stop.
    job.signal(1, "-STOP");
    job.signal(0, "-TERM");
    job.wait_for(0, "stopping after the current steps");
    let begin = Instant::now();
    job.signal(0, "-TERM");
    assert_eq!(job.end(0, LIMIT), Some(143), "{}", job.outputs());
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    job.signal(1, "-KILL");
    job.end(1, LIMIT);
    resumes(&job);
}

/// Runs a phase with a limit that it exceeds, and checks that all processes say so. `blocks` is an output of
/// rank 0 after which the process of rank 1 blocks, and the variable of [`blocker`] for that.
#[track_caller]
fn exceeds(options: &[&str], blocks: Option<(&str, &str)>, parts: &[&str]) {
    let place = Workplace::new();
    copy_begun(place.path());
    let library = blocks.map(|_| blocker(&place));
    let now = place.at("now");
    let mut job = Job::start(place, 2, |place, rank| {
        let fixed = ["--steps", "100000", "--dead-after", "3"];
        let mut command = train(place, &[&fixed, options].concat());
        if let (Some((_, variable)), Some(library), 1) = (blocks, &library, rank) {
            command.env("LD_PRELOAD", library).env(variable, &now);
        }
        command
    });
    if let Some((begins, _)) = blocks {
        job.wait_for(0, begins);
        fs::write(&now, "").unwrap();
    }
    job.all_end(42, &[&["lost rank "], parts].concat());
}

/// Compiles a library that blocks a process while a file exists: in `fsync` with the file of the variable
/// BLOCK_SAVE, when code becomes executable with that of BLOCK_COMPILE, and in the threads that send operands
/// to other processes with that of BLOCK_STEP.
fn blocker(place: &Workplace) -> String {
    let source = place.write("blocker.c", BLOCKER);
    let library = place.at("blocker.so");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").status();
    assert!(built.expect("these tests need a C compiler called `cc`").success());
    library.display().to_string()
}

const BLOCKER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>
static void block(const char *variable) {
    const char *file = getenv(variable);
    while (file && access(file, F_OK) == 0) usleep(10000);
}
int fsync(int fd) {
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    block("BLOCK_SAVE");
    return next(fd);
}
int mprotect(void *at, size_t bytes, int to) {
    int (*next)(void *, size_t, int) = dlsym(RTLD_NEXT, "mprotect");
    if (to & PROT_EXEC) block("BLOCK_COMPILE");
    return next(at, bytes, to);
}
ssize_t send(int fd, const void *bytes, size_t count, int flags) {
    ssize_t (*next)(int, const void *, size_t, int) = dlsym(RTLD_NEXT, "send");
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    if (strncmp(name, "to rank", 7) == 0) block("BLOCK_STEP");
    return next(fd, bytes, count, flags);
}
"#;

#[test]
fn a_compilation_has_a_limit() {
    let parts =
        ["in phase `compile` at step ", ": no progress for ", "the limit is 2.0 s (--limit compile=SECONDS)"];
    let options = ["--no-executable-cache", "--limit", "compile=2"];
    exceeds(&options, Some(("compiling train_step", "BLOCK_COMPILE")), &parts);
}

#[test]
fn an_evaluation_has_a_limit() {
    let options = ["--eval-every", "1", "--eval-batches", "18", "--limit", "evaluate=0.02"];
    exceeds(
        &options,
        None,
        &["in phase `evaluate` at step ", ": no progress for ", "(--limit evaluate=SECONDS)"],
    );
}

#[test]
fn a_step_has_a_limit() {
    let parts = ["in step ", ": no progress for ", "the limit is 2.0 s (--limit step=SECONDS)"];
    exceeds(&["--limit", "step=2"], Some(("step 4/", "BLOCK_STEP")), &parts);
}

#[test]
fn the_limit_of_a_step_follows_from_its_median() {
    if !is_slow() {
        return say_skipped(
            "MESH_SLOW=1 runs it: the smallest limit is a minute; tests of `job` have a smaller one",
        );
    }
    // Before a median is known, the limit is half an hour.
    let parts = ["in step ", ": no progress for 6", "the limit is 60 s (--limit step=SECONDS)"];
    exceeds(&[], Some(("step 4/", "BLOCK_STEP")), &parts);
}

#[test]
fn a_save_has_a_limit() {
    let parts = ["lost rank 1 (", "in phase `save` at step ", "the limit is 4.0 s (--limit save=SECONDS)"];
    exceeds(&["--save-every", "1", "--limit", "save=4"], Some(("step 4: saved", "BLOCK_SAVE")), &parts);
}

/// Prints how long survivors took to end.
fn report(what: &str, phase: &str, cases: usize, times: &mut [Duration]) {
    times.sort_unstable();
    let (Some(median), Some(worst)) = (times.get(times.len() / 2), times.last()) else { return };
    say(&format!(
        "{what} in {phase}: {cases} cases, {} ends: median {:.2} s, worst {:.2} s",
        times.len(),
        median.as_secs_f64(),
        worst.as_secs_f64()
    ));
}

/// Runs cases in turn over all phases, and reports the times by phase and in total. Returns the number of
/// cases that failed.
fn all_phases(what: &str, cases: usize, mut run: impl FnMut(&Phase, usize) -> Vec<Duration>) -> usize {
    let mut times: BTreeMap<&str, (usize, Vec<Duration>)> = BTreeMap::new();
    let mut failed = 0;
    for case in 0..cases {
        let phase = &PHASES[case % PHASES.len()];
        // A failure prints its message. The other cases run all the same.
        let Ok(found) = catch_unwind(AssertUnwindSafe(|| run(phase, case))) else {
            failed += 1;
            continue;
        };
        let (count, all) = times.entry(phase.name).or_default();
        *count += 1;
        all.extend(found);
    }
    let mut total: Vec<Duration> = times.values().flat_map(|(_, times)| times.clone()).collect();
    for (phase, (count, times)) in &mut times {
        report(what, phase, *count, times);
    }
    report(what, "all phases", cases - failed, &mut total);
    failed
}

#[test]
fn losses_and_stops_at_random_moments() {
    if !is_slow() {
        return say_skipped("MESH_SLOW=1 runs it");
    }
    let mut random = Random::new();
    let mut lost = |how, phase: &Phase, size: usize| {
        let victim = random.below(size as u64) as usize;
        lose(how, phase, (victim, size), &mut random)
    };
    let killed =
        all_phases("SIGKILL", 50, |phase, case| lost("-KILL", phase, if case % 5 == 4 { 4 } else { 2 }));
    let halted = all_phases("SIGSTOP", 10, |phase, _| lost("-STOP", phase, 2));
    let cases = 2 * PHASES.len();
    let stopped = all_phases("SIGTERM", cases, |phase, case| stop(phase, case / PHASES.len(), &mut random));
    assert_eq!((killed, halted, stopped), (0, 0, 0), "failed cases");
}

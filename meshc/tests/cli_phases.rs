//! Signals and closed streams in every phase of training. `MESH_SLOW=1` tests all of them in all phases, a
//! normal run a few.

use crate::{
    cli_faults::{copied, with_hangup},
    cli_training::{Running, train},
    support::{Ran, TINY, Workplace, is_slow, model, say_skipped},
};
use runtime::checkpoint::folder;
use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

/// The line with which a phase begins. The phase of saving has none, and begins with every second step.
const BUILD: &str = "building";
const COMPILE_INIT: &str = "compiling init";
const INIT: &str = "initializing the state";
const COMPILE: &str = "compiling train_step";
const STEP: &str = "step 1/";
const EVALUATE: &str = "evaluating";
const SAVE: &str = "step 2: saved in";

/// All phases, and true for those with state to save.
const PHASES: [(&str, bool); 7] = [
    (BUILD, false),
    (COMPILE_INIT, false),
    (INIT, true),
    (COMPILE, true),
    (STEP, true),
    (EVALUATE, true),
    (SAVE, true),
];

/// Creates a place with an artefact `a`, a text, and a cache with its executables.
fn place() -> Workplace {
    let place = Workplace::new();
    place.write("t.txt", "the cat sat on the mat. ".repeat(400));
    place.run(&[&["compile", &model("t5_tiny.rs"), "-o", "a"][..], &TINY].concat()).succeeds();
    Ran::new(run(&place, STEP, "2", &[]).output().unwrap()).succeeds();
    fs::remove_dir_all(place.at("r")).unwrap();
    place
}

/// Trains with a checkpoint and an evaluation after every second step. `phase` decides what is built.
fn run(place: &Workplace, phase: &str, steps: &str, more: &[&str]) -> Command {
    let (program, set) = (model("t5_tiny.rs"), TINY);
    let saves = ["--save-every", "2", "--keep", "2", "--eval-every", "2", "--eval-batches", "1"];
    let args = ["--data", "t.txt", "--steps", steps, "--run-dir", "r", "--seed", "3"];
    let program = if phase == BUILD { [&[program.as_str()][..], &set].concat() } else { vec!["a"] };
    let mut command = train(place, &[&program[..], &args, &saves, more].concat());
    if [BUILD, COMPILE_INIT, COMPILE].contains(&phase) {
        // A phase takes a while only if nothing is cached.
        let _ = fs::remove_dir_all(place.at("empty"));
        command.env("MESH_CACHE", place.at("empty"));
    }
    command
}

/// Checks the checkpoints of the run, and that the next start goes on. Returns their steps.
#[track_caller]
fn check_whole(place: &Workplace, name: &str) -> Vec<u64> {
    let found = folder::list(&place.at("r/checkpoints")).unwrap_or_default();
    for stored in &found {
        let checkpoint = stored.checkpoint.as_ref().unwrap_or_else(|e| panic!("{name}: {e}"));
        checkpoint.verify().unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let steps: Vec<u64> = found.iter().map(|stored| stored.step).collect();
    let (last, next) = (steps.last().copied(), steps.last().map_or(1, |step| step + 1).to_string());
    let again = Ran::new(run(place, STEP, &next, &["--resume"]).output().unwrap());
    assert_eq!(again.code, Some(0), "after {name}: {}", again.err);
    if let Some(last) = last {
        let resumed = format!("resuming from r/checkpoints/step_{last:08}");
        assert!(again.err.contains(&resumed), "after {name}: {}", again.err);
    }
    steps
}

#[test]
fn a_signal_in_any_phase_saves_what_there_is() {
    let place = place();
    let mut rows = vec![(SAVE, true, "-TERM", 143)];
    if is_slow() {
        let signals = [("-INT", 130), ("-TERM", 143), ("-HUP", 129)];
        let all =
            PHASES.iter().flat_map(|(phase, state)| signals.map(|(name, code)| (*phase, *state, name, code)));
        rows = all.collect();
    }
    for (phase, has_state, signal, expect) in rows {
        let name = format!("{signal} while {phase}");
        let _ = fs::remove_dir_all(place.at("r"));
        let mut running = Running::start(with_hangup(&run(&place, phase, "1000000", &[])));
        running.until(phase);
        running.signal(signal);
        let begin = Instant::now();
        let (code, said) = running.end();
        assert_eq!(code, Some(expect), "{name}: {said}");
        assert!(begin.elapsed() < Duration::from_secs(30), "{name}: {:?}", begin.elapsed());
        assert!(!said.contains("panicked"), "{name}: {said}");
        let steps = check_whole(&place, &name);
        assert_eq!(!steps.is_empty(), has_state, "{name}: {said}");
        if [EVALUATE, SAVE].contains(&phase) {
            assert!(steps.last() >= Some(&2), "{name}: {steps:?}");
        }
    }
}

#[test]
fn signals_of_pipes_and_file_sizes_end_nothing() {
    let place = place();
    let phases: &[&str] =
        if is_slow() { &[BUILD, COMPILE_INIT, INIT, COMPILE, STEP, EVALUATE, SAVE] } else { &[COMPILE_INIT] };
    for phase in phases {
        let _ = fs::remove_dir_all(place.at("r"));
        let mut running = Running::start(run(&place, phase, "4", &[]));
        // In all phases from this one on.
        let from = PHASES.iter().position(|(name, _)| name == phase).unwrap();
        for (later, _) in &PHASES[from..] {
            running.until(later);
            running.signal("-PIPE");
            running.signal("-XFSZ");
        }
        let (code, said) = running.end();
        assert_eq!(code, Some(0), "from {phase}: {said}");
        assert_eq!(place.folders("r/checkpoints"), ["step_00000002", "step_00000004"], "from {phase}");
    }
}

#[test]
fn a_second_signal_ends_at_once_and_damages_nothing() {
    if !is_slow() {
        return say_skipped("MESH_SLOW=1 runs it");
    }
    let place = place();
    for phase in [INIT, COMPILE, STEP, EVALUATE, SAVE] {
        let _ = fs::remove_dir_all(place.at("r"));
        let mut running = Running::start(run(&place, phase, "1000000", &[]));
        running.until(phase);
        running.signal("-INT");
        running.signal("-TERM");
        let begin = Instant::now();
        let (code, said) = running.end();
        // The second one may find the run at its end.
        assert!(matches!(code, Some(143 | 130)), "{phase}: {code:?} {said}");
        assert!(begin.elapsed() < Duration::from_secs(10), "{phase}: {:?}", begin.elapsed());
        check_whole(&place, &format!("two signals while {phase}"));
    }
}

#[test]
fn streams_may_be_closed_in_any_phase() {
    let place = place();
    if is_slow() {
        for (phase, _) in PHASES {
            let _ = fs::remove_dir_all(place.at("r"));
            let mut running = Running::start(run(&place, phase, "4", &[]));
            running.until(phase);
            let Running { mut child, lines, .. } = running;
            drop((lines, child.stdout.take()));
            assert_eq!(child.wait().unwrap().code(), Some(0), "{phase}");
            assert_eq!(place.folders("r/checkpoints"), ["step_00000002", "step_00000004"], "{phase}");
        }
    }
    // Closed before the start: `>&- 2>&-` of a shell.
    for closed in &["2>&-", ">&- 2>&- <&-", "<&-"][..if is_slow() { 3 } else { 1 }] {
        let _ = fs::remove_dir_all(place.at("r"));
        let trained = run(&place, STEP, "4", &[]);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("exec \"$0\" \"$@\" {closed}")).arg(trained.get_program());
        assert_eq!(copied(&trained, shell).output().unwrap().status.code(), Some(0), "{closed}");
        assert_eq!(place.folders("r/checkpoints"), ["step_00000002", "step_00000004"], "{closed}");
        check_whole(&place, closed);
    }
}

/// A small disk for the folder `disk`, in a separate name space, so that it ends with the process. The
/// contents are copied to `copy` before that.
fn on_small_disk(place: &Workplace, kib: u32, command: &Command) -> Result<Ran, &'static str> {
    let script = format!(
        "mkdir -p disk && mount -t tmpfs -o size={kib}k tmpfs disk || exit 77\n\"$0\" \"$@\"; code=$?\n\
         rm -rf copy; cp -r disk copy; exit $code"
    );
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &script]).arg(command.get_program());
    let _ = fs::remove_dir_all(place.at("copy"));
    match copied(command, unshare).output() {
        Err(_) => Err("there is no unshare"),
        Ok(output) if output.status.code() == Some(77) || !place.at("copy").exists() => {
            Err("small disks cannot be mounted here")
        }
        Ok(output) => Ok(Ran::new(output)),
    }
}

#[test]
fn a_disk_that_is_full_loses_nothing_that_was_whole() {
    if !is_slow() {
        return say_skipped("MESH_SLOW=1 runs it");
    }
    let place = place();
    // Room for one checkpoint and a part of another one, for no line of metrics, and for no cache.
    let logs = run(&place, STEP, "6", &["--metrics", "disk/m.jsonl", "--tensorboard", "disk/t"]);
    let mut cache = run(&place, STEP, "6", &[]);
    cache.env("MESH_CACHE", "disk");
    let checkpoints = run(&place, STEP, "6", &["--checkpoint-dir", "disk/c"]);
    let small = on_small_disk(&place, 4, &logs).and_then(|logs| {
        assert_eq!(logs.code, Some(0), "{}", logs.err);
        assert!(logs.err.contains("the log of this run is incomplete"), "{}", logs.err);
        assert_eq!(place.folders("r/checkpoints"), ["step_00000004", "step_00000006"]);
        let written = fs::read_to_string(place.at("copy/m.jsonl")).unwrap();
        assert!(written.is_empty() || written.ends_with('\n'), "{written}");
        fs::remove_dir_all(place.at("r")).unwrap();
        let cached = on_small_disk(&place, 4, &cache)?;
        assert_eq!(cached.code, Some(0), "{}", cached.err);
        fs::remove_dir_all(place.at("r")).unwrap();
        on_small_disk(&place, 300, &checkpoints)
    });
    let full = match small {
        Ok(full) => full,
        Err(why) => return say_skipped(why),
    };
    assert!(full.code == Some(1) || full.err.contains("without a new checkpoint"), "{}", full.err);
    let found = folder::list(&place.at("copy/c")).unwrap();
    assert!(!found.is_empty(), "{}", full.err);
    for stored in found {
        let checkpoint = stored.checkpoint.unwrap_or_else(|e| panic!("{e}"));
        checkpoint.verify().unwrap_or_else(|e| panic!("{e}"));
    }
}

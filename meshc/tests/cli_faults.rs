//! Faults of the system: closed pipes, full disks, signals, failing system calls. A run keeps what is whole.

use crate::{
    cli_injection::{Fault, can_inject},
    cli_training::{Running, artefact, train},
    support::{Ran, Workplace, home, model, say, say_skipped, text},
};
use std::{
    fs::{self, File},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Starts a run of six steps that saves in `r`, with a cache that the runs of a test share.
fn six_steps(place: &Workplace, more: &[&str]) -> Command {
    let data = text();
    train(
        place,
        &[&[artefact(), "--data", &data, "--steps", "6", "--checkpoint-dir", "r"][..], more].concat(),
    )
}

#[test]
fn readers_that_go_away_do_not_end_training() {
    let place = Workplace::new();
    for phase in ["compiling init", "compiling train_step", "step 1/6"] {
        let mut running = Running::start(six_steps(&place, &[]));
        running.until(phase);
        let Running { mut child, lines, .. } = running;
        // Closes the pipes of both streams.
        drop((lines, child.stdout.take()));
        assert_eq!(child.wait().unwrap().code(), Some(0), "{phase}");
        assert_eq!(place.folders("r"), ["step_00000006"], "{phase}");
        fs::remove_dir_all(place.at("r")).unwrap();
    }
}

#[test]
fn a_full_disk_under_messages_and_logs_does_not_end_training() {
    let place = Workplace::new();
    let mut command = six_steps(&place, &["--metrics", "/dev/full", "--run-dir", "run"]);
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let status = command.stdout(full()).stderr(full()).status().unwrap();
    // The summary was not written; the checkpoint was.
    assert_eq!(status.code(), Some(1));
    assert_eq!(place.folders("r"), ["step_00000006"]);
    let record = fs::read_to_string(place.at("run/run.json")).unwrap();
    assert_eq!(record.matches("the log of this run is incomplete").count(), 1, "{record}");
}

/// Returns the command with the default action of SIGHUP. Tests may run under `nohup`, which children
/// inherit.
pub(crate) fn with_hangup(command: &Command) -> Command {
    let mut changed = Command::new("env");
    changed.arg("--default-signal=HUP").arg(command.get_program());
    copied(command, changed)
}

/// Adds the arguments, the directory and the variables of a command to another one, which starts it.
pub(crate) fn copied(command: &Command, mut starter: Command) -> Command {
    starter.args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        starter.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => starter.env(name, value),
            None => starter.env_remove(name),
        };
    }
    starter
}

#[test]
fn a_hangup_saves_unless_it_is_ignored() {
    let place = Workplace::new();
    let data = text();
    let args = [artefact(), "--data", &data, "--steps", "1000000", "--checkpoint-dir", "r"];
    let mut running = Running::start(with_hangup(&train(&place, &args)));
    running.until("step 1/");
    running.signal("-HUP");
    let (code, said) = running.end();
    assert_eq!(code, Some(129), "{said}");
    assert_eq!(place.folders("r").len(), 1, "{said}");

    // `nohup` starts programs with SIGHUP ignored.
    let six = six_steps(&place, &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(six.get_program()).args(six.get_args());
    command.current_dir(place.path()).envs(six.get_envs().filter_map(|(name, value)| Some((name, value?))));
    fs::remove_dir_all(place.at("r")).unwrap();
    let mut running = Running::start(command);
    running.until("compiling");
    running.signal("-HUP");
    let (code, said) = running.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.folders("r"), ["step_00000006"]);
}

#[test]
fn a_signal_without_state_to_save_ends_compilers_at_once() {
    let place = Workplace::new();
    let mut running = Running::start(six_steps(&place, &[]));
    running.until("compiling init");
    let begin = Instant::now();
    running.signal("-TERM");
    let (code, said) = running.end();
    check_end(&place, begin.elapsed());
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("there is no state to save") && place.folders("r").is_empty(), "{said}");

    // cargo builds the model.
    let (path, data) = (model("switch_tiny.rs"), text());
    let mut running = Running::start(train(&place, &[&path, "--data", &data, "--run-dir", "b"]));
    let id = running.child.id();
    let children = loop {
        let children = children(id);
        if children.iter().any(|(_, name)| name == "cargo") {
            break children;
        }
        assert!(running.child.try_wait().unwrap().is_none(), "meshc starts cargo");
        thread::sleep(Duration::from_millis(10));
    };
    let begin = Instant::now();
    running.signal("-TERM");
    assert_eq!(running.child.wait().unwrap().code(), Some(143));
    check_end(&place, begin.elapsed());
    let begin = Instant::now();
    while children.iter().any(|(id, name)| name_of(*id).as_ref() == Some(name)) {
        assert!(begin.elapsed() < Duration::from_secs(5), "left behind: {children:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Asserts that a process ended within a second after a signal. The bound grows with the load of the machine:
/// a process that prints its version takes milliseconds if nothing else runs.
#[track_caller]
fn check_end(place: &Workplace, took: Duration) {
    let begin = Instant::now();
    place.run(&["--version"]).succeeds();
    let bound = Duration::from_secs(1) + 10 * begin.elapsed();
    say(&format!("a process ended {took:.0?} after a signal, of {bound:.1?} allowed"));
    assert!(took < bound, "{took:?}, of {bound:?} allowed");
}

/// Returns the ids and names of the children of a process.
fn children(id: u32) -> Vec<(u32, String)> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let ids: Vec<u32> =
        lists.flat_map(|list| list.split(' ').filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect();
    ids.into_iter().filter_map(|id| Some((id, name_of(id)?))).collect()
}

/// Returns the name of a process. `None` if it has ended.
fn name_of(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    (!rest.trim_start().starts_with('Z')).then(|| name.to_owned())
}

/// System calls of writing an artefact, and how many of each are made to fail.
const CALLS: [(&str, usize); 5] = [
    ("write", 9),
    ("fsync", 12),
    ("rename,renameat,renameat2", 2),
    ("mkdir,mkdirat", 1),
    ("unlink,unlinkat", 3),
];

#[test]
fn an_artefact_is_the_old_or_the_new_one_whatever_fails() {
    if let Err(why) = can_inject() {
        return say_skipped(why);
    }
    let place = Workplace::new();
    let compile = |mesh: &'static str| ["compile", "m.mesh", "--mesh", mesh, "-o", "a"];
    let source = place.run(&["compile", &model("matmul.rs"), "--emit", "mesh", "-o", "first"]).succeeds();
    fs::copy(place.at("first/global.mesh"), place.at("m.mesh"))
        .unwrap_or_else(|e| panic!("{e}: {}", source.err));
    fs::remove_dir_all(place.at("first")).unwrap();
    let devices = || {
        let artefact = runtime::Artefact::open(&place.at("a")).unwrap_or_else(|e| panic!("{e}"));
        artefact.manifest.mesh.expect("it has a mesh").axes[0].size
    };
    let (mut failed, mut size) = (0, 2);
    place.run(&compile("data=2")).succeeds();
    for (calls, count) in CALLS {
        for (nth, how) in (1..=count).flat_map(|nth| [(nth, "error=EIO"), (nth, "signal=KILL")]) {
            let (old, new) = (size, 6 - size);
            let fault = Fault { calls, how, when: nth.to_string() };
            let ran = fault.run(&place.meshc(&compile(if new == 2 { "data=2" } else { "data=4" })));
            size = devices();
            assert!(size == old || size == new, "{calls} {nth} {how}: {size} devices");
            match ran.code {
                Some(0) => assert_eq!(size, new, "{calls} {nth} {how}: {}", ran.err),
                Some(_) | None => failed += 1,
            }
        }
    }
    assert!(failed > 20, "only {failed} faults had an effect");
    // The next writer removes what killed ones have left.
    place.run(&compile("data=2")).succeeds();
    assert_eq!(place.entries(), ["a", "m.mesh"]);
}

#[test]
fn cached_executables_of_others_are_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let place = Workplace::new();
    let run = || Ran::new(six_steps(&place, &[]).output().unwrap()).succeeds();
    run();
    fs::remove_dir_all(place.at("r")).unwrap();
    let folder = place.at("cache/executables");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let entries: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(entries.iter().all(|entry| mode(entry) == 0o600), "{entries:?}");
    // Others can write the folder: what is in it may come from them.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let second = run();
    assert!(
        second.err.contains("other users can write") && second.err.contains("train_step: compiled"),
        "{}",
        second.err
    );
    assert!(home().is_dir());
}

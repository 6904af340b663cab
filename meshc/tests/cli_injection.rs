//! System calls that fail: the k-th write, fsync, rename, …, of training, of caches and of prepared tokens.
//!
//! Whatever fails, every checkpoint and every line is whole, and the next start ends where a run without
//! faults ends, bit for bit. `MESH_SLOW=1` injects all faults, a normal run a few of them.

use crate::{
    cli_faults::copied,
    cli_training::train,
    support::{Ran, TINY, Workplace, is_slow, model, say_skipped},
};
use runtime::{Checkpoint, HostTensor};
use std::{fs, path::Path, process::Command};

/// A system call that fails.
pub(crate) struct Fault<'a> {
    /// Names of calls, as strace has them.
    pub calls: &'a str,
    /// `error=EIO`, or `signal=KILL`.
    pub how: &'a str,
    /// The number of the call in its thread: `3`, or `3+` for all from the third on.
    pub when: String,
}

impl Fault<'_> {
    /// Runs a command under strace, which makes the calls fail.
    pub(crate) fn run(&self, command: &Command) -> Ran {
        let (calls, how, when) = (self.calls, self.how, &self.when);
        let mut strace = Command::new("strace");
        strace.args(["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        strace.args(["-e", &format!("inject={calls}:{how}:when={when}")]).arg(command.get_program());
        Ran::new(copied(command, strace).output().expect("strace starts"))
    }

    fn name(&self) -> String {
        format!("{} of {}, {}", self.when, self.calls, self.how)
    }
}

/// Returns the reason why faults cannot be injected here.
pub(crate) fn can_inject() -> Result<(), &'static str> {
    match Command::new("strace").args(["-e", "trace=none", "true"]).output() {
        Err(_) => Err("there is no strace"),
        Ok(output) if !output.status.success() => Err("strace cannot trace processes here"),
        Ok(_) => Ok(()),
    }
}

/// Returns the faults of some calls: a normal run has `few` of the moments, the slow suite all up to `most`.
fn faults<'a>(calls: &'a str, error: &'a str, few: &[&str], most: usize) -> Vec<Fault<'a>> {
    let fault = |how: &'a str, when: String| Fault { calls, how, when };
    if !is_slow() {
        return few.iter().map(|when| fault(error, (*when).to_owned())).collect();
    }
    let single = (1..=most).flat_map(|n| [fault(error, n.to_string()), fault("signal=KILL", n.to_string())]);
    single.chain((1..=most).step_by(3).map(|n| fault(error, format!("{n}+")))).collect()
}

/// Returns the faults of a test in order. `MESH_FAULTS=2/5` leaves the second of every five, so that the slow
/// suite can be run in parts.
fn selected<'a>(all: impl IntoIterator<Item = Vec<Fault<'a>>>) -> Vec<Fault<'a>> {
    let all = all.into_iter().flatten();
    let Ok(part) = std::env::var("MESH_FAULTS") else { return all.collect() };
    let numbers = part.split_once('/').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let part: Option<(usize, usize)> = numbers.filter(|(first, of)| (1..=*of).contains(first));
    let (first, of) = part.unwrap_or_else(|| panic!("MESH_FAULTS must be such as 2/5"));
    all.skip(first - 1).step_by(of).collect()
}

/// True if only a part of the faults is injected.
fn is_part() -> bool {
    std::env::var_os("MESH_FAULTS").is_some()
}

/// A place with an artefact of a small model and a text, and a run of six steps without faults.
struct Reference {
    place: Workplace,
    losses: Vec<String>,
    state: Vec<(String, HostTensor)>,
}

impl Reference {
    fn new() -> Self {
        let place = Workplace::new();
        place.write("t.txt", "the cat sat on the mat. ".repeat(400));
        place.run(&[&["compile", &model("t5_tiny.rs"), "-o", "a"][..], &TINY].concat()).succeeds();
        Ran::new(Self::train(&place, &[]).output().unwrap()).succeeds();
        let losses = losses(&place);
        let state = state(&place.at("r/checkpoints/step_00000006"));
        assert_eq!(losses.len(), 6);
        Self { place, losses, state }
    }

    /// Trains six steps, with a checkpoint after every second and an evaluation after every third one.
    fn train(place: &Workplace, more: &[&str]) -> Command {
        let saves = ["--save-every", "2", "--keep", "2", "--eval-every", "3", "--eval-batches", "1"];
        let args = ["a", "--data", "t.txt", "--steps", "6", "--run-dir", "r", "--seed", "3"];
        train(place, &[&args[..], &saves, more].concat())
    }

    /// Runs with a fault, checks what is left, and lets the next start finish the run.
    #[track_caller]
    fn check(&self, fault: &Fault<'_>) -> Ran {
        let (place, name) = (&self.place, fault.name());
        let _ = fs::remove_dir_all(place.at("r"));
        let ran = fault.run(&Self::train(place, &[]));
        match ran.code {
            Some(0) => assert!(place.at("r/checkpoints/step_00000006").exists(), "{name}: {}", ran.err),
            // The message may be what was not written.
            Some(1) => {}
            None => assert!(fault.how.contains("KILL"), "{name}: {}", ran.err),
            Some(code) => panic!("{name}: code {code}: {}", ran.err),
        }
        assert!(!ran.err.contains("panicked"), "{name}: {}", ran.err);
        self.check_files(&name, ran.code.is_none());
        let again = Ran::new(Self::train(place, &["--resume"]).output().unwrap());
        assert_eq!(again.code, Some(0), "after {name}: {}", again.err);
        assert!(state(&place.at("r/checkpoints/step_00000006")) == self.state, "after {name}: {}", again.err);
        self.check_files(&name, false);
        let hidden = hidden(&place.at("r"));
        assert!(hidden.is_empty(), "after {name}: {hidden:?} is left behind");
        ran
    }

    /// Checks that every checkpoint and every file of the run is whole.
    fn check_files(&self, name: &str, is_killed: bool) {
        let place = &self.place;
        if place.at("r/checkpoints").exists() {
            for folder in place.folders("r/checkpoints").iter().filter(|folder| !folder.starts_with('.')) {
                let checkpoint = Checkpoint::open(&place.at("r/checkpoints").join(folder));
                checkpoint.and_then(|c| c.verify()).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
        if let Ok(text) = fs::read_to_string(place.at("r/metrics.jsonl")) {
            assert!(text.is_empty() || text.ends_with('\n') || is_killed, "{name}: {text}");
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let line: serde_json::Value =
                    serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}"));
                let step = line["step"].as_u64().unwrap_or_else(|| panic!("{name}: {line}"));
                assert_eq!(line["loss"].to_string(), self.losses[step as usize - 1], "{name}");
            }
        }
        for file in events(&place.at("r/tensorboard")) {
            assert!(is_killed || records(&fs::read(&file).unwrap()), "{name}: {}", file.display());
        }
        if let Ok(text) = fs::read(place.at("r/run.json")) {
            serde_json::from_slice::<serde_json::Value>(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        if let Ok(text) = fs::read_to_string(place.at("r/config.toml")) {
            assert!(text.contains("save-every = 2"), "{name}: {text}");
        }
    }
}

fn losses(place: &Workplace) -> Vec<String> {
    place.metrics("r/metrics.jsonl").iter().map(|line| line["loss"].to_string()).collect()
}

fn state(checkpoint: &Path) -> Vec<(String, HostTensor)> {
    let checkpoint = Checkpoint::open(checkpoint).unwrap_or_else(|e| panic!("{e}"));
    let read = |name: &String| checkpoint.read(name).unwrap_or_else(|e| panic!("{e}"));
    checkpoint.tensors().iter().map(|entry| (entry.name.clone(), read(&entry.name))).collect()
}

fn events(folder: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

/// True if the bytes are whole records of TensorBoard: length, checksum, message, checksum.
fn records(mut bytes: &[u8]) -> bool {
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let Some(rest) = rest.get(4 + u64::from_le_bytes(*length) as usize + 4..) else { return false };
        bytes = rest;
    }
    bytes.is_empty()
}

/// Returns the hidden files and folders in a folder and its folders, which only writers have.
fn hidden(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') {
            found.extend(hidden(&entry.path()));
        } else if name.starts_with('.') {
            found.push(name);
        }
    }
    found
}

const WRITE: &str = "write,pwrite64,writev";
const RENAME: &str = "rename,renameat,renameat2";

#[test]
fn a_run_keeps_what_is_whole_whatever_fails() {
    if let Err(why) = can_inject() {
        return say_skipped(why);
    }
    let reference = Reference::new();
    let mut ended = 0;
    for fault in &selected([
        faults(WRITE, "error=ENOSPC", &["9+"], 60),
        faults("fsync,fdatasync", "error=EIO", &[], 20),
        faults(RENAME, "error=EIO", &["1"], 8),
        faults("mkdir,mkdirat", "error=ENOSPC", &[], 8),
        faults("unlink,unlinkat,rmdir", "error=EIO", &[], 12),
        faults("ftruncate", "error=EIO", &[], 3),
    ]) {
        ended += usize::from(reference.check(fault).code != Some(0));
    }
    assert!(ended > 0 || is_part(), "no fault had an effect");
}

#[test]
fn caches_that_cannot_be_written_are_not_needed() {
    if !is_slow() {
        return say_skipped("MESH_SLOW=1 runs it");
    }
    if let Err(why) = can_inject() {
        return say_skipped(why);
    }
    let reference = Reference::new();
    let place = &reference.place;
    for fault in &selected([
        faults(WRITE, "error=ENOSPC", &[], 12),
        faults("fsync,fdatasync", "error=EIO", &[], 3),
        faults(RENAME, "error=EIO", &[], 4),
        faults("mkdir,mkdirat", "error=EROFS", &[], 4),
    ]) {
        fs::remove_dir_all(place.at("cache")).unwrap();
        reference.check(fault);
        // The next start uses only whole entries of the cache.
        let _ = fs::remove_dir_all(place.at("r"));
        let again = Ran::new(Reference::train(place, &[]).output().unwrap()).succeeds();
        assert!(!again.err.contains("was damaged"), "{}: {}", fault.name(), again.err);
        assert_eq!(losses(place), reference.losses, "{}", fault.name());
    }
}

#[test]
fn a_plugin_is_installed_whole_or_not_at_all() {
    if let Err(why) = can_inject() {
        return say_skipped(why);
    }
    let place = Workplace::new();
    // In place of pip: a library of the right name, which is never loaded.
    let library = runtime::plugin::CPU.library;
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = --target ] && t=$2; shift; done\n\
         [ -n \"$t\" ] && mkdir -p \"$t/$(dirname {library})\" && echo plugin > \"$t/{library}\"\n"
    );
    let python = place.write("bin/python3", script);
    Command::new("chmod").arg("+x").arg(&python).status().unwrap();
    let path = format!("{}:{}", place.at("bin").display(), std::env::var("PATH").unwrap());
    let mut command = place.meshc(&["plugin", "install", "cpu"]);
    command.env("PATH", path).env("MESH_CACHE", place.at("cache")).env_remove("VIRTUAL_ENV");
    let mut failed = 0;
    for fault in &selected([
        faults(WRITE, "error=ENOSPC", &["1"], 5),
        faults(RENAME, "error=EIO", &["1"], 2),
        faults("mkdir,mkdirat", "error=ENOSPC", &["2"], 5),
    ]) {
        let _ = fs::remove_dir_all(place.at("cache"));
        let ran = fault.run(&command);
        let name = fault.name();
        assert!(matches!(ran.code, Some(0 | 1)) || fault.how.contains("KILL"), "{name}: {}", ran.err);
        assert!(!ran.err.contains("panicked"), "{name}: {}", ran.err);
        let folder = place.at("cache/plugins");
        let found = fs::read_dir(&folder).into_iter().flatten().flatten();
        let installed: Vec<_> = found.filter(|e| !e.file_name().to_string_lossy().starts_with('.')).collect();
        assert!(installed.len() <= 1, "{name}: {installed:?}");
        for entry in installed {
            assert_eq!(fs::read_to_string(entry.path().join(library)).unwrap(), "plugin\n", "{name}");
        }
        failed += usize::from(ran.code == Some(1));
    }
    assert!(failed > 0 || is_part(), "no fault had an effect");
}

#[test]
fn prepared_tokens_are_whole_or_absent() {
    if let Err(why) = can_inject() {
        return say_skipped(why);
    }
    let place = Workplace::new();
    place.write("t.txt", "the cat sat on the mat. ".repeat(400));
    let command = place.meshc(&["data", "prepare", "t.txt", "-o", "out"]);
    let mut failed = 0;
    for fault in &selected([
        faults(WRITE, "error=ENOSPC", &["1", "3"], 12),
        faults("fsync,fdatasync", "error=EIO", &["2"], 6),
        faults(RENAME, "error=EIO", &["1"], 2),
        faults("mkdir,mkdirat", "error=ENOSPC", &["1"], 2),
    ]) {
        let _ = fs::remove_dir_all(place.at("out"));
        let (ran, name) = (fault.run(&command), fault.name());
        assert!(matches!(ran.code, Some(0 | 1)) || fault.how.contains("KILL"), "{name}: {}", ran.err);
        assert!(!ran.err.contains("panicked"), "{name}: {}", ran.err);
        assert!(ran.code != Some(0) || place.at("out").exists(), "{name}: {}", ran.err);
        if place.at("out").exists() {
            data::PreparedTokens::open(&place.at("out")).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        if ran.code.is_some() {
            assert!(hidden(place.path()).is_empty(), "{name}: {:?}", hidden(place.path()));
        }
        failed += usize::from(ran.code == Some(1));
    }
    assert!(failed > 0 || is_part(), "no fault had an effect");
}

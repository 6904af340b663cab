//! A campaign of damaged inputs: every kind of file that users give is altered, and must be refused with an
//! error or read as before.
//!
//! `cargo xtask fuzz SECONDS` runs it for a time, `MESH_SLOW=1` with 20,000 inputs, and a normal run with
//! 2,000. The same number is always the same input. A child process runs the inputs, so that signals and
//! memory are seen; a panic, a signal, 20 seconds for one input, 4 GiB of memory, and contents that differ
//! from what a digest says are findings.

mod inputs;
mod mutate;
mod options;
mod parsers;

use inputs::{Kind, Read};
use mutate::Rng;
use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// The longest time for one input.
const LIMIT: Duration = Duration::from_secs(20);
/// The most memory for all inputs, in KiB.
const MEMORY: u64 = 4 << 20;

#[test]
fn damaged_inputs_are_refused_or_read_as_before() {
    let slow = env::var_os("MESH_SLOW").is_some_and(|v| v == "1");
    let state = tempfile::NamedTempFile::new().unwrap();
    let this = env::current_exe().unwrap();
    let mut child = Command::new(this);
    child.args(["--exact", "fuzz::campaign", "--ignored", "--nocapture"]);
    child.env("MESH_FUZZ_STATE", state.path()).env("RUST_BACKTRACE", "0");
    if env::var_os("MESH_FUZZ_INPUTS").is_none() {
        child.env("MESH_FUZZ_INPUTS", if slow { "20000" } else { "2000" });
    }
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let last = fs::read_to_string(state.path()).unwrap_or_default();
    assert!(
        output.status.success() && text.contains("no findings"),
        "{}, at input {last}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{text}");
}

/// A kind whose inputs are all refused would test nothing.
#[test]
fn every_kind_has_an_input_that_is_read() {
    let place = tempfile::tempdir().unwrap();
    for kind in inputs::kinds(place.path()) {
        let dir = place.path().join("whole");
        let is_read = |seed: &mutate::Files| {
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir(&dir).unwrap();
            seed.iter().for_each(|(name, bytes)| fs::write(dir.join(name), bytes).unwrap());
            match (kind.read)(&dir, false) {
                Ok(Read::Same) => true,
                Ok(Read::Refused) => false,
                Err(why) => panic!("{}: {why}", kind.name),
            }
        };
        assert!(kind.seeds.iter().any(is_read), "{}: every input is refused", kind.name);
    }
}

/// The child process of the first test.
#[test]
#[ignore = "the process in which the campaign runs; cargo xtask fuzz starts it"]
fn campaign() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let inputs = number("MESH_FUZZ_INPUTS").unwrap_or(2000);
    let seconds = number("MESH_FUZZ_SECONDS").map(Duration::from_secs);
    let first = number("MESH_FUZZ_FIRST").unwrap_or(0);
    let state = env::var_os("MESH_FUZZ_STATE");
    let place = tempfile::tempdir().unwrap();
    let kinds = inputs::kinds(place.path());
    let running: Arc<Mutex<Option<(String, Instant)>>> = Arc::default();
    watch(&running);
    std::panic::set_hook(Box::new(|_| ()));
    let (begin, mut findings, mut refused, mut done) = (Instant::now(), Vec::new(), 0, 0);
    for number in first.. {
        let over = seconds.map_or(done >= inputs, |seconds| begin.elapsed() > seconds);
        if over {
            break;
        }
        let kind = &kinds[number as usize % kinds.len()];
        let name = format!("{number} ({})", kind.name);
        if let Some(state) = &state {
            fs::write(state, &name).unwrap();
        }
        *running.lock().unwrap() = Some((name.clone(), Instant::now()));
        match one(kind, number, place.path()) {
            Ok(Read::Refused) => refused += 1,
            Ok(Read::Same) => {}
            Err(why) => findings.push(format!("input {name}: {why}")),
        }
        *running.lock().unwrap() = None;
        done += 1;
    }
    let memory = peak_memory();
    if memory > MEMORY {
        findings.push(format!("{memory} KiB of memory"));
    }
    println!(
        "{done} inputs, {refused} refused, {memory} KiB of memory, {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    match findings.as_slice() {
        [] => println!("no findings"),
        some => println!("{} findings:\n{}", some.len(), some[..some.len().min(20)].join("\n")),
    }
}

/// Reads one damaged input. The error is a finding.
fn one(kind: &Kind, number: u64, place: &Path) -> Result<Read, String> {
    let mut rng = Rng::new(number);
    let seed = &kind.seeds[rng.below(kind.seeds.len())];
    let files = mutate::files(seed, &kind.seeds, &mut rng);
    let dir = place.join("input");
    let _ = fs::remove_dir_all(&dir);
    for (name, bytes) in &files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&dir)).map_err(|e| e.to_string())?;
        fs::write(path, bytes).map_err(|e| e.to_string())?;
    }
    let altered = files != *seed;
    match catch_unwind(AssertUnwindSafe(|| (kind.read)(&dir, altered))) {
        Ok(read) => read,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panics: {}", text.unwrap_or_default()))
        }
    }
}

/// Ends the process if one input takes too long.
fn watch(running: &Arc<Mutex<Option<(String, Instant)>>>) {
    let running = running.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = running.lock().unwrap().clone();
            if let Some((name, since)) = now
                && since.elapsed() > LIMIT
            {
                println!("input {name} takes more than {} s", LIMIT.as_secs());
                std::process::abort();
            }
        }
    });
}

/// The peak memory of this process in KiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

//! A day of training in small: thousands of steps and hundreds of checkpoints, in constant memory and with a
//! constant number of threads and open files. It runs with `MESH_SLOW=1`, and prints its figures.

use crate::{
    cli_training::{Running, artefact, train},
    support::{Workplace, is_slow, say_skipped, text},
};
use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The steps, and the steps between two checkpoints: 500 of them.
const STEPS: u64 = 5000;
const SAVE_EVERY: &str = "10";

/// The resources of a process at a moment.
#[derive(Clone, Copy, Debug)]
struct Usage {
    seconds: f64,
    /// Resident memory in KiB.
    memory: u64,
    threads: u64,
    files: u64,
}

impl Usage {
    /// Returns the usage of a process. `None` if it has ended.
    fn of(id: u32, begin: Instant) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            seconds: begin.elapsed().as_secs_f64(),
            memory: field("VmRSS")?,
            threads: field("Threads")?,
            files: fs::read_dir(format!("/proc/{id}/fd")).ok()?.count() as u64,
        })
    }
}

/// Returns the middle of some values.
fn median(usages: &[Usage], value: fn(&Usage) -> u64) -> u64 {
    let mut values: Vec<u64> = usages.iter().map(value).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

#[test]
fn five_thousand_steps_and_five_hundred_checkpoints_use_what_the_first_ones_use() {
    if !is_slow() {
        return say_skipped("MESH_SLOW=1 trains 5,000 steps");
    }
    let place = Workplace::new();
    let (data, steps) = (text(), STEPS.to_string());
    let first =
        [artefact(), "--data", &data, "--steps", &steps, "--run-dir", "r", "--save-every", SAVE_EVERY];
    let more = ["--keep", "3", "--eval-every", "100", "--eval-batches", "1"];
    let mut running = Running::start(train(&place, &[&first[..], &more].concat()));
    running.until("step 1/");
    let (id, begin, over) = (running.child.id(), Instant::now(), Arc::new(AtomicBool::new(false)));
    let reader = thread::spawn({
        let over = over.clone();
        move || {
            let said: Vec<String> = running.lines.by_ref().map_while(Result::ok).collect();
            over.store(true, Ordering::SeqCst);
            (running.child.wait().unwrap().code(), said)
        }
    });
    let mut usages = Vec::new();
    while !over.load(Ordering::SeqCst) {
        usages.extend(Usage::of(id, begin).filter(|usage| usage.threads > 1));
        thread::sleep(Duration::from_millis(250));
    }
    let (code, said) = reader.join().unwrap();
    assert_eq!(code, Some(0), "{}", said.join("\n"));
    assert_eq!(place.metrics("r/metrics.jsonl").len() as u64, STEPS);
    assert_eq!(place.folders("r/checkpoints").len(), 3);
    let saved = said.iter().filter(|line| line.contains(": saved in ")).count();
    assert_eq!(saved, 500);
    // The last values are those of the end of the process.
    usages.truncate(usages.len() - usages.len() / 20);
    let tenth = usages.len() / 10;
    let (early, late) = (&usages[tenth..3 * tenth], &usages[usages.len() - 2 * tenth..]);
    for (what, value) in [
        ("memory (KiB)", (|usage| usage.memory) as fn(&Usage) -> u64),
        ("threads", |usage| usage.threads),
        ("open files", |usage| usage.files),
    ] {
        let (a, b) = (median(early, value), median(late, value));
        let most = usages.iter().map(value).max().unwrap_or(0);
        println!("{what}: {a} early, {b} late, {most} at most");
        // A leak of 1 KiB a step is 5,000 KiB.
        let allowed = if what.starts_with("memory") { 4096 } else { 1 };
        assert!(b <= a + allowed, "{what} grows from {a} to {b}: {usages:?}");
    }
    let last = usages.last().map_or(0.0, |usage| usage.seconds);
    println!("{STEPS} steps, {saved} checkpoints, {last:.0} s, {} samples", usages.len());
}

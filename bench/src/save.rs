//! Cost of checkpoints: the time that the training loop is blocked, and the write speed.
//!
//! A plain write of the same number of bytes and `dd`, alternating on the same disk, are the references.

use crate::{lower, step};
use anyhow::{Context, Result, anyhow, ensure};
use mesh::{Mesh, Site};
use models::{Config, Switch};
use pjrt::{Client, ClientOptions};
use runtime::{
    Artefact, HostTensor, Session,
    checkpoint::{Facts, Writer, folder},
    plugin::{Platform, SearchPaths, find, load},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, io::Write, path::Path, process::Command, thread, time::Instant};

/// Bytes per write call.
const PIECE: usize = 8 << 20;

/// Milliseconds of all rounds by name of the measurement.
#[derive(Default)]
struct Times(BTreeMap<&'static str, Vec<f64>>);

impl Times {
    fn add(&mut self, what: &'static str, since: Instant) -> f64 {
        let took = since.elapsed().as_secs_f64() * 1e3;
        self.0.entry(what).or_default().push(took);
        took
    }

    fn median(&self, what: &str) -> f64 {
        let mut times = self.0.get(what).cloned().unwrap_or_default();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Measures `rounds` rounds. Checkpoints and files are written to a new folder in `dir`.
pub fn measure(rounds: usize, quick: bool, dir: &str) -> Result<Value> {
    ensure!(rounds > 0, "ROUNDS must be at least 1, got {rounds}");
    let scratch = tempfile::Builder::new().prefix("bench-save").tempdir_in(dir);
    let scratch = scratch.with_context(|| format!("creating a folder in `{dir}`"))?;
    let mut session = session(quick)?;
    let inputs = step::batch(session.artefact())?;
    let bytes = session.snapshot()?.bytes();
    let mut times = Times::default();
    for round in 0..=rounds {
        // The first round warms up.
        let mut now = Times::default();
        plain(scratch.path(), bytes, &mut now)?;
        dd(scratch.path(), bytes, &mut now)?;
        alone(&session, scratch.path(), round as u64, &mut now)?;
        training(&mut session, &inputs, scratch.path(), round as u64, &mut now)?;
        if round > 0 {
            now.0.into_iter().for_each(|(what, all)| times.0.entry(what).or_default().extend(all));
        }
    }
    let speed = |what: &str| bytes as f64 / times.median(what) / 1e3;
    let medians: BTreeMap<&str, f64> = times.0.keys().map(|what| (*what, times.median(what))).collect();
    let (blocked, plain) = (times.median("blocked"), times.median("plain_write"));
    Ok(json!({
        "rounds": rounds, "bytes": bytes, "median_ms": medians,
        "blocked_to_plain_write": blocked / plain,
        "blocked_and_slower_step_to_plain_write": (blocked + times.median("slower_after_snapshot")) / plain,
        "mb_per_s": { "save": speed("save"), "plain_write": speed("plain_write"), "dd": speed("dd") },
        "save_to_dd": times.median("dd") / times.median("save"),
        "all_ms": times.0,
    }))
}

/// Returns a session with initialized state of switch_tiny, or of a much smaller model if `quick`.
fn session(quick: bool) -> Result<Session> {
    let (d_model, d_ff) = if quick { (32, 64) } else { (256, 1024) };
    let config = Config {
        name: "save".into(),
        // Steps are short, so that the cost of a snapshot is visible.
        batch: 8,
        input_length: 64,
        target_length: 32,
        d_model,
        d_ff,
        heads: 8,
        d_kv: d_model / 8,
        encoder_layers: 2,
        decoder_layers: 2,
        switch: Some(Switch { experts: 8, sparse_step: 1, ..Switch::default() }),
        optimizer: models::config::small_model_optimizer(),
        ..Config::default()
    };
    let module = models::program(&config, &Site::default()).finish().map_err(|d| anyhow!("{d}"))?;
    let built = lower::lower(module, &Mesh::default())?;
    let artefact = Artefact::new(config.name, built.manifest, built.files.into_iter().collect())?;
    let around = SearchPaths::from_environment()?;
    let found = find(Platform::Cpu, None, &around, &mut |line| eprintln!("{line}"))?;
    cpu_heap::keep_freed_memory();
    let plugin = load(&found.path, Platform::Cpu)?;
    let client = Client::create(&plugin, &ClientOptions::new().with("cpu_device_count", 1))?;
    let mut session = Session::with_client(client, artefact)?;
    session.set_host_allocator(crate::ALLOCATOR);
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(1))]);
    session.call("init", &seed)?.wait()?;
    session.compile("train_step")?;
    session.release("init");
    session.record_memory_baseline()?;
    Ok(session)
}

/// Writes `bytes` bytes sequentially to one file.
fn plain(dir: &Path, bytes: usize, times: &mut Times) -> Result<()> {
    let piece: Vec<u8> = (0..PIECE).map(|i| (i * 31) as u8).collect();
    let path = dir.join("plain");
    let start = Instant::now();
    let mut file = fs::File::create_new(&path)?;
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE);
        file.write_all(&piece[..now])?;
        left -= now;
    }
    file.sync_all()?;
    times.add("plain_write", start);
    Ok(fs::remove_file(&path)?)
}

/// Writes `bytes` bytes with `dd`.
fn dd(dir: &Path, bytes: usize, times: &mut Times) -> Result<()> {
    let path = dir.join("dd");
    let mut command = Command::new("dd");
    command.arg("if=/dev/zero").arg(format!("of={}", path.display()));
    command.args([&format!("bs={PIECE}"), &format!("count={bytes}"), "iflag=count_bytes", "conv=fsync"]);
    let start = Instant::now();
    let done = command.output().context("starting dd")?;
    times.add("dd", start);
    ensure!(done.status.success(), "dd failed: {}", String::from_utf8_lossy(&done.stderr));
    Ok(fs::remove_file(&path)?)
}

/// Writes a checkpoint while no step runs.
fn alone(session: &Session, dir: &Path, round: u64, times: &mut Times) -> Result<()> {
    let path = folder::path(dir, 2 * round);
    let start = Instant::now();
    let copy = session.snapshot()?;
    let mut writer = Writer::create(&path)?;
    copy.write(&mut writer)?;
    writer.finish(Facts::new(), round)?;
    times.add("save", start);
    Ok(fs::remove_dir_all(&path)?)
}

/// Writes a checkpoint while training continues, as the training loop does.
fn training(
    session: &mut Session,
    inputs: &BTreeMap<String, HostTensor>,
    dir: &Path,
    round: u64,
    times: &mut Times,
) -> Result<()> {
    let step = |session: &mut Session, what, times: &mut Times| -> Result<f64> {
        let start = Instant::now();
        session.wait_for_memory();
        session.call("train_step", inputs)?.wait()?;
        Ok(times.add(what, start))
    };
    // The slowdown of the step after a snapshot, without writing: compared with the steps before and after
    // it.
    let mut before = step(session, "step", times)?;
    for _ in 0..10 {
        let copy = session.snapshot()?;
        let with = step(session, "step_after_snapshot", times)?;
        drop(copy);
        let after = step(session, "step", times)?;
        times.0.entry("slower_after_snapshot").or_default().push(with - (before + after) / 2.0);
        before = after;
    }
    let path = folder::path(dir, 2 * round + 1);
    let written = path.clone();
    let start = Instant::now();
    let copy = session.snapshot()?;
    let thread = thread::spawn(move || -> runtime::Result<()> {
        let mut writer = Writer::create(&path)?;
        copy.write(&mut writer)?;
        writer.finish(Facts::new(), round)
    });
    times.add("blocked", start);
    step(session, "next_step_while_writing", times)?;
    while !thread.is_finished() {
        step(session, "step_while_writing", times)?;
    }
    thread.join().map_err(|_| anyhow!("the writing thread panicked"))??;
    times.add("save_while_training", start);
    Ok(fs::remove_dir_all(written)?)
}

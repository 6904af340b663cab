//! Time of greedy generation on the CPU plugin, beside Hugging Face transformers with the same weights.
//!
//! Runs of both systems alternate.

use crate::{lower, peers};
use anyhow::{Context, Result, anyhow};
use mesh::{Mesh, Site, task::DecodingMethod};
use models::{Config, Generation, Switch, generate, hf};
use pjrt::ClientOptions;
use runtime::{
    Artefact, HostTensor, Session,
    generate::{Generator, Options},
    plugin::{Platform, SearchPaths, find, load},
};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, path::Path, time::Instant};

/// Rows of a batch.
const ROWS: [&str; 3] = ["1", "8", "64"];
const INPUT: usize = 64;
const NEW: usize = 64;
const EXPERTS: usize = 8;

/// Models: layers per stack, sparse layers per stack, `d_model`. They have 8 heads, and `d_ff` is 4 ×
/// `d_model`.
const MODELS: [[&str; 3]; 3] = [["2", "1", "64"], ["4", "2", "64"], ["2", "1", "256"]];

/// Measures all models, with these options of the command line.
pub fn measure(options: &[&str]) -> Result<Value> {
    let python = match options.iter().position(|o| *o == "--peers") {
        Some(at) => Some(*options.get(at + 1).context("--peers needs a Python interpreter")?),
        None => None,
    };
    all(python, options.contains(&"--quick"))
}

/// Measures all models. `python` is an interpreter with transformers; `None` leaves out the peer.
fn all(python: Option<&str>, quick: bool) -> Result<Value> {
    let runs = if quick { "3" } else { "9" };
    let mut results = Vec::new();
    let models = MODELS.into_iter().take(if quick { 1 } else { MODELS.len() });
    for ([layers, sparse, d_model], rows) in models.flat_map(|model| ROWS.map(|rows| (model, rows))) {
        let width: usize = d_model.parse().context("d_model must be a number")?;
        let (d_ff, d_kv) = ((4 * width).to_string(), (width / 8).to_string());
        let folder = tempfile::tempdir()?;
        let dir = folder.path().display().to_string();
        let peer = |more: &[&str]| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/generate_hf.py");
            let sizes = ["--d-model", d_model, "--d-ff", &d_ff, "--d-kv", &d_kv];
            let all =
                [script, "--layers", layers, "--sparse-layers", sparse, "--runs", runs, "--batch", rows];
            let args = [&all, &sizes[..]].concat();
            peers::json(python.unwrap_or("python3"), &[&args[..], more].concat())
        };
        let mut theirs = Vec::new();
        if python.is_some() {
            theirs.push(peer(&["--save", &dir])?);
        }
        let own = || peers::own(&["generate-one", layers, sparse, d_model, rows, &dir, runs]);
        let mut ours = vec![own()?];
        if python.is_some() {
            theirs.push(peer(&[])?);
            ours.push(own()?);
        }
        let best =
            |key: &str, runs: &[Value]| runs.iter().filter_map(|r| r[key].as_f64()).min_by(f64::total_cmp);
        let faster = |key| best(key, &theirs).zip(best(key, &ours)).map(|(peer, own)| peer / own);
        results.push(json!({
            "layers": layers, "sparse_layers": sparse, "d_model": d_model, "rows": rows, "input_length": INPUT, "new_tokens": NEW,
            "ours": ours, "peer": theirs, "times_faster": faster("ms"), "times_less_cpu": faster("cpu_ms"),
            "times_less_memory": faster("peak_bytes"), "load": fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
        }));
    }
    Ok(json!({ "generate": results }))
}

/// Measures 256 inputs whose outputs have different lengths, in batches of 32 rows: with rows that make room
/// for other inputs when they end, and batch by batch. Tokens are sampled at a high temperature, so that the
/// end is about as likely as any other of 48 tokens.
pub fn many(runs: usize) -> Result<Value> {
    const INPUTS: usize = 256;
    let config = Config { vocab: 48, target_length: 2 * NEW, ..config(4, 2, 256, 32) };
    let options =
        Generation { method: DecodingMethod::Sample, filter: false, admit: 4, ..Generation::default() };
    let mut session = session(&config, &options, "")?;
    let mut generator = Generator::new(&mut session)?;
    let inputs: Vec<Vec<i32>> = (0..INPUTS)
        .map(|row| (0..INPUT).map(|place| (3 + (row * 31 + place * 7) % 45) as i32).collect())
        .collect();
    let options = Options { temperature: 50.0, ..Options::default() };
    let mut ms: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
    let mut lengths: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
    for run in 0..=runs {
        for (way, size) in [INPUTS, config.batch].into_iter().enumerate() {
            lengths[way].clear();
            let start = Instant::now();
            // Samples depend on the number of an input, so that the two ways draw other tokens.
            for part in inputs.chunks(size) {
                generator.run(part, &options, &mut |_, sequences| {
                    lengths[way].push(sequences[0].tokens.len());
                    Ok(())
                })?;
            }
            if run > 0 {
                ms[way].push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let rate = |way: usize, ms: &mut Vec<f64>| {
        ms.sort_by(f64::total_cmp);
        lengths[way].iter().sum::<usize>() as f64 / ms[ms.len() / 2] * 1e3
    };
    let [rows, batches] = &mut ms;
    let (by_row, by_batch) = (rate(0, rows), rate(1, batches));
    Ok(json!({
        "inputs": INPUTS, "rows": config.batch, "runs": runs, "load": fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
        "mean_length": lengths.clone().map(|l| l.iter().sum::<usize>() as f64 / INPUTS as f64), "longest": config.target_length,
        "tokens_per_s": { "rows_make_room": by_row, "by_batch": by_batch }, "times_faster": by_row / by_batch,
    }))
}

/// Measures one model with the weights that the peer wrote to `dir`, or with random weights if there are
/// none.
pub fn one([layers, sparse, d_model, rows]: [&str; 4], dir: &str, runs: usize) -> Result<Value> {
    let config = config(layers.parse()?, sparse.parse()?, d_model.parse()?, rows.parse()?);
    let batch = config.batch;
    let options = Generation::default();
    let steps = options.steps;
    let mut session = session(&config, &options, dir)?;
    let id = |i: usize| (3 + (i * 7919 + 1) * 31 % (config.vocab - 3)) as i32;
    let inputs: Vec<Vec<i32>> =
        (0..batch).map(|row| (0..INPUT).map(|place| id(row * INPUT + place)).collect()).collect();
    let start = Instant::now();
    let mut generator = Generator::new(&mut session)?;
    let compile_s = start.elapsed().as_secs_f64();
    let options = Options { min_length: NEW, ..Options::default() };
    let (mut wall, mut cpu, mut tokens, mut first) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut first_cpu = Vec::new();
    for run in 0..=runs {
        // The encoder and one call of the decoder. The difference to a whole run is the cost of the other
        // calls.
        let (start, before) = (Instant::now(), crate::step::cpu_seconds());
        let one = Options { min_length: steps, max_length: Some(steps), ..Options::default() };
        generator.run(&inputs, &one, &mut |_, _| Ok(()))?;
        first.push(start.elapsed().as_secs_f64() * 1e3);
        first_cpu.push((crate::step::cpu_seconds() - before) * 1e3);
        let (start, before) = (Instant::now(), crate::step::cpu_seconds());
        tokens.clear();
        generator.run(&inputs, &options, &mut |_, sequences| {
            tokens.push(sequences[0].tokens.clone());
            Ok(())
        })?;
        if run > 0 {
            wall.push(start.elapsed().as_secs_f64() * 1e3);
            cpu.push((crate::step::cpu_seconds() - before) * 1e3);
        }
    }
    first.sort_by(f64::total_cmp);
    wall.sort_by(f64::total_cmp);
    cpu.sort_by(f64::total_cmp);
    let median = wall[wall.len() / 2];
    Ok(json!({
        "ms": median, "min_ms": wall[0], "cpu_ms": cpu[cpu.len() / 2], "mean_cpu_ms": cpu.iter().sum::<f64>() / cpu.len() as f64, "compile_s": compile_s,
        "first_call_ms": first[first.len() / 2], "first_call_cpu_ms": first_cpu.iter().sum::<f64>() / first_cpu.len() as f64, "steps_per_call": steps, "tokens_per_s": (batch * NEW) as f64 / median * 1e3, "peak_bytes": peak_bytes(),
        "same_tokens_as_peer": same(dir, &tokens)?,
    }))
}

/// Returns the largest resident memory of this process so far, in bytes; 0 means that the system does not
/// say.
fn peak_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Returns a session with the weights in `dir`, or with random weights.
fn session(config: &Config, options: &Generation, dir: &str) -> Result<Session> {
    let module = generate::program(config, options, &Site::default()).finish().map_err(|d| anyhow!("{d}"))?;
    let built = lower::lower(module, &Mesh::default())?;
    let artefact = Artefact::new("generate".to_owned(), built.manifest, built.files.into_iter().collect())?;
    let around = SearchPaths::from_environment()?;
    let found = find(Platform::Cpu, None, &around, &mut |line| eprintln!("{line}"))?;
    let client = ClientOptions::new().with("cpu_device_count", 1);
    cpu_heap::keep_freed_memory();
    let mut session = Session::open(&load(&found.path, Platform::Cpu)?, artefact, client)?;
    session.set_host_allocator(crate::ALLOCATOR);
    let weights = Path::new(dir).join("model.safetensors");
    if weights.exists() {
        for (name, value) in parameters(config, &fs::read(&weights)?)? {
            session.set_state(&name, &value)?;
        }
    } else {
        let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(1))]);
        session.call("init", &seed)?.wait()?;
    }
    Ok(session)
}

/// Returns the model of `bench/peers/generate_hf.py`.
fn config(layers: usize, sparse: usize, d_model: usize, rows: usize) -> Config {
    Config {
        name: "generate".into(),
        batch: rows,
        input_length: INPUT,
        target_length: NEW,
        d_model,
        d_ff: 4 * d_model,
        heads: 8,
        d_kv: d_model / 8,
        encoder_layers: layers,
        decoder_layers: layers,
        dropout: 0.0,
        switch: Some(Switch { sparse_step: layers / sparse, ..Switch::hugging_face(EXPERTS, INPUT) }),
        ..Config::default()
    }
}

/// Returns the fraction of tokens that are equal to the peer's, or `None` if the peer has not run.
fn same(dir: &str, tokens: &[Vec<i32>]) -> Result<Option<f64>> {
    let path = Path::new(dir).join("generated.safetensors");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let ids: Vec<i32> = file
        .tensor("ids")?
        .data()
        .chunks_exact(4)
        .map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let theirs = ids.chunks_exact(NEW + 1).flat_map(|row| &row[1..]);
    let same = tokens.iter().flatten().zip(theirs).filter(|(a, b)| a == b).count();
    Ok(Some(same as f64 / (tokens.len() * NEW) as f64))
}

/// Converts the peer's parameters to ours.
fn parameters(config: &Config, bytes: &[u8]) -> Result<BTreeMap<String, HostTensor>> {
    let file = SafeTensors::deserialize(bytes)?;
    let mut all: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for part in hf::tensors(config).map_err(|e| anyhow!(e))? {
        let view = file.tensor(&part.name).with_context(|| part.name.clone())?;
        let theirs: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let sizes: Vec<usize> = part.dims.iter().map(|d| d.1).collect();
        let whole = sizes.iter().product();
        let (_, ours) = all.entry(part.param).or_insert_with(|| (sizes.clone(), vec![0.0; whole]));
        let columns = if part.transposed { part.sizes[0] } else { 1 };
        let rows = theirs.len() / columns;
        for n in 0..theirs.len() {
            let from = if part.transposed { n % columns * rows + n / columns } else { n };
            let (mut rest, mut index, mut stride) = (n, 0, 1);
            for d in (0..sizes.len()).rev() {
                index += (part.start[d] + rest % part.part[d]) * stride;
                rest /= part.part[d];
                stride *= sizes[d];
            }
            ours[index] = theirs[from];
        }
    }
    Ok(all.into_iter().map(|(name, (sizes, values))| (name, HostTensor::f32(&sizes, &values))).collect())
}

//! Time of a training step on the CPU plugin.

use crate::lower;
use anyhow::{Result, anyhow};
use mesh::Mesh;
use pjrt::ClientOptions;
use runtime::{
    Artefact, Contract, HostTensor, Session,
    plugin::{Platform, SearchPaths, find, load},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};

/// Measures `steps` steps after three warm-up steps and returns medians.
pub fn measure(model: &str, mesh: &str, steps: usize) -> Result<Value> {
    let mesh = Mesh::parse(mesh).map_err(|e| anyhow!(e))?;
    let built = lower::lower(lower::read(model)?, &mesh)?;
    let artefact = Artefact::new(model.to_owned(), built.manifest, built.files.into_iter().collect())?;
    let around = SearchPaths::from_environment()?;
    let found = find(Platform::Cpu, None, &around, &mut |line| eprintln!("{line}"))?;
    let options = ClientOptions::new().with("cpu_device_count", mesh.devices() as i64);
    cpu_heap::keep_freed_memory();
    let mut session = Session::open(&load(&found.path, Platform::Cpu)?, artefact, options)?;
    session.set_host_allocator(crate::ALLOCATOR);
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(1))]);
    session.call("init", &seed)?.wait()?;
    let start = Instant::now();
    session.compile("train_step")?;
    // The training loop releases `init` as well.
    session.release("init");
    session.record_memory_baseline()?;
    let compile_s = start.elapsed().as_secs_f64();
    let inputs = batch(session.artefact())?;
    let (mut wall, mut cpu, mut loss) = (Vec::new(), Vec::new(), f64::NAN);
    for step in 0..steps + 3 {
        session.wait_for_memory();
        let (start, before) = (Instant::now(), cpu_seconds());
        let outputs = session.call("train_step", &inputs)?.wait()?;
        loss = outputs["loss"].to_f64()?[0];
        if step >= 3 {
            wall.push(start.elapsed().as_secs_f64() * 1e3);
            cpu.push((cpu_seconds() - before) * 1e3);
        }
    }
    let [rows, input_length] = shape(&inputs["inputs"])?;
    let [_, target_length] = shape(&inputs["targets"])?;
    let tokens = rows * (input_length + target_length);
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let wall = median(wall);
    Ok(json!({
        "model": model, "mesh": mesh.to_string(), "devices": mesh.devices(), "steps": steps,
        "batch": rows, "input_length": input_length, "target_length": target_length, "step_ms": wall, "cpu_ms": median(cpu), "tokens_per_s": tokens as f64 / wall * 1e3, "loss": loss,
        "compile_s": compile_s, "peak_rss_mb": peak_rss_mb(),
    }))
}

fn shape(tensor: &HostTensor) -> Result<[usize; 2]> {
    let dims: &[usize] = &tensor.dims;
    dims.try_into().map_err(|_| anyhow!("a batch has {dims:?} instead of rows and positions"))
}

/// Returns a batch whose tokens depend only on their position, without padding.
pub fn batch(artefact: &Artefact) -> Result<BTreeMap<String, HostTensor>> {
    let spec = Contract::batch_spec(artefact)?;
    let (batch, vocab) = (spec.batch, spec.vocab);
    let tokens = |length: usize, salt: usize| {
        let ids: Vec<i32> =
            (0..batch * length).map(|i| (3 + (i * 7919 + salt) * 31 % (vocab - 3)) as i32).collect();
        HostTensor::s32(&[batch, length], &ids)
    };
    Ok(BTreeMap::from([
        ("seed".to_owned(), HostTensor::u32_scalar(1)),
        ("inputs".to_owned(), tokens(spec.input_length, 1)),
        ("targets".to_owned(), tokens(spec.target_length, 2)),
    ]))
}

/// Returns the CPU time of all threads of this process in seconds.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name, in parentheses, can contain spaces. User and system time are the 12th and 13th
    // fields after it, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Returns the largest memory of this process so far. `None` means that the system does not tell.
pub fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

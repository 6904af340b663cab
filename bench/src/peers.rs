//! The default benchmark: compile and step times of switch_tiny, with the peer's runs between ours.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::process::Command;

/// Implementations of the peer: the best of them counts.
const PEERS: [&[&str]; 4] = [
    &["--dispatch", "einsum"],
    &["--dispatch", "scatter"],
    &["--dispatch", "scatter", "--prng", "rbg"],
    &["--dispatch", "scatter", "--prng", "rbg", "--scan"],
];

/// Runs all measurements. `python` is an interpreter with JAX; `None` leaves out the peer.
pub fn all(python: Option<&str>, quick: bool) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let steps = if quick { "3" } else { "20" };
    let mut runs = Vec::new();
    let mut lowering = Value::Null;
    let mut ratios = Vec::new();
    for (dtype, peer_dtype) in [("f32", "f32"), ("selective", "bf16")] {
        let path = folder.path().join(format!("switch_tiny.{dtype}.mesh"));
        std::fs::write(&path, model(dtype)?)?;
        let path = path.display().to_string();
        if dtype == "f32" {
            lowering = own(&["lower", &path])?;
        }
        let one = own(&["step", &path, "", steps])?;
        let mut peers = Vec::new();
        for (python, way) in python.iter().flat_map(|python| PEERS.iter().map(move |way| (python, way))) {
            peers.push(peer(python, peer_dtype, way, &one, steps)?);
        }
        let again = own(&["step", &path, "", steps])?;
        let eight = own(&["step", &path, "data=2,expert=2,model=2", steps])?;
        let best =
            |key: &str, runs: &[Value]| runs.iter().filter_map(|r| r[key].as_f64()).min_by(f64::total_cmp);
        if let (Some(peer), Some(ours)) =
            (best("step_ms", &peers), best("step_ms", &[one.clone(), again.clone()]))
        {
            ratios.push(json!({
                "dtype": dtype, "ours_ms": ours, "peer_ms": peer, "ratio": ours / peer,
                "cpu_ratio": best("cpu_ms", &[one.clone(), again.clone()]).zip(best("cpu_ms", &peers)).map(|(a, b)| a / b),
            }));
        }
        runs.push(json!({"dtype": dtype, "one_device": [one, again], "eight_devices": eight, "peer": peers}));
    }
    Ok(json!({"lowering": lowering["lowering"], "steps": runs, "ratio_to_peer": ratios}))
}

/// Returns the `.mesh` text of switch_tiny.
fn model(dtype: &str) -> Result<Vec<u8>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "run",
        "--quiet",
        "--package",
        "models",
        "--example",
        "switch_tiny",
        "--",
        "--dtype",
        dtype,
    ]);
    output(&mut command)
}

/// Runs this program in a separate process and returns its JSON.
pub fn own(args: &[&str]) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    Ok(serde_json::from_slice(&output(command.args(args))?)?)
}

/// Runs the peer with the batch of our run.
fn peer(python: &str, dtype: &str, way: &[&str], ours: &Value, steps: &str) -> Result<Value> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/switch_tiny_jax.py");
    let mut command = Command::new(python);
    command.args([script, "--dtype", dtype, "--steps", steps]).args(way);
    let sizes = [("--batch", "batch"), ("--inputs", "input_length"), ("--targets", "target_length")];
    for (option, key) in sizes {
        command.args([option, &ours[key].to_string()]);
    }
    // Dropout masks are shared along the sequence, as in our model and in T5.
    command.args(["--dropout-broadcast", "length"]);
    last_json(&mut command)
}

/// Runs a script of the peer and returns its JSON.
pub fn json(python: &str, args: &[&str]) -> Result<Value> {
    last_json(Command::new(python).args(args))
}

/// Returns the last line of the output that begins like a JSON object.
fn last_json(command: &mut Command) -> Result<Value> {
    let text = String::from_utf8(output(command)?)?;
    let line = text.lines().rev().find(|l| l.starts_with('{')).context("the peer printed no JSON")?;
    Ok(serde_json::from_str(line)?)
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

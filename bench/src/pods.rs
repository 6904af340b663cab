//! Ahead-of-time compilation of Switch-Base, Switch-XXL and Switch-C for TPU slices, beside Flaxformer and
//! T5X.
//!
//! Both systems are compiled for the same slices by the same libtpu. The results are counts of the optimized
//! programs and therefore equal on every machine, except for the compile time.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{process::Command, time::Instant};

/// A model on a slice, with the peer's numbers per device.
struct Row {
    name: &'static str,
    model: &'static str,
    target: &'static str,
    mesh: &'static str,
    state_layout: &'static str,
    settings: &'static str,
    /// The name of the schedule preset.
    schedule: &'static str,
    /// The libtpu flags of the compilation, separated by spaces.
    flags: &'static str,
    peer: Peer,
}

/// The peer's numbers: matmul FLOPs, estimated cycles, wire bytes, peak memory in bytes, compile time in
/// seconds.
struct Peer {
    flops: f64,
    cycles: f64,
    wire: f64,
    peak: f64,
    seconds: f64,
}

/// The rows. All use global batch 2048, input length 512, target length 114, bf16 activations, a float32
/// router and Adafactor, without router noise on either side.
const ROWS: [Row; 3] = [
    Row {
        name: "base",
        model: "switch_base",
        target: "tpu:v3:4x4",
        mesh: "expert=32",
        state_layout: "*:expert",
        settings: "group_sequences=4 capacity_factor=1 jitter=0 exploration=argmax",
        schedule: "switch_base-v3",
        flags: "xla_jf_enable_advanced_multi_output_fusion=true",
        peer: Peer { flops: 61.9e12, cycles: 1.65e9, wire: 3.78e9, peak: 5.82e9, seconds: 89.0 },
    },
    Row {
        name: "xxl",
        model: "switch_xxl",
        target: "tpu:v4:8x8x8:megacore",
        mesh: "expert=128,model=4",
        state_layout: "*:expert",
        settings: "group_sequences=4 capacity_factor=1 jitter=0 exploration=argmax",
        schedule: "switch_xxl-v4",
        flags: "",
        peer: Peer { flops: 127.3e12, cycles: 1.10e9, wire: 42.19e9, peak: 26.20e9, seconds: 173.0 },
    },
    Row {
        name: "c",
        model: "switch_c",
        target: "tpu:v3:32x32",
        mesh: "expert=32,inner=64",
        state_layout: "*:inner",
        settings: "expert_groups=32 min_capacity=1 jitter=0 exploration=argmax",
        schedule: "switch_c-v3",
        flags: "",
        peer: Peer { flops: 30.3e12, cycles: 1.03e9, wire: 8.75e9, peak: 16.06e9, seconds: 160.0 },
    },
];

/// Compiles the rows `names` (all rows if empty) with the `meshc` in the folder of this program.
pub fn measure(names: &[&str]) -> Result<Value> {
    if let Some(unknown) = names.iter().find(|n| ROWS.iter().all(|row| row.name != **n)) {
        bail!("unknown row `{unknown}`: the rows are {}", ROWS.map(|row| row.name).join(", "));
    }
    let wanted = ROWS.iter().filter(|row| names.is_empty() || names.contains(&row.name));
    Ok(json!({ "rows": wanted.map(compiled).collect::<Result<Vec<Value>>>()? }))
}

fn compiled(row: &Row) -> Result<Value> {
    let meshc = std::env::current_exe()?.with_file_name(format!("meshc{}", std::env::consts::EXE_SUFFIX));
    ensure!(meshc.exists(), "{} does not exist: run `cargo build --release -p meshc`", meshc.display());
    let folder = tempfile::tempdir()?;
    let artefact = folder.path().join(row.name);
    let mut command = Command::new(&meshc);
    command.args(["compile", row.model]).args(["--dtype", "selective", "--emit", "optimized-hlo,report"]);
    command.args(["--target", row.target, "--mesh", row.mesh, "--function", "train_step"]);
    if !row.state_layout.is_empty() {
        command.args(["--state-layout", row.state_layout]);
    }
    row.settings.split_whitespace().for_each(|s| {
        command.args(["--set", s]);
    });
    command.arg("--schedule").arg(format!("preset={}", row.schedule));
    row.flags.split_whitespace().for_each(|f| {
        command.args(["--flag", f]);
    });
    eprintln!("compiling {} for {}", row.model, row.target);
    let start = Instant::now();
    let done = command.arg("-o").arg(&artefact).output().context("running meshc")?;
    ensure!(done.status.success(), "{}: {}", row.name, String::from_utf8_lossy(&done.stderr));
    let whole = start.elapsed().as_secs_f64();
    let said: Value = serde_json::from_slice(&std::fs::read(artefact.join("compiled.json"))?)?;
    // `--function` selects one function.
    let step = &said[0];
    let number = |value: &Value, what: &str| {
        value.as_f64().with_context(|| format!("compiled.json has no `{what}`: {said}"))
    };
    let flops = number(&step["program"]["matmul_flops"], "matmul_flops")?;
    let cycles = number(&step["program"]["estimated_cycles"], "estimated_cycles")?;
    let wire = number(&step["program"]["wire_bytes"], "wire_bytes")?;
    let peak = number(&step["memory"]["peak"], "peak")?;
    let seconds = number(&step["seconds"], "seconds")?;
    let Row { name, model, target, mesh, state_layout, settings, schedule, flags, peer } = row;
    Ok(json!({
        "row": name, "model": model, "target": target, "mesh": mesh, "state_layout": state_layout,
        "settings": settings, "schedule": schedule, "flags": flags,
        "ours": {"matmul_flops": flops, "estimated_cycles": cycles, "wire_bytes": wire, "peak_bytes": peak,
                 "libtpu_seconds": seconds, "seconds_with_lowering": whole},
        "peer": {"matmul_flops": peer.flops, "estimated_cycles": peer.cycles, "wire_bytes": peer.wire,
                 "peak_bytes": peer.peak, "libtpu_seconds": peer.seconds},
        "ratio": {"matmul_flops": flops / peer.flops, "estimated_cycles": cycles / peer.cycles,
                  "wire_bytes": wire / peer.wire, "peak_bytes": peak / peer.peak},
    }))
}

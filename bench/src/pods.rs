//! Ahead-of-time compilation of Switch-Base, Switch-XXL and Switch-C for TPU slices, beside Flaxformer and
//! T5X.
//!
//! Both systems are compiled for the same slices by the same libtpu. The results are counts of the optimized
//! programs and therefore equal on every machine, except for the compile time.

use crate::drops::Routing;
use anyhow::{Context, Result, anyhow, bail, ensure};
use compiler::cost::{
    target::Slice,
    time::{Pattern, group},
};
use mesh::{AxisId, Mesh};
use serde_json::{Value, json};
use std::{process::Command, time::Instant};

/// A model on a slice, with the peer's numbers per device.
struct Row {
    name: &'static str,
    model: &'static str,
    target: &'static str,
    settings: &'static str,
    /// The mesh, layout, schedule and flags. `None` means those that `meshc` chooses itself.
    configuration: Option<Configuration>,
    /// The routing whose dropped tokens are counted.
    routing: Routing,
    peer: &'static Peer,
}

/// Options of `meshc compile` that change time and memory.
#[derive(Clone, Copy)]
struct Configuration {
    mesh: &'static str,
    state_layout: &'static str,
    /// The name of the schedule preset, or entries.
    schedule: &'static str,
    /// The libtpu flags of the compilation, separated by spaces.
    flags: &'static str,
}

/// The peer's numbers: matmul FLOPs, estimated cycles, peak memory in bytes, compile time in seconds, and
/// bytes sent by kind of collective.
struct Peer {
    flops: f64,
    cycles: f64,
    peak: f64,
    compile_seconds: f64,
    /// The peer's mesh. Its axes are taken to be placed as ours are: the last one connects neighbours.
    mesh: &'static str,
    sent: &'static [Sent],
    routing: Routing,
}

/// Bytes that a device of the peer sends in collectives of one kind, over some axes of its mesh.
struct Sent {
    kind: &'static str,
    axes: &'static [&'static str],
    bytes: f64,
}

const BASE: Peer = Peer {
    flops: 61.9e12,
    cycles: 1.65e9,
    peak: 5.82e9,
    compile_seconds: 89.0,
    mesh: "expert=32",
    sent: &[
        Sent { kind: "all-reduce", axes: &["expert"], bytes: 1.09e9 },
        Sent { kind: "all-to-all", axes: &["expert"], bytes: 2.69e9 },
    ],
    routing: Routing { tokens: 8192, experts: 128, factor: 1.25, least: 1, expert_groups: 1 },
};

const XXL: Peer = Peer {
    flops: 127.3e12,
    cycles: 1.10e9,
    peak: 26.20e9,
    compile_seconds: 173.0,
    mesh: "expert=128,model=4",
    sent: &[
        Sent { kind: "collective-permute", axes: &["model"], bytes: 7.16e9 },
        Sent { kind: "all-reduce", axes: &["expert"], bytes: 10.62e9 },
        Sent { kind: "all-gather", axes: &["model"], bytes: 15.80e9 },
        Sent { kind: "reduce-scatter", axes: &["model"], bytes: 6.77e9 },
        Sent { kind: "all-to-all", axes: &["expert"], bytes: 1.84e9 },
    ],
    routing: Routing { tokens: 4096, experts: 128, factor: 1.25, least: 1, expert_groups: 1 },
};

const C: Peer = Peer {
    flops: 30.3e12,
    cycles: 1.03e9,
    peak: 16.06e9,
    compile_seconds: 160.0,
    mesh: "expert=2048",
    sent: &[
        Sent { kind: "all-reduce", axes: &["expert"], bytes: 5.68e9 },
        Sent { kind: "all-to-all", axes: &["expert"], bytes: 3.07e9 },
    ],
    routing: Routing { tokens: 512, experts: 2048, factor: 1.25, least: 2, expert_groups: 1 },
};

/// The rows. All use global batch 2048, input length 512, target length 114, bf16 activations, a float32
/// router and Adafactor, without router noise on either side. The first three have the peer's capacity
/// factor, groups of tokens, heads and least capacity, and the configuration that `meshc` chooses itself; the
/// others differ from the peer as their names say.
const ROWS: [Row; 6] = [
    Row {
        name: "base",
        model: "switch_base",
        target: "tpu:v3:4x4",
        settings: "group_sequences=16 capacity_factor=1.25 jitter=0 exploration=argmax",
        configuration: None,
        routing: BASE.routing,
        peer: &BASE,
    },
    Row {
        name: "xxl",
        model: "switch_xxl",
        target: "tpu:v4:8x8x8:megacore",
        settings: "group_sequences=8 capacity_factor=1.25 jitter=0 exploration=argmax",
        configuration: None,
        routing: XXL.routing,
        peer: &XXL,
    },
    // Switch-C with 32 heads.
    Row {
        name: "c",
        model: "switch_c_table9",
        target: "tpu:v3:32x32",
        settings: "min_capacity=2 jitter=0 exploration=argmax",
        configuration: None,
        routing: Routing { tokens: 512, experts: 2048, factor: 1.25, least: 2, expert_groups: 32 },
        peer: &C,
    },
    Row {
        name: "base-capacity-1",
        model: "switch_base",
        target: "tpu:v3:4x4",
        settings: "group_sequences=4 capacity_factor=1 jitter=0 exploration=argmax",
        configuration: Some(Configuration {
            mesh: "expert=32",
            state_layout: "*:expert",
            schedule: "preset=switch_base-v3",
            flags: "xla_jf_enable_advanced_multi_output_fusion=true",
        }),
        routing: Routing { tokens: 2048, experts: 128, factor: 1.0, least: 1, expert_groups: 1 },
        peer: &BASE,
    },
    Row {
        name: "xxl-capacity-1",
        model: "switch_xxl",
        target: "tpu:v4:8x8x8:megacore",
        settings: "group_sequences=4 capacity_factor=1 jitter=0 exploration=argmax",
        configuration: None,
        routing: Routing { tokens: 2048, experts: 128, factor: 1.0, least: 1, expert_groups: 1 },
        peer: &XXL,
    },
    Row {
        name: "c-30-heads",
        model: "switch_c",
        target: "tpu:v3:32x32",
        settings: "min_capacity=1 jitter=0 exploration=argmax",
        configuration: None,
        routing: Routing { tokens: 512, experts: 2048, factor: 1.25, least: 1, expert_groups: 32 },
        peer: &C,
    },
];

/// The dropped tokens of all rows and of the peer, without compiling.
fn drops() -> Value {
    let of = |row: &Row| json!({ "row": row.name, "ours": row.routing.dropped(), "peer": row.peer.routing.dropped() });
    json!({ "drops": ROWS.iter().map(of).collect::<Vec<Value>>() })
}

/// With `--drops`, counts dropped tokens only. Else compiles the rows `names` (all rows if empty) with the
/// `meshc` in the folder of this program.
pub fn measure(names: &[&str]) -> Result<Value> {
    if names == ["--drops"] {
        return Ok(drops());
    }
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
    command.args(["--target", row.target, "--function", "train_step"]);
    row.settings.split_whitespace().for_each(|s| {
        command.args(["--set", s]);
    });
    let configuration = row.configuration.map_or_else(Vec::new, |given| given.words());
    command.args(&configuration);
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
    let time = &step["program"]["time"];
    let (compute, exposed) = (number(&time["compute"], "time")?, number(&time["exposed"], "time")?);
    let Row { name, model, target, settings, routing, peer, .. } = row;
    let sent: f64 = peer.sent.iter().map(|sent| sent.bytes).sum();
    let (peer_compute, peer_network) = peer.seconds(target)?;
    let (alone, covered) = (peer_compute + peer_network, peer_compute.max(peer_network));
    Ok(json!({
        "row": name, "model": model, "target": target, "settings": settings,
        "options": configuration.join(" "), "said": String::from_utf8_lossy(&done.stderr),
        "ours": {"matmul_flops": flops, "estimated_cycles": cycles, "wire_bytes": wire, "peak_bytes": peak,
                 "step_seconds": compute + exposed, "compute_seconds": compute, "exposed_seconds": exposed,
                 "network_seconds": number(&time["network"], "time")?, "dropped": routing.dropped(),
                 "libtpu_seconds": seconds, "seconds_with_lowering": whole},
        "peer": {"matmul_flops": peer.flops, "estimated_cycles": peer.cycles, "wire_bytes": sent,
                 "peak_bytes": peer.peak, "step_seconds_without_overlap": alone,
                 "step_seconds_with_full_overlap": covered, "compute_seconds": peer_compute,
                 "network_seconds": peer_network, "dropped": peer.routing.dropped(),
                 "libtpu_seconds": peer.compile_seconds},
        "ratio": {"matmul_flops": flops / peer.flops, "estimated_cycles": cycles / peer.cycles,
                  "wire_bytes": wire / sent, "peak_bytes": peak / peer.peak,
                  "step_seconds_without_overlap": (compute + exposed) / alone,
                  "step_seconds_with_full_overlap": (compute + exposed) / covered},
    }))
}

impl Configuration {
    /// Returns the options of the command line.
    fn words(&self) -> Vec<&'static str> {
        let placement = ["--mesh", self.mesh, "--state-layout", self.state_layout];
        let schedule = self.schedule.split_whitespace().flat_map(|entry| ["--schedule", entry]);
        let flags = self.flags.split_whitespace().flat_map(|flag| ["--flag", flag]);
        placement.into_iter().chain(schedule).chain(flags).collect()
    }
}

impl Peer {
    /// Seconds of computation and of communication of a step. Every kind of collective is taken as one
    /// transfer, so the time to start the single collectives is left out.
    fn seconds(&self, target: &str) -> Result<(f64, f64)> {
        let slice = target.strip_prefix("tpu:").context("a row's target is a TPU slice")?;
        let slice = Slice::parse(slice).map_err(|why| anyhow!(why))?;
        let mesh = Mesh::parse(self.mesh).map_err(|why| anyhow!(why))?;
        let mut network = 0.0;
        for sent in self.sent {
            let axes: Option<Vec<AxisId>> = sent.axes.iter().map(|axis| mesh.find(axis)).collect();
            let axes = axes.context("the peer's mesh has the axes of its collectives")?;
            network += match sent.kind {
                // Each device sends to its neighbour.
                "collective-permute" => sent.bytes / slice.speed().link,
                "all-to-all" => slice.transfer_time(Pattern::Exchange, group(&mesh, &axes), sent.bytes),
                _ => slice.transfer_time(Pattern::Ring, group(&mesh, &axes), sent.bytes),
            };
        }
        Ok((self.cycles / slice.speed().hertz, network))
    }
}

//! Time of the compiler: from a program to HLO bytes.

use anyhow::{Context, Result, anyhow};
use compiler::{
    artefact::{Artefact, Settings},
    pipeline::{self, Placement, Stage, Step},
};
use mesh::{Layout, Mesh, Module};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Instant};

/// Runs per measurement. The median is reported.
const RUNS: usize = 21;

/// Reads a `.mesh` file.
pub fn read(path: &str) -> Result<Module> {
    parse(&std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?, path)
}

fn parse(text: &str, path: &str) -> Result<Module> {
    mesh::text::parse(text, path).map_err(|e| anyhow!("{e}"))
}

/// Compiles a program under its own layout.
pub fn lower(module: Module, mesh: &Mesh) -> Result<Artefact> {
    observed(module, mesh, &mut pipeline::unobserved)
}

fn observed(module: Module, mesh: &Mesh, observe: pipeline::Observer) -> Result<Artefact> {
    let layout =
        Layout::parse(module.meta("layout").unwrap_or("")).map_err(|e| anyhow!(e))?.restricted_to(mesh);
    let placement = Placement { mesh: mesh.clone(), layout: layout.clone(), state_layout: Layout::default() };
    let local = pipeline::compile(module, &placement, observe)?;
    let lacks_bf16 = runtime::plugin::lacks_bf16();
    let settings = Settings { target: "cpu".into(), layout, lacks_bf16, ..Default::default() };
    Ok(pipeline::emit(&local, &settings, observe)?)
}

/// Measures the time from text to bytes on one device and on eight, for the training step and for all
/// functions.
pub fn measure(path: &str) -> Result<Value> {
    let all = read(path)?;
    let mut step = all.clone();
    step.functions.retain(|f| f.name == "train_step");
    let mut results = Vec::new();
    for (what, module) in [("train_step", step), ("all functions", all)] {
        let text = mesh::text::print(&module);
        for mesh in ["", "data=2,expert=2,model=2"] {
            let mesh = Mesh::parse(mesh).map_err(|e| anyhow!(e))?;
            results.push(timed(what, &text, &mesh)?);
        }
    }
    Ok(json!({"model": path, "lowering": results}))
}

fn timed(what: &str, text: &str, mesh: &Mesh) -> Result<Value> {
    let mut totals = Vec::new();
    let mut stages: BTreeMap<Stage, Vec<f64>> = BTreeMap::new();
    let mut parsing = Vec::new();
    let mut bytes = 0;
    for _ in 0..RUNS {
        let start = Instant::now();
        let module = parse(text, "bench.mesh")?;
        parsing.push(start.elapsed().as_secs_f64() * 1e3);
        let mut last = Instant::now();
        let mut observe = |step: Step| {
            if step.pass.is_some() {
                return;
            }
            stages.entry(step.stage).or_default().push(last.elapsed().as_secs_f64() * 1e3);
            last = Instant::now();
        };
        let artefact = observed(module, mesh, &mut observe)?;
        totals.push(start.elapsed().as_secs_f64() * 1e3);
        bytes = artefact.files.iter().filter(|(n, _)| n.ends_with(".hlo.pb")).map(|(_, b)| b.len()).sum();
    }
    let mut parts = Map::from_iter([("parse".to_owned(), json!(median(&mut parsing)))]);
    parts.extend(stages.iter_mut().map(|(stage, times)| (stage.name().to_owned(), json!(median(times)))));
    Ok(json!({
        "what": what, "mesh": mesh.to_string(), "median_ms": median(&mut totals), "min_ms": totals[0],
        "text_bytes": text.len(), "hlo_bytes": bytes, "stages_ms": parts,
    }))
}

/// Sorts the times and returns their median.
fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

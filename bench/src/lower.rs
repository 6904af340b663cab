//! From a program to HLO bytes.

use anyhow::{Context, Result, anyhow};
use compiler::artefact::{self, Artefact, Settings};
use mesh::{Layout, Mesh, Module};
use serde_json::{Value, json};
use std::time::Instant;

/// The program in a `.mesh` file.
pub fn read(path: &str) -> Result<Module> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    mesh::text::parse(&text, path).map_err(|e| anyhow!("{e}"))
}

/// All of the compiler, under the program's own layout.
pub fn lower(module: Module, mesh: &Mesh) -> Result<Artefact> {
    let layout =
        Layout::parse(module.meta("layout").unwrap_or("")).map_err(|e| anyhow!(e))?.restricted_to(mesh);
    let map = layout.resolve(mesh).map_err(|e| anyhow!(e))?;
    let mut global = compiler::autodiff::expand(&module)?;
    compiler::passes::simplify(&mut global);
    let mut local = compiler::partition::partition(&global, mesh, &map, &Default::default())?;
    compiler::passes::simplify(&mut local);
    let settings = Settings { target: "cpu".into(), layout, ..Default::default() };
    Ok(artefact::build(&local, &settings)?)
}

/// Time from text to bytes, all functions, on one device and on eight.
pub fn measure(path: &str) -> Result<Value> {
    let mut results = Vec::new();
    for mesh in ["", "data=2,expert=2,model=2"] {
        let mesh = Mesh::parse(mesh).map_err(|e| anyhow!(e))?;
        let mut times = Vec::new();
        let mut bytes = 0;
        for _ in 0..11 {
            let start = Instant::now();
            let artefact = lower(read(path)?, &mesh)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            bytes = artefact.files.iter().filter(|(n, _)| n.ends_with(".hlo.pb")).map(|(_, b)| b.len()).sum();
        }
        times.sort_by(f64::total_cmp);
        results.push(
            json!({"mesh": mesh.to_string(), "median_ms": times[5], "min_ms": times[0], "hlo_bytes": bytes}),
        );
    }
    Ok(json!({"model": path, "lowering": results}))
}

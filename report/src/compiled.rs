//! Results of a plugin's compiler for a function, stored in the artefact as `compiled.json`.

use super::{
    optimized::{AxesUse, KindUse, Optimized, OptimizedCollective, PartUse},
    table::{count, size, table},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A compiled function.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Compiled {
    /// The function.
    pub function: String,
    /// The target, such as `tpu:v5e:2x4`.
    pub target: String,
    /// Bytes that a program may use on a device of the target; 0 if unknown.
    pub usable_bytes: u64,
    /// Seconds that the compiler took.
    pub seconds: f64,
    /// The memory that the compiler reports, in bytes per device.
    pub memory: Option<CompiledMemory>,
    /// The contents of the optimized program; `None` if the plugin does not show it.
    pub program: Option<Optimized>,
}

/// Bytes per device, as a plugin reports them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CompiledMemory {
    /// Arguments.
    pub arguments: u64,
    /// Outputs.
    pub outputs: u64,
    /// Outputs that reuse the buffers of arguments.
    pub in_place: u64,
    /// Temporary buffers.
    pub temporaries: u64,
    /// The program itself.
    pub code: u64,
    /// The largest total at one time.
    pub peak: u64,
}

impl fmt::Display for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} compiled for {} in {:.1} s", self.function, self.target, self.seconds)?;
        writeln!(f)?;
        if let Some(m) = &self.memory {
            let mut rows = vec![
                ("arguments", m.arguments),
                ("outputs", m.outputs),
                ("  of them in place", m.in_place),
                ("temporaries", m.temporaries),
                ("code", m.code),
                ("peak", m.peak),
            ];
            if self.usable_bytes > 0 {
                rows.push(("a device has", self.usable_bytes));
                rows.push(("left", self.usable_bytes.saturating_sub(m.peak)));
            }
            let rows: Vec<Vec<String>> =
                rows.iter().map(|(what, n)| vec![(*what).into(), size(*n)]).collect();
            table(f, &["memory (compiler)", "per device"], "<>", &rows)?;
        }
        match &self.program {
            Some(program) => program.fmt(f),
            None => Ok(()),
        }
    }
}

/// Describes the plugin's numbers of memory beside the compiler's estimates, which are named by function.
pub fn memory(all: &[Compiled], estimates: &[(String, u64)]) -> String {
    let Some(first) = all.first() else { return String::new() };
    let heads = [
        "function",
        "arguments",
        "outputs",
        "in place",
        "temporaries",
        "code",
        "peak",
        "estimate",
        "seconds",
    ];
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|c| {
            let estimate = estimates.iter().find(|(name, _)| *name == c.function);
            let estimate = estimate.map_or_else(|| "-".to_owned(), |(_, bytes)| size(*bytes));
            let memory = match c.memory {
                Some(m) => {
                    [m.arguments, m.outputs, m.in_place, m.temporaries, m.code, m.peak].map(size).to_vec()
                }
                None => vec!["-".to_owned(); 6],
            };
            [&[c.function.clone()][..], &memory, &[estimate, format!("{:.1}", c.seconds)]].concat()
        })
        .collect();
    let mut text = format!("bytes per device, reported by the plugin for {}:\n", first.target);
    table(&mut text, &heads, "<>>>>>>>>", &rows).expect("writing to a String does not fail");
    text
}

/// The number of collectives that are shown.
const SHOWN: usize = 16;

impl fmt::Display for Optimized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        parts(self, f)?;
        if let Some(time) = &self.time {
            let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
            writeln!(
                f,
                "estimated time of a call: {} = {} of computation + {} of communication, of {}, that no \
                 computation covers\n",
                ms(time.total()),
                ms(time.compute),
                ms(time.exposed),
                ms(time.network)
            )?;
        }
        kinds(self, f)?;
        axes(self, f)?;
        largest(self, f)
    }
}

fn parts(program: &Optimized, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let share = |n: u64, of: u64| format!("{:.1} %", 100.0 * n as f64 / (of.max(1)) as f64);
    let row = |p: &PartUse| {
        vec![
            p.part.clone(),
            count(p.matmul_flops),
            share(p.matmul_flops, program.matmul_flops),
            count(p.estimated_cycles),
            share(p.estimated_cycles, program.estimated_cycles),
        ]
    };
    let mut rows: Vec<Vec<String>> = program.parts.iter().map(row).collect();
    let (flops, cycles) = (count(program.matmul_flops), count(program.estimated_cycles));
    rows.push(vec!["total".into(), flops, String::new(), cycles, String::new()]);
    table(f, &["optimized program", "matmul FLOPs", "", "est. cycles", ""], "<>>>>", &rows)
}

fn kinds(program: &Optimized, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let row = |k: &KindUse| {
        let (instructions, runs) = (k.instructions.to_string(), k.count.to_string());
        vec![k.kind.clone(), instructions, runs, size(k.bytes), sent(k.wire_bytes)]
    };
    let rows: Vec<Vec<String>> = program.kinds.iter().map(row).collect();
    table(f, &["collective", "in program", "runs", "given", "sent"], "<>>>>", &rows)
}

fn axes(program: &Optimized, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let row = |a: &AxesUse| vec![a.axes.join("+"), a.count.to_string(), sent(a.wire_bytes)];
    let mut rows: Vec<Vec<String>> = program.axes.iter().map(row).collect();
    if !rows.is_empty() {
        rows.push(vec!["all".into(), String::new(), sent(program.wire_bytes)]);
    }
    table(f, &["sent over", "runs", "per device and step"], "<>>", &rows)
}

/// The collectives that send the most.
fn largest(program: &Optimized, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let row = |c: &OptimizedCollective| {
        vec![
            c.kind.clone(),
            c.axes.join("+"),
            c.dtype.clone(),
            size(c.bytes),
            sent(c.wire_bytes),
            c.count.to_string(),
            c.direction.to_string(),
            c.scope.clone(),
            c.source.clone(),
        ]
    };
    let rows: Vec<Vec<String>> = program.collectives.iter().take(SHOWN).map(row).collect();
    let heads =
        ["largest collectives", "axes", "dtype", "bytes", "sent", "runs", "direction", "scope", "source"];
    table(f, &heads, "<<<>>><<<", &rows)
}

fn sent(bytes: f64) -> String {
    size(bytes.round() as u64)
}

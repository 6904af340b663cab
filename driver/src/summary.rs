//! The summary of a valid program: its functions, placement, precision and uses.

use crate::program::Program;
use compiler::{pipeline::Placement, precision};
use mesh::{
    Module, Site,
    task::{
        TaskKind,
        check::{Purpose, missing},
    },
};

/// Describes a program that every stage accepts, one fact a line.
pub fn summary(program: &Program, placement: &Placement) -> String {
    let functions: Vec<String> = program.module.functions.iter().map(|f| f.name.to_string()).collect();
    let place = match placement.mesh.devices() {
        1 => "one device".to_owned(),
        n => format!("{n} devices ({}), {}", placement.mesh, split(&program.module, placement)),
    };
    let valid = format!("{} is valid: {} on {place}", program.module.name, functions.join(", "));
    let mut lines = vec![valid];
    lines.extend(selective(&program.module));
    lines.push(readiness(&program.module));
    lines.join("\n")
}

/// Describes the proof of selective precision; `None` for programs of other precisions. Mistakes were
/// reported before.
fn selective(module: &Module) -> Option<String> {
    let routers = precision::is_selective(module).then(|| precision::routers(module).ok()).flatten()?;
    let places = |sites: &[Site]| {
        let mut places: Vec<String> = sites.iter().map(|s| format!("{}:{}", s.file, s.line)).collect();
        places.dedup();
        places.join(", ")
    };
    let mut line = match routers.products.len() {
        0 => "selective precision: the program has no router: no product decides where values go".to_owned(),
        1 => format!("selective precision: one router computes in f32 ({})", places(&routers.products)),
        n => format!("selective precision: {n} routers compute in f32 ({})", places(&routers.products)),
    };
    if !routers.rounded.is_empty() {
        line.push_str(&format!("; `round_bf16` rounds their values at {}", places(&routers.rounded)));
    }
    Some(line)
}

/// Describes how a program is split over the mesh.
fn split(module: &Module, placement: &Placement) -> String {
    if !module.env.mesh.axes().is_empty() {
        "already partitioned".to_owned()
    } else if placement.layout.rules.is_empty() {
        "with no dim split".to_owned()
    } else {
        format!("with the layout {}", placement.layout)
    }
}

/// Describes the uses of a program, such as `trainable: yes (span corruption, 32 rows of 128 → 128 tokens)`,
/// or the parts that it lacks.
fn readiness(module: &Module) -> String {
    let (word, purpose) = match module.task.as_ref().map(|task| task.kind) {
        None | Some(TaskKind::Train { .. }) => ("trainable", Purpose::Train),
        Some(TaskKind::Score) => ("scores", Purpose::Score),
        Some(TaskKind::Generate(_)) => ("generates", Purpose::Generate),
    };
    let missing = missing(module, purpose);
    let Some(task) = module.task.as_ref().filter(|_| missing.is_empty()) else {
        return format!("{word}: no: {}", missing.join(&format!("\n{word}: no: ")));
    };
    let mut line = format!("{word}: yes ({})", task.summary());
    if purpose == Purpose::Train {
        self::missing(module, Purpose::Evaluate)
            .iter()
            .for_each(|missing| line.push_str(&format!("\nevaluation: no: {missing}")));
    }
    line
}

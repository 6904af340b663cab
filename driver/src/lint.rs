//! Warnings about a program and its placement.

use crate::{failure::failure, program::Program};
use anyhow::Result;
use compiler::{
    lint,
    pipeline::{self, Placement, Stage},
};
use mesh::{
    Diagnostic, Diagnostics, Layout, Name,
    verify::{Global, Local},
};
use report::{
    replicated::{Replicated, replicated},
    report,
    table::count,
};

/// The label of the warning about a layout.
pub const WASTEFUL_LAYOUT: &str = "wasteful_layout";

/// The ratio of FLOPs to a device's share above which a layout is wasteful.
const WASTEFUL: f64 = 1.25;

/// The number of rules that are tried in each round of the search for a better layout.
const TRIES: usize = 8;

/// Labels of all warnings.
pub fn labels() -> Vec<&'static str> {
    lint::LABELS.into_iter().chain([WASTEFUL_LAYOUT]).collect()
}

/// Returns the labels that `--deny` names; `all` names every label.
///
/// # Errors
/// A word that is no label.
pub fn denied(words: &[String]) -> Result<Vec<&'static str>> {
    let labels = labels();
    if words.iter().any(|word| word == "all") {
        return Ok(labels);
    }
    let label = |word: &String| {
        labels.iter().copied().find(|label| label == word).ok_or_else(|| {
            let near = mesh::layout::suggest(word, labels.iter().copied());
            let near = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            failure(
                format!("`--deny {word}`: no warning has this label"),
                format!("{near}the labels are {}, and all", labels.join(", ")),
            )
        })
    };
    words.iter().map(label).collect()
}

/// Returns all warnings about a program whose stages have run without a mistake. `local` is the program of
/// one device; without it, only the program as its author wrote it is examined.
pub fn lints(program: &Program, placement: &Placement, local: Option<&Local>) -> Diagnostics {
    let mut all = match program.module.env.mesh.axes() {
        [] => lint::lints(&program.module),
        // A dump of a Local program has no lines of a model.
        _ => Vec::new(),
    };
    all.extend(local.and_then(|local| wasteful(program, placement, local)));
    Diagnostics(all)
}

/// Warns of a layout under which devices compute the same products, and searches for rules that help.
fn wasteful(program: &Program, placement: &Placement, local: &Local) -> Option<Diagnostic> {
    let waste = of(local)?;
    if waste.ratio() <= WASTEFUL {
        return None;
    }
    let axes =
        placement.mesh.axes().iter().zip(&waste.by_axis).filter(|(axis, flops)| axis.size > 1 && **flops > 0);
    let axes: Vec<String> = axes
        .map(|(axis, flops)| {
            format!(
                "`{}` splits none of the dims of {:.0} %",
                axis.name,
                100.0 * *flops as f64 / waste.flops as f64
            )
        })
        .collect();
    let message = format!(
        "every device computes {:.1} times its share of the products ({} FLOPs a step): axis {}",
        waste.ratio(),
        count(waste.flops),
        axes.join(", axis ")
    );
    let help = match better(program, placement, &waste) {
        Some((layout, flops)) => format!("--layout {layout} computes {} FLOPs", count(flops)),
        None => "no rule for one more dim helps: `meshc plan` searches meshes".to_owned(),
    };
    Some(Diagnostic::new(WASTEFUL_LAYOUT, message).help(help))
}

/// Returns the replicated FLOPs of the function that a report is on by default.
fn of(local: &Local) -> Option<Replicated> {
    let module = local.module();
    let f = module
        .function("train_step")
        .or_else(|| module.function("eval_step"))
        .or(module.functions.first())?;
    Some(replicated(&module.env.mesh, f))
}

/// A placement that was tried.
struct Trial {
    layout: Layout,
    waste: Replicated,
    /// Bytes of collectives of one device.
    wire: u64,
}

/// Adds the rule that saves the most FLOPs, and a second one if it saves more. Of rules that save as much, it
/// takes the one with the least communication. Returns the layout and the FLOPs of one device.
fn better(program: &Program, placement: &Placement, waste: &Replicated) -> Option<(Layout, u64)> {
    let global = pipeline::verify(program.module.clone(), &mut |_| {}).ok()?;
    let optimized = pipeline::optimize(global.clone(), Stage::SimplifyGradients, &mut |_| {}).ok()?;
    let mut best: Option<Trial> = None;
    for _round in 0..2 {
        let (layout, waste) =
            best.as_ref().map_or((&placement.layout, waste), |best| (&best.layout, &best.waste));
        if waste.ratio() <= WASTEFUL {
            break;
        }
        let tried = waste.dims.iter().take(TRIES).filter_map(|(axis, dim, _)| {
            let layout = with_rule(layout, dim, placement.mesh.name(*axis));
            attempt(&global, &optimized, Placement { layout, ..placement.clone() })
        });
        // Differences below two percent do not count.
        let unit = (waste.flops / 50).max(1);
        let rank = |trial: &Trial| (trial.waste.flops / unit, trial.wire);
        match tried.min_by_key(rank).filter(|trial| trial.waste.flops < waste.flops) {
            Some(found) => best = Some(found),
            None => break,
        }
    }
    best.map(|best| (best.layout, best.waste.flops))
}

/// Partitions the program under another placement; `None` if it is not legal.
fn attempt(global: &Global, optimized: &Global, placement: Placement) -> Option<Trial> {
    pipeline::check_layout(global, &placement).ok()?;
    let local = pipeline::localize(optimized, &placement, Stage::SimplifyLocal, &mut |_| {}).ok()?;
    let wire = report(local.module(), None).ok()?.cost().collective_bytes_per_device;
    Some(Trial { waste: of(&local)?, layout: placement.layout, wire })
}

/// Adds an axis to the rule of a dim.
fn with_rule(layout: &Layout, dim: &Name, axis: &Name) -> Layout {
    let mut layout = layout.clone();
    match layout.rules.iter_mut().find(|(name, _)| name == dim) {
        Some((_, axes)) => axes.push(axis.clone()),
        None => layout.rules.push((dim.clone(), vec![axis.clone()])),
    }
    layout
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{builtin, settings::Settings};
    use models::zoo;

    #[test]
    fn built_in_models_have_no_warnings() {
        for preset in &zoo::ALL {
            let module = builtin::module(preset, &Settings::default()).unwrap_or_else(|e| panic!("{e:#}"));
            let warnings = Diagnostics(lint::lints(&module));
            assert_eq!(warnings.0, [], "{}: {warnings}", preset.name);
        }
    }
}

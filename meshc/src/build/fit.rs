//! Programs that need more memory than a device of the target has: by how much, because of what, and what would fit.

use super::{
    lower::{Watch, choose, lower},
    program,
};
use crate::{
    args::{
        model::ModelArgs,
        placement::{PlacementArgs, place},
        target::Target,
    },
    output::failure::failure,
};
use anyhow::Result;
use compiler::{cost::target::Slice, pipeline::Stage};
use mesh::Layout;
use report::{Report, table::size};
use std::path::Path;

/// How many tensors are named.
const NAMED: usize = 4;

/// Says that a function will probably not fit, if our estimate is beyond what a device has.
pub fn warn(report: &Report, slice: &Slice) {
    let (needs, has) = (report.peak_bytes_per_device.total, slice.hbm());
    if needs > has {
        eprintln!(
            "warning: `{}` will probably not fit: by our estimate it needs {}, {} more than the {} of a device of \
             tpu:{slice}; `--emit executable` tries it",
            report.function,
            size(needs),
            size(needs - has),
            size(has)
        );
    }
}

/// The error for a function that the plugin's compiler found too large.
pub fn does_not_fit(report: &Report, target: &Target, words: &str, advice: &[String]) -> anyhow::Error {
    let m = &report.peak_bytes_per_device;
    let mut what = format!("`{}` of `{}` does not fit a device of {target}", report.function, report.program);
    match used(words) {
        Some((used, of)) => what += &format!(": its compiler needs {used} of {of}"),
        None => what += &format!(": {}", words.lines().next().unwrap_or_default()),
    }
    what += &format!(
        ".\n  by our estimate it needs {}: parameters {}, slots {}, activations {}, temporaries {}",
        size(m.total),
        size(m.parameters),
        size(m.slots),
        size(m.activations),
        size(m.temporaries)
    );
    for held in m.largest.iter().take(NAMED) {
        what += &format!("\n  {:>9}  {} ({})", size(held.bytes), held.r#type, held.source);
    }
    let help = match advice {
        [] => "split more with --mesh, --layout or --state-layout, keep less with --schedule remat=carries, or take a \
               larger slice; `meshc plan` searches"
            .to_owned(),
        some => format!("by our estimate these fit:\n    {}", some.join("\n    ")),
    };
    failure(what, help)
}

/// How much XLA says that it would use, and of how much: `temporaries (25.96G) exceeds available HBM (15.48G)`, or
/// `Used 20.1G of 15.75G hbm`.
fn used(words: &str) -> Option<(&str, &str)> {
    let after = |words: &'_ str, mark: &str| words.find(mark).map(|at| at + mark.len());
    if let Some((before, available)) = words.split_once(") exceeds available ") {
        let used = &before[before.rfind('(')? + 1..];
        let of = &available[after(available, "(")?..];
        return Some((used, &of[..of.find(')')?]));
    }
    let rest = &words[after(words, "Used ")?..];
    let (used, of) = rest.split_once(" of ")?;
    (used.len() < 16).then(|| (used, of.split(' ').next().unwrap_or(of)))
}

/// Other ways to place or to compute the same step that would fit, as options, with what they would need.
pub fn advice(
    path: &Path,
    settings: &ModelArgs,
    placement: &PlacementArgs,
    slice: &Slice,
    report: &Report,
) -> Vec<String> {
    let axes: Vec<String> = placement
        .mesh
        .iter()
        .flat_map(|mesh| mesh.axes().iter().filter(|a| a.size > 1).map(|a| a.name.to_string()))
        .collect();
    let zero = format!("*:{}", axes.join("+"));
    let zero = if axes.is_empty() { None } else { Layout::parse(&zero).ok().map(|l| (zero, l)) };
    let mut found = Vec::new();
    for words in [
        &[][..],
        &["remat=contractions"],
        &["remat=carries"],
        &["microbatches=2"],
        &["microbatches=4"],
        &["microbatches=4", "remat=carries"],
    ] {
        for state in [None, zero.as_ref()] {
            let mut settings = settings.clone();
            settings.schedule.extend(words.iter().map(|w| (*w).to_owned()));
            let mut placement = placement.clone();
            let mut options: Vec<String> = words.iter().map(|w| format!("--schedule {w}")).collect();
            if let Some((text, layout)) = state {
                placement.state_layout = Some(layout.clone());
                options.insert(0, format!("--state-layout '{text}'"));
            }
            // A model may read no schedule, and a layout may not suit the mesh: such advice is left out.
            let Ok(needs) = needs(path, &settings, &placement, &report.function) else { continue };
            if !options.is_empty() && needs <= slice.hbm() {
                found.push(format!("{} ({})", options.join(" "), size(needs)));
            }
        }
        if found.len() >= 3 {
            break;
        }
    }
    found
}

/// What a function needs by our estimate.
fn needs(path: &Path, settings: &ModelArgs, placement: &PlacementArgs, function: &str) -> Result<u64> {
    let program = program::load(path, settings)?;
    let placement = place(&program.module, placement)?;
    let lowered = lower(&program, &placement, Stage::SimplifyLocal, &mut Watch::default())?;
    let reports = lowered.map(|l| l.reports).unwrap_or_default();
    Ok(choose(&reports, Some(function))?.peak_bytes_per_device.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xla_would_use_is_found_in_its_words() {
        let words = "Ran out of memory in memory space hbm. Used 20.13G of 15.75G hbm. Exceeded hbm capacity by 4.4G.";
        assert_eq!(used(words), Some(("20.13G", "15.75G")));
        let words = "the total memory required for HLO temporaries (25.96G) exceeds available HBM (15.48G). HLO module: x";
        assert_eq!(used(words), Some(("25.96G", "15.48G")));
        assert_eq!(used("no such words"), None);
    }
}

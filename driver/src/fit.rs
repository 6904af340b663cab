//! Out-of-memory programs: the excess, the largest tensors, and placements that would fit.

use crate::{
    failure::failure,
    lower::{Watch, choose, lower},
    placement::place,
    program,
    request::Request,
    target::Target,
};
use anyhow::Result;
use compiler::{cost::target::Slice, pipeline::Stage};
use mesh::Layout;
use report::{Report, table::size};

/// Number of tensors in a message.
const NAMED: usize = 4;

/// Returns a warning if the estimated memory of a function exceeds the memory of a device.
pub fn warning(report: &Report, slice: &Slice) -> Option<String> {
    let (needs, has) = (report.peak_bytes_per_device.total, slice.hbm());
    (needs > has).then(|| {
        format!(
            "warning: `{}` will probably not fit: it needs an estimated {}, {} more than the {} of a device of \
             tpu:{slice}; `--emit executable` compiles it to find out",
            report.function,
            size(needs),
            size(needs - has),
            size(has)
        )
    })
}

/// Returns the error for a function that is too large according to the plugin's compiler.
pub fn does_not_fit(report: &Report, target: &Target, words: &str, advice: &[String]) -> anyhow::Error {
    let m = &report.peak_bytes_per_device;
    let mut what = format!("`{}` of `{}` does not fit a device of {target}", report.function, report.program);
    match used(words) {
        Some((used, of)) => what += &format!(": its compiler needs {used} of {of}"),
        None => what += &format!(": {}", words.lines().next().unwrap_or_default()),
    }
    what += &format!(
        ".\n  estimated memory {}: parameters {}, slots {}, activations {}, temporaries {}",
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
        [] => "split more with --mesh, --layout or --state-layout, save less with --schedule remat=carries, or use a \
               larger slice; `meshc plan` searches"
            .to_owned(),
        some => format!("these fit by the estimate:\n    {}", some.join("\n    ")),
    };
    failure(what, help)
}

/// Extracts the needed and the available memory from a message of XLA: `temporaries (25.96G) exceeds
/// available HBM (15.48G)`, or `Used 20.1G of 15.75G hbm`.
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

/// Returns placements and schedules of the same step that would fit, as options with their estimated memory.
pub fn advice(request: &Request, slice: &Slice, report: &Report) -> Vec<String> {
    let axes: Vec<String> = request
        .placement
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
            let entries: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            let mut variant = request.scheduled(&entries);
            let mut options: Vec<String> = words.iter().map(|w| format!("--schedule {w}")).collect();
            if let Some((text, layout)) = state {
                variant.placement.state_layout = Some(layout.clone());
                options.insert(0, format!("--state-layout '{text}'"));
            }
            // Skips schedule entries that the model does not read, and layouts that the mesh does not allow.
            let Ok(needs) = needs(&variant, &report.function) else { continue };
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

/// Returns the estimated memory of a function, in bytes.
fn needs(request: &Request, function: &str) -> Result<u64> {
    let program = program::load_variant(request)?;
    let placement = place(&program.module, &request.placement)?;
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

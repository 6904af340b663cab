//! Parts of the batch whose tokens are sorted by expert separately, in models whose experts have no capacity.
//!
//! Devices sort their own tokens if there are as many parts as devices that split the batch. The model does
//! not know the mesh; unless the schedule says a number, it is built once more with this one.

use crate::{placement::place, request::Request, settings};
use mesh::Module;

/// The schedule entry.
const ENTRY: &str = "sorted_parts";

/// Returns the request for the same program with one part for each device that splits the batch. `None` means
/// that the program of the request has no use for parts, or has them.
pub fn needed(module: &Module, request: &Request) -> Option<Request> {
    let is_dropless = module.meta("settings")?.split_whitespace().any(|word| word == "dropless=true");
    let is_given = request.settings.schedule.iter().any(|entry| settings::key(entry) == ENTRY);
    if !is_dropless || is_given || !module.env.mesh.axes().is_empty() {
        return None;
    }
    // A mistake in the placement is reported where it is used.
    let placement = place(module, &request.placement).ok()?;
    let rule = placement.layout.rules.iter().find(|(dim, _)| **dim == *"batch");
    let axes = placement.mesh.axes().iter();
    let parts: usize = axes
        .filter(|axis| rule.is_some_and(|(_, split)| split.contains(&axis.name)))
        .map(|axis| axis.size)
        .product();
    (parts != module.schedule.sorted_parts).then(|| request.scheduled(&[format!("{ENTRY}={parts}")]))
}

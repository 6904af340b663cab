//! Parts of the batch whose tokens are sorted by expert separately, in models whose experts have no capacity.
//!
//! Devices sort their own tokens if there are as many parts as devices that split the batch. The model does
//! not know the mesh; unless the schedule says a number, it is built once more with this one.

use crate::{placement::place, request::Request};
use compiler::pipeline::Placement;
use mesh::{Axis, Module};

/// The schedule entry.
const ENTRY: &str = "sorted_parts";

/// Returns the request for the same program with one part for each device that splits the batch. `None` means
/// that the program of the request has no use for parts, or has them.
pub fn needed(module: &Module, request: &Request) -> Option<Request> {
    // A mistake in the placement is reported where it is used.
    let placement = place(module, &request.placement).ok()?;
    Some(request.scheduled(&[entry(module, request, &placement)?]))
}

/// Returns the schedule entry that the program of `request` needs for a placement; `None` means none.
pub fn entry(module: &Module, request: &Request, placement: &Placement) -> Option<String> {
    let is_dropless = module.meta("settings")?.split_whitespace().any(|word| word == "dropless=true");
    if !is_dropless || request.settings.sets(ENTRY) || !module.env.mesh.axes().is_empty() {
        return None;
    }
    let rule = placement.layout.rules.iter().find(|(dim, _)| **dim == *"batch");
    let splits = |axis: &&Axis| rule.is_some_and(|(_, split)| split.contains(&axis.name));
    let parts: usize = placement.mesh.axes().iter().filter(splits).map(|axis| axis.size).product();
    (parts != module.schedule.sorted_parts).then(|| format!("{ENTRY}={parts}"))
}

#[cfg(test)]
mod tests {
    use crate::{host::Host, placement::PlacementOptions, program, request::Request, settings::Settings};
    use mesh::Mesh;
    use runtime::HostAllocator;
    use std::path::Path;

    /// Checks the number of parts of `switch_tiny` with these settings and this mesh.
    #[track_caller]
    fn check(settings: &[&str], mesh: &str, parts: usize) {
        let allocator = HostAllocator { in_use: || None, trim: || () };
        let host = Host { say: |_| (), keep_freed_memory: || (), allocator };
        let mesh = Mesh::parse(mesh).expect("it is legal");
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        let request = Request {
            settings: Settings { settings, ..Settings::default() },
            placement: PlacementOptions { mesh: Some(mesh), ..PlacementOptions::default() },
            ..Request::new(Path::new("switch_tiny"), host)
        };
        let module = program::load(&request).unwrap_or_else(|e| panic!("{e:#}")).module;
        assert_eq!(module.schedule.sorted_parts, parts, "{settings:?}", settings = request.settings.settings);
    }

    #[test]
    fn devices_that_split_the_batch_sort_their_own_tokens() {
        check(&["dropless=true"], "data=2,expert=4,model=2", 8);
        check(&["dropless=true"], "model=2", 1);
        check(&["dropless=true", "sorted_parts=4"], "data=2", 4);
        check(&[], "data=8", 1);
    }
}

//! Padding of dims that one device does not need.
//!
//! A setting pads a dim so that it divides into shards. On one device nothing is split, so the program is
//! built without padding: it is then, to the bit, the program of a model that never had any. Checkpoints gain
//! and lose padding when they are read.

use crate::{request::Request, settings};
use mesh::Module;
use proto::padded::{PADDED, entries};

/// Returns the request for the same program without padding, and says so. `None` means that the program of
/// the request has none, or that it is for several devices.
pub fn dropped(module: &Module, request: &Request) -> Option<Request> {
    let is_text = request.subject.extension().is_some_and(|e| e == "mesh");
    if request.devices() > 1 || !module.env.mesh.axes().is_empty() || is_text {
        return None;
    }
    let padded: Vec<(&str, &str)> = entries(module.meta(PADDED)?)
        .filter(|(dim, used, _)| is_padded(module, dim, *used))
        .map(|(dim, _, setting)| (dim, setting))
        .collect();
    if padded.is_empty() {
        return None;
    }
    let mut request = request.clone();
    for (dim, setting) in padded {
        request.settings.settings.retain(|given| settings::key(given) != setting);
        request.settings.settings.push(format!("{setting}=0"));
        (request.host.say)(&format!("note: `{setting}` is 0 on one device, where no axis splits `{dim}`"));
    }
    Some(request)
}

/// True if a state has padding in this dim, of which `used` elements are used.
fn is_padded(module: &Module, dim: &str, used: usize) -> bool {
    let mut states = module.env.states.iter();
    states.any(|(_, state)| state.ty.dim(dim).is_some_and(|d| d.dim.size > used))
}

#[cfg(test)]
mod tests {
    use crate::{host::Host, placement::PlacementOptions, program, request::Request, settings::Settings};
    use mesh::Mesh;
    use runtime::HostAllocator;
    use std::path::Path;

    /// Checks the text of the program of `t5_tiny` with these settings and this mesh.
    #[track_caller]
    fn check(settings: &[&str], mesh: Option<&str>, vocab: usize) {
        let allocator = HostAllocator { in_use: || None, trim: || () };
        let host = Host { say: |_| (), keep_freed_memory: || (), allocator };
        let request = Request {
            settings: Settings {
                settings: settings.iter().map(|s| (*s).to_owned()).collect(),
                ..Settings::default()
            },
            placement: PlacementOptions {
                mesh: mesh.map(|mesh| Mesh::parse(mesh).expect("it is legal")),
                ..PlacementOptions::default()
            },
            ..Request::new(Path::new("t5_tiny"), host)
        };
        let module = program::load(&request).unwrap_or_else(|e| panic!("{e:#}")).module;
        let embedding = module.env.states.iter().find(|(_, state)| *state.name == *"embedding");
        let (_, embedding) = embedding.expect("the model has an embedding");
        assert_eq!(embedding.ty.dim("vocab").map(|d| d.dim.size), Some(vocab), "{settings:?} on {mesh:?}");
        if vocab == 301 {
            let plain = Request { settings: Settings::default(), ..request };
            let plain = plain.completed(&[("vocab", "301".to_owned())]);
            let plain = program::load(&plain).unwrap_or_else(|e| panic!("{e:#}")).module;
            assert_eq!(mesh::text::print(&module), mesh::text::print(&plain));
        }
    }

    #[test]
    fn one_device_needs_no_padding() {
        check(&["vocab=301"], None, 301);
        check(&["vocab=301", "vocab_padding=3"], None, 301);
        check(&["vocab_padding=3", "vocab=301"], Some("model=1"), 301);
        check(&["vocab=301", "vocab_padding=3"], Some("model=4"), 304);
        check(&["vocab=301", "vocab_padding=3"], Some("data=2"), 304);
    }
}

//! Checks of mappings between our parameters and tensors of other systems, for their tests.

use crate::{Config, Weights, model::Model};
use mesh::dsl::Program;
use std::collections::BTreeMap;

/// The part of a parameter that a tensor of another system has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// The name of the tensor.
    pub(crate) name: String,
    /// The parameter.
    pub(crate) param: String,
    /// Names and sizes of the parameter's dims.
    pub(crate) dims: Vec<(String, usize)>,
    /// Start of the part in each dim.
    pub(crate) start: Vec<usize>,
    /// Size of the part in each dim.
    pub(crate) part: Vec<usize>,
}

/// A model of a few elements, whose encoder's layers are not a multiple of two.
pub(crate) fn small() -> Config {
    Config {
        vocab: 8,
        d_model: 4,
        d_ff: 6,
        heads: 2,
        d_kv: 3,
        buckets: 8,
        max_distance: 16,
        encoder_layers: 3,
        decoder_layers: 2,
        ..Config::default()
    }
}

/// Checks that every element of every parameter of `config` is in exactly one part.
#[track_caller]
pub(crate) fn covers(config: &Config, parts: Vec<Part>) {
    let p = Program::new("test");
    Model::new(&Weights::new(&p), config);
    let module = p.finish().expect("the model is legal");
    let mut by_param: BTreeMap<String, Vec<Part>> = BTreeMap::new();
    for part in parts {
        by_param.entry(part.param.clone()).or_default().push(part);
    }
    for (_, state) in module.env.states.iter() {
        let own: Vec<(String, usize)> = state.ty.logical().map(|d| (d.name.to_string(), d.size)).collect();
        let theirs = by_param.remove(state.name.as_str()).unwrap_or_else(|| panic!("{}", state.name));
        let mut seen = vec![false; own.iter().map(|d| d.1).product()];
        for part in &theirs {
            assert_eq!(part.dims, own, "{}", part.name);
            mark(part, &mut seen);
        }
        assert!(seen.iter().all(|s| *s), "{} is not covered", state.name);
    }
    assert!(by_param.is_empty(), "{:?}", by_param.keys());
}

/// Marks the elements of a part; none may be marked before.
#[track_caller]
fn mark(part: &Part, seen: &mut [bool]) {
    for n in 0..part.part.iter().product() {
        let (mut rest, mut index, mut stride) = (n, 0, 1);
        for d in (0..part.dims.len()).rev() {
            index += (part.start[d] + rest % part.part[d]) * stride;
            rest /= part.part[d];
            stride *= part.dims[d].1;
        }
        assert!(!std::mem::replace(&mut seen[index], true), "{} overlaps", part.name);
    }
}

//! Random inputs and states: floats that every float type represents, indices in and out of range, and
//! partial permutations.

use super::program::{FLOAT_BOUND, Hints, INDEX_BOUND};
use super::rng::Rng;
use compiler::interp::{Tensor, Tensors};
use mesh::{DType, Dim, Module, Name, Type};
use std::collections::BTreeMap;

/// Generates the inputs of each function, and all state.
pub fn of(rng: &mut Rng, module: &Module, hints: &[Hints]) -> (BTreeMap<Name, Tensors>, Tensors) {
    let mut inputs = BTreeMap::new();
    for (function, hints) in module.functions.iter().zip(hints) {
        let mut own = Tensors::new();
        for (name, ty) in function.inputs.iter().zip(function.body.param_types()) {
            own.insert(name.clone(), tensor(rng, ty));
        }
        for (forward, inverse, dim, to) in &hints.permutations {
            let (f, i) = permutation(rng, &own[forward], &own[inverse], dim, to);
            own.insert(forward.clone(), f);
            own.insert(inverse.clone(), i);
        }
        inputs.insert(function.name.clone(), own);
    }
    let state = module.env.states.iter().map(|(_, s)| (s.name.clone(), tensor(rng, &s.ty))).collect();
    (inputs, state)
}

/// Generates a tensor of type `ty`, within the bounds that programs assume.
pub fn tensor(rng: &mut Rng, ty: &Type) -> Tensor {
    let dims: Vec<Dim> = ty.logical().cloned().collect();
    let steps = (FLOAT_BOUND * 16.0) as i64;
    let number = |rng: &mut Rng| match ty.dtype {
        DType::F32 | DType::Bf16 => rng.between(-steps, steps) as f64 / 16.0,
        DType::S32 => rng.between(-2, INDEX_BOUND) as f64,
        DType::U32 => (rng.bits() as u32).into(),
        DType::Pred => rng.between(0, 1) as f64,
    };
    let elements = (0..ty.elements()).map(|_| number(rng)).collect();
    Tensor::new(ty.dtype, &dims, elements).expect("one number was drawn for each element")
}

/// Generates a partial permutation: for each batch element, pairs of random positions along `dim` and `to`.
fn permutation(rng: &mut Rng, forward: &Tensor, inverse: &Tensor, dim: &Name, to: &Name) -> (Tensor, Tensor) {
    let batch: Vec<Name> = forward.names.iter().filter(|n| *n != to).cloned().collect();
    let last = |own: &Name| [&batch[..], std::slice::from_ref(own)].concat();
    let (mut f, mut i) = (forward.ordered(&last(to)), inverse.ordered(&last(dim)));
    f.data.fill(-1.0);
    // Any index out of range means that the element is not moved.
    i.data.fill(1000.0);
    let (dim_size, to_size) = (i.data.shape()[batch.len()], f.data.shape()[batch.len()]);
    let axis = ndarray::Axis(batch.len());
    for (mut f, mut i) in f.data.lanes_mut(axis).into_iter().zip(i.data.lanes_mut(axis)) {
        let sources = rng.shuffled(&(0..dim_size).collect::<Vec<_>>());
        let targets = rng.shuffled(&(0..to_size).collect::<Vec<_>>());
        for (source, target) in sources.into_iter().zip(targets) {
            if rng.chance(80) {
                f[target] = source as f64;
                i[source] = target as f64;
            }
        }
    }
    (f.ordered(&forward.names), i.ordered(&inverse.names))
}

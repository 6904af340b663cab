//! Biases that balance the load of experts without a loss (Wang et al. 2024; DeepSeek-V3).
//!
//! A bias of each expert is added to its scores for the choice only, not for the gate. After a step, the bias
//! of every expert that more than an even share of choices went to falls by a fixed rate, and the others
//! rise.

use mesh::{
    DType,
    dsl::{Graph, State, Tensor},
};

/// A share of choices that differs from the even one by less is even, so that rounding decides no sign.
const EVEN: f64 = 1e-6;

/// Assigns the next biases. `biases` has those of each router by segment of its stack, and `choices` each
/// expert's share of choices in this step, `f32[layers, experts_all]`, over the layers of all segments.
/// `good` is false if the step is skipped; `None` means that it is not.
pub(crate) fn update<'g>(
    g: &'g Graph,
    biases: &[Vec<State>],
    choices: &[Tensor<'g>],
    rate: f64,
    good: Option<Tensor<'g>>,
) {
    for (states, shares) in biases.iter().zip(choices) {
        let mut first = 0;
        for state in states {
            let layers = state.dims().first().map_or(1, |layers| layers.size);
            let part = if states.len() > 1 { shares.slice("layers", first..first + layers) } else { *shares };
            first += layers;
            let now = state.read(g);
            let excess = part - part.mean("experts_all");
            let sign = excess.lt(-EVEN).cast(DType::F32) - excess.gt(EVEN).cast(DType::F32);
            let next = now + sign * rate;
            state.assign(good.map_or(next, |good| good.select(next, now)));
        }
    }
}

//! Unstacked experts: each expert in its own states, so that a decoding step skips experts that no token
//! chose.
//!
//! A step of decoding has one token per sequence, and its cost is reading weights. With stacked parameters a
//! step reads all experts. Unstacked, each expert runs under a condition. A slice of a stacked parameter
//! would be copied in every step, so the matrices are copied once into separate states.

use super::{SwitchFfn, experts::Experts, routing::Assignment};
use crate::{Context, Weight};
use mesh::{
    DType, Dim,
    dsl::{Init, Program, State, Tensor, einsum},
};

/// The matrices of one layer's experts: for each expert the inner ones and the outer one.
#[derive(Clone, Debug)]
pub struct UnstackedExperts {
    experts: Vec<(Vec<State>, State)>,
}

impl SwitchFfn {
    /// Declares the states that [`SwitchFfn::copy_unstacked`] fills; their names begin with `name`.
    pub fn unstacked(&self, p: &Program, name: &str, dtype: DType) -> UnstackedExperts {
        let state = |e: usize, part: &str, dims: [&Dim; 2]| {
            p.store(format!("{name}_{e}_{part}"), dtype, dims, Init::Zeros)
        };
        let expert = |(e, (size, _)): (usize, (&Experts, usize))| {
            let inner = ["wi", "gate"].into_iter().take(size.inner().count());
            // Summed dims come first: otherwise a product transposes the matrix in every step.
            let (rows, columns) = ([&size.d_model, &size.d_ff], [&size.d_ff, &size.d_model]);
            (inner.map(|part| state(e, part, rows)).collect(), state(e, "wo", columns))
        };
        UnstackedExperts { experts: self.each_expert().enumerate().map(expert).collect() }
    }

    /// Copies the experts of the current layer.
    pub fn copy_unstacked(&self, cx: &Context<'_>, unstacked: &UnstackedExperts) {
        // A gather, not a slice: the layout may shard experts.
        let one = |weight: &Weight, e: usize| {
            weight.read(cx).gather("experts", cx.g.constant(e as u32, DType::S32))
        };
        for ((inner, outer), (size, e)) in unstacked.experts.iter().zip(self.each_expert()) {
            inner.iter().zip(size.inner()).for_each(|(state, weight)| state.assign(one(weight, e)));
            outer.assign(one(&size.wo, e));
        }
    }

    /// [`SwitchFfn::forward`] outside training, with unstacked experts. Requires that tokens choose and none
    /// is dropped.
    pub fn forward_unstacked<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        (batch, tokens): (&Dim, &Dim),
        unstacked: &UnstackedExperts,
    ) -> Tensor<'g> {
        let g = cx.g;
        let (routing, _) = g.scope("router", || self.router.forward(cx, x, None, batch, tokens));
        let zeros = || g.full(0, cx.dtype(), [batch, tokens, &self.d_model]);
        // Generation programs reject routing in which experts choose.
        let Assignment::TokenChoice(choices) = &routing.assignment else { return zeros() };
        let mut sum: Option<Tensor<'g>> = None;
        for (e, (expert, (size, _))) in unstacked.experts.iter().zip(self.each_expert()).enumerate() {
            let slots = (e * routing.capacity) as u32..((e + 1) * routing.capacity) as u32;
            // No token chooses an expert twice, so at most one gate is not 0.
            let gates = choices.iter().map(|(slot, gate)| {
                (slot.ge(slots.start) & slot.lt(slots.end)).select(*gate, g.constant(0, gate.dtype()))
            });
            let gate = gates.reduce(|a, b| a + b).unwrap_or_else(|| g.constant(0, cx.dtype()));
            let takes = gate.ne(0).any([batch, tokens]);
            let make = || {
                let y = size.one(cx, x, (batch, tokens), expert);
                gate.ne(0).select(y * gate, g.constant(0, cx.dtype()))
            };
            let y = g.scope("experts", || g.cond(takes, make, zeros));
            sum = Some(sum.map_or(y, |sum| sum + y));
        }
        self.with_shared(cx, sum.unwrap_or_else(zeros), x, (batch, tokens))
    }

    /// Returns the size of each expert, and its number among those of its size.
    fn each_expert(&self) -> impl Iterator<Item = (&Experts, usize)> {
        self.sizes.iter().flat_map(|size| (0..size.count).map(move |e| (size, e)))
    }
}

impl Experts {
    /// Applies one expert to all tokens.
    fn one<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        (batch, tokens): (&Dim, &Dim),
        (inner, outer): &(Vec<State>, State),
    ) -> Tensor<'g> {
        let made = |state: &State| einsum([x, state.read(cx.g)], [batch, tokens, &self.d_ff]);
        let hidden = match &inner[..] {
            [wi, gate] => self.activation.apply(made(gate)) * made(wi),
            _ => self.activation.apply(made(&inner[0])),
        };
        einsum([hidden, outer.read(cx.g)], [batch, tokens, &self.d_model])
    }
}

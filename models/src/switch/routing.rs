//! The result of routing: which tokens are in which expert slots.

use mesh::{
    Dim,
    dsl::{Tensor, Tree},
};

/// The routing of a layer's tokens.
#[derive(Clone, Debug)]
pub struct Routing<'g> {
    /// Number of experts of the layer.
    pub experts: usize,
    /// Expert slots of each expert.
    pub capacity: usize,
    /// The assignment of tokens to expert slots.
    pub assignment: Assignment<'g>,
}

/// The assignment of tokens to expert slots, which are numbered over all experts of a layer. Gates have the
/// type of activations.
#[derive(Clone, Debug)]
pub enum Assignment<'g> {
    /// Tokens choose. For every choice of a token its expert slot, or -1, and the gate: `s32[batch,
    /// tokens]`, `[batch, tokens]`.
    TokenChoice(Vec<(Tensor<'g>, Tensor<'g>)>),
    /// Experts choose. For every expert slot its token, or -1, and the gate.
    ExpertChoice {
        /// `s32[batch, slots]`.
        token: Tensor<'g>,
        /// `[batch, slots]`.
        gate: Tensor<'g>,
    },
}

/// All choices of a router, for `meshc routes`.
#[derive(Clone, Copy, Debug)]
pub struct Routes<'g> {
    /// If tokens choose, the experts of each token in the order of choice: `s32[batch, tokens, choices]`. If
    /// experts choose, the token of each expert slot, or -1: `s32[batch, slots]`.
    pub chosen: Tensor<'g>,
    /// The gates, of the same dims, in `f32`.
    pub gate: Tensor<'g>,
    /// If tokens choose: 0 for a choice that does not count (of padding, or excluded by the policy of second
    /// choices), 1 for one without an expert slot, 2 for one with an expert slot. Of the dims of `chosen`.
    pub state: Option<Tensor<'g>>,
    /// If tokens with large gates get expert slots first: the gates that decide, `f32[batch, tokens]`.
    pub priority: Option<Tensor<'g>>,
}

impl<'g> Tree<'g> for Routes<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            chosen: f(self.chosen),
            gate: f(self.gate),
            state: self.state.map(&mut *f),
            priority: self.priority.map(&mut *f),
        }
    }
}

impl<'g> Routing<'g> {
    /// Returns the dim of all expert slots of a group.
    pub fn slots(&self) -> Dim {
        Dim::new("slots", self.experts * self.capacity)
    }

    /// Returns the assignment as two tensors `[batch, tokens, slots]`: 1 where a token is in an expert slot
    /// (Mesh TensorFlow's "dispatch"), and the gate there ("combine").
    pub fn masks(&self, tokens: &Dim) -> (Tensor<'g>, Tensor<'g>) {
        match &self.assignment {
            Assignment::TokenChoice(choices) => {
                let mask = |(slot, gate): &(Tensor<'g>, Tensor<'g>)| {
                    let mask = slot.one_hot(&self.slots(), gate.dtype());
                    (mask, mask * *gate)
                };
                let all = choices.iter().map(mask);
                // A token is in no expert slot twice, so the sum of masks is a mask.
                all.reduce(|a, b| (a.0 + b.0, a.1 + b.1)).expect("a token has at least one choice")
            }
            Assignment::ExpertChoice { token, gate } => {
                let mask = token.one_hot(tokens, gate.dtype());
                (mask, mask * *gate)
            }
        }
    }
}

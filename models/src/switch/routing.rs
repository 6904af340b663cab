//! The result of routing: which tokens are in which expert slots.

use mesh::{Dim, dsl::Tensor};

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

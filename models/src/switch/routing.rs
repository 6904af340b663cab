//! The result of routing: which tokens are in which expert slots.

use mesh::{
    DType, Dim,
    dsl::{Tensor, Tree},
};

/// The routing of a layer's tokens.
#[derive(Clone, Debug)]
pub struct Routing<'g> {
    /// Number of experts of the layer.
    pub experts: usize,
    /// Expert slots of each expert; of experts of several sizes, the largest number.
    pub capacity: usize,
    /// The number of experts of each size, and the expert slots of each of them.
    pub sizes: Vec<(usize, usize)>,
    /// The assignment of tokens to expert slots.
    pub assignment: Assignment<'g>,
}

/// The assignment of tokens to expert slots, which are numbered over all experts of a layer, with as many
/// numbers for each as the largest capacity. Gates have the type of activations.
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
    /// Returns the dim of the numbers of expert slots of a group.
    pub fn slots(&self) -> Dim {
        Dim::new("slots", self.experts * self.capacity)
    }

    /// Returns the assignment as two tensors `[batch, tokens, slots]`: 1 where a token is in an expert slot
    /// (Mesh TensorFlow's "dispatch"), and the gate there ("combine").
    pub fn masks(&self, tokens: &Dim) -> (Tensor<'g>, Tensor<'g>) {
        self.assignment.masks(tokens, &self.slots())
    }

    /// Returns the assignment with numbers of expert slots without gaps, and the dim of all expert slots.
    pub(super) fn packed(&self) -> (Assignment<'g>, Dim) {
        let all = Dim::new("slots", self.sizes.iter().map(|(count, capacity)| count * capacity).sum());
        let Assignment::TokenChoice(choices) = &self.assignment else {
            return (self.assignment.clone(), all);
        };
        if all == self.slots() {
            return (self.assignment.clone(), all);
        }
        let of = |(slot, gate): &(Tensor<'g>, Tensor<'g>)| (self.without_gaps(*slot), *gate);
        (Assignment::TokenChoice(choices.iter().map(of).collect()), all)
    }

    fn without_gaps(&self, slot: Tensor<'g>) -> Tensor<'g> {
        let numbers = self.capacity as u32;
        let expert = slot.maximum(0) / numbers;
        let place = slot - expert * numbers;
        let (mut first, mut before) = (0, 0);
        let mut starts = Vec::new();
        for (count, capacity) in &self.sizes {
            // The first slot of an expert of this size.
            starts.push((expert - first as u32) * *capacity as u32 + before as u32);
            (first, before) = (first + count, before + count * capacity);
        }
        slot.ge(0).select(by_size(expert, &self.sizes, &starts) + place, -1)
    }
}

/// Returns for each `expert` the value of its size, one of `values`, which has one for each of `sizes`, the
/// last for all further experts.
pub(super) fn by_size<'g>(expert: Tensor<'g>, sizes: &[(usize, usize)], values: &[Tensor<'g>]) -> Tensor<'g> {
    let mut end = 0;
    let ends: Vec<u32> = sizes
        .iter()
        .map(|(count, _)| {
            end += count;
            end as u32
        })
        .collect();
    let pairs = ends.iter().zip(values).rev();
    let chosen = pairs.fold(None, |rest: Option<Tensor<'g>>, (end, value)| {
        Some(rest.map_or(*value, |rest| expert.lt(*end).select(*value, rest)))
    });
    chosen.unwrap_or_else(|| expert.graph().constant(0, DType::S32))
}

impl<'g> Assignment<'g> {
    /// [`Routing::masks`], with the dim of all expert slots.
    pub(super) fn masks(&self, tokens: &Dim, slots: &Dim) -> (Tensor<'g>, Tensor<'g>) {
        match self {
            Assignment::TokenChoice(choices) => {
                let mask = |(slot, gate): &(Tensor<'g>, Tensor<'g>)| {
                    let mask = slot.one_hot(slots, gate.dtype());
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

//! The rows of a batch that start, and their states.

use mesh::dsl::{Graph, State, Tensor};

/// The rows that start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Starting<'g> {
    /// The whole batch.
    All,
    /// The rows for which this is the index of an input, and not negative: `s32[batch]`.
    From(Tensor<'g>),
}

impl<'g> Starting<'g> {
    /// Sets a state to `value`, whose rows are the inputs.
    pub(super) fn put(self, state: &State, value: Tensor<'g>) {
        match self {
            Self::All => state.assign(value),
            Self::From(from) => {
                let moved = value.rename("batch", "admitted").gather("admitted", from);
                state.assign(from.ge(0).select(moved, state.read(value.graph())));
            }
        }
    }

    /// Sets a state to a number.
    pub(super) fn fill(self, g: &'g Graph, state: &State, number: f64) {
        self.put_rows(state, g.full(number, state.ty().dtype, state.dims()));
    }

    /// Sets a state to `value`, whose rows are those of the batch.
    pub(super) fn put_rows(self, state: &State, value: Tensor<'g>) {
        match self {
            Self::All => state.assign(value),
            Self::From(from) => state.assign(from.ge(0).select(value, state.read(value.graph()))),
        }
    }
}

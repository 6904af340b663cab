//! Capacity bucketing: compiles the layer for several capacities and runs the smallest that fits.
//!
//! With a large capacity most expert slots stay empty, but experts compute them all the same. Expert slots
//! are filled from the first on, so a smaller capacity suffices if it exceeds the highest used index of any
//! expert.

use super::{
    SwitchFfn,
    routing::{Assignment, Routing},
};
use crate::Context;
use mesh::{Dim, dsl::Tensor};

/// Capacities beyond the smallest one from which each next one is four times as large, not twice: every
/// capacity adds the code of the layer's experts.
const WIDE: usize = 16;

/// Returns the capacities to choose from in a layer of which evaluation drops no token: from the `usual`
/// capacity on, all below `capacity`.
pub(super) fn buckets_from(usual: usize, capacity: usize) -> Vec<usize> {
    let usual = usual.max(1);
    let step = if capacity / usual > WIDE { 4 } else { 2 };
    std::iter::successors(Some(usual), |bucket| bucket.checked_mul(step))
        .take_while(|bucket| *bucket < capacity)
        .collect()
}

/// Returns the capacities to choose from, in ascending order, all below `capacity`.
pub(super) fn buckets(capacity: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (1..=4).map(|part| (capacity * part).div_ceil(8)).collect();
    all.retain(|bucket| *bucket >= 4 && *bucket < capacity);
    all.dedup();
    all
}

impl SwitchFfn {
    /// [`SwitchFfn::through_experts`] with the smallest of `buckets` that holds all used expert slots.
    pub(super) fn through_smallest_bucket<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: [&Dim; 2],
        routing: &Routing<'g>,
        buckets: &[usize],
    ) -> Tensor<'g> {
        let (Assignment::TokenChoice(choices), [bucket, more @ ..]) = (&routing.assignment, buckets) else {
            return self.through_experts(cx, x, positions, routing);
        };
        let capacity = routing.capacity as u32;
        // -1 (no expert slot) stays -1.
        let fewer = |slot: Tensor<'g>| {
            let expert = slot.maximum(0) / capacity;
            let place = slot - expert * capacity;
            (place, place + expert * (*bucket as u32))
        };
        let all: Vec<(Tensor<'g>, Tensor<'g>)> = choices.iter().map(|(slot, _)| fewer(*slot)).collect();
        let last = all.iter().map(|(place, _)| place.max(positions)).reduce(|a, b| a.maximum(b));
        let Some(last) = last else { return self.through_experts(cx, x, positions, routing) };
        let gates = choices.iter().map(|(_, gate)| *gate);
        let assignment = Assignment::TokenChoice(all.iter().map(|(_, slot)| *slot).zip(gates).collect());
        let sizes = routing.sizes.iter().map(|(count, _)| (*count, *bucket)).collect();
        let tight = Routing { experts: routing.experts, capacity: *bucket, sizes, assignment };
        cx.g.cond(
            last.lt(*bucket as u32),
            || self.through_experts(cx, x, positions, &tight),
            || self.through_smallest_bucket(cx, x, positions, routing, more),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{buckets, buckets_from};

    #[test]
    fn buckets_are_smaller_than_the_capacity() {
        assert_eq!(buckets(64), [8, 16, 24, 32]);
        assert_eq!(buckets(16), [4, 6, 8]);
        assert_eq!(buckets(4), [0; 0]);
        assert_eq!(buckets_from(32, 128), [32, 64]);
        assert_eq!(buckets_from(8, 512), [8, 32, 128]);
        assert_eq!(buckets_from(128, 128), [0; 0]);
    }
}

//! As few slots as are taken: where capacity is large, most slots stay empty, and experts compute them all the same.
//!
//! Slots of an expert are taken from the first on, in order. So what is computed can end behind the last one that
//! is taken anywhere: the program has the layer for several capacities, and takes the smallest that is enough.

use super::{
    SwitchFfn,
    router::{Assignment, Routing},
};
use crate::Context;
use mesh::{Dim, dsl::Tensor};

/// Capacities to choose from, in ascending order, all below `capacity`.
pub(super) fn buckets(capacity: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (1..=4).map(|part| (capacity * part).div_ceil(8)).collect();
    all.retain(|bucket| *bucket >= 4 && *bucket < capacity);
    all.dedup();
    all
}

impl SwitchFfn {
    /// [`SwitchFfn::in_slots`], with the smallest of `levels` that has all slots that are taken.
    pub(super) fn in_smallest_bucket<'g>(
        &self,
        cx: &Context<'g>,
        x: Tensor<'g>,
        positions: [&Dim; 2],
        routing: &Routing<'g>,
        buckets: &[usize],
    ) -> Tensor<'g> {
        let (Assignment::TokenChoice(choices), [bucket, more @ ..]) = (&routing.assignment, buckets) else {
            return self.in_slots(cx, x, positions, routing);
        };
        let capacity = routing.capacity as u32;
        // -1, for none, is in no expert and stays what it is.
        let fewer = |slot: Tensor<'g>| {
            let expert = slot.maximum(0) / capacity;
            let place = slot - expert * capacity;
            (place, place + expert * (*bucket as u32))
        };
        let all: Vec<(Tensor<'g>, Tensor<'g>)> = choices.iter().map(|(slot, _)| fewer(*slot)).collect();
        let last = all.iter().map(|(place, _)| place.max(positions)).reduce(|a, b| a.maximum(b));
        let Some(last) = last else { return self.in_slots(cx, x, positions, routing) };
        let gates = choices.iter().map(|(_, gate)| *gate);
        let assignment = Assignment::TokenChoice(all.iter().map(|(_, slot)| *slot).zip(gates).collect());
        let tight = Routing { experts: routing.experts, capacity: *bucket, assignment };
        cx.g.cond(
            last.lt(*bucket as u32),
            || self.in_slots(cx, x, positions, &tight),
            || self.in_smallest_bucket(cx, x, positions, routing, more),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::buckets;

    #[test]
    fn capacities_to_choose_from_are_below_what_is_asked_for_and_worth_it() {
        assert_eq!(buckets(64), [8, 16, 24, 32]);
        assert_eq!(buckets(16), [4, 6, 8]);
        assert_eq!(buckets(4), [0; 0]);
    }
}

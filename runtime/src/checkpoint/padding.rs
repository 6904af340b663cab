//! Dims with padding, which restored tensors gain or lose.
//!
//! A program may pad a dim, so that it divides into shards: its meta entry `padded`, which checkpoints keep
//! as a fact, lists the used part of such dims. So a checkpoint fits a program whose dims differ in their
//! padding only.

use crate::shard::{self, Region};
use proto::padded::entries;
use std::collections::BTreeMap;

/// The used parts of dims, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct UsedParts(BTreeMap<String, usize>);

impl UsedParts {
    /// Reads the meta entry or fact. `None` means that no dim has padding.
    pub(super) fn parse(text: Option<&String>) -> Self {
        let all = text.into_iter().flat_map(|text| entries(text));
        Self(all.map(|(dim, used, _)| (dim.to_owned(), used)).collect())
    }

    /// Returns the used part of a dim of this size.
    pub(super) fn of(&self, dim: &str, size: usize) -> usize {
        self.0.get(dim).copied().filter(|used| *used <= size).unwrap_or(size)
    }
}

/// Returns the sizes of the part that a tensor of the program and one of a checkpoint have in common: all of
/// it if they are equal, else the used part. `None` means that they differ in more than padding.
pub(super) fn common(
    (ours, our_used): (&Dims, &UsedParts),
    (theirs, their_used): (&Dims, &UsedParts),
) -> Option<Vec<usize>> {
    if ours.len() != theirs.len() {
        return None;
    }
    let sizes = ours.iter().zip(theirs).map(|((name, own), (other, size))| {
        let used = (our_used.of(name, *own), their_used.of(other, *size));
        let same = own == size || used.0 == used.1;
        (name == other && same).then_some(if own == size { *own } else { used.0 })
    });
    sizes.collect()
}

/// Names and sizes of dims.
type Dims = [(String, usize)];

/// Returns the sizes of a region without what lies beyond `limits`. `None` means that nothing is left.
pub(super) fn within(region: &Region, limits: &[usize]) -> Option<Vec<usize>> {
    let bounds = region.start.iter().zip(&region.sizes).zip(limits);
    let sizes: Vec<usize> =
        bounds.map(|((start, size), limit)| limit.saturating_sub(*start).min(*size)).collect();
    (!sizes.contains(&0)).then_some(sizes)
}

/// Returns `part`, of sizes `sizes`, followed by zeros along each dim up to the sizes of `region`.
pub(super) fn padded(part: &[u8], sizes: Vec<usize>, element: usize, region: &Region) -> Vec<u8> {
    let mut whole = vec![0; region.sizes.iter().product::<usize>() * element];
    let start = vec![0; sizes.len()];
    shard::paste(&mut whole, &region.sizes, element, &Region { start, sizes }, part);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the common part of `[vocab=ours, d_model]` in the program and `[vocab=theirs, d_model]` in a
    /// checkpoint that state these used parts of `vocab`.
    #[track_caller]
    fn check(ours: (usize, &str), theirs: (usize, &str), d_model: usize, expect: Option<usize>) {
        let used = |text: &str| UsedParts::parse(Some(&text.to_owned()).filter(|text| !text.is_empty()));
        let dims = |vocab, d_model| [("vocab".to_owned(), vocab), ("d_model".to_owned(), d_model)];
        let (own, other) = (dims(ours.0, d_model), dims(theirs.0, 2));
        let found = common((&own, &used(ours.1)), (&other, &used(theirs.1)));
        assert_eq!(found, expect.map(|vocab| vec![vocab, 2]), "{ours:?} {theirs:?}");
        assert_eq!(common((&own, &used(ours.1)), (&other[..1], &used(theirs.1))), None);
    }

    #[test]
    fn tensors_may_differ_in_padding_only() {
        check((13, ""), (13, ""), 2, Some(13));
        check((16, "vocab=13:vocab_padding"), (13, ""), 2, Some(13));
        check((13, "vocab=13:vocab_padding"), (16, "vocab=13:vocab_padding"), 2, Some(13));
        check((14, "vocab=13:vocab_padding"), (16, "vocab=13:vocab_padding"), 2, Some(13));
        check((16, "vocab=13:vocab_padding"), (16, "vocab=13:vocab_padding"), 2, Some(16));
        check((16, ""), (13, ""), 2, None);
        check((13, ""), (16, ""), 2, None);
        check((16, "vocab=12:vocab_padding"), (16, "vocab=13:vocab_padding"), 2, Some(16));
        check((16, "vocab=13:vocab_padding"), (12, ""), 2, None);
        check((16, "vocab=13:vocab_padding"), (13, ""), 3, None);
    }

    #[test]
    fn regions_are_filled_up_with_zeros() {
        let region = Region { start: vec![4, 0], sizes: vec![4, 2] };
        assert_eq!(within(&region, &[6, 2]), Some(vec![2, 2]));
        assert_eq!(padded(&[1, 2, 3, 4], vec![2, 2], 1, &region), [1, 2, 3, 4, 0, 0, 0, 0]);
        assert_eq!(within(&region, &[4, 2]), None);
        assert_eq!(within(&region, &[99, 2]), Some(vec![4, 2]));
    }
}

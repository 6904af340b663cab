//! A linear-time check that boxes cover a tensor exactly once.
//!
//! A box is the product of half-open intervals. Give every coordinate `x` of every dim `d` a random number
//! `h_d(x)` of a field. The sum over the boxes of `Π_d (h_d(end_d) - h_d(start_d))` equals this product for
//! the whole tensor if the boxes cover every element exactly once, because the terms of shared faces cancel.
//! Otherwise the difference is a polynomial in the random numbers that is not zero and has degree at most the
//! number of dims: it vanishes with a probability of at most dims / 2^61 (Schwartz and Zippel).

use std::hash::{BuildHasher, RandomState};

/// The prime 2^61 - 1, the size of the field.
const PRIME: u64 = (1 << 61) - 1;

/// Returns true if the boxes, given by starts and sizes, cover every element of a tensor of sizes `dims`
/// exactly once. The boxes are within the tensor.
pub(super) fn covers_once<'a>(
    dims: &[usize],
    boxes: impl Iterator<Item = (&'a [usize], &'a [usize])>,
) -> bool {
    let random = RandomState::new();
    let number = |dim: usize, at: usize| random.hash_one((dim, at)) % PRIME;
    let product = |start: &[usize], size: &[usize]| {
        let factor = |d: usize| minus(number(d, start[d] + size[d]), number(d, start[d]));
        (0..dims.len()).fold(1, |product, d| times(product, factor(d)))
    };
    let whole = product(&vec![0; dims.len()], dims);
    let sum = boxes.fold(0, |sum, (start, size)| plus(sum, product(start, size)));
    sum == whole
}

fn plus(a: u64, b: u64) -> u64 {
    (a + b) % PRIME
}

fn minus(a: u64, b: u64) -> u64 {
    (a + PRIME - b) % PRIME
}

fn times(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b) % u128::from(PRIME);
    u64::try_from(product).expect("a remainder is smaller than the 61-bit prime")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Boxes = Vec<(Vec<usize>, Vec<usize>)>;

    #[track_caller]
    fn check(dims: &[usize], boxes: &[(&[usize], &[usize])], expected: bool) {
        assert_eq!(covers_once(dims, boxes.iter().copied()), expected, "{dims:?} {boxes:?}");
    }

    #[test]
    fn covers_gaps_and_overlaps() {
        check(&[], &[(&[], &[])], true);
        check(&[], &[], false);
        check(&[], &[(&[], &[]), (&[], &[])], false);
        check(&[0, 3], &[], true);
        check(&[4], &[(&[0], &[2]), (&[2], &[2])], true);
        check(&[4], &[(&[0], &[2]), (&[3], &[1])], false);
        // As many elements as the tensor, but one twice and one missing.
        check(&[4], &[(&[0], &[2]), (&[1], &[2])], false);
        check(&[2, 2], &[(&[0, 0], &[1, 2]), (&[0, 0], &[2, 1])], false);
        check(&[2, 2], &[(&[0, 0], &[1, 2]), (&[1, 0], &[1, 1]), (&[1, 1], &[1, 1])], true);
        check(&[4], &[(&[0], &[4]), (&[2], &[0])], true);
        // A pinwheel, which no straight cut divides.
        let pinwheel: &[(&[usize], &[usize])] = &[
            (&[0, 0], &[1, 2]),
            (&[0, 2], &[2, 1]),
            (&[2, 1], &[1, 2]),
            (&[1, 0], &[2, 1]),
            (&[1, 1], &[1, 1]),
        ];
        check(&[3, 3], pinwheel, true);
        check(&[3, 3], &pinwheel[..4], false);
    }

    #[test]
    fn every_box_is_looked_at_once() {
        let dims = [200, 100];
        let starts: Vec<[usize; 2]> = (0..200).flat_map(|a| (0..100).map(move |b| [a, b])).collect();
        let mut looked = 0;
        let boxes = starts.iter().map(|start| (&start[..], &[1, 1][..])).inspect(|_| looked += 1);
        assert!(covers_once(&dims, boxes));
        assert_eq!(looked, 20_000);
    }

    /// Every way to move or resize one box of a grid is found.
    #[test]
    fn every_change_of_a_grid_is_found() {
        let (dims, step) = ([6, 4, 4], [3, 2, 1]);
        let mut grid: Boxes = Vec::new();
        for a in (0..dims[0]).step_by(step[0]) {
            for b in (0..dims[1]).step_by(step[1]) {
                for c in (0..dims[2]).step_by(step[2]) {
                    grid.push((vec![a, b, c], step.to_vec()));
                }
            }
        }
        let covers = |boxes: &Boxes| covers_once(&dims, boxes.iter().map(|(a, b)| (&a[..], &b[..])));
        assert!(covers(&grid));
        for number in 0..grid.len() {
            for d in 0..3 {
                for (start, size) in [(1, 0), (0, 1), (-1, 0), (0, -1)] {
                    let mut changed = grid.clone();
                    let of = &mut changed[number];
                    let (Some(start), Some(size)) =
                        (of.0[d].checked_add_signed(start), of.1[d].checked_add_signed(size))
                    else {
                        continue;
                    };
                    (of.0[d], of.1[d]) = (start, size);
                    assert!(!covers(&changed), "box {number}: {:?}", changed[number]);
                }
            }
        }
    }
}

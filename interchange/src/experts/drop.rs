//! Drop-upcycling (Nakamura et al. 2025): a share of the hidden units of every copied expert gets new
//! weights, so that the experts differ from the beginning.

use super::{pieces, random::Random};

/// The share of hidden units that get new weights, and the seed of the draws.
#[derive(Clone, Copy, Debug)]
pub(super) struct DropUnits {
    pub(super) share: f64,
    pub(super) seed: u64,
}

impl DropUnits {
    /// Replaces the weights of the dropped hidden units of each expert in the matrix `name` of the layer
    /// `layer`, with sizes `dims`, of which `experts` and `hidden` are the dims of experts and of hidden
    /// units. New weights are normal with the mean and the deviation of those that they replace, as in the
    /// paper's equation for each matrix. All matrices of an expert drop the same units.
    pub(super) fn apply(
        self,
        bytes: &mut [u8],
        dims: &[usize],
        [experts, hidden]: [usize; 2],
        (layer, name): (&str, &str),
    ) {
        let inner = |dim: usize| dims[dim + 1..].iter().product::<usize>();
        let (of_expert, of_hidden) = (inner(experts), inner(hidden));
        for expert in 0..dims[experts] {
            let dropped = self.units(&format!("{layer}#{expert}"), dims[hidden]);
            let is_dropped =
                |i: usize| i / of_expert % dims[experts] == expert && dropped[i / of_hidden % dims[hidden]];
            let old: Vec<f64> = pieces::read(bytes)
                .enumerate()
                .filter(|(i, _)| is_dropped(*i))
                .map(|(_, x)| f64::from(x))
                .collect();
            let count = old.len().max(1) as f64;
            let mean = old.iter().sum::<f64>() / count;
            let deviation = (old.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt();
            let mut random = Random::new(self.seed, &format!("{name}#{expert}"));
            pieces::change(bytes, |i, x| match is_dropped(i) {
                true => (mean + deviation * random.normal()) as f32,
                false => x,
            });
        }
    }

    /// Draws the hidden units to drop, true for each: the integer part of their share of `count`.
    fn units(self, name: &str, count: usize) -> Vec<bool> {
        let mut random = Random::new(self.seed, &format!("{name}#dropped"));
        let mut order: Vec<usize> = (0..count).collect();
        let mut dropped = vec![false; count];
        for i in 0..(self.share * count as f64) as usize {
            order.swap(i, i + random.below(count - i));
            dropped[order[i]] = true;
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(bytes: &[u8]) -> Vec<f32> {
        pieces::read(bytes).collect()
    }

    #[test]
    fn experts_drop_half_of_their_units_in_all_matrices() {
        // wi: [experts=3, d_model=2, d_ff=8]; wo: [experts=3, d_ff=8, d_model=2].
        let expert: Vec<f32> = (0..16u8).map(|i| f32::from(i) + 1.0).collect();
        let all = || pieces::floats(expert.iter().copied().cycle().take(48));
        let (mut wi, mut wo) = (all(), all());
        let drop = DropUnits { share: 0.5, seed: 1 };
        drop.apply(&mut wi, &[3, 2, 8], [0, 2], ("ffn", "ffn/wi"));
        drop.apply(&mut wo, &[3, 8, 2], [0, 1], ("ffn", "ffn/wo"));
        let mut seen = Vec::new();
        for e in 0..3 {
            let of = |bytes: &[u8]| values(bytes)[16 * e..16 * (e + 1)].to_vec();
            let (wi, wo) = (of(&wi), of(&wo));
            let unit = |h: usize| {
                [
                    wi[h] != expert[h],
                    wi[8 + h] != expert[8 + h],
                    wo[2 * h] != expert[2 * h],
                    wo[2 * h + 1] != expert[2 * h + 1],
                ]
            };
            let dropped: Vec<usize> = (0..8).filter(|h| unit(*h) == [true; 4]).collect();
            assert_eq!(dropped.len(), 4, "expert {e}: {dropped:?}");
            assert!((0..8).all(|h| unit(h) == [dropped.contains(&h); 4]), "expert {e}");
            seen.push(dropped);
        }
        assert!(seen[0] != seen[1] || seen[1] != seen[2], "experts drop different units: {seen:?}");
    }

    #[test]
    fn new_weights_have_the_moments_of_those_that_they_replace() {
        let old: Vec<f32> = (0..20_000).map(|i| 3.0 + if i % 2 == 0 { 0.5 } else { -0.5 }).collect();
        let mut bytes = pieces::floats(old.into_iter());
        DropUnits { share: 1.0, seed: 2 }.apply(&mut bytes, &[1, 20_000, 1], [0, 1], ("ffn", "ffn/wo"));
        let new = values(&bytes);
        let mean = new.iter().sum::<f32>() / 2e4;
        let deviation = (new.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 2e4).sqrt();
        assert!((mean - 3.0).abs() < 0.02 && (deviation - 0.5).abs() < 0.02, "{mean} {deviation}");
    }
}

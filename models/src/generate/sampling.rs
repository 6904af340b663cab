//! Tokens by chance.
//!
//! A sequence draws one number for each of its tokens, from the seed, the position and its own number among
//! all inputs: the same under every layout, in every batch size, and whatever else is generated. The token is
//! the one in whose part of the cumulative distribution the number falls.

use super::MASKED;
use mesh::{
    DType, Dim,
    dsl::{Graph, Tensor, sort},
};

/// The inputs that sampling takes.
#[derive(Clone, Copy, Debug)]
pub struct Sampling<'g> {
    /// Seed of all numbers.
    pub seed: Tensor<'g>,
    /// The number of the batch's first input among all inputs.
    pub first: Tensor<'g>,
    /// What logits are divided by.
    pub temperature: Tensor<'g>,
    /// How many of the most likely tokens are looked at, and the share of probability after which no more
    /// are; nothing: all of them.
    pub filter: Option<(Tensor<'g>, Tensor<'g>)>,
}

impl<'g> Sampling<'g> {
    /// As inputs of the function.
    pub fn inputs(g: &'g Graph, filter: bool) -> Self {
        let number = |name, dtype| g.input(name, dtype, []);
        Self {
            seed: number("seed", DType::U32),
            first: number("first", DType::S32),
            temperature: number("temperature", DType::F32),
            filter: filter.then(|| (number("top_k", DType::S32), number("top_p", DType::F32))),
        }
    }

    /// The number of each sequence: those of one input follow each other.
    pub fn sequence(&self, batch: &Dim, beams: &Dim) -> Tensor<'g> {
        let g = self.seed.graph();
        let input = g.iota(batch, DType::S32) + self.first;
        input * beams.size as u32 + g.iota(beams, DType::S32)
    }

    /// A token for every sequence.
    pub fn choose(&self, logits: Tensor<'g>, sequence: Tensor<'g>, position: Tensor<'g>) -> Tensor<'g> {
        let bits = threefry([self.seed, position.cast(DType::U32)], sequence.cast(DType::U32));
        // The top 24 bits: below 1, and exact.
        let uniform = (bits >> 8).cast(DType::F32) * f64::powi(2.0, -24);
        let scaled = logits / self.temperature;
        match self.filter {
            None => pick(scaled.softmax("vocab"), uniform),
            Some((top_k, top_p)) => {
                let (probabilities, tokens) = most_likely(scaled, top_k, top_p);
                tokens.gather("vocab", pick(probabilities, uniform))
            }
        }
    }
}

/// Probabilities in falling order, 0 from where the filters end (their sum is not 1 then), and the tokens they
/// belong to. Of equally likely tokens the first comes first.
pub fn most_likely<'g>(logits: Tensor<'g>, top_k: Tensor<'g>, top_p: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
    let g = logits.graph();
    let Some(vocab) = logits.dims().into_iter().find(|d| d.name == *"vocab") else { return (logits, logits) };
    let others: Vec<Dim> = logits.dims().into_iter().filter(|d| d.name != vocab.name).collect();
    let places = g.iota(&vocab, DType::S32);
    // Sorted as s32 payload of f32 keys: tokens travel with their logits.
    let order = if others.is_empty() { places } else { places.broadcast(others) };
    let [sorted, order] = sort_pair(logits, order);
    let first = places.lt(top_k);
    let probabilities = first.select(sorted, g.constant(MASKED, DType::F32)).softmax("vocab");
    let keep = first & probabilities.cumsum_exclusive("vocab").lt(top_p);
    (keep.select(probabilities, 0.0), order)
}

fn sort_pair<'g>(keys: Tensor<'g>, payload: Tensor<'g>) -> [Tensor<'g>; 2] {
    sort([keys, payload], "vocab", true)
}

/// The first place where the cumulative distribution exceeds `uniform` of its whole.
fn pick<'g>(probabilities: Tensor<'g>, uniform: Tensor<'g>) -> Tensor<'g> {
    let cumulative = probabilities.cumsum("vocab");
    let target = cumulative.max("vocab") * uniform;
    // A place of probability 0 is never right, even if sums in another order differ in the last bit.
    let hit = cumulative.gt(target) & probabilities.gt(0.0);
    let likely = probabilities.argmax("vocab");
    hit.any("vocab").select(hit.cast(DType::S32).argmax("vocab"), likely)
}

/// The first word of Threefry-2x32 with 13 rounds, as everywhere in mesh, of the words `(input, 0)`.
pub fn threefry<'g>(key: [Tensor<'g>; 2], input: Tensor<'g>) -> Tensor<'g> {
    const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
    let key = [key[0], key[1], key[0] ^ key[1] ^ 0x1BD1_1BDAu32];
    let (mut x0, mut x1) = (input + key[0], key[1]);
    for (round, rotation) in (1u32..=13).zip(ROTATIONS.into_iter().cycle()) {
        x0 += x1;
        x1 = ((x1 << rotation) | (x1 >> (32 - rotation))) ^ x0;
        if round % 4 == 0 {
            let s = round / 4;
            x0 += key[s as usize % 3];
            x1 = x1 + key[(s as usize + 1) % 3] + s;
        }
    }
    x0
}

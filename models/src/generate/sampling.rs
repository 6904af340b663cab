//! Sampling: temperature, top-k and top-p.
//!
//! The random number of a token depends on the seed, the position and the index of its sequence among all
//! inputs, so results do not depend on the layout, the batch size or the other inputs. The token is found
//! by inverting the cumulative distribution.

use super::MASKED;
use mesh::{
    DType, Dim,
    dsl::{Graph, Tensor, sort},
};

/// Inputs of sampling.
#[derive(Clone, Copy, Debug)]
pub struct Sampling<'g> {
    /// Seed of all random numbers.
    pub seed: Tensor<'g>,
    /// Index of the batch's first input among all inputs.
    pub first: Tensor<'g>,
    /// Temperature: logits are divided by it.
    pub temperature: Tensor<'g>,
    /// Top-k and top-p: the number of tokens to choose from, and their cumulative probability. `None` means
    /// all tokens.
    pub filter: Option<(Tensor<'g>, Tensor<'g>)>,
}

impl<'g> Sampling<'g> {
    /// Declares them as inputs of the function.
    pub fn inputs(g: &'g Graph, filter: bool) -> Self {
        let number = |name, dtype| g.input(name, dtype, []);
        Self {
            seed: number("seed", DType::U32),
            first: number("first", DType::S32),
            temperature: number("temperature", DType::F32),
            filter: filter.then(|| (number("top_k", DType::S32), number("top_p", DType::F32))),
        }
    }

    /// Returns the index of each sequence, `s32[batch, beams]`; sequences of one input are consecutive.
    /// `number` is that of each row's input, from that of the first one: `s32[batch]`.
    pub fn sequence(&self, number: Tensor<'g>, beams: &Dim) -> Tensor<'g> {
        let input = number + self.first;
        input * beams.size as u32 + self.seed.graph().iota(beams, DType::S32)
    }

    /// Samples a token for every sequence.
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

/// Returns probabilities in descending order, set to 0 outside top-k and top-p and not renormalized, and
/// the tokens that they belong to. Equal probabilities keep the order of tokens.
pub fn most_likely<'g>(logits: Tensor<'g>, top_k: Tensor<'g>, top_p: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
    let g = logits.graph();
    let Some(vocab) = logits.dims().into_iter().find(|d| d.name == *"vocab") else { return (logits, logits) };
    let others: Vec<Dim> = logits.dims().into_iter().filter(|d| d.name != vocab.name).collect();
    let places = g.iota(&vocab, DType::S32);
    // Tokens are sorted as the payload of their logits.
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

/// Returns the first index at which the cumulative distribution exceeds `uniform` times its total.
fn pick<'g>(probabilities: Tensor<'g>, uniform: Tensor<'g>) -> Tensor<'g> {
    let cumulative = probabilities.cumsum("vocab");
    let target = cumulative.max("vocab") * uniform;
    // An index of probability 0 is never chosen, even if sums in another order differ in the last bit.
    let hit = cumulative.gt(target) & probabilities.gt(0.0);
    let likely = probabilities.argmax("vocab");
    hit.any("vocab").select(hit.cast(DType::S32).argmax("vocab"), likely)
}

/// Returns the first word of Threefry-2x32 with 13 rounds, the generator of all random numbers in mesh, for
/// the words `(input, 0)`.
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

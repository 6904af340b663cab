//! T5's relative position bias: a number for each head and each bucket of distances, added to the attention
//! logits. The layers of a stack share the table, or each has its own, as in umT5.

use crate::{Context, Weight, Weights};
use mesh::{
    DType, Dim, Name,
    dsl::{Init, Tensor, einsum},
};

/// Returns the first distance of each bucket that spans several distances; `buckets` counts the buckets of
/// one direction.
///
/// The formula is T5's, in `f32`. It is evaluated here and not on the device, where a logarithm with
/// another last bit could move a boundary.
fn boundaries(buckets: usize, max_distance: usize) -> Vec<usize> {
    let single = buckets / 2;
    let bucket = |distance: usize| {
        let place =
            (distance as f32 / single as f32).ln() / (max_distance as f64 / single as f64).ln() as f32;
        (single + (place * (buckets - single) as f32) as usize).min(buckets - 1)
    };
    let first = |b: usize| {
        // Halves the range until few distances are left, because it may have billions of them.
        let (mut from, mut to) = (single, max_distance);
        while to - from > FEW {
            let middle = from + (to - from) / 2;
            (from, to) = if bucket(middle) >= b { (from, middle) } else { (middle - FEW / 4, to) };
        }
        (from..=to).find(|d| bucket(*d) >= b).unwrap_or(max_distance)
    };
    (single + 1..buckets).map(first).collect()
}

/// The number of distances that are searched one by one. The rounding of the formula exchanges the order of
/// fewer.
const FEW: usize = 256;

/// Returns the bucket of `relative = memory - query`, as [`RelativeBias`] computes it on the device.
pub fn bucket(relative: i32, bidirectional: bool, buckets: usize, max_distance: usize) -> usize {
    let (buckets, offset, distance) = if bidirectional {
        (buckets / 2, if relative > 0 { buckets / 2 } else { 0 }, relative.unsigned_abs() as usize)
    } else {
        (buckets, 0, (-i64::from(relative)).max(0) as usize)
    };
    let wide = boundaries(buckets, max_distance).iter().filter(|b| distance >= **b).count();
    offset + distance.min(buckets / 2) + wide
}

/// The relative position bias of a stack, or of one layer.
#[derive(Clone, Debug)]
pub struct RelativeBias {
    table: Weight,
    buckets: Dim,
    heads: Dim,
    max_distance: usize,
    bidirectional: bool,
}

impl RelativeBias {
    /// Declares the table; `bidirectional` is true for an encoder.
    pub fn new(
        w: &Weights<'_>,
        buckets: usize,
        max_distance: usize,
        heads: &Dim,
        d_model: &Dim,
        bidirectional: bool,
    ) -> Self {
        let buckets = Dim::new("buckets", buckets);
        let init = Init::Normal((d_model.size as f64).powf(-0.5));
        let table = w.table("relative_bias", &[&buckets], &[heads], init);
        Self { table, buckets, heads: heads.clone(), max_distance, bidirectional }
    }

    /// Returns the bias for logits, `f32[heads, query, memory]`.
    pub fn forward<'g>(&self, cx: &Context<'g>, query: &Dim, memory: &Dim) -> Tensor<'g> {
        let relative = cx.g.iota(memory, DType::S32) - cx.g.iota(query, DType::S32);
        self.of(cx, relative, &[&query.name, &memory.name])
    }

    /// Returns the biases of a decoder with a ring of `own` positions and `before` positions of inputs before
    /// them, for decoding one position at a time. They hide no position.
    pub fn ring<'g>(&self, cx: &Context<'g>, own: &Dim, before: usize) -> RingBias<'g> {
        let (g, size) = (cx.g, own.size as u32);
        // As seen from the last place of the ring, followed by the places before it once more.
        let reach = Dim::new("reach", 2 * own.size);
        let place = g.iota(&reach, DType::S32);
        let relative = place.ge(size).select(place - (2 * size - 1), place - (size - 1));
        let of_own = self.of(cx, relative, &[&reach.name]);
        let of_inputs = (before > 0).then(|| {
            let reach = Dim::new("reach", before + own.size - 1);
            let relative = g.iota(&reach, DType::S32) - (size - 1 + before as u32);
            self.of(cx, relative, &[&reach.name])
        });
        RingBias { of_own, of_inputs, own: own.clone(), before: own.sized(before) }
    }

    /// Returns the biases of [`RelativeBias::ring`] for one step: `ages` are the distances to the places of
    /// the ring, `s32[memory_length]`, and `relative` the relative positions of the inputs, `s32[batch,
    /// memory_length]`, if there are any.
    pub fn at_step<'g>(
        &self,
        cx: &Context<'g>,
        ages: Tensor<'g>,
        relative: Option<Tensor<'g>>,
    ) -> StepBias<'g> {
        let (batch, length) = (Name::from("batch"), Name::from("memory_length"));
        let inputs = relative.map(|relative| self.of(cx, relative, &[&batch, &length]));
        StepBias { own: self.of(cx, -ages, &[&length]), inputs }
    }

    /// Returns the bias of relative positions with the dims `dims`: `[heads, dims]`.
    pub(crate) fn of<'g>(&self, cx: &Context<'g>, relative: Tensor<'g>, dims: &[&Name]) -> Tensor<'g> {
        let (buckets, distance) = if self.bidirectional {
            (self.buckets.size / 2, relative.abs())
        } else {
            (self.buckets.size, (-relative).maximum(0))
        };
        let mut bucket = distance.minimum((buckets / 2) as u32);
        for boundary in boundaries(buckets, self.max_distance) {
            bucket += distance.ge(boundary as u32).cast(DType::S32);
        }
        if self.bidirectional {
            bucket += relative.gt(0).cast(DType::S32) * (buckets as u32);
        }
        // A product with a one-hot matrix: its gradient is a product too, while that of a gather is a
        // scatter.
        let hot = bucket.one_hot(&self.buckets, DType::F32);
        let out: Vec<Name> = [&self.heads.name].into_iter().chain(dims.iter().copied()).cloned().collect();
        einsum([self.table.value(cx.g), hot], out)
    }
}

/// Relative biases of a decoder with a ring of positions. Those of one step are slices of them.
#[derive(Clone, Debug)]
pub struct RingBias<'g> {
    /// `[heads, reach]`.
    of_own: Tensor<'g>,
    /// `[heads, reach]`; `None` means that there are no inputs before the decoder's positions.
    of_inputs: Option<Tensor<'g>>,
    own: Dim,
    before: Dim,
}

/// Relative biases of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepBias<'g> {
    /// Those of the ring: `[heads, memory_length]`.
    pub own: Tensor<'g>,
    /// Those of the inputs before it, if there are any: `[batch, heads, memory_length]`.
    pub inputs: Option<Tensor<'g>>,
}

impl<'g> RingBias<'g> {
    /// Returns the biases of the step that writes place `clock` of the ring, `s32[]`, where the rows are at
    /// `position`, `s32[batch]`.
    pub fn at(&self, clock: Tensor<'g>, position: Tensor<'g>) -> StepBias<'g> {
        let (size, last) = (self.own.size, self.own.size as u32 - 1);
        let own = self.of_own.dynamic_slice("reach", last - clock, size).rename("reach", &self.own.name);
        let inputs = self.of_inputs.map(|all| {
            let place = clock.graph().iota(&self.before, DType::S32);
            all.gather("reach", place - position + last)
        });
        StepBias { own, inputs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_single_at_first_and_wider_later() {
        let causal: Vec<usize> =
            [5, 0, -1, -15, -16, -17, -127, -128, -300].map(|r| bucket(r, false, 32, 128)).to_vec();
        assert_eq!(causal, [0, 0, 1, 15, 16, 16, 31, 31, 31]);
        let both: Vec<usize> =
            [0, -1, 1, -7, 7, -8, 8, -127, 127, 300].map(|r| bucket(r, true, 32, 128)).to_vec();
        assert_eq!(both, [0, 1, 17, 7, 23, 8, 24, 15, 31, 31]);
        let few: Vec<usize> = [0, -1, -2, -3, -4, -5, -8, -15, -16].map(|r| bucket(r, false, 8, 16)).to_vec();
        assert_eq!(few, [0, 1, 2, 3, 4, 4, 6, 7, 7]);
    }
}

//! FLOPs of products and convolutions.

use super::{ById, elements};
use proto::xla::{HloInstructionProto, ShapeProto, WindowDimension};

/// The FLOPs of one instruction; `None` if it is neither a product nor a convolution.
pub(super) fn flops(inst: &HloInstructionProto, by_id: &ById) -> Option<u64> {
    let operand = |i: usize| by_id.get(inst.operand_ids.get(i)?)?.shape.as_ref();
    match inst.opcode.as_str() {
        "dot" => {
            let (out, left) = (inst.shape.as_ref()?, operand(0)?);
            let dims = inst.dot_dimension_numbers.as_ref()?;
            let summed = dims.lhs_contracting_dimensions.iter().map(|d| size(left, *d));
            Some(2 * elements(out) * summed.product::<u64>())
        }
        "convolution" => convolution(inst, operand(0)?, operand(1)?),
        _ => None,
    }
}

fn size(shape: &ShapeProto, dim: i64) -> u64 {
    let dim = usize::try_from(dim).unwrap_or(usize::MAX);
    shape.dimensions.get(dim).and_then(|n| u64::try_from(*n).ok()).unwrap_or(0)
}

/// One multiply-add for each element of the batch, each output and input feature, and each pair of positions
/// in the window and the output that meets an element of the input. Padding, and the holes between the
/// elements of a dilated input, are not multiplied.
fn convolution(inst: &HloInstructionProto, input: &ShapeProto, kernel: &ShapeProto) -> Option<u64> {
    let (out, dims) = (inst.shape.as_ref()?, inst.convolution_dimension_numbers.as_ref()?);
    let window = inst.window.as_ref().map_or(&[][..], |w| &w.dimensions);
    let mut pairs = 1;
    for (i, k) in dims.kernel_spatial_dimensions.iter().enumerate() {
        let along = |dims: &[i64], shape| dims.get(i).map_or(0, |d| size(shape, *d));
        let sizes = Sizes {
            input: along(&dims.input_spatial_dimensions, input),
            kernel: size(kernel, *k),
            output: along(&dims.output_spatial_dimensions, out),
        };
        pairs *= meetings(sizes, window.get(i).copied().unwrap_or_default());
    }
    let batch = size(out, dims.output_batch_dimension);
    let features =
        size(out, dims.output_feature_dimension) * size(kernel, dims.kernel_input_feature_dimension);
    Some(2 * batch * features * pairs)
}

/// Sizes along one spatial dim.
#[derive(Clone, Copy)]
struct Sizes {
    input: u64,
    kernel: u64,
    output: u64,
}

/// The number of pairs of a position in the window and one in the output that meet an element of the input.
fn meetings(sizes: Sizes, window: WindowDimension) -> u64 {
    if sizes.input == 0 {
        return 0;
    }
    let least = |n: i64| n.max(1);
    let (stride, base) = (least(window.stride), least(window.base_dilation));
    let last = (sizes.input as i64 - 1) * base;
    let mut count = 0;
    for k in 0..sizes.kernel as i64 {
        let offset = k * least(window.window_dilation) - window.padding_low;
        // Positions o of the output with 0 <= o * stride + offset <= last.
        let from = (-offset).div_euclid(stride) + i64::from((-offset).rem_euclid(stride) != 0);
        let to = (last - offset).div_euclid(stride);
        let (from, to) = (from.max(0), to.min(sizes.output as i64 - 1));
        if from > to {
            continue;
        }
        count += match base {
            1 => (to - from + 1) as u64,
            _ => (from..=to).filter(|o| (o * stride + offset) % base == 0).count() as u64,
        };
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sizes: (u64, u64, u64), window: WindowDimension, expect: u64) {
        let (input, kernel, output) = sizes;
        let mut slow = 0;
        for k in 0..kernel as i64 {
            for o in 0..output as i64 {
                let at = o * window.stride + k * window.window_dilation - window.padding_low;
                let inside = at >= 0 && at <= (input as i64 - 1) * window.base_dilation;
                slow += u64::from(inside && at % window.base_dilation == 0);
            }
        }
        assert_eq!(meetings(Sizes { input, kernel, output }, window), slow);
        assert_eq!(slow, expect);
    }

    #[test]
    fn only_elements_of_the_input_are_multiplied() {
        let plain = WindowDimension { stride: 1, window_dilation: 1, base_dilation: 1, ..Default::default() };
        check((8, 3, 6), plain, 18);
        check((8, 3, 8), WindowDimension { padding_low: 1, padding_high: 1, ..plain }, 22);
        check((8, 1, 8), plain, 8);
        check((8, 3, 4), WindowDimension { stride: 2, ..plain }, 11);
        // A batch dim of a product as a spatial dim: the window slides over holes and meets each element
        // once.
        let batch = WindowDimension { stride: 7, base_dilation: 8, ..plain };
        check((8, 8, 8), batch, 8);
        check(
            (5, 4, 9),
            WindowDimension { base_dilation: 3, window_dilation: 2, padding_low: 4, ..plain },
            11,
        );
    }
}

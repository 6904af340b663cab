//! Operations on the bytes of row-major tensors. Arithmetic is on `f32` elements.

/// Returns the number of elements outside dim `dim`, the size of the dim, and the bytes of the dims inside
/// it.
fn around(dims: &[usize], element: usize, dim: usize) -> (usize, usize, usize) {
    (dims[..dim].iter().product(), dims[dim], dims[dim + 1..].iter().product::<usize>() * element)
}

/// Selects the indices `list` of a dim.
pub fn pick(bytes: &[u8], dims: &[usize], element: usize, dim: usize, list: &[usize]) -> Vec<u8> {
    let (outer, along, inner) = around(dims, element, dim);
    let mut out = Vec::with_capacity(outer * list.len() * inner);
    for o in 0..outer {
        for i in list {
            let at = (o * along + i) * inner;
            out.extend_from_slice(&bytes[at..at + inner]);
        }
    }
    out
}

/// Repeats a tensor `count` times along a new dim at position `dim`.
pub fn repeat(bytes: &[u8], dims: &[usize], element: usize, dim: usize, count: usize) -> Vec<u8> {
    let inner = dims[dim..].iter().product::<usize>() * element;
    let mut out = Vec::with_capacity(bytes.len() * count);
    for chunk in bytes.chunks_exact(inner.max(1)) {
        for _ in 0..count {
            out.extend_from_slice(chunk);
        }
    }
    out
}

/// Returns the mean over a dim, summed in `f64`.
pub fn mean(bytes: &[u8], dims: &[usize], dim: usize) -> Vec<u8> {
    let (outer, along, inner) = around(dims, 1, dim);
    let values: Vec<f32> = read(bytes).collect();
    let mean = |o: usize, i: usize| {
        let sum: f64 = (0..along).map(|e| f64::from(values[(o * along + e) * inner + i])).sum();
        (sum / along as f64) as f32
    };
    floats((0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))).map(|(o, i)| mean(o, i)))
}

/// Multiplies every element by a factor.
pub fn scale(bytes: &mut [u8], factor: f64) {
    if factor != 1.0 {
        change(bytes, |_, x| (f64::from(x) * factor) as f32);
    }
}

/// Adds noise to the slices of dim `dim` that repeat an earlier entry of `list`.
pub fn disturb_copies(
    bytes: &mut [u8],
    dims: &[usize],
    dim: usize,
    list: &[usize],
    mut noise: impl FnMut() -> f64,
) {
    let (_, along, inner) = around(dims, 1, dim);
    change(bytes, |i, x| {
        let e = i / inner % along;
        if list[..e].contains(&list[e]) { (f64::from(x) + noise()) as f32 } else { x }
    });
}

/// Returns the root mean square.
pub fn root_mean_square(bytes: &[u8]) -> f64 {
    let sum: f64 = read(bytes).map(|x| f64::from(x).powi(2)).sum();
    (sum / (bytes.len() / 4).max(1) as f64).sqrt()
}

/// Converts floats to bytes.
pub fn floats(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

/// Returns the floats of these bytes.
pub fn read(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

/// Replaces every float by a function of its index and itself.
pub fn change(bytes: &mut [u8], mut f: impl FnMut(usize, f32) -> f32) {
    for (i, b) in bytes.chunks_exact_mut(4).enumerate() {
        b.copy_from_slice(&f(i, f32::from_le_bytes([b[0], b[1], b[2], b[3]])).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(bytes: &[u8]) -> Vec<f32> {
        read(bytes).collect()
    }

    #[test]
    fn along_every_dim() {
        // 0 1 2 / 3 4 5, then 6 7 8 / 9 10 11.
        let x = floats((0..12u8).map(f32::from));
        let dims = [2, 2, 3];
        assert_eq!(values(&pick(&x, &dims, 4, 0, &[1])), [6., 7., 8., 9., 10., 11.]);
        assert_eq!(
            values(&pick(&x, &dims, 4, 1, &[1, 1])),
            [3., 4., 5., 3., 4., 5., 9., 10., 11., 9., 10., 11.]
        );
        assert_eq!(values(&pick(&x, &dims, 4, 2, &[2, 0])), [2., 0., 5., 3., 8., 6., 11., 9.]);
        assert_eq!(values(&mean(&x, &dims, 1)), [1.5, 2.5, 3.5, 7.5, 8.5, 9.5]);
        assert_eq!(values(&mean(&x, &dims, 2)), [1., 4., 7., 10.]);
        let y = floats([1., 2.].into_iter());
        assert_eq!(values(&repeat(&y, &[2], 4, 0, 2)), [1., 2., 1., 2.]);
        assert_eq!(values(&repeat(&y, &[2], 4, 1, 2)), [1., 1., 2., 2.]);
        assert_eq!(root_mean_square(&floats([3., 4., 0., 0.].into_iter())), 2.5);
    }

    #[test]
    fn only_copies_get_noise() {
        let mut x = floats((0..8u8).map(f32::from));
        disturb_copies(&mut x, &[2, 4], 1, &[0, 0, 1, 1], || 0.5);
        assert_eq!(values(&x), [0., 1.5, 2., 3.5, 4., 5.5, 6., 7.5]);
        scale(&mut x, 2.0);
        assert_eq!(values(&x)[..2], [0., 3.]);
    }
}

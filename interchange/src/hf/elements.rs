//! Element types of tensor bytes, and transposition.

use super::file::Element;

/// Converts elements to 32-bit floats: exactly, except that 64-bit floats are rounded to nearest.
pub fn widened(element: Element, bytes: Vec<u8>) -> Vec<u8> {
    let two =
        |f: fn([u8; 2]) -> f32| bytes.chunks_exact(2).flat_map(|b| f([b[0], b[1]]).to_le_bytes()).collect();
    match element {
        Element::F32 | Element::I32 => bytes,
        Element::F64 => bytes.chunks_exact(8).flat_map(|b| (f64_of(b) as f32).to_le_bytes()).collect(),
        Element::Bf16 => two(|b| half::bf16::from_le_bytes(b).to_f32()),
        Element::F16 => two(|b| half::f16::from_le_bytes(b).to_f32()),
    }
}

/// Returns the first 64-bit float that is finite, but beyond the range of 32-bit floats.
pub fn beyond_f32(element: Element, bytes: &[u8]) -> Option<f64> {
    let mut all = bytes.chunks_exact(8).map(f64_of);
    all.find(|x| element == Element::F64 && x.is_finite() && (*x as f32).is_infinite())
}

fn f64_of(bytes: &[u8]) -> f64 {
    f64::from_le_bytes(bytes.try_into().expect("elements have 8 bytes"))
}

/// Converts 32-bit floats to `element`, rounded to nearest. The inverse of [`widened`].
pub fn narrowed(element: Element, bytes: Vec<u8>) -> Vec<u8> {
    let four = |f: fn(f32) -> [u8; 2]| {
        bytes.chunks_exact(4).flat_map(|b| f(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
    };
    match element {
        Element::F32 | Element::I32 => bytes,
        Element::F64 => {
            let wide = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])).to_le_bytes();
            bytes.chunks_exact(4).flat_map(wide).collect()
        }
        Element::Bf16 => four(|x| half::bf16::from_f32(x).to_le_bytes()),
        Element::F16 => four(|x| half::f16::from_f32(x).to_le_bytes()),
    }
}

/// Transposes a matrix of 32-bit elements.
pub fn transposed(bytes: &[u8], rows: usize, columns: usize) -> Vec<u8> {
    /// A block and its transpose fit the first-level cache.
    const BLOCK: usize = 32;
    let mut out = vec![0; bytes.len()];
    for r in (0..rows).step_by(BLOCK) {
        for c in (0..columns).step_by(BLOCK) {
            for i in r..(r + BLOCK).min(rows) {
                for j in c..(c + BLOCK).min(columns) {
                    let (from, to) = ((i * columns + j) * 4, (j * rows + i) * 4);
                    out[to..to + 4].copy_from_slice(&bytes[from..from + 4]);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowing_inverts_widening() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for element in [Element::Bf16, Element::F16] {
            let wide = widened(element, all.clone());
            let back = narrowed(element, wide);
            let differ = all.chunks(2).zip(back.chunks(2)).filter(|(a, b)| a != b).map(|(a, _)| [a[0], a[1]]);
            // A NaN may become another NaN.
            let nan = |b: [u8; 2]| match element {
                Element::Bf16 => half::bf16::from_le_bytes(b).is_nan(),
                _ => half::f16::from_le_bytes(b).is_nan(),
            };
            assert!(differ.into_iter().all(nan), "{element:?}");
        }
    }

    #[test]
    fn doubles_are_rounded_and_their_range_is_checked() {
        let bytes = |all: &[f64]| all.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let exact = [1.5, -0.0, f64::INFINITY, 3e38];
        let wide = widened(Element::F64, bytes(&exact));
        let expect: Vec<u8> = exact.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
        assert_eq!(wide, expect);
        assert_eq!(narrowed(Element::F64, widened(Element::F64, bytes(&[1.5, 0.1]))).len(), 16);
        assert_eq!(widened(Element::F64, bytes(&[0.1])), 0.1f32.to_le_bytes());
        assert_eq!(beyond_f32(Element::F64, &bytes(&exact)), None);
        assert_eq!(beyond_f32(Element::F64, &bytes(&[1.0, -1e39])), Some(-1e39));
        assert_eq!(beyond_f32(Element::F32, &bytes(&[1e39])), None);
    }

    #[test]
    fn matrices_are_transposed() {
        let bytes: Vec<u8> = (0..50 * 70u32).flat_map(u32::to_le_bytes).collect();
        let back = transposed(&transposed(&bytes, 50, 70), 70, 50);
        assert_eq!(back, bytes);
        let small: Vec<u8> = (0..6u32).flat_map(u32::to_le_bytes).collect();
        let expect: Vec<u8> = [0u32, 3, 1, 4, 2, 5].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(transposed(&small, 2, 3), expect);
    }
}

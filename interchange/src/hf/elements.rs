//! Element types of tensor bytes, and transposition.

use super::file::Element;

/// Converts elements to 32-bit floats, exactly.
pub fn widened(element: Element, bytes: Vec<u8>) -> Vec<u8> {
    let two =
        |f: fn([u8; 2]) -> f32| bytes.chunks_exact(2).flat_map(|b| f([b[0], b[1]]).to_le_bytes()).collect();
    match element {
        Element::F32 | Element::I32 => bytes,
        Element::Bf16 => two(|b| half::bf16::from_le_bytes(b).to_f32()),
        Element::F16 => two(|b| half::f16::from_le_bytes(b).to_f32()),
    }
}

/// Converts 32-bit floats to `element`, rounded to nearest. The inverse of [`widened`].
pub fn narrowed(element: Element, bytes: Vec<u8>) -> Vec<u8> {
    let four = |f: fn(f32) -> [u8; 2]| {
        bytes.chunks_exact(4).flat_map(|b| f(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
    };
    match element {
        Element::F32 | Element::I32 => bytes,
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
    fn matrices_are_transposed() {
        let bytes: Vec<u8> = (0..50 * 70u32).flat_map(u32::to_le_bytes).collect();
        let back = transposed(&transposed(&bytes, 50, 70), 70, 50);
        assert_eq!(back, bytes);
        let small: Vec<u8> = (0..6u32).flat_map(u32::to_le_bytes).collect();
        let expect: Vec<u8> = [0u32, 3, 1, 4, 2, 5].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(transposed(&small, 2, 3), expect);
    }
}

//! Boxes of variables as boxes of parameters: axes are split into the dims that they merge, and permuted.

use super::array::Block;
use models::t5x::Variable;

/// A box of a parameter within a block of a variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Start in each dim of the parameter.
    pub start: Vec<usize>,
    /// Size in each dim of the parameter.
    pub sizes: Vec<usize>,
    /// Index of its first element in the block.
    offset: usize,
    /// Distance in the block between neighbours along each dim.
    strides: Vec<usize>,
}

/// Returns the boxes of the parameter that a block of the variable consists of.
pub fn pieces(variable: &Variable, block: &Block) -> Vec<Piece> {
    let dims = &variable.dims;
    let start = variable.start.clone();
    // Dims that the variable does not have are those of which it is one index.
    let mut all = vec![Piece { start, sizes: vec![1; dims.len()], offset: 0, strides: vec![0; dims.len()] }];
    let mut stride: usize = block.sizes.iter().product();
    for ((axis, first), count) in variable.axes.iter().zip(&block.start).zip(&block.sizes) {
        stride /= (*count).max(1);
        let place = |dim: &String| dims.iter().position(|(name, _)| name == dim);
        let merged: Vec<usize> = axis.iter().filter_map(place).collect();
        let sizes: Vec<usize> = merged.iter().map(|at| variable.part[*at]).collect();
        let mut next = Vec::new();
        for piece in &all {
            for split in split(&sizes, *first, *count) {
                let mut piece = piece.clone();
                piece.offset += split.offset * stride;
                let mut inner = stride;
                for (k, at) in merged.iter().enumerate().rev() {
                    piece.start[*at] = variable.start[*at] + split.start[k];
                    piece.sizes[*at] = split.sizes[k];
                    piece.strides[*at] = inner;
                    inner *= sizes[k];
                }
                next.push(piece);
            }
        }
        all = next;
    }
    all
}

/// A box in the dims that an axis merges.
struct Split {
    start: Vec<usize>,
    sizes: Vec<usize>,
    /// Its distance from the beginning of the range.
    offset: usize,
}

/// Splits `count` indices from `first` on, of an axis that merges dims of these sizes, into boxes.
fn split(sizes: &[usize], first: usize, count: usize) -> Vec<Split> {
    let inner: usize = sizes.iter().skip(1).product();
    if sizes.len() <= 1 {
        return vec![Split { start: vec![first], sizes: vec![count], offset: 0 }];
    }
    let (mut all, mut done) = (Vec::new(), 0);
    while done < count {
        let (outer, at) = ((first + done) / inner, (first + done) % inner);
        let left = count - done;
        if at == 0 && left >= inner {
            let rows = left / inner;
            let start = [vec![outer], vec![0; sizes.len() - 1]].concat();
            all.push(Split { start, sizes: [&[rows], &sizes[1..]].concat(), offset: done });
            done += rows * inner;
        } else {
            let part = left.min(inner - at);
            for within in split(&sizes[1..], at, part) {
                let start = [vec![outer], within.start].concat();
                let sizes = [vec![1], within.sizes].concat();
                all.push(Split { start, sizes, offset: done + within.offset });
            }
            done += part;
        }
    }
    all
}

impl Piece {
    /// Calls `each` with the index in the piece and in the block of every element.
    fn elements(&self, mut each: impl FnMut(usize, usize)) {
        let count: usize = self.sizes.iter().product();
        let mut index = vec![0; self.sizes.len()];
        let mut at = self.offset;
        for i in 0..count {
            each(i, at);
            for d in (0..index.len()).rev() {
                index[d] += 1;
                at += self.strides[d];
                if index[d] < self.sizes[d] {
                    break;
                }
                at -= index[d] * self.strides[d];
                index[d] = 0;
            }
        }
    }

    /// Returns the piece's part of a block of 32-bit elements, in the order of the parameter's dims.
    pub fn gathered(&self, block: &[u8]) -> Vec<u8> {
        let mut out = vec![0; self.sizes.iter().product::<usize>() * 4];
        self.elements(|i, at| out[i * 4..i * 4 + 4].copy_from_slice(&block[at * 4..at * 4 + 4]));
        out
    }

    /// Writes the elements of the piece into a block. The inverse of [`Piece::gathered`].
    pub fn scatter(&self, part: &[u8], block: &mut [u8]) {
        self.elements(|i, at| block[at * 4..at * 4 + 4].copy_from_slice(&part[i * 4..i * 4 + 4]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(dims: &[(&str, usize)]) -> Vec<(String, usize)> {
        dims.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect()
    }

    /// Checks that the pieces of the blocks put every element of the variable at its place.
    #[track_caller]
    fn check(axes: &[&[&str]], dims: &[(&str, usize)], chunk: &[usize]) {
        let axes: Vec<Vec<String>> =
            axes.iter().map(|axis| axis.iter().map(|dim| (*dim).to_owned()).collect()).collect();
        let (start, part) = (vec![0; dims.len()], dims.iter().map(|d| d.1).collect());
        let variable = Variable {
            name: String::new(),
            axes: axes.clone(),
            param: String::new(),
            dims: named(dims),
            start,
            part,
        };
        let sizes = variable.sizes();
        let total: usize = sizes.iter().product();
        let mut seen = vec![None; total];
        let grid: Vec<usize> = sizes.iter().zip(chunk).map(|(size, chunk)| size.div_ceil(*chunk)).collect();
        for number in 0..grid.iter().product() {
            let (mut rest, mut start) = (number, vec![0; grid.len()]);
            for d in (0..grid.len()).rev() {
                start[d] = rest % grid[d] * chunk[d];
                rest /= grid[d];
            }
            let inside: Vec<usize> = (0..grid.len()).map(|d| chunk[d].min(sizes[d] - start[d])).collect();
            let block = Block { start: start.clone(), sizes: inside.clone() };
            for piece in pieces(&variable, &block) {
                piece.elements(|i, at| {
                    // The index in each dim, by name.
                    let (mut rest, mut index) = (i, vec![0; dims.len()]);
                    for d in (0..dims.len()).rev() {
                        index[d] = piece.start[d] + rest % piece.sizes[d];
                        rest /= piece.sizes[d];
                    }
                    let ours = (0..dims.len()).fold(0, |n, d| n * dims[d].1 + index[d]);
                    // The index in each axis.
                    let (mut rest, mut theirs) = (at, vec![0; inside.len()]);
                    for d in (0..inside.len()).rev() {
                        theirs[d] = start[d] + rest % inside[d];
                        rest /= inside[d];
                    }
                    let expect = axes.iter().zip(&theirs).all(|(axis, found)| {
                        let merged = axis.iter().fold(0, |n, name| {
                            let d = dims.iter().position(|(dim, _)| dim == name).expect("it is a dim");
                            n * dims[d].1 + index[d]
                        });
                        merged == *found
                    });
                    assert!(expect, "element {at} of block {start:?} is not {index:?}");
                    assert_eq!(seen[ours].replace(at), None, "{index:?} is written twice");
                });
            }
        }
        assert!(seen.iter().all(Option::is_some), "elements are missing");
    }

    #[test]
    fn every_element_has_one_place() {
        let kernel: &[(&str, usize)] = &[("layers", 2), ("d_model", 3), ("heads", 4), ("d_kv", 5)];
        let scanned: &[&[&str]] = &[&["d_model"], &["layers"], &["heads", "d_kv"]];
        for chunk in [[3, 2, 20], [1, 1, 1], [2, 1, 7], [3, 2, 6], [3, 2, 3], [1, 2, 13]] {
            check(scanned, kernel, &chunk);
        }
        check(&[&["heads", "d_kv"], &["d_model"]], &kernel[1..], &[9, 2]);
        check(&[&["heads"], &["buckets"]], &[("buckets", 4), ("heads", 2)], &[2, 4]);
        let experts: &[(&str, usize)] = &[("layers", 2), ("experts", 3), ("d_model", 2), ("d_ff", 4)];
        check(&[&["experts"], &["layers"], &["d_ff"], &["d_model"]], experts, &[2, 1, 3, 2]);
        check(&[&["layers", "heads", "d_kv"]], &[("heads", 2), ("d_kv", 3), ("layers", 4)], &[5]);
    }

    #[test]
    fn scattering_inverts_gathering() {
        let variable = Variable {
            name: String::new(),
            axes: vec![vec!["b".into()], vec!["a".into()]],
            param: String::new(),
            dims: named(&[("layers", 5), ("a", 2), ("b", 3)]),
            start: vec![4, 0, 0],
            part: vec![1, 2, 3],
        };
        let bytes: Vec<u8> = (0..6u32).flat_map(u32::to_le_bytes).collect();
        let all = pieces(&variable, &Block { start: vec![0, 0], sizes: vec![3, 2] });
        assert_eq!((all.len(), &all[0].start[..], &all[0].sizes[..]), (1, &[4, 0, 0][..], &[1, 2, 3][..]));
        let ours = all[0].gathered(&bytes);
        let expect: Vec<u8> = [0u32, 2, 4, 1, 3, 5].into_iter().flat_map(u32::to_le_bytes).collect();
        assert_eq!(ours, expect);
        let mut back = vec![0; bytes.len()];
        all[0].scatter(&ours, &mut back);
        assert_eq!(back, bytes);
    }
}

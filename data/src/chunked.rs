//! A long list in chunks of one size, which grows without copies.

use std::ops::Range;

/// A long list. It takes the memory of its elements and at most one chunk more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunked<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

/// Elements of a chunk.
const CHUNK: usize = 1 << 20;

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T: Copy> Chunked<T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends elements.
    pub fn extend(&mut self, elements: impl IntoIterator<Item = T>) {
        for element in elements {
            match self.chunks.last_mut() {
                Some(last) if last.len() < CHUNK => last.push(element),
                Some(_) => {
                    let mut new = Vec::with_capacity(CHUNK);
                    new.push(element);
                    self.chunks.push(new);
                }
                // Short lists take little memory.
                None => self.chunks.push(vec![element]),
            }
            self.len += 1;
        }
    }

    /// Returns the list of all elements changed by `change`. Memory of this list is freed chunk by chunk.
    pub fn map<U>(self, change: impl Fn(T) -> U) -> Chunked<U> {
        let chunks = self.chunks.into_iter().map(|chunk| chunk.into_iter().map(&change).collect());
        Chunked { chunks: chunks.collect(), len: self.len }
    }

    /// Removes the elements from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.chunks.truncate(self.len.div_ceil(CHUNK));
        if let Some(last) = self.chunks.last_mut() {
            last.truncate(self.len - (self.len - 1) / CHUNK * CHUNK);
        }
    }

    /// The elements in `range`, which is within `0..len`.
    pub fn range(&self, range: Range<usize>) -> impl Iterator<Item = T> {
        let first = range.start / CHUNK;
        let chunks =
            self.chunks.iter().enumerate().skip(first).take(range.end.div_ceil(CHUNK).saturating_sub(first));
        chunks.flat_map(move |(number, chunk)| {
            let start = range.start.saturating_sub(number * CHUNK);
            let end = (range.end - number * CHUNK).min(chunk.len());
            chunk[start.min(end)..end].iter().copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cross_chunks() {
        let mut list = Chunked::default();
        list.extend(0..3 * CHUNK as u32 + 5);
        let of = |list: &Chunked<u32>, range: Range<usize>| list.range(range).collect::<Vec<_>>();
        for start in [0, 7, CHUNK - 2, CHUNK, 2 * CHUNK - 1] {
            for end in [start, start + 1, CHUNK + 3, 2 * CHUNK, 3 * CHUNK + 5] {
                let expected: Vec<u32> = (start as u32..end as u32).collect();
                assert_eq!(of(&list, start..end.max(start)), expected, "{start}..{end}");
            }
        }
        for len in [3 * CHUNK, 2 * CHUNK + 1, CHUNK, 3, 0] {
            list.truncate(len);
            list.truncate(len + 1);
            assert_eq!((list.len(), list.chunks.iter().map(Vec::len).sum::<usize>()), (len, len));
        }
        list.extend([7]);
        assert_eq!(of(&list, 0..1), [7]);
        assert!(of(&Chunked::default(), 0..0).is_empty());
    }

    #[test]
    fn a_changed_list_can_be_extended() {
        let mut list = Chunked::default();
        list.extend((0..CHUNK + 2).map(|n| n as u8));
        let mut list = list.map(|n| u16::from(n) + 3);
        list.extend([300]);
        assert_eq!(list.len(), CHUNK + 3);
        assert_eq!(
            list.range(0..2).chain(list.range(CHUNK - 1..CHUNK + 3)).collect::<Vec<_>>(),
            [3, 4, 258, 3, 4, 300]
        );
    }
}

//! Random streams: numbers that keep the random operations of a program independent of each other.

use crate::Name;
use std::collections::{BTreeMap, BTreeSet};

/// The random streams of a function.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    /// The number of random operations of each scope.
    counts: BTreeMap<String, u32>,
    taken: BTreeSet<u32>,
}

impl Streams {
    /// Returns an unused stream for the next random operation of `scope`. It depends only on the scope and on
    /// the number of its earlier random operations.
    pub(super) fn next(&mut self, scope: &str) -> u32 {
        let count = self.counts.entry(scope.to_owned()).or_default();
        loop {
            let stream = hash(&format!("{scope}#{count}"));
            *count += 1;
            if self.taken.insert(stream) {
                return stream;
            }
        }
    }
}

/// Returns a random stream for each name: a hash of the name, made unique in alphabetical order.
pub(super) fn streams(names: &[&Name]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|i| names[*i]);
    let mut taken = BTreeMap::new();
    for i in order {
        let mut stream = hash(names[i]);
        while taken.contains_key(&stream) {
            stream = stream.wrapping_add(0x9E37_79B9);
        }
        taken.insert(stream, i);
    }
    let mut streams = vec![0; names.len()];
    taken.into_iter().for_each(|(stream, i)| streams[i] = stream);
    streams
}

/// FNV-1a, 32 bits. It is stable across versions and platforms, unlike the hashes of the standard library.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

//! Random streams by name.

use crate::Name;
use std::collections::BTreeMap;

/// A random stream for each name: a hash of the name, made unique in the order of the names.
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

/// FNV-1a, 32 bits: stable across versions and platforms, unlike the hashes of the standard library.
pub(super) fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

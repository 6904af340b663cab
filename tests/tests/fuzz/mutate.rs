//! Damage to files, by number.

/// The files of an input: names and contents.
pub type Files = Vec<(String, Vec<u8>)>;

/// Random numbers that only depend on a seed.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995)
    }

    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Texts that replace a number or stand anywhere.
const TEXTS: &[&str] = &[
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2147483648",
    "9223372036854775807",
    "18446744073709551615",
    "1e999",
    "-0.0",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\0",
    "\u{1b}[31m",
    "\\n",
    "\\u{1b}[31m",
    "\u{ffff}",
    "../../etc/passwd",
    "\n",
    "=",
    "*",
    "1e-320",
    "0x",
    "..",
    "(((((((((((((((((((((((((((((((((((((",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

/// Damages one or a few places of the files of `seed`. `others` are seeds of the same kind.
pub fn files(seed: &Files, others: &[Files], rng: &mut Rng) -> Files {
    let mut files = seed.clone();
    for _ in 0..1 + rng.below(3) {
        let at = rng.below(files.len());
        if files.len() > 1 && rng.below(40) == 0 {
            files.remove(at);
            continue;
        }
        let other = &others[rng.below(others.len())];
        let other = &other[rng.below(other.len())].1;
        damage(&mut files[at].1, other, rng);
    }
    files
}

fn damage(bytes: &mut Vec<u8>, other: &[u8], rng: &mut Rng) {
    let (len, kind) = (bytes.len(), rng.below(10));
    let at = rng.below(len + 1);
    let end = (at + 1 + rng.below(24)).min(len);
    match kind {
        0 | 1 if at < len => bytes[at] ^= 1 << rng.below(8),
        2 if at < len => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at.min(end)..end)),
        5 => {
            let copy = bytes[at.min(end)..end].repeat(1 + rng.below(40));
            bytes.splice(at..at, copy);
        }
        6 => {
            let text = TEXTS[rng.below(TEXTS.len())];
            bytes.splice(at..at, text.bytes());
        }
        7 => number(bytes, at, TEXTS[rng.below(TEXTS.len())]),
        8 => {
            let from = rng.below(other.len() + 1);
            let part = other[from..(from + rng.below(200)).min(other.len())].to_vec();
            bytes.splice(at.min(end)..end, part);
        }
        9 => {
            // Eight bytes of a length or an offset.
            let value = [0, u64::MAX, 1 << 63, 1 << 32, i64::MAX as u64, 1 << 20][rng.below(6)];
            for (slot, byte) in bytes.iter_mut().skip(at).zip(value.to_le_bytes()) {
                *slot = byte;
            }
        }
        _ => bytes.clear(),
    }
}

/// Replaces the first number behind `at`.
fn number(bytes: &mut Vec<u8>, at: usize, by: &str) {
    let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|start| at + start) else { return };
    let end = bytes[start..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |end| start + end);
    bytes.splice(start..end, by.bytes());
}

//! The precompiled character map of a model: strings and what replaces them.
//!
//! The map is a 32-bit little-endian length, a double array of that many bytes in the format of the
//! Darts-clone library, and the replacements, each ended by a zero byte. A value in the array is the position
//! of a replacement.

/// A character map.
#[derive(Debug)]
pub(super) struct Charsmap {
    units: Vec<u32>,
    replacements: Vec<u8>,
    /// True for bytes below 128 that remain as they are if another such byte, or the end, follows.
    plain: [bool; 128],
}

/// The map refers to a replacement that it does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Damaged;

impl Charsmap {
    /// Decodes a map. `None` means that it is damaged.
    pub fn new(blob: &[u8]) -> Option<Self> {
        let (size, rest) = blob.split_first_chunk::<4>()?;
        let size = u32::from_le_bytes(*size) as usize;
        // The replacements are not empty, and the array has a root.
        if size < 4 || size >= rest.len() {
            return None;
        }
        let (array, replacements) = rest.split_at(size);
        let units = array.chunks_exact(4).map(|u| u32::from_le_bytes([u[0], u[1], u[2], u[3]])).collect();
        let mut map = Self { units, replacements: replacements.to_vec(), plain: [false; 128] };
        map.plain = std::array::from_fn(|byte| map.is_plain(byte as u8));
        Some(map)
    }

    /// True if the byte remains as it is before every byte below 128 and at the end.
    pub fn plain(&self, byte: u8) -> bool {
        self.plain.get(usize::from(byte)).copied().unwrap_or(false)
    }

    fn is_plain(&self, byte: u8) -> bool {
        match self.child(self.root(), byte) {
            None => true,
            Some((after, leaf)) => !leaf && (0..128).all(|next| self.child(after, next).is_none()),
        }
    }

    /// Returns the length of the longest key that `text` begins with, and its replacement.
    pub fn longest<'a>(&'a self, text: &[u8]) -> Result<Option<(usize, &'a [u8])>, Damaged> {
        let (mut base, mut found) = (self.root(), None);
        for (at, byte) in text.iter().enumerate() {
            let Some((after, leaf)) = self.child(base, *byte) else { break };
            if leaf {
                found = Some((at + 1, after));
            }
            base = after;
        }
        let Some((length, leaf)) = found else { return Ok(None) };
        let value = self.units.get(leaf as usize).ok_or(Damaged)? & (u32::MAX >> 1);
        let replacement = self.replacements.get(value as usize..).ok_or(Damaged)?;
        let end = replacement.iter().position(|b| *b == 0).unwrap_or(replacement.len());
        Ok(Some((length, &replacement[..end])))
    }

    fn root(&self) -> u32 {
        offset(self.units[0])
    }

    /// The base of the child of the state with this base, and true if a key ends there.
    fn child(&self, base: u32, byte: u8) -> Option<(u32, bool)> {
        let at = base ^ u32::from(byte);
        let unit = *self.units.get(at as usize)?;
        // The highest bit marks values, which are not children.
        (unit & (1 << 31 | 0xff) == u32::from(byte)).then(|| (at ^ offset(unit), unit >> 8 & 1 == 1))
    }
}

/// The distance of a unit's children, as in Darts-clone: bits 10 to 30, shifted by 8 if bit 9 is set.
fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & 1 << 9) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map with the key `b` that becomes `XY`, and the key `bc` that becomes nothing.
    fn small() -> Vec<u8> {
        let mut units = vec![u32::MAX >> 24 | 1 << 31; 512];
        // The root has its children at 256.
        units[0] = 256 << 10;
        let b = 256 ^ usize::from(b'b');
        // The children of `b` are at 4, its value is the one by byte 0, and it is a key.
        units[b] = u32::from(b'b') | 1 << 8 | ((b ^ 4) as u32) << 10;
        units[4] = 1 << 31;
        let c = 4 ^ usize::from(b'c');
        units[c] = u32::from(b'c') | 1 << 8 | ((c ^ 8) as u32) << 10;
        units[8] = 1 << 31 | 2;
        let array: Vec<u8> = units.iter().flat_map(|u| u.to_le_bytes()).collect();
        let size = (array.len() as u32).to_le_bytes();
        [size.as_slice(), &array, b"XY\0"].concat()
    }

    #[test]
    fn the_longest_key_is_replaced() {
        let map = Charsmap::new(&small()).unwrap();
        assert_eq!(map.longest(b"bd"), Ok(Some((1, &b"XY"[..]))));
        assert_eq!(map.longest(b"bcb"), Ok(Some((2, &b""[..]))));
        assert_eq!(
            (map.longest(b"ab"), map.longest(b""), map.longest(b"\0")),
            (Ok(None), Ok(None), Ok(None))
        );
        assert_eq!((map.plain(b'a'), map.plain(b'b'), map.plain(200)), (true, false, false));
    }

    #[test]
    fn damage_never_panics() {
        let good = small();
        for len in 0..good.len() {
            if let Some(map) = Charsmap::new(&good[..len]) {
                let _ = map.longest(b"bc");
            }
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut altered = good.clone();
                altered[at] ^= 1 << bit;
                if let Some(map) = Charsmap::new(&altered) {
                    let _ = (map.longest(b"bcb"), map.longest(b"abc"));
                }
            }
        }
        let mut far = good;
        far[4 + 4 * 4 + 2] = 1;
        assert_eq!(Charsmap::new(&far).unwrap().longest(b"b"), Err(Damaged));
    }
}

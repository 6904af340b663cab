//! Normalization as in SentencePiece: replaces characters, removes extra spaces, adds the dummy prefix or
//! suffix, and escapes spaces.

use super::{
    Conventions,
    charsmap::{Charsmap, Damaged},
    proto::NormalizerSpec,
    trie::Trie,
};

/// The character that stands for a space, U+2581.
pub(super) const SPACE: &[u8] = "\u{2581}".as_bytes();

/// A normalizer.
#[derive(Debug)]
pub(super) struct Normalizer {
    map: Option<Charsmap>,
    /// Strings that are not normalized.
    user_defined: Trie,
    dummy_prefix: bool,
    /// True if the dummy prefix follows the text.
    as_suffix: bool,
    remove_extra: bool,
    escape: bool,
    /// True for bytes below 128 that remain as they are if another such byte, or the end, follows. A space is
    /// none of them.
    plain: [bool; 128],
}

impl Normalizer {
    /// Creates the normalizer of a model. `user_defined` are strings that it leaves as they are; `as_suffix`
    /// is true if spaces follow words.
    ///
    /// # Errors
    /// If the character map is damaged.
    pub fn new(spec: &NormalizerSpec, user_defined: Trie, as_suffix: bool) -> Result<Self, Damaged> {
        let map = match spec.precompiled_charsmap.as_deref() {
            None | Some([]) => None,
            Some(blob) => Some(Charsmap::new(blob).ok_or(Damaged)?),
        };
        let plain = |byte: u8| {
            byte != b' '
                && user_defined.next(super::trie::ROOT, byte).is_none()
                && map.as_ref().is_none_or(|map| map.plain(byte))
        };
        Ok(Self {
            plain: std::array::from_fn(|byte| plain(byte as u8)),
            map,
            user_defined,
            dummy_prefix: spec.add_dummy_prefix.unwrap_or(true),
            as_suffix,
            remove_extra: spec.remove_extra_whitespaces.unwrap_or(true),
            escape: spec.escape_whitespaces.unwrap_or(true),
        })
    }

    /// Returns how spaces are treated.
    pub fn conventions(&self) -> Conventions {
        Conventions {
            dummy_prefix: self.dummy_prefix,
            space_after_word: self.as_suffix,
            removes_spaces: self.remove_extra,
            escapes_spaces: self.escape,
            ..Conventions::default()
        }
    }

    /// Returns the normalized text. It is UTF-8 unless the character map is odd.
    ///
    /// # Errors
    /// If the character map is damaged.
    pub fn normalize(&self, text: &str) -> Result<Vec<u8>, Damaged> {
        let mut rest = text.as_bytes();
        if self.remove_extra {
            while let (b" ", length @ 1..) = self.prefix(rest)? {
                rest = &rest[length..];
            }
        }
        let mut out = Vec::with_capacity(rest.len() + rest.len() / 2 + 8);
        if rest.is_empty() {
            return Ok(out);
        }
        if self.dummy_prefix && !self.as_suffix {
            out.extend_from_slice(self.space());
        }
        let mut after_space = self.remove_extra;
        while !rest.is_empty() {
            let plain = self.plain_bytes(rest);
            if plain > 0 {
                out.extend_from_slice(&rest[..plain]);
                rest = &rest[plain..];
                after_space = false;
                continue;
            }
            let (mut new, length) = self.prefix(rest)?;
            while after_space && let Some(less) = new.strip_prefix(b" ") {
                new = less;
            }
            if !new.is_empty() {
                self.append(new, &mut out);
                after_space = self.remove_extra && new.ends_with(b" ");
            }
            rest = &rest[length..];
        }
        if self.remove_extra {
            while out.ends_with(self.space()) {
                out.truncate(out.len() - self.space().len());
            }
        }
        if self.dummy_prefix && self.as_suffix {
            out.extend_from_slice(self.space());
        }
        Ok(out)
    }

    fn space(&self) -> &'static [u8] {
        if self.escape { SPACE } else { b" " }
    }

    fn append(&self, new: &[u8], out: &mut Vec<u8>) {
        if self.escape && new.contains(&b' ') {
            for byte in new {
                out.extend_from_slice(if *byte == b' ' { SPACE } else { std::slice::from_ref(byte) });
            }
        } else {
            out.extend_from_slice(new);
        }
    }

    /// The number of bytes at the start of `text` that remain as they are.
    fn plain_bytes(&self, text: &[u8]) -> usize {
        let plain = |byte: &u8| self.plain.get(usize::from(*byte)).copied().unwrap_or(false);
        let count = text.iter().position(|byte| !plain(byte)).unwrap_or(text.len());
        // Later bytes may combine with the last byte.
        if text.get(count).is_some_and(|next| *next >= 128) { count.saturating_sub(1) } else { count }
    }

    /// Returns the replacement of the start of `text`, and how many bytes it replaces: none if there is no
    /// text.
    fn prefix<'a>(&'a self, text: &'a [u8]) -> Result<(&'a [u8], usize), Damaged> {
        let Some(first) = text.first() else { return Ok((&[], 0)) };
        if let Some(length) = self.user_defined.longest(text) {
            return Ok((&text[..length], length));
        }
        if let Some(map) = &self.map
            && let Some((length, new)) = map.longest(text)?
        {
            return Ok((new, length));
        }
        // The text is UTF-8, but a key may end within a character.
        match std::str::from_utf8(&text[..text.len().min(char_len(*first))]) {
            Ok(_) => Ok((&text[..char_len(*first)], char_len(*first))),
            Err(_) => Ok(("\u{fffd}".as_bytes(), 1)),
        }
    }
}

/// The length of a UTF-8 character by its first byte, as SentencePiece computes it.
#[inline]
pub(super) fn char_len(first: u8) -> usize {
    match first {
        0..=0xbf => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xff => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: &NormalizerSpec, as_suffix: bool, cases: &[(&str, &str)]) {
        let user_defined = Trie::new(vec![(b"  ", 0), (b"<x>", 1)]);
        let normalizer = Normalizer::new(spec, user_defined, as_suffix).unwrap();
        for (text, expected) in cases {
            let new = String::from_utf8(normalizer.normalize(text).unwrap()).unwrap();
            assert_eq!(&new.replace('\u{2581}', "_"), expected, "{text:?}");
        }
    }

    #[test]
    fn spaces_by_every_option() {
        let spec = NormalizerSpec::default();
        check(
            &spec,
            false,
            &[("", ""), (" ", ""), (" a b ", "_a_b"), ("a\n", "_a\n"), ("\u{e9}", "_\u{e9}")],
        );
        // Two spaces are user-defined here, and not removed as a space at the start.
        check(&spec, false, &[("  a", "_a"), ("a  b", "_a__b"), ("<x> <x>", "_<x>_<x>")]);
        check(&spec, true, &[("a b", "a_b_"), (" ", "")]);
        let all = NormalizerSpec { remove_extra_whitespaces: Some(false), ..spec.clone() };
        check(&all, false, &[("", ""), (" ", "__"), (" a  b ", "__a__b_")]);
        let bare = NormalizerSpec { add_dummy_prefix: Some(false), ..spec.clone() };
        check(&bare, false, &[(" a b ", "a_b")]);
        let raw = NormalizerSpec { escape_whitespaces: Some(false), ..spec };
        check(&raw, false, &[(" a b ", " a b")]);
    }
}

//! Text of SentencePiece tokens.

use super::{
    normalizer::{Normalizer, SPACE},
    proto::Kind,
};

/// The contribution of a token to the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Surface {
    /// Text, in which U+2581 is a space.
    Piece(Box<[u8]>),
    /// One byte of a character.
    Byte(u8),
    /// The unknown piece.
    Unknown,
    /// A control piece, which has no text.
    Nothing,
}

/// A decoder.
#[derive(Debug)]
pub(super) struct Decoder {
    pub surfaces: Vec<Surface>,
    /// The text of the unknown piece.
    pub unknown: Vec<u8>,
    /// True if the model adds a dummy prefix.
    pub dummy_prefix: bool,
    /// True if the model removes extra spaces.
    pub remove_extra: bool,
    /// Applied to the whole text.
    pub denormalizer: Option<Normalizer>,
}

/// The text of an unknown piece if the model names no other.
pub(super) const UNKNOWN_TEXT: &str = " \u{2047} ";

impl Surface {
    /// Returns the surface of a piece. `None` means that it should be a byte and is not.
    pub fn new(kind: Kind, piece: &str) -> Option<Self> {
        Some(match kind {
            Kind::Normal | Kind::UserDefined | Kind::Unused => Self::Piece(piece.as_bytes().into()),
            Kind::Unknown => Self::Unknown,
            Kind::Control => Self::Nothing,
            Kind::Byte => Self::Byte(byte(piece)?),
        })
    }
}

/// The byte of a piece such as `<0x0A>`.
pub(super) fn byte(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let value = u8::from_str_radix(digits, 16).ok()?;
    (piece == format!("<0x{value:02X}>")).then_some(value)
}

impl Decoder {
    /// Returns the text of tokens. Tokens that the model does not have are skipped. `None` means that the
    /// map of the denormalizer is damaged.
    pub fn decode(&self, tokens: impl Iterator<Item = u32>) -> Option<String> {
        let (mut text, mut bytes) = (Vec::new(), Vec::new());
        // True while the space of a dummy prefix may follow.
        let mut expected = self.dummy_prefix || self.remove_extra;
        for surface in tokens.filter_map(|token| self.surfaces.get(token as usize)) {
            if let Surface::Byte(byte) = surface {
                bytes.push(*byte);
                continue;
            }
            characters(&std::mem::take(&mut bytes), &mut text);
            expected &= text.is_empty();
            match surface {
                Surface::Byte(_) | Surface::Nothing => {}
                Surface::Unknown => text.extend_from_slice(&self.unknown),
                Surface::Piece(piece) => match piece.strip_prefix(SPACE) {
                    Some(rest) if expected => {
                        // Every space at the start is an extra one if extra spaces are removed.
                        expected = self.remove_extra;
                        spaced(rest, &mut text);
                    }
                    Some(_) | None => spaced(piece, &mut text),
                },
            }
        }
        characters(&bytes, &mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        let Some(denormalizer) = &self.denormalizer else { return Some(text) };
        let text = denormalizer.normalize(&text).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}

/// Appends a piece, with spaces for U+2581.
fn spaced(mut piece: &[u8], text: &mut Vec<u8>) {
    while let Some((first, rest)) = piece.split_first() {
        match piece.strip_prefix(SPACE) {
            Some(rest) => {
                text.push(b' ');
                piece = rest;
            }
            None => {
                text.push(*first);
                piece = rest;
            }
        }
    }
}

/// Appends the characters of bytes. Each byte that is in no character becomes a replacement character.
fn characters(mut bytes: &[u8], text: &mut Vec<u8>) {
    while let Some((_, rest)) = bytes.split_first() {
        let whole = match std::str::from_utf8(bytes) {
            Ok(all) => all.len(),
            Err(error) => error.valid_up_to(),
        };
        text.extend_from_slice(&bytes[..whole]);
        bytes = &bytes[whole..];
        if whole == 0 {
            text.extend_from_slice("\u{fffd}".as_bytes());
            bytes = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_spaces() {
        let piece = |text: &str| Surface::Piece(text.as_bytes().into());
        let surfaces = vec![
            Surface::Unknown,
            Surface::Nothing,
            piece("\u{2581}a"),
            piece("\u{2581}"),
            Surface::Byte(0xc3),
            Surface::Byte(0xa9),
            piece("b\u{2581}c"),
        ];
        let mut decoder = Decoder {
            surfaces,
            unknown: UNKNOWN_TEXT.into(),
            dummy_prefix: true,
            remove_extra: true,
            denormalizer: None,
        };
        let check = |decoder: &Decoder, tokens: &[u32], expected: &str| {
            assert_eq!(decoder.decode(tokens.iter().copied()).unwrap(), expected, "{tokens:?}");
        };
        check(&decoder, &[2, 2, 99], "a a");
        check(&decoder, &[1, 3, 3, 2], "a");
        check(&decoder, &[0, 2], " \u{2047}  a");
        check(&decoder, &[4, 5, 6], "\u{e9}b c");
        check(&decoder, &[4, 4, 2, 5], "\u{fffd}\u{fffd} a\u{fffd}");
        decoder.remove_extra = false;
        check(&decoder, &[3, 3, 2], "  a");
        decoder.dummy_prefix = false;
        check(&decoder, &[3, 2], "  a");
    }

    #[test]
    fn names_of_bytes() {
        assert_eq!((byte("<0x0A>"), byte("<0xFF>")), (Some(10), Some(255)));
        for other in ["<0x0a>", "<0xA>", "<0x+A>", "a", "<0x100>"] {
            assert_eq!(byte(other), None, "{other}");
        }
    }
}

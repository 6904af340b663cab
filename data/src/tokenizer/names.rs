//! Names of tokens, for tables and charts.

use super::{DOCUMENT_END, Tokenizer, UNKNOWN, file};
use crate::Result;

impl Tokenizer {
    /// Returns the name of each of `vocab` tokens: its piece as the tokenizer's file has it, or its byte. A
    /// token without one has its number.
    ///
    /// # Errors
    /// If the tokenizer's file cannot be read again.
    pub fn names(&self, vocab: usize) -> Result<Vec<String>> {
        let mut names: Vec<String> = (0..vocab).map(|token| format!("#{token}")).collect();
        let reserved = [(0, "<pad>"), (DOCUMENT_END, "<end>"), (UNKNOWN, "<unk>")];
        let reserved = reserved.map(|(token, name)| (token, name.to_owned()));
        let own = match self {
            Self::Bytes => (0..=255u8).map(|byte| (3 + i32::from(byte), of_byte(byte))).collect(),
            Self::Pieces(pieces) => match pieces.file() {
                Some(contents) => file::names(&contents, pieces.name())?,
                None => Vec::new(),
            },
        };
        for (token, name) in reserved.into_iter().chain(own) {
            if let Some(slot) = usize::try_from(token).ok().and_then(|token| names.get_mut(token)) {
                *slot = name;
            }
        }
        Ok(names)
    }
}

fn of_byte(byte: u8) -> String {
    match byte {
        b' ' => "␣".to_owned(),
        b'\n' => "\\n".to_owned(),
        33..=126 => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::words;

    #[test]
    fn bytes_and_reserved_tokens_have_names() {
        let names = Tokenizer::Bytes.names(262).unwrap();
        let some = [0, 1, 2, 3 + 10, 3 + 32, 3 + 65, 258, 261].map(|token| names[token].as_str());
        assert_eq!(some, ["<pad>", "<end>", "<unk>", "\\n", "␣", "A", "\\xff", "#261"]);
        assert_eq!(words(20, &[]).names(4).unwrap()[3], "#3", "a tokenizer without a file");
    }
}

//! Tokenizers read from files: any `tokenizer.json`, and SentencePiece unigram models such as T5's.

use super::{FIRST_BYTE, Pieces, UNKNOWN, loaded::Loaded, sentencepiece};
use crate::{Error, Result};
use std::{
    collections::{BTreeSet, HashMap},
    fmt, fs,
    path::Path,
    sync::Arc,
};
use tokenizers::Tokenizer;

/// A tokenizer read from a file.
pub struct FileTokenizer {
    inner: Tokenizer,
    name: String,
    digest: String,
    /// The offset added to the file's token ids.
    offset: i32,
    tokens: usize,
    sentinels: Vec<i32>,
    /// Ids of special tokens in the file. No text becomes one of them.
    special: BTreeSet<u32>,
    /// The token for text that is the name of a special token.
    unknown: i32,
}

/// The number of reserved tokens: padding, the end, and the unknown token.
const TAKEN: i32 = FIRST_BYTE;

/// Reads a tokenizer: a `tokenizer.json`, or a SentencePiece model.
///
/// If the first two tokens are padding and an end token, as in T5, ids are unchanged. Otherwise ids are
/// increased by three, to make room for the reserved tokens.
///
/// # Errors
/// If the file cannot be read or is not a supported tokenizer.
pub fn open(path: &Path) -> Result<Arc<FileTokenizer>> {
    let bytes = fs::read(path).map_err(Error::io("reading the tokenizer", path))?;
    let refused = |why: String| {
        Error::input(
            format!("tokenizer `{}` cannot be used: {why}", path.display()),
            "a tokenizer is `bytes`, a `tokenizer.json`, or a SentencePiece unigram model (spiece.model)",
        )
    };
    let is_json = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    let loaded = if is_json { json(&bytes) } else { sentencepiece::tokenizer(&bytes) };
    let Loaded { tokenizer: mut inner, names, special } = loaded.map_err(refused)?;
    // Truncation and padding are disabled, and `</s>` in a text is ordinary text.
    inner.with_padding(None);
    inner.with_truncation(None).map_err(|error| refused(error.to_string()))?;
    inner.set_encode_special_tokens(true);
    let size = names.values().max().map_or(0, |last| *last as usize + 1);
    if size < 2 || i32::try_from(size).is_err() {
        return Err(refused(format!("it has {size} tokens")));
    }
    let offset = if keeps_numbers(&names) { 0 } else { TAKEN };
    let own = |name: &str| names.get(name).map(|id| *id as i32 + offset);
    let unknown = ["<unk>", "[UNK]", "<|unk|>"].into_iter().find_map(own).unwrap_or(UNKNOWN);
    let sentinel = |span: usize| own(&format!("<extra_id_{span}>"));
    let sentinels = (0..).map_while(sentinel).collect();
    Ok(Arc::new(FileTokenizer {
        name: path.display().to_string(),
        digest: format!("blake3:{}", blake3::hash(&bytes).to_hex()),
        offset,
        tokens: size + offset as usize,
        sentinels,
        special,
        unknown,
        inner,
    }))
}

fn json(bytes: &[u8]) -> std::result::Result<Loaded, String> {
    let tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
    let names = tokenizer.get_vocab(true);
    let added = tokenizer.get_added_tokens_decoder();
    let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
    Ok(Loaded { names, special, tokenizer })
}

/// True if token 0 is padding and token 1 an end token, by their usual names.
fn keeps_numbers(names: &HashMap<String, u32>) -> bool {
    let is = |id: u32, usual: &[&str]| {
        names.iter().any(|(name, at)| *at == id && usual.contains(&name.to_ascii_lowercase().as_str()))
    };
    is(0, &["<pad>", "[pad]", "<|pad|>", "<|padding|>"])
        && is(1, &["</s>", "<eos>", "[eos]", "<|eos|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"])
}

impl FileTokenizer {
    /// The offset added to the file's token ids, to make room for reserved tokens.
    pub fn offset(&self) -> i32 {
        self.offset
    }

    fn failed(&self, error: &dyn fmt::Display) -> Error {
        Error::input(
            format!("tokenizer `{}`: {error}", self.name),
            "the file may need a newer version of the tokenizer format",
        )
    }
}

impl Pieces for FileTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<i32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| self.failed(&*error))?;
        // Ids fit: `open` checked their range.
        let number =
            |id: &u32| if self.special.contains(id) { self.unknown } else { *id as i32 + self.offset };
        Ok(encoding.get_ids().iter().map(number).collect())
    }
    fn decode(&self, tokens: &[i32]) -> Result<String> {
        // Skips reserved and special tokens.
        let own = tokens.iter().filter_map(|token| u32::try_from(token - self.offset).ok());
        let own: Vec<u32> = own.filter(|id| !self.special.contains(id)).collect();
        self.inner.decode(&own, true).map_err(|error| self.failed(&*error))
    }
    fn tokens(&self) -> usize {
        self.tokens
    }
    fn sentinels(&self) -> &[i32] {
        &self.sentinels
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn digest(&self) -> &str {
        &self.digest
    }
}

impl fmt::Debug for FileTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("FileTokenizer");
        out.field("name", &self.name).field("tokens", &self.tokens).field("offset", &self.offset).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokenizer as AnyTokenizer;
    use serde_json::{Value, json};

    /// A word-level tokenizer with these words.
    fn words(vocab: &[&str], special: &[&str]) -> Value {
        let vocab: serde_json::Map<String, Value> =
            vocab.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
        let added: Vec<Value> = special
            .iter()
            .map(|token| {
                json!({ "id": vocab[*token], "content": token, "single_word": false, "lstrip": false,
                        "rstrip": false, "normalized": false, "special": true })
            })
            .collect();
        json!({
            "version": "1.0", "truncation": { "max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
            "padding": { "strategy": { "Fixed": 9 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                         "pad_type_id": 0, "pad_token": "<pad>" },
            "added_tokens": added, "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
            "post_processor": null, "decoder": null,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" }
        })
    }

    fn opened(content: impl AsRef<[u8]>) -> Result<Arc<FileTokenizer>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokenizer.json");
        fs::write(&path, content).unwrap();
        open(&path)
    }

    #[test]
    fn a_tokenizer_like_t5s_has_unchanged_ids_and_its_sentinels() {
        let special = ["<pad>", "</s>", "<unk>", "<extra_id_1>", "<extra_id_0>"];
        let vocab = ["<pad>", "</s>", "<unk>", "to", "be", "<extra_id_1>", "<extra_id_0>"];
        let tokenizer = opened(words(&vocab, &special).to_string()).unwrap();
        assert_eq!((tokenizer.tokens(), tokenizer.offset(), tokenizer.sentinels()), (7, 0, &[6, 5][..]));
        assert_eq!(tokenizer.encode("to be or to").unwrap(), [3, 4, 2, 3]);
        // Names of special tokens in a text are text, and unknown here.
        assert_eq!(tokenizer.encode("to </s> <extra_id_0> be <pad>").unwrap(), [3, 2, 2, 4, 2]);
        assert_eq!(tokenizer.decode(&[3, 4, 1, 0, 6, 31]).unwrap(), "to be");
        let all = AnyTokenizer::Pieces(tokenizer);
        assert_eq!(all.sentinels(7, 2).unwrap(), [6, 5]);
        assert_eq!(all.sentinels(16, 3).unwrap(), [15, 14, 13]);
        assert!(all.sentinels(6, 1).unwrap_err().to_string().contains("of 7"));
        assert!(all.identity().starts_with("blake3:"));
    }

    #[test]
    fn ids_are_increased_if_the_first_tokens_are_not_reserved() {
        let tokenizer = opened(words(&["be", "to", "<unk>"], &["<unk>"]).to_string()).unwrap();
        assert_eq!((tokenizer.tokens(), tokenizer.offset()), (6, 3));
        assert_eq!(tokenizer.encode("to be or").unwrap(), [4, 3, 5]);
        assert_eq!(tokenizer.decode(&[4, 3, 1, 0]).unwrap(), "to be");
    }

    #[test]
    fn other_files_are_errors() {
        let fails = |content: &[u8], parts: &[&str]| {
            let error = opened(content).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        fails(b"{\"version\": \"1.0\"", &["tokenizer.json` cannot be used", "spiece.model"]);
        fails(b"{}", &["tokenizer.json` cannot be used"]);
        fails(b"", &["cannot be used", "no pieces"]);
        fails(b"some text", &["cannot be used"]);
        fails(words(&["a"], &[]).to_string().as_bytes(), &["it has 1 tokens"]);
        assert!(open(Path::new("/nowhere.json")).unwrap_err().to_string().contains("reading the tokenizer"));
    }
}

//! Tokenizers read from files: any `tokenizer.json`, and SentencePiece models such as T5's.

use super::{
    FIRST_BYTE, Pieces, UNKNOWN,
    json::Json,
    sentencepiece::{self, Conventions, Division, SentencePiece},
};
use crate::{Error, Result, caught::caught};
use proto::regular;
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::Path,
    sync::Arc,
};

/// A tokenizer read from a file.
pub struct FileTokenizer {
    engine: Engine,
    name: String,
    digest: String,
    contents: Arc<[u8]>,
    /// The offset added to the file's token ids.
    offset: i32,
    /// True if its first tokens are special ones other than padding and the end: see [`with_file_numbers`].
    has_file_numbers: bool,
    tokens: usize,
    sentinels: Vec<i32>,
    /// Ids of special tokens in the file. No text becomes one of them.
    special: BTreeSet<u32>,
    /// The token for text that is the name of a special token.
    unknown: i32,
}

/// The code that a tokenizer runs on.
enum Engine {
    /// A `tokenizer.json`.
    Json(Box<Json>),
    /// A SentencePiece model.
    SentencePiece(Box<SentencePiece>),
}

/// The contents of a tokenizer file.
struct Loaded {
    engine: Engine,
    names: HashMap<String, u32>,
    special: BTreeSet<u32>,
    /// The token for text that has no other. `None` means that its name tells.
    unknown: Option<u32>,
}

/// Begins the contents of a tokenizer whose ids are those of its file.
const FILE_NUMBERS: &[u8] = b"#mesh: token ids of the file\n";

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
    let bytes = regular::read(path).map_err(Error::io("reading the tokenizer", path))?;
    parse(bytes.into(), &path.display().to_string())
}

/// Returns the contents of a tokenizer whose ids are those of `file`, although its first tokens are not
/// padding and an end token. A model with them has its own start and end tokens, and no sentinels. The tokens
/// 0 and 1 must be special ones, which no text becomes.
pub fn with_file_numbers(file: &[u8]) -> Vec<u8> {
    [FILE_NUMBERS, file].concat()
}

/// Returns the contents of the tokenizer's file, without the mark of [`with_file_numbers`].
pub fn file_contents(contents: &[u8]) -> &[u8] {
    contents.strip_prefix(FILE_NUMBERS).unwrap_or(contents)
}

/// Reads a tokenizer from the contents of its file, as [`open`] does, or from those of [`with_file_numbers`].
/// `name` is for messages.
///
/// # Errors
/// If it is not a supported tokenizer.
pub fn parse(bytes: Arc<[u8]>, name: &str) -> Result<Arc<FileTokenizer>> {
    let refused = |why: String| {
        Error::input(
            format!("tokenizer `{name}` cannot be used: {why}"),
            "a tokenizer is `bytes`, a `tokenizer.json`, or a SentencePiece model (spiece.model)",
        )
    };
    let file = file_contents(&bytes);
    let has_file_numbers = file.len() < bytes.len();
    let Loaded { engine, names, special, unknown } = loaded(file).map_err(refused)?;
    let size = names.values().max().map_or(0, |last| *last as usize + 1);
    if !(2..=MAX_TOKENS).contains(&size) {
        return Err(refused(format!("it has {size} tokens")));
    }
    let offset = if has_file_numbers || keeps_numbers(&names) { 0 } else { TAKEN };
    if let Some(text) = [0, 1].into_iter().find(|id| has_file_numbers && !special.contains(id)) {
        return Err(refused(format!("its token {text} is no special token, and no text may become it")));
    }
    let own = |name: &str| names.get(name).map(|id| *id as i32 + offset);
    let unknown = match unknown {
        Some(id) => id as i32 + offset,
        None => ["<unk>", "[UNK]", "<|unk|>"].into_iter().find_map(own).unwrap_or(UNKNOWN),
    };
    // Some SentencePiece models, such as mT5's, have them as pieces that begin with the sign for a space.
    let sentinel = |span: usize| {
        let name = format!("<extra_id_{span}>");
        own(&name).or_else(|| own(&format!("\u{2581}{name}")))
    };
    let sentinels = if has_file_numbers { Vec::new() } else { (0..).map_while(sentinel).collect() };
    Ok(Arc::new(FileTokenizer {
        name: name.to_owned(),
        digest: format!("blake3:{}", blake3::hash(&bytes).to_hex()),
        contents: bytes,
        offset,
        has_file_numbers,
        tokens: size + offset as usize,
        sentinels,
        special,
        unknown,
        engine,
    }))
}

/// Returns the tokens with their pieces, as the file of an opened tokenizer has them.
///
/// # Errors
/// If it is not a supported tokenizer.
pub(super) fn names(bytes: &[u8], name: &str) -> Result<Vec<(i32, String)>> {
    let file = file_contents(bytes);
    let Loaded { names, .. } = loaded(file).map_err(|why| {
        Error::input(format!("tokenizer `{name}` cannot be used: {why}"), "name the model's tokenizer")
    })?;
    let offset = if file.len() < bytes.len() || keeps_numbers(&names) { 0 } else { TAKEN };
    Ok(names.into_iter().map(|(piece, id)| (id as i32 + offset, piece)).collect())
}

fn loaded(bytes: &[u8]) -> std::result::Result<Loaded, String> {
    let is_json = bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    if is_json { json(bytes) } else { sentencepiece(bytes) }
}

/// The largest number of tokens. Token ids are far from the limits of 32 bits.
const MAX_TOKENS: usize = 1 << 30;

fn json(bytes: &[u8]) -> std::result::Result<Loaded, String> {
    let json = Json::new(bytes)?;
    let tokenizer = json.tokenizer();
    let names = tokenizer.get_vocab(true);
    let added = tokenizer.get_added_tokens_decoder();
    let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
    Ok(Loaded { names, special, unknown: None, engine: Engine::Json(Box::new(json)) })
}

fn sentencepiece(bytes: &[u8]) -> std::result::Result<Loaded, String> {
    let sentencepiece::Opened { model, names, control, unknown } = sentencepiece::open(bytes)?;
    let engine = Engine::SentencePiece(Box::new(model));
    Ok(Loaded { engine, names, special: control, unknown })
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

    /// Returns the token for text that has no other.
    pub fn unknown(&self) -> i32 {
        self.unknown
    }

    /// Returns the tokens that the tokenizer's file adds before and after a text. None for a SentencePiece
    /// model.
    ///
    /// # Errors
    /// If the library for `tokenizer.json` fails.
    pub fn added(&self) -> Result<[Vec<i32>; 2]> {
        let Engine::Json(json) = &self.engine else { return Ok([Vec::new(), Vec::new()]) };
        let encoded = |with: bool| {
            let encoding = caught(|| json.tokenizer().encode_fast("a", with)).ok_or_else(|| self.broken())?;
            let ids = encoding.map_err(|error| self.failed(&*error))?.get_ids().to_vec();
            Ok::<_, Error>(ids.into_iter().map(|id| id as i32 + self.offset).collect::<Vec<i32>>())
        };
        let (plain, all) = (encoded(false)?, encoded(true)?);
        let at = all.windows(plain.len().max(1)).position(|part| part == plain).unwrap_or(0);
        Ok([all[..at].to_vec(), all[(at + plain.len()).min(all.len())..].to_vec()])
    }

    /// Returns how a SentencePiece model treats spaces and characters without a piece. `None` means a
    /// `tokenizer.json`.
    pub fn conventions(&self) -> Option<Conventions> {
        match &self.engine {
            Engine::Json(_) => None,
            Engine::SentencePiece(model) => Some(model.conventions()),
        }
    }

    /// Returns the way in which a SentencePiece model divides text. `None` means a `tokenizer.json`.
    pub fn division(&self) -> Option<Division> {
        match &self.engine {
            Engine::Json(_) => None,
            Engine::SentencePiece(model) => Some(model.division()),
        }
    }

    fn failed(&self, error: &dyn fmt::Display) -> Error {
        Error::input(
            format!("tokenizer `{}`: {error}", self.name),
            "the file may be damaged, or need a newer version of the tokenizer format",
        )
    }

    /// The reason of a failure in the library for `tokenizer.json`, which panics on some files.
    fn broken(&self) -> Error {
        self.failed(&"the library that runs it fails on this text")
    }
}

impl Pieces for FileTokenizer {
    fn is_renumbered(&self) -> bool {
        self.offset != 0
    }
    fn has_file_numbers(&self) -> bool {
        self.has_file_numbers
    }
    fn first_text_token(&self) -> i32 {
        match self.has_file_numbers {
            true => (0..).find(|id| !self.special.contains(id)).map_or(UNKNOWN, |id| id as i32),
            false => UNKNOWN,
        }
    }
    fn encode(&self, text: &str) -> Result<Vec<i32>> {
        let ids = match &self.engine {
            Engine::SentencePiece(model) => model.encode(text).map_err(|error| self.failed(&error))?,
            Engine::Json(json) => json.encode(text).map_err(|error| match error {
                Some(error) => self.failed(&error),
                None => self.broken(),
            })?,
        };
        // Ids fit: `open` checked their range.
        if self.has_file_numbers
            && let Some(id) = ids.iter().find(|id| self.special.contains(id))
        {
            return Err(Error::input(
                format!("tokenizer `{}` makes the special token {id} of the text `{text}`", self.name),
                "it has no tokens for some character of the text: remove the character",
            ));
        }
        let number =
            |id: u32| if self.special.contains(&id) { self.unknown } else { id as i32 + self.offset };
        Ok(ids.into_iter().map(number).collect())
    }
    fn decode(&self, tokens: &[i32]) -> Result<String> {
        // Skips reserved and special tokens.
        let own = tokens.iter().filter_map(|token| u32::try_from(token - self.offset).ok());
        let own = own.filter(|id| !self.special.contains(id));
        match &self.engine {
            Engine::SentencePiece(model) => model.decode(own).map_err(|error| self.failed(&error)),
            Engine::Json(json) => {
                let own: Vec<u32> = own.collect();
                let text = caught(|| json.tokenizer().decode(&own, true)).ok_or_else(|| self.broken())?;
                text.map_err(|error| self.failed(&*error))
            }
        }
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
    fn file(&self) -> Option<Arc<[u8]>> {
        Some(self.contents.clone())
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
    use crate::{Codec, SpecialTokens, Tokenizer as AnyTokenizer};
    use serde_json::{Value, json};
    use std::fs;

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
        let names = AnyTokenizer::Pieces(tokenizer.clone()).names(8).unwrap();
        assert_eq!(names[..5], vocab[..5]);
        assert_eq!(names[7], "#7");
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
        // A program with another end token has the numbers of the file.
        let codec = |eos| {
            let special = SpecialTokens { pad: 0, eos, sentinels: None };
            Codec::new(16, AnyTokenizer::Pieces(tokenizer.clone()), special)
        };
        assert!(codec(1).is_ok());
        assert!(codec(2).unwrap_err().to_string().contains("ends sequences with token 2"));
    }

    #[test]
    fn other_files_are_errors() {
        let fails = |content: &[u8], parts: &[&str]| {
            let error = opened(content).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        };
        fails(b"{\"version\": \"1.0\"", &["tokenizer.json` cannot be used", "spiece.model"]);
        fails(b"{}", &["tokenizer.json` cannot be used"]);
        // The library panics here.
        fails(b"{\"decoder\":{\"type\":", &["tokenizer.json` cannot be used", "damaged or cut off"]);
        fails(b"", &["cannot be used", "no pieces"]);
        fails(b"some text", &["cannot be used"]);
        fails(words(&["a"], &[]).to_string().as_bytes(), &["it has 1 tokens"]);
        assert!(open(Path::new("/nowhere.json")).unwrap_err().to_string().contains("reading the tokenizer"));
    }
}

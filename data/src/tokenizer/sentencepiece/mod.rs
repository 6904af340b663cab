//! SentencePiece models, with the tokens and the text that the SentencePiece library gives.
//!
//! Reading order: `proto` (the file), `charsmap` and `normalizer` (from a text to the text that is divided
//! into pieces), `trie`, `unigram` and `bpe` (pieces), `decoder` (back to text); the model is here. Rounding
//! and the order of equal scores are those of version 0.2.3 of the library.

mod bpe;
mod charsmap;
mod decoder;
mod normalizer;
mod proto;
mod trie;
mod unigram;

use bpe::Bpe;
use decoder::{Decoder, Surface};
use normalizer::{Normalizer, SPACE, char_len};
use prost::Message;
use proto::{Kind, ModelProto, ModelType, NormalizerSpec, SentencePiece as Entry, TrainerSpec};
use std::collections::{BTreeSet, HashMap};
use trie::Trie;
use unigram::Unigram;

/// A model that encodes and decodes.
#[derive(Debug)]
pub(super) struct SentencePiece {
    normalizer: Normalizer,
    /// Normal and user-defined pieces.
    pieces: Trie,
    user_defined: Trie,
    algorithm: Algorithm,
    /// The unknown piece. A model with byte fallback may have none.
    unknown: Option<u32>,
    /// [`Conventions::names_unknown`].
    names_unknown: bool,
    /// The tokens of the 256 bytes, for unknown characters.
    bytes: Option<Box<[u32; 256]>>,
    decoder: Decoder,
}

/// The division of a normalized text into pieces.
#[derive(Debug)]
enum Algorithm {
    Unigram(Unigram),
    Bpe(Bpe),
    /// At spaces.
    Words,
    /// Into characters and user-defined pieces.
    Characters,
}

/// The way in which a SentencePiece model divides text into pieces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Division {
    /// Into the most likely pieces.
    Unigram,
    /// Neighbours merge into the piece with the highest score.
    Bpe {
        /// True if words are independent: no piece has a space behind another character, and none is unused.
        by_word: bool,
    },
    /// At spaces.
    Words,
    /// Into characters.
    Characters,
}

/// The way in which a SentencePiece model treats spaces, and characters that have no piece. T5's models have
/// the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Conventions {
    /// True if a space is added before the first word.
    pub dummy_prefix: bool,
    /// True if the space of a word follows it.
    pub space_after_word: bool,
    /// True if spaces at both ends, and all but one between words, are removed.
    pub removes_spaces: bool,
    /// True if pieces have U+2581 in place of a space.
    pub escapes_spaces: bool,
    /// True if a character without a piece becomes the pieces of its bytes.
    pub byte_fallback: bool,
    /// True if the options of training name the unknown piece: a unigram model by its token, another model by
    /// its name. SentencePiece uses the kind of the piece, and other libraries these options.
    pub names_unknown: bool,
}

impl Default for Conventions {
    fn default() -> Self {
        Self {
            dummy_prefix: true,
            space_after_word: false,
            removes_spaces: true,
            escapes_spaces: true,
            byte_fallback: false,
            names_unknown: true,
        }
    }
}

/// A model, and what its pieces are.
pub(super) struct Opened {
    pub model: SentencePiece,
    /// The token of every piece by its name.
    pub names: HashMap<String, u32>,
    /// Control pieces.
    pub control: BTreeSet<u32>,
    pub unknown: Option<u32>,
}

/// Reads a model file. The error is the reason why the file cannot be used.
pub(super) fn open(bytes: &[u8]) -> Result<Opened, String> {
    let file =
        ModelProto::decode(bytes).map_err(|error| format!("it is not a SentencePiece model ({error})"))?;
    let pieces = Vocabulary::new(&file)?;
    Ok(Opened {
        model: SentencePiece::new(&file, &pieces)?,
        names: pieces.list.iter().map(|p| (p.name.to_owned(), p.token)).collect(),
        control: pieces.of(&[Kind::Control]).map(|p| p.token).collect(),
        unknown: pieces.unknown,
    })
}

/// The pieces of a model, checked as the library checks them.
struct Vocabulary<'a> {
    list: Vec<Piece<'a>>,
    unknown: Option<u32>,
    fallback: bool,
}

#[derive(Clone, Copy)]
struct Piece<'a> {
    name: &'a str,
    score: f32,
    kind: Kind,
    token: u32,
}

impl Piece<'_> {
    /// True for the kinds that text can have. Names of other pieces may be the same.
    fn is_text(&self) -> bool {
        match self.kind {
            Kind::Normal | Kind::UserDefined | Kind::Unused => true,
            Kind::Unknown | Kind::Control | Kind::Byte => false,
        }
    }
}

impl<'a> Vocabulary<'a> {
    fn new(file: &'a ModelProto) -> Result<Self, String> {
        if file.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        let trainer = file.trainer_spec.as_ref();
        let fallback = trainer.and_then(|trainer| trainer.byte_fallback).unwrap_or(false);
        let mut all = Self { list: Vec::with_capacity(file.pieces.len()), unknown: None, fallback };
        let mut seen: HashMap<(&str, bool), u32> = HashMap::new();
        for (token, piece) in (0u32..).zip(&file.pieces) {
            let piece = all.piece(token, piece)?;
            if let Some(other) = seen.insert((piece.name, piece.is_text()), token) {
                return Err(format!("its pieces {other} and {token} have the same name {:?}", piece.name));
            }
            if piece.kind == Kind::Unknown && all.unknown.replace(token).is_some() {
                return Err("it has two unknown pieces".into());
            }
            all.list.push(piece);
        }
        if all.unknown.is_none() && !fallback {
            return Err("it has no unknown piece".into());
        }
        Ok(all)
    }

    fn piece(&self, token: u32, piece: &'a Entry) -> Result<Piece<'a>, String> {
        let (name, score) = (piece.piece.as_str(), piece.score);
        let number = piece.kind.unwrap_or(Kind::Normal as i32);
        let kind = Kind::try_from(number);
        let kind = kind.map_err(|_| format!("its piece {token} has the unknown kind {number}"))?;
        if !score.is_finite() {
            return Err(format!("its piece {name:?} has the score {score}"));
        }
        // Some converters add a zero byte to models that have it as `<0x00>`.
        if name == "\0" && self.fallback {
            return Ok(Piece { name, score, kind: Kind::Unused, token });
        }
        if name.is_empty() || name.contains('\0') {
            return Err(format!("its piece {token}, {name:?}, is empty or contains a zero byte"));
        }
        Ok(Piece { name, score, kind, token })
    }

    fn of(&self, kinds: &'static [Kind]) -> impl Iterator<Item = &Piece<'a>> + Clone {
        self.list.iter().filter(move |piece| kinds.contains(&piece.kind))
    }

    fn trie(&self, kinds: &'static [Kind]) -> Trie {
        let text = self.of(kinds).filter(|piece| piece.name != "\0");
        Trie::new(text.map(|p| (p.name.as_bytes(), p.token)).collect())
    }

    /// The tokens of all bytes, if the model has them.
    fn bytes(&self) -> Result<Option<Box<[u32; 256]>>, String> {
        let mut found = [None; 256];
        for piece in self.of(&[Kind::Byte]) {
            let Some(byte) = decoder::byte(piece.name).filter(|_| self.fallback) else {
                return Err(format!(
                    "it has the byte piece {:?}, which is not one of <0x00> to <0xFF>",
                    piece.name
                ));
            };
            found[usize::from(byte)] = Some(piece.token);
        }
        if !self.fallback {
            return Ok(None);
        }
        match found.iter().position(Option::is_none) {
            None => Ok(Some(Box::new(found.map(Option::unwrap_or_default)))),
            Some(byte) => Err(format!("it has no piece <0x{byte:02X}>, but byte_fallback")),
        }
    }
}

impl SentencePiece {
    fn new(file: &ModelProto, pieces: &Vocabulary<'_>) -> Result<Self, String> {
        let (trainer, spec) =
            (file.trainer_spec.clone().unwrap_or_default(), file.normalizer_spec.clone().unwrap_or_default());
        let damaged = |_| "its character map is damaged".to_owned();
        let suffix = trainer.treat_whitespace_as_suffix.unwrap_or(false);
        let normalizer =
            Normalizer::new(&spec, pieces.trie(&[Kind::UserDefined]), suffix).map_err(damaged)?;
        let denormalizer = file
            .denormalizer_spec
            .as_ref()
            .filter(|spec| spec.precompiled_charsmap.as_ref().is_some_and(|map| !map.is_empty()));
        let denormalizer =
            denormalizer.map(|spec: &NormalizerSpec| Normalizer::new(spec, Trie::new(vec![]), false));
        let surface = |piece: &Piece| {
            Surface::new(piece.kind, piece.name)
                .ok_or_else(|| format!("its byte piece {:?} is invalid", piece.name))
        };
        let decoder = Decoder {
            surfaces: pieces.list.iter().map(surface).collect::<Result<_, _>>()?,
            unknown: trainer.unk_surface.clone().unwrap_or_else(|| decoder::UNKNOWN_TEXT.into()).into_bytes(),
            dummy_prefix: spec.add_dummy_prefix.unwrap_or(true),
            remove_extra: spec.remove_extra_whitespaces.unwrap_or(true),
            denormalizer: denormalizer.transpose().map_err(damaged)?,
        };
        let number = trainer.model_type.unwrap_or(ModelType::Unigram as i32);
        let kind =
            ModelType::try_from(number).map_err(|_| format!("it is a model of the unknown type {number}"))?;
        Ok(Self {
            normalizer,
            user_defined: pieces.trie(&[Kind::UserDefined]),
            algorithm: Algorithm::new(kind, pieces),
            pieces: pieces.trie(&[Kind::Normal, Kind::UserDefined]),
            bytes: pieces.bytes()?,
            unknown: pieces.unknown,
            names_unknown: names_unknown(&trainer, kind, pieces),
            decoder,
        })
    }

    /// Returns the way in which text is divided.
    pub fn division(&self) -> Division {
        match &self.algorithm {
            Algorithm::Unigram(_) => Division::Unigram,
            Algorithm::Bpe(bpe) => Division::Bpe { by_word: bpe.by_word() },
            Algorithm::Words => Division::Words,
            Algorithm::Characters => Division::Characters,
        }
    }

    /// Returns how spaces and characters without a piece are treated.
    pub fn conventions(&self) -> Conventions {
        Conventions {
            byte_fallback: self.bytes.is_some(),
            names_unknown: self.names_unknown,
            ..self.normalizer.conventions()
        }
    }

    /// Returns the tokens of a text.
    ///
    /// # Errors
    /// If the character map is damaged.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let text = self.normalizer.normalize(text).map_err(|_| "its character map is damaged")?;
        let mut out = Vec::with_capacity(text.len() / 3 + 8);
        let mut after_unknown = false;
        let mut take = |token: Option<u32>, piece: &[u8]| {
            match (token, &self.bytes) {
                (Some(token), _) => out.push(token),
                (None, Some(bytes)) => out.extend(piece.iter().map(|b| bytes[usize::from(*b)])),
                // A run of unknown pieces is one token.
                (None, None) if after_unknown => {}
                (None, None) => out.extend(self.unknown),
            }
            after_unknown = token.is_none();
        };
        let text = &text[..];
        match &self.algorithm {
            Algorithm::Unigram(unigram) => {
                unigram.encode(text, &self.pieces, |token, range| take(token, &text[range]));
            }
            Algorithm::Bpe(bpe) => {
                bpe.encode(text, &self.user_defined, |token, range| take(token, &text[range]));
            }
            Algorithm::Words => words(text, |word| take(self.pieces.get(word), word)),
            Algorithm::Characters => {
                let mut rest = text;
                while let Some(first) = rest.first() {
                    let length = self.user_defined.longest(rest).unwrap_or(char_len(*first).min(rest.len()));
                    let (piece, others) = rest.split_at(length);
                    take(self.pieces.get(piece), piece);
                    rest = others;
                }
            }
        }
        Ok(out)
    }

    /// Returns the text of tokens. Tokens that the model does not have are skipped.
    ///
    /// # Errors
    /// If the map of the denormalizer is damaged.
    pub fn decode(&self, tokens: impl Iterator<Item = u32>) -> Result<String, String> {
        self.decoder.decode(tokens).ok_or_else(|| "the character map of its denormalizer is damaged".into())
    }
}

/// [`Conventions::names_unknown`]. The options have defaults: token 0, and the name `<unk>`.
fn names_unknown(trainer: &TrainerSpec, kind: ModelType, pieces: &Vocabulary<'_>) -> bool {
    let Some(token) = pieces.unknown else { return false };
    match kind {
        ModelType::Unigram => i64::from(trainer.unk_id.unwrap_or(0)) == i64::from(token),
        ModelType::Bpe | ModelType::Word | ModelType::Char => {
            pieces.list[token as usize].name == trainer.unk_piece.as_deref().unwrap_or("<unk>")
        }
    }
}

impl Algorithm {
    fn new(kind: ModelType, pieces: &Vocabulary<'_>) -> Self {
        match kind {
            ModelType::Unigram => {
                let score = |piece: &Piece| (piece.kind == Kind::Normal).then_some(piece.score);
                Self::Unigram(Unigram::new(pieces.list.iter().map(score).collect()))
            }
            ModelType::Bpe => {
                let text = &[Kind::Normal, Kind::UserDefined, Kind::Unused];
                let unused: Vec<bool> = pieces.list.iter().map(|piece| piece.kind == Kind::Unused).collect();
                // The division of an unused piece depends on the whole text.
                let by_word = !unused.contains(&true)
                    && Bpe::pieces_end_at_spaces(pieces.of(text).map(|piece| piece.name.as_bytes()));
                let scores = pieces.list.iter().map(|piece| piece.score).collect();
                Self::Bpe(Bpe::new(pieces.trie(text), scores, unused, by_word))
            }
            ModelType::Word => Self::Words,
            ModelType::Char => Self::Characters,
        }
    }
}

/// Calls `take` with every word: a word begins at every space.
fn words(text: &[u8], mut take: impl FnMut(&[u8])) {
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        if at > start && text[at..].starts_with(SPACE) {
            take(&text[start..at]);
            start = at;
        }
        at += char_len(text[at]).min(text.len() - at);
    }
    if start < text.len() {
        take(&text[start..]);
    }
}

#[cfg(test)]
mod tests;

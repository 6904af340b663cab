//! SentencePiece unigram models.
//!
//! The file is the message `ModelProto` of sentencepiece_model.proto; the structs here have the fields that
//! are needed, under the same names.

use super::loaded::Loaded;
use prost::Message;
use tokenizers::{
    Tokenizer,
    models::unigram::Unigram,
    normalizers::{NormalizerWrapper, Precompiled, Replace, Sequence, replace::ReplacePattern},
    pre_tokenizers::metaspace::{Metaspace, PrependScheme},
};

#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<SentencePiece>,
    #[prost(message, optional, tag = "2")]
    trainer_spec: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer_spec: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct SentencePiece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(bool, optional, tag = "24")]
    treat_whitespace_as_suffix: Option<bool>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    precompiled_charsmap: Option<Vec<u8>>,
    #[prost(bool, optional, tag = "3")]
    add_dummy_prefix: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    remove_extra_whitespaces: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    escape_whitespaces: Option<bool>,
}

/// The kind of a piece (`SentencePiece.Type`).
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
/// The type of a unigram model (`TrainerSpec.ModelType`).
const UNIGRAM: i32 = 1;
/// The character that represents a space.
const SPACE: char = '\u{2581}';

/// Builds the tokenizer of a model file. The error is the reason why the file cannot be used.
pub(super) fn tokenizer(bytes: &[u8]) -> Result<Loaded, String> {
    let model =
        ModelProto::decode(bytes).map_err(|error| format!("it is not a SentencePiece model ({error})"))?;
    if model.pieces.is_empty() {
        return Err("it has no pieces".into());
    }
    let (trainer, normalizer) =
        (model.trainer_spec.unwrap_or_default(), model.normalizer_spec.unwrap_or_default());
    if trainer.model_type.unwrap_or(UNIGRAM) != UNIGRAM {
        return Err(
            "it is a SentencePiece model of another type than unigram; a `tokenizer.json` supports other types"
                .into(),
        );
    }
    if trainer.treat_whitespace_as_suffix == Some(true) || normalizer.escape_whitespaces == Some(false) {
        return Err("it treats spaces as suffixes or does not escape them".into());
    }
    if let Some(piece) = model.pieces.iter().find(|p| p.kind == Some(USER_DEFINED)) {
        // SentencePiece matches user-defined pieces before the lattice, which the tokenizer here does not
        // support.
        return Err(format!(
            "it has user-defined pieces, such as `{}`; a `tokenizer.json` supports them",
            piece.piece
        ));
    }
    let unknown =
        model.pieces.iter().position(|p| p.kind == Some(UNKNOWN)).ok_or("it has no unknown piece")?;
    // Text must not become control pieces. The lattice matches every name, so control pieces get names that
    // no text contains.
    let hidden = |p: &SentencePiece| matches!(p.kind, Some(UNKNOWN | CONTROL | UNUSED));
    let name = |p: &SentencePiece| if hidden(p) { format!("\0{}", p.piece) } else { p.piece.clone() };
    let vocab = model.pieces.iter().map(|p| (name(p), f64::from(p.score)));
    let numbered = || model.pieces.iter().zip(0u32..);
    let names = numbered().map(|(p, id)| (p.piece.clone(), id)).collect();
    let special =
        numbered().filter(|(p, id)| hidden(p) && *id as usize != unknown).map(|(_, id)| id).collect();
    let byte_fallback = trainer.byte_fallback.unwrap_or(false);
    let unigram = Unigram::from(vocab.collect(), Some(unknown), byte_fallback).map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::new(unigram);
    let steps = steps(&normalizer)?;
    if !steps.is_empty() {
        tokenizer.with_normalizer(Some(Sequence::new(steps))).map_err(|e| e.to_string())?;
    }
    let prefix = if normalizer.add_dummy_prefix.unwrap_or(true) {
        PrependScheme::Always
    } else {
        PrependScheme::Never
    };
    tokenizer.with_pre_tokenizer(Some(Metaspace::new(SPACE, prefix, true)));
    tokenizer.with_decoder(Some(Metaspace::new(SPACE, prefix, true)));
    Ok(Loaded { tokenizer, names, special })
}

/// The normalization steps before tokenization.
fn steps(spec: &NormalizerSpec) -> Result<Vec<NormalizerWrapper>, String> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if let Some(map) = spec.precompiled_charsmap.as_ref().filter(|map| !map.is_empty()) {
        let map = Precompiled::from(map).map_err(|e| format!("its character map is damaged ({e})"))?;
        steps.push(map.into());
    }
    if spec.remove_extra_whitespaces.unwrap_or(true) {
        // Only spaces: the character map has replaced other white space by spaces.
        for (pattern, by) in [("^ +| +$", ""), (" {2,}", " ")] {
            let pattern = ReplacePattern::Regex(pattern.into());
            steps.push(Replace::new(pattern, by).map_err(|e| e.to_string())?.into());
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Pieces, open},
        *,
    };
    use std::fs;

    fn model(pieces: &[(&str, f32, i32)], normalizer: NormalizerSpec) -> ModelProto {
        let pieces = pieces
            .iter()
            .map(|(piece, score, kind)| SentencePiece {
                piece: (*piece).into(),
                score: *score,
                kind: Some(*kind),
            })
            .collect();
        ModelProto { pieces, trainer_spec: None, normalizer_spec: Some(normalizer) }
    }

    const PIECES: &[(&str, f32, i32)] = &[
        ("<pad>", 0.0, CONTROL),
        ("</s>", 0.0, CONTROL),
        ("<unk>", 0.0, UNKNOWN),
        ("\u{2581}", -3.0, 1),
        ("a", -3.0, 1),
        ("b", -3.0, 1),
        ("\u{2581}ab", -4.0, 1),
        ("bb", -7.0, 1),
        ("/", -4.0, 1),
        ("x", -9.0, 1),
        ("aaa", -0.1, UNUSED),
        ("<extra_id_0>", 0.0, CONTROL),
    ];

    #[test]
    fn pieces_are_the_likeliest_and_control_pieces_are_not_in_texts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spiece.model");
        fs::write(&path, model(PIECES, NormalizerSpec::default()).encode_to_vec()).unwrap();
        let tokenizer = open(&path).unwrap();
        assert_eq!((tokenizer.tokens(), tokenizer.offset(), tokenizer.sentinels()), (12, 0, &[11][..]));
        let of = |text: &str| tokenizer.encode(text).unwrap();
        // -4 for `▁ab` beats -3 per letter, and `bb` is less likely than `b` twice.
        assert_eq!(of("ab  abb "), [6, 6, 5]);
        assert_eq!(of(" bb"), [3, 5, 5]);
        // Consecutive unknown letters are one token; an unused piece matches nothing.
        assert_eq!(of("aqyzb aaa"), [3, 4, 2, 5, 3, 4, 4, 4]);
        // `<` and `s>` are unknown.
        assert_eq!(of("</s>"), [3, 2, 8, 2]);
        assert_eq!((of(""), of("  ")), (vec![], vec![]));
        assert_eq!(tokenizer.decode(&[6, 6, 5, 1, 0]).unwrap(), "ab abb");
    }

    #[test]
    fn models_of_another_kind_are_refused() {
        let fails = |model: &ModelProto, part: &str| {
            let error = tokenizer(&model.encode_to_vec()).err().unwrap();
            assert!(error.contains(part), "{error}");
        };
        let good = model(PIECES, NormalizerSpec::default());
        let trainer = TrainerSpec { model_type: Some(2), ..TrainerSpec::default() };
        fails(&ModelProto { trainer_spec: Some(trainer), ..good.clone() }, "another type than unigram");
        let spaces = NormalizerSpec { escape_whitespaces: Some(false), ..NormalizerSpec::default() };
        fails(&model(PIECES, spaces), "spaces");
        let user = [("<unk>", 0.0, UNKNOWN), ("[x]", 0.0, USER_DEFINED)];
        fails(&model(&user, NormalizerSpec::default()), "such as `[x]`");
        fails(&model(&PIECES[3..6], NormalizerSpec::default()), "no unknown piece");
        let map = NormalizerSpec { precompiled_charsmap: Some(vec![1, 2]), ..NormalizerSpec::default() };
        fails(&model(PIECES, map), "character map");
    }
}

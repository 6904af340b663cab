//! Tests of models made by hand. `data/tests/sentencepiece.rs` compares models with the library.

use super::{
    super::{Pieces, open},
    *,
};
use std::fs;

fn model(pieces: &[(&str, f32, Kind)], normalizer: NormalizerSpec, kind: ModelType) -> ModelProto {
    let pieces = pieces
        .iter()
        .map(|(piece, score, kind)| Entry { piece: (*piece).into(), score: *score, kind: Some(*kind as i32) })
        .collect();
    let trainer = TrainerSpec { model_type: Some(kind as i32), ..TrainerSpec::default() };
    ModelProto {
        pieces,
        trainer_spec: Some(trainer),
        normalizer_spec: Some(normalizer),
        denormalizer_spec: None,
    }
}

const PIECES: &[(&str, f32, Kind)] = &[
    ("<pad>", 0.0, Kind::Control),
    ("</s>", 0.0, Kind::Control),
    ("<unk>", 0.0, Kind::Unknown),
    ("\u{2581}", -3.0, Kind::Normal),
    ("a", -3.0, Kind::Normal),
    ("b", -3.0, Kind::Normal),
    ("\u{2581}ab", -4.0, Kind::Normal),
    ("bb", -7.0, Kind::Normal),
    ("/", -4.0, Kind::Normal),
    ("x", -9.0, Kind::Normal),
    ("aaa", -0.1, Kind::Unused),
    ("<extra_id_0>", 0.0, Kind::Control),
    ("\n", 0.0, Kind::UserDefined),
];

#[track_caller]
fn check(model: &ModelProto, cases: &[(&str, &[i32])]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spiece.model");
    fs::write(&path, model.encode_to_vec()).unwrap();
    let tokenizer = open(&path).unwrap();
    for (text, expected) in cases {
        assert_eq!(&tokenizer.encode(text).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn unigram_pieces_are_the_likeliest_and_control_pieces_are_not_in_texts() {
    let model = model(PIECES, NormalizerSpec::default(), ModelType::Unigram);
    check(
        &model,
        &[
            // -4 for `_ab` beats -3 per letter, and `bb` is less likely than `b` twice.
            ("ab  abb ", &[6, 6, 5]),
            (" bb", &[3, 5, 5]),
            // Consecutive unknown letters are one token; an unused piece matches nothing.
            ("aqyzb aaa", &[3, 4, 2, 5, 3, 4, 4, 4]),
            // `<` and `s>` are unknown, also behind a zero byte.
            ("</s>", &[3, 2, 8, 2]),
            ("\0</s>", &[3, 2, 8, 2]),
            ("a\nb", &[3, 4, 12, 5]),
            ("", &[]),
            ("  ", &[]),
        ],
    );
}

#[test]
fn bpe_merges_by_score_and_divides_unused_pieces() {
    let pieces = &[
        ("<unk>", 0.0, Kind::Unknown),
        ("<s>", 0.0, Kind::Control),
        ("a", -8.0, Kind::Normal),
        ("b", -9.0, Kind::Normal),
        ("ab", -1.0, Kind::Unused),
        ("ba", -0.5, Kind::Normal),
        ("abab", -2.0, Kind::Normal),
        ("ab-ab", -3.0, Kind::UserDefined),
    ];
    let spec = NormalizerSpec { add_dummy_prefix: Some(false), ..NormalizerSpec::default() };
    let file = model(pieces, spec, ModelType::Bpe);
    // Ids are increased by three. `ba` merges first; an unused `ab` is divided again.
    check(
        &file,
        &[("ab", &[5, 6]), ("aba", &[5, 8]), ("abab", &[5, 8, 6]), ("ab-abb", &[10, 6]), ("q", &[3])],
    );
}

#[test]
fn words_and_characters() {
    let pieces = &[
        ("<unk>", 0.0, Kind::Unknown),
        ("x", 0.0, Kind::Control),
        ("\u{2581}a", -1.0, Kind::Normal),
        ("a", -1.0, Kind::Normal),
        ("\u{2581}", -1.0, Kind::Normal),
    ];
    let spec = NormalizerSpec { remove_extra_whitespaces: Some(false), ..NormalizerSpec::default() };
    check(&model(pieces, spec.clone(), ModelType::Word), &[("a  a b", &[5, 7, 5, 3])]);
    // No text becomes a control piece, also not one of one character.
    check(&model(pieces, spec, ModelType::Char), &[("a a", &[7, 6, 7, 6]), ("xa", &[7, 3, 6])]);
}

#[test]
fn tokens_have_the_numbers_and_text_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spiece.model");
    fs::write(&path, model(PIECES, NormalizerSpec::default(), ModelType::Unigram).encode_to_vec()).unwrap();
    let tokenizer = open(&path).unwrap();
    assert_eq!((tokenizer.tokens(), tokenizer.offset(), tokenizer.sentinels()), (13, 0, &[11][..]));
    assert_eq!(tokenizer.decode(&[6, 6, 5, 1, 0, 99, 2]).unwrap(), "ab abb \u{2047} ");
}

/// SentencePiece uses the kind of the piece, whatever the options of training say (compared with the
/// library).
#[test]
fn the_unknown_piece_is_the_one_of_that_kind() {
    for (kind, by_token) in [(ModelType::Unigram, true), (ModelType::Bpe, false)] {
        let mut model = model(PIECES, NormalizerSpec::default(), kind);
        for (id, name, is_named) in [
            (None, None, !by_token),
            (Some(0), None, !by_token),
            (Some(2), None, true),
            (Some(2), Some("<pad>"), by_token),
        ] {
            let trainer = model.trainer_spec.as_mut().unwrap();
            (trainer.unk_id, trainer.unk_piece) = (id, name.map(str::to_owned));
            check(&model, &[("a z", &[3, 4, 3, 2])]);
            let opened = super::open(&model.encode_to_vec()).unwrap();
            assert_eq!(opened.model.conventions().names_unknown, is_named, "{kind:?} {id:?} {name:?}");
        }
    }
}

#[test]
fn byte_fallback_needs_all_bytes_and_gives_the_bytes_of_unknown_characters() {
    let mut file = model(&PIECES[..5], NormalizerSpec::default(), ModelType::Unigram);
    let byte =
        |byte: u8| Entry { piece: format!("<0x{byte:02X}>"), score: 0.0, kind: Some(Kind::Byte as i32) };
    file.pieces.extend((0..=255).map(byte));
    let fails = |file: &ModelProto, part: &str| {
        let error = super::open(&file.encode_to_vec()).err().unwrap();
        assert!(error.contains(part), "{error}");
    };
    fails(&file, "byte piece \"<0x00>\"");
    let trainer = file.trainer_spec.as_mut().unwrap();
    trainer.byte_fallback = Some(true);
    check(&file, &[("a\u{e9}", &[3, 4, 5 + 0xc3, 5 + 0xa9]), ("<0x41>", &[3, 65, 53, 125, 57, 54, 67])]);
    file.pieces.pop();
    fails(&file, "no piece <0xFF>");
}

#[test]
fn damaged_models_are_refused() {
    let fails = |pieces: &[(&str, f32, Kind)], spec: NormalizerSpec, part: &str| {
        let error = super::open(&model(pieces, spec, ModelType::Unigram).encode_to_vec()).err().unwrap();
        assert!(error.contains(part), "{error}");
    };
    let none = NormalizerSpec::default;
    let unknown = ("<unk>", 0.0, Kind::Unknown);
    fails(&PIECES[3..6], none(), "no unknown piece");
    fails(&[unknown, unknown], none(), "same name");
    fails(&[unknown, ("", 0.0, Kind::Normal)], none(), "is empty");
    fails(&[unknown, ("a", f32::NAN, Kind::Normal)], none(), "score NaN");
    let map = NormalizerSpec { precompiled_charsmap: Some(vec![1, 2]), ..none() };
    fails(PIECES, map, "character map");
    let mut file = model(PIECES, none(), ModelType::Unigram);
    file.trainer_spec = Some(TrainerSpec { model_type: Some(9), ..TrainerSpec::default() });
    assert!(super::open(&file.encode_to_vec()).err().unwrap().contains("unknown type 9"));
}

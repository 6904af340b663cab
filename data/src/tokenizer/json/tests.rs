//! Random texts have the tokens that the library gives, by several kinds of tokenizer.

use super::*;
use serde_json::json;

/// A BPE model of some merges within words, with the characters of `CHARACTERS`.
fn bpe(space: &str) -> Value {
    let merges =
        [("a", "b"), ("ab", "c"), (space, "a"), ("b", "c"), ("'", "s"), (space, "ab"), ("\u{e9}", "a")];
    let mut vocab = serde_json::Map::new();
    let singles = CHARACTERS.iter().map(ToString::to_string).chain([space.to_owned(), "\u{120}".to_owned()]);
    for piece in singles.chain(merges.iter().map(|(a, b)| format!("{a}{b}"))) {
        let next = vocab.len();
        vocab.entry(piece).or_insert(next.into());
    }
    let merges: Vec<String> = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    json!({ "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
            "merges": merges })
}

fn unigram() -> Value {
    let pieces = [
        ("<unk>", 0.0),
        ("\u{2581}", -3.0),
        ("\u{2581}a", -2.0),
        ("a", -2.5),
        ("b", -2.5),
        ("ab", -3.1),
        ("bc", -3.0),
        ("c", -4.0),
        ("\u{2581}ab", -3.5),
        ("1", -3.0),
        ("'", -3.0),
        ("\u{e9}", -5.0),
    ];
    json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": pieces })
}

/// A tokenizer of these parts with one added token.
fn file(normalizer: Value, pre_tokenizer: Value, model: Value, added: &str) -> Value {
    let added = json!([{ "id": 60, "content": added, "single_word": false, "lstrip": false, "rstrip": false,
                         "normalized": true, "special": false }]);
    json!({ "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
            "model": model })
}

const CHARACTERS: [char; 16] =
    [' ', ' ', ' ', 'a', 'b', 'c', 'a', 'b', '1', '\'', 's', ',', '\n', '\u{e9}', '\u{301}', '\u{437}'];

/// The tokenizer remembers words if `known`, and gives the tokens of the library for random texts.
#[track_caller]
fn check(file: &Value, known: bool) {
    let json = Json::new(file.to_string().as_bytes()).unwrap();
    assert_eq!(json.known.is_some(), known);
    let mut random = 7u32;
    let mut next = |below: u32| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 16) % below
    };
    for _ in 0..1500 {
        let length = next(24);
        let text: String = (0..length).map(|_| CHARACTERS[next(16) as usize]).collect();
        assert_eq!(json.encode(&text), json.whole(&text), "{text:?}");
    }
    let words: usize = json.known.iter().map(|maps| maps.lock().unwrap()[0].young.len()).sum();
    assert_eq!(words > 100, known);
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": split })
}

fn byte_level(use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": use_regex })
}

fn replace(pattern: Value) -> Value {
    json!({ "type": "Replace", "pattern": pattern, "content": "\u{2581}" })
}

#[test]
fn words_are_known_where_they_are_independent() {
    let runs = replace(json!({ "Regex": " {2,}" }));
    let strip = json!({ "type": "Strip", "strip_left": false, "strip_right": true });
    let several = json!({ "type": "Sequence", "normalizers": [{ "type": "NFKC" }, strip, runs] });
    for scheme in ["always", "first", "never"] {
        check(&file(several.clone(), metaspace(scheme, true), unigram(), "c1"), true);
        check(&file(Value::Null, metaspace(scheme, true), bpe("\u{2581}"), "\u{2581}b"), true);
    }
    check(&file(json!({ "type": "NFD" }), byte_level(true), bpe("\u{120}"), "a'"), true);
    let words = json!({ "type": "WordLevel", "vocab": { "<unk>": 0, "a": 1, "ab": 2, "bc": 3 }, "unk_token": "<unk>" });
    let both = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "WhitespaceSplit" }, { "type": "Punctuation", "behavior": "Isolated" }] });
    check(&file(Value::Null, both, words, "bb"), true);
}

#[test]
fn other_tokenizers_encode_texts_whole() {
    check(&file(Value::Null, metaspace("always", false), unigram(), "c1"), false);
    check(&file(Value::Null, byte_level(false), bpe("\u{120}"), "c1"), false);
    check(&file(Value::Null, Value::Null, bpe("\u{2581}"), "c1"), false);
    // An added token with a space, also one that it has after normalization only.
    check(&file(Value::Null, metaspace("always", true), unigram(), "b c"), false);
    check(&file(json!({ "type": "NFKC" }), metaspace("always", true), unigram(), "b\u{b4}"), false);
    // Characters that become spaces, or that are removed.
    for content in ["b ", ""] {
        let normalizer = json!({ "type": "Sequence", "normalizers": [
            { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": content },
            { "type": "Replace", "pattern": { "String": "c" }, "content": content }] });
        check(&file(normalizer, metaspace("always", true), unigram(), "c1"), false);
    }
    let left = json!({ "type": "Strip", "strip_left": true, "strip_right": true });
    check(&file(left, metaspace("never", true), unigram(), "c1"), false);
    let mut random = bpe("\u{2581}");
    random["dropout"] = json!(0.0);
    check(&file(Value::Null, metaspace("always", true), random, "c1"), false);
}

#[test]
fn known_words_are_bounded() {
    let json =
        Json::new(file(Value::Null, metaspace("always", true), unigram(), "c1").to_string().as_bytes());
    let json = json.unwrap();
    let number = |n: usize| format!("{n:017b}").replace('0', "a").replace('1', "b");
    for start in (0..MOST_WORDS + 10).step_by(1000) {
        json.encode(&(start..start + 1000).map(number).collect::<Vec<_>>().join(" ")).unwrap();
    }
    let known = json.known.as_ref().unwrap().lock().unwrap();
    let [Words { young, old }] = &known[..] else { panic!("{} collections", known.len()) };
    assert_eq!(old.len(), MOST_WORDS);
    assert!((10..2000).contains(&young.len()), "{}", young.len());
}

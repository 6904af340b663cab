//! SentencePiece models against SentencePiece itself.
//!
//! `MESH_SENTENCEPIECE` names a file of JSON lines that `docs/testing.md` says how to make: `model` is a
//! model's file, `cases` are texts with their tokens. Without it the test says that it is skipped.

use data::Pieces;
use serde_json::Value;
use std::{fs, path::Path};

#[test]
fn texts_have_the_tokens_that_sentencepiece_gives_them() {
    let Some(path) = std::env::var_os("MESH_SENTENCEPIECE") else {
        eprintln!("skipped: set MESH_SENTENCEPIECE to a file of reference tokens (docs/testing.md)");
        return;
    };
    let lines = fs::read_to_string(&path).expect("the reference can be read");
    let mut wrong = Vec::new();
    for line in lines.lines() {
        let reference: Value = serde_json::from_str(line).expect("the reference is JSON lines");
        let model = reference["model"].as_str().expect("a reference names its model");
        let tokenizer = data::tokenizer::open(Path::new(model)).unwrap_or_else(|e| panic!("{e}"));
        let cases = reference["cases"].as_array().expect("a reference has cases");
        assert!(!cases.is_empty());
        let before = wrong.len();
        for case in cases {
            let text = case[0].as_str().expect("a case has a text");
            let theirs: Vec<i64> =
                case[1].as_array().expect("a case has tokens").iter().filter_map(Value::as_i64).collect();
            let ours: Vec<i64> = tokenizer
                .encode(text)
                .unwrap_or_else(|e| panic!("{e}"))
                .iter()
                .map(|token| i64::from(token - tokenizer.offset()))
                .collect();
            // Sums of the same pieces are equal, and rounding decides: `... ....` or `.... ...`.
            let sorted = |tokens: &[i64]| {
                let mut tokens = tokens.to_vec();
                tokens.sort_unstable();
                tokens
            };
            if ours != theirs && sorted(&ours) != sorted(&theirs) {
                wrong.push(format!("{model}: {text:?}\n  ours   {ours:?}\n  theirs {theirs:?}"));
            }
        }
        eprintln!("{model}: {} texts, {} otherwise", cases.len(), wrong.len() - before);
    }
    assert!(
        wrong.is_empty(),
        "{} texts have other tokens:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
}

//! A BPE tokenizer with byte fallback, as those of Llama and Mixtral, whose ids are those of its file: token
//! ids and texts against transformers.
//!
//! `data/tests/llama/reference.py` writes the tokenizer and the reference.

use data::{
    Codec, SpecialTokens, Tokenizer,
    tokenizer::{file_contents, parse, with_file_numbers},
};
use serde_json::Value;
use std::{fs, path::Path};

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/llama").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn tokens_and_texts_are_those_of_transformers() {
    let contents = with_file_numbers(&file("tokenizer.json"));
    assert_eq!(file_contents(&contents), file("tokenizer.json"));
    let tokenizer = parse(contents.into(), "tokenizer.json").unwrap();
    assert_eq!(tokenizer.added().unwrap(), [vec![1], vec![]]);
    let reference: Value = serde_json::from_slice(&file("reference.json")).unwrap();
    let tokens = reference["tokens"].as_u64().unwrap() as usize;
    let all = Tokenizer::Pieces(tokenizer);
    assert_eq!(all.text_tokens(), 3..tokens as i32);
    let special = SpecialTokens { pad: 0, eos: 2, sentinels: None };
    // Unused tokens of a larger vocabulary are no sentinels.
    let codec = Codec::new(tokens + 8, all, special).unwrap();
    assert!(codec.sentinels().is_empty());
    for case in reference["cases"].as_array().unwrap() {
        let (text, decoded) = (case["text"].as_str().unwrap(), case["decoded"].as_str().unwrap());
        let ids: Vec<i32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let own = codec.encode_part(text).unwrap();
        assert_eq!(own, ids[1..], "{text:?}");
        assert_eq!(codec.decode(&own).unwrap(), decoded, "{text:?}");
        // The end token is the model's.
        assert_eq!(codec.decode(&[&own[..], &[2, 300]].concat()).unwrap(), decoded, "{text:?}");
        assert_eq!(codec.encode(text).unwrap().last(), Some(&2));
    }
    // The name of a special token in a text is text.
    let named = codec.encode_part("</s>").unwrap();
    assert!(named.iter().all(|token| *token > 2), "{named:?}");
}

#[test]
fn the_first_tokens_must_be_special() {
    let mut value: Value = serde_json::from_slice(&file("tokenizer.json")).unwrap();
    value["added_tokens"].as_array_mut().unwrap().remove(1);
    let contents = with_file_numbers(value.to_string().as_bytes());
    let said = parse(contents.into(), "tokenizer.json").unwrap_err().to_string();
    assert!(said.contains("its token 1 is no special token"), "{said}");
}

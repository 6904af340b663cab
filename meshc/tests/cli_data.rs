//! Data of many kinds: `meshc data stats`, and training on pieces of JSON lines.

mod support;

use serde_json::{Value, json};
use std::fs;
use support::{Ran, Workplace, model};

/// What zstd's own program makes of `hello`.
const HELLO: &[u8] = b"\x28\xb5\x2f\xfd\x24\x06\x31\0\0hello\n\x53\x88\xbd\x91";

/// A tokenizer of a few words, like T5's.
fn words() -> String {
    let words = ["<pad>", "</s>", "<unk>", "a", "b", "c", "d", "<extra_id_1>", "<extra_id_0>"];
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" }
    })
    .to_string()
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.out))
}

#[test]
fn stats_of_all_kinds_of_files() {
    let place = Workplace::new();
    place.write("in/a.jsonl", "{\"text\": \"a b\"}\n{\"text\": \"a a a d\", \"id\": 1}\n");
    place.write("in/b.txt.zst", HELLO);
    place.write("in/package.json", "{\n  \"name\": \"x\"\n}\n");
    place.write("words.json", words());
    let bytes = json(&place.run(&["data", "stats", "in", "--json"]).succeeds());
    assert_eq!((&bytes["documents"], &bytes["bytes"], &bytes["tokens"]), (&json!(3), &json!(16), &json!(16)));
    assert_eq!((&bytes["skipped"], &bytes["tokenizer"]), (&json!(1), &json!("bytes")));
    let pieces =
        json(&place.run(&["data", "stats", "in/*.jsonl", "--tokenizer", "words.json", "--json"]).succeeds());
    assert_eq!((&pieces["tokens"], &pieces["distinct_tokens"]), (&json!(6), &json!(3)));
    assert_eq!(
        (&pieces["document_tokens"]["min"], &pieces["document_tokens"]["max"]),
        (&json!(2), &json!(4))
    );
    let said = place.run(&["data", "stats", "in"]).succeeds().out;
    assert!(said.contains("package.json is not JSON") && said.contains("1 left out"), "{said}");

    place.write("cut.zst", &HELLO[..HELLO.len() - 1]);
    place.run(&["data", "stats", "cut.zst"]).fails(&["cut.zst` is damaged or cut off", "help:"]);
    place.run(&["data", "stats", "in", "--text-field", "body"]).fails(&["a.jsonl`", "`text` at line 1"]);
    place.run(&["data", "stats", "*.nothing"]).fails(&["no file is called `*.nothing`"]);
    place.run(&["data", "stats", "in", "--tokenizer", "in/a.jsonl"]).fails(&["a.jsonl` cannot be used"]);
}

#[test]
fn training_on_pieces_keeps_to_its_tokenizer() {
    let place = Workplace::new();
    let lines: String =
        (0..400).map(|i| format!("{{\"body\": \"a b {} c\"}}\n", ["a", "d"][i % 2])).collect();
    place.write("text.jsonl", lines);
    place.write("words.json", words());
    let path = model("t5_tiny.rs");
    let train = |vocab: &str, more: &[&str]| {
        let mut args =
            vec!["train", &path, "--data", "text.jsonl", "--text-field", "body", "--checkpoint-dir", "ck"];
        for set in
            ["batch=4", "d_model=16", "d_ff=16", "heads=2", "d_kv=8", "input_length=16", "target_length=8"]
        {
            args.extend(["--set", set]);
        }
        args.extend(["--set", "layers=1", "--set", vocab]);
        args.extend(more);
        place.run_on_cpu(&args)
    };
    train("vocab=8", &["--steps", "2", "--tokenizer", "words.json"])
        .fails(&["vocabulary of 8", "at least 9"]);
    let ran = train("vocab=384", &["--steps", "2", "--tokenizer", "words.json"]).succeeds();
    // Four words and an end in each of 400 documents.
    assert!(ran.out.contains("2.00 k tokens of words.json"), "{}", ran.out);
    let manifest = fs::read_to_string(place.at("ck/step_00000002/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert!(manifest["facts"]["tokenizer"].as_str().unwrap().starts_with("blake3:"), "{}", manifest["facts"]);
    train("vocab=384", &["--steps", "4", "--resume"]).fails(&["tokens are those of `bytes`", "blake3:"]);
    train("vocab=384", &["--steps", "4", "--resume", "--tokenizer", "words.json"]).succeeds();
}

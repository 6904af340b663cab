//! Training data: `meshc data`, and training on JSON lines with a tokenizer, prepared tokens, mixtures and
//! packed rows.

use crate::support::{Ran, Workplace, model, sized, words};
use serde_json::{Value, json};
use std::fs;

/// The output of the zstd program for `hello`.
const HELLO: &[u8] = b"\x28\xb5\x2f\xfd\x24\x06\x31\0\0hello\n\x53\x88\xbd\x91";

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
    assert!(said.contains("package.json is not JSON") && said.contains("1 skipped"), "{said}");

    place.write("cut.zst", &HELLO[..HELLO.len() - 1]);
    place.run(&["data", "stats", "cut.zst"]).fails(&["cut.zst` is damaged or cut off", "help:"]);
    place.run(&["data", "stats", "in", "--text-field", "body"]).fails(&["a.jsonl`", "`text` at line 1"]);
    place.run(&["data", "stats", "*.nothing"]).fails(&["no file matches `*.nothing`"]);
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
        let args = ["train", &path, "--data", "text.jsonl", "--text-field", "body", "--checkpoint-dir", "ck"];
        let lengths = ["input_length=16", "target_length=8"];
        place.run_on_cpu(&sized(&[&args[..], more].concat(), &[&lengths[..], &[vocab]].concat()))
    };
    train("vocab=8", &["--steps", "2", "--tokenizer", "words.json"])
        .fails(&["vocabulary of 8", "at least 9"]);
    let ran = train("vocab=384", &["--steps", "2", "--tokenizer", "words.json"]).succeeds();
    // Four words and an end in each of 400 documents.
    assert!(ran.out.contains("2.00 k tokens of words.json"), "{}", ran.out);
    let manifest = fs::read_to_string(place.at("ck/step_00000002/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert!(manifest["facts"]["tokenizer"].as_str().unwrap().starts_with("blake3:"), "{}", manifest["facts"]);
    train("vocab=384", &["--steps", "4", "--resume"]).fails(&["the tokenizer is `bytes`", "blake3:"]);
    train("vocab=384", &["--steps", "4", "--resume", "--tokenizer", "words.json"]).succeeds();
}

/// Runs `meshc train` on a tiny model, with metrics in `m.jsonl`.
#[track_caller]
fn train(place: &Workplace, args: &[&str]) -> Ran {
    let path = model("t5_tiny.rs");
    let words = [&["train", &path, "--metrics", "m.jsonl", "--json"][..], args].concat();
    place.run_on_cpu(&sized(&words, &["input_length=16", "dropout=0"]))
}

/// Returns the metrics of the last run.
fn lines(place: &Workplace) -> Vec<Value> {
    let text = fs::read_to_string(place.at("m.jsonl")).expect("there are metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("lines are JSON")).collect()
}

fn losses(place: &Workplace) -> Vec<Value> {
    lines(place).into_iter().map(|mut line| line["loss"].take()).collect()
}

/// Writes four hundred documents of a few words each.
fn documents(place: &Workplace, name: &str, words: [&str; 2]) {
    let line = |i: usize| {
        format!("{{\"text\": \"a b {} c\"}}\n", [words[0], words[1], "a"][i % 3].repeat(1 + i % 4))
    };
    place.write(name, (0..400).map(line).collect::<String>());
}

#[test]
fn prepared_tokens_train_like_the_text_they_are_of() {
    let place = Workplace::new();
    documents(&place, "in/a.jsonl", ["a ", "d "]);
    place.write("in/b.txt", "a b c d ".repeat(200));
    place.write("words.json", words());
    let prepare = ["data", "prepare", "in", "--tokenizer", "words.json", "-o", "tokens"];
    let said = place.run(&prepare).succeeds();
    assert!(said.out.contains("401 documents") && said.err.contains("b.txt"), "{}{}", said.out, said.err);
    place.run(&prepare).fails(&["`tokens` exists already"]);
    let of_text =
        json(&place.run(&["data", "stats", "in", "--tokenizer", "words.json", "--json"]).succeeds());
    let of_tokens = json(&place.run(&["data", "stats", "tokens", "--json"]).succeeds());
    assert_eq!(of_text, of_tokens);

    let steps = ["--steps", "3", "--eval-every", "3"];
    train(&place, &[&["--data", "in", "--tokenizer", "words.json"][..], &steps].concat()).succeeds();
    let (first, eval) = (losses(&place), lines(&place)[2]["eval"].clone());
    train(&place, &[&["--data", "tokens"][..], &steps].concat()).succeeds();
    assert_eq!((losses(&place), lines(&place)[2]["eval"].clone()), (first, eval));

    let wrong = ["--data", "tokens", "--tokenizer", "bytes", "--steps", "1"];
    train(&place, &wrong).fails(&["tokens in `tokens` were made by", "words.json", "not by `bytes`"]);
    train(&place, &["--data", "tokens", "--steps", "1", "--set", "vocab=6"]).fails(&["vocabulary of 6"]);
    place.run(&["data", "verify", "tokens"]).succeeds();
    let mut bytes = fs::read(place.at("tokens/tokens.bin")).unwrap();
    bytes[100] ^= 1;
    place.write("tokens/tokens.bin", bytes);
    place.run(&["data", "verify", "tokens"]).fails(&["`tokens` are damaged", "tokens.bin", "help:"]);
    train(&place, &["--data", "tokens", "--steps", "1"]).fails(&["`tokens` are damaged"]);
}

#[test]
fn a_mixture_goes_on_where_it_was_and_is_evaluated_by_text() {
    let place = Workplace::new();
    documents(&place, "en/a.jsonl", ["x", "y"]);
    documents(&place, "de/a.jsonl", ["u", "v"]);
    let named = ["--data", "en=en/*.jsonl:3", "de=de:1"];
    let steps = ["--steps", "6", "--eval-every", "6"];
    let ran = train(&place, &[&named[..], &steps].concat()).succeeds();
    assert!(ran.err.contains("75.00 % en") && ran.err.contains("25.00 % de"), "{}", ran.err);
    let straight = losses(&place);
    // The metrics of the corpora add up to the metrics of the mixture, on held-out text and in every step.
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap_or(0.0);
    let adds_up = |of: &Value| {
        let tokens = number(of, "en/tokens") + number(of, "de/tokens");
        let sum = ["en", "de"].map(|t| number(of, &format!("{t}/loss")) * number(of, &format!("{t}/tokens")));
        assert!((sum.iter().sum::<f64>() / tokens - number(of, "loss")).abs() < 1e-5, "{of}");
        tokens
    };
    let all = lines(&place);
    assert!(all.iter().all(|line| adds_up(line) > 0.0 && line.get("row_loss").is_none()));
    assert!(["en/loss", "de/loss"].iter().all(|key| all.iter().any(|line| number(line, key) > 0.0)));
    assert_eq!(adds_up(&all[5]["eval"]), number(&all[5]["eval"], "tokens"));

    // The same mixture from a file; a resumed run has the same batches.
    let sources =
        "[sources.de]\nfiles = [\"de\"]\nrate = 1\n[sources.en]\nfiles = [\"en/*.jsonl\"]\nrate = 3\n";
    place.write("mixture.toml", sources);
    let more = ["--mixture", "mixture.toml", "--checkpoint-dir", "ck", "--held-out", "0.05"];
    train(&place, &[&more[..], &["--steps", "4"]].concat()).succeeds();
    let resumed = train(&place, &[&more[..], &["--steps", "6", "--resume"]].concat()).succeeds();
    assert!(!resumed.err.contains("is not what"), "{}", resumed.err);
    assert_eq!(losses(&place), straight);

    train(&place, &["--data", "en=en", "de"]).fails(&["`--data de` has no name"]);
    train(&place, &["--data", "en=en:1", "de=de"]).fails(&["but `de` has none"]);
    train(&place, &["--data", "en=en:1", "de=de:1", "--mix-temperature", "2"])
        .fails(&["`--mix-temperature`", "has a rate"]);
    train(&place, &["--data", "en=en", "de=nowhere"]).fails(&["reading the corpus `de`", "nowhere"]);
    place.write("wrong.toml", "[source.de]\nfiles = [\"de\"]\n");
    train(&place, &["--mixture", "wrong.toml"]).fails(&["wrong.toml", "unknown field `source`"]);
}

#[test]
fn packed_rows_and_all_objectives_train() {
    let place = Workplace::new();
    documents(&place, "a.jsonl", ["x", "y"]);
    let run = |sets: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", *set]);
        let words = ["--data", "a.jsonl", "--steps", "4", "--eval-every", "4"].into_iter().chain(sets);
        let ran = train(&place, &words.collect::<Vec<_>>()).succeeds();
        let last = lines(&place).pop().expect("there are steps");
        assert!(last["eval"]["loss"].as_f64().is_some_and(f64::is_finite), "{last}");
        ran.err
    };
    for objective in ["objective=span_corruption", "objective=prefix_lm"] {
        let said = run(&[objective, "packing=true", "input_length=40", "target_length=40"]);
        let per_row =
            said.split("rows of ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
        assert!(per_row.is_some_and(|n| n > 1.5), "{objective}: {said}");
    }
    // An encoder that sees only the end token.
    assert!(!run(&["objective=lm", "input_length=1", "target_length=40"]).contains("on average"));
}

#[test]
fn generate_score_and_eval_take_the_tokenizer_of_the_checkpoint() {
    let place = Workplace::new();
    documents(&place, "a.jsonl", ["a ", "d "]);
    place.write("words.json", words());
    let tokenizer = ["--tokenizer", "words.json"];
    let more = ["--data", "a.jsonl", "--steps", "2", "--checkpoint-dir", "ck"];
    train(&place, &[&more[..], &tokenizer].concat()).succeeds();
    place.write("in.txt", "a b <extra_id_0> c\nd\n");
    let generate = ["generate", "ck", "--input", "in.txt", "--max-length", "8"];
    // The checkpoint contains the tokenizer: its file may be gone.
    fs::remove_file(place.at("words.json")).expect("it was written");
    let list = json(&place.run_on_cpu(&[&generate[..], &["--json"]].concat()).succeeds());
    place.write("ids.json", "[[3, 4, 8, 5, 1], [6, 1]]");
    let ids = ["generate", "ck", "--input", "ids.json", "--max-length", "8", "--json"];
    let same = json(&place.run_on_cpu(&ids).succeeds());
    for (a, b) in [(&list[0], &same[0]), (&list[1], &same[1])] {
        assert_eq!(a["sequences"][0]["tokens"], b["sequences"][0]["tokens"]);
        assert!(a["sequences"][0]["text"].is_string());
    }
    place.write("pairs.txt", "a b <extra_id_0>\t<extra_id_0> c\n");
    let score = ["score", "ck", "--input", "pairs.txt"];
    let scored = json(&place.run_on_cpu(&score).succeeds());
    place.write("pairs.jsonl", "{\"input\": [3, 4, 8, 1], \"target\": [8, 5, 1]}\n");
    assert_eq!(scored, json(&place.run_on_cpu(&["score", "ck", "--input", "pairs.jsonl"]).succeeds()));
    place
        .run_on_cpu(&[&generate[..], &["--tokenizer", "in.txt"]].concat())
        .fails(&["in.txt` cannot be used"]);
    let eval = ["eval", "ck", "--data", "a.jsonl", "--json"];
    let own = json(&place.run_on_cpu(&eval).succeeds());
    place.write("words.json", words());
    assert_eq!(own, json(&place.run_on_cpu(&[&eval[..], &tokenizer].concat()).succeeds()));
    // Another tokenizer would make other tokens.
    for command in [&generate[..], &score, &eval] {
        let refused = ["the tokenizer of `--tokenizer`, `bytes` (bytes), is not the one of", "(blake3:"];
        place.run_on_cpu(&[command, &["--tokenizer", "bytes"]].concat()).fails(&refused);
    }
}

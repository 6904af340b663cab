//! `meshc generate`, `eval` and `score`, with a briefly trained model and an imported one.

use crate::support::{Ran, Workplace, cpu_plugin, home, model, oracle, sized};
use serde_json::{Value, json};
use std::{io::Write, process::Stdio};

#[track_caller]
fn parsed(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.out))
}

/// Returns a number in `value`.
#[track_caller]
fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("`{key}` in {value}"))
}

#[test]
fn a_trained_model_generates_scores_and_is_evaluated() {
    let place = Workplace::new();
    let (path, data) = (model("t5_tiny.rs"), home().join("mesh/src").display().to_string());
    let train = ["train", &path, "--data", &data, "--steps", "2", "--checkpoint-dir", "ck"];
    place.run_on_cpu(&sized(&train, &[])).succeeds();
    place.write("in.txt", "let x = <extra_id_0>;\nfn main\n");

    // The checkpoint names its model; a directory of checkpoints stands for the newest one.
    let generate = ["generate", "ck", "--input", "in.txt"];
    let text = place.run_on_cpu(&generate).succeeds().out;
    assert_eq!(text.lines().count(), 2, "a line for each input: {text:?}");
    let list = parsed(&place.run_on_cpu(&[&generate[..], &["--json"]].concat()).succeeds());
    let first = &list[0]["sequences"][0];
    assert!(text.starts_with(first["text"].as_str().unwrap().lines().next().unwrap_or("")));
    let tokens: Vec<i64> = serde_json::from_value(first["tokens"].clone()).unwrap();
    assert!((1..=16).contains(&tokens.len()));

    // No token occurs twice, and the prompt of the decoder comes first.
    let more = ["--no-repeat-ngram-size", "1", "--decoder-prompt", "x = 1", "--json"];
    let once = parsed(&place.run_on_cpu(&[&generate[..], &more].concat()).succeeds());
    for sequence in [&once[0]["sequences"][0], &once[1]["sequences"][0]] {
        let mut tokens: Vec<i64> = serde_json::from_value(sequence["tokens"].clone()).unwrap();
        assert_eq!(tokens[..5], [123, 35, 64, 35, 52], "{sequence}");
        let rest = tokens.split_off(5);
        let distinct: std::collections::BTreeSet<&i64> = rest.iter().collect();
        assert!(distinct.len() == rest.len() && rest.iter().all(|t| !tokens.contains(t)), "{sequence}");
    }

    // The same with the name of the model, from a pipe, to a file.
    let args = ["generate", &path, "--checkpoint", "ck", "--input", "-", "--output", "out.txt"];
    let mut child = place
        .meshc(&sized(&args, &[]))
        .env("MESH_PJRT_PLUGIN", cpu_plugin())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"let x = <extra_id_0>;\nfn main\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(std::fs::read_to_string(place.at("out.txt")).unwrap(), text);

    // The score of greedy decoding equals the score of its tokens.
    let target = json!({"input": "let x = <extra_id_0>;", "target": tokens});
    place.write("pairs.jsonl", format!("{target}\nfn main\t{{}}\n"));
    let ran = place.run_on_cpu(&["score", "ck", "--input", "pairs.jsonl"]).succeeds();
    let scores: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(scores.len(), 2);
    if !tokens.contains(&0) {
        assert!(
            (number(&scores[0], "log_likelihood") - number(first, "score")).abs() < 1e-3,
            "{scores:?} {first}"
        );
        assert_eq!(scores[0]["correct"], scores[0]["tokens"], "each was the most likely one");
    }
    assert_eq!(scores[1]["tokens"], 3, "two bytes and the end");
    let all: Value = serde_json::from_str(ran.err.lines().last().unwrap()).unwrap();
    assert_eq!((&all["pairs"], number(&all, "tokens")), (&json!(2), tokens.len() as f64 + 3.0));

    let eval = ["eval", "ck", "--data", &data, "--batches", "2", "--json"];
    let one = parsed(&place.run_on_cpu(&eval).succeeds());
    assert!((number(&one, "perplexity").ln() - number(&one, "loss")).abs() < 1e-9);
    assert!(number(&one, "tokens") > 0.0 && (0.0..=1.0).contains(&number(&one, "accuracy")));
    let four = parsed(&place.run_on_cpu(&[&eval[..], &["--mesh", "data=4"]].concat()).succeeds());
    assert!((number(&one, "loss") - number(&four, "loss")).abs() < 1e-4, "{one} {four}");

    // Without --batches, every row of the text counts: the last batch has only some of its rows.
    place.write("rows.txt", "fn main() { }\n".repeat(55));
    let whole = parsed(&place.run_on_cpu(&["eval", "ck", "--data", "rows.txt", "--json"]).succeeds());
    let count = |key: &str| number(&whole, key) as usize;
    assert_eq!((count("rows_left_out"), count("rows").div_ceil(4)), (0, count("batches")), "{whole}");
    assert!(count("rows") % 4 != 0 && count("tokens_left_over") < 770 / count("rows"), "{whole}");

    let wrong = |args: &[&str], parts: &[&str]| drop(place.run_on_cpu(args).fails(parts));
    wrong(&sized(&["generate", &path, "--input", "in.txt"], &[]), &["no parameters", "--checkpoint"]);
    wrong(&["generate", "ck", "--input", "none.txt"], &["none.txt"]);
    place.write("long.txt", "x".repeat(40));
    wrong(&["generate", "ck", "--input", "long.txt"], &["41 tokens", "input_length=41"]);
    place.write("empty.txt", "");
    wrong(&["generate", "ck", "--input", "empty.txt"], &["no inputs"]);
    place.write("bad.json", "{}");
    wrong(&["generate", "ck", "--input", "bad.json"], &["not a list of inputs"]);
    place.write("bad.tsv", "a\tb\nno tab\n");
    wrong(&["score", "ck", "--input", "bad.tsv"], &["line 2", "no tab"]);
    wrong(&["generate", "ck", "--input", "in.txt", "--set", "d_model=8"], &["does not fit"]);
    place.run(&["eval", "ck", "--data", &data, "--held-out", "0"]).fails_with(2, &["'--held-out <SHARE>'"]);
}

#[test]
fn what_does_nothing_is_told_before_anything_is_read() {
    let place = Workplace::new();
    let wrong = |more: &[&str], parts: &[&str]| {
        let ran = place.run(&[&["generate", "ck", "--input", "in.txt"], more].concat());
        if more[0] == "--repetition-penalty" {
            ran.fails_with(2, parts)
        } else {
            ran.fails(parts)
        };
    };
    wrong(&["--top-k", "3"], &["--method greedy", "--method sample"]);
    wrong(&["--temperature", "2"], &["--method greedy"]);
    wrong(&["--sequences", "2"], &["`--sequences 2`", "gives one"]);
    wrong(
        &["--method", "beam", "--beams", "2", "--sequences", "3"],
        &["`--sequences 3` exceeds `--beams 2`"],
    );
    wrong(&["--early-stopping", "first"], &["--method beam"]);
    wrong(&["--repetition-penalty", "0"], &["--repetition-penalty", "above 0"]);
}

#[test]
fn an_imported_model_gives_the_tokens_that_others_get() {
    let Some(dir) = oracle("switch_step2_tight") else { return };
    let place = Workplace::new();
    let folder = dir.display().to_string();
    place.run(&["convert", "hf", &folder, "ck"]).succeeds();
    let bytes = std::fs::read(dir.join("expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let input = dir.join("inputs.safetensors").display().to_string();
    let args = ["generate", "ck", "--input", &input, "--max-length", "16", "--json"];
    for (more, key) in [
        (&[][..], "generate.cached"),
        (&["--uncached"], "generate.uncached"),
        (&["--mesh", "data=2,expert=2,model=2"], "generate.cached"),
        (&["--method", "beam", "--beams", "1"], "generate.cached"),
    ] {
        let list = parsed(&place.run_on_cpu(&[&args[..], more].concat()).succeeds());
        let ids = expected.tensor(key).unwrap();
        let ids: Vec<i64> = ids
            .data()
            .chunks_exact(4)
            .map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            .collect();
        for (row, want) in list.as_array().unwrap().iter().zip(ids.chunks_exact(17)) {
            let mut have: Vec<i64> = serde_json::from_value(row["sequences"][0]["tokens"].clone()).unwrap();
            have.resize(16, 0);
            assert_eq!(have, want[1..], "{more:?}");
        }
        assert_eq!(list.as_array().unwrap().len(), ids.len() / 17);
    }
    let ran = place.run_on_cpu(&["generate", "ck", "--input", &input, "--output", "out.safetensors"]);
    ran.succeeds();
    let bytes = std::fs::read(place.at("out.safetensors")).unwrap();
    let out = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(out.tensor("tokens").unwrap().shape()[..2], [3, 1]);
    assert_eq!(out.tensor("scores").unwrap().shape(), [3, 1]);
}

#[test]
fn a_language_model_continues_texts() {
    let place = Workplace::new();
    place.write("data.txt", "one two three four five six seven eight nine ten\n".repeat(40));
    let sizes =
        ["layers=1", "batch=4", "d_model=16", "d_ff=16", "heads=2", "kv_heads=1", "d_kv=8", "experts=2"];
    let sizes = sizes.iter().chain(&["target_length=32"]).flat_map(|s| ["--set", s]);
    let train = ["train", "switch_gpt_tiny", "--data", "data.txt", "--steps", "2", "--checkpoint-dir", "ck"];
    place.run_on_cpu(&train.into_iter().chain(sizes).collect::<Vec<_>>()).succeeds();

    // The second input is longer than the program's usual limit, for which another one is built.
    place.write("in.txt", format!("one\n{}\n", "two three ".repeat(4)));
    let generate = ["generate", "ck", "--input", "in.txt", "--max-length", "5", "--json"];
    let list = parsed(&place.run_on_cpu(&generate).succeeds());
    let first = &list[0]["sequences"][0];
    let tokens: Vec<i64> = serde_json::from_value(first["tokens"].clone()).unwrap();
    assert!((1..=5).contains(&tokens.len()) && list.as_array().unwrap().len() == 2, "{list}");
    let fixed = [&generate[..], &["--set", "input_length=8"]].concat();
    place.run_on_cpu(&fixed).fails(&["input 2 has 40 tokens, but the program takes at most 8"]);

    let prompted = [&generate[..], &["--decoder-prompt", "one"]].concat();
    place.run_on_cpu(&prompted).fails(&["`decoder_prompt` has no effect in a language model"]);

    // The tokens of the text `one` are its bytes, without an end token.
    let ids: Vec<i64> = "one".bytes().map(|byte| i64::from(byte) + 3).collect();
    let pairs = [json!({"input": "one", "target": " two"}), json!({"input": ids, "target": " two"})];
    place.write(
        "pairs.jsonl",
        format!("{}\n{}\n{}\n", pairs[0], pairs[1], json!({"input": "", "target": "one"})),
    );
    let ran = place.run_on_cpu(&["score", "ck", "--input", "pairs.jsonl"]).succeeds();
    let scores: Vec<Value> = ran.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&scores[0], number(&scores[2], "tokens")), (&scores[1], 3.0), "{scores:?}");
    assert_eq!(scores[0]["tokens"], 4, "four bytes, without an end");
}

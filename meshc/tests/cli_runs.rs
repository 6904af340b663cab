//! Run directories by default, and what a run takes from checkpoints: its tokenizer, and the best evaluation.

use crate::{
    cli_training::Running,
    support::{
        Ran, TINY, Workplace,
        job::{self, bigram},
        words,
    },
};
use runtime::Checkpoint;
use std::{collections::BTreeMap, fs, process::Command};

/// Trains the smallest program.
fn train(place: &Workplace, more: &[&str]) -> Ran {
    Ran::new(job::train(place, &bigram(), more).output().unwrap())
}

/// Returns the facts of a checkpoint.
fn facts(place: &Workplace, name: &str) -> BTreeMap<String, String> {
    let checkpoint = Checkpoint::open(&place.at(name)).unwrap_or_else(|e| panic!("{e}"));
    checkpoint.facts().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[test]
fn a_run_without_a_directory_is_resumed_in_the_newest_one_of_its_program() {
    let place = Workplace::new();
    // The first start of a command that is repeated until it ends.
    let first = train(&place, &["--steps", "2", "--save-every", "1", "--resume"]).succeeds();
    assert!(first.err.contains("no checkpoint in runs/bigram-1/checkpoints yet"), "{}", first.err);
    train(&place, &["--steps", "1"]).succeeds();
    // A run of another program, and one that has saved nothing.
    fs::create_dir_all(place.at("runs/bigrams-9/checkpoints/step_00000007")).unwrap();
    fs::create_dir(place.at("runs/bigram-3")).unwrap();
    let resumed = train(&place, &["--steps", "3", "--resume"]).succeeds();
    let said = "--resume: the newest run of `bigram` is in runs/bigram-2";
    assert!(resumed.err.contains(said), "{}", resumed.err);
    assert_eq!(place.folders("runs/bigram-2/checkpoints"), ["step_00000001", "step_00000003"]);
    assert_eq!(place.folders("runs"), ["bigram-1", "bigram-2", "bigram-3", "bigrams-9"]);
    assert_eq!(place.metrics("runs/bigram-2/metrics.jsonl").len(), 3);
}

#[test]
fn options_of_checkpoints_need_a_place_for_them() {
    let place = Workplace::new();
    for option in [
        &["--save-every", "2"][..],
        &["--keep", "1"],
        &["--keep-every", "2"],
        &["--resume"],
        &["--spike-sigmas", "6"],
    ] {
        let message = format!("`{}` needs a directory for checkpoints, and this run has none", option[0]);
        for without in [&["--no-run-dir"][..], &["--metrics", "m.jsonl"]] {
            train(&place, &[option, without].concat())
                .fails(&[&message, "--run-dir DIR or --checkpoint-dir DIR"]);
        }
    }
    // This is refused before the data are read.
    for place_of_others in [["--checkpoint-dir", "c"], ["--metrics", "m.jsonl"]] {
        place
            .run(
                &[&["train", "t5_tiny", "--data", "no.txt", "--profile", "2"], &place_of_others[..]].concat(),
            )
            .fails(&["`--profile` writes to a run directory, and there is none", "--run-dir DIR"]);
    }
    assert_eq!(place.entries(), [""; 0]);
}

#[test]
fn a_run_that_fails_before_it_begins_leaves_no_directory() {
    let place = Workplace::new();
    let runs = || if place.at("runs").exists() { place.folders("runs") } else { Vec::new() };
    // Refused after the lock of the checkpoints was taken.
    train(&place, &["--eval-every", "1", "--held-out", "0"]).fails(&["`--eval-every 1`", "--eval-data"]);
    assert_eq!(runs(), [""; 0]);
    let mut command: Command = job::train(&place, &bigram(), &[]);
    command.env("MESH_PJRT_PLUGIN", place.at("none.so"));
    Ran::new(command.output().unwrap()).fails(&["none.so"]);
    assert_eq!(runs(), [""; 0]);
    // Ended by a signal while its programs are compiled: the record of the start remains.
    let mut command = job::train(&place, &bigram(), &["--no-executable-cache"]);
    command.env("XLA_FLAGS", "--xla_backend_optimization_level=3");
    let mut running = Running::start(command);
    running.until("compiling init");
    running.signal("-TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(143), "{said}");
    assert!(place.at("runs/bigram-1/run.json").is_file() && place.at("runs/bigram-1/config.toml").is_file());
}

#[test]
fn training_from_a_checkpoint_has_its_tokenizer() {
    let place = Workplace::new();
    let text = place.write("a.txt", "a b c d\na c b d d a\n".repeat(40));
    place.write("words.json", words());
    place.write("held.txt", "a b c d\n".repeat(40));
    let train = |more: &[&str]| {
        let args = ["train", &bigram(), "--seed", "3", "--steps", "1", "--data", text.to_str().unwrap()];
        place.run_on_cpu(&[&args[..], more].concat())
    };
    train(&["--tokenizer", "words.json", "--checkpoint-dir", "first"]).succeeds();
    let first = facts(&place, "first/step_00000001");
    assert!(first["tokenizer"].starts_with("blake3:"), "{first:?}");
    let from = ["--from", "first", "--eval-every", "1", "--eval-data", "held.txt"];
    train(&[&from[..], &["--checkpoint-dir", "again"]].concat()).succeeds();
    assert_eq!(facts(&place, "again/step_00000001")["tokenizer"], first["tokenizer"]);
    // The text of --eval-data has the tokenizer of the training data: 40 times 4 words and an end.
    let named = [&from[..], &["--tokenizer", "words.json", "--checkpoint-dir", "named"]].concat();
    train(&named).succeeds();
    let loss = |dir: &str| facts(&place, &format!("{dir}/step_00000001"))["eval_loss"].clone();
    assert_eq!(loss("again"), loss("named"));
    let other = "the tokenizer of `--tokenizer`, `bytes` (bytes), is not the one of `first/step_00000001`";
    train(&["--from", "first", "--tokenizer", "bytes"]).fails(&[other]);
    // Prepared tokens name the tokenizer; text for evaluation needs the same one.
    place.run(&["data", "prepare", "a.txt", "--tokenizer", "words.json", "-o", "tokens"]).succeeds();
    let prepared =
        ["train", &bigram(), "--steps", "1", "--data", "tokens", "--run-dir", "p", "--from", "first"];
    place.run_on_cpu(&prepared).succeeds();
    let bytes = ["data", "prepare", "a.txt", "-o", "bytes"];
    place.run(&bytes).succeeds();
    let wrong = ["train", &bigram(), "--steps", "1", "--data", "bytes", "--from", "first"];
    place.run_on_cpu(&wrong).fails(&["made by the tokenizer `bytes`"]);
    // A checkpoint that does not contain its tokenizer is no reason for bytes.
    let checkpoint = place.at("first/step_00000001");
    for file in fs::read_dir(&checkpoint).unwrap().map(|entry| entry.unwrap().path()) {
        if file.file_name().unwrap().to_string_lossy().starts_with("tokenizer") {
            fs::remove_file(file).unwrap();
        }
    }
    assert_ne!(train(&["--from", "first"]).code, Some(0));
}

#[test]
fn facts_of_checkpoints_name_the_metric_that_decides() {
    let place = Workplace::new();
    let first = ["--steps", "4", "--eval-every", "2", "--eval-batches", "1", "--held-out", "0.2"];
    let best = ["--best", "tokens", "--keep-best", "1", "--run-dir", "r"];
    train(&place, &[&first[..], &best].concat()).succeeds();
    let found = facts(&place, "r/checkpoints/step_00000002");
    let number = |name: &str| found[name].parse::<f64>().unwrap();
    assert!(number("eval_loss") > 1.0, "{found:?}");
    assert_eq!((found["best_metric"].as_str(), number("eval_metric")), ("tokens", 128.0), "{found:?}");
    assert_eq!(found["best_eval"], "2 128", "the first of two equal ones: {found:?}");
    assert_eq!(place.folders("r/checkpoints"), ["step_00000002", "step_00000004"]);
    // Resumed by another criterion, the values of the metric are forgotten.
    let more = ["--steps", "6", "--resume", "--keep-best", "1", "--run-dir", "r"];
    let first = &first[2..];
    train(&place, &[first, &more].concat()).succeeds();
    let found = facts(&place, "r/checkpoints/step_00000006");
    assert!(!found.contains_key("best_metric") && found["best_eval"].starts_with("6 "), "{found:?}");
}

/// A padded vocabulary that nothing splits.
#[test]
fn one_device_trains_without_the_padding_of_several_and_continues_their_run() {
    let place = Workplace::new();
    let data = place.write("a.txt", "some text to train on\n".repeat(80));
    let small = TINY.into_iter().chain(["--set", "vocab=301"]);
    let train = |more: &[&str]| {
        let first = ["train", "t5_tiny", "--data", data.to_str().unwrap(), "--seed", "3"];
        let args: Vec<&str> = first.into_iter().chain(small.clone()).chain(more.iter().copied()).collect();
        place.run_on_cpu(&args).succeeds()
    };
    let losses = |run: &str| -> Vec<String> {
        let lines = place.metrics(&format!("{run}/metrics.jsonl"));
        lines.iter().map(|line| line["loss"].to_string()).collect()
    };
    train(&["--steps", "2", "--run-dir", "plain"]);
    let padded = ["--set", "vocab_padding=3"];
    let ran = train(&[&padded[..], &["--steps", "2", "--run-dir", "padded"]].concat());
    assert!(ran.err.contains("`vocab_padding` is 0 on one device"), "{}", ran.err);
    assert_eq!(losses("plain"), losses("padded"), "the same bits");
    // A run on two devices continues on one, and does not warn of the padding.
    let split = ["--mesh", "model=2", "--steps", "1", "--run-dir", "split"];
    train(&[&["--set", "vocab_padding=1"], &split[..]].concat());
    let one = ["--steps", "2", "--run-dir", "split", "--resume"];
    let ran = train(&[&["--set", "vocab_padding=1"], &one[..]].concat());
    assert!(!ran.err.contains("with other settings"), "{}", ran.err);
    assert_eq!(losses("split").len(), 2);
}

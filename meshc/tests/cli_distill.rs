//! Distillation: with a teacher in the step, and with a file of its logits.

use crate::support::{self, Workplace};
use serde_json::Value;

/// Settings of tiny models without random numbers in training.
const SETTINGS: [&str; 4] = ["input_length=24", "target_length=8", "dropout=0", "vocab=300"];

/// Returns the arguments with `more` settings, and those of tiny models that these do not change.
fn sized<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let more = more.iter().flat_map(|setting| ["--set", *setting]);
    support::sized(&args.iter().copied().chain(more).collect::<Vec<_>>(), &SETTINGS)
}

/// A place with four pairs, which are one batch, a task, a text, and a trained teacher.
fn place() -> Workplace {
    let place = Workplace::new();
    let pair = |n: usize| format!("{{\"inputs\": \"a x {n} b\", \"targets\": \"y{n}\"}}\n");
    place.write("pairs.jsonl", (0..4).map(pair).collect::<String>());
    place.write("text.txt", "some words of text, again and again. ".repeat(60));
    let teacher = ["train", "t5_tiny", "--data", "text.txt", "--steps", "2", "--checkpoint-dir", "teacher"];
    place.run_on_cpu(&sized(&teacher, &["layers=2"])).succeeds();
    place
}

#[track_caller]
fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} is not in {line}"))
}

#[test]
fn a_file_of_logits_teaches_as_the_teacher_does() {
    let place = place();
    let online = ["train", "t5_tiny", "--teacher", "teacher", "--tasks", "pairs.jsonl", "--steps", "3"];
    let online = [&online[..], &["--seed", "5", "--no-run-dir", "--metrics", "online.jsonl"]].concat();
    place.run_on_cpu(&sized(&online, &["distill_init=false", "distill_temperature=2"])).succeeds();
    let score =
        ["score", "teacher", "--logits", "logits.safetensors", "--tasks", "pairs.jsonl", "--split", "train"];
    let out = place.run_on_cpu(&[&score[..], &["--top", "300"]].concat()).succeeds().out;
    assert!(out.contains("logits.safetensors: 4 rows with 300 logits for each target token"), "{out}");
    let offline =
        ["train", "t5_tiny", "--teacher-logits", "logits.safetensors", "--steps", "3", "--seed", "5"];
    let offline = [&offline[..], &["--checkpoint-dir", "student", "--metrics", "offline.jsonl"]].concat();
    let out = place.run_on_cpu(&sized(&offline, &["distill_temperature=2"])).succeeds().out;
    assert!(out.contains("4 rows with 300 logits of the teacher"), "{out}");
    let (a, b) = (place.metrics("online.jsonl"), place.metrics("offline.jsonl"));
    assert_eq!((a.len(), b.len()), (3, 3));
    for (a, b) in a.iter().zip(&b) {
        for name in ["loss", "soft_loss", "grad_norm"] {
            let (a, b) = (number(a, name), number(b, name));
            assert!(
                (a - b).abs() < 1e-6 * a.abs().max(1.0),
                "{name}: {a} with the teacher, {b} with its logits"
            );
        }
    }
    // The student is a model like any other.
    let out =
        place.run_on_cpu(&["eval", "student", "--tasks", "pairs.jsonl", "--split", "train"]).succeeds().out;
    assert!(out.contains("exact_match"), "{out}");
    // The training run goes on, and its data must be the same.
    let on = ["train", "t5_tiny", "--teacher-logits", "logits.safetensors", "--checkpoint-dir", "student"];
    let on = [&on[..], &["--resume", "--steps", "4"]].concat();
    place.run_on_cpu(&sized(&on, &["distill_temperature=2"])).succeeds();
}

#[test]
fn rows_of_text_have_few_logits_and_held_out_rows() {
    let place = place();
    let score = ["score", "teacher", "--logits", "l.safetensors", "--data", "text.txt", "--top", "5"];
    place.run_on_cpu(&score).succeeds();
    let train =
        ["train", "t5_tiny", "--teacher-logits", "l.safetensors", "--no-run-dir", "--eval-every", "2"];
    let train = [&train[..], &["--held-out", "0.2", "--steps", "2", "--metrics", "m.jsonl"]].concat();
    place.run_on_cpu(&sized(&train, &[])).succeeds();
    let last = place.metrics("m.jsonl").pop().unwrap();
    assert!(number(&last, "soft_loss") > 0.0 && number(&last["eval"], "loss") > 0.0, "{last}");
    let eval = ["eval", "teacher", "--teacher-logits", "l.safetensors"];
    assert!(place.run_on_cpu(&eval).succeeds().out.contains("perplexity"));

    let fails = |args: &[&str], more: &[&str], parts: &[&str]| {
        let train = ["train", "t5_tiny", "--teacher-logits", "l.safetensors", "--steps", "1", "--no-run-dir"];
        place.run_on_cpu(&sized(&[&train[..], args].concat(), more)).fails(parts);
    };
    fails(&[], &["vocab=384"], &["l.safetensors` has another vocabulary: 300 tokens"]);
    fails(&[], &["distill_logits=4"], &["5 logits for each target token", "takes 4"]);
    fails(&[], &["target_length=4"], &["--set input_length=24 --set target_length=8"]);
    fails(&[], &["packing=true"], &["`distill_logits` needs rows of one example"]);
    let both = ["train", "t5_tiny", "--teacher-logits", "l.safetensors", "--teacher", "teacher"];
    place.run(&both).fails_with(2, &["cannot be used with"]);
    let whole = std::fs::read(place.at("l.safetensors")).unwrap();
    place.write("l.safetensors", &whole[..whole.len() - 1]);
    fails(&[], &[], &["rows take"]);
    place.write("l.safetensors", [&whole[..whole.len() - 1], &[whole[whole.len() - 1] ^ 1]].concat());
    fails(&[], &[], &["is damaged"]);
    place.write("l.safetensors", "no");
    fails(&[], &[], &["is no file of a teacher's logits"]);
    let score = |args: &[&str], parts: &[&str]| {
        place.run_on_cpu(&[&["score", "teacher"], args].concat()).fails(parts);
    };
    score(&["--logits", "x.safetensors", "--data", "text.txt", "--top", "301"], &["`--top`", "300", "301"]);
    score(&["--data", "text.txt"], &["--logits FILE"]);
    place
        .run(&["score", "teacher", "--logits", "x.safetensors"])
        .fails_with(2, &["required arguments", "--data"]);
    place
        .run(&["score", "teacher", "--input", "pairs.txt", "--teacher-logits", "l.safetensors"])
        .fails_with(2, &["--input <FILE>", "cannot be used with", "--teacher-logits <FILE>"]);
    place
        .run(&["score", "teacher", "--teacher-logits", "l.safetensors"])
        .fails_with(2, &["required arguments", "--input"]);
    place
        .run(&["score", "teacher", "--input", "pairs.txt", "--top", "5"])
        .fails_with(2, &["--top <K>", "cannot be used with", "--input <FILE>"]);
    place
        .run(&["score", "teacher", "--data", "a.txt", "--top", "5"])
        .fails_with(2, &["required arguments", "--logits <FILE.safetensors>"]);
    assert!(!place.run(&["score", "--help"]).succeeds().out.contains("--teacher-logits <"));
    assert!(!place.at("x.safetensors").exists());
}

#[test]
fn a_student_with_its_own_checkpoint_is_fine_tuned_with_a_teacher() {
    let place = place();
    let student = ["train", "t5_tiny", "--data", "text.txt", "--steps", "1", "--checkpoint-dir", "student"];
    place.run_on_cpu(&sized(&student, &[])).succeeds();
    let train = ["train", "t5_tiny", "--teacher", "teacher", "--from", "student", "--tasks", "pairs.jsonl"];
    let more =
        ["--steps", "2", "--eval-every", "2", "--held-out", "0.25", "--eval-metrics", "--run-dir", "run"];
    let out = place.run_on_cpu(&sized(&[&train[..], &more].concat(), &[])).succeeds();
    let said = format!("{}{}", out.out, out.err);
    assert!(said.contains("parameters from teacher/") && said.contains("parameters from student/"), "{said}");
    let loaded: Value = serde_json::from_slice(&std::fs::read(place.at("run/loaded.json")).unwrap()).unwrap();
    assert!(loaded["checkpoint"].as_str().unwrap().starts_with("student/"), "{loaded}");
    let last = place.metrics("run/metrics.jsonl").pop().unwrap();
    assert!(number(&last, "soft_loss") > 0.0 && number(&last, "teacher_loss") > 0.0, "{last}");
    assert!(last["eval"]["pairs/generate/exact_match"].as_f64().is_some(), "{last}");
    // The first step has the loss of the student's checkpoint, not that of its teacher's parameters.
    let first = |args: &[&str], name: &str| {
        let train =
            ["train", "t5_tiny", "--tasks", "pairs.jsonl", "--steps", "1", "--no-run-dir", "--metrics", name];
        place.run_on_cpu(&sized(&[&train[..], args].concat(), &[])).succeeds();
        number(&place.metrics(name)[0], "loss")
    };
    let alone = first(&["--from", "student"], "a.jsonl");
    let taught = first(&["--from", "student", "--teacher", "teacher"], "b.jsonl");
    let from_teacher = first(&["--teacher", "teacher"], "c.jsonl");
    assert!(
        (alone - taught).abs() < 1e-6 && (alone - from_teacher).abs() > 1e-4,
        "{alone} {taught} {from_teacher}"
    );
    let other = ["train", "student", "--teacher", "teacher", "--tasks", "pairs.jsonl", "--steps", "1"];
    place.run_on_cpu(&other).fails(&["`--teacher` needs the model of the student", "--from"]);
}

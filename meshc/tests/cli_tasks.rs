//! Supervised tasks: training on them, and evaluation by generation and rank classification.

use crate::support::{Workplace, model};
use serde_json::Value;

/// Sizes of a tiny model.
const SIZES: [&str; 8] = [
    "d_model=16",
    "d_ff=16",
    "heads=2",
    "d_kv=8",
    "input_length=24",
    "target_length=8",
    "layers=1",
    "batch=4",
];

/// A task whose label says if a text has the letter x.
const TASK: &str = "inputs = \"has x: {text}\"\nmetrics = [\"accuracy\", \"f1\"]\nlanguage = \"LANGUAGE\"\n\
                    [label]\nfield = \"label\"\nnames = [\"no\", \"yes\"]\n\
                    [splits]\ntrain = [\"train.jsonl\"]\nvalidation = [\"valid.jsonl\"]\ntest = [\"test.jsonl\"]\n";

fn place() -> Workplace {
    let place = Workplace::new();
    let line = |n: usize, label: i64| {
        let text = if n.is_multiple_of(2) { "a b c" } else { "a x c" };
        format!("{{\"text\": \"{text} {n}\", \"label\": {label}}}\n")
    };
    let lines = |range: std::ops::Range<usize>| range.map(|n| line(n, (n % 2) as i64)).collect::<String>();
    place.write("train.jsonl", lines(0..20));
    place.write("valid.jsonl", lines(20..25));
    place.write("test.jsonl", (0..3).map(|n| line(n, -1)).collect::<String>());
    place.write("x.toml", TASK.replace("LANGUAGE", "en"));
    place.write("y.toml", TASK.replace("LANGUAGE", "de"));
    place.write("pairs.jsonl", "{\"inputs\": \"1 and 2 and 3 and 4 and 5\", \"targets\": \"a\"}\n".repeat(5));
    place
}

fn sized<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let sizes = SIZES.iter().flat_map(|size| ["--set", *size]);
    args.iter().copied().chain(sizes).collect()
}

#[track_caller]
fn lines(place: &Workplace, name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.at(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn tasks_are_trained_on_and_evaluated() {
    let place = place();
    let path = model("t5_tiny.rs");
    let train = ["train", &path, "--tasks", "x.toml", "pairs.jsonl", "--steps", "2", "--eval-every", "2"];
    let more = ["--mix-temperature", "2", "--checkpoint-dir", "ck", "--metrics", "m.jsonl"];
    let out = place.run_on_cpu(&sized(&[&train[..], &more].concat())).succeeds().out;
    // The square roots of 20 and 4 are as 69 to 31.
    assert!(out.contains("69.10 % x: 20 examples, 5 held out, none cut"), "{out}");
    assert!(out.contains("30.90 % pairs: 4 examples, 1 held out, 5 inputs and 0 targets cut"), "{out}");
    let eval = &place.metrics("m.jsonl")[1]["eval"];
    assert!(eval["x/loss"].as_f64().is_some() && eval["pairs/loss"].as_f64().is_some(), "{eval}");

    // Two tasks in two languages, both ways, and their losses.
    let by = ["--by", "generate", "rank", "loss"];
    let eval = ["eval", "ck", "--tasks", "x.toml", "y.toml", "--predictions", "p.jsonl"];
    let out = place.run_on_cpu(&[&eval[..], &by].concat()).succeeds().out;
    let rows: Vec<&str> = out.lines().filter(|line| line.contains("  accuracy ")).collect();
    assert_eq!(rows.len(), 8, "{out}");
    assert!(
        rows[0].starts_with("x ") && rows[0].contains("generate") && rows[4].contains("language de"),
        "{out}"
    );
    assert!(
        out.contains("\nx        ")
            && out.contains("\ny        ")
            && out.contains("rows_left_out            0"),
        "{out}"
    );
    let predictions = lines(&place, "p.jsonl");
    assert_eq!(predictions.len(), 20);
    for (line, number) in predictions[10..].iter().zip((0..5).cycle()) {
        let [no, yes] = [0, 1].map(|at| line["scores"][at]["log_likelihood"].as_f64().unwrap());
        assert_eq!(line["prediction"], if yes > no { "yes" } else { "no" }, "{line}");
        assert_eq!((&line["method"], &line["example"]), (&"rank".into(), &number.into()));
        assert!(no < 0.0 && yes < 0.0 && line["inputs"].as_str().unwrap().starts_with("has x: a "));
    }

    // Hidden targets give predictions and no values; --examples takes the first.
    let test =
        ["eval", "ck", "--tasks", "x.toml", "--split", "test", "--examples", "2", "--predictions", "t.jsonl"];
    assert!(place.run_on_cpu(&test).succeeds().out.contains("no targets"));
    assert_eq!(lines(&place, "t.jsonl").len(), 2);
    let json = ["eval", "ck", "--tasks", "pairs.jsonl", "--json"];
    let result: Value = serde_json::from_str(&place.run_on_cpu(&json).succeeds().out).unwrap();
    assert!(result["tasks"]["pairs/generate/exact_match"].as_f64().is_some(), "{result}");
}

#[test]
fn tasks_that_cannot_be_used_are_refused() {
    let place = place();
    let path = model("t5_tiny.rs");
    let fails = |args: &[&str], parts: &[&str]| {
        let train = ["train", path.as_str(), "--steps", "1", "--run-dir", "run", "--tasks"];
        place.run_on_cpu(&sized(&[&train[..], args].concat())).fails(parts);
        assert!(!place.at("run/metrics.jsonl").exists());
    };
    place.write("unknown.toml", "input = \"x\"\n[splits]\ntrain = [\"train.jsonl\"]\n");
    fails(&["unknown.toml"], &["unknown.toml` is not a task", "unknown field `input`"]);
    place
        .write("missing.toml", "inputs = \"{word}\"\ntargets = \"a\"\n[splits]\ntrain = [\"train.jsonl\"]\n");
    fails(&["missing.toml"], &["line 1 of `train.jsonl` has no field `word`, but `text`, `label`"]);
    place.write(
        "empty.jsonl",
        "{\"inputs\": \"a\", \"targets\": \"b\"}\n{\"inputs\": \"a\", \"targets\": \"\"}\n",
    );
    fails(&["empty.jsonl"], &["line 2 of `empty.jsonl` has an empty target"]);
    place.write("train.jsonl", "{\"text\": \"a\", \"label\": \"maybe\"}\n");
    fails(&["x.toml"], &["line 1 of `train.jsonl` has the label `maybe`", "outside the set `no`, `yes`"]);
    fails(&["glue_rte"], &["no file matches `glue/rte/train*`"]);
    fails(&["nothing"], &["`nothing` is no task", "meshc tasks"]);
    let data = ["train", &path, "--data", "empty.jsonl", "--steps", "1"];
    place.run_on_cpu(&sized(&data)).fails(&["has no field `text`", "--tasks"]);
    place.run(&["eval", &path, "--data", "empty.jsonl", "--by", "rank"]).fails(&["`--by`", "--tasks"]);
}

#[test]
fn the_tasks_of_mesh_are_listed_and_printed() {
    let place = Workplace::new();
    let list = place.run(&["tasks"]).succeeds().out;
    assert!(list.contains("super_glue_boolq") && list.lines().count() >= 30, "{list}");
    assert!(place.run(&["tasks", "squad"]).succeeds().out.contains("metrics = [\"squad\"]"));
    place.run(&["tasks", "squid"]).fails(&["`squid` is no task"]);
}

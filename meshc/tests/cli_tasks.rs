//! Supervised tasks: training on them, and evaluation by generation and rank classification.

use crate::support::{Workplace, model, sized};
use serde_json::Value;

/// Lengths of a tiny model.
const LENGTHS: [&str; 2] = ["input_length=24", "target_length=8"];

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
    let out = place.run_on_cpu(&sized(&[&train[..], &more].concat(), &LENGTHS)).succeeds().out;
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
        place.run_on_cpu(&sized(&[&train[..], args].concat(), &LENGTHS)).fails(parts);
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
    place.run_on_cpu(&sized(&data, &LENGTHS)).fails(&["has no field `text`", "--tasks"]);
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

/// Returns the evaluations of a run by step.
#[track_caller]
fn evaluations(place: &Workplace, name: &str) -> Vec<(u64, Value)> {
    let lines = place.metrics(name).into_iter().filter(|line| line["eval"].is_object());
    lines.map(|line| (line["step"].as_u64().unwrap(), line["eval"].clone())).collect()
}

#[test]
fn metrics_during_training_decide_which_checkpoint_is_kept() {
    let place = place();
    let path = model("t5_tiny.rs");
    let train =
        ["train", &path, "--tasks", "x.toml", "y.toml", "--steps", "6", "--eval-every", "2", "--seed", "1"];
    let best = "x/generate/accuracy";
    let more = ["--eval-metrics", "--eval-examples", "3", "--best", best, "--keep-best", "1", "--keep", "1"];
    let more = [&more[..], &["--run-dir", "run", "--set", "lr=0.05"]].concat();
    let out = place.run_on_cpu(&sized(&[&train[..], &more].concat(), &LENGTHS)).succeeds().out;
    let all = evaluations(&place, "run/metrics.jsonl");
    assert_eq!(all.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4, 6]);
    for (step, eval) in &all {
        for name in ["x/generate/accuracy", "x/generate/f1", "y/generate/accuracy", "en/generate/f1"] {
            let value = eval[name].as_f64().unwrap_or_else(|| panic!("{name} is not in {eval}"));
            assert!((0.0..=100.0).contains(&value), "{name}: {value}");
        }
        // The values are those of the predictions.
        let predictions = lines(&place, &format!("run/predictions/step_{step:08}.jsonl"));
        assert_eq!(predictions.len(), 6);
        let of_x: Vec<&Value> = predictions.iter().filter(|line| line["task"] == "x").collect();
        let right = of_x.iter().filter(|line| line["prediction"] == line["target"]).count();
        let accuracy = eval[best].as_f64().unwrap();
        assert!((accuracy - 100.0 * right as f64 / 3.0).abs() < 1e-9, "{accuracy}: {of_x:?}");
    }
    // The first of the largest values is the best, and its checkpoint is there beside the newest.
    let value = |eval: &Value| eval[best].as_f64().unwrap();
    let (step, largest) =
        all.iter().rev().map(|(s, e)| (*s, value(e))).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(out.contains(&format!("{best} {largest:.4} after step {step}")), "{out}");
    let kept: Vec<String> = [step, 6].iter().map(|step| format!("step_{step:08}")).collect();
    for entry in std::fs::read_dir(place.at("run/checkpoints")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(kept.contains(&name) || !name.starts_with("step_"), "{name}, and {kept:?} are kept");
    }
    kept.iter().for_each(|name| assert!(place.at(&format!("run/checkpoints/{name}")).exists(), "{name}"));
    // The page has a table and charts by task.
    place.run(&["runs", "run"]).succeeds();
    let page = std::fs::read_to_string(place.at("run/index.html")).unwrap();
    assert!(page.contains("<td>x</td><td>generate</td><td>accuracy</td>"), "{page}");
    assert!(page.contains("y: f1 by generate (percent)"));
    // Training goes on from there, and stops after as many evaluations without a better value.
    let on =
        [&train[..5], &["--steps", "60", "--eval-every", "2", "--resume", "--patience", "3"], &more].concat();
    let out = place.run_on_cpu(&sized(&on, &LENGTHS)).succeeds().out;
    let all = evaluations(&place, "run/metrics.jsonl");
    let (last, eval) = all.last().unwrap();
    let best_before = all.iter().map(|(_, eval)| value(eval)).fold(f64::MIN, f64::max);
    assert!(*last == 60 || value(eval) <= best_before && out.contains("early"), "{last}: {out}");
}

#[test]
fn metrics_during_training_that_cannot_be_computed_are_refused() {
    let place = place();
    let path = model("t5_tiny.rs");
    let fails = |args: &[&str], parts: &[&str]| {
        let train = ["train", path.as_str(), "--steps", "2", "--eval-every", "2", "--no-run-dir"];
        place.run_on_cpu(&sized(&[&train[..], args].concat(), &LENGTHS)).fails(parts);
    };
    let tasks = ["--tasks", "x.toml"];
    fails(
        &[&tasks[..], &["--best", "x/generate/accuracy"]].concat(),
        &["`--best x/generate/accuracy`", "`loss`"],
    );
    let metrics =
        [&tasks[..], &["--eval-metrics", "--eval-examples", "1", "--best", "x/generate/bleu"]].concat();
    fails(&metrics, &["`--best x/generate/bleu`: the evaluation has no such value", "`x/generate/f1`"]);
    place.write("hidden.toml", TASK.replace("LANGUAGE", "en").replace("valid.jsonl", "test.jsonl"));
    fails(&["--tasks", "hidden.toml", "--eval-metrics"], &["hidden"]);
}

#[test]
fn several_processes_train_on_tasks_and_predict_the_same() {
    let place = place();
    let train = |name: &str, processes: &[&str]| {
        let train =
            ["train", "t5_tiny", "--tasks", "x.toml", "pairs.jsonl", "--steps", "3", "--mesh", "data=2"];
        let more = ["--eval-every", "3", "--run-dir", name];
        place.run_on_cpu(&sized(&[&train[..], &more, processes].concat(), &LENGTHS)).succeeds();
        let lines = place.metrics(&format!("{name}/metrics.jsonl"));
        let losses: Vec<Value> = lines.iter().map(|line| line["loss"].clone()).collect();
        (losses, lines[2]["eval"]["x/loss"].clone())
    };
    let two = ["--processes", "2"];
    assert_eq!(train("one", &[]), train("two", &two));
    let evaluated = |by: &str, name: &str, processes: &[&str]| {
        let eval = ["eval", "one/checkpoints", "--tasks", "x.toml", "y.toml", "--mesh", "data=2", "--json"];
        let more = ["--by", by, "--predictions", name];
        let out = place.run_on_cpu(&[&eval[..], &more, processes].concat()).succeeds().out;
        let start = out.find('{').unwrap_or_else(|| panic!("{out}"));
        let values: Value = serde_json::from_str(&out[start..]).unwrap_or_else(|e| panic!("{e}: {out}"));
        (values, lines(&place, name))
    };
    for by in ["generate", "rank"] {
        let (one, both) = (evaluated(by, "p1.jsonl", &[]), evaluated(by, "p2.jsonl", &two));
        assert_eq!(one.1.len(), 10);
        assert_eq!(one, both, "{by}");
    }
    let eval =
        ["eval", "one/checkpoints", "--tasks", "x.toml", "--mesh", "data=2", "--by", "generate", "rank"];
    place.run_on_cpu(&[&eval[..], &two].concat()).fails(&["`--by` has several ways", "one way at a time"]);
    let train =
        ["train", "t5_tiny", "--tasks", "x.toml", "--steps", "2", "--mesh", "data=2", "--eval-every", "1"];
    let refused = sized(&[&train[..], &two, &["--eval-metrics", "--run-dir", "three"]].concat(), &LENGTHS);
    place.run_on_cpu(&refused).fails(&["not generated during training in a job of several processes"]);
}

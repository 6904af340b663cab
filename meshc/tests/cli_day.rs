//! The command line in daily use: help, completions, explanations, new packages, watching, locks.

use crate::support::{Workplace, model, text, tiny_switch};
use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

/// Asserts that the words of each part occur in a text, with any white space between them.
#[track_caller]
fn has(text: &str, parts: &[&str]) {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` is not in:\n{text}"));
}

#[test]
fn the_help_of_large_commands_is_grouped() {
    let place = Workplace::new();
    for (command, headings) in [
        ("train", &["Model:", "Placement:", "Data:", "Evaluation:", "Processes:", "Plugin:"][..]),
        ("generate", &["Model:", "Decoding:", "Plugin:"]),
        ("compile", &["Model:", "Placement:", "Stages:"]),
    ] {
        let help = place.run(&[command, "--help"]).succeeds().out;
        for heading in headings {
            assert!(help.lines().any(|line| line == *heading), "{command}: no `{heading}` in\n{help}");
        }
        let general = help.split("\nOptions:\n").nth(1).expect("there are general options");
        let general = general.lines().take_while(|line| line.is_empty() || line.starts_with(' '));
        let count = general.filter(|line| line.trim_start().starts_with('-') && !line.contains("- ")).count();
        assert!(count < 15, "{command}: {count} options have no group: see options/src/groups.rs");
    }
}

#[test]
fn the_version_names_the_target_and_the_api_of_plugins() {
    let place = Workplace::new();
    let version = env!("CARGO_PKG_VERSION");
    let api = format!("PJRT API of plugins: {} or newer", pjrt::OLDEST);
    has(&place.run(&["--version"]).succeeds().out, &[&format!("meshc {version} ("), "target: ", &api]);
}

#[test]
fn completions_and_man_pages_know_all_commands() {
    let place = Workplace::new();
    for shell in ["bash", "zsh", "fish"] {
        has(
            &place.run(&["shell", "completions", shell]).succeeds().out,
            &["state-layout", "checkpoint", "explain"],
        );
    }
    has(&place.run(&["shell", "man"]).succeeds().out, &[".TH meshc 1", "Exit codes"]);
    place.run(&["shell", "man", "-o", "man"]).succeeds();
    let page = fs::read_to_string(place.at("man/meshc-checkpoint-convert.1")).expect("it was written");
    has(&page, &[r"\-\-keep\-experts"]);
    place.run(&["completions"]).fails_with(2, &["unrecognized subcommand"]);
}

#[test]
fn labels_are_explained() {
    let place = Workplace::new();
    has(
        &place.run(&["explain", "layout_y3"]).succeeds().out,
        &["A dim that is split", "Way out:", "[layout_y3]"],
    );
    has(
        &place.run(&["explain"]).succeeds().out,
        &["contract_c1 Both operands have the same element type, a number."],
    );
    place.run(&["explain", "layout_y9"]).fails(&["no error label `layout_y9`", "did you mean `layout_y"]);
    place.write("m.mesh", "module m\n\nfunc f(%x x: f32[a=4, a=4]) {\n  return\n}\n");
    place.run(&["check", "m.mesh"]).fails(&["error[type_t1]", "meshc explain type_t1"]);
}

#[test]
fn errors_are_json_where_the_output_is() {
    let place = Workplace::new();
    let parsed =
        |err: &str| -> serde_json::Value { serde_json::from_str(err.trim()).expect("an error is one line") };
    let ran = place.run(&["report", "switch_tyni", "--json"]).fails(&[]);
    let error = &parsed(&ran.err)["error"];
    has(error["message"].as_str().expect("a message"), &["no built-in model `switch_tyni`"]);
    has(error["help"].as_str().expect("a remedy"), &["did you mean `switch_tiny`?"]);
    place.write("m.mesh", "module m\n\nfunc f(%x x: f32[a=4, a=4]) {\n  return\n}\n");
    let ran = place.run(&["report", "m.mesh", "--json"]).fails(&[]);
    assert_eq!(parsed(&ran.err)["error"]["mistakes"][0]["label"], "type_t1");
    // An invalid command line is text with its own exit code.
    place.run(&["report", "--json"]).fails_with(2, &["error: the following required arguments"]);
}

#[test]
fn unknown_settings_name_similar_ones_and_help_lists_all() {
    let place = Workplace::new();
    let ran = place.run(&["check", "switch_tiny", "--set", "d_modle=3"]).fails(&["did you mean `d_model`?"]);
    assert!(ran.err.len() < 600 && !ran.err.contains("vocab"), "{}", ran.err);
    place.run(&["check", "switch_tiny", "--set", "help"]).fails(&["vocab=384", "d_model=256"]);
}

#[test]
fn a_new_package_is_a_model_with_dependencies() {
    let place = Workplace::new();
    has(
        &place.run(&["new", "my_model"]).succeeds().out,
        &["my_model/Cargo.toml", "meshc check my_model --watch"],
    );
    let ran = place.run(&["check", "my_model"]).succeeds();
    has(&ran.out, &["my_model is valid: init, train_step, eval_step", "trainable: yes"]);
    assert_eq!(place.run(&["check", "my_model"]).succeeds().err, "", "the second check is cached");

    // A dependency of the package, which is not one of the models of the source tree.
    place.write("sizes/Cargo.toml", "[package]\nname = \"sizes\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    place.write("sizes/src/lib.rs", "pub const BATCH: usize = 24;\n");
    let read = |file: &str| fs::read_to_string(place.at(file)).expect("it was created");
    let manifest = read("my_model/Cargo.toml");
    place.write(
        "my_model/Cargo.toml",
        manifest.replace("[dependencies]\n", "[dependencies]\nsizes = { path = \"../sizes\" }\n"),
    );
    let source = read("my_model/src/main.rs");
    place.write("my_model/src/main.rs", source.replace("batch: 16", "batch: sizes::BATCH"));
    has(&place.run(&["check", "my_model"]).succeeds().out, &["24 rows"]);
    place.write("sizes/src/lib.rs", "pub const BATCH: usize = 8;\n");
    has(&place.run(&["check", "my_model"]).succeeds().out, &["8 rows"]);

    // A mistake is shown at its line in the package.
    place.write("my_model/src/main.rs", source.replace("heads: 4", "heads: 0"));
    place.run(&["check", "my_model"]).fails(&["my_model/src/main.rs:", "models::main(config())"]);
    place.run(&["new", "my_model"]).fails(&["`my_model` already exists"]);
    place.write("empty/Cargo.toml", "[package]\nname = \"empty\"\nversion = \"0.1.0\"\n\n[workspace]\n");
    place.write("empty/src/lib.rs", "");
    place.run(&["check", "empty"]).fails(&["the package `empty` has no executable"]);
}

#[test]
fn check_runs_again_after_a_change() {
    let place = Workplace::new();
    let program = |dim: &str| format!("module m\n\nfunc f(%x x: f32[a=4, {dim}=4]) {{\n  return\n}}\n");
    place.write("m.mesh", program("b"));
    let mut child = place
        .meshc(&["check", "m.mesh", "--watch"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("meshc starts");
    let mut out = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut err = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let wait = |lines: &mut dyn Iterator<Item = std::io::Result<String>>, part: &str| {
        let found = lines.map_while(Result::ok).any(|line| line.contains(part));
        assert!(found, "`{part}` was not printed");
    };
    wait(&mut out, "m is valid");
    place.write("m.mesh", program("a"));
    wait(&mut err, "error[type_t1]");
    place.write("m.mesh", program("c"));
    wait(&mut out, "m is valid");
    child.kill().expect("it runs");
    child.wait().expect("it was started");
}

#[test]
fn costs_are_compared_with_a_lock_and_with_another_program() {
    let place = Workplace::new();
    let path = model("matmul.rs");
    let split = ["--mesh", "data=2", "--layout", "batch:data"];
    let report = |more: &[&str]| place.run(&[&["report", &path][..], &split, more].concat());
    report(&["--write-lock", "plan.lock"]).succeeds();
    has(&report(&["--lock", "plan.lock"]).succeeds().out, &["the costs are equal"]);
    let lock = fs::read_to_string(place.at("plan.lock")).expect("it was written");
    has(&lock, &["mesh: data=2", "parameters: ", "forward flops: ", "forward bytes peak: "]);
    // A larger model fails, and the lines say what changed.
    let ran = report(&["--lock", "plan.lock", "--set", "batch=128"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    has(&ran.out, &["- forward flops: ", "+ forward flops: ", "(+100.0 %)"]);
    // A collective is named with its line in the model.
    let ran =
        place.run(&["report", &path, "--mesh", "data=2", "--layout", "d_model:data", "--lock", "plan.lock"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    has(&ran.out, &["+ forward all_reduce data", "matmul.rs:"]);
    report(&["--lock", "none.lock"]).fails(&["reading the lock `none.lock`", "--write-lock"]);
    place.write("none.lock", "# x\nflops\n");
    report(&["--lock", "none.lock"]).fails(&["none.lock:2: not a line of a lock"]);

    place.run(&[&["compile", &path, "-o", "a"][..], &split].concat()).succeeds();
    place.run(&["compile", &path, "-o", "b", "--mesh", "data=4", "--layout", "batch:data"]).succeeds();
    let ran = place.run(&["report", "a", "--diff", "b", "--json"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let changes: serde_json::Value = serde_json::from_str(&ran.out).expect("--json prints JSON");
    let mesh = changes["changes"].as_array().expect("a list").iter().find(|c| c["what"] == "mesh");
    assert_eq!(mesh.map(|c| (&c["before"], &c["after"])), Some((&"data=2".into(), &"data=4".into())));
    place.run(&["report", "a", "--diff", "a"]).succeeds();
}

#[test]
fn run_directories_and_outputs_of_calls_are_inputs() {
    let place = Workplace::new();
    let (path, data) = (model("switch_tiny.rs"), text());
    let train = ["train", &path, "--data", &data, "--steps", "1", "--run-dir", "run"];
    let ran = place.run_on_cpu(&[&train[..], &tiny_switch()].concat()).succeeds();
    // One setting a line, and each once.
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(
        lines
            .iter()
            .any(|l| l.starts_with("# settings.input_length = 32 ") || l.starts_with("input_length = 32 ")),
        "{}",
        ran.out
    );
    assert!(lines.iter().all(|l| l.len() < 200), "{}", ran.out);
    assert!(!ran.out.contains("state_layout ="), "{}", ran.out);
    for out in ["run", "run/checkpoints"] {
        place.run(&["convert", "to-hf", out, "hf", "--model", "none"]).fails(&["none"]);
        place.run(&["checkpoint", "diff", out, "run/checkpoints/step_00000001"]).succeeds();
        has(&place.run(&["check", out]).succeeds().out, &["trainable: yes"]);
    }
    // The results of one call are given to the next.
    let bytes = fs::read(place.at("run/checkpoints/step_00000001/COMMIT")).map(|b| b.len());
    assert!(bytes.is_ok());
    let tutorial = crate::support::home().join("docs/tutorial/bytes.rs").display().to_string();
    place.run(&["compile", &tutorial, "-o", "bytes"]).succeeds();
    let ids: Vec<u8> = (0..16 * 64).flat_map(|i: i32| (i % 200 + 3).to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::I32, vec![16, 64], &ids);
    let batch = safetensors::serialize([("targets", view.expect("sizes agree"))], None);
    place.write("batch.safetensors", batch.expect("it can be written"));
    place.run_on_cpu(&["run", "bytes", "init", "--seed", "1", "--outputs", "0.safetensors"]).succeeds();
    for (old, new) in [("0", "1"), ("1", "2")] {
        let (old, new) = (format!("{old}.safetensors"), format!("{new}.safetensors"));
        let files = ["--inputs", &old, "--inputs", "batch.safetensors", "--outputs", &new];
        // The outputs of the first step contain its loss, which the second one does not take.
        place.run_on_cpu(&[&["run", "bytes", "train_step"][..], &files].concat()).succeeds();
    }
}

#[test]
fn a_run_has_a_directory_unless_it_is_told_otherwise() {
    let place = Workplace::new();
    let (path, data) = (model("switch_tiny.rs"), text());
    let train = |more: &[&str]| {
        let args = [&["train", &path, "--data", &data, "--steps", "1"][..], &tiny_switch(), more].concat();
        place.run_on_cpu(&args).succeeds()
    };
    let ran = train(&[]);
    has(&ran.out, &["run-dir = \"runs/switch_tiny-1\" # default", "next: meshc runs runs/switch_tiny-1"]);
    place.run(&["runs", "runs/switch_tiny-1"]).succeeds();
    // The commands that are named at the end work.
    place.write("in.txt", "fn main\n");
    place
        .run_on_cpu(&["generate", "runs/switch_tiny-1", "--input", "in.txt", "--max-length", "2"])
        .succeeds();
    let resume = ["train", "--config", "runs/switch_tiny-1/config.toml", "--resume", "--steps", "2"];
    let ran = place.run_on_cpu(&resume).succeeds();
    has(&ran.out, &["finished after step 2"]);
    train(&["--metrics", "m.jsonl"]);
    train(&["--no-run-dir"]);
    assert_eq!(place.folders("runs"), ["switch_tiny-1"]);
    place.run(&["--version"]).succeeds();
    has(&place.run(&["--version"]).succeeds().out, &["meshc 0.1.0 (development build) target: "]);
}

//! Standard output and standard error without a reader, and standard output on a full disk.

use crate::support::{Ran, Workplace, cpu_plugin, model, text, tiny_switch};
use std::{fs::OpenOptions, io::pipe, process::Stdio};

/// The end of a pipe whose reader is gone.
fn closed() -> Stdio {
    let (reader, writer) = pipe().expect("pipes can be made");
    drop(reader);
    writer.into()
}

/// Runs a command whose output nobody reads. It ends with this code, and without a message about it.
#[track_caller]
fn check(place: &Workplace, args: &[&str], code: i32) {
    let run = |stderr: Stdio| {
        if args.contains(&"--run-dir") {
            // A run is not repeated in the directory of another one.
            let _ = std::fs::remove_dir_all(place.at("run"));
        }
        if args[0] == "new" {
            let _ = std::fs::remove_dir_all(place.at(args[1]));
        }
        let mut command = place.meshc(args);
        command.env("MESH_PJRT_PLUGIN", cpu_plugin()).stdin(Stdio::null()).stdout(closed()).stderr(stderr);
        Ran::new(command.output().expect("meshc starts"))
    };
    let ran = run(Stdio::piped());
    assert_eq!(ran.code, Some(code), "{args:?}\n{}", ran.err);
    for word in ["panicked", "roken pipe", "standard output"] {
        assert!(!ran.err.contains(word), "{args:?}\n{}", ran.err);
    }
    // Commands that write many messages.
    if ["train", "check", "data"].contains(&args[0]) {
        assert_eq!(run(closed()).code, Some(code), "{args:?} with a closed standard error");
    }
}

#[test]
fn every_command_ends_quietly_if_nobody_reads_its_output() {
    let place = Workplace::new();
    let (matmul, switch, data) = (model("matmul.rs"), model("switch_tiny.rs"), text());
    let train = [
        &["train", &switch, "--data", &data, "--steps", "1", "--eval-every", "1", "--eval-batches", "1"][..],
        &["--run-dir", "run"],
        &tiny_switch(),
    ]
    .concat();
    place.write("in.txt", "fn main\nlet x\n");
    place.write("pairs.txt", "fn\tmain\n");
    place.write("text/a.txt", "some text\n".repeat(100));
    let checkpoint = "run/checkpoints/step_00000001";
    let rows: Vec<Vec<&str>> = vec![
        train,
        vec!["check", &matmul],
        vec!["compile", &matmul, "-o", "a", "--emit", "hlo,report"],
        vec!["compile", &matmul, "--stop-after", "simplify", "--timings"],
        vec!["report", "a"],
        vec![
            "plan",
            &matmul,
            "--target",
            "tpu:v5e:1x1",
            "--function",
            "forward",
            "--verify",
            "0",
            "--no-cache",
        ],
        vec!["run", "a", "init", "--seed", "1", "--outputs", "w.safetensors"],
        vec!["runs", "run", "--json"],
        vec!["eval", "run/checkpoints", "--data", &data, "--batches", "1"],
        vec!["routes", "run/checkpoints", "--data", &data, "--sample", "4"],
        vec!["generate", "run/checkpoints", "--input", "in.txt"],
        vec!["generate", "run/checkpoints", "--input", "in.txt", "--json"],
        vec!["score", "run/checkpoints", "--input", "pairs.txt"],
        vec!["checkpoint", "list", "run/checkpoints"],
        vec!["checkpoint", "list", checkpoint, "--json"],
        vec!["checkpoint", "verify", checkpoint],
        vec!["checkpoint", "diff", checkpoint, checkpoint],
        vec!["checkpoint", "prune", "run/checkpoints", "--keep", "1", "--dry-run"],
        vec!["convert", "to-hf", checkpoint, "missing/out", "--model", "none"],
        vec!["convert", "to-t5x", checkpoint, "t5x"],
        vec!["convert", "t5x", "t5x", "t5x_again"],
        vec!["convert", "tf", "none.ckpt-1", "missing/out"],
        vec!["data", "stats", "text"],
        vec!["models"],
        vec!["plugin", "list"],
        vec!["tasks"],
        vec!["selftest", "--programs", "1", "--mesh", "x=2"],
        vec!["slice", "tpu:v5e:2x4"],
        vec!["explain"],
        vec!["shell", "completions", "bash"],
        vec!["new", "my_model"],
        vec!["help"],
        vec!["train", "--help"],
    ];
    for row in &rows {
        check(&place, row, i32::from(row.contains(&"missing/out")));
    }
    // The work is complete nevertheless.
    assert!(place.at("a/manifest.pb").exists() && place.at("run/checkpoints").exists());
    let help = place.run(&["help"]).succeeds().out;
    let commands = help.split("Commands:\n").nth(1).expect("the help lists the commands");
    let names = commands.lines().take_while(|line| !line.is_empty());
    for name in names.filter_map(|line| line.split_whitespace().next()) {
        assert!(rows.iter().any(|row| row[0] == name), "add `{name}` to the table");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let place = Workplace::new();
    let plain = "error: writing to standard output: ";
    let json = "{\"error\":{\"message\":\"writing to standard output: ";
    let model = model("matmul.rs");
    let rows = [(&["models"][..], plain), (&["check", &model], plain), (&["plugin", "list", "--json"], json)];
    for (args, message) in rows {
        let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
        let output = place.meshc(args).stdout(full).output().expect("meshc starts");
        Ran::new(output).fails(&[message]);
    }
}

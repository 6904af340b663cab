//! Interrupted and resumed training, and `meshc checkpoint`, through the command line.

use crate::support::{Ran, TINY, Workplace, cpu_plugin, model, text};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

fn args<'a>(model: &'a str, data: &'a str, steps: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let first =
        ["train", model, "--data", data, "--steps", steps, "--metrics", "m.jsonl", "--checkpoint-dir", "ck"];
    [&first[..], &TINY, more].concat()
}

/// Returns step, loss and gradient norm of every line.
fn lines(place: &Workplace) -> Vec<(u64, f64, f64)> {
    let number = |l: &Value, key: &str| l[key].as_f64().unwrap();
    place
        .metrics("m.jsonl")
        .iter()
        .map(|l| (l["step"].as_u64().unwrap(), number(l, "loss"), number(l, "grad_norm")))
        .collect()
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.out))
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let (path, data) = (model("t5_tiny.rs"), text());
    let (straight, killed) = (Workplace::new(), Workplace::new());
    straight.run_on_cpu(&args(&path, &data, "40", &["--seed", "3", "--save-every", "10"])).succeeds();

    let all = args(&path, &data, "1000000", &["--seed", "3", "--save-every", "10", "--keep", "3"]);
    let mut training = killed
        .meshc(&all)
        .env("MESH_PJRT_PLUGIN", cpu_plugin())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(training.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.starts_with("step 20: saved in ck/step_00000020")));
    training.kill().unwrap(); // SIGKILL.
    training.wait().unwrap();
    // Ensures that the process was killed before its end.
    for name in killed.folders("ck") {
        if name != "step_00000010" && name != "step_00000020" {
            fs::remove_dir_all(killed.at("ck").join(name)).unwrap();
        }
    }
    let ran = killed.run_on_cpu(&args(&path, &data, "40", &["--resume", "--save-every", "10"])).succeeds();
    assert!(ran.err.contains("resuming from ck/step_00000020"), "{}", ran.err);
    assert!(
        ran.out.contains("finished after step 40") && ran.out.contains("checkpoints are in ck"),
        "{}",
        ran.out
    );
    assert_eq!(lines(&straight).len(), 40);
    assert_eq!(lines(&killed), lines(&straight));

    let [a, b] = [&straight, &killed].map(|p| p.at("ck/step_00000040").display().to_string());
    let same = straight.run(&["checkpoint", "diff", &a, &b]).succeeds();
    assert!(same.out.contains("0 tensors differ"), "{}", same.out);
    let same = json(&straight.run(&["checkpoint", "diff", &a, &b, "--json"]).succeeds());
    assert!(same["same"] == true && same["equal"].as_u64() > Some(40), "{same}");
    let before = b.replace("40", "30");
    let ran = straight.run(&["checkpoint", "diff", &before, &a, "--json"]);
    assert_eq!(ran.code, Some(1));
    let apart = json(&ran);
    assert_eq!((&apart["steps"][0], &apart["steps"][1]), (&30.into(), &40.into()));
    assert_eq!(apart["tensors"]["step"]["max_abs"], 10.0);

    // All checkpoints are valid until a bit is flipped.
    let ran = json(&killed.run(&["checkpoint", "verify", "ck", "--json"]).succeeds());
    assert_eq!((&ran["good"], ran["checkpoints"].as_array().map(Vec::len)), (&true.into(), Some(4)));
    let file = killed.at("ck/step_00000040/00000.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = killed.run(&["checkpoint", "verify", "ck"]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.out.contains("step_00000040: DAMAGED: the box") && ran.out.contains("step_00000030: good"),
        "{}",
        ran.out
    );
    let ran = killed.run_on_cpu(&args(&path, &data, "41", &["--resume"])).succeeds();
    assert!(
        ran.err.contains("warning: skipped") && ran.err.contains("resuming from ck/step_00000030"),
        "{}",
        ran.err
    );

    let listed = killed.run(&["checkpoint", "list", "ck"]).succeeds();
    assert!(listed.out.contains("t5_tiny") && listed.out.contains("ck/step_00000041"), "{}", listed.out);
    let one = json(&killed.run(&["checkpoint", "list", "ck/step_00000041", "--json"]).succeeds());
    assert_eq!(
        (&one["step"], &one["facts"]["seed"], &one["facts"]["data_position"]),
        (&41.into(), &"3".into(), &"41".into())
    );
    // The same rules as during training: multiples of 20, and the newest.
    killed.run(&["checkpoint", "prune", "ck"]).fails_with(2, &["--keep"]);
    let dry = json(
        &killed.run(&["checkpoint", "prune", "ck", "--keep-every", "20", "--dry-run", "--json"]).succeeds(),
    );
    assert_eq!(dry["removed"], serde_json::json!(["ck/step_00000010", "ck/step_00000030"]), "{dry}");
    assert_eq!(
        dry["kept"],
        serde_json::json!(["ck/step_00000020", "ck/step_00000040", "ck/step_00000041"]),
        "{dry}"
    );
    // None of the checkpoints has a held-out loss.
    let best = ["checkpoint", "prune", "ck", "--keep-best", "1", "--keep-last", "9", "--dry-run"];
    assert!(killed.run(&best).succeeds().out.contains("no checkpoint to remove"));
    killed.run(&["checkpoint", "prune", "ck", "--keep", "1", "--dry-run"]).succeeds();
    let pruned = killed.run(&["checkpoint", "prune", "ck", "--keep", "1"]).succeeds();
    assert_eq!(pruned.out.lines().filter(|l| l.starts_with("removed")).count(), 4, "{}", pruned.out);
    assert_eq!(killed.folders("ck").len(), 1);
}

#[test]
fn what_cannot_be_saved_or_resumed() {
    let (path, data) = (model("t5_tiny.rs"), text());
    let place = Workplace::new();
    for (given, code, part) in
        [(&["--resume", "--no-run-dir"][..], 1, "--checkpoint-dir"), (&["--keep", "0"], 2, "at least 1")]
    {
        place.run(&[&["train", &path, "--data", &data], given].concat()).fails_with(code, &[part]);
    }
    place.run(&["checkpoint", "list", "nowhere"]).fails(&["`nowhere` is not a checkpoint", "help:"]);
    place.run(&["checkpoint", "diff", "a", "b"]).fails(&["checkpoint `a`", "does not exist", "help:"]);
    // Limits files to 8 KiB; exceeding the limit is an error instead of a signal.
    let mut limited = Command::new("sh");
    limited.arg("-c").arg("ulimit -f 16; trap '' XFSZ; exec \"$0\" \"$@\"").arg(env!("CARGO_BIN_EXE_meshc"));
    let meshc = place.meshc(&[]);
    limited.current_dir(place.path()).envs(meshc.get_envs().filter_map(|(k, v)| Some((k, v?))));
    place.run(&[&["compile", &path, "-o", "a"][..], &TINY].concat()).succeeds();
    limited.args([
        "train",
        "a",
        "--data",
        &data,
        "--steps",
        "4",
        "--save-every",
        "2",
        "--checkpoint-dir",
        "ck",
    ]);
    let ran = Ran::new(limited.env("MESH_PJRT_PLUGIN", cpu_plugin()).output().unwrap());
    let ran = ran.fails(&[
        "warning: training continues without a new checkpoint: writing",
        "step 4/4",
        "File too large",
    ]);
    assert!(ran.err.contains("00000.safetensors"), "{}", ran.err);
    assert_eq!(place.folders("ck"), [""; 0], "nothing is left behind");
}

#[test]
fn a_disk_that_is_full_leaves_the_checkpoint_before() {
    let (path, data) = (model("t5_tiny.rs"), text());
    let place = Workplace::new();
    place.run_on_cpu(&args(&path, &data, "2", &[])).succeeds();
    // Limits files to 8 KiB; exceeding the limit is an error, although the system sends SIGXFSZ.
    // Metrics are smaller.
    let mut limited = Command::new("sh");
    limited.arg("-c").arg("ulimit -f 16; exec \"$0\" \"$@\"").arg(env!("CARGO_BIN_EXE_meshc"));
    let meshc = place.meshc(&[]);
    limited.current_dir(place.path()).envs(meshc.get_envs().filter_map(|(k, v)| Some((k, v?))));
    limited.args(args(&path, &data, "6", &["--save-every", "2", "--keep", "1", "--resume"]));
    let ran = Ran::new(limited.env("MESH_PJRT_PLUGIN", cpu_plugin()).output().unwrap());
    let ran = ran.fails(&["warning: training continues without a new checkpoint: writing", "step 6/6"]);
    assert!(
        ran.err.contains("resuming from ck/step_00000002") && ran.err.contains("File too large"),
        "{}",
        ran.err
    );
    let ran = json(&place.run(&["checkpoint", "verify", "ck", "--json"]).succeeds());
    assert_eq!(ran["checkpoints"].as_array().map(Vec::len), Some(1), "{ran}");
    let ran = place.run_on_cpu(&args(&path, &data, "6", &["--resume"])).succeeds();
    assert!(ran.err.contains("resuming from ck/step_00000002"), "{}", ran.err);
}

#[test]
fn a_folder_that_may_not_be_written_leaves_the_checkpoint_before() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (path, data) = (model("t5_tiny.rs"), text());
    let place = Workplace::new();
    let meshc = place.meshc(&args(&path, &data, "1000000", &["--save-every", "2", "--keep", "2"]));
    // Root can write everywhere, unless it drops that privilege.
    let mut bound = if fs::metadata(place.path()).unwrap().uid() == 0 {
        let mut bound = Command::new("setpriv");
        bound.args(["--bounding-set", "-dac_override,-dac_read_search", "--"]);
        bound.arg(meshc.get_program());
        bound
    } else {
        Command::new(meshc.get_program())
    };
    bound.args(meshc.get_args()).current_dir(place.path()).env("MESH_PJRT_PLUGIN", cpu_plugin());
    bound.envs(meshc.get_envs().filter_map(|(k, v)| Some((k, v?))));
    let spawned = bound.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let Ok(mut training) = spawned else {
        eprintln!("skipped: root can only give up its rights through `setpriv` of util-linux");
        return;
    };
    let mut said = BufReader::new(training.stderr.take().unwrap()).lines().map_while(Result::ok);
    let allow = |mode| fs::set_permissions(place.at("ck"), fs::Permissions::from_mode(mode)).unwrap();
    assert!(said.any(|line| line.contains("saved in ck/step_00000002")));
    allow(0o555);
    let warned = said.find(|line| line.contains("training continues without a new checkpoint")).unwrap();
    assert!(warned.contains("Permission denied"), "{warned}");
    let kept = json(&place.run(&["checkpoint", "verify", "ck", "--json"]).succeeds());
    assert!(!kept["checkpoints"].as_array().unwrap().is_empty(), "{kept}");
    // Checkpoints continue once the directory is writable again.
    allow(0o755);
    assert!(said.any(|line| line.contains(": saved in ck/step_")));
    training.kill().unwrap();
    training.wait().unwrap();
    place.run(&["checkpoint", "verify", "ck"]).succeeds();
}

#[test]
fn an_object_store_in_place_of_a_folder() {
    let (path, data) = (model("t5_tiny.rs"), text());
    let place = Workplace::new();
    let url = format!("file://{}/ck", place.path().display());
    let train = |steps, more: &[&str]| {
        let first = ["train", &path, "--data", &data, "--steps", steps, "--checkpoint-dir", &url];
        place.run_on_cpu(&[&first[..], &TINY, more].concat())
    };
    train("4", &["--save-every", "2"]).succeeds();
    train("5", &[]).fails(&["already has checkpoints", "step 4"]);
    // Files of an interrupted writer do not interfere.
    fs::create_dir(place.at("ck/step_00000009")).unwrap();
    fs::write(place.at("ck/step_00000009/00000-1.safetensors"), "x").unwrap();
    let ran = train("6", &["--resume", "--keep", "2"]).succeeds();
    assert!(ran.err.contains(&format!("resuming from {url}/step_00000004")), "{}", ran.err);
    let listed = json(&place.run(&["checkpoint", "list", &url, "--json"]).succeeds());
    let steps: Vec<_> =
        listed["checkpoints"].as_array().unwrap().iter().map(|c| c["step"].as_u64()).collect();
    assert_eq!(steps, [Some(4), Some(6)]);
    assert!(!place.at("ck/step_00000009").exists() && !place.at("file:").exists());
    place.run(&["checkpoint", "verify", &url]).succeeds();
    let one = format!("{url}/step_00000006");
    place.run(&["checkpoint", "list", &one]).succeeds();
    place.run(&["checkpoint", "diff", &one, "ck/step_00000006"]).succeeds();
    place.run_on_cpu(&["eval", &one, "--data", &data, "--batches", "1"]).succeeds();
    place.run_on_cpu(&["eval", &url, "--data", &data, "--batches", "1"]).succeeds();
    place.run(&["checkpoint", "prune", &url, "--keep", "1"]).succeeds();
    assert_eq!(fs::read_dir(place.at("ck")).unwrap().count(), 1);
    place.run(&["checkpoint", "list", "gs://"]).fails(&["cannot hold checkpoints", "help:"]);
}

//! Ahead-of-time compilation for TPU slices with the libtpu that `MESH_TPU_PLUGIN` names; without it these
//! tests are skipped. `MESH_SLOW=1` adds the tests that compile all of switch_tiny.

use crate::support::{Ran, TINY, Workplace, model, say_skipped};
use std::fs;
use std::time::{Duration, Instant};

/// Returns true if slow tests are enabled.
fn slow() -> bool {
    let slow = std::env::var_os("MESH_SLOW").is_some_and(|v| v == "1");
    if !slow {
        say_skipped("MESH_SLOW=1 runs it");
    }
    slow
}

/// Runs `meshc` with libtpu. `None` without libtpu.
fn run(place: &Workplace, args: &[&str]) -> Option<Ran> {
    let path = std::env::var_os("MESH_TPU_PLUGIN");
    if path.is_none() {
        say_skipped("MESH_TPU_PLUGIN does not name a libtpu.so");
    }
    let output = place.meshc(args).env("TPU_LIBRARY_PATH", path?).output();
    Some(Ran::new(output.expect("meshc starts")))
}

#[test]
fn the_mesh_has_as_many_devices_as_the_slice() {
    let place = Workplace::new();
    let path = model("matmul.rs");
    let compile =
        |args: &[&str]| run(&place, &[&["compile", &path, "--target", "tpu:v4:2x2x1"][..], args].concat());
    let Some(ran) = compile(&[]) else { return };
    assert!(ran.succeeds().err.contains("planned in"), "a mesh is chosen");
    let wrong = ["--mesh", "data=2,model=2", "--emit", "executable"];
    compile(&wrong)
        .expect("libtpu is there")
        .fails(&["the mesh data=2,model=2 has 4 devices", "product is 8"]);
    // With megacore, a chip is one device.
    let megacore = ["compile", &path, "--target", "tpu:v4:2x2x1:megacore", "--mesh", "data=2,model=2"];
    let ran = run(&place, &[&megacore[..], &["--emit", "executable"]].concat())
        .expect("libtpu is there")
        .succeeds();
    assert_eq!(ran.err.lines().count(), 2, "libtpu is to be quiet, but:\n{}", ran.err);
    assert!(ran.out.contains("estimate"), "{}", ran.out);
    assert!(fs::metadata(place.at("matmul.artefact/forward.executable")).unwrap().len() > 1000);
    let report = run(&place, &["report", "matmul.artefact", "--function", "forward"])
        .expect("libtpu is there")
        .succeeds();
    for part in ["forward compiled for tpu:v4:2x2x1:megacore", "memory (compiler)", "est. cycles"] {
        assert!(report.out.contains(part), "`{part}` is not in:\n{}", report.out);
    }
    assert_eq!(place.entries(), ["matmul.artefact"]);
}

#[test]
fn several_slices_are_one_mesh() {
    let place = Workplace::new();
    let path = model("matmul.rs");
    let args = ["compile", &path, "--target", "tpu:v5e:2x2:slices=2", "--mesh", "data=2,model=4"];
    let Some(ran) = run(&place, &[&args[..], &["--emit", "optimized-hlo"]].concat()) else { return };
    ran.succeeds();
    let report = run(&place, &["report", "matmul.artefact", "--function", "forward", "--json"])
        .expect("libtpu is there");
    let report: serde_json::Value = serde_json::from_str(&report.succeeds().out).expect("it prints JSON");
    assert_eq!(report["compiled"]["target"], "tpu:v5e:2x2:slices=2");
    assert!(report["compiled"]["program"]["matmul_flops"].as_u64().is_some_and(|n| n > 0), "{report}");
}

#[test]
fn a_program_that_does_not_fit_says_why() {
    let place = Workplace::new();
    // 24 GB on a device with 16.
    let text = "
module large
func f(%x x: f32[a=1000000, b=2048], %y y: f32[a=1000000, b=2048]) -> (z: f32[a=1000000, b=2048]) {
  %z = add %x, %y : f32[a=1000000, b=2048]
  return %z
}
";
    let path = place.write("large.mesh", text);
    let path = path.to_str().unwrap();
    let args = ["compile", path, "--target", "tpu:v5e:1x1", "--emit", "executable"];
    let Some(ran) = run(&place, &args) else { return };
    ran.fails(&["`f` of `large` does not fit a device of tpu:v5e:1x1", "estimated memory 22.9 GiB", "help:"]);
}

#[test]
fn switch_tiny_compiles_for_slices() {
    if !slow() {
        return;
    }
    let place = Workplace::new();
    let path = model("switch_tiny.rs");
    for (target, mesh) in [("tpu:v5e:2x4", "data=2,expert=2,model=2"), ("tpu:v4:2x2x1", "data=2,expert=4")] {
        let args =
            ["compile", &path, "--target", target, "--mesh", mesh, "--emit", "executable,report", "-o", "x"];
        let Some(ran) = run(&place, &args) else { return };
        let ran = ran.succeeds();
        assert!(ran.out.contains("peak memory (estimate)"), "{}", ran.out);
        let executable = fs::metadata(place.at("x/train_step.executable")).unwrap();
        assert!(executable.len() > 1 << 20, "{executable:?}");
    }
}

/// Returns the number of fusions between the start and the end of each all-to-all of a scheduled program.
fn work_beside_exchanges(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = lines.iter().enumerate().filter_map(|(at, line)| {
        let (name, _) = line.trim_start().strip_prefix('%')?.split_once(" = ")?;
        (name.starts_with("all-to-all-start")).then_some((at, format!("async-done(%{name})")))
    });
    let beside = |(at, done): (usize, String)| {
        let between = lines[at..].iter().take_while(|line| !line.contains(&done));
        between.filter(|line| line.contains(" fusion(")).count()
    };
    starts.map(beside).collect()
}

#[test]
fn exchanges_in_parts_run_beside_the_experts() {
    if !slow() {
        return;
    }
    let place = Workplace::new();
    let path = model("switch_tiny.rs");
    let sent = |more: &[&str]| {
        let args =
            ["compile", &path, "--target", "tpu:v4:2x2x1", "--mesh", "expert=8", "--dtype", "selective"];
        let rest = ["--function", "train_step", "--emit", "optimized-hlo", "-o", "x"];
        run(&place, &[&args[..], &rest, more].concat())?.succeeds();
        let report = run(&place, &["report", "x", "--json"]).expect("libtpu is there").succeeds();
        let report: serde_json::Value = serde_json::from_str(&report.out).expect("it prints JSON");
        let kinds =
            report["compiled"]["program"]["kinds"].as_array().expect("there is communication").clone();
        let exchanges = kinds.into_iter().find(|k| k["kind"] == "all-to-all").expect("tokens travel");
        let text = fs::read_to_string(place.at("x/train_step.optimized_hlo.txt")).expect("it was asked for");
        Some((exchanges["wire_bytes"].as_f64(), exchanges["count"].as_u64(), work_beside_exchanges(&text)))
    };
    let Some((bytes, count, beside)) = sent(&[]) else { return };
    assert!(beside.is_empty(), "{beside:?}");
    let (same, twice, beside) = sent(&["--set", "exchange_parts=2", "--overlap"]).expect("libtpu is there");
    assert_eq!((same, twice), (bytes, count.map(|n| 2 * n)));
    assert!(!beside.is_empty() && beside.iter().filter(|n| **n > 0).count() * 2 > beside.len(), "{beside:?}");
}

#[test]
fn a_machine_without_a_tpu_is_named_within_seconds() {
    if runtime::plugin::tpu::is_present(std::path::Path::new("/")) {
        return say_skipped("this machine may have a TPU");
    }
    let place = Workplace::new();
    let args = ["compile", "switch_tiny", "--target", "tpu:v5e:2x2", "--mesh", "data=4", "-o", "x"];
    place.run(&[&args[..], &TINY].concat()).succeeds();
    place.write("text.txt", "a line of text\n".repeat(100));
    let parts = ["`x` is compiled for tpu:v5e:2x2, and this machine has no TPU", "0x1ae0", "--plugin cpu"];
    let begin = Instant::now();
    place.run(&["train", "x", "--data", "text.txt", "--steps", "1"]).fails(&parts);
    let wall = begin.elapsed();
    assert!(wall < Duration::from_secs(5), "{wall:?}");
}

/// libtpu itself does not wait for a metadata server either, where nothing refuses the start before it.
#[test]
fn libtpu_is_not_left_to_search_for_minutes() {
    if runtime::plugin::tpu::is_present(std::path::Path::new("/")) {
        return say_skipped("this machine may have a TPU");
    }
    let place = Workplace::new();
    let path = std::env::var("MESH_TPU_PLUGIN").unwrap_or_default();
    let begin = Instant::now();
    let Some(ran) = run(&place, &["plugin", "doctor", &path]) else { return };
    let wall = begin.elapsed();
    assert!(wall < Duration::from_secs(30), "{wall:?}");
    assert!(ran.out.contains("PJRT_Client_Create failed"), "{}\n{}", ran.out, ran.err);
}

/// Returns the environment of a host by `meshc slice`.
#[track_caller]
fn environment(place: &Workplace, target: &str, host: &str) -> Vec<(String, String)> {
    let args: Vec<&str> = ["slice", target].into_iter().chain(host.split(' ')).collect();
    let lines = place.run(&args).succeeds().out;
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    lines.lines().map(|line| pair(line).expect("lines are assignments")).collect()
}

/// libtpu prints how it understood the environment.
#[test]
fn libtpu_understands_the_environment_of_a_host() {
    let Some(path) = std::env::var_os("MESH_TPU_PLUGIN") else {
        return say_skipped("MESH_TPU_PLUGIN does not name a libtpu.so");
    };
    let place = Workplace::new();
    let check = |target: &str, host: &str, parts: &[&str]| {
        let mut command = place.meshc(&["plugin", "doctor", "--here"]);
        command.arg(&path).envs(environment(&place, target, host));
        command.envs([
            ("TPU_STDERR_LOG_LEVEL", "0"),
            ("TPU_MIN_LOG_LEVEL", "0"),
            ("TPU_SKIP_MDS_QUERY", "1"),
        ]);
        command.env(
            "LIBTPU_INIT_ARGS",
            "--xla_tpu_use_enhanced_launch_barrier=true --megascale_abort_on_hangs=true",
        );
        let ran = Ran::new(command.output().expect("meshc starts"));
        for part in parts {
            assert!(ran.err.contains(part), "{target}: `{part}` is not in:\n{}", ran.err);
        }
    };
    let four = "--worker 1 --hosts h0,h1,h2,h3";
    let hosts = "addresses=h0:8471,h1:8471,h2:8471,h3:8471";
    check(
        "tpu:v5e:4x4",
        four,
        &["--deepsea_chips_per_host_bounds=2,2,1", "--deepsea_host_bounds=2,2,1", hosts],
    );
    let sixteen: Vec<String> = (0..16).map(|i| format!("h{i}")).collect();
    let all = format!("--worker 9 --hosts {}", sixteen.join(","));
    check("tpu:v4:4x4x4", &all, &["--deepsea_chips_per_host_bounds=2,2,1", "--deepsea_host_bounds=2,2,4"]);
    check(
        "tpu:v5e:4x4:slices=2",
        &format!("{four} --slice 1 --coordinator 10.0.0.1"),
        &[
            "--deepsea_host_bounds=2,2,1",
            "--megascale_coordinator_address=10.0.0.1",
            "--megascale_slice_id=1",
            "--megascale_num_slices=2",
        ],
    );
}

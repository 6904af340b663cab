//! Ahead of time for TPU slices that are not here, with the libtpu that `MESH_TPU_PLUGIN` names; without one, these
//! tests are skipped and say so. `MESH_SLOW=1` adds the whole of switch_tiny.

mod support;

use std::{fs, io::Write};
use support::{Ran, Workplace, model};

/// Runs `meshc` with libtpu; `None` where there is none.
fn run(place: &Workplace, args: &[&str]) -> Option<Ran> {
    let path = std::env::var_os("MESH_TPU_PLUGIN");
    if path.is_none() {
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        // Past the test harness, which keeps what passing tests print to itself.
        let _ = writeln!(std::io::stderr(), "skipped {name}: MESH_TPU_PLUGIN does not name a libtpu.so");
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
    ran.fails(&["no --mesh is given, which is one device, but tpu:v4:2x2x1 has 8", "--mesh data=8"]);
    let wrong = ["--mesh", "data=2,model=2", "--emit", "executable"];
    compile(&wrong).expect("libtpu is there").fails(&["the mesh data=2,model=2 is 4 devices", "product 8"]);
    // With megacore, a chip is one device.
    let megacore = ["--target-option", "chip_config_name=megacore"];
    let ran = compile(&[&wrong[..], &megacore].concat()).expect("libtpu is there").succeeds();
    assert_eq!(ran.err.lines().count(), 2, "libtpu is to be quiet, but:\n{}", ran.err);
    assert!(ran.out.contains("our estimate"), "{}", ran.out);
    assert!(fs::metadata(place.at("matmul.artefact/forward.executable")).unwrap().len() > 1000);
    let unknown = ["compile", &path, "--target", "tpu:v9:2x2", "--mesh", "data=4"];
    run(&place, &unknown)
        .expect("libtpu is there")
        .fails(&["makes no topology of tpu:v9:2x2", "help: slices are named"]);
    assert_eq!(place.entries(), ["matmul.artefact"]);
}

#[test]
fn switch_tiny_compiles_for_slices() {
    if std::env::var_os("MESH_SLOW").is_none_or(|v| v != "1") {
        return;
    }
    let place = Workplace::new();
    let path = model("switch_tiny.rs");
    for (target, mesh) in [("tpu:v5e:2x4", "data=2,expert=2,model=2"), ("tpu:v4:2x2x1", "data=2,expert=4")] {
        let args =
            ["compile", &path, "--target", target, "--mesh", mesh, "--emit", "executable,report", "-o", "x"];
        let Some(ran) = run(&place, &args) else { return };
        let ran = ran.succeeds();
        assert!(
            ran.out.contains("peak memory (estimate)") && ran.out.contains("our estimate"),
            "{}",
            ran.out
        );
        let executable = fs::metadata(place.at("x/train_step.executable")).unwrap();
        assert!(executable.len() > 1 << 20, "{executable:?}");
    }
}

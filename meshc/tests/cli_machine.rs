//! `meshc` on a machine that has the binary, an artefact, a plugin and text, and nothing else: no Rust, no
//! source tree, no `PATH`.

use crate::support::{Ran, TINY, Workplace, cpu_plugin, home, model, say_skipped};
use std::{fs, path::Path, process::Command};

/// Hides the folder `$1`, then runs the rest with an empty `PATH`.
const WITHOUT: &str =
    "PATH=/bin:/usr/bin; mount -t tmpfs none \"$1\" || exit 97; shift; export PATH=; exec \"$@\"";

/// Returns a command that runs `program` where the source tree does not exist. If this system does not allow
/// that, prints the reason and returns a command that runs it as it is.
fn without_source_tree(program: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let unshare = std::env::split_paths(&path).map(|dir| dir.join("unshare")).find(|path| path.is_file());
    let hiding = |program: &Path| {
        let mut command = Command::new(unshare.as_deref().unwrap_or(Path::new("unshare")));
        command.args(["--map-root-user", "--mount", "/bin/sh", "-c", WITHOUT, "sh"]);
        command.arg(home()).arg(program);
        command
    };
    let why = match hiding(Path::new("/bin/ls")).arg(home()).output() {
        Ok(output) if output.status.success() => {
            assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
            return hiding(program);
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    say_skipped(&format!("the source tree stays visible, because unshare fails: {why}"));
    Command::new(program)
}

#[test]
fn an_artefact_trains_without_rust_and_source_tree() {
    let place = Workplace::new();
    let path = model("switch_tiny.rs");
    place.run(&[&["compile", &path, "-o", "x"], &TINY[..]].concat()).succeeds();
    place.write("text.txt", "a line of text to train on\n".repeat(200));
    let (program, plugin) = (place.at("meshc"), place.at("plugin_cpu.so"));
    fs::copy(env!("CARGO_BIN_EXE_meshc"), &program).unwrap();
    fs::copy(cpu_plugin(), &plugin).unwrap();
    let mut command = without_source_tree(&program);
    command.args(["train", "x", "--data", "text.txt", "--steps", "2", "--run-dir", "r"]);
    command.env_clear().env("PATH", "").env("HOME", place.path()).env("MESH_PJRT_PLUGIN", &plugin);
    command.env("MESH_HOME", "/nowhere").current_dir(place.path());
    let ran = Ran::new(command.output().expect("meshc starts")).succeeds();
    assert_eq!(place.metrics("r/metrics.jsonl").len(), 2, "{}", ran.out);
    assert_eq!(place.folders("r/checkpoints"), ["step_00000002"]);
}

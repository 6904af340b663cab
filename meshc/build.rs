//! Records the commit that a release is built from.

use std::{env, process::Command};

fn main() {
    // Other builds have no commit, so that a commit does not link them again.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|o| o.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = is_release.then(|| git(&["rev-parse", "--short=12", "HEAD"])).flatten();
    println!("cargo::rerun-if-changed=build.rs");
    if let (true, Some(head)) = (is_release, git(&["rev-parse", "--git-path", "logs/HEAD"])) {
        println!("cargo::rerun-if-changed={head}");
    }
    println!("cargo::rustc-env=MESH_COMMIT={}", commit.unwrap_or_else(|| "development build".to_owned()));
    println!("cargo::rustc-env=MESH_TARGET={}", env::var("TARGET").unwrap_or_default());
}

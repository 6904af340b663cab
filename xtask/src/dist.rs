//! `cargo xtask dist`: a release archive of `meshc` for a Linux target.

use anyhow::{Context, Result, bail};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The targets, and a linker that makes programs for each.
const TARGETS: [(&str, &str); 2] =
    [("x86_64-unknown-linux-gnu", "cc"), ("aarch64-unknown-linux-gnu", "aarch64-linux-gnu-gcc")];

/// The files beside the executable.
const BESIDE: [&str; 5] = ["LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "docs"];

/// Builds `meshc` and writes `target/dist/meshc-VERSION-TARGET.tar.gz` with its SHA-256 beside it.
///
/// # Errors
/// The target is unknown, its linker or its standard library is missing, or the build fails.
pub fn run(root: &Path, target: &str) -> Result<()> {
    let Some((_, linker)) = TARGETS.iter().find(|(name, _)| *name == target) else {
        let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        bail!("unknown target `{target}`; targets are {}", known.join(", "));
    };
    if !is_on_path(linker) {
        bail!("`{linker}`, the linker for {target}, is not on the PATH: install the compiler that has it");
    }
    let library = output(root, "rustc", &["--print", "target-libdir", "--target", target])?;
    if !Path::new(&library).is_dir() {
        bail!("the standard library for {target} is not installed: rustup target add {target}");
    }
    let key = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--locked", "-p", "meshc", "--target", target]).current_dir(root);
    if !build.env(key, linker).status().context("starting cargo")?.success() {
        bail!("meshc does not build for {target}");
    }
    let folder = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let name = format!("meshc-{}-{target}", env!("CARGO_PKG_VERSION"));
    let archive = pack(root, &folder, target, &name)?;
    println!("{}", archive.display());
    Ok(())
}

/// Collects the files of a release in `dist/NAME`, and packs them. Returns the archive.
fn pack(root: &Path, folder: &Path, target: &str, name: &str) -> Result<PathBuf> {
    let dist = folder.join("dist");
    let place = dist.join(name);
    if place.exists() {
        fs::remove_dir_all(&place).with_context(|| format!("removing `{}`", place.display()))?;
    }
    fs::create_dir_all(&place).with_context(|| format!("creating `{}`", place.display()))?;
    let program = folder.join(target).join("release/meshc");
    fs::copy(&program, place.join("meshc")).with_context(|| format!("copying `{}`", program.display()))?;
    for item in BESIDE {
        output(root, "cp", &["-r", item, &place.display().to_string()])?;
    }
    let time = output(root, "git", &["log", "-1", "--format=@%ct"])?;
    compress(&dist, name, &time)
}

/// Packs the folder `NAME` of `dist`, and writes the digest beside the archive, which it returns. The same
/// files give the same bytes: sorted, of one owner, and of the time `time`.
fn compress(dist: &Path, name: &str, time: &str) -> Result<PathBuf> {
    let archive = format!("{name}.tar.gz");
    let mtime = format!("--mtime={time}");
    let same = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", &mtime];
    let how = ["--use-compress-program=gzip -n9", "-cf", &archive, name];
    output(dist, "tar", &[&same[..], &how].concat())?;
    let sum = output(dist, "sha256sum", &[&archive])?;
    fs::write(dist.join(format!("{archive}.sha256")), sum + "\n").context("writing the digest")?;
    Ok(dist.join(archive))
}

fn is_on_path(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

/// Returns the output of a program without the last end of line.
fn output(folder: &Path, program: &str, args: &[&str]) -> Result<String> {
    let ran = Command::new(program).args(args).current_dir(folder).output();
    let ran = ran.with_context(|| format!("starting `{program}`"))?;
    if !ran.status.success() {
        bail!("`{program} {}` failed: {}", args.join(" "), String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&ran.stdout).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_the_same_each_time_and_targets_are_refused_by_name() {
        let root = crate::root();
        let error = run(&root, "riscv64-unknown-linux-gnu").unwrap_err().to_string();
        assert!(error.contains("`riscv64-unknown-linux-gnu`; targets are x86_64"), "{error}");
        let place = tempfile::tempdir().unwrap();
        let (target, folder) = ("t", place.path());
        fs::create_dir_all(folder.join("t/release")).unwrap();
        fs::write(folder.join("t/release/meshc"), "program").unwrap();
        let bytes = || fs::read(pack(&root, folder, target, "meshc-0-t").unwrap()).unwrap();
        let first = bytes();
        assert!(first == bytes() && first.len() > 1000);
        let sum = fs::read_to_string(folder.join("dist/meshc-0-t.tar.gz.sha256")).unwrap();
        assert!(sum.ends_with("  meshc-0-t.tar.gz\n"), "{sum}");
        let names = output(&folder.join("dist"), "tar", &["-tzf", "meshc-0-t.tar.gz"]).unwrap();
        assert!(
            names.ends_with("meshc-0-t/meshc") && names.contains("meshc-0-t/docs/training.md"),
            "{names}"
        );
    }

    #[test]
    fn a_failure_of_tar_gives_no_digest() {
        let place = tempfile::tempdir().unwrap();
        let error = compress(place.path(), "meshc-0-t", "@0").unwrap_err().to_string();
        assert!(error.contains("`tar ") && error.contains("meshc-0-t"), "{error}");
        assert!(!place.path().join("meshc-0-t.tar.gz.sha256").exists());
    }
}

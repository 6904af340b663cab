//! Installing a plugin from PyPI with pip: pinned version, pinned digest, atomically.

use crate::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A wheel that contains a plugin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wheel {
    /// Name on PyPI.
    pub package: &'static str,
    /// The version.
    pub version: &'static str,
    /// SHA-256 of the wheels, in hexadecimal.
    pub sha256: &'static [&'static str],
    /// The path of the shared library in the wheel.
    pub library: &'static str,
}

/// The default CPU plugin: XLA of October 2026.
pub const CPU: Wheel = Wheel {
    package: "lammps-jax-pjrt-cpu",
    version: "0.11.2",
    sha256: &["1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1"],
    library: "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so",
};

/// Returns the path of the wheel's library in the cache, whether installed or not.
pub fn installed(wheel: &Wheel, cache: &Path) -> PathBuf {
    folder(wheel, cache).join(wheel.library)
}

fn folder(wheel: &Wheel, cache: &Path) -> PathBuf {
    cache.join("plugins").join(format!("{}-{}", wheel.package, wheel.version))
}

/// Installs a wheel into the cache, unless it is there, and returns the path of its library.
///
/// # Errors
/// pip cannot be run or fails, or the wheel does not contain the library.
pub fn install(wheel: &Wheel, cache: &Path) -> Result<PathBuf> {
    let library = installed(wheel, cache);
    if library.is_file() {
        return Ok(library);
    }
    let target = folder(wheel, cache);
    let parent = target.parent().expect("the folder is below the cache").to_owned();
    fs::create_dir_all(&parent).map_err(Error::io("creating the folder", &parent))?;
    // On drop, removes what a failed pip left behind, unless it was renamed.
    let scratch = tempfile::tempdir_in(&parent).map_err(Error::io("creating a folder in", &parent))?;
    let digests: String = wheel.sha256.iter().map(|d| format!(" --hash=sha256:{d}")).collect();
    let requirements = scratch.path().join("requirements.txt");
    let line = format!("{}=={}{digests}\n", wheel.package, wheel.version);
    fs::write(&requirements, line).map_err(Error::io("writing", &requirements))?;
    let unpacked = scratch.path().join("unpacked");
    pip(wheel, &requirements, &unpacked)?;
    if !unpacked.join(wheel.library).is_file() {
        return Err(Error::input(
            format!("{} {} does not contain `{}`", wheel.package, wheel.version, wheel.library),
            "give the path of a plugin with --plugin or MESH_PJRT_PLUGIN",
        ));
    }
    match fs::rename(&unpacked, &target) {
        // Another process was faster. Its copy is the same.
        Err(_) if library.is_file() => Ok(library),
        Err(error) => Err(Error::io("moving the plugin to", &target)(error)),
        Ok(()) => Ok(library),
    }
}

fn pip(wheel: &Wheel, requirements: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new("python3");
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    command.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--no-compile"]);
    command.arg("--target").arg(target).arg("--requirement").arg(requirements);
    let help = format!(
        "check that `python3 -m pip` works and reaches PyPI, or install {} {} yourself and give the path of its library with MESH_PJRT_PLUGIN",
        wheel.package, wheel.version
    );
    let output =
        command.output().map_err(|e| Error::input(format!("cannot start python3: {e}"), help.clone()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::input(
        format!("pip did not install {} {}:\n{}", wheel.package, wheel.version, text.trim_end()),
        help,
    ))
}

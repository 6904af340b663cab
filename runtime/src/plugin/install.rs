//! Installing a plugin from PyPI with pip: pinned version, pinned digest, atomically.

use crate::{Error, Result};
use std::{
    fs::{self, File},
    io,
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
    /// BLAKE3 of the shared library, in hexadecimal.
    pub library_blake3: &'static str,
}

/// The default CPU plugin: XLA of October 2026.
pub const CPU: Wheel = Wheel {
    package: "lammps-jax-pjrt-cpu",
    version: "0.11.2",
    sha256: &["1319390d948b39f69f7dade496b7c385149d9ca6097a6b62114da113216d9ad1"],
    library: "lammps_jax_pjrt_cpu/pjrt_c_api_cpu_plugin.so",
    library_blake3: "8ab554f9817e355a92ff578e09a8d0d3089e49ba0a165bbbefac60ad13f7816b",
};

/// Returns the path of the wheel's library in the cache, whether installed or not.
pub fn installed(wheel: &Wheel, cache: &Path) -> PathBuf {
    folder(wheel, cache).join(wheel.library)
}

/// Checks that the library in the cache is that of the wheel, before it is loaded: it runs with the rights of
/// the user. pip has verified the wheel's digest only once.
///
/// # Errors
/// The library cannot be read or is another one.
pub fn verify(wheel: &Wheel, cache: &Path) -> Result<()> {
    let path = installed(wheel, cache);
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(&path).map_err(Error::io("reading the plugin", &path))?;
    io::copy(&mut file, &mut hasher).map_err(Error::io("reading the plugin", &path))?;
    let found = hasher.finalize().to_hex();
    if found.as_str() == wheel.library_blake3 {
        return Ok(());
    }
    Err(Error::input(
        format!(
            "the plugin `{}` is not that of {} {}: its BLAKE3 digest is {found}, not {}",
            path.display(),
            wheel.package,
            wheel.version,
            wheel.library_blake3
        ),
        format!(
            "it was altered or damaged: remove `{}`, and the next command installs it again",
            folder(wheel, cache).display()
        ),
    ))
}

fn folder(wheel: &Wheel, cache: &Path) -> PathBuf {
    cache.join("plugins").join(format!("{}-{}", wheel.package, wheel.version))
}

/// Installs a wheel into the cache, unless it is there, and returns the path of its library.
///
/// # Errors
/// pip cannot be run or fails, the wheel does not contain the library, or an installed one is altered.
pub fn install(wheel: &Wheel, cache: &Path) -> Result<PathBuf> {
    let library = installed(wheel, cache);
    if library.is_file() {
        return verify(wheel, cache).map(|()| library);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_altered_library_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let wheel = Wheel {
            library_blake3: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
            ..CPU
        };
        let path = installed(&wheel, cache.path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"").unwrap();
        // The digest of no bytes.
        verify(&wheel, cache.path()).unwrap();
        assert_eq!(install(&wheel, cache.path()).unwrap(), path);
        fs::write(&path, b"x").unwrap();
        for error in [verify(&wheel, cache.path()).unwrap_err(), install(&wheel, cache.path()).unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains("BLAKE3 digest") && error.contains("remove `"), "{error}");
        }
    }
}

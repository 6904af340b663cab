//! Builds of model programs: a small cargo package in the cache that depends on the crates `mesh` and
//! `models` of the source tree, or the package of the user, with dependencies of any kind.

use crate::{
    diagnostics::Sources,
    failure::failure,
    files::{model_cache, write_file},
    sources::home,
    subject::is_package,
};
use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A model file and the place of its build.
#[derive(Clone, Debug)]
pub struct Model {
    /// The path as the user gave it.
    pub name: String,
    /// The absolute path of the model: a file, or the folder of a package.
    pub path: PathBuf,
    /// The source tree with `mesh` and `models`.
    pub home: PathBuf,
    /// The cache directory of models.
    pub cache: PathBuf,
}

/// A built model.
#[derive(Clone, Debug)]
pub struct Built {
    /// The executable.
    pub executable: PathBuf,
    /// All source files it was built from.
    pub sources: Vec<PathBuf>,
}

impl Model {
    /// Returns the model at `path`, an existing file or package.
    pub fn new(path: &Path, name: &str) -> Result<Self> {
        let path = fs::canonicalize(path).with_context(|| format!("finding `{name}`"))?;
        let (home, cache) = (home()?, model_cache("models")?);
        Ok(Self { name: name.to_owned(), path, home, cache })
    }

    /// Returns the directory of the model as the user gave it, and its actual path.
    fn folder(&self) -> (&Path, &Path) {
        if self.is_package() {
            return (Path::new(&self.name), &self.path);
        }
        let parent = |path| Path::parent(path).unwrap_or(Path::new(""));
        (parent(Path::new(&self.name)), parent(&self.path))
    }

    /// Returns the places of the files that sites name.
    pub fn sources(&self) -> Sources {
        let (named, real) = self.folder();
        Sources { folders: vec![(named.to_owned(), real.to_owned()), (PathBuf::new(), self.home.clone())] }
    }

    fn is_package(&self) -> bool {
        is_package(&self.path)
    }

    /// Returns the name of the executable: the name of the file, as far as cargo allows.
    fn binary(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let word: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let reserved = ["build", "deps", "examples", "incremental", "test", "core", "std", "mesh", "models"];
        if word.starts_with(|c: char| c.is_ascii_alphabetic()) && !reserved.contains(&word.as_str()) {
            word
        } else {
            format!("model_{word}")
        }
    }

    /// Returns the directory of the package, one for each file and source tree.
    fn package(&self) -> PathBuf {
        let key = format!("{}\n{}", self.path.display(), self.home.display());
        let digest = compiler::artefact::digest(key.as_bytes());
        self.cache.join("packages").join(format!("{}-{}", self.binary(), &digest[..16]))
    }

    /// Builds the model in the folder of `prepared`. rustc prints its messages to standard error.
    pub fn build(&self, (package, binary): &(PathBuf, String)) -> Result<Built> {
        let target = self.cache.join("target");
        let mut command = cargo();
        command
            .args(["rustc", "--quiet", "--bin", binary, "--manifest-path"])
            .arg(package.join("Cargo.toml"));
        let (named, real) = self.folder();
        if self.is_package() {
            // rustc is given paths relative to the package.
            command.arg("--target-dir").arg(&target).arg("--");
            command.args(remap(Path::new("src"), &named.join("src")));
        } else {
            // The crates have no dependencies to download.
            command.arg("--offline").arg("--target-dir").arg(&target).arg("--");
        }
        command.args(remap(real, named));
        // Replaces RUSTFLAGS of the user, which would rebuild all dependencies. This mapping applies after
        // the one above: a model in the source tree is named by its path there, in any current directory.
        command.env("CARGO_ENCODED_RUSTFLAGS", remap(&self.home, Path::new("")).unwrap_or_default());
        command.env_remove("CARGO_BUILD_TARGET").env_remove("RUSTC_WORKSPACE_WRAPPER");
        command.env_remove("CARGO_PROFILE_DEV_DEBUG");
        command.current_dir(package).stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.status().map_err(|e| {
            failure(
                format!("cargo could not be started to build model `{}`: {e}", self.name),
                "install Rust (https://rustup.rs), use a built-in model, or give the program as .mesh text",
            )
        })?;
        if !status.success() {
            return Err(failure(
                format!("model `{}` does not compile", self.name),
                "see the messages of rustc above",
            ));
        }
        let executable = target.join("debug").join(binary);
        let sources = dependencies(&executable.with_extension("d"))?;
        let own = ["Cargo.toml", "Cargo.lock"].map(|file| package.join(file));
        let own = own.into_iter().filter(|file| self.is_package() && file.is_file());
        Ok(Built { executable, sources: sources.into_iter().chain(self.manifests()).chain(own).collect() })
    }

    /// Returns the folder of the package and the name of its executable. Writes the package of a model
    /// file, and the Cargo.lock of a package that has none.
    pub fn prepared(&self) -> Result<(PathBuf, String)> {
        if self.is_package() {
            return Ok((self.path.clone(), executable(&self.path, &self.name)?));
        }
        let package = self.package();
        let (manifest, text) = (package.join("Cargo.toml"), self.manifest()?);
        if fs::read_to_string(&manifest).ok().as_ref() != Some(&text) {
            write_file(&manifest, text.as_bytes())?;
        }
        Ok((package, self.binary()))
    }

    /// Returns the manifests that the build depends on.
    fn manifests(&self) -> [PathBuf; 3] {
        ["Cargo.toml", "mesh/Cargo.toml", "models/Cargo.toml"].map(|file| self.home.join(file))
    }

    /// Returns the manifest of the package. Model programs run for milliseconds, so they are built without
    /// optimization. Errors in library code name the line of the model from its debug information.
    fn manifest(&self) -> Result<String> {
        let quoted = |path: &Path| -> Result<String> {
            let text = path.to_str().ok_or_else(|| {
                failure(
                    format!("the path `{}` is not Unicode", path.display()),
                    "move the file to a path that is",
                )
            })?;
            // JSON strings are valid TOML strings.
            Ok(serde_json::to_string(text)?)
        };
        Ok(format!(
            "[package]\nname = \"{binary}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
             [[bin]]\nname = \"{binary}\"\npath = {path}\n\n\
             [dependencies]\nmesh = {{ path = {mesh} }}\nmodels = {{ path = {models} }}\n\n\
             [profile.dev]\nopt-level = 0\ndebug = \"line-tables-only\"\nincremental = false\n\n\
             [profile.dev.package.\"*\"]\ndebug = false\n\n[workspace]\n",
            binary = self.binary(),
            path = quoted(&self.path)?,
            mesh = quoted(&self.home.join("mesh"))?,
            models = quoted(&self.home.join("models"))?,
        ))
    }
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Returns the name of the executable of the package in `folder`.
fn executable(folder: &Path, name: &str) -> Result<String> {
    let mut command = cargo();
    command.args(["metadata", "--format-version", "1", "--manifest-path"]);
    let output = command.arg(folder.join("Cargo.toml")).stdin(Stdio::null()).output().map_err(|e| {
        failure(
            format!("cargo could not be started to read the package `{name}`: {e}"),
            "install Rust (https://rustup.rs), or use a built-in model",
        )
    })?;
    if !output.status.success() {
        return Err(failure(
            format!(
                "cargo cannot read the package `{name}`: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
            "correct its Cargo.toml",
        ));
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("reading the output of cargo metadata")?;
    let manifest = folder.join("Cargo.toml");
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let package =
        packages.into_iter().find(|p| p["manifest_path"].as_str().map(Path::new) == Some(&manifest));
    let targets = package.and_then(|p| p["targets"].as_array()).into_iter().flatten();
    let is_binary = |t: &&Value| t["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|k| k == "bin"));
    let binaries: Vec<&str> = targets.filter(is_binary).filter_map(|t| t["name"].as_str()).collect();
    let default = package.and_then(|p| p["default_run"].as_str());
    match (default, binaries.as_slice()) {
        (Some(one), _) | (None, &[one]) => Ok(one.to_owned()),
        (None, []) => Err(failure(
            format!("the package `{name}` has no executable"),
            "a model program is `src/main.rs`: its `main` ends with `models::main(…)` or `mesh::dsl::main(…)`",
        )),
        (None, several) => Err(failure(
            format!("the package `{name}` has several executables: {}", several.join(", ")),
            "name one of them as `default-run` in Cargo.toml, or name the file of the model",
        )),
    }
}

/// Returns the rustc flag that renames the path `from` to `to`, so that programs do not depend on the place
/// of their sources. `None` for paths with `=`, which the flag cannot express.
fn remap(from: &Path, to: &Path) -> Option<String> {
    let (from, to) = (from.to_str()?, to.to_str()?);
    (!from.contains('=') && !to.contains('=')).then(|| format!("--remap-path-prefix={from}={to}"))
}

/// Parses cargo's list of the source files of an executable: `PROGRAM: FILE FILE…`, spaces escaped.
fn dependencies(path: &Path) -> Result<Vec<PathBuf>> {
    let text =
        proto::regular::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))?;
    let (_, files) = text.split_once(": ").unwrap_or_default();
    let files = files.replace("\\ ", "\0");
    Ok(files.split_whitespace().map(|f| PathBuf::from(f.replace('\0', " "))).collect())
}

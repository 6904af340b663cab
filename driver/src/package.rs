//! Builds of model programs: a small cargo package in the cache that depends on the crates `mesh` and
//! `models` of the source tree that meshc was built from.

use crate::{
    diagnostics::Sources,
    failure::failure,
    files::{cache, write_file},
};
use anyhow::{Context, Result};
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
    /// The absolute path of the model.
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
    /// Returns the model at `path`, an existing file.
    pub fn new(path: &Path, name: &str) -> Result<Self> {
        let path = fs::canonicalize(path).with_context(|| format!("finding `{name}`"))?;
        let (home, cache) = (home()?, cache()?.join("models"));
        fs::create_dir_all(&cache).map_err(|e| {
            failure(
                format!("the cache `{}` cannot be created: {e}", cache.display()),
                "models are built there: set MESH_CACHE to a writable directory",
            )
        })?;
        Ok(Self { name: name.to_owned(), path, home, cache })
    }

    /// Returns the directory of the model as the user gave it, and its actual path.
    fn folder(&self) -> (&Path, &Path) {
        let parent = |path| Path::parent(path).unwrap_or(Path::new(""));
        (parent(Path::new(&self.name)), parent(&self.path))
    }

    /// Returns the places of the files that sites name.
    pub fn sources(&self) -> Sources {
        let (named, real) = self.folder();
        Sources { folders: vec![(named.to_owned(), real.to_owned()), (PathBuf::new(), self.home.clone())] }
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

    /// Builds the model. rustc prints its messages to standard error.
    pub fn build(&self) -> Result<Built> {
        let (package, target) = (self.package(), self.cache.join("target"));
        let manifest = package.join("Cargo.toml");
        let text = self.manifest()?;
        if fs::read_to_string(&manifest).ok().as_ref() != Some(&text) {
            write_file(&manifest, text.as_bytes())?;
        }
        let binary = self.binary();
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["rustc", "--quiet", "--offline", "--bin", &binary, "--manifest-path"]).arg(&manifest);
        command.arg("--target-dir").arg(&target).arg("--");
        let (named, real) = self.folder();
        command.args(remap(real, named));
        // Replaces RUSTFLAGS of the user, which would rebuild all dependencies. This mapping applies after
        // the one above: a model in the source tree is named by its path there, in any current directory.
        command.env("CARGO_ENCODED_RUSTFLAGS", remap(&self.home, Path::new("")).unwrap_or_default());
        command.env_remove("CARGO_BUILD_TARGET").env_remove("RUSTC_WORKSPACE_WRAPPER");
        command.current_dir(&package).stdin(Stdio::null()).stdout(Stdio::null());
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
        let executable = target.join("debug").join(&binary);
        let sources = dependencies(&executable.with_extension("d"))?;
        Ok(Built { executable, sources: sources.into_iter().chain(self.manifests()).collect() })
    }

    /// Returns the manifests that the build depends on.
    fn manifests(&self) -> [PathBuf; 3] {
        ["Cargo.toml", "mesh/Cargo.toml", "models/Cargo.toml"].map(|file| self.home.join(file))
    }

    /// Returns the manifest of the package. Model programs run for milliseconds, so they are built without
    /// optimization.
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
             [profile.dev]\nopt-level = 0\ndebug = false\nincremental = false\n\n[workspace]\n",
            binary = self.binary(),
            path = quoted(&self.path)?,
            mesh = quoted(&self.home.join("mesh"))?,
            models = quoted(&self.home.join("models"))?,
        ))
    }
}

/// Returns the source tree with the crates `mesh` and `models`.
fn home() -> Result<PathBuf> {
    let given = env::var_os("MESH_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let built_from =
        || Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default();
    let (home, reason) = match given {
        Some(home) => (home, "MESH_HOME names"),
        None => (built_from(), "meshc was built from"),
    };
    if ["mesh", "models"].iter().all(|c| home.join(c).join("Cargo.toml").is_file()) {
        return fs::canonicalize(&home).with_context(|| format!("finding `{}`", home.display()));
    }
    Err(failure(
        format!(
            "model programs need the crates `mesh` and `models`, but {reason} `{}`, which does not contain them",
            home.display()
        ),
        "set MESH_HOME to the source tree, which contains mesh/ and models/",
    ))
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

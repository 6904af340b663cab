//! The source tree of `mesh` and `models`: the clone that meshc runs in, or a copy of the sources that are
//! embedded in the executable.

use crate::{
    failure::failure,
    files::{model_cache, write_file},
};
use anyhow::{Context, Result};
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The embedded files: their paths in the repository, and their contents.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sources.rs"));

/// Returns the source tree with the crates `mesh` and `models`: that of `MESH_HOME`; else the clone whose
/// `target` has this executable, as in development; else a copy in the cache.
///
/// # Errors
/// `MESH_HOME` names another folder, or the copy cannot be written.
pub fn home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("MESH_HOME").filter(|home| !home.is_empty()).map(PathBuf::from) {
        if is_home(&home) {
            return fs::canonicalize(&home).with_context(|| format!("finding `{}`", home.display()));
        }
        return Err(failure(
            format!(
                "model programs need the crates `mesh` and `models`, but MESH_HOME names `{}`, which does not \
                 contain them",
                home.display()
            ),
            "set MESH_HOME to the source tree, which contains mesh/ and models/, or unset it",
        ));
    }
    let clone = Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(|clone| clone.canonicalize().ok());
    let this = env::current_exe().and_then(|this| this.canonicalize()).unwrap_or_default();
    match clone.filter(|clone| this.starts_with(clone) && is_home(clone)) {
        Some(clone) => Ok(clone),
        None => copy(&model_cache("sources")?),
    }
}

fn is_home(folder: &Path) -> bool {
    ["mesh", "models"].iter().all(|name| folder.join(name).join("Cargo.toml").is_file())
}

/// Writes the embedded files to a folder of `cache`, unless they are there. Returns the folder.
fn copy(cache: &Path) -> Result<PathBuf> {
    let names: String =
        FILES.iter().map(|(name, text)| format!("{name}\n{}\n{text}\n", text.len())).collect();
    let digest = compiler::artefact::digest(names.as_bytes());
    let folder = cache.join(&digest[..16]);
    for (name, text) in FILES {
        let path = folder.join(name);
        let text = if *name == "Cargo.toml" { workspace(text) } else { (*text).to_owned() };
        // An existing file may be from a process that was interrupted, or edited.
        if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
            continue;
        }
        let parent = path.parent().expect("names of files are below the folder");
        fs::create_dir_all(parent).with_context(|| format!("creating `{}`", parent.display()))?;
        write_file(&path, text.as_bytes())?;
    }
    fs::canonicalize(&folder).with_context(|| format!("finding `{}`", folder.display()))
}

/// Returns the manifest of the workspace with only the members that are embedded.
fn workspace(manifest: &str) -> String {
    let line = |line: &str| match line.split_once(" = [").map(|(key, _)| key) {
        Some("members" | "default-members") if line.ends_with(']') => {
            format!("{} = [\"mesh\", \"models\"]\n", line.split_once(" = ").map_or("members", |(key, _)| key))
        }
        Some(_) | None => format!("{line}\n"),
    };
    manifest.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_has_both_crates_and_mends_itself() {
        let place = tempfile::tempdir().unwrap();
        let home = copy(place.path()).unwrap();
        assert!(is_home(&home) && home.join("mesh/src/lib.rs").is_file());
        let manifest = fs::read_to_string(home.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("\nmembers = [\"mesh\", \"models\"]\n"), "{manifest}");
        assert!(!manifest.contains("\"xtask\""), "{manifest}");
        let damaged = home.join("models/src/lib.rs");
        fs::write(&damaged, "nonsense").unwrap();
        assert_eq!(copy(place.path()).unwrap(), home);
        assert!(fs::read_to_string(damaged).unwrap().len() > 100);
    }
}

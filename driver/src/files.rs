//! Atomic writes of files and directories, artefacts in particular, and the cache directory.

use crate::failure::failure;
use anyhow::{Context, Result};
use runtime::Artefact;
use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The file by which an artefact directory is recognized.
pub const MANIFEST: &str = "manifest.pb";

/// True if `dir` is an artefact.
pub fn is_artefact(dir: &Path) -> bool {
    dir.join(MANIFEST).is_file()
}

/// Opens an artefact.
pub fn open(dir: &Path) -> Result<Artefact> {
    let what = match (dir.is_dir(), dir.join(MANIFEST).is_file()) {
        (true, true) => return Ok(Artefact::open(dir)?),
        (true, false) => format!("`{}` is not an artefact: it has no {MANIFEST}", dir.display()),
        (false, _) if dir.exists() => {
            format!("`{}` is not an artefact: it is not a directory", dir.display())
        }
        (false, _) => format!("there is no artefact `{}`", dir.display()),
    };
    Err(failure(what, "create one with `meshc compile MODEL -o DIR`"))
}

/// Checks that an artefact can be written to `target`: it must not exist, be empty, or be an artefact.
pub fn check_target(target: &Path) -> Result<()> {
    let is_artefact = target.join(MANIFEST).is_file();
    let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if target.symlink_metadata().is_err() || is_artefact || is_empty() {
        return Ok(());
    }
    Err(failure(
        format!("`{}` already exists and is not an artefact, so it is not replaced", target.display()),
        "name another directory with -o, or remove it",
    ))
}

/// Writes a directory under a temporary name beside `target` and renames it when it is complete. An existing
/// `target` is replaced if [`check_target`] allows it.
pub fn write_folder(target: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    check_target(target)?;
    let (parent, name) = split(target)?;
    fs::create_dir_all(&parent).with_context(|| format!("creating the directory `{}`", parent.display()))?;
    let prefix = format!(".{name}.");
    let scratch = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(&parent)
        .with_context(|| format!("creating a temporary directory in `{}`", parent.display()))?;
    for (name, bytes) in files {
        let path = scratch.path().join(name);
        fs::write(&path, bytes).with_context(|| format!("writing `{}`", path.display()))?;
    }
    if target.symlink_metadata().is_err() {
        let moved = fs::rename(scratch.path(), target);
        return moved.with_context(|| format!("moving the finished directory to `{}`", target.display()));
    }
    // A directory cannot replace one that is not empty: the old one is moved aside first.
    let aside = tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent)?;
    let old = aside.path().join("old");
    fs::rename(target, &old).with_context(|| format!("moving the old `{}` aside", target.display()))?;
    if let Err(error) = fs::rename(scratch.path(), target) {
        // Best effort: the error below is reported.
        let _ = fs::rename(&old, target);
        return Err(error)
            .with_context(|| format!("moving the finished directory to `{}`", target.display()));
    }
    Ok(())
}

/// Writes a file under a temporary name and renames it.
pub fn write_file(target: &Path, bytes: &[u8]) -> Result<()> {
    let (parent, name) = split(target)?;
    fs::create_dir_all(&parent).with_context(|| format!("creating the directory `{}`", parent.display()))?;
    let wrong = || format!("writing `{}`", target.display());
    let mut scratch = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(&parent)
        .with_context(wrong)?;
    scratch.write_all(bytes).with_context(wrong)?;
    scratch.persist(target).with_context(wrong)?;
    Ok(())
}

/// Returns the cache directory of meshc.
pub fn cache() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let found = folder("MESH_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|p| p.join("mesh")))
        .or_else(|| folder("HOME").map(|p| p.join(".cache/mesh")));
    let cache =
        found.ok_or_else(|| failure("no cache directory is known", "set MESH_CACHE to a directory"))?;
    std::path::absolute(&cache).with_context(|| format!("finding the cache `{}`", cache.display()))
}

fn split(target: &Path) -> Result<(PathBuf, String)> {
    let name = target.file_name().ok_or_else(|| {
        failure(
            format!("`{}` cannot be written: it has no name", target.display()),
            "name a file or directory",
        )
    })?;
    let parent = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    Ok((parent, name.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artefacts_are_replaced_and_other_directories_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("deep/x.artefact");
        let file = |name: &str, text: &str| (name.to_owned(), text.as_bytes().to_vec());
        write_folder(&target, &[file(MANIFEST, "1"), file("a", "a")]).unwrap();
        write_folder(&target, &[file(MANIFEST, "2")]).unwrap();
        assert_eq!(fs::read_to_string(target.join(MANIFEST)).unwrap(), "2");
        assert!(!target.join("a").exists());
        let names: Vec<_> =
            fs::read_dir(dir.path().join("deep")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["x.artefact"]);

        let other = dir.path().join("notes");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("n.txt"), "n").unwrap();
        let error = write_folder(&other, &[file(MANIFEST, "1")]).unwrap_err().to_string();
        assert!(error.contains("not an artefact") && error.contains("notes"), "{error}");
        assert_eq!(fs::read_to_string(other.join("n.txt")).unwrap(), "n");
    }
}

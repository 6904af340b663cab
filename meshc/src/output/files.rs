//! Folders and files that are whole or not there at all, artefacts above all.

use super::failure::failure;
use anyhow::{Context, Result};
use runtime::Artefact;
use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The file that makes a folder an artefact.
pub const MANIFEST: &str = "manifest.pb";

/// Whether there is an artefact.
pub fn is_artefact(dir: &Path) -> bool {
    dir.join(MANIFEST).is_file()
}

/// Reads the artefact that is to be used.
pub fn open(dir: &Path) -> Result<Artefact> {
    let what = match (dir.is_dir(), dir.join(MANIFEST).is_file()) {
        (true, true) => return Ok(Artefact::open(dir)?),
        (true, false) => format!("the folder `{}` is no artefact: it has no {MANIFEST}", dir.display()),
        (false, _) if dir.exists() => format!("`{}` is no artefact, which is a folder", dir.display()),
        (false, _) => format!("there is no artefact `{}`", dir.display()),
    };
    Err(failure(what, "make one with `meshc compile MODEL -o DIR`"))
}

/// Whether an artefact can be written to `target`: an error says that something else is there.
pub fn check_target(target: &Path) -> Result<()> {
    let is_artefact = target.join(MANIFEST).is_file();
    let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    if target.symlink_metadata().is_err() || is_artefact || is_empty() {
        return Ok(());
    }
    Err(failure(
        format!("`{}` is there already and is no artefact, so it is not replaced", target.display()),
        "name another folder with -o, or remove it",
    ))
}

/// Writes a folder: under a temporary name beside `target`, renamed when it is complete. What was there is
/// replaced if [`check_target`] allows it.
pub fn write_folder(target: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    check_target(target)?;
    let (parent, name) = split(target)?;
    fs::create_dir_all(&parent).with_context(|| format!("creating the folder `{}`", parent.display()))?;
    let prefix = format!(".{name}.");
    let scratch = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(&parent)
        .with_context(|| format!("creating a temporary folder in `{}`", parent.display()))?;
    for (name, bytes) in files {
        let path = scratch.path().join(name);
        fs::write(&path, bytes).with_context(|| format!("writing `{}`", path.display()))?;
    }
    if target.symlink_metadata().is_err() {
        let moved = fs::rename(scratch.path(), target);
        return moved.with_context(|| format!("moving the finished folder to `{}`", target.display()));
    }
    // A folder cannot be renamed onto one that is not empty: the old one steps aside.
    let aside = tempfile::Builder::new().prefix(&prefix).tempdir_in(&parent)?;
    let old = aside.path().join("old");
    fs::rename(target, &old).with_context(|| format!("moving the old `{}` aside", target.display()))?;
    if let Err(error) = fs::rename(scratch.path(), target) {
        // Best effort: the error below is what matters.
        let _ = fs::rename(&old, target);
        return Err(error).with_context(|| format!("moving the finished folder to `{}`", target.display()));
    }
    Ok(())
}

/// Writes a file under a temporary name and renames it.
pub fn write_file(target: &Path, bytes: &[u8]) -> Result<()> {
    let (parent, name) = split(target)?;
    fs::create_dir_all(&parent).with_context(|| format!("creating the folder `{}`", parent.display()))?;
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

/// Where meshc keeps what it can make again.
pub fn cache() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let found = folder("MESH_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|p| p.join("mesh")))
        .or_else(|| folder("HOME").map(|p| p.join(".cache/mesh")));
    let cache =
        found.ok_or_else(|| failure("there is no place for the cache", "set MESH_CACHE to a folder"))?;
    std::path::absolute(&cache).with_context(|| format!("finding the cache `{}`", cache.display()))
}

fn split(target: &Path) -> Result<(PathBuf, String)> {
    let name = target.file_name().ok_or_else(|| {
        failure(format!("`{}` cannot be written: it has no name", target.display()), "name a file or folder")
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
    fn an_artefact_is_replaced_whole_and_nothing_else_is_touched() {
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
        assert!(error.contains("no artefact") && error.contains("notes"), "{error}");
        assert_eq!(fs::read_to_string(other.join("n.txt")).unwrap(), "n");
    }
}

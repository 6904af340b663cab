//! Atomic writes of files and directories, artefacts in particular, and the cache directory.

use crate::failure::failure;
use anyhow::{Context, Result};
use runtime::{
    Artefact,
    artefact::{DIGESTS, digests},
};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
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
    recover(dir);
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

/// Writes the directory of an artefact with the digests of its files.
///
/// # Errors
/// `target` exists and is no artefact, or a file cannot be written.
pub fn write_artefact(target: &Path, mut files: Vec<(String, Vec<u8>)>) -> Result<()> {
    let digests = digests(&files);
    files.push((DIGESTS.to_owned(), digests));
    write_folder(target, &files)
}

/// Writes a directory under a temporary name beside `target` and renames it when it is complete and on the
/// disk. An existing `target` is replaced if [`check_target`] allows it; at every moment, the old or the new
/// directory is there, or [`recover`] finds the old one.
fn write_folder(target: &Path, files: &[(String, Vec<u8>)]) -> Result<()> {
    recover(target);
    check_target(target)?;
    let (parent, name) = split(target)?;
    fs::create_dir_all(&parent).with_context(|| format!("creating the directory `{}`", parent.display()))?;
    let prefix = format!(".{name}.new-");
    sweep(&parent, &prefix);
    let scratch = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(Permissions::from_mode(0o777))
        .tempdir_in(&parent)
        .with_context(|| format!("creating a temporary directory in `{}`", parent.display()))?;
    // Held until the directory has its name or is removed: `sweep` removes directories that nobody holds.
    let folder = File::open(scratch.path())
        .with_context(|| format!("opening the temporary directory `{}`", scratch.path().display()))?;
    // Some file systems have no locks; then a concurrent writer of the same artefact may sweep this one.
    let _ = folder.try_lock();
    for (name, bytes) in files {
        let path = scratch.path().join(name);
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.with_context(|| format!("writing `{}`", path.display()))?;
    }
    sync(scratch.path())?;
    put(scratch.path(), target, &parent.join(format!(".{name}.old")))
        .with_context(|| format!("moving the finished directory to `{}`", target.display()))?;
    sync(&parent)
}

/// Gives a finished directory its name. An existing one takes its place and is removed with it, or is moved
/// to `aside` in the meantime where directories cannot be exchanged.
fn put(finished: &Path, target: &Path, aside: &Path) -> io::Result<()> {
    if target.symlink_metadata().is_err() {
        return fs::rename(finished, target);
    }
    match renameat_with(CWD, finished, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => return Ok(()),
        // The file system or the kernel cannot exchange names.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        Err(error) => return Err(error.into()),
    }
    put_aside(finished, target, aside)
}

fn put_aside(finished: &Path, target: &Path, aside: &Path) -> io::Result<()> {
    remove(aside)?;
    fs::rename(target, aside)?;
    if let Err(error) = fs::rename(finished, target) {
        // Best effort: the error is reported, and `recover` tries again.
        let _ = fs::rename(aside, target);
        return Err(error);
    }
    remove(aside)
}

/// Puts the old artefact back if a writer was killed between moving it aside and giving the new one its name.
pub fn recover(target: &Path) {
    let Ok((parent, name)) = split(target) else { return };
    if target.symlink_metadata().is_err() {
        // Usually there is none. Any other failure appears as a missing artefact.
        let _ = fs::rename(parent.join(format!(".{name}.old")), target);
    }
}

/// Removes what killed writers have left in `parent`, best effort.
fn sweep(parent: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let is_left = entry.file_name().to_string_lossy().starts_with(prefix)
            && File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok());
        if is_left {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Waits until the entries of a directory are on the disk.
fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("writing the directory `{}` to the disk", folder.display()))
}

/// Writes a file under a temporary name, and renames it when it is on the disk.
pub fn write_file(target: &Path, bytes: &[u8]) -> Result<()> {
    let (parent, name) = split(target)?;
    fs::create_dir_all(&parent).with_context(|| format!("creating the directory `{}`", parent.display()))?;
    let wrong = || format!("writing `{}`", target.display());
    let mut scratch = tempfile::Builder::new()
        .prefix(&format!(".{name}."))
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(&parent)
        .with_context(wrong)?;
    scratch.write_all(bytes).and_then(|()| scratch.as_file().sync_all()).with_context(wrong)?;
    scratch.persist(target).with_context(wrong)?;
    sync(&parent)
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

/// Returns the directory `name` of the cache, for sources and builds of models, and creates it.
///
/// # Errors
/// No cache is known, or it cannot be created.
pub fn model_cache(name: &str) -> Result<PathBuf> {
    let folder = cache()?.join(name);
    fs::create_dir_all(&folder).map_err(|e| {
        failure(
            format!("the cache `{}` cannot be created: {e}", folder.display()),
            "models are built there: set MESH_CACHE to a writable directory",
        )
    })?;
    Ok(folder)
}

/// Creates a new directory `NAME-1`, `NAME-2`, … in `parent`, the first that does not exist.
///
/// # Errors
/// It cannot be created.
pub fn numbered_folder(parent: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(parent).with_context(|| format!("creating the directory `{}`", parent.display()))?;
    let mut number = 1u64;
    loop {
        let path = parent.join(format!("{name}-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            // Another run has this number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => {
                return Err(error).with_context(|| format!("creating the directory `{}`", path.display()));
            }
        }
    }
}

/// Returns the folders that [`numbered_folder`] has created and that still exist, by number.
///
/// # Errors
/// `parent` exists and cannot be read.
pub fn numbered_folders(parent: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let context = || format!("reading the directory `{}`", parent.display());
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(context),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(context)?;
        let file = entry.file_name();
        let number =
            file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('-')?.parse::<u64>().ok());
        found.extend(number.filter(|_| entry.path().is_dir()).map(|number| (number, entry.path())));
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
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
    fn folders_are_numbered() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("runs");
        for number in 1..=3 {
            assert_eq!(numbered_folder(&parent, "t").unwrap(), parent.join(format!("t-{number}")));
        }
        // Names of other programs, files, and numbers of two digits.
        for other in ["t-x", "t2-4", "t-", "u-9", "t-10"] {
            fs::create_dir(parent.join(other)).unwrap();
        }
        fs::write(parent.join("t-11"), "").unwrap();
        let expected = [1, 2, 3, 10].map(|number| parent.join(format!("t-{number}")));
        assert_eq!(numbered_folders(&parent, "t").unwrap(), expected);
        assert!(numbered_folders(&dir.path().join("none"), "t").unwrap().is_empty());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(numbered_folder(&dir.path().join("file"), "t").is_err());
        assert!(numbered_folders(&dir.path().join("file"), "t").is_err());
    }

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

        // A writer that was killed after it had moved the old one aside, and what another one left behind.
        fs::rename(&target, dir.path().join("deep/.x.artefact.old")).unwrap();
        fs::create_dir(dir.path().join("deep/.x.artefact.new-1")).unwrap();
        recover(&target);
        assert_eq!(fs::read_to_string(target.join(MANIFEST)).unwrap(), "2");
        write_folder(&target, &[file(MANIFEST, "3")]).unwrap();
        let names: Vec<_> =
            fs::read_dir(dir.path().join("deep")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["x.artefact"]);

        // Without an exchange, the old one is moved aside.
        let new = dir.path().join("deep/new");
        fs::create_dir(&new).unwrap();
        fs::write(target.join("a"), "old").unwrap();
        let aside = dir.path().join("deep/.x.artefact.old");
        put_aside(&new, &target, &aside).unwrap();
        assert!(!target.join("a").exists() && !aside.exists() && !new.exists());

        let other = dir.path().join("notes");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("n.txt"), "n").unwrap();
        let error = write_folder(&other, &[file(MANIFEST, "1")]).unwrap_err().to_string();
        assert!(error.contains("not an artefact") && error.contains("notes"), "{error}");
        assert_eq!(fs::read_to_string(other.join("n.txt")).unwrap(), "n");
    }
}

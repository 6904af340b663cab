//! The lock of a checkpoint folder: one run at a time writes to it.
//!
//! It is a file lock of the operating system, which ends with the process, however that ends. The contents of
//! the file are for error messages only.

use crate::{Error, Result};
use std::{
    fs::{self, File, TryLockError},
    io::{ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

/// The name of the file, which is not that of a checkpoint.
const NAME: &str = ".lock";

/// A lock, held until this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    /// The lock is held while the file is open.
    _file: File,
}

impl Lock {
    /// Creates the folder if necessary, and takes its lock.
    ///
    /// # Errors
    /// Another run holds the lock, or the folder is not writable.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("creating the folder", folder))?;
        let path = folder.join(NAME);
        loop {
            let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
            let mut file = opened.map_err(Error::io("opening the lock", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(folder, &mut file)),
                // Training works on file systems without locks too.
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(e)) => return Err(Error::io("locking", path)(e)),
            }
            // The previous holder may have removed the file before it was locked here. Then the lock is on a
            // deleted file.
            let (ours, there) = (file.metadata().ok(), fs::metadata(&path).ok());
            if ours.zip(there).is_none_or(|(a, b)| (a.dev(), a.ino()) != (b.dev(), b.ino())) {
                continue;
            }
            let said = format!("process {} on {}", process::id(), host());
            file.set_len(0)
                .and_then(|()| file.write_all(said.as_bytes()))
                .map_err(Error::io("writing", &path))?;
            return Ok(Self { path, _file: file });
        }
    }
}

/// Checks that no other run holds the lock of a folder, without taking it and without creating anything.
///
/// # Errors
/// Another run holds the lock.
pub(super) fn is_free(folder: &Path) -> Result<()> {
    // A file that does not exist or cannot be opened is reported when the lock is taken.
    let Ok(mut file) = File::options().read(true).write(true).open(folder.join(NAME)) else { return Ok(()) };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(taken(folder, &mut file)),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Removes a folder that has no other file than the lock of a run that has written no checkpoint. The caller
/// has created the folder, and no other process uses it.
pub fn remove_unused(folder: &Path) {
    let is_lock = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() == NAME);
    let is_unused = fs::read_dir(folder).is_ok_and(|mut entries| entries.all(is_lock));
    if is_unused {
        // A file that cannot be removed does no harm.
        let _ = fs::remove_file(folder.join(NAME));
        let _ = fs::remove_dir(folder);
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while it is locked. A file that remains is not locked and does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

fn taken(folder: &Path, file: &mut File) -> Error {
    let mut who = String::new();
    if file.read_to_string(&mut who).is_err() || who.is_empty() {
        who = "another process".to_owned();
    }
    Error::input(
        format!("`{}` is being written to by {who}", folder.display()),
        "wait for that run to end, stop it, or use another folder",
    )
}

/// Returns the name of this machine.
pub(super) fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "this machine".to_owned() } else { name.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_writer_is_refused_until_the_first_is_gone() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("deep/ck");
        let first = Lock::take(&folder).unwrap();
        let error = Lock::take(&folder).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} on {}", process::id(), host())), "{error}");
        assert_eq!(is_free(&folder).unwrap_err().to_string(), error);
        drop(first);
        is_free(&folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        let held = Lock::take(&folder).unwrap();
        fs::create_dir(folder.join("step_00000001")).unwrap();
        remove_unused(&folder);
        assert!(folder.join(NAME).exists(), "there is a checkpoint");
        fs::remove_dir(folder.join("step_00000001")).unwrap();
        remove_unused(&folder);
        assert!(!folder.exists());
        drop(held);
        fs::create_dir(&folder).unwrap();
        // The file that a killed process leaves is not locked.
        fs::write(folder.join(NAME), "process 1 on elsewhere, and a long name").unwrap();
        let second = Lock::take(&folder).unwrap();
        assert_eq!(
            fs::read_to_string(folder.join(NAME)).unwrap(),
            format!("process {} on {}", process::id(), host())
        );
        drop(second);
    }
}

//! One run at a time writes to a folder of checkpoints.
//!
//! The lock is the system's, on an open file: it goes with the process, however that ends. What the file says is
//! only for messages.

use crate::{Error, Result};
use std::{
    fs::{self, File, TryLockError},
    io::{ErrorKind, Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

/// Its name does not look like a checkpoint's.
const NAME: &str = ".lock";

/// Held for as long as the run is.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    /// Locked while it is open.
    _file: File,
}

impl Lock {
    /// Makes the folder if there is none, and takes its lock.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io("creating the folder", folder))?;
        let path = folder.join(NAME);
        loop {
            let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
            let mut file = opened.map_err(Error::io("opening the lock", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(folder, &mut file)),
                // A file system without locks is no reason not to train.
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => {}
                Err(TryLockError::Error(e)) => return Err(Error::io("locking", path)(e)),
            }
            // Its last holder may have removed it between the two: what is locked then is no longer there.
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

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked still. A file that stays is locked by nobody, and harmless.
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
        "wait until that run has ended, or end it; or name another folder",
    )
}

/// The name of this machine.
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
        drop(first);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        // What a killed process leaves is locked by nobody.
        fs::write(folder.join(NAME), "process 1 on elsewhere, and a long name").unwrap();
        let second = Lock::take(&folder).unwrap();
        assert_eq!(
            fs::read_to_string(folder.join(NAME)).unwrap(),
            format!("process {} on {}", process::id(), host())
        );
        drop(second);
    }
}

//! Proof that all processes of a job reach the same folder of checkpoints.

use super::{
    meeting::Processes,
    objects::{self, Objects, is_url},
    storage::Storage,
};
use crate::{Error, Result};
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// The time in which a file of rank 0 must become visible to the other processes. Network file systems may
/// keep an old list of a folder's files for some seconds.
pub(crate) const VISIBLE: Duration = Duration::from_secs(5);

/// Proves that `folder` is the same in all processes: rank 0 writes a token to a file, and all read it within
/// the time `visible`.
///
/// # Errors
/// The folder is not the same in all processes, or rank 0 cannot write to it.
pub(crate) fn prove_shared(folder: &Path, processes: Processes<'_>, visible: Duration) -> Result<()> {
    if processes.job.size() == 1 {
        return Ok(());
    }
    let token = objects::attempt();
    let name = processes.of_first("shared folder: token", || {
        write(folder, &file(&token), token.clone())?;
        Ok(token.into_bytes())
    })?;
    let token = String::from_utf8_lossy(&name);
    let seen =
        processes.all("shared folder: seen", read(folder, &token, processes, visible).map(|()| Vec::new()));
    if processes.job.is_first() {
        remove(folder, &file(&token))?;
    }
    seen.map(drop)
}

/// The name of the file, which is not that of a checkpoint.
fn file(token: &str) -> String {
    format!(".shared-{token}")
}

fn write(folder: &Path, name: &str, token: String) -> Result<()> {
    let path = folder.join(name);
    if is_url(folder) {
        return Objects::open(folder)?.put(name, vec![token.into()]).map_err(Error::io("writing", path));
    }
    fs::create_dir_all(folder).map_err(Error::io("creating the folder", folder))?;
    fs::write(&path, token).map_err(Error::io("writing", path))
}

fn remove(folder: &Path, name: &str) -> Result<()> {
    let path = folder.join(name);
    let removed = if is_url(folder) { Objects::open(folder)?.remove(name) } else { fs::remove_file(&path) };
    removed.map_err(Error::io("removing", path))
}

/// Waits until the token is visible.
fn read(folder: &Path, token: &str, processes: Processes<'_>, visible: Duration) -> Result<()> {
    let storage = Storage::open(folder)?;
    let begin = Instant::now();
    loop {
        let error = match storage.read(&file(token)) {
            Ok(bytes) if bytes == token.as_bytes() => return Ok(()),
            Ok(_) => "its contents differ".to_owned(),
            Err(error) => error.to_string(),
        };
        if begin.elapsed() >= visible {
            let host = processes.job.members().first().map_or("rank 0", |first| first.host.as_str());
            return Err(Error::input(
                format!(
                    "`{}` is not the folder that rank 0 on {host} writes to: the file `{}` of rank 0 cannot be read \
                     here ({error})",
                    folder.display(),
                    file(token)
                ),
                "checkpoints of several hosts need one folder for all of them: a shared file system such as NFS, \
                 or gs://BUCKET/PATH",
            ));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

//! A cache of compiled programs on disk, so that a restart compiles nothing.
//!
//! An entry is a file `KEY.executable`: a header, the BLAKE3 digest of the rest, and the executable as the
//! plugin serialized it. The key is a digest of everything that the executable depends on: the program, its
//! options, the number of devices, the plugin, and for CPU plugins the processor. Entries are written
//! atomically and verified before they are passed to a plugin; the least recently used ones are removed when
//! the cache is too large.
//!
//! An executable runs with the rights of the user, and a digest beside it proves nothing about its writer.
//! Folder and entries are therefore the user's alone: what other users can write is neither read nor written.

use crate::{Error, Result};
use pjrt::Client;
use rustix::process::geteuid;
use std::{
    env, fs,
    fs::{DirBuilder, File, Permissions},
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// The header of every entry.
const HEAD: &[u8] = b"mesh executable 1\n";
/// The maximum total size of all entries, in bytes.
const LIMIT: u64 = 4 << 30;
/// Environment variables that change what plugins compile.
const VARIABLES: [&str; 3] = ["XLA_FLAGS", "LIBTPU_INIT_ARGS", "CUDA_VISIBLE_DEVICES"];

/// A folder of compiled programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExecutableCache {
    folder: PathBuf,
    limit: u64,
    /// Further text that the key depends on.
    environment: Vec<String>,
}

/// A compilation, or a load from the cache.
#[derive(Clone, PartialEq, Debug)]
pub struct Compilation {
    /// The function of the artefact.
    pub function: String,
    /// True if the executable was loaded from the cache.
    pub cached: bool,
    /// The time it took.
    pub elapsed: Duration,
    /// The cache entry. `None` if there is no cache.
    pub entry: Option<PathBuf>,
    /// A problem with the cache. The program was compiled all the same.
    pub note: Option<String>,
    /// A digest of the plugin's fingerprint of the executable. `None` if the plugin has none.
    pub fingerprint: Option<String>,
}

impl ExecutableCache {
    /// Uses the folder `cache/executables`, with keys for the environment variables of this process.
    pub fn in_cache(cache: &Path) -> Self {
        let variables = VARIABLES.iter().filter_map(|name| Some(format!("{name}={}", env::var(name).ok()?)));
        Self::at(cache.join("executables"), LIMIT, variables.collect())
    }

    /// Uses `folder`, with at most `limit` bytes in total.
    pub fn at(folder: PathBuf, limit: u64, environment: Vec<String>) -> Self {
        Self { folder, limit, environment }
    }

    /// Returns the path of a program's entry, whether it exists or not.
    pub(crate) fn entry(
        &self,
        client: &Client,
        devices: usize,
        code: &[u8],
        options: &[u8],
    ) -> Result<PathBuf> {
        let plugin = client.plugin();
        let failed = || Error::pjrt("querying the plugin's version");
        let platform = client.platform_name().map_err(failed())?;
        let path = plugin.path();
        let about = fs::metadata(path).map_err(Error::io("reading", path))?;
        let changed = about.modified().ok().and_then(|t| t.duration_since(SystemTime::UNIX_EPOCH).ok());
        let mut parts = vec![
            env!("CARGO_PKG_VERSION").to_owned(),
            path.display().to_string(),
            format!("{} bytes of {changed:?}", about.len()),
            plugin.version().to_string(),
            format!("{:?}", plugin.attributes().map_err(failed())?),
            client.platform_version().map_err(failed())?,
            format!("{devices} of {} devices", client.devices().map_err(failed())?.len()),
        ];
        if platform == "cpu" {
            parts.push(this_machine());
        }
        parts.push(platform);
        parts.extend(self.environment.iter().cloned());
        let mut hasher = blake3::Hasher::new();
        for part in parts.iter().map(String::as_bytes).chain([options, code]) {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        Ok(self.folder.join(format!("{}.executable", hasher.finalize().to_hex())))
    }

    /// Reads an entry. `None` means that it does not exist.
    ///
    /// # Errors
    /// The entry is damaged (it is removed), cannot be read, or may come from another user.
    pub(crate) fn read(&self, entry: &Path) -> Result<Option<Vec<u8>>> {
        if !entry.exists() {
            return Ok(None);
        }
        is_private(&self.folder)?;
        is_private(entry)?;
        let mut bytes = match fs::read(entry) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(Error::io("reading", entry))?,
        };
        let start = HEAD.len() + blake3::OUT_LEN;
        let good = bytes.get(..start).is_some_and(|head| {
            head.starts_with(HEAD) && head[HEAD.len()..] == *blake3::hash(&bytes[start..]).as_bytes()
        });
        if !good {
            self.remove(entry);
            return Err(Error::input(
                format!("the cached executable `{}` was damaged", entry.display()),
                "nothing has to be done: it is removed and compiled again",
            ));
        }
        // The modification time records the last use. If it cannot be set, the entry is removed earlier than
        // it should be.
        let _ = File::options().append(true).open(entry).and_then(|f| f.set_modified(SystemTime::now()));
        bytes.drain(..start);
        Ok(Some(bytes))
    }

    /// Removes an entry that cannot be used. Ignores errors.
    pub(crate) fn remove(&self, entry: &Path) {
        let _ = fs::remove_file(entry);
    }

    /// Adds an executable, and removes old ones if the cache is too large.
    pub(crate) fn write(&self, entry: &Path, executable: &[u8]) -> Result<()> {
        let failed = || Error::io("caching the executable", entry);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(Error::io("creating the folder", &self.folder))?;
        is_private(&self.folder)?;
        let mut scratch = tempfile::Builder::new()
            .prefix(".new")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(&self.folder)
            .map_err(failed())?;
        scratch
            .write_all(HEAD)
            .and_then(|()| scratch.write_all(blake3::hash(executable).as_bytes()))
            .and_then(|()| scratch.write_all(executable))
            .map_err(failed())?;
        scratch.persist(entry).map_err(|e| failed()(e.error))?;
        self.prune(entry);
        Ok(())
    }

    /// Removes the least recently used entries until the cache is small enough, but never `newest`.
    fn prune(&self, newest: &Path) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut all: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|e| {
                let e = e.ok()?;
                let about = e.metadata().ok()?;
                Some((about.modified().ok()?, about.len(), e.path()))
            })
            .filter(|(.., path)| path.extension().is_some_and(|e| e == "executable"))
            .collect();
        all.sort();
        let mut total: u64 = all.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in all.iter().filter(|(.., path)| path != newest) {
            if total <= self.limit {
                return;
            }
            self.remove(path);
            total -= bytes;
        }
    }
}

/// Checks that only this user can write a folder or file.
fn is_private(path: &Path) -> Result<()> {
    let about = fs::symlink_metadata(path).map_err(Error::io("examining", path))?;
    let why = if about.uid() != geteuid().as_raw() {
        "it belongs to another user"
    } else if about.is_symlink() {
        "it is a symbolic link"
    } else if about.mode() & 0o022 != 0 {
        "other users can write it"
    } else {
        return Ok(());
    };
    Err(Error::input(
        format!("cached executables are not used: `{}`: {why}", path.display()),
        "remove it, or set MESH_CACHE to a folder that is yours alone",
    ))
}

/// Describes the processor: CPU plugins compile for its features, and the cache may be shared with other
/// machines.
fn this_machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let is_about =
        |line: &&str| ["model name", "flags", "Features", "CPU part"].iter().any(|k| line.starts_with(k));
    let first = text.split("\n\n").next().unwrap_or_default();
    let about: Vec<&str> = first.lines().filter(is_about).collect();
    format!("{} {}", env::consts::ARCH, about.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a file that only this user can write, whatever the umask is.
    fn private(path: &Path, bytes: &[u8]) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn what_others_can_write_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("deep/executables");
        let cache = ExecutableCache::at(folder.clone(), 1000, Vec::new());
        let entry = folder.join("a.executable");
        cache.write(&entry, b"program").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        for (path, open, closed) in [(&folder, 0o770, 0o700), (&entry, 0o602, 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, closed);
            assert_eq!(cache.read(&entry).unwrap().as_deref(), Some(&b"program"[..]));
            mode(path, open);
            let error = cache.read(&entry).unwrap_err().to_string();
            assert!(error.contains("other users can write it") && error.contains("MESH_CACHE"), "{error}");
            mode(path, closed);
        }
        mode(&folder, 0o770);
        assert!(cache.write(&entry, b"program").is_err());
        mode(&folder, 0o700);
        fs::rename(&entry, folder.join("b")).unwrap();
        std::os::unix::fs::symlink(folder.join("b"), &entry).unwrap();
        assert!(cache.read(&entry).unwrap_err().to_string().contains("symbolic link"));
    }

    #[test]
    fn entries_are_kept_checked_and_bounded() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("executables");
        let all = ExecutableCache::at(folder.clone(), 250, Vec::new());
        let at = |name: &str| folder.join(format!("{name}.executable"));
        assert_eq!(all.read(&at("a")).unwrap(), None);
        for (age, name) in ["a", "b", "c"].into_iter().enumerate() {
            all.write(&at(name), &[age as u8; 40]).unwrap();
            let time = SystemTime::now() - Duration::from_secs(100 - age as u64);
            File::options().append(true).open(at(name)).unwrap().set_modified(time).unwrap();
        }
        // Each entry has 90 bytes, so two remain. Reading `b` makes `c` the oldest.
        assert_eq!(all.read(&at("a")).unwrap(), None);
        assert_eq!(all.read(&at("b")).unwrap(), Some(vec![1; 40]));
        all.write(&at("d"), &[3; 40]).unwrap();
        assert_eq!(all.read(&at("c")).unwrap(), None);
        assert_eq!(all.read(&at("b")).unwrap(), Some(vec![1; 40]));

        // Every flipped bit and every truncation is detected, and the entry is removed.
        for broken in 0..90 {
            let mut bytes = fs::read(at("d")).unwrap();
            bytes[broken] ^= 4;
            private(&at("x"), &bytes);
            assert!(all.read(&at("x")).unwrap_err().to_string().contains("was damaged"));
            assert_eq!(all.read(&at("x")).unwrap(), None);
            bytes[broken] ^= 4;
            private(&at("x"), &bytes[..broken]);
            assert!(all.read(&at("x")).unwrap_err().to_string().contains("was damaged"));
        }
        // An entry larger than the limit is kept until the next one is written.
        all.write(&at("e"), &[4; 400]).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}

//! Checkpoints in object stores: `gs://bucket/run`, `s3://bucket/run`, and for tests `file:///folder` and
//! `memory:///run`.
//!
//! A store has no folders, renames or fsync, but an object appears as a whole or not at all. The marker
//! object is therefore written last: without it there is no checkpoint. Every attempt to write a checkpoint
//! has its own file names, so a writer never overwrites files that a marker covers.

use crate::{Error, Result};
use bytes::Bytes;
use futures_util::StreamExt;
use object_store::{
    ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutPayload, local::LocalFileSystem, memory::InMemory,
    path::Path as ObjectPath,
};
use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};
use tokio::runtime::{Builder, Runtime};
use url::Url;

/// Part size in bytes of multipart uploads, which are used for objects of more than two parts.
const PART: usize = 64 << 20;

/// A prefix in a store.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
}

/// Returns true if a path is the URL of an object store.
pub fn is_url(path: &Path) -> bool {
    let scheme = path.to_str().and_then(|text| text.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|s| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric()))
}

impl Objects {
    /// Opens the prefix that a URL names.
    ///
    /// # Errors
    /// The URL is invalid, its scheme is not supported, or the program was built without cloud clients.
    pub fn open(url: &Path) -> Result<Self> {
        let wrong = |why: String| {
            Error::input(
                format!("`{}` cannot hold checkpoints: {why}", url.display()),
                "name a folder, or gs://BUCKET/PATH, s3://BUCKET/PATH",
            )
        };
        let parsed = Url::parse(&url.to_string_lossy()).map_err(|e| wrong(e.to_string()))?;
        let (scheme, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|e| wrong(e.to_string()))?;
        // One client per bucket. Stores in memory must be the same for all users anyway.
        static STORES: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>> = Mutex::new(BTreeMap::new());
        let key = format!("{}://{}", parsed.scheme(), parsed.authority());
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&key) {
            return Ok(Self { store: store.clone(), prefix });
        }
        let store: Arc<dyn ObjectStore> = match scheme {
            ObjectStoreScheme::Local => {
                Arc::new(LocalFileSystem::new().with_fsync(true).with_automatic_cleanup(true))
            }
            ObjectStoreScheme::Memory => Arc::new(InMemory::new()),
            ObjectStoreScheme::AmazonS3 | ObjectStoreScheme::GoogleCloudStorage => cloud(&parsed)?,
            other => return Err(wrong(format!("the store {other:?} is not supported"))),
        };
        stores.insert(key, store.clone());
        Ok(Self { store, prefix })
    }

    /// Reads a whole object.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let path = self.path(name);
        wait(async { self.store.get(&path).await?.bytes().await }).map(|b| b.to_vec())
    }

    /// Returns the size of an object in bytes.
    pub fn len(&self, name: &str) -> io::Result<u64> {
        wait(self.store.head(&self.path(name))).map(|meta| meta.size)
    }

    /// Returns true if the object exists.
    pub fn has(&self, name: &str) -> io::Result<bool> {
        match self.len(name) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reads `bytes.len()` bytes at `offset`.
    pub fn read_at(&self, name: &str, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let range = offset..offset + bytes.len() as u64;
        let read = wait(self.store.get_range(&self.path(name), range))?;
        if read.len() != bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.copy_from_slice(&read);
        Ok(())
    }

    /// Writes an object, which appears once it is complete.
    pub fn put(&self, name: &str, contents: Vec<Bytes>) -> io::Result<()> {
        let path = self.path(name);
        let whole: usize = contents.iter().map(Bytes::len).sum();
        wait(async {
            if whole <= 2 * PART {
                return self.store.put(&path, PutPayload::from_iter(contents)).await.map(drop);
            }
            let mut upload = self.store.put_multipart(&path).await?;
            for part in parts(contents) {
                let sent = upload.put_part(PutPayload::from_iter(part)).await;
                if let Err(error) = sent {
                    // Uploaded parts cost money until they are removed. The first error is the one to report.
                    let _ = upload.abort().await;
                    return Err(error);
                }
            }
            upload.complete().await.map(drop)
        })
    }

    /// Removes an object, if it exists.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match wait(self.store.delete(&self.path(name))) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Lists the names of the objects directly below the prefix, and of the prefixes below it.
    pub fn names(&self) -> io::Result<(Vec<String>, Vec<String>)> {
        let found = wait(self.store.list_with_delimiter(Some(&self.prefix)))?;
        let name = |path: &ObjectPath| path.filename().map(str::to_owned);
        let objects = found.objects.iter().filter_map(|o| name(&o.location)).collect();
        Ok((objects, found.common_prefixes.iter().filter_map(name).collect()))
    }

    /// Lists the objects directly below the prefix with their sizes in bytes.
    pub fn sizes(&self) -> io::Result<BTreeMap<String, u64>> {
        let found = wait(self.store.list_with_delimiter(Some(&self.prefix)))?;
        let named = |o: &object_store::ObjectMeta| Some((o.location.filename()?.to_owned(), o.size));
        Ok(found.objects.iter().filter_map(named).collect())
    }

    /// Removes all objects below the prefix.
    pub fn clear(&self) -> io::Result<()> {
        wait(async {
            let all = self.store.list(Some(&self.prefix)).map(|found| found.map(|o| o.location));
            let mut removed = self.store.delete_stream(all.boxed());
            while let Some(one) = removed.next().await {
                one?;
            }
            Ok(())
        })
    }

    fn path(&self, name: &str) -> ObjectPath {
        self.prefix.clone().join(name)
    }
}

/// Cuts contents into parts of [`PART`] bytes; the last one may be smaller.
fn parts(contents: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let (mut parts, mut room) = (vec![Vec::new()], PART);
    for mut bytes in contents {
        while !bytes.is_empty() {
            if room == 0 {
                parts.push(Vec::new());
                room = PART;
            }
            let piece = bytes.split_to(room.min(bytes.len()));
            room -= piece.len();
            parts.last_mut().expect("the list starts with one part").push(piece);
        }
    }
    parts
}

/// Creates a client for a bucket. Credentials are taken from the environment, as the cloud's own tools do.
#[cfg(feature = "cloud")]
fn cloud(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    // Variables that are not valid UTF-8 are skipped; `vars` would panic.
    let around =
        std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let (store, _) = object_store::parse_url_opts(url, around).map_err(|e| {
        Error::input(
            format!("cannot create a client for `{url}`: {e}"),
            "check the bucket's name, and provide credentials as for the cloud's own tools",
        )
    })?;
    Ok(store.into())
}

#[cfg(not(feature = "cloud"))]
fn cloud(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    Err(Error::input(
        format!("`{url}` is in a cloud store, but this program was built without cloud clients"),
        "build it with `--features cloud`, or mount the bucket (gcsfuse, mount-s3) and name the folder",
    ))
}

/// Blocks on a future of a store.
fn wait<T>(work: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Builder::new_current_thread().enable_all().build());
    let runtime = runtime.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))?;
    runtime.block_on(work).map_err(|error| match error {
        object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            io::Error::new(io::ErrorKind::PermissionDenied, error)
        }
        other => io::Error::other(other),
    })
}

/// Returns a unique part of file names for one attempt to write a checkpoint.
pub(super) fn attempt() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let what = format!("{} {}", now.as_nanos(), std::process::id());
    blake3::hash(what.as_bytes()).to_hex()[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_distinguished_from_paths() {
        for (path, is) in [
            ("gs://b/x", true),
            ("memory:///x", true),
            ("s3://b", true),
            ("a/b", false),
            ("/a://b", false),
            ("://x", false),
            ("c:/x", false),
        ] {
            assert_eq!(is_url(Path::new(path)), is, "{path}");
        }
        for (url, part) in [
            ("http://x/y", "not supported"),
            ("gs:///x", "cannot hold checkpoints"),
            ("ftp://x/y", "cannot hold checkpoints"),
        ] {
            let error = Objects::open(Path::new(url)).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("gs://BUCKET"), "{error}");
        }
        if cfg!(not(feature = "cloud")) {
            let error = Objects::open(Path::new("gs://bucket/run")).unwrap_err().to_string();
            assert!(error.contains("--features cloud") && error.contains("gcsfuse"), "{error}");
        }
    }

    #[test]
    fn large_objects_are_sent_in_equal_parts() {
        let sizes = |all: &[usize]| -> Vec<usize> {
            let contents = all.iter().map(|n| Bytes::from(vec![7; *n])).collect();
            parts(contents).iter().map(|p| p.iter().map(Bytes::len).sum()).collect()
        };
        assert_eq!(sizes(&[PART - 1, 3, PART]), [PART, PART, 2]);
        assert_eq!(sizes(&[PART]), [PART]);
        let objects = Objects::open(Path::new("memory:///large")).unwrap();
        let contents = vec![Bytes::from(vec![1; PART]), Bytes::from(vec![2; PART + 1])];
        objects.put("x", contents).unwrap();
        assert_eq!(objects.len("x").unwrap(), 2 * PART as u64 + 1);
        let mut last = [0; 2];
        objects.read_at("x", &mut last, 2 * PART as u64 - 1).unwrap();
        assert_eq!(last, [2, 2]);
        assert_eq!(
            objects.read_at("x", &mut last, 2 * PART as u64).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(objects.read("y").unwrap_err().kind(), io::ErrorKind::NotFound);
        objects.clear().unwrap();
        assert!(!objects.has("x").unwrap());
    }
}

//! The storage of a checkpoint: a folder, or a prefix of an object store.

use super::objects::{Objects, is_url};
use crate::{Error, Result};
use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// The storage of one checkpoint.
#[derive(Debug)]
pub(super) struct Storage {
    path: PathBuf,
    /// `None` means a folder of the file system.
    objects: Option<Objects>,
}

/// An open file.
pub(super) enum Reader<'a> {
    File(fs::File, PathBuf),
    Object(&'a Objects, &'a str, PathBuf),
}

impl Storage {
    pub fn open(path: &Path) -> Result<Self> {
        let objects = if is_url(path) { Some(Objects::open(path)?) } else { None };
        Ok(Self { path: path.to_owned(), objects })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the reason why there is no checkpoint here, if no file has to be read to know.
    pub fn problem(&self) -> Option<&'static str> {
        if self.objects.is_some() || self.path.is_dir() {
            None
        } else if self.path.exists() {
            Some("it is not a folder")
        } else {
            Some("it does not exist")
        }
    }

    /// Reads a small file as a whole.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        match &self.objects {
            Some(objects) => objects.read(name),
            None => proto::regular::read(&self.path.join(name)),
        }
    }

    /// Opens a file and returns its size in bytes.
    pub fn file<'a>(&'a self, name: &'a str) -> io::Result<(Reader<'a>, u64)> {
        let path = self.path.join(name);
        match &self.objects {
            Some(objects) => Ok((Reader::Object(objects, name, path), objects.len(name)?)),
            None => {
                let file = proto::regular::open(&path)?;
                let len = file.metadata()?.len();
                Ok((Reader::File(file, path), len))
            }
        }
    }

    /// Opens a file that is known to exist.
    pub fn known<'a>(&'a self, name: &'a str) -> Result<Reader<'a>> {
        let path = self.path.join(name);
        match &self.objects {
            Some(objects) => Ok(Reader::Object(objects, name, path)),
            None => {
                let file = proto::regular::open(&path).map_err(Error::io("opening", &path))?;
                Ok(Reader::File(file, path))
            }
        }
    }
}

impl Reader<'_> {
    /// Reads exactly `bytes.len()` bytes at `offset`.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        match self {
            Self::File(file, path) => file.read_exact_at(bytes, offset).map_err(Error::io("reading", path)),
            Self::Object(objects, name, path) => {
                objects.read_at(name, bytes, offset).map_err(Error::io("reading", path))
            }
        }
    }
}

//! Artefacts: the manifest and the files it names, each checked against its digest.

use crate::{Error, Result};
use proto::{
    Message,
    manifest::{File, Function, Manifest},
    manifest_check,
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, path::Path};

/// A validated artefact in memory.
#[derive(Clone, Debug)]
pub struct Artefact {
    /// The manifest.
    pub manifest: Manifest,
    /// The path or name it came from, for messages.
    pub origin: String,
    files: BTreeMap<String, Vec<u8>>,
}

impl Artefact {
    /// Reads the directory that `meshc compile` wrote.
    ///
    /// # Errors
    /// A file is missing, altered or of another version.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("manifest.pb");
        let bytes =
            proto::regular::read(&path).map_err(Error::io("reading the artefact's manifest", &path))?;
        let origin = dir.display().to_string();
        let manifest = decode(&origin, &bytes)?;
        let mut files = BTreeMap::new();
        for file in named_files(&manifest) {
            // A name with path components could read files outside of the artefact.
            if Path::new(&file.name).file_name().is_none_or(|n| n.to_str() != Some(&file.name)) {
                return Err(broken(
                    &origin,
                    format!("the manifest names a file `{}`, which is not a plain file name", file.name),
                ));
            }
            let path = dir.join(&file.name);
            files.insert(
                file.name.clone(),
                proto::regular::read(&path).map_err(Error::io("reading the artefact's file", &path))?,
            );
        }
        Self::new(origin, manifest, files)
    }

    /// Creates an artefact from its parts, validated like one from disk.
    ///
    /// # Errors
    /// The manifest is invalid, or a file is missing or does not match its digest.
    pub fn new(origin: String, manifest: Manifest, files: BTreeMap<String, Vec<u8>>) -> Result<Self> {
        if let Some(problem) = manifest_check::check(&manifest).first() {
            return Err(broken(&origin, format!("manifest.pb says {problem}")));
        }
        for file in named_files(&manifest) {
            let Some(bytes) = files.get(&file.name) else {
                return Err(broken(&origin, format!("file `{}` is missing", file.name)));
            };
            let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            if digest != file.sha256 || bytes.len() as u64 != file.bytes {
                return Err(broken(
                    &origin,
                    format!(
                        "file `{}` is altered or truncated: {} bytes with digest {digest}, the manifest has {} bytes with {}",
                        file.name,
                        bytes.len(),
                        file.bytes,
                        file.sha256
                    ),
                ));
            }
        }
        Ok(Self { manifest, origin, files })
    }

    /// Returns the function `name`.
    ///
    /// # Errors
    /// There is no such function.
    pub fn function(&self, name: &str) -> Result<&Function> {
        self.manifest.functions.iter().find(|f| f.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.manifest.functions.iter().map(|f| f.name.as_str()).collect();
            Error::input(
                format!("artefact `{}` has no function `{name}`", self.origin),
                format!("it has {}", known.join(", ")),
            )
        })
    }

    /// Returns the contents of a file that the manifest names.
    pub fn file(&self, file: &Option<File>) -> Result<&[u8]> {
        let name = file.as_ref().map_or("", |f| &f.name);
        self.files
            .get(name)
            .map(|b| b.as_slice())
            .ok_or_else(|| broken(&self.origin, format!("file `{name}` is missing")))
    }

    /// Returns the program's meta entry `key`.
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.manifest.meta.get(key).map(String::as_str)
    }
}

fn decode(origin: &str, bytes: &[u8]) -> Result<Manifest> {
    Manifest::decode(bytes).map_err(|e| broken(origin, format!("manifest.pb is not a manifest: {e}")))
}

fn named_files(manifest: &Manifest) -> impl Iterator<Item = &File> {
    manifest.functions.iter().flat_map(|f| f.module.iter().chain(&f.compile_options))
}

fn broken(origin: &str, reason: String) -> Error {
    Error::Artefact { path: origin.to_owned(), reason, help: "compile the model again with `meshc compile`" }
}

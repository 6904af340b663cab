//! Artefacts: the manifest and the files it names, each checked against its digest.
//!
//! The file `SHA256SUMS` has the digests of all files of the directory, including those of the manifest and
//! of the report, in the form of `sha256sum`. Every reader verifies it first, so a flipped bit in any file is
//! an error, and never another program.

use crate::{Error, Result};
use proto::{
    Message, compile_options_check,
    manifest::{File, Function, Manifest},
    manifest_check,
};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The file with the digests of all other files of an artefact directory.
pub const DIGESTS: &str = "SHA256SUMS";

/// Returns the contents of [`DIGESTS`] for the other files of an artefact.
pub fn digests(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    files.iter().map(|(name, bytes)| format!("{}  {name}\n", digest(bytes))).collect::<String>().into_bytes()
}

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
        let origin = dir.display().to_string();
        let mut files = verified(dir, &origin)?;
        let Some(manifest) = files.remove("manifest.pb") else {
            return Err(broken(&origin, format!("{DIGESTS} does not list manifest.pb")));
        };
        let manifest = decode(&origin, &manifest)?;
        let named: BTreeSet<&str> = named_files(&manifest).map(|file| file.name.as_str()).collect();
        // The other files are verified too, but nothing here needs them.
        files.retain(|name, _| named.contains(name.as_str()));
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
            let digest = digest(bytes);
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
        let devices = manifest_check::devices(&manifest).unwrap_or_default() as usize;
        for function in &manifest.functions {
            let options = function.compile_options.as_ref().and_then(|file| files.get(&file.name));
            let checked = compile_options_check::check(options.map_or(&[][..], Vec::as_slice), devices);
            checked.map_err(|why| {
                broken(&origin, format!("the compile options of function `{}`: {why}", function.name))
            })?;
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

/// Reads the files that [`DIGESTS`] lists, and compares each with its digest.
fn verified(dir: &Path, origin: &str) -> Result<BTreeMap<String, Vec<u8>>> {
    let path = dir.join(DIGESTS);
    let list =
        proto::regular::read(&path).map_err(Error::io("reading the digests of the artefact", &path))?;
    let list = String::from_utf8(list)
        .map_err(|_| broken(origin, format!("{DIGESTS} is altered: it is not text")))?;
    let mut files = BTreeMap::new();
    for line in list.split_inclusive('\n') {
        let parts = line.strip_suffix('\n').and_then(|line| line.split_once("  "));
        let Some((sha256, name)) = parts else {
            return Err(broken(
                origin,
                format!("{DIGESTS} is altered: `{}` is not a digest", line.escape_debug()),
            ));
        };
        // A name with path components could read files outside of the artefact.
        if Path::new(name).file_name().is_none_or(|n| n.to_str() != Some(name)) {
            return Err(broken(
                origin,
                format!("{DIGESTS} names a file `{}`, which is not a plain file name", name.escape_debug()),
            ));
        }
        let path = dir.join(name);
        let bytes = proto::regular::read(&path).map_err(Error::io("reading the artefact's file", &path))?;
        let found = digest(&bytes);
        if found != sha256 {
            return Err(broken(
                origin,
                format!(
                    "file `{name}` is altered or truncated: it has {} bytes with digest {found}, but {DIGESTS} has {}",
                    bytes.len(),
                    sha256.escape_debug()
                ),
            ));
        }
        files.insert(name.to_owned(), bytes);
    }
    Ok(files)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The error of an artefact that is whole but has no valid manifest.
    const WHOLE: &str = "manifest.pb says";

    #[test]
    fn every_flipped_bit_of_every_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
        let program = Manifest { program: "a program".to_owned(), ..Manifest::default() }.encode_to_vec();
        let mut files =
            vec![file("manifest.pb", &program), file("a.pb", &[7; 20]), file("report.json", b"{}")];
        files.push(file(DIGESTS, &digests(&files)));
        for (name, bytes) in &files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        let opened = || Artefact::open(dir.path()).unwrap_err().to_string();
        assert!(opened().contains(WHOLE), "{}", opened());
        for (name, bytes) in &files {
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fs::write(dir.path().join(name), flipped).unwrap();
                assert!(!opened().contains(WHOLE), "bit {bit} of {name}");
            }
            fs::write(dir.path().join(name), &bytes[..bytes.len() - 1]).unwrap();
            assert!(!opened().contains(WHOLE), "{name} without its last byte");
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        fs::remove_file(dir.path().join(DIGESTS)).unwrap();
        assert!(opened().contains(DIGESTS), "{}", opened());
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["../x", "/etc/hosts", "..", "a/b"] {
            fs::write(dir.path().join(DIGESTS), digests(&[(name.to_owned(), Vec::new())])).unwrap();
            let error = Artefact::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("not a plain file name"), "{name}: {error}");
        }
    }
}

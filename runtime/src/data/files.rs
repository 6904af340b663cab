//! Text files: which ones there are, and what is in them.

use crate::{Error, Result};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The text of all files, one after the other. As in T5, nothing marks where one ends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text {
    /// All of it, UTF-8.
    pub bytes: Vec<u8>,
    /// The files it came from, in order.
    pub files: Vec<File>,
    /// What was found in folders and left out.
    pub skipped: Vec<Skipped>,
}

/// A file whose text is used: one document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// Where its text begins in [`Text::bytes`].
    pub start: usize,
    /// Bytes of its text.
    pub len: usize,
}

/// A file that was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// Where it is.
    pub path: PathBuf,
    /// Why it was left out.
    pub reason: String,
}

impl Text {
    /// Reads files and folders.
    ///
    /// Folders are walked in the order of their entries' names. What cannot be text there is left out:
    /// hidden files and folders, folders called `target`, links to folders, empty and binary files. A file
    /// that is named itself must be text. No file is read twice.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut reader = Reader::default();
        for path in paths {
            let about = fs::metadata(path).map_err(|source| match source.kind() {
                std::io::ErrorKind::NotFound => Error::input(
                    format!("data file `{}` does not exist", path.display()),
                    "name text files, or folders with text files in them",
                ),
                _ => Error::io("reading the data file", path)(source),
            })?;
            if about.is_dir() {
                let (before, skipped) = (reader.text.files.len(), reader.text.skipped.len());
                let again = reader.again;
                reader.walk(path)?;
                if reader.text.files.len() == before && reader.again == again {
                    return Err(nothing_in(path, &reader.text.skipped[skipped..]));
                }
            } else {
                reader.named(path)?;
            }
        }
        if reader.text.files.is_empty() {
            return Err(Error::input(
                "no data was named",
                "name text files, or folders with text files in them",
            ));
        }
        Ok(reader.text)
    }

    /// A text that is in memory already.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let file = File { path: PathBuf::from("memory"), start: 0, len: bytes.len() };
        Self { bytes, files: vec![file], skipped: Vec::new() }
    }
}

#[derive(Default)]
struct Reader {
    text: Text,
    seen: BTreeSet<PathBuf>,
    /// How many files came up a second time.
    again: usize,
}

impl Reader {
    /// A file that the user named: it must be text.
    fn named(&mut self, path: &Path) -> Result<()> {
        if self.is_repeated(path)? {
            return Ok(());
        }
        let bytes = fs::read(path).map_err(Error::io("reading the data file", path))?;
        match problem(&bytes) {
            Some(problem) => Err(Error::input(
                format!("data file `{}` {problem}", path.display()),
                "data is UTF-8 text: convert the file, for example with iconv, or leave it out",
            )),
            None => {
                self.take(path, &bytes);
                Ok(())
            }
        }
    }

    fn walk(&mut self, folder: &Path) -> Result<()> {
        let in_folder = || Error::io("reading the folder", folder);
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(in_folder())? {
            entries.push(entry.map_err(in_folder())?);
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().map_err(Error::io("looking at", &path))?;
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // A link to a folder may lead back here.
            if kind.is_dir() {
                if name != "target" {
                    self.walk(&path)?;
                }
            } else if path.is_file() {
                self.found(&path)?;
            }
        }
        Ok(())
    }

    /// A file that was found in a folder: it may be anything.
    fn found(&mut self, path: &Path) -> Result<()> {
        if self.is_repeated(path)? {
            return Ok(());
        }
        let bytes = fs::read(path).map_err(Error::io("reading the data file", path))?;
        match problem(&bytes) {
            Some(reason) => self.text.skipped.push(Skipped { path: path.to_owned(), reason }),
            None => self.take(path, &bytes),
        }
        Ok(())
    }

    fn take(&mut self, path: &Path, bytes: &[u8]) {
        self.text.files.push(File { path: path.to_owned(), start: self.text.bytes.len(), len: bytes.len() });
        self.text.bytes.extend_from_slice(bytes);
    }

    fn is_repeated(&mut self, path: &Path) -> Result<bool> {
        let real = path.canonicalize().map_err(Error::io("looking at", path))?;
        let repeated = !self.seen.insert(real);
        self.again += usize::from(repeated);
        Ok(repeated)
    }
}

/// Why these bytes are no text, if they are none.
fn problem(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() {
        return Some("is empty".to_owned());
    }
    let (at, what) = match bytes.iter().position(|b| *b == 0) {
        Some(at) => (at, "is binary: byte 0"),
        None => (std::str::from_utf8(bytes).err()?.valid_up_to(), "is not UTF-8"),
    };
    let line = 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
    Some(format!("{what} at line {line} (offset {at})"))
}

fn nothing_in(folder: &Path, skipped: &[Skipped]) -> Error {
    let few: Vec<String> =
        skipped.iter().take(3).map(|s| format!("`{}` {}", s.path.display(), s.reason)).collect();
    let list = if few.is_empty() { "it has no files".to_owned() } else { few.join("; ") };
    Error::input(
        format!("folder `{}` holds no text: {list}", folder.display()),
        "hidden files, folders called target, and binary files are left out; name a folder with UTF-8 text",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        dir
    }

    #[track_caller]
    fn fails(paths: &[PathBuf], parts: &[&str]) {
        let error = Text::read(paths).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
        assert!(error.contains("help:"), "{error}");
    }

    #[test]
    fn folders_are_walked_in_order_and_what_is_no_text_is_left_out() {
        let dir = folder(&[
            ("b.txt", b"b"),
            ("a/z.txt", b"az"),
            ("a/b.md", "a\u{e9}".as_bytes()),
            ("a.txt", b"a"),
            (".hidden", b"no"),
            (".git/x", b"no"),
            ("target/x", b"no"),
            ("image.png", b"\x89PNG\0\0"),
            ("empty", b""),
            ("latin1.txt", b"caf\xe9\n"),
        ]);
        let text = Text::read(&[dir.path().to_owned()]).unwrap();
        assert_eq!(String::from_utf8(text.bytes.clone()).unwrap(), "a\u{e9}azab");
        let names: Vec<_> =
            text.files.iter().map(|f| (f.path.file_name().unwrap(), f.start, f.len)).collect();
        assert_eq!(
            names,
            [
                ("b.md".as_ref(), 0, 3),
                ("z.txt".as_ref(), 3, 2),
                ("a.txt".as_ref(), 5, 1),
                ("b.txt".as_ref(), 6, 1)
            ]
        );
        let skipped: Vec<_> = text.skipped.iter().map(|s| s.reason.as_str()).collect();
        assert_eq!(
            skipped,
            ["is empty", "is binary: byte 0 at line 1 (offset 4)", "is not UTF-8 at line 1 (offset 3)"]
        );
    }

    #[test]
    fn a_file_named_twice_is_read_once() {
        let dir = folder(&[("a.txt", b"text")]);
        let file = dir.path().join("a.txt");
        for paths in [
            [file.clone(), dir.path().to_owned()],
            [dir.path().to_owned(), file.clone()],
            [file.clone(), file],
        ] {
            assert_eq!(Text::read(&paths).unwrap().bytes, b"text");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let dir = folder(&[
            ("empty", b""),
            ("binary", b"a\nb\0"),
            ("latin1", b"x\ny\ncaf\xe9"),
            ("d/target/x", b"x"),
            ("e/bin", b"\0"),
        ]);
        let at = |name: &str| dir.path().join(name);
        fails(&[at("missing")], &["missing", "does not exist"]);
        fails(&[at("empty")], &["empty` is empty"]);
        fails(&[at("binary")], &["binary` is binary", "line 2"]);
        fails(&[at("latin1")], &["latin1` is not UTF-8", "line 3", "offset 7"]);
        fails(&[at("d")], &["holds no text", "no files"]);
        fails(&[at("e")], &["holds no text", "bin` is binary"]);
        fails(&[], &["no data"]);
    }
}

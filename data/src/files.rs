//! Data files: which ones there are, and what is in them.

use super::{
    format::{self, Contents},
    problem::Problem,
};
use crate::{Error, Result};
use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// The text of all files, one after the other.
///
/// As in T5, nothing marks where a text file ends. Documents of a format that has documents are kept apart from what
/// is before and after them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text {
    /// All of it, UTF-8.
    pub bytes: Vec<u8>,
    /// The files it came from, in order.
    pub files: Vec<File>,
    /// Where in `bytes` a document ends that is kept apart from what follows, ascending.
    pub ends: Vec<usize>,
    /// What was found in folders and left out.
    pub skipped: Vec<Skipped>,
}

/// A file whose text is used.
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

/// The field of JSON lines that has the text, unless another one is named.
pub const TEXT_FIELD: &str = "text";

const NAME_DATA: &str = "name files with text, JSON lines (plain, .gz or .zst) or Parquet; folders with such files; or a pattern \
                         such as 'corpus/*.jsonl.gz'";

impl Text {
    /// Reads files, folders, and files by patterns such as `corpus/**/*.txt`, with [`TEXT_FIELD`].
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        Self::read_field(paths, TEXT_FIELD)
    }

    /// Reads files and folders. `field` has the text of JSON lines and Parquet.
    ///
    /// Folders are walked in the order of their entries' names. What cannot be text there is left out:
    /// hidden files and folders, folders called `target`, links to folders, empty and binary files. A file
    /// that is named itself, or by a pattern, must be text; and a file that is compressed or has JSON lines must be
    /// whole wherever it was found. No file is read twice.
    pub fn read_field(paths: &[PathBuf], field: &str) -> Result<Self> {
        let (mut text, mut apart) = (Self::default(), false);
        text.skipped = visit(paths, field, &mut |path, contents| {
            text.add(path, contents, &mut apart);
            Ok(())
        })?;
        text.end(apart);
        Ok(text)
    }

    /// The text of one file, by itself.
    pub(super) fn of_file(path: &Path, contents: Contents) -> Self {
        let (mut text, mut apart) = (Self::default(), false);
        text.add(path, contents, &mut apart);
        text.end(apart);
        text
    }

    /// Adds what is in a file. `apart`: what is here last is kept apart from what follows.
    fn add(&mut self, path: &Path, contents: Contents, apart: &mut bool) {
        let start = self.bytes.len();
        match contents {
            Contents::Text(bytes) => {
                // Two parts are apart if one of them is.
                self.end(std::mem::replace(apart, false));
                self.bytes.extend_from_slice(&bytes);
            }
            Contents::Documents(documents) => {
                for document in documents {
                    *apart = true;
                    self.end(true);
                    self.bytes.extend_from_slice(document.as_bytes());
                }
            }
        }
        let len = self.bytes.len() - start;
        self.files.push(File { path: path.to_owned(), start, len });
    }

    /// What is here so far is kept apart from what follows.
    fn end(&mut self, apart: bool) {
        if apart && !self.bytes.is_empty() && self.ends.last() != Some(&self.bytes.len()) {
            self.ends.push(self.bytes.len());
        }
    }

    /// A text that is in memory already.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let file = File { path: PathBuf::from("memory"), start: 0, len: bytes.len() };
        Self { bytes, files: vec![file], ..Self::default() }
    }

    /// Where every document is: a text file is one.
    pub fn documents(&self) -> impl Iterator<Item = Range<usize>> {
        let ends: BTreeSet<usize> =
            self.files.iter().map(|f| f.start + f.len).chain(self.ends.iter().copied()).collect();
        let mut start = 0;
        ends.into_iter().map(move |end| std::mem::replace(&mut start, end)..end)
    }

    /// The parts that are kept apart from each other, in order.
    pub fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        let last = (self.ends.last() != Some(&self.bytes.len())).then_some(self.bytes.len());
        self.ends.iter().copied().chain(last).map(move |end| std::mem::replace(&mut start, end)..end)
    }
}

/// Gives every file of `paths` to `take`, in order, as [`Text::read_field`] says; what was left out is the result.
pub(super) fn visit(
    paths: &[PathBuf],
    field: &str,
    take: &mut dyn FnMut(&Path, Contents) -> Result<()>,
) -> Result<Vec<Skipped>> {
    let mut reader = Reader { field, take, files: 0, skipped: Vec::new(), seen: BTreeSet::new(), again: 0 };
    for path in paths {
        reader.path(path)?;
    }
    if reader.files == 0 {
        return Err(Error::input("no data was named", NAME_DATA));
    }
    Ok(reader.skipped)
}

struct Reader<'a> {
    field: &'a str,
    take: &'a mut dyn FnMut(&Path, Contents) -> Result<()>,
    /// How many were taken.
    files: usize,
    skipped: Vec<Skipped>,
    seen: BTreeSet<PathBuf>,
    /// How many files came up a second time.
    again: usize,
}

impl Reader<'_> {
    /// What the user named: a file, a folder, or a pattern.
    fn path(&mut self, path: &Path) -> Result<()> {
        let about = match fs::metadata(path) {
            Ok(about) => about,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("reading the data file", path)(error));
            }
            Err(_) => match path.to_str().filter(|text| text.contains(['*', '?', '['])) {
                Some(pattern) => return self.pattern(pattern),
                None => {
                    return Err(Error::input(
                        format!("data file `{}` does not exist", path.display()),
                        NAME_DATA,
                    ));
                }
            },
        };
        if !about.is_dir() {
            return self.named(path);
        }
        let (before, skipped, again) = (self.files, self.skipped.len(), self.again);
        self.walk(path)?;
        if self.files == before && self.again == again {
            return Err(nothing_in(path, &self.skipped[skipped..]));
        }
        Ok(())
    }

    fn pattern(&mut self, pattern: &str) -> Result<()> {
        // As a shell does: `*` is not for hidden files.
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let paths = glob::glob_with(pattern, options)
            .map_err(|e| Error::input(format!("data files `{pattern}`: {e}"), NAME_DATA))?;
        let mut some = false;
        for path in paths {
            let path = path.map_err(|e| {
                let path = e.path().to_owned();
                Error::io("looking for data files in", path)(e.into())
            })?;
            // A folder beside files that match is no file that matches.
            if path.is_file() {
                some = true;
                self.named(&path)?;
            }
        }
        if some {
            return Ok(());
        }
        Err(Error::input(format!("no file is called `{pattern}`"), NAME_DATA))
    }

    /// A file that the user named: it must be text.
    fn named(&mut self, path: &Path) -> Result<()> {
        match self.file(path)? {
            Some(problem) => Err(refused(path, problem)),
            None => Ok(()),
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
        match self.file(path)? {
            Some(problem) if problem.damage => Err(refused(path, problem)),
            Some(Problem { what: reason, .. }) => {
                self.skipped.push(Skipped { path: path.to_owned(), reason });
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes what is in a file, or says why it cannot.
    fn file(&mut self, path: &Path) -> Result<Option<Problem>> {
        let real = path.canonicalize().map_err(Error::io("looking at", path))?;
        if !self.seen.insert(real) {
            self.again += 1;
            return Ok(None);
        }
        let bytes = fs::read(path).map_err(Error::io("reading the data file", path))?;
        let contents = match format::contents(path, bytes, self.field) {
            Ok(contents) => contents,
            Err(problem) => return Ok(Some(problem)),
        };
        (self.take)(path, contents)?;
        self.files += 1;
        Ok(None)
    }
}

fn refused(path: &Path, problem: Problem) -> Error {
    Error::input(format!("data file `{}` {}", path.display(), problem.what), problem.help)
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
    #[test]
    fn documents_of_json_lines_are_kept_apart_from_everything() {
        let dir = folder(&[
            ("a.txt", b"one "),
            ("b.txt", b"two"),
            ("c.jsonl", b"{\"text\": \"three\"}\n{\"text\": \"four\"}\n"),
            ("d.txt", b"five"),
            ("e.json", b"{\n\"name\": 1}"),
        ]);
        let text = Text::read(&[dir.path().to_owned()]).unwrap();
        let of = |ranges: Vec<Range<usize>>| -> Vec<String> {
            ranges.into_iter().map(|r| String::from_utf8(text.bytes[r].to_vec()).unwrap()).collect()
        };
        assert_eq!(of(text.parts().collect()), ["one two", "three", "four", "five"]);
        assert_eq!(of(text.documents().collect()), ["one ", "two", "three", "four", "five"]);
        assert_eq!(text.files.iter().map(|f| f.len).collect::<Vec<_>>(), [4, 3, 9, 4]);
        assert!(text.skipped[0].reason.contains("is not JSON"), "{:?}", text.skipped);
        let last = Text::read(&[dir.path().join("c.jsonl")]).unwrap();
        assert_eq!((last.ends.as_slice(), last.parts().count()), (&[5, 9][..], 2));
        assert_eq!(Text::new("x").parts().collect::<Vec<_>>(), vec![0..1]);
    }

    #[test]
    fn patterns_name_files_in_order() {
        let dir = folder(&[
            ("x/b.txt", b"b"),
            ("x/a.txt", b"a"),
            ("x/c.md", b"c"),
            ("x/d.txt/e", b""),
            ("x/.h.txt", b"h"),
        ]);
        let at = |pattern: &str| dir.path().join(pattern);
        assert_eq!(Text::read(&[at("*/*.txt")]).unwrap().bytes, b"ab");
        assert_eq!(Text::read(&[at("**/[bc].*")]).unwrap().bytes, b"bc");
        fails(&[at("x/*.jsonl")], &["no file is called", "x/*.jsonl"]);
        fails(&[at("x/[")], &["x/[", "attern"]);
        fails(&[at("x/*/e")], &["e` is empty"]);
    }

    #[test]
    fn damage_is_an_error_wherever_it_is_found() {
        let dir = folder(&[
            ("a/ok.txt", b"text"),
            ("a/cut.txt.gz", b"\x1f\x8b\x08\0"),
            ("b/ok.txt", b"text"),
            ("b/cut.jsonl", b"{\"text\": \"x\"}\n{\"te"),
            ("c/other.jsonl", b"{\"body\": \"x\"}\n"),
        ]);
        let at = |name: &str| dir.path().join(name);
        fails(&[at("a")], &["cut.txt.gz` is damaged or cut off"]);
        fails(&[at("b")], &["cut.jsonl` is not JSON", "line 2"]);
        fails(
            &[at("c/other.jsonl")],
            &["other.jsonl` has no field `text`, but `body` at line 1", "--text-field"],
        );
        assert_eq!(Text::read_field(&[at("c")], "body").unwrap().bytes, b"x");
    }
}

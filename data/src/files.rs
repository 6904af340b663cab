//! Discovery of data files, and their text.

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

/// The text of all files, concatenated.
///
/// As in T5, text files are not separated. Documents of a format with documents (JSON Lines, Parquet) are
/// separated from the text before and after them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text {
    /// The bytes of the text, UTF-8.
    pub bytes: Vec<u8>,
    /// The files, in order.
    pub files: Vec<File>,
    /// Positions in `bytes` where a document ends that is separated from the text after it, ascending.
    pub ends: Vec<usize>,
    /// Files in directories that were skipped.
    pub skipped: Vec<Skipped>,
}

/// A file whose text is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// The path.
    pub path: PathBuf,
    /// The position of its text in [`Text::bytes`].
    pub start: usize,
    /// Bytes of its text.
    pub len: usize,
}

/// A file that was skipped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// The path.
    pub path: PathBuf,
    /// The reason.
    pub reason: String,
}

/// The default field of JSON Lines, and column of Parquet, that holds the text.
pub const TEXT_FIELD: &str = "text";

const NAME_DATA: &str = "give files with text, JSON Lines (plain, .gz or .zst) or Parquet; directories with such files; or a pattern \
                         such as 'corpus/*.jsonl.gz'";

impl Text {
    /// Reads files, directories, and patterns such as `corpus/**/*.txt`. The text is in the field
    /// [`TEXT_FIELD`].
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        Self::read_field(paths, TEXT_FIELD)
    }

    /// Reads files, directories and patterns. `field` holds the text of JSON Lines and Parquet.
    ///
    /// Directories are walked in the order of their entries' names. The walk skips hidden files and
    /// directories, directories named `target`, links to directories, and empty or binary files. A file that
    /// is named itself or matches a pattern must be text. A damaged compressed file or invalid JSON Lines are
    /// errors wherever they are found. No file is read twice.
    pub fn read_field(paths: &[PathBuf], field: &str) -> Result<Self> {
        let (mut text, mut separated) = (Self::default(), false);
        text.skipped = visit(paths, field, &mut |path, contents| {
            text.add(path, contents, &mut separated);
            Ok(())
        })?;
        text.end(separated);
        Ok(text)
    }

    /// Returns the text of one file.
    pub(super) fn of_file(path: &Path, contents: Contents) -> Self {
        let (mut text, mut separated) = (Self::default(), false);
        text.add(path, contents, &mut separated);
        text.end(separated);
        text
    }

    /// Appends the contents of a file. `separated` is true if the last text so far must be separated from the
    /// next.
    fn add(&mut self, path: &Path, contents: Contents, separated: &mut bool) {
        let start = self.bytes.len();
        match contents {
            Contents::Text(bytes) => {
                // Neighbours are separated if either of them is a document.
                self.end(std::mem::replace(separated, false));
                self.bytes.extend_from_slice(&bytes);
            }
            Contents::Documents(documents) => {
                for document in documents {
                    *separated = true;
                    self.end(true);
                    self.bytes.extend_from_slice(document.as_bytes());
                }
            }
        }
        let len = self.bytes.len() - start;
        self.files.push(File { path: path.to_owned(), start, len });
    }

    /// Separates the text so far from the text that follows, if `separated` is true.
    fn end(&mut self, separated: bool) {
        if separated && !self.bytes.is_empty() && self.ends.last() != Some(&self.bytes.len()) {
            self.ends.push(self.bytes.len());
        }
    }

    /// Wraps text that is already in memory.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let file = File { path: PathBuf::from("memory"), start: 0, len: bytes.len() };
        Self { bytes, files: vec![file], ..Self::default() }
    }

    /// The range of every document. A text file is one document.
    pub fn documents(&self) -> impl Iterator<Item = Range<usize>> {
        let ends: BTreeSet<usize> =
            self.files.iter().map(|f| f.start + f.len).chain(self.ends.iter().copied()).collect();
        let mut start = 0;
        ends.into_iter().map(move |end| std::mem::replace(&mut start, end)..end)
    }

    /// The ranges of text between separators, in order.
    pub fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        let last = (self.ends.last() != Some(&self.bytes.len())).then_some(self.bytes.len());
        self.ends.iter().copied().chain(last).map(move |end| std::mem::replace(&mut start, end)..end)
    }
}

/// Calls `take` for every file of `paths`, in the order of [`Text::read_field`]. Returns the skipped files.
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
        return Err(Error::input("no data files are given", NAME_DATA));
    }
    Ok(reader.skipped)
}

struct Reader<'a> {
    field: &'a str,
    take: &'a mut dyn FnMut(&Path, Contents) -> Result<()>,
    /// The number of files taken.
    files: usize,
    skipped: Vec<Skipped>,
    seen: BTreeSet<PathBuf>,
    /// The number of files that were found again.
    again: usize,
}

impl Reader<'_> {
    /// Reads a file, directory or pattern that the user named.
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
        // As in a shell, `*` does not match hidden files.
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let paths = glob::glob_with(pattern, options)
            .map_err(|e| Error::input(format!("data files `{pattern}`: {e}"), NAME_DATA))?;
        let mut some = false;
        for path in paths {
            let path = path.map_err(|e| {
                let path = e.path().to_owned();
                Error::io("looking for data files in", path)(e.into())
            })?;
            // Directories that match are ignored.
            if path.is_file() {
                some = true;
                self.named(&path)?;
            }
        }
        if some {
            return Ok(());
        }
        Err(Error::input(format!("no file matches `{pattern}`"), NAME_DATA))
    }

    /// Reads a file that the user named. It must be text.
    fn named(&mut self, path: &Path) -> Result<()> {
        match self.file(path)? {
            Some(problem) => Err(refused(path, problem)),
            None => Ok(()),
        }
    }

    fn walk(&mut self, folder: &Path) -> Result<()> {
        let in_folder = || Error::io("reading the directory", folder);
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(in_folder())? {
            entries.push(entry.map_err(in_folder())?);
        }
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name());
            let kind = entry.file_type().map_err(Error::io("reading the properties of", &path))?;
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            // Links to directories are not followed: they may form a cycle.
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

    /// Reads a file found in a directory, and skips it if it is not text.
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

    /// Takes the contents of a file. `Some` is the reason why it cannot be used.
    fn file(&mut self, path: &Path) -> Result<Option<Problem>> {
        let real = path.canonicalize().map_err(Error::io("reading the properties of", path))?;
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
    let list = if few.is_empty() { "it contains no files".to_owned() } else { few.join("; ") };
    Error::input(
        format!("directory `{}` holds no text: {list}", folder.display()),
        "hidden files, directories named target, and binary files are skipped; give a directory with UTF-8 text",
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
    fn directories_are_walked_in_order_and_other_files_are_skipped() {
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
    fn errors_name_the_file() {
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
        fails(&[at("d")], &["holds no text", "contains no files"]);
        fails(&[at("e")], &["holds no text", "bin` is binary"]);
        fails(&[], &["no data files"]);
    }
    #[test]
    fn documents_of_json_lines_are_separated_from_all_text() {
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
        fails(&[at("x/*.jsonl")], &["no file matches", "x/*.jsonl"]);
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

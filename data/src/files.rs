//! Discovery of data files.

use super::{
    format::{self, Part},
    problem::Problem,
    reading::{Reading, Stop},
};
use crate::{Error, Result};
use proto::regular;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A file that was skipped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    /// The path.
    pub path: PathBuf,
    /// The reason.
    pub reason: String,
}

const NAME_DATA: &str = "give files with text, JSON Lines (plain, .gz or .zst) or Parquet; directories with such files; or a pattern \
                         such as 'corpus/*.jsonl.gz'";

/// Receives the contents of files. Each file is a `begin`, its parts, and either `end` or `undo`.
pub(super) trait Sink {
    /// A file begins.
    fn begin(&mut self, path: &Path) -> Result<()>;
    /// A part of the file.
    fn part(&mut self, part: Part<'_>) -> Result<()>;
    /// The file is complete.
    fn end(&mut self, path: &Path) -> Result<()>;
    /// The file cannot be used: everything since `begin` is dropped.
    fn undo(&mut self) -> Result<()>;
}

/// Reads files, directories, and patterns such as `corpus/**/*.txt` into `sink`. Returns the skipped files.
///
/// Directories are walked in the order of their entries' names. The walk skips hidden files and directories,
/// directories named `target`, links to directories, FIFOs, devices and sockets, and empty or binary files.
/// A file that is named itself or matches a pattern must be text. A damaged compressed file or invalid JSON
/// Lines are errors wherever they are found. No file is read twice.
pub(super) fn read(paths: &[PathBuf], reading: &Reading<'_>, sink: &mut dyn Sink) -> Result<Vec<Skipped>> {
    let mut reader = Reader { reading, sink, files: 0, skipped: Vec::new(), seen: BTreeSet::new(), again: 0 };
    for path in paths {
        reader.path(path)?;
    }
    if reader.files == 0 {
        return Err(Error::input("no data files are given", NAME_DATA));
    }
    Ok(reader.skipped)
}

struct Reader<'a> {
    reading: &'a Reading<'a>,
    sink: &'a mut dyn Sink,
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
            if !path.is_dir() {
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
        if let Some(kind) = other_kind(path) {
            return Err(Error::input(
                format!("data file `{}` is a {kind}, not a file", path.display()),
                NAME_DATA,
            ));
        }
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
            } else if let Some(kind) = other_kind(&path) {
                // Nothing of a FIFO or device is text that was stored here.
                if kind != "directory" {
                    self.skipped.push(Skipped { path, reason: format!("is a {kind}") });
                }
            } else {
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
        self.sink.begin(path)?;
        match format::parts(path, self.reading, &mut |part| self.sink.part(part)) {
            Ok(()) => self.sink.end(path)?,
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::Problem(problem)) => {
                self.sink.undo()?;
                return Ok(Some(problem));
            }
        }
        self.files += 1;
        Ok(None)
    }
}

/// The kind of what is no regular file, without following a link that leads nowhere.
fn other_kind(path: &Path) -> Option<&'static str> {
    fs::metadata(path).ok().and_then(|about| regular::other(about.file_type()))
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

    /// The contents of files. Documents are in brackets, text files in parentheses.
    #[derive(Default)]
    struct Contents {
        text: String,
        kept: usize,
    }

    impl Sink for Contents {
        fn begin(&mut self, _: &Path) -> Result<()> {
            self.kept = self.text.len();
            Ok(())
        }
        fn part(&mut self, part: Part<'_>) -> Result<()> {
            match part {
                Part::Text(text) => self.text.push_str(text),
                Part::Document(text) => self.text.push_str(&format!("[{text}]")),
            }
            Ok(())
        }
        fn end(&mut self, _: &Path) -> Result<()> {
            self.text.push(';');
            Ok(())
        }
        fn undo(&mut self) -> Result<()> {
            self.text.truncate(self.kept);
            Ok(())
        }
    }

    fn text_of(paths: &[PathBuf], field: &str) -> Result<(String, Vec<Skipped>)> {
        let mut contents = Contents::default();
        let skipped = read(paths, &Reading { field, ..Reading::default() }, &mut contents)?;
        Ok((contents.text, skipped))
    }

    fn text(paths: &[PathBuf]) -> String {
        text_of(paths, "text").unwrap().0
    }

    #[track_caller]
    fn fails(paths: &[PathBuf], parts: &[&str]) {
        let error = text_of(paths, "text").unwrap_err().to_string();
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
        let (text, skipped) = text_of(&[dir.path().to_owned()], "text").unwrap();
        assert_eq!(text, "a\u{e9};az;a;b;");
        let skipped: Vec<_> = skipped.iter().map(|s| s.reason.as_str()).collect();
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
            assert_eq!(text(&paths), "text;");
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
    fn documents_are_separate_and_json_without_text_is_skipped() {
        let dir = folder(&[
            ("a.txt", b"one "),
            ("c.jsonl", b"{\"text\": \"three\"}\n{\"text\": \"four\"}\n"),
            ("e.json", b"{\n\"name\": 1}"),
        ]);
        let (text, skipped) = text_of(&[dir.path().to_owned()], "text").unwrap();
        assert_eq!(text, "one ;[three][four];");
        assert!(skipped[0].reason.contains("is not JSON"), "{skipped:?}");
    }

    #[test]
    fn special_files_are_refused_by_name_and_skipped_in_directories() {
        let dir = folder(&[("d/a.txt", b"a")]);
        let at = |name: &str| dir.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("d/fifo")).status().unwrap().success());
        std::os::unix::fs::symlink(at("d/loop"), at("d/loop")).unwrap();
        fails(&[at("d/fifo")], &["d/fifo", "FIFO"]);
        fails(&[at("d/*")], &["d/fifo", "FIFO"]);
        fails(&[PathBuf::from("/dev/zero")], &["/dev/zero", "device"]);
        for paths in [[at("d/loop")], [at("d")]] {
            let error = text_of(&paths, "text").unwrap_err().to_string();
            assert!(error.contains("d/loop") && error.contains("symbolic links"), "{error}");
        }
        fs::remove_file(at("d/loop")).unwrap();
        let (text, skipped) = text_of(&[at("d")], "text").unwrap();
        assert_eq!((text.as_str(), skipped[0].reason.as_str()), ("a;", "is a FIFO (named pipe)"));
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
        assert_eq!(text(&[at("*/?.txt")]), "a;b;");
        assert_eq!(text(&[at("**/[bc].*")]), "b;c;");
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
        assert_eq!(text_of(&[at("c")], "body").unwrap().0, "[x];");
    }
}

//! Formats of data files by their extensions: `.gz` and `.zst` are compressed; `.jsonl`, `.ndjson` and
//! `.json` have one JSON object per line; `.parquet` has a column of texts; all other files are text.
//!
//! Files are read as a stream: memory does not depend on their size, only on that of a line or a column page.

use super::{
    compressed, parquet,
    parquet_records::{self, Fields},
    problem::{Problem, quoted},
    reading::{Reading, Stop},
};
use crate::{Error, Result};
use proto::regular;
use serde_json::Value;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// A part of the contents of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part<'a> {
    /// More text of a text file. As in T5, it is not separated from the text of the next file.
    Text(&'a str),
    /// A document of a format with documents. It is not empty.
    Document(&'a str),
}

/// Calls `take` with the parts of the file `path`, in order.
pub(super) fn parts(
    path: &Path,
    reading: &Reading<'_>,
    take: &mut dyn FnMut(Part<'_>) -> Result<()>,
) -> std::result::Result<(), Stop> {
    let failed = || Error::io("reading the data file", path);
    let file = regular::open(path).map_err(failed())?;
    if file.metadata().map_err(failed())?.len() == 0 {
        return Err(empty().into());
    }
    let mut some = false;
    let mut documents = |document: &str| {
        if document.is_empty() {
            return Ok(());
        }
        some = true;
        take(Part::Document(document))
    };
    let name = lower_name(path);
    if is_parquet(&name) {
        parquet::documents(file, reading, &mut documents)?;
        return if some { Ok(()) } else { Err(no_documents().into()) };
    }
    let (name, mut source) = decompressed(&name, file, reading.max_decompressed);
    let read = match Lines::of(name) {
        Some(kind) => {
            let mut lines = BufReader::with_capacity(BLOCK, &mut source);
            json_lines(path, &mut lines, kind, &mut |line| {
                documents(&line.document(reading.field)?).map_err(Stop::from)
            })
            .and_then(|()| if some { Ok(()) } else { Err(no_documents().into()) })
        }
        None => text(path, &mut source, &mut |text| take(Part::Text(text))),
    };
    if matches!(&read, Err(Stop::Problem(problem)) if !problem.damage) {
        // Damage can produce bytes that are not text. The end of compressed data reveals damage.
        io::copy(&mut source, &mut io::sink()).map_err(|error| stop(path, error))?;
    }
    read
}

/// Calls `take` with the records of the file `path`, in order, each with the number of its line (from 1) or,
/// in Parquet, of its row (from 0).
pub(super) fn records(
    path: &Path,
    max_decompressed: u64,
    take: &mut dyn FnMut(usize, Fields) -> Result<()>,
) -> std::result::Result<(), Stop> {
    let file = regular::open(path).map_err(Error::io("reading the data file", path))?;
    let name = lower_name(path);
    if is_parquet(&name) {
        return parquet_records::records(file, max_decompressed, take);
    }
    let (name, source) = decompressed(&name, file, max_decompressed);
    if Lines::of(name).is_none() {
        let help = "records are read from .jsonl, .ndjson, .json (also .gz or .zst) and .parquet".into();
        return Err(Problem { what: "has no records by its extension".into(), help, damage: true }.into());
    }
    let mut lines = BufReader::with_capacity(BLOCK, source);
    json_lines(path, &mut lines, Lines::Certain, &mut |line| {
        take(line.number, line.object("{\"inputs\": \"…\", \"targets\": \"…\"}")?).map_err(Stop::from)
    })
}

/// True if the file is Parquet by its name.
pub(super) fn is_parquet(name: &str) -> bool {
    name.ends_with(".parquet")
}

fn lower_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// Returns a file's name without the extension of compression, and its contents.
fn decompressed(name: &str, file: File, limit: u64) -> (&str, Box<dyn Read>) {
    if let Some(inner) = name.strip_suffix(".gz") {
        (inner, compressed::gzip(file, limit))
    } else if let Some(inner) = name.strip_suffix(".zst") {
        (inner, compressed::zstd(file, limit))
    } else {
        (name, Box::new(file))
    }
}

/// The evidence that a file is JSON Lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// Its name says it: a line that is not JSON is damage.
    Certain,
    /// A valid first line shows it.
    Likely,
}

impl Lines {
    /// `None` means that a file of this name is not JSON Lines.
    fn of(name: &str) -> Option<Self> {
        if name.ends_with(".jsonl") || name.ends_with(".ndjson") {
            Some(Self::Certain)
        } else {
            name.ends_with(".json").then_some(Self::Likely)
        }
    }
}

/// Bytes that are read at once.
const BLOCK: usize = 1 << 16;

/// Converts an error of a reader.
fn stop(path: &Path, error: io::Error) -> Stop {
    match error.downcast::<Problem>() {
        Ok(problem) => problem.into(),
        Err(error) => Error::io("reading the data file", path)(error).into(),
    }
}

/// A line of JSON Lines.
struct Line<'a> {
    text: &'a str,
    /// Counted from 1.
    number: usize,
    /// True if a line that is not an object is damage.
    damage: bool,
}

/// Calls `take` with the lines of JSON Lines that are not blank.
fn json_lines(
    path: &Path,
    source: &mut impl BufRead,
    kind: Lines,
    take: &mut dyn FnMut(&Line<'_>) -> std::result::Result<(), Stop>,
) -> std::result::Result<(), Stop> {
    let (mut damage, mut bytes, mut offset) = (kind == Lines::Certain, Vec::new(), 0);
    for number in 1.. {
        bytes.clear();
        let length = source.read_until(b'\n', &mut bytes).map_err(|e| stop(path, e))?;
        if length == 0 {
            return if number == 1 { Err(empty().into()) } else { Ok(()) };
        }
        let line = std::str::from_utf8(&bytes).map_err(|error| {
            let at = offset + error.valid_up_to();
            Problem { damage, ..no_text(format!("is not UTF-8 at line {number} (offset {at})")) }
        })?;
        offset += length;
        let line = if number == 1 { line.trim_start_matches('\u{feff}') } else { line };
        if line.trim().is_empty() {
            continue;
        }
        take(&Line { text: line, number, damage })?;
        damage = true;
    }
    Ok(())
}

impl Line<'_> {
    /// Returns the object. `example` is shown if it is not one.
    fn object(&self, example: &str) -> std::result::Result<Fields, Problem> {
        let value: Value = serde_json::from_str(self.text.trim_end()).map_err(|error| {
            // The position in serde's error is within this line.
            let error = error.to_string().replace(" at line 1 column ", ", character ");
            self.problem(format!("is not JSON ({error})"), "write one complete JSON object per line".into())
        })?;
        let Value::Object(object) = value else {
            let help = format!("write one object per line, such as {example}");
            return Err(self.problem("has a value that is not a JSON object".into(), help));
        };
        Ok(object)
    }

    /// Returns the text of the field.
    fn document(&self, field: &str) -> std::result::Result<String, Problem> {
        let mut object = self.object(&format!("{{\"{field}\": \"…\"}}"))?;
        let field_help = || "name the field that holds the text with --text-field".to_owned();
        match object.get_mut(field).map(Value::take) {
            Some(Value::String(document)) => Ok(document),
            Some(_) => Err(self.problem(format!("has a field `{field}` that is not a string"), field_help())),
            None => {
                let has: Vec<&str> = object.keys().map(String::as_str).take(8).collect();
                let pairs = has.contains(&"inputs") && has.contains(&"targets");
                let help = if pairs { PAIRS.to_owned() } else { field_help() };
                Err(self.problem(format!("has no field `{field}`, but {}", quoted(&has)), help))
            }
        }
    }

    fn problem(&self, what: String, help: String) -> Problem {
        Problem { what: format!("{what} at line {}", self.number), help, damage: self.damage }
    }
}

/// The remedy for pairs that are given as text.
const PAIRS: &str =
    "give inputs with their targets with --tasks, or name the field that holds the text with --text-field";

/// Calls `take` with the text of a text file.
fn text(
    path: &Path,
    source: &mut dyn Read,
    take: &mut dyn FnMut(&str) -> Result<()>,
) -> std::result::Result<(), Stop> {
    let mut block = vec![0; BLOCK];
    // Bytes at the start of the block that are kept from before, offset of the block, and its first line.
    let (mut kept, mut offset, mut line) = (0, 0, 1);
    loop {
        let count = match source.read(&mut block[kept..]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(stop(path, error)),
        };
        let bytes = &block[..kept + count];
        let lines = |end: usize| bytes[..end].iter().filter(|b| **b == b'\n').count();
        let wrong = |what: &str, at: usize| {
            no_text(format!("{what} at line {} (offset {})", line + lines(at), offset + at))
        };
        if let Some(at) = bytes.iter().position(|b| *b == 0) {
            return Err(wrong("is binary: byte 0", at).into());
        }
        let good = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            // A character may continue in the next block.
            Err(error) if error.error_len().is_none() && count > 0 => {
                std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) => return Err(wrong("is not UTF-8", error.valid_up_to()).into()),
        };
        if count == 0 {
            return if offset + kept == 0 { Err(empty().into()) } else { Ok(()) };
        }
        take(good)?;
        let end = good.len();
        line += lines(end);
        offset += end;
        kept = bytes.len() - end;
        block.copy_within(end..end + kept, 0);
    }
}

fn empty() -> Problem {
    let help = "remove it from the data, or write text into it".into();
    Problem { what: "is empty".into(), help, damage: false }
}

fn no_documents() -> Problem {
    no_text("has no documents with text")
}

fn no_text(what: impl Into<String>) -> Problem {
    Problem {
        what: what.into(),
        help: "data is UTF-8 text: convert the file, for example with iconv, or remove it from the data"
            .into(),
        damage: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    use std::io::Write;

    /// The output of zstd's command-line program for `hello`.
    const HELLO: &[u8] = b"\x28\xb5\x2f\xfd\x24\x06\x31\0\0hello\n\x53\x88\xbd\x91";

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zst(bytes: &[u8]) -> Vec<u8> {
        compress_to_vec(bytes, CompressionLevel::Fastest)
    }

    /// The contents of a file: the text of a text file, or all documents.
    #[derive(Clone, PartialEq, Eq, Debug)]
    enum Contents {
        Text(String),
        Documents(Vec<String>),
    }

    type Read = std::result::Result<Contents, Problem>;

    fn read_with(name: &str, bytes: impl Into<Vec<u8>>, reading: &Reading<'_>) -> Read {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes.into()).unwrap();
        let (mut text, mut documents) = (String::new(), Vec::new());
        let taken = parts(&path, reading, &mut |part| {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Document(document) => documents.push(document.to_owned()),
            }
            Ok(())
        });
        match taken {
            Ok(()) if documents.is_empty() => Ok(Contents::Text(text)),
            Ok(()) => Ok(Contents::Documents(documents)),
            Err(Stop::Problem(problem)) => Err(problem),
            Err(Stop::Error(error)) => panic!("{error}"),
        }
    }

    fn read(name: &str, bytes: impl Into<Vec<u8>>) -> Read {
        read_with(name, bytes, &Reading::default())
    }

    fn documents(list: &[&str]) -> Read {
        Ok(Contents::Documents(list.iter().map(|d| (*d).to_owned()).collect()))
    }

    #[track_caller]
    fn fails(name: &str, bytes: impl Into<Vec<u8>>, damage: bool, parts: &[&str]) {
        let problem = read(name, bytes).unwrap_err();
        for part in parts {
            assert!(problem.what.contains(part), "`{part}` is not in: {problem:?}");
        }
        assert_eq!(problem.damage, damage, "{problem:?}");
    }

    #[test]
    fn every_kind_of_file() {
        let lines = "\u{feff}{\"id\": 1, \"text\": \"a\\nb\"}\r\n\n  {\"text\":\"\"}\n{\"text\":\"\u{e9}\"}";
        let two = documents(&["a\nb", "\u{e9}"]);
        for name in ["a.jsonl", "a.json", "A.NDJSON"] {
            assert_eq!(read(name, lines), two);
            assert_eq!(read(&format!("{name}.gz"), gz(lines.as_bytes())), two);
            assert_eq!(read(&format!("{name}.zst"), zst(lines.as_bytes())), two);
        }
        let text = |text: &str| Ok(Contents::Text(text.to_owned()));
        assert_eq!(read("a.txt", "x\ny"), text("x\ny"));
        assert_eq!(read("a.gz", [gz(b"x"), gz(b"y")].concat()), text("xy"));
        let skipped = b"\x50\x2a\x4d\x18\x03\0\0\0abc";
        assert_eq!(read("a.md.zst", [HELLO, skipped, HELLO].concat()), text("hello\nhello\n"));
    }

    #[test]
    fn compressed_files_are_whole_or_an_error_wherever_they_are_cut_or_altered() {
        let text: Vec<u8> = (0..400).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
        for (name, whole) in [("a.gz", gz(&text)), ("a.zst", zst(&text)), ("b.zst", HELLO.to_vec())] {
            for len in 1..whole.len() {
                assert!(read(name, &whole[..len]).is_err_and(|p| p.damage), "{name}: {len} bytes");
            }
            let expected = read(name, whole.clone()).unwrap();
            for at in 0..whole.len() {
                let mut altered = whole.clone();
                altered[at] ^= 0x10;
                // Times and flags in the header do not affect the data.
                assert!(
                    read(name, altered).map_or_else(|p| p.damage, |c| c == expected),
                    "{name}: byte {at}"
                );
            }
        }
        fails("a.gz", "text", true, &["as gzip"]);
        fails("a.zst", "text, not zstd", true, &["as zstd it ends after 0 bytes"]);
        fails("a.zst", b"\x50\x2a\x4d\x18\x09\0\0\0abc", true, &["ends early"]);
        fails("a.txt.gz", gz(b""), false, &["is empty"]);
        fails("a.tar.gz", gz(b"a\0"), false, &["is binary"]);
    }

    #[test]
    fn lines_that_are_not_documents_are_named() {
        let good = "{\"text\": \"a\"}\n\n";
        fails("a.jsonl", format!("{good}{{\"text\": \"b"), true, &["is not JSON", "character", "at line 3"]);
        fails("a.jsonl", format!("{good}[1]"), true, &["not a JSON object at line 3"]);
        fails("a.jsonl", "{\"text\": 1}", true, &["`text` that is not a string at line 1"]);
        fails(
            "a.jsonl",
            "{\"body\": \"x\", \"id\": 1}",
            true,
            &["no field `text`, but `body`, `id` at line 1"],
        );
        fails("a.jsonl", "{}", true, &["none at all"]);
        fails("a.jsonl", "{\"text\": \"\"}\n", false, &["no documents with text"]);
        fails(
            "a.jsonl",
            b"{\"text\": \"x\"}\n{\"text\": \"\xe9\"}",
            true,
            &["not UTF-8 at line 2 (offset 24)"],
        );
        fails("a.json", b"{\"\xe9\"}", false, &["not UTF-8 at line 1"]);
        // A .json file is treated as JSON Lines once its first line is a document.
        fails("a.json", "{\n  \"name\": \"x\"\n}\n", false, &["is not JSON", "at line 1"]);
        fails("a.json", "{\"name\": \"x\"}\n", false, &["no field `text`"]);
        fails("a.json", format!("{good}{{\"name\": \"x\"}}"), true, &["no field `text`", "at line 3"]);
        let body = Reading { field: "body", ..Reading::default() };
        assert_eq!(read_with("a.jsonl", "{\"body\": \"x\"}", &body), documents(&["x"]));
    }

    #[test]
    fn blocks_may_end_within_characters() {
        let long = "\u{e9}\u{1f600}x".repeat(40_000);
        for shift in 0..4 {
            let text = format!("{}{long}", "a".repeat(shift));
            assert_eq!(read("a.txt", text.as_str()), Ok(Contents::Text(text)));
        }
        let lines = "0123456789\n".repeat(10_000);
        fails(
            "a.txt",
            [lines.as_bytes(), b"x\xc3"].concat(),
            false,
            &["not UTF-8 at line 10001 (offset 110001)"],
        );
        fails("a.txt", [lines.as_bytes(), b"\0"].concat(), false, &["byte 0 at line 10001 (offset 110000)"]);
    }

    #[test]
    fn decompressed_data_has_a_limit() {
        let text = "ten bytes\n".repeat(1000);
        let reading = Reading { max_decompressed: 9_999, ..Reading::default() };
        for (name, bytes) in [("a.gz", gz(text.as_bytes())), ("a.zst", zst(text.as_bytes()))] {
            let problem = read_with(name, bytes, &reading).unwrap_err();
            assert!(problem.what.contains("more than 9999 bytes") && problem.damage, "{problem:?}");
            assert!(problem.help.contains("--max-decompressed"), "{problem:?}");
        }
        let enough = Reading { max_decompressed: 10_000, ..Reading::default() };
        assert_eq!(read_with("a.gz", gz(text.as_bytes()), &enough), Ok(Contents::Text(text)));
    }
}

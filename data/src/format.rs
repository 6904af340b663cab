//! Formats of data files by their extensions: `.gz` and `.zst` are compressed; `.jsonl`, `.ndjson` and
//! `.json` have one JSON object per line; `.parquet` has a column of texts; all other files are text.

use super::{
    parquet,
    problem::{Problem, quoted},
};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    StreamingDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use serde_json::Value;
use std::{fmt::Display, io::Read, path::Path};

/// The contents of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Contents {
    /// A text file. As in T5, it is not separated from the text of the next file.
    Text(Vec<u8>),
    /// The documents of a format with documents, none of them empty.
    Documents(Vec<String>),
}

/// Decodes the bytes of the file `path`. `field` holds the text of a JSON object.
pub(super) fn contents(path: &Path, bytes: Vec<u8>, field: &str) -> Result<Contents, Problem> {
    if bytes.is_empty() {
        return Err(empty());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if name.ends_with(".parquet") {
        return some(parquet::documents(bytes, field)?);
    }
    let (name, bytes) = if let Some(inner) = name.strip_suffix(".gz") {
        (inner, gzip(&bytes)?)
    } else if let Some(inner) = name.strip_suffix(".zst") {
        (inner, zstd(&bytes)?)
    } else {
        (name.as_str(), bytes)
    };
    let certain = name.ends_with(".jsonl") || name.ends_with(".ndjson");
    if certain || name.ends_with(".json") {
        return some(json_lines(text(bytes)?.trim_start_matches('\u{feff}'), field, certain)?);
    }
    text(bytes).map(|text| Contents::Text(text.into_bytes()))
}

/// Returns the documents that are not empty; an error if there are none.
fn some(mut documents: Vec<String>) -> Result<Contents, Problem> {
    documents.retain(|document| !document.is_empty());
    if documents.is_empty() {
        return Err(no_text("has no documents with text"));
    }
    Ok(Contents::Documents(documents))
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut out = Vec::new();
    match MultiGzDecoder::new(bytes).read_to_end(&mut out) {
        Ok(_) => Ok(out),
        Err(error) => Err(compressed("gzip", out.len(), error)),
    }
}

fn zstd(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let (mut rest, mut out) = (bytes, Vec::new());
    while !rest.is_empty() {
        let mut frame = match StreamingDecoder::new(&mut rest) {
            Ok(frame) => frame,
            // A skippable frame; the decoder has already read its header.
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                let left = rest.split_at_checked(length as usize).map(|(_, left)| left);
                rest = left.ok_or_else(|| compressed("zstd", out.len(), "the file ends early"))?;
                continue;
            }
            Err(error) => return Err(compressed("zstd", out.len(), error)),
        };
        if let Err(error) = frame.read_to_end(&mut out) {
            return Err(compressed("zstd", out.len(), error));
        }
        // The decoder computes the checksum but does not compare it.
        let decoder = frame.into_frame_decoder();
        if let Some(sum) = decoder.get_checksum_from_data()
            && decoder.get_calculated_checksum() != Some(sum)
        {
            return Err(compressed("zstd", out.len(), "the checksum differs"));
        }
    }
    Ok(out)
}

fn compressed(format: &str, read: usize, why: impl Display) -> Problem {
    Problem {
        what: format!("is damaged or cut off: as {format} it ends after {read} bytes of data ({why})"),
        help: format!("copy or download the file again, or rename it if it is not {format}"),
        damage: true,
    }
}

/// Returns the documents of JSON Lines. `certain` is true if the file's name says that it is JSON Lines;
/// otherwise a valid first line shows it.
fn json_lines(text: &str, field: &str, certain: bool) -> Result<Vec<String>, Problem> {
    let (mut documents, mut damage) = (Vec::new(), certain);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let problem = |what: String, help: String| Problem {
            what: format!("{what} at line {}", number + 1),
            help,
            damage,
        };
        let value: Value = serde_json::from_str(line).map_err(|error| {
            // The position in serde's error is within this line.
            let error = error.to_string().replace(" at line 1 column ", ", character ");
            problem(format!("is not JSON ({error})"), "write one complete JSON object per line".into())
        })?;
        let Value::Object(mut object) = value else {
            let help = format!("write one object per line, such as {{\"{field}\": \"…\"}}");
            return Err(problem("has a value that is not a JSON object".into(), help));
        };
        match object.get_mut(field).map(Value::take) {
            Some(Value::String(document)) => documents.push(document),
            Some(_) => {
                let what = format!("has a field `{field}` that is not a string");
                return Err(problem(what, "name the field that holds the text with --text-field".into()));
            }
            None => {
                let has: Vec<&str> = object.keys().map(String::as_str).take(8).collect();
                let what = format!("has no field `{field}`, but {}", quoted(&has));
                return Err(problem(what, "name the field that holds the text with --text-field".into()));
            }
        }
        damage = true;
    }
    Ok(documents)
}

fn text(bytes: Vec<u8>) -> Result<String, Problem> {
    let (at, what, bytes) = match bytes.iter().position(|b| *b == 0) {
        Some(at) => (at, "is binary: byte 0", bytes),
        None => match String::from_utf8(bytes) {
            Ok(text) if text.is_empty() => return Err(empty()),
            Ok(text) => return Ok(text),
            Err(error) => (error.utf8_error().valid_up_to(), "is not UTF-8", error.into_bytes()),
        },
    };
    let line = 1 + bytes[..at].iter().filter(|b| **b == b'\n').count();
    Err(no_text(format!("{what} at line {line} (offset {at})")))
}

fn empty() -> Problem {
    let help = "remove it from the data, or write text into it".into();
    Problem { what: "is empty".into(), help, damage: false }
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

    fn read(name: &str, bytes: impl Into<Vec<u8>>) -> Result<Contents, Problem> {
        contents(Path::new(name), bytes.into(), "text")
    }

    fn documents(list: &[&str]) -> Result<Contents, Problem> {
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
        let text = |text: &str| Ok(Contents::Text(text.into()));
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
        fails("a.jsonl", b"{\"text\":\n \"\xe9\"}", false, &["not UTF-8 at line 2"]);
        // A .json file is treated as JSON Lines once its first line is a document.
        fails("a.json", "{\n  \"name\": \"x\"\n}\n", false, &["is not JSON", "at line 1"]);
        fails("a.json", "{\"name\": \"x\"}\n", false, &["no field `text`"]);
        fails("a.json", format!("{good}{{\"name\": \"x\"}}"), true, &["no field `text`", "at line 3"]);
        assert_eq!(contents(Path::new("a.jsonl"), b"{\"body\": \"x\"}".into(), "body"), documents(&["x"]));
    }
}

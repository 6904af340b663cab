//! Records of files: the objects of JSON Lines and the rows of Parquet, with all of their fields.

pub use super::parquet_records::Fields;

use super::{
    format::{self, is_parquet},
    reading::Stop,
};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// One record of a file.
#[derive(Clone, PartialEq, Debug)]
pub struct Record<'a> {
    /// The file.
    pub path: &'a Path,
    /// The number of its line, from 1, or of its row of Parquet, from 0.
    pub number: usize,
    /// Its fields by name.
    pub fields: Fields,
}

impl Record<'_> {
    /// Names the record in a message, such as "line 7 of `train.jsonl`".
    pub fn place(&self) -> String {
        let unit = if is_parquet(&self.path.to_string_lossy().to_ascii_lowercase()) { "row" } else { "line" };
        format!("{unit} {} of `{}`", self.number, self.path.display())
    }
}

/// Calls `take` with the records of files and of the files that match patterns such as `mnli/train*.parquet`,
/// in the order of `paths`, and those of a pattern in the order of their names.
///
/// # Errors
/// A file does not exist, is no file of records, or is damaged; a pattern matches no file; `take` fails.
pub fn read(
    paths: &[PathBuf],
    max_decompressed: u64,
    take: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    for path in paths.iter().map(|path| files(path)).collect::<Result<Vec<_>>>()?.iter().flatten() {
        let read = format::records(path, max_decompressed, &mut |number, fields| {
            take(Record { path, number, fields })
        });
        match read {
            Ok(()) => {}
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::Problem(problem)) => {
                let what = format!("data file `{}` {}", path.display(), problem.what);
                return Err(Error::input(what, problem.help));
            }
        }
    }
    Ok(())
}

/// Returns the file of this name, or the files that match the pattern.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let help = "name a file of JSON Lines or Parquet, or a pattern such as 'train*.jsonl.gz'";
    let is_pattern = |text: &&str| text.contains(['*', '?', '[']);
    let Some(pattern) = path.to_str().filter(is_pattern).filter(|_| !path.exists()) else {
        let wrong = if path.is_dir() { "is a directory" } else { "does not exist" };
        return match path.exists() && !path.is_dir() {
            true => Ok(vec![path.to_owned()]),
            false => Err(Error::input(format!("data file `{}` {wrong}", path.display()), help)),
        };
    };
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
    let found = glob::glob_with(pattern, options)
        .map_err(|e| Error::input(format!("data files `{pattern}`: {e}"), help))?;
    let mut all = Vec::new();
    for path in found {
        let path = path.map_err(|e| {
            let path = e.path().to_owned();
            Error::io("looking for data files in", path)(e.into())
        })?;
        if !path.is_dir() {
            all.push(path);
        }
    }
    match all.is_empty() {
        true => Err(Error::input(format!("no file matches `{pattern}`"), help)),
        false => Ok(all),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parquet::tests::file;
    use ::parquet::basic::Compression;
    use serde_json::json;
    use std::fs;

    fn all(paths: &[PathBuf]) -> Result<Vec<(String, serde_json::Value)>> {
        let mut all = Vec::new();
        read(paths, 1 << 20, &mut |record| {
            all.push((record.place(), record.fields.into()));
            Ok(())
        })?;
        Ok(all)
    }

    #[test]
    fn lines_and_rows_have_their_fields_and_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("b.jsonl"), "{\"x\": [1, \"a\"]}\n\n{\"y\": {\"z\": 0.5}}\n").unwrap();
        fs::write(at("a.parquet"), file(&[&[b"one", b"two"], &[b"three"]], Compression::SNAPPY)).unwrap();
        let (lines, rows) = (at("b.jsonl"), at("a.parquet"));
        let line = |n: usize| format!("line {n} of `{}`", lines.display());
        let row = |n: usize, id: u32, text: &str| {
            let fields = json!({ "id": id, "text": text, "name": text, "tags": [text] });
            (format!("row {n} of `{}`", rows.display()), fields)
        };
        let of_rows = [row(0, 0, "one"), row(1, 1, "two"), row(2, 0, "three")];
        let of_lines = [(line(1), json!({"x": [1, "a"]})), (line(3), json!({"y": {"z": 0.5}}))];
        assert_eq!(all(&[at("?.*")]).unwrap(), [&of_rows[..], &of_lines].concat());
    }

    #[test]
    fn files_without_records_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a.txt"), "text").unwrap();
        fs::write(at("b.jsonl"), "{}\n[]\n").unwrap();
        fs::write(at("c.parquet"), "PAR1").unwrap();
        fs::write(at("d.jsonl"), "").unwrap();
        for (name, part) in [
            ("a.txt", "has no records by its extension"),
            ("b.jsonl", "not a JSON object at line 2"),
            ("c.parquet", "is damaged or cut off"),
            ("d.jsonl", "is empty"),
            ("none.jsonl", "does not exist"),
            ("x*", "no file matches"),
            ("", "is a directory"),
        ] {
            let error = all(&[at(name)]).unwrap_err().to_string();
            assert!(error.contains(part), "{name}: {error}");
        }
        let big = at("big.parquet");
        let text: &[u8] = &[b'x'; 4096];
        fs::write(&big, file(&[&[text; 200]], Compression::SNAPPY)).unwrap();
        assert!(all(&[big]).unwrap_err().to_string().contains("more than 1048576 bytes"));
    }
}

//! Parquet files: reads one column of texts, some rows at a time.

use super::{
    caught::caught,
    problem::{Problem, quoted},
    reading::{Reading, Stop},
};
use crate::Result;
use ::parquet::{
    basic::{Compression, Type},
    column::reader::ColumnReader,
    data_type::ByteArray,
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    schema::types::ColumnDescPtr,
};
use std::{fmt::Display, fs::File};

/// The number of texts read at once.
const SOME: usize = 1024;

/// Calls `take` with all texts of the column, in order, without nulls.
pub(super) fn documents(
    file: File,
    reading: &Reading<'_>,
    take: &mut dyn FnMut(&str) -> Result<()>,
) -> std::result::Result<(), Stop> {
    // The reader panics on some damaged files. Its state is dropped with it.
    let inconsistent = || damaged("", "its metadata is inconsistent");
    let mut rows = caught(|| Rows::new(file, reading.field)).ok_or_else(inconsistent)??;
    let mut bytes = 0;
    while let Some(batch) = caught(|| rows.next()).ok_or_else(inconsistent)?? {
        for (row, text) in batch {
            bytes += text.len() as u64;
            if bytes > reading.max_decompressed {
                return Err(too_much(reading.max_decompressed).into());
            }
            take(rows.text(row, text.data())?)?;
        }
    }
    Ok(())
}

/// The rows of one column.
struct Rows {
    file: SerializedFileReader<File>,
    column: ColumnDescPtr,
    number: usize,
    /// The row group that is read, and its column. `None` before it is opened.
    group: usize,
    reader: Option<ColumnReader>,
    /// Rows of the group so far.
    row: usize,
    /// The row group of the last batch.
    last: usize,
}

/// Texts with their rows in the group.
type Batch = Vec<(usize, ByteArray)>;

impl Rows {
    fn new(file: File, field: &str) -> std::result::Result<Self, Problem> {
        let file = SerializedFileReader::new(file).map_err(|e| damaged("", e))?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let columns = schema.columns();
        let Some(number) = columns.iter().position(|c| c.path().string() == field) else {
            let names: Vec<String> = columns.iter().take(8).map(|c| c.path().string()).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            return Err(other_column(format!("has no column `{field}`, but {}", quoted(&names))));
        };
        let column = columns[number].clone();
        if column.physical_type() != Type::BYTE_ARRAY || column.max_rep_level() > 0 {
            return Err(other_column(format!("has a column `{field}` that is not one string per row")));
        }
        Ok(Self { file, column, number, group: 0, reader: None, row: 0, last: 0 })
    }

    /// Returns the next texts of one row group. `None` means that there are no more.
    fn next(&mut self) -> std::result::Result<Option<Batch>, Problem> {
        while self.group < self.file.num_row_groups() {
            let place = format!(" in row group {}", self.group);
            if self.reader.is_none() {
                let group = self.file.metadata().row_group(self.group);
                if let Some(problem) = unread(group.column(self.number).compression(), &place) {
                    return Err(problem);
                }
                let reader =
                    self.file.get_row_group(self.group).and_then(|g| g.get_column_reader(self.number));
                self.reader = Some(reader.map_err(|e| damaged(&place, e))?);
                self.row = 0;
            }
            match self.batch().map_err(|e| damaged(&place, e))? {
                Some(batch) => {
                    self.last = self.group;
                    return Ok(Some(batch));
                }
                None => (self.group, self.reader) = (self.group + 1, None),
            }
        }
        Ok(None)
    }

    /// Returns the next texts of the row group. `None` means that it has no more.
    fn batch(&mut self) -> std::result::Result<Option<Batch>, ParquetError> {
        let Some(ColumnReader::ByteArrayColumnReader(reader)) = &mut self.reader else {
            return Err(ParquetError::General("the type of the column differs from the schema".into()));
        };
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let (records, _, _) = reader.read_records(SOME, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            return Ok(None);
        }
        let (start, whole) = (self.row, self.column.max_def_level());
        let mut values = values.into_iter();
        Ok(Some(if whole == 0 {
            self.row += values.len();
            (start..).zip(values).collect()
        } else {
            self.row += levels.len();
            // A row has a value if its definition level is the maximum.
            let rows = (start..).zip(levels).filter(|(_, level)| *level == whole);
            rows.filter_map(|(row, _)| Some((row, values.next()?))).collect()
        }))
    }

    fn text<'a>(&self, row: usize, text: &'a [u8]) -> std::result::Result<&'a str, Problem> {
        std::str::from_utf8(text).map_err(|error| Problem {
            what: format!(
                "is not UTF-8 in row group {}, row {row} of the group (offset {} of the text)",
                self.last,
                error.valid_up_to()
            ),
            help: "write the file again with UTF-8 text".into(),
            damage: true,
        })
    }
}

pub(super) fn too_much(limit: u64) -> Problem {
    Problem {
        what: format!("has more than {limit} bytes of text, as Parquet"),
        help: "if the file can be trusted, raise --max-decompressed".into(),
        damage: true,
    }
}

fn other_column(what: String) -> Problem {
    Problem { what, help: "name the column that holds the text with --text-field".into(), damage: true }
}

/// Returns the problem of an unsupported compression.
pub(super) fn unread(compression: Compression, place: &str) -> Option<Problem> {
    match compression {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_) => None,
        Compression::LZO | Compression::BROTLI(_) | Compression::LZ4 | Compression::LZ4_RAW => {
            Some(Problem {
                what: format!("is compressed by {compression}{place}, which is not supported"),
                help: "write the file again with zstd, snappy, gzip or no compression".into(),
                damage: true,
            })
        }
    }
}

pub(super) fn damaged(place: &str, why: impl Display) -> Problem {
    Problem {
        what: format!("is damaged or cut off{place}, as Parquet ({why})"),
        help: "copy or download the file again, or rename it if it is not Parquet".into(),
        damage: true,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ::parquet::{
        basic::ZstdLevel,
        data_type::{ByteArrayType, Int32Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    use std::{io::Write, sync::Arc};

    /// A file with a column of numbers and columns of these texts, by row group; an empty text is null.
    pub(crate) fn file(groups: &[&[&[u8]]], compression: Compression) -> Vec<u8> {
        let schema = "message rows { required int32 id; optional binary text (UTF8); required binary name; \
                      repeated binary tags; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut out = Vec::new();
        let mut writer = SerializedFileWriter::new(&mut out, schema, properties).unwrap();
        for texts in groups {
            let mut group = writer.next_row_group().unwrap();
            let mut number = 0;
            while let Some(mut column) = group.next_column().unwrap() {
                let all: Vec<ByteArray> = texts.iter().map(|t| t.to_vec().into()).collect();
                let rows = all.len();
                if number == 0 {
                    let ids: Vec<i32> = (0..rows as i32).collect();
                    column.typed::<Int32Type>().write_batch(&ids, None, None).unwrap();
                } else {
                    let levels: Vec<i16> = all.iter().map(|t| i16::from(!t.is_empty())).collect();
                    let some: Vec<ByteArray> = all.iter().filter(|t| !t.is_empty()).cloned().collect();
                    let texts = column.typed::<ByteArrayType>();
                    match number {
                        1 => texts.write_batch(&some, Some(&levels), None),
                        2 => texts.write_batch(&all, None, None),
                        _ => texts.write_batch(&some, Some(&levels), Some(&vec![0; rows])),
                    }
                    .unwrap();
                }
                column.close().unwrap();
                number += 1;
            }
            group.close().unwrap();
        }
        writer.close().unwrap();
        out
    }

    fn documents(bytes: Vec<u8>, field: &str) -> std::result::Result<Vec<String>, Problem> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let mut all = Vec::new();
        let reading = Reading { field, ..Reading::default() };
        let read = super::documents(file, &reading, &mut |text| {
            all.push(text.to_owned());
            Ok(())
        });
        match read {
            Ok(()) => Ok(all),
            Err(Stop::Problem(problem)) => Err(problem),
            Err(Stop::Error(error)) => panic!("{error}"),
        }
    }

    const GROUPS: &[&[&[u8]]] = &[&[b"one", b"", "tw\u{e9}".as_bytes()], &[b"three"]];

    #[test]
    fn texts_of_all_row_groups_in_order() {
        let zstd = Compression::ZSTD(ZstdLevel::try_new(3).unwrap());
        for compression in
            [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::GZIP(Default::default()), zstd]
        {
            let bytes = file(GROUPS, compression);
            assert_eq!(documents(bytes.clone(), "text").unwrap(), ["one", "tw\u{e9}", "three"]);
            assert_eq!(documents(bytes, "name").unwrap(), ["one", "", "tw\u{e9}", "three"]);
        }
        // More than the reader reads at once.
        let many: Vec<Vec<u8>> = (0..3000).map(|i| format!("text {i}").into_bytes()).collect();
        let rows: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let read = documents(file(&[&rows], Compression::SNAPPY), "text").unwrap();
        assert_eq!((read.len(), read[2999].as_str()), (3000, "text 2999"));
    }

    #[track_caller]
    fn fails(bytes: Vec<u8>, field: &str, parts: &[&str]) {
        let problem = documents(bytes, field).unwrap_err();
        assert!(problem.damage && parts.iter().all(|part| problem.what.contains(part)), "{problem:?}");
    }

    #[test]
    fn other_columns_are_errors() {
        let bytes = file(GROUPS, Compression::SNAPPY);
        fails(bytes.clone(), "body", &["no column `body`, but `id`, `text`, `name`, `tags`"]);
        fails(bytes.clone(), "id", &["`id` that is not one string"]);
        fails(bytes, "tags", &["`tags` that is not one string"]);
        let latin: &[&[&[u8]]] = &[&[b"a"], &[b"b", b"caf\xe9"]];
        fails(file(latin, Compression::SNAPPY), "text", &["not UTF-8 in row group 1, row 1", "offset 3"]);
    }

    #[test]
    fn other_compressions_are_errors() {
        for compression in [Compression::BROTLI(Default::default()), Compression::LZ4_RAW, Compression::LZ4] {
            let problem = unread(compression, " in row group 3").unwrap();
            assert!(problem.what.contains("in row group 3, which is not supported"), "{problem:?}");
        }
        assert_eq!(unread(Compression::SNAPPY, ""), None);
    }

    #[test]
    fn damage_is_an_error() {
        let whole = file(GROUPS, Compression::SNAPPY);
        for len in 0..whole.len() {
            fails(whole[..len].to_vec(), "text", &["as Parquet"]);
        }
        // Not every byte affects this column; no change may crash the reader.
        let mut found = 0;
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 0x10;
            found += usize::from(documents(altered, "text").is_err());
        }
        assert!(found > 20, "{found} of {}", whole.len());
    }
}

//! Parquet files: reads one column of texts, row group by row group.

use super::{
    caught::caught,
    problem::{Problem, quoted},
};
use ::parquet::{
    basic::{Compression, Type},
    column::reader::ColumnReader,
    data_type::ByteArray,
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    schema::types::ColumnDescriptor,
};
use bytes::Bytes;
use std::fmt::Display;

/// The number of texts read at once.
const SOME: usize = 1024;

/// Returns all texts of the column `field`, without nulls.
pub(super) fn documents(bytes: Vec<u8>, field: &str) -> Result<Vec<String>, Problem> {
    // The reader panics on some damaged files. Its state is dropped with it.
    caught(|| read(bytes, field)).unwrap_or_else(|| Err(damaged("", "its metadata is inconsistent")))
}

fn read(bytes: Vec<u8>, field: &str) -> Result<Vec<String>, Problem> {
    let file = SerializedFileReader::new(Bytes::from(bytes)).map_err(|e| damaged("", e))?;
    let schema = file.metadata().file_metadata().schema_descr_ptr();
    let columns = schema.columns();
    let Some(number) = columns.iter().position(|c| c.path().string() == field) else {
        let names: Vec<String> = columns.iter().take(8).map(|c| c.path().string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        return Err(other_column(format!("has no column `{field}`, but {}", quoted(&names))));
    };
    let column = &columns[number];
    if column.physical_type() != Type::BYTE_ARRAY || column.max_rep_level() > 0 {
        return Err(other_column(format!("has a column `{field}` that is not one string per row")));
    }
    let mut all = Vec::new();
    for group in 0..file.num_row_groups() {
        let place = format!(" in row group {group}");
        if let Some(problem) = unread(file.metadata().row_group(group).column(number).compression(), &place) {
            return Err(problem);
        }
        let rows = file
            .get_row_group(group)
            .and_then(|rows| rows.get_column_reader(number))
            .and_then(|reader| texts(reader, column))
            .map_err(|e| damaged(&place, e))?;
        for (row, text) in rows.into_iter().enumerate() {
            let Some(text) = text else { continue };
            let text = String::from_utf8(text.data().to_vec()).map_err(|error| Problem {
                what: format!(
                    "is not UTF-8{place}, row {row} of the group (offset {} of the text)",
                    error.utf8_error().valid_up_to()
                ),
                help: "write the file again with UTF-8 text".into(),
                damage: true,
            })?;
            all.push(text);
        }
    }
    Ok(all)
}

/// Returns the values of a column in a row group, in the order of rows.
fn texts(reader: ColumnReader, column: &ColumnDescriptor) -> Result<Vec<Option<ByteArray>>, ParquetError> {
    let ColumnReader::ByteArrayColumnReader(mut reader) = reader else {
        return Err(ParquetError::General("the type of the column differs from the schema".into()));
    };
    let whole = column.max_def_level();
    let mut all = Vec::new();
    loop {
        let (mut values, mut levels) = (Vec::new(), Vec::new());
        let (records, _, _) = reader.read_records(SOME, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            return Ok(all);
        }
        let mut values = values.into_iter();
        match whole {
            0 => all.extend(values.map(Some)),
            // A row has a value if its definition level is the maximum.
            _ => all.extend(levels.into_iter().map(|level| values.next_if_level(level == whole))),
        }
    }
}

/// An iterator that yields a value only for rows that have one.
trait NextIf: Iterator {
    fn next_if_level(&mut self, here: bool) -> Option<Self::Item> {
        if here { self.next() } else { None }
    }
}

impl<I: Iterator> NextIf for I {}

fn other_column(what: String) -> Problem {
    Problem { what, help: "name the column that holds the text with --text-field".into(), damage: true }
}

/// Returns the problem of an unsupported compression.
fn unread(compression: Compression, place: &str) -> Option<Problem> {
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

fn damaged(place: &str, why: impl Display) -> Problem {
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
    use std::sync::Arc;

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

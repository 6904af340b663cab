//! Records of Parquet files: all columns of each row.

use super::{
    caught::caught,
    parquet::{damaged, too_much, unread},
    reading::Stop,
};
use crate::Result;
use ::parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row, reader::RowIter},
};
use serde_json::{Map, Number, Value};
use std::fs::File;

/// The fields of one record: an object of JSON Lines, or a row of Parquet.
pub type Fields = Map<String, Value>;

/// Calls `take` with all rows, in order, each with its number in the file.
pub(super) fn records(
    file: File,
    max_decompressed: u64,
    take: &mut dyn FnMut(usize, Fields) -> Result<()>,
) -> std::result::Result<(), Stop> {
    // The reader panics on some damaged files. Its state is dropped with it.
    let inconsistent = || damaged("", "its metadata is inconsistent");
    let file = caught(|| SerializedFileReader::new(file))
        .ok_or_else(inconsistent)?
        .map_err(|error| damaged("", error))?;
    for (number, group) in file.metadata().row_groups().iter().enumerate() {
        for column in group.columns() {
            if let Some(problem) = unread(column.compression(), &format!(" in row group {number}")) {
                return Err(problem.into());
            }
        }
    }
    let mut rows = caught(|| RowIter::from_file_into(Box::new(file))).ok_or_else(inconsistent)?;
    let mut bytes = 0;
    for number in 0.. {
        let Some(row) = caught(|| rows.next()).ok_or_else(inconsistent)? else { break };
        let row = row.map_err(|error| damaged(&format!(" at row {number}"), error))?;
        let fields = object(&row);
        bytes += fields.values().map(size).sum::<u64>();
        if bytes > max_decompressed {
            return Err(too_much(max_decompressed).into());
        }
        take(number, fields)?;
    }
    Ok(())
}

fn object(row: &Row) -> Fields {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

/// Returns a value as JSON has it; dates, times and decimals as text.
fn value(field: &Field) -> Value {
    let real = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float(x) => real(f64::from(*x)),
        Field::Double(x) => real(*x),
        Field::Str(text) => text.clone().into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into_owned().into(),
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let text = |key: &Field| match value(key) {
                Value::String(text) => text,
                other => other.to_string(),
            };
            Value::Object(map.entries().iter().map(|(k, v)| (text(k), value(v))).collect::<Map<_, _>>())
        }
        other => other.to_string().into(),
    }
}

/// The number of bytes of text in a value; 8 for a number.
fn size(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(all) => all.iter().map(size).sum(),
        Value::Object(fields) => fields.values().map(size).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

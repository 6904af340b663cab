//! safetensors files, read one tensor at a time: the header is parsed and checked at once, elements are read
//! on demand.
//!
//! Headers are not trusted: lengths, names, types, sizes and offsets are checked against each other and
//! against the length of the file before they are used.

use crate::failure;
use anyhow::{Context, Result};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use std::{
    fmt,
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Largest length of a header, as the format defines it.
const LONGEST_HEADER: u64 = 100_000_000;

/// Element types of weights.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit floats.
    F16,
    /// 64-bit floats.
    F64,
    /// Signed 32-bit integers.
    I32,
}

impl Element {
    /// Returns the name in headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
            Self::F64 => "F64",
            Self::I32 => "I32",
        }
    }

    /// Returns the type with this name. `None` for types that weights do not have.
    pub fn of(name: &str) -> Option<Self> {
        [Self::F32, Self::Bf16, Self::F16, Self::F64, Self::I32].into_iter().find(|e| e.name() == name)
    }

    /// Returns the size of an element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// A tensor in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// The element type.
    pub element: Element,
    /// The sizes, outermost first.
    pub sizes: Vec<usize>,
    /// The position of its first byte in the file, and its length in bytes.
    place: (u64, u64),
}

/// A file and the table of its tensors.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    file: File,
    /// The tensors in file order.
    pub entries: Vec<Entry>,
}

impl Tensors {
    /// Opens a file; reads and checks the header.
    pub fn open(path: &Path) -> Result<Self> {
        let file = proto::regular::open(path).with_context(|| format!("opening `{}`", path.display()))?;
        let length = file.metadata().with_context(|| format!("reading `{}`", path.display()))?.len();
        let wrong = |why: String| {
            failure(
                format!("`{}` is not a valid safetensors file: {why}", path.display()),
                "the file may be truncated: copy or download it again",
            )
        };
        let mut head = [0; 8];
        if length < 8 {
            return Err(wrong(format!("it has {length} bytes, less than the 8 bytes of a header")));
        }
        let reading = || format!("reading the header of `{}`", path.display());
        file.read_exact_at(&mut head, 0).with_context(reading)?;
        let header = u64::from_le_bytes(head);
        if header > length - 8 || header > LONGEST_HEADER {
            return Err(wrong(format!(
                "its first 8 bytes state a header of {header} bytes, but {} follow",
                length - 8
            )));
        }
        let mut text = vec![0; header as usize];
        file.read_exact_at(&mut text, 8).with_context(reading)?;
        let fields: Fields =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("invalid header: {e}")))?;
        let mut entries = Vec::new();
        for (name, value) in fields.0 {
            if name != "__metadata__" {
                entries.push(entry(&name, &value).map_err(|why| wrong(format!("tensor `{name}` {why}")))?);
            }
        }
        entries.sort_by_key(|e| e.place);
        layout(&entries, length - 8 - header).map_err(wrong)?;
        entries.iter_mut().for_each(|e| e.place.0 += 8 + header);
        Ok(Self { path: path.to_owned(), file, entries })
    }

    /// Reads the bytes of a tensor.
    pub fn read(&self, entry: &Entry) -> Result<Vec<u8>> {
        let mut bytes = vec![0; entry.place.1 as usize];
        self.file
            .read_exact_at(&mut bytes, entry.place.0)
            .with_context(|| format!("reading tensor `{}` of `{}`", entry.name, self.path.display()))?;
        Ok(bytes)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn entry(name: &str, value: &Value) -> Result<Entry, String> {
    let dtype = value["dtype"].as_str().ok_or("has no `dtype`")?;
    let element = Element::of(dtype)
        .ok_or_else(|| format!("has elements of type {dtype}; F32, BF16, F16, F64 and I32 are supported"))?;
    let list = |key: &str, what: &str| -> Result<Vec<u64>, String> {
        let list = value[key].as_array().ok_or_else(|| format!("has no `{key}`"))?;
        let numbers: Option<Vec<u64>> = list.iter().map(Value::as_u64).collect();
        numbers.ok_or_else(|| format!("has a `{key}` that is not a list of {what}"))
    };
    let sizes = list("shape", "sizes")?;
    let offsets = list("data_offsets", "two offsets")?;
    let [begin, end] = offsets[..] else {
        return Err(format!("has {} offsets instead of 2", offsets.len()));
    };
    let elements = sizes.iter().try_fold(1u64, |n, s| n.checked_mul(*s));
    let bytes = elements.and_then(|n| n.checked_mul(element.size() as u64));
    let bytes = bytes.ok_or_else(|| format!("has too many elements: sizes {sizes:?}"))?;
    if begin.checked_add(bytes) != Some(end) {
        return Err(format!(
            "of {dtype} with sizes {sizes:?} needs {bytes} bytes, but its offsets are {begin} and {end}"
        ));
    }
    let sizes = sizes.into_iter().map(|s| s as usize).collect();
    Ok(Entry { name: name.to_owned(), element, sizes, place: (begin, bytes) })
}

/// Checks that the tensors, in order of their first bytes, cover the bytes 0 to `length` without gaps and
/// overlaps.
fn layout(entries: &[Entry], length: u64) -> Result<(), String> {
    let mut at = 0;
    let mut before = None;
    for entry in entries {
        let (begin, bytes) = entry.place;
        if begin < at {
            let other: &Entry = before.unwrap_or(entry);
            return Err(format!(
                "tensors `{}` and `{}` overlap: one ends at byte {at}, the other begins at {begin}",
                other.name, entry.name
            ));
        }
        if begin > at {
            return Err(format!(
                "bytes {at} to {begin}, before tensor `{}`, belong to no tensor",
                entry.name
            ));
        }
        at = begin.checked_add(bytes).ok_or("its offsets are too large")?;
        if at > length {
            return Err(format!(
                "it is truncated: tensor `{}` ends at byte {at}, but the file has {length}",
                entry.name
            ));
        }
        before = Some(entry);
    }
    if at == length {
        Ok(())
    } else {
        Err(format!("{} bytes after the last tensor belong to no tensor", length - at))
    }
}

/// A JSON object that rejects duplicate keys, unlike serde's map.
pub struct Fields(pub Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Once;
        impl<'de> Visitor<'de> for Once {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                let mut seen = std::collections::HashSet::new();
                while let Some((key, value)) = map.next_entry::<String, Value>()? {
                    if !seen.insert(key.clone()) {
                        return Err(serde::de::Error::custom(format!("duplicate key `{key}`")));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Once)
    }
}

/// Returns the header of a file with these tensors in this order, preceded by its length.
pub fn header(tensors: &[(String, Element, Vec<usize>)]) -> Vec<u8> {
    let mut fields = serde_json::Map::new();
    fields.insert("__metadata__".into(), serde_json::json!({ "format": "pt" }));
    let mut at = 0;
    for (name, element, sizes) in tensors {
        let end = at + sizes.iter().product::<usize>() * element.size();
        let field = serde_json::json!({ "dtype": element.name(), "shape": sizes, "data_offsets": [at, end] });
        fields.insert(name.clone(), field);
        at = end;
    }
    let mut text = Value::Object(fields).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the error for a file with this header and this number of bytes after it.
    #[track_caller]
    fn check(header: &str, bytes: usize, expect: &str) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.extend(std::iter::repeat_n(0, bytes));
        std::fs::write(&path, file).unwrap();
        let said = match Tensors::open(&path) {
            Ok(tensors) => format!("{} tensors", tensors.entries.len()),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(expect), "{said}\ndoes not say\n{expect}");
    }

    #[test]
    fn headers_are_held_against_the_file() {
        let one = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        check(one, 8, "1 tensors");
        check(one, 7, "it is truncated: tensor `a` ends at byte 8, but the file has 7");
        check(one, 9, "1 bytes after the last tensor belong to no tensor");
        check("{", 0, "invalid header");
        let two = |b: &str| {
            format!(
                r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{{"dtype":"BF16","shape":[2],"data_offsets":{b}}}}}"#
            )
        };
        check(&two("[8,12]"), 12, "2 tensors");
        check(&two("[4,8]"), 12, "`a` and `b` overlap: one ends at byte 8, the other begins at 4");
        check(&two("[10,14]"), 14, "bytes 8 to 10, before tensor `b`, belong to no tensor");
        check(&two("[8,16]"), 16, "needs 4 bytes, but its offsets are 8 and 16");
        check(&two("[12,8]"), 16, "needs 4 bytes, but its offsets are 12 and 8");
        check(r#"{"a":{"dtype":"F9","shape":[],"data_offsets":[0,8]}}"#, 8, "elements of type F9");
        check(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}"#, 8, "is not a list of sizes");
        let huge = u64::MAX;
        let text = format!(r#"{{"a":{{"dtype":"F32","shape":[{huge},4],"data_offsets":[0,8]}}}}"#);
        check(&text, 8, "too many elements");
        check(r#"{"a":1,"a":2}"#, 8, "duplicate key `a`");
    }

    #[test]
    fn a_length_of_the_header_that_lies_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for (length, bytes) in [(u64::MAX, 8), (100, 20), (1 << 40, 100)] {
            let mut file = length.to_le_bytes().to_vec();
            file.resize(8 + bytes, b' ');
            std::fs::write(&path, file).unwrap();
            let error = Tensors::open(&path).unwrap_err().to_string();
            assert!(error.contains("state a header of"), "{error}");
        }
        std::fs::write(&path, [1, 2, 3]).unwrap();
        assert!(Tensors::open(&path).unwrap_err().to_string().contains("it has 3 bytes"));
    }
}

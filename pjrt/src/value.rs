//! Named values: options passed to a plugin, attributes and properties returned by it.

use crate::api::Api;
use crate::error::{Error, Result};
use crate::ffi::structs::{Int, NAMED_VALUE_SIZE, NamedValue, NamedValueData};
use crate::ffi::{Function, Head};
use std::fmt;

/// A value of an option, an attribute or a property.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text. Invalid UTF-8 from a plugin is replaced.
    Text(String),
    /// An integer.
    Int(i64),
    /// A list of integers, such as a device's coordinates.
    Ints(Vec<i64>),
    /// A floating-point number.
    Float(f32),
    /// A boolean.
    Bool(bool),
}

impl Value {
    /// Returns the integer, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(value) => Some(*value),
            Value::Text(_) | Value::Ints(_) | Value::Float(_) | Value::Bool(_) => None,
        }
    }

    /// Returns the list of integers, if it is one.
    pub fn as_ints(&self) -> Option<&[i64]> {
        match self {
            Value::Ints(values) => Some(values),
            Value::Text(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_) => None,
        }
    }

    /// Returns the text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Int(_) | Value::Ints(_) | Value::Float(_) | Value::Bool(_) => None,
        }
    }

    /// Returns the number, if it is one. Integers are converted.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(f64::from(*value)),
            Value::Int(value) => Some(*value as f64),
            Value::Text(_) | Value::Ints(_) | Value::Bool(_) => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<Vec<i64>> for Value {
    fn from(values: Vec<i64>) -> Self {
        Value::Ints(values)
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Self {
        Value::Float(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Int(value) => write!(f, "{value}"),
            Value::Ints(values) => write!(f, "{values:?}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Bool(value) => write!(f, "{value}"),
        }
    }
}

/// A name and its value.
pub type Named = (String, Value);

const KIND_TEXT: i32 = 0;
const KIND_INT: i32 = 1;
const KIND_INTS: i32 = 2;
const KIND_FLOAT: i32 = 3;
const KIND_BOOL: i32 = 4;

/// Converts options for the C API. The result points into `options`.
pub(crate) fn to_ffi(options: &[Named]) -> Vec<NamedValue> {
    options
        .iter()
        .map(|(name, value)| {
            let (kind, data, size) = match value {
                Value::Text(text) => (KIND_TEXT, NamedValueData { text: text.as_ptr().cast() }, text.len()),
                Value::Int(int) => (KIND_INT, NamedValueData { int: *int }, 1),
                Value::Ints(ints) => (KIND_INTS, NamedValueData { ints: ints.as_ptr() }, ints.len()),
                Value::Float(float) => (KIND_FLOAT, NamedValueData { float: *float }, 1),
                Value::Bool(bool) => (KIND_BOOL, NamedValueData { bool: u8::from(*bool) }, 1),
            };
            NamedValue {
                head: Head { struct_size: NAMED_VALUE_SIZE, extension: std::ptr::null_mut() },
                name: name.as_ptr().cast(),
                name_size: name.len(),
                kind: Int { value: kind, padding: 0 },
                value: data,
                value_size: size,
            }
        })
        .collect()
}

/// Copies named values from a plugin, sorted by name. Values of an unknown kind are left out. An unknown
/// struct size is an error, because only the first element could be read.
///
/// # Safety
/// `items` and `len` were returned by `function` of this API's plugin for an object that is still alive.
pub(crate) unsafe fn from_ffi(
    api: &Api,
    function: Function,
    items: *const NamedValue,
    len: usize,
) -> Result<Vec<Named>> {
    // SAFETY: the caller guarantees that the array is valid.
    let items = unsafe { api.slice(function, items, len)? };
    let mut named = Vec::new();
    for item in items {
        if ![0, NAMED_VALUE_SIZE].contains(&item.head.struct_size) {
            return Err(api.contract(
                function,
                format!("its named values are {} bytes apart, not {NAMED_VALUE_SIZE}", item.head.struct_size),
            ));
        }
        // SAFETY: as for the array; `kind` tells which field of the union is set and what `value_size`
        // counts.
        let value = unsafe {
            match item.kind.value {
                KIND_TEXT => Value::Text(api.text(function, item.value.text.cast(), item.value_size)?),
                KIND_INT => Value::Int(item.value.int),
                KIND_INTS => Value::Ints(api.slice(function, item.value.ints, item.value_size)?.to_vec()),
                KIND_FLOAT => Value::Float(item.value.float),
                KIND_BOOL => Value::Bool(item.value.bool != 0),
                _ => continue,
            }
        };
        // SAFETY: as for the array.
        named.push((unsafe { api.text(function, item.name.cast(), item.name_size)? }, value));
    }
    // Plugins store these in hash maps, whose order changes from one call to the next.
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(named)
}

/// Refuses options that a plugin could not parse.
pub(crate) fn check(operation: &'static str, options: &[Named]) -> Result<()> {
    for (index, (name, _)) in options.iter().enumerate() {
        if name.is_empty() {
            return Err(Error::invalid(operation, "an option has an empty name; name it or leave it out"));
        }
        if options[..index].iter().any(|(earlier, _)| earlier == name) {
            return Err(Error::invalid(operation, format!("option `{name}` is given twice; give it once")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Value, check, to_ffi};

    #[test]
    fn options_become_tagged_unions() {
        let options = vec![
            ("name".to_owned(), Value::from("v4:2x2x1")),
            ("count".to_owned(), Value::from(8)),
            ("bounds".to_owned(), Value::from(vec![2, 2, 1])),
            ("fraction".to_owned(), Value::from(0.5)),
            ("preallocate".to_owned(), Value::from(true)),
        ];
        let ffi = to_ffi(&options);
        let seen: Vec<_> = ffi.iter().map(|v| (v.kind.value, v.value_size, v.head.struct_size)).collect();
        assert_eq!(seen, [(0, 8, 56), (1, 1, 56), (2, 3, 56), (3, 1, 56), (4, 1, 56)]);
    }

    #[test]
    fn bad_options_are_refused() {
        let twice = [("a".to_owned(), Value::Int(1)), ("a".to_owned(), Value::Int(2))];
        let message = check("creating a client", &twice).expect_err("given twice").to_string();
        assert_eq!(message, "creating a client: option `a` is given twice; give it once");
        assert!(check("creating a client", &[(String::new(), Value::Int(1))]).is_err());
        assert!(check("creating a client", &twice[..1]).is_ok());
    }
}

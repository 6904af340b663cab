//! Values of the fields of a record.

use data::records::Fields;
use serde_json::Value;

/// Returns the value of a path such as `answers.text`. A field whose name has a dot is found by that name.
///
/// # Errors
/// A sentence without subject about the record.
pub fn lookup<'a>(fields: &'a Fields, path: &str) -> Result<&'a Value, String> {
    if let Some(value) = fields.get(path) {
        return Ok(value);
    }
    let mut names = path.split('.');
    let first = names.next().unwrap_or_default();
    let mut value = fields.get(first).ok_or_else(|| {
        let has: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
        match has.is_empty() {
            true => format!("has no field `{first}`, and no other"),
            false => format!("has no field `{first}`, but `{}`", has.join("`, `")),
        }
    })?;
    for name in names {
        let inner = match value {
            Value::Object(fields) => fields.get(name),
            Value::Array(all) => name.parse().ok().and_then(|at: usize| all.get(at)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        };
        value = inner.ok_or_else(|| format!("has a field `{first}` without `{name}` of `{path}`"))?;
    }
    Ok(value)
}

/// Returns a value as text.
///
/// # Errors
/// A predicate about the field.
pub fn text_of(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(true) => Ok("True".to_owned()),
        Value::Bool(false) => Ok("False".to_owned()),
        Value::Array(all) => Ok(all.iter().map(text_of).collect::<Result<Vec<_>, _>>()?.join(", ")),
        Value::Null => Err("is null".to_owned()),
        Value::Object(_) => Err("is an object; name one of its fields, as in `{a.b}`".to_owned()),
    }
}

//! Text with fields: `"mnli premise: {premise} hypothesis: {hypothesis}"`.
//!
//! `{a.b}` is the field `b` of the field `a`, `{a.0}` the first element of a list, `{a|FILTER}` a changed
//! value; `{{` and `}}` are braces. A list becomes its elements, separated by `, `.

use crate::filter::Filter;
use data::records::Fields;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// A template.
#[derive(Clone, PartialEq, Debug)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Debug)]
enum Part {
    Text(String),
    Field { path: String, filter: Option<Filter> },
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// The reason why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain += &rest[..at];
            let (brace, after) = (&rest[at..=at], &rest[at + 1..]);
            if after.starts_with(brace) {
                plain += brace;
                rest = &after[1..];
                continue;
            }
            let end = after.find('}').filter(|_| brace == "{").ok_or_else(|| {
                format!(
                    "`{text}` has an unmatched `{brace}`; write `{brace}{brace}` for the character itself"
                )
            })?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(field(&after[..end])?);
            rest = &after[end + 1..];
        }
        plain += rest;
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// Returns the text for a record.
    ///
    /// # Errors
    /// A sentence without subject about the record, such as "has no field `premise`, but `text`".
    pub fn render(&self, fields: &Fields) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text += plain,
                Part::Field { path, filter } => {
                    let value = lookup(fields, path)?;
                    let shown = match filter {
                        Some(filter) => filter.apply(value, fields),
                        None => text_of(value),
                    };
                    text += &shown.map_err(|why| format!("has a field `{path}` that {why}"))?;
                }
            }
        }
        Ok(text)
    }
}

fn field(text: &str) -> Result<Part, String> {
    let (path, filter) = match text.split_once('|') {
        Some((path, filter)) => (path, Some(Filter::parse(filter)?)),
        None => (text, None),
    };
    let path = path.trim();
    match path.is_empty() || path.contains('{') {
        true => Err(format!("`{{{text}}}` names no field")),
        false => Ok(Part::Field { path: path.to_owned(), filter }),
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields() -> Fields {
        let all = json!({
            "a": "x", "n": 2.5, "yes": true, "none": null, "list": ["p", "q"], "in": {"deep": [1, 2]},
            "score": 3.1, "half": 2.5, "say": "the cat sat", "at": 1, "a.b": "dotted",
            "news": "First.\n@highlight\nsecond\n@highlight\nthird", "html": "a <b>bold</b><br>word < 3",
        });
        match all {
            Value::Object(fields) => fields,
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    fn check(template: &str, expected: Result<&str, &str>) {
        let rendered = Template::parse(template).and_then(|t| t.render(&fields()));
        match expected {
            Ok(text) => assert_eq!(rendered.as_deref(), Ok(text)),
            Err(part) => assert!(rendered.as_ref().is_err_and(|e| e.contains(part)), "{rendered:?}"),
        }
    }

    #[test]
    fn templates_with_fields() {
        check("mnli a: {a} n: {n}.", Ok("mnli a: x n: 2.5."));
        check("{{{a}}} {yes} {list} {in.deep.1} {list.0} { a }{a.b}", Ok("{x} True p, q 2 p xdotted"));
        check("", Ok(""));
        check("{score|round 0.2} {half|round 1} {n|round 0.25}", Ok("3.2 2 2.50"));
        check("{say|mark at *}", Ok("the *cat* sat"));
        check("{news|highlights}", Ok("First. second. third"));
        check("{html|plain}", Ok("a boldword < 3"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        check("{b}", Err("has no field `b`, but `a`, `n`"));
        check("{none}", Err("has a field `none` that is null"));
        check("{in}", Err("`in` that is an object"));
        check("{in.x}", Err("has a field `in` without `x` of `in.x`"));
        check("{a|round 0.2}", Err("`a` that is not a number"));
        check("{say|mark n *}", Err("`n` is not the index of a word"));
        check("{a|mark at *}", Err("has 1 words, and `at` is 1"));
        check("{a", Err("unmatched `{`"));
        check("a}", Err("unmatched `}`"));
        check("{}", Err("names no field"));
        check("{a|upper}", Err("`upper` is no filter"));
        check("{a|round -1}", Err("`round -1` is no filter"));
    }
}

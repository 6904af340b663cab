//! Text with fields: `"mnli premise: {premise} hypothesis: {hypothesis}"`.
//!
//! `{a.b}` is the field `b` of the field `a`, `{a.0}` the first element of a list, `{a|FILTER}` a changed
//! value; `{{` and `}}` are braces. A list becomes its elements, separated by `, `.

use crate::{
    filter::Filter,
    value::{lookup, text_of},
};
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
    Field(Field),
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
            let field = Field::parse(&after[..end]).map_err(|why| format!("{why}, in `{text}`"))?;
            parts.push(Part::Field(field));
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
                Part::Field(field) => text += &field.text(fields)?,
            }
        }
        Ok(text)
    }
}

/// A field of a record, changed by a filter.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Field {
    path: String,
    filter: Option<Filter>,
}

impl Field {
    /// Parses the path of a field, and a filter after `|`.
    ///
    /// # Errors
    /// The reason why it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (path, filter) = match text.split_once('|') {
            Some((path, filter)) => (path, Some(Filter::parse(filter)?)),
            None => (text, None),
        };
        let path = path.trim();
        match path.is_empty() || path.contains('{') {
            true => Err(format!("`{text}` names no field")),
            false => Ok(Self { path: path.to_owned(), filter }),
        }
    }

    /// Returns the text for a record.
    ///
    /// # Errors
    /// A sentence without subject about the record.
    pub(crate) fn text(&self, fields: &Fields) -> Result<String, String> {
        let shown = self.changed(lookup(fields, &self.path)?, fields);
        shown.map_err(|why| format!("has a field `{}` that {why}", self.path))
    }

    /// Returns the texts of the list in a record. A value that is no list is the only one.
    ///
    /// # Errors
    /// A sentence without subject about the record.
    pub(crate) fn texts(&self, fields: &Fields) -> Result<Vec<String>, String> {
        let Value::Array(all) = lookup(fields, &self.path)? else { return Ok(vec![self.text(fields)?]) };
        let path = &self.path;
        let text = |value| {
            self.changed(value, fields).map_err(|why| format!("has an element of `{path}` that {why}"))
        };
        all.iter().map(text).collect()
    }

    /// Returns a value as text, changed by the filter.
    fn changed(&self, value: &Value, fields: &Fields) -> Result<String, String> {
        match &self.filter {
            Some(filter) => filter.apply(value, fields),
            None => text_of(value),
        }
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(D::Error::custom)
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
            "dots": "The U.S.' é\n _x 3.5?",
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
        check("{html|plain}", Ok("a bold word < 3"));
        check("{dots|spaced}", Ok("The U . S . ' é _x 3 . 5 ?"));
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
        check("a {}", Err("`` names no field, in `a {}`"));
        check("{|spaced}", Err("`|spaced` names no field, in `{|spaced}`"));
        check("{a|upper}", Err("`upper` is no filter"));
        check("{a|round -1}", Err("`round -1` is no filter"));
    }
}

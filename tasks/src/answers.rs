//! The accepted answers of an example: `answers.text`, or with a filter `answers.text|spaced`.

use crate::{
    filter::Filter,
    value::{lookup, text_of},
};
use data::records::Fields;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// The field with the list of accepted answers.
#[derive(Clone, PartialEq, Debug)]
pub struct Answers {
    path: String,
    filter: Option<Filter>,
}

impl Answers {
    /// Parses the path of a field, and a filter after `|`.
    ///
    /// # Errors
    /// The known filters, if it has none of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, filter) = match text.split_once('|') {
            Some((path, filter)) => (path, Some(Filter::parse(filter)?)),
            None => (text, None),
        };
        Ok(Self { path: path.trim().to_owned(), filter })
    }

    /// Returns the texts of the list in a record. A value that is no list is the only answer.
    ///
    /// # Errors
    /// A sentence without subject about the record.
    pub fn of(&self, fields: &Fields) -> Result<Vec<String>, String> {
        let Self { path, filter } = self;
        let text = |value: &Value| match filter {
            Some(filter) => filter.apply(value, fields),
            None => text_of(value),
        };
        match lookup(fields, path)? {
            Value::Array(all) => {
                let each = |v| text(v).map_err(|why| format!("has an element of `{path}` that {why}"));
                all.iter().map(each).collect()
            }
            other => Ok(vec![text(other).map_err(|why| format!("has a field `{path}` that {why}"))?]),
        }
    }
}

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_are_those_of_a_field_changed_by_a_filter() {
        let Value::Object(fields) = json!({"a": {"text": ["U.S.", "x"]}, "one": "y", "no": [null]}) else {
            panic!("it is an object")
        };
        let of = |text: &str| Answers::parse(text).and_then(|answers| answers.of(&fields));
        assert_eq!(of("a.text").unwrap(), ["U.S.", "x"]);
        assert_eq!(of("a.text|spaced").unwrap(), ["U . S .", "x"]);
        assert_eq!(of("one").unwrap(), ["y"]);
        assert!(of("no").unwrap_err().contains("an element of `no` that is null"));
        assert!(of("a.text|upper").unwrap_err().contains("`upper` is no filter"));
    }
}

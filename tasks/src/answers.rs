//! The accepted answers of an example: `answers.text`, or with a filter `answers.text|spaced`.

use crate::template::Field;
use data::records::Fields;
use serde::{Deserialize, Deserializer, de::Error as _};

/// The field with the list of accepted answers.
#[derive(Clone, PartialEq, Debug)]
pub struct Answers(Field);

impl Answers {
    /// Parses the path of a field, and a filter after `|`.
    ///
    /// # Errors
    /// The text names no field, or the known filters, if it has none of them.
    pub fn parse(text: &str) -> Result<Self, String> {
        Field::parse(text).map(Self)
    }

    /// Returns the texts of the list in a record. A value that is no list is the only answer.
    ///
    /// # Errors
    /// A sentence without subject about the record.
    pub fn of(&self, fields: &Fields) -> Result<Vec<String>, String> {
        self.0.texts(fields)
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
    use serde_json::{Value, json};

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
        assert!(of("|spaced").unwrap_err().contains("`|spaced` names no field"));
        assert!(of(" ").unwrap_err().contains("names no field"));
    }
}

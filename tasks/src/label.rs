//! Label sets: the texts among which the target is one.

use crate::{
    template::{Field, Template},
    value::{lookup, text_of},
};
use data::records::Fields;
use serde::Deserialize;
use serde_json::Value;

/// The label set of a task.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSpec {
    /// The field with the label: an index into the names counted from 0, a truth value, or one of the names
    /// or `values`.
    pub field: String,
    /// The text of each label: templates, or the name of a field with a list of texts.
    pub names: Names,
    /// The values of the field for each label, in the order of the names: texts, or the name of a field
    /// with a list of them. `None` means indices and the names themselves.
    #[serde(default)]
    pub values: Option<Values>,
}

/// The texts of labels.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(untagged)]
pub enum Names {
    /// The same for every record, except for fields that the templates name.
    Templates(Vec<Template>),
    /// A field with a list.
    Field(String),
}

/// The values of the label's field.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(untagged)]
pub enum Values {
    /// The same for every record.
    Texts(Vec<String>),
    /// A field with a list.
    Field(String),
}

/// Returns the labels of a record, and the index of the right one. `None` means that it is hidden: null,
/// or -1.
///
/// # Errors
/// A sentence without subject about the record.
pub fn labels(spec: &LabelSpec, fields: &Fields) -> Result<(Vec<String>, Option<usize>), String> {
    let names = match &spec.names {
        Names::Templates(all) => all.iter().map(|t| t.render(fields)).collect::<Result<_, _>>()?,
        Names::Field(path) => Field::parse(path)?.texts(fields)?,
    };
    let Some(value) = fields.get(&spec.field).filter(|value| !value.is_null()) else {
        return match spec.field.contains('.') {
            true => index(spec, &names, lookup(fields, &spec.field)?, fields).map(|index| (names, index)),
            false => Ok((names, None)),
        };
    };
    let index = index(spec, &names, value, fields)?;
    Ok((names, index))
}

fn index(
    spec: &LabelSpec,
    names: &[String],
    value: &Value,
    fields: &Fields,
) -> Result<Option<usize>, String> {
    if value.as_i64() == Some(-1) {
        return Ok(None);
    }
    let shown = text_of(value).map_err(|why| format!("has a field `{}` that {why}", spec.field))?;
    let values = match &spec.values {
        None => None,
        Some(Values::Texts(all)) => Some(all.clone()),
        Some(Values::Field(path)) => Some(Field::parse(path)?.texts(fields)?),
    };
    let found = match (&values, value) {
        (Some(values), _) => values.iter().position(|v| *v == shown),
        (None, Value::Bool(b)) => Some(usize::from(*b)),
        (None, Value::Number(_)) => value.as_u64().and_then(|n| usize::try_from(n).ok()),
        (None, _) => names.iter().position(|name| *name == shown),
    };
    found.filter(|index| *index < names.len()).map(Some).ok_or_else(|| {
        let known = values.as_deref().unwrap_or(names);
        format!("has the label `{shown}` in `{}`, outside the set `{}`", spec.field, known.join("`, `"))
    })
}

/// Checks a label set on its own.
pub(crate) fn check_label(spec: &LabelSpec) -> Result<(), String> {
    if let Some(Values::Field(path)) = &spec.values {
        Field::parse(path).map_err(|why| format!("[label] has `values`, but {why}"))?;
    }
    let names = match &spec.names {
        Names::Templates(names) => names,
        Names::Field(path) => {
            return Field::parse(path).map(drop).map_err(|why| format!("[label] has `names`, but {why}"));
        }
    };
    if names.is_empty() {
        return Err("[label] has no labels: give `names`".to_owned());
    }
    let plain: Vec<String> = names.iter().filter_map(|name| name.render(&Fields::new()).ok()).collect();
    if let Some((_, twice)) = plain.iter().enumerate().find(|(at, name)| plain[..*at].contains(name)) {
        return Err(format!("[label] has the name `{twice}` twice"));
    }
    match &spec.values {
        Some(Values::Texts(values)) if values.len() != names.len() => {
            Err(format!("[label] has {} names, but {} values", names.len(), values.len()))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(spec: &str, record: Value, expected: Result<(&[&str], Option<usize>), &str>) {
        let spec: LabelSpec = toml::from_str(spec).unwrap();
        let Value::Object(fields) = record else { panic!("records are objects") };
        let found = labels(&spec, &fields);
        match (expected, found) {
            (Ok((names, index)), Ok(found)) => assert_eq!((found.0, found.1), (strings(names), index)),
            (Err(part), Err(error)) => assert!(error.contains(part), "{error}"),
            (_, found) => panic!("{found:?}"),
        }
    }

    fn strings(all: &[&str]) -> Vec<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn labels_are_indices_truth_values_texts_or_values() {
        let fixed = "field = \"l\"\nnames = [\"no\", \"yes\"]";
        let both: &[&str] = &["no", "yes"];
        check(fixed, json!({"l": 1}), Ok((both, Some(1))));
        check(fixed, json!({"l": true}), Ok((both, Some(1))));
        check(fixed, json!({"l": "no"}), Ok((both, Some(0))));
        check(fixed, json!({"l": -1}), Ok((both, None)));
        check(fixed, json!({"l": null}), Ok((both, None)));
        check(fixed, json!({}), Ok((both, None)));
        check(fixed, json!({"l": 2}), Err("has the label `2` in `l`, outside the set `no`, `yes`"));
        check(fixed, json!({"l": "maybe"}), Err("label `maybe`"));
        check(fixed, json!({"l": 0.5}), Err("label `0.5`"));
        let of_record = "field = \"answer\"\nnames = [\"{one}\", \"{two}\"]\nvalues = [\"1\", \"2\"]";
        let record = json!({"one": "a", "two": "b", "answer": "2"});
        check(of_record, record, Ok((&["a", "b"], Some(1))));
        let of_list = "field = \"key\"\nnames = \"choices.text\"\nvalues = \"choices.label\"";
        let choices = json!({"text": ["x", "y", "z"], "label": ["A", "B", "C"]});
        check(of_list, json!({"choices": choices, "key": "C"}), Ok((&["x", "y", "z"], Some(2))));
        check(of_list, json!({"choices": choices, "key": "D"}), Err("outside the set `A`, `B`, `C`"));
        check(of_list, json!({"key": "D"}), Err("has no field `choices`"));
    }
}

//! One record of a data file becomes one example of a task.

use crate::{
    label::labels,
    spec::{Split, TaskSpec, targets},
};
use data::{Error, Record, Result, records::Fields};
use serde_json::Value;

/// An example of a task.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Example {
    /// The input.
    pub inputs: String,
    /// The target. `None` means that it is hidden, in a split for tests.
    pub targets: Option<String>,
    /// All accepted answers; the target if the task names no others.
    pub answers: Vec<String>,
    /// The label set, if the task has one.
    pub labels: Vec<String>,
    /// The index of the right label. `None` if there is no label set, or it is hidden.
    pub label: Option<usize>,
    /// The examples of a group belong together.
    pub group: String,
}

/// Returns the examples of a record: none if the task does not take it, several if every answer is one.
///
/// # Errors
/// The record does not fit the task; the message names the record and the task.
pub fn examples(spec: &TaskSpec, split: Split, record: &Record<'_>) -> Result<Vec<Example>> {
    if !is_taken(spec, &record.fields) {
        return Ok(Vec::new());
    }
    of_fields(spec, split, &record.fields).map_err(|why| {
        Error::input(
            format!("{} {why}", record.place()),
            format!("correct the record, or the task `{}`", spec.name),
        )
    })
}

fn is_taken(spec: &TaskSpec, fields: &Fields) -> bool {
    spec.only.iter().all(|(name, value)| match (fields.get(name), value) {
        // 1 and 1.0 are the same.
        (Some(Value::Number(a)), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (found, value) => found == Some(value),
    })
}

fn of_fields(spec: &TaskSpec, split: Split, fields: &Fields) -> std::result::Result<Vec<Example>, String> {
    let of = |what: &str| {
        let what = what.to_owned();
        move |why| format!("{why} (of `{what}`)")
    };
    let inputs = spec.inputs.render(fields).map_err(of("inputs"))?;
    let (labels, label) = match &spec.label {
        Some(label) => labels(label, fields).map_err(of("label"))?,
        None => (Vec::new(), None),
    };
    let group = spec.group.as_ref().map_or(Ok(String::new()), |group| group.render(fields));
    let group = group.map_err(of("group"))?;
    let template = spec.targets.clone().or_else(|| spec.label.is_none().then(targets));
    let target = match template {
        None => label.map(|index| labels[index].clone()).ok_or("has no label".to_owned()),
        Some(template) => template.render(fields).map_err(of("targets")),
    };
    let answers = spec.answers.as_ref().map(|answers| answers.of(fields)).transpose();
    let base = Example { inputs, labels, label, group, ..Example::default() };
    // In a split for tests, what is missing is hidden.
    let (target, answers) = match (target, answers, split) {
        (Ok(target), Ok(answers), _) => (target, answers),
        (_, _, Split::Test) => return Ok(vec![base]),
        (Err(why), _, _) | (_, Err(why), _) => return Err(why),
    };
    let hidden = target.trim().is_empty() || answers.as_ref().is_some_and(Vec::is_empty);
    match (hidden, split) {
        (true, Split::Test) => return Ok(vec![base]),
        (true, Split::Train | Split::Validation) => {
            let what = if target.trim().is_empty() { "target" } else { "list of answers" };
            return Err(format!("has an empty {what}"));
        }
        (false, _) => {}
    }
    let answers = answers.unwrap_or_else(|| vec![target.clone()]);
    if spec.each_answer && split == Split::Train {
        let of = |answer: &String| Example {
            targets: Some(answer.clone()),
            answers: answers.clone(),
            ..base.clone()
        };
        return Ok(answers.iter().map(of).collect());
    }
    Ok(vec![Example { targets: Some(target), answers, ..base }])
}

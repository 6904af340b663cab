//! Task files: TOML, one file a task.

use crate::{
    answers::Answers,
    label::{LabelSpec, check_label},
    metric::Metric,
    template::Template,
};
use data::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// A task as its file describes it.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// The name. In a file, the default is the file's name without its extension.
    #[serde(default)]
    pub name: String,
    /// The input.
    #[serde(default = "inputs")]
    pub inputs: Template,
    /// The target. With a label, `None` means the label's text.
    #[serde(default)]
    pub targets: Option<Template>,
    /// The label set.
    #[serde(default)]
    pub label: Option<LabelSpec>,
    /// The field with the list of all accepted answers. `None` means the target alone.
    #[serde(default)]
    pub answers: Option<Answers>,
    /// True if training has one example for each accepted answer instead of one with `targets`.
    #[serde(default)]
    pub each_answer: bool,
    /// Examples with the same text belong together, such as all answers of one question.
    #[serde(default)]
    pub group: Option<Template>,
    /// Only records whose fields have these values are examples.
    #[serde(default)]
    pub only: BTreeMap<String, Value>,
    /// Metrics of predictions.
    #[serde(default)]
    pub metrics: Vec<Metric>,
    /// The sampling rate relative to other tasks. `None` means it follows from the number of examples.
    #[serde(default)]
    pub rate: Option<f64>,
    /// The language, such as `sw`: evaluation also prints means by language.
    #[serde(default)]
    pub language: Option<String>,
    /// The files of each split.
    pub splits: BTreeMap<Split, Vec<PathBuf>>,
}

/// A part of a task's data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For training.
    Train,
    /// For evaluation during development.
    Validation,
    /// For the final evaluation. Its targets may be missing.
    Test,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

impl std::str::FromStr for Split {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let all = [Self::Train, Self::Validation, Self::Test];
        let found = all.into_iter().find(|split| split.to_string() == text);
        found.ok_or_else(|| format!("`{text}` is no split: splits are `train`, `validation` and `test`"))
    }
}

impl TaskSpec {
    /// Reads a task file. Relative paths of its data are relative to `data`, or else to the file.
    ///
    /// # Errors
    /// The file cannot be read, or is no task.
    pub fn of_file(path: &Path, data: Option<&Path>) -> Result<Self> {
        let text = proto::regular::read_to_string(path).map_err(Error::io("reading the task", path))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let folder = data.or(path.parent()).unwrap_or(Path::new(""));
        Self::parse(&text, &stem, &path.display().to_string(), folder)
    }

    /// Parses the text of a task file. `name` is the default of its name, `origin` names the file in
    /// messages, and `folder` is that of relative paths.
    ///
    /// # Errors
    /// The text is no task.
    pub fn parse(text: &str, name: &str, origin: &str, folder: &Path) -> Result<Self> {
        let wrong = |why: String| {
            let help = "a task has `inputs`, `targets` or [label], `metrics`, and [splits] with lists of files; \
                        `meshc tasks NAME` prints a complete one";
            Error::input(format!("`{origin}` is not a task: {why}"), help)
        };
        let mut spec: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if spec.name.is_empty() {
            spec.name = name.to_owned();
        }
        let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        if spec.name.is_empty() || !spec.name.chars().all(good) {
            return Err(wrong(format!(
                "its name `{}` has other characters than letters, digits, `_`, `-` and `.`",
                spec.name
            )));
        }
        spec.check().map_err(wrong)?;
        for files in spec.splits.values_mut() {
            files.iter_mut().for_each(|file| *file = folder.join(&*file));
        }
        Ok(spec)
    }

    /// Returns the task of a file of records with the fields `inputs` and `targets`. Every split is this
    /// file.
    pub fn of_pairs(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.split('.').next().unwrap_or_default();
        let good = |c: char| if c.is_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
        let splits =
            [Split::Train, Split::Validation, Split::Test].map(|split| (split, vec![path.to_owned()]));
        Self {
            name: name.chars().map(good).collect(),
            inputs: inputs(),
            targets: None,
            label: None,
            answers: None,
            each_answer: false,
            group: None,
            only: BTreeMap::new(),
            metrics: vec![Metric::ExactMatch],
            rate: None,
            language: None,
            splits: splits.into(),
        }
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.splits.values().all(Vec::is_empty) {
            return Err("[splits] names no files".to_owned());
        }
        if let Some(rate) = self.rate.filter(|rate| !(*rate > 0.0 && rate.is_finite())) {
            return Err(format!("`rate` must be a number above 0, got {rate}"));
        }
        if self.each_answer && self.answers.is_none() {
            return Err("`each_answer` needs `answers`, the field with the accepted answers".to_owned());
        }
        if let Some(label) = &self.label {
            check_label(label)?;
        }
        for metric in &self.metrics {
            let name = metric.name();
            if metric.needs_labels() && self.label.is_none() {
                return Err(format!("the metric `{name}` needs a label set: add [label]"));
            }
            if metric.needs_groups() && self.group.is_none() {
                return Err(format!("the metric `{name}` needs `group`"));
            }
        }
        Ok(())
    }
}

/// The default of [`TaskSpec::inputs`].
fn inputs() -> Template {
    Template::parse("{inputs}").expect("the template is valid")
}

/// Returns the template of targets without a label: the field `targets`.
pub(crate) fn targets() -> Template {
    Template::parse("{targets}").expect("the template is valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn fails(text: &str, parts: &[&str]) {
        let error = TaskSpec::parse(text, "mine", "mine.toml", Path::new("d")).unwrap_err().to_string();
        for part in ["`mine.toml` is not a task", "help:"].iter().chain(parts) {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }

    #[test]
    fn a_task_file_has_defaults_and_paths_relative_to_it() {
        let text = "[splits]\ntrain = [\"a*.jsonl\", \"/b.parquet\"]\n";
        let spec = TaskSpec::parse(text, "mine", "mine.toml", Path::new("d")).unwrap();
        assert_eq!(spec.name, "mine");
        assert_eq!(spec.splits[&Split::Train], [PathBuf::from("d/a*.jsonl"), PathBuf::from("/b.parquet")]);
        assert!(spec.metrics.is_empty() && spec.label.is_none() && spec.rate.is_none());
        assert_eq!("test".parse(), Ok(Split::Test));
        assert!("dev".parse::<Split>().unwrap_err().contains("`dev` is no split"));
    }

    #[test]
    fn mistakes_of_a_task_file_are_named() {
        let splits = "\n[splits]\ntrain = [\"a\"]\n";
        let with = |text: &str| format!("{text}{splits}");
        fails(&with("input = \"x\""), &["unknown field `input`", "`inputs`"]);
        fails(&with("inputs = \"{x\""), &["unmatched `{`"]);
        fails(&with("rate = -1.0"), &["`rate` must be a number above 0, got -1"]);
        fails(&with("each_answer = true"), &["needs `answers`"]);
        fails(&with("metrics = [\"rogue\"]"), &["unknown variant `rogue`", "`rouge`"]);
        fails(&with("metrics = [\"matthews\"]"), &["`matthews` needs a label set"]);
        fails(&with("metrics = [\"group_exact_match\"]"), &["needs `group`"]);
        fails(&with("[label]\nfield = \"l\"\nnames = []"), &["has no labels"]);
        fails(&with("[label]\nfield = \"l\"\nnames = [\"a\", \"a\"]"), &["`a` twice"]);
        fails(
            &with("[label]\nfield = \"l\"\nnames = \" \""),
            &["[label] has `names`, but ` ` names no field"],
        );
        let values = "[label]\nfield = \"l\"\nnames = [\"a\"]\nvalues = \"|spaced\"";
        fails(&with(values), &["[label] has `values`, but `|spaced` names no field"]);
        fails(&with("answers = \"|spaced\""), &["`|spaced` names no field"]);
        fails(&with("name = \"a/b\""), &["its name `a/b`"]);
        fails("[splits]\ndev = [\"a\"]", &["unknown variant `dev`"]);
        fails("[splits]", &["[splits] names no files"]);
        fails("inputs = \"x\"", &["missing field `splits`"]);
    }
}

//! Predictions of a task, their values and their lines, and the table of several tasks.

use crate::{example::Example, score::Predicted, spec::TaskSpec};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

/// The way in which predictions are made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Method {
    /// The text that the model generates.
    Generate,
    /// The label with the largest log-likelihood.
    Rank,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generate => "generate",
            Self::Rank => "rank",
        })
    }
}

/// The predictions for the examples of a task.
#[derive(Clone, PartialEq, Debug)]
pub struct Predictions {
    /// The task.
    pub spec: TaskSpec,
    /// The way in which they were made.
    pub method: Method,
    /// The examples.
    pub examples: Vec<Example>,
    /// The prediction for each example.
    pub texts: Vec<String>,
    /// With [`Method::Rank`], the log-likelihood of each label of each example; else empty.
    pub scores: Vec<Vec<f64>>,
    /// The number of inputs that were longer than the program takes, and were cut.
    pub truncated: usize,
}

impl Predictions {
    /// Returns the values of the task's metrics, over the examples whose targets are known. Empty if there
    /// are none.
    pub fn values(&self) -> Vec<(&'static str, f64)> {
        let all = self.examples.iter().zip(self.texts.iter().map(String::as_str));
        let known: Vec<Predicted<'_>> = all.filter(|(example, _)| example.targets.is_some()).collect();
        if known.is_empty() {
            return Vec::new();
        }
        self.spec.metrics.iter().flat_map(|metric| metric.values(&known)).collect()
    }

    /// Returns one JSON object per example, one per line.
    pub fn lines(&self) -> String {
        let mut out = String::new();
        for (number, (example, text)) in self.examples.iter().zip(&self.texts).enumerate() {
            let mut line = Map::new();
            line.insert("task".into(), self.spec.name.clone().into());
            line.insert("method".into(), self.method.to_string().into());
            line.insert("example".into(), number.into());
            line.insert("inputs".into(), example.inputs.clone().into());
            line.insert("targets".into(), example.targets.clone().into());
            if self.spec.answers.is_some() {
                line.insert("answers".into(), example.answers.clone().into());
            }
            line.insert("prediction".into(), text.clone().into());
            if let Some(scores) = self.scores.get(number) {
                let of = |(label, score): (&String, &f64)| json!({ "label": label, "log_likelihood": score });
                line.insert("scores".into(), example.labels.iter().zip(scores).map(of).collect());
            }
            // Writing to a String does not fail.
            let _ = writeln!(out, "{}", Value::Object(line));
        }
        out
    }
}

/// Returns all values by name: `TASK/generate/METRIC` and `TASK/rank/METRIC`. With several languages, also
/// the mean of each metric over the tasks of a language, as `LANGUAGE/generate/METRIC`.
pub fn by_name(all: &[Predictions]) -> BTreeMap<String, f64> {
    let mut values = BTreeMap::new();
    for of in all {
        for (metric, value) in of.values() {
            values.insert(format!("{}/{}{metric}", of.spec.name, prefix(of.method)), value);
        }
    }
    for ((language, method, metric), (_, mean)) in by_language(all) {
        values.insert(format!("{language}/{}{metric}", prefix(method)), mean);
    }
    values
}

fn prefix(method: Method) -> &'static str {
    match method {
        Method::Generate => "generate/",
        Method::Rank => "rank/",
    }
}

/// A language, a method and a metric.
type OfLanguage = (String, Method, &'static str);

/// Returns the number of tasks of each language and the means of their metrics. Empty unless there are tasks
/// of several languages.
fn by_language(all: &[Predictions]) -> BTreeMap<OfLanguage, (usize, f64)> {
    let mut values = BTreeMap::<OfLanguage, Vec<f64>>::new();
    let mut languages = Vec::new();
    for of in all {
        let Some(language) = &of.spec.language else { continue };
        languages.push(language);
        for (metric, value) in of.values() {
            values.entry((language.clone(), of.method, metric)).or_default().push(value);
        }
    }
    languages.sort_unstable();
    languages.dedup();
    if languages.len() < 2 {
        return BTreeMap::new();
    }
    let mean = |values: Vec<f64>| (values.len(), values.iter().sum::<f64>() / values.len() as f64);
    values.into_iter().map(|(key, values)| (key, mean(values))).collect()
}

/// Returns a table of the tasks, and of the languages if there are several.
pub fn table(all: &[Predictions]) -> String {
    let mut rows = vec![["task", "method", "examples", "cut", "metric", "value"].map(str::to_owned)];
    for of in all {
        let mut row = [
            of.spec.name.clone(),
            of.method.to_string(),
            of.examples.len().to_string(),
            of.truncated.to_string(),
            "-".to_owned(),
            "no targets".to_owned(),
        ];
        let values = of.values();
        if values.is_empty() {
            rows.push(row.clone());
        }
        for (metric, value) in values {
            (row[4], row[5]) = (metric.to_owned(), format!("{value:.2}"));
            rows.push(std::mem::take(&mut row));
        }
    }
    for ((language, method, metric), (tasks, mean)) in by_language(all) {
        let tasks = if tasks == 1 { "1 task".to_owned() } else { format!("{tasks} tasks") };
        let [method, metric] = [method.to_string(), metric.to_owned()];
        rows.push([
            format!("language {language}"),
            method,
            tasks,
            String::new(),
            metric,
            format!("{mean:.2}"),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let [task, method, examples, cut, metric, value] = row;
        let [a, b, c, d, e, f] = widths;
        let line = format!("{task:a$}  {method:b$}  {examples:>c$}  {cut:>d$}  {metric:e$}  {value:>f$}");
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn predictions(name: &str, language: Option<&str>, method: Method, texts: &[&str]) -> Predictions {
        let text = "metrics = [\"accuracy\"]\n[splits]\ntest = [\"x\"]\n";
        let mut spec = TaskSpec::parse(text, name, name, Path::new("")).unwrap();
        spec.language = language.map(str::to_owned);
        let labels = vec!["no".to_owned(), "yes".to_owned()];
        let targets = Some("yes".to_owned());
        let answers = vec!["yes".to_owned()];
        let example =
            Example { inputs: "i".into(), targets, answers, labels, label: Some(1), group: String::new() };
        Predictions {
            spec,
            method,
            examples: vec![example; texts.len()],
            texts: texts.iter().map(|text| (*text).to_owned()).collect(),
            scores: if method == Method::Rank { vec![vec![-2.0, -1.0]; texts.len()] } else { Vec::new() },
            truncated: 3,
        }
    }

    #[test]
    fn one_table_has_tasks_and_languages() {
        let all = [
            predictions("one_sw", Some("sw"), Method::Generate, &["yes", "no"]),
            predictions("two_sw", Some("sw"), Method::Generate, &["yes"]),
            predictions("one_de", Some("de"), Method::Rank, &["no"]),
        ];
        let expected = "\
task         method    examples  cut  metric     value
one_sw       generate         2    3  accuracy   50.00
two_sw       generate         1    3  accuracy  100.00
one_de       rank             1    3  accuracy    0.00
language de  rank        1 task       accuracy    0.00
language sw  generate   2 tasks       accuracy   75.00
";
        assert_eq!(table(&all), expected);
        let names: Vec<String> = by_name(&all).into_keys().collect();
        assert_eq!(
            names,
            [
                "de/rank/accuracy",
                "one_de/rank/accuracy",
                "one_sw/generate/accuracy",
                "sw/generate/accuracy",
                "two_sw/generate/accuracy"
            ]
        );
    }

    #[test]
    fn hidden_targets_give_lines_and_no_values() {
        let mut all = predictions("t", None, Method::Rank, &["yes"]);
        all.examples[0].targets = None;
        assert!(all.values().is_empty());
        assert!(table(&[all.clone()]).contains("no targets"));
        let line: Value = serde_json::from_str(&all.lines()).unwrap();
        assert_eq!(line["targets"], Value::Null);
        assert_eq!(
            (&line["prediction"], &line["scores"][1]["log_likelihood"]),
            (&json!("yes"), &json!(-1.0))
        );
    }
}

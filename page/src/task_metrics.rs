//! Metrics of supervised tasks during training: a table, and a chart for each metric of each task.

use crate::{
    chart::{Chart, Line},
    html::escape,
    run::Run,
};
use std::{collections::BTreeMap, fmt::Write};

/// A task or a language, the way of prediction, and the metric.
pub type Key<'a> = (&'a str, &'a str, &'a str);

/// Renders a table of the values that evaluations call `TASK/WAY/METRIC`, such as `squad/generate/squad_f1`;
/// empty without any.
pub fn table(runs: &[Run]) -> String {
    let keys = keys(runs);
    if keys.is_empty() {
        return String::new();
    }
    let mut out = "<h2>Tasks</h2>\n<table>\n<tr><th>task</th><th>by</th><th>metric</th>".to_owned();
    for run in runs {
        let of = if runs.len() > 1 { format!("{}: ", escape(&run.name)) } else { String::new() };
        let _ = write!(out, "<th>{of}last</th><th>{of}best</th>");
    }
    out += "</tr>\n";
    for ((task, way, metric), name) in &keys {
        let words = [task, way, metric].map(|word| format!("<td>{}</td>", escape(word))).concat();
        let values: String = runs.iter().map(|run| cells(run, name)).collect();
        let _ = writeln!(out, "<tr>{words}{values}</tr>");
    }
    out + "</table>\n"
}

/// Returns a chart of each value, with a line for each run.
pub fn charts(runs: &[Run]) -> Vec<Chart> {
    let chart = |((task, way, metric), name): (Key<'_>, &str)| {
        let line = |(number, run): (usize, &Run)| {
            let label = if runs.len() > 1 { run.name.clone() } else { metric.to_owned() };
            let points = run.evaluations.get(name)?.clone();
            Some(Line { label, colour: number, run: number, dashed: true, points })
        };
        let lines = runs.iter().enumerate().filter_map(line).collect();
        let title = format!("{task}: {metric} by {way}");
        Chart { title, unit: "percent".to_owned(), lines, marks: Vec::new() }
    };
    keys(runs).into_iter().map(chart).collect()
}

/// Returns the task, the way of prediction and the metric of the name of a value. `None` means that it is no
/// metric of a task.
pub fn parts(name: &str) -> Option<Key<'_>> {
    let mut words = name.rsplitn(3, '/');
    let (metric, way, task) = (words.next()?, words.next()?, words.next()?);
    matches!(way, "generate" | "rank").then_some((task, way, metric))
}

/// Returns the values of all runs by task, in the order of tasks.
fn keys(runs: &[Run]) -> BTreeMap<Key<'_>, &str> {
    let names = runs.iter().flat_map(|run| run.evaluations.keys());
    names.filter_map(|name| Some((parts(name)?, name.as_str()))).collect()
}

/// Renders the last value of a run, and its largest with the step.
fn cells(run: &Run, name: &str) -> String {
    let points = run.evaluations.get(name).map_or(&[][..], Vec::as_slice);
    // Of equal values, the first.
    let best = points.iter().rev().max_by(|a, b| a.1.total_cmp(&b.1));
    let last = points.last().map_or(String::new(), |(_, value)| format!("{value:.2}"));
    let best = best.map_or(String::new(), |(step, value)| format!("{value:.2} (step {step})"));
    format!("<td>{last}</td><td>{best}</td>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, values: &[f64]) -> Run {
        let line = |(i, value): (usize, &f64)| {
            format!("{{\"step\":{i},\"eval\":{{\"loss\":1.0,\"a/b/generate/f1\":{value},\"a/loss\":2.0}}}}\n")
        };
        let lines: String = values.iter().enumerate().map(line).collect();
        Run::parse(name, serde_json::Value::Null, lines.as_bytes())
    }

    #[test]
    fn every_metric_of_a_task_has_a_row_and_a_chart() {
        let one = [run("r", &[10.0, 30.5, 30.5, 20.0])];
        let text = table(&one);
        for part in ["<td>a/b</td><td>generate</td><td>f1</td>", "<td>20.00</td><td>30.50 (step 1)</td>"] {
            assert!(text.contains(part), "`{part}` is not in {text}");
        }
        assert_eq!(text.matches("<tr>").count(), 2, "{text}");
        let charts = charts(&one);
        assert_eq!(
            (charts.len(), charts[0].lines.len(), charts[0].title.as_str()),
            (1, 1, "a/b: f1 by generate")
        );
        let both = table(&[run("r", &[1.0]), run("<s>", &[2.0]), Run::default()]);
        assert!(both.contains("&lt;s&gt;: best") && both.contains("<td></td><td></td></tr>"), "{both}");
        assert_eq!(table(&[Run::default()]), "");
    }
}

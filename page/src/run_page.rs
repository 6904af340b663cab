//! The page of training runs: a table, charts of the metrics, metrics of tasks, the settings in which runs
//! differ, heat maps of expert load.
//!
//! Every chart is complete without a script. The script of the page adds values under the pointer, smoothing,
//! a logarithmic scale, and time or tokens as the horizontal axis.

use crate::{
    chart::{COLOURS, Chart, Line, PLOT},
    heat,
    html::{document, escape, section},
    run::Run,
    speedup, task_metrics,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fmt::Write};

/// Charts: title, unit, metric, metric of evaluations in the same chart.
const CHARTS: [(&str, &str, &str, Option<&str>); 13] = [
    ("Loss", "nats per token", "loss", Some("loss")),
    ("Accuracy", "share of target tokens", "accuracy", Some("accuracy")),
    ("Auxiliary loss", "load balancing", "aux_loss", Some("aux_loss")),
    ("z-loss", "", "z_loss", Some("z_loss")),
    ("Throughput", "tokens per second", "tokens_per_s", None),
    ("Step time", "ms", "step_ms", None),
    ("Wait for data", "ms", "wait_ms", None),
    ("Gradient norm", "", "grad_norm", None),
    ("Learning rate", "", "learning_rate", None),
    ("Skipped steps", "since the start", "skipped_steps", None),
    ("Model FLOPs utilization", "", "mfu", None),
    ("Device memory", "bytes", "device_memory", None),
    ("Host memory", "bytes", "host_memory", None),
];

/// Largest number of entries of a clock on the page.
const CLOCK: usize = 200;

const CONTROLS: &str = "\
<form id=\"controls\" hidden onsubmit=\"return false\">
<label>axis <select name=\"x\"><option value=\"step\">steps</option><option value=\"time\">time</option>\
<option value=\"tokens\">tokens</option></select></label>
<label><input type=\"checkbox\" name=\"log\"> logarithmic</label>
<label>smoothing <input type=\"range\" name=\"smooth\" min=\"0\" max=\"0.99\" step=\"0.01\" value=\"0\"></label>
</form>
";

/// Renders the page of these runs.
pub fn page(runs: &[Run]) -> String {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = escape(&names.join(", "));
    let mut body = format!("<h1>{title}</h1>\n{}", table(runs));
    if runs.len() > 1 {
        let keys: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(i, name)| format!("<span class=\"key c{}\"></span>{}", i % COLOURS, escape(name)))
            .collect();
        let _ = writeln!(body, "<p class=\"keys\">{}</p>", keys.join(" "));
    }
    body += CONTROLS;
    let mut drawn = Vec::new();
    body += &drawing(&charts(runs), &mut drawn);
    let others = drawing(&others(runs), &mut drawn);
    if !others.is_empty() {
        let _ = writeln!(body, "<details><summary>other metrics</summary>\n{others}</details>");
    }
    body += &task_metrics::table(runs);
    body += &drawing(&task_metrics::charts(runs), &mut drawn);
    body += &speedup::sections(runs);
    body += &settings(runs);
    for run in runs {
        body += &loads(run);
    }
    body += &script(runs, &drawn);
    document(&names.join(", "), &body)
}

/// Renders charts, and adds those that have values to `drawn`.
fn drawing(charts: &[Chart], drawn: &mut Vec<Value>) -> String {
    let mut out = String::new();
    for chart in charts {
        if let Some(svg) = chart.svg(drawn.len()) {
            drawn.push(chart.data());
            out += &svg;
        }
    }
    if out.is_empty() { out } else { format!("<div class=\"charts\">\n{out}</div>\n") }
}

/// The charts that everyone looks at.
fn charts(runs: &[Run]) -> Vec<Chart> {
    let fixed = CHARTS.iter().map(|(title, unit, key, eval)| curves(runs, title, unit, key, *eval));
    // Router metrics are per layer; the chart shows their mean.
    let routers = router_keys(runs);
    let routers =
        routers.iter().map(|key| curves(runs, &key.replace('_', " "), "mean over layers", key, None));
    fixed.chain(routers).collect()
}

/// The charts of all other metrics and evaluations.
fn others(runs: &[Run]) -> Vec<Chart> {
    let routers = router_keys(runs);
    let is_fixed = |key: &str, is_eval: bool| {
        CHARTS.iter().any(|(_, _, metric, eval)| if is_eval { *eval == Some(key) } else { *metric == key })
    };
    let metrics: BTreeSet<&String> = runs.iter().flat_map(|run| run.numbers.keys()).collect();
    let metrics = metrics.into_iter().filter(|key| !is_fixed(key, false) && !routers.contains(key));
    let evals: BTreeSet<&String> = runs.iter().flat_map(|run| run.evaluations.keys()).collect();
    let evals = evals.into_iter().filter(|key| !is_fixed(key, true) && task_metrics::parts(key).is_none());
    let metrics = metrics.map(|key| curves(runs, key, "", key, None));
    metrics.chain(evals.map(|key| curves(runs, key, "", "", Some(key)))).collect()
}

fn curves(runs: &[Run], title: &str, unit: &str, key: &str, eval: Option<&str>) -> Chart {
    let mut lines = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let label = if runs.len() > 1 { format!("{} ", run.name) } else { String::new() };
        lines.extend(run.numbers.get(key).map(|points| Line {
            label: format!("{label}{}", if eval.is_some() { "training" } else { key }),
            colour: i,
            run: i,
            dashed: false,
            points: points.clone(),
        }));
        lines.extend(eval.and_then(|key| run.evaluations.get(key)).map(|points| Line {
            label: format!("{label}held-out"),
            colour: if runs.len() > 1 { i } else { 1 },
            run: i,
            dashed: true,
            points: points.clone(),
        }));
    }
    let marks = match runs {
        [one] => one.rollbacks.clone(),
        _ => Vec::new(),
    };
    Chart { title: title.to_owned(), unit: unit.to_owned(), lines, marks }
}

/// Renders the settings of one run, or those in which several runs differ.
fn settings(runs: &[Run]) -> String {
    let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    let value = |run: &Run, key: &String| run.settings.get(key).cloned().unwrap_or_default();
    let differ = |key: &&String| runs.iter().any(|run| value(run, key) != value(&runs[0], key));
    let rows = keys.iter().copied().filter(|key| runs.len() == 1 || differ(key)).map(|key| {
        let cells = runs.iter().map(|run| format!("<td>{}</td>", escape(&value(run, key))));
        format!("<tr><th>{}</th>{}</tr>\n", escape(key), cells.collect::<String>())
    });
    let rows: String = rows.collect();
    match (runs, rows.as_str()) {
        (_, "") => String::new(),
        ([_], _) => format!(
            "<details><summary>settings</summary><div class=\"wide\"><table>\n{rows}</table></div></details>\n"
        ),
        _ => {
            let names: String = runs.iter().map(|run| format!("<td>{}</td>", escape(&run.name))).collect();
            let table = format!("<table>\n<tr><th></th>{names}</tr>\n{rows}</table>\n");
            section("Differences of settings", "Settings that are equal are left out.", &table)
        }
    }
}

/// Renders the values of the charts, and the script.
fn script(runs: &[Run], charts: &[Value]) -> String {
    let clock = |run: &Run| {
        let each = run.clock.len().div_ceil(CLOCK).max(1);
        let last = run.clock.last().into_iter();
        let start = run.clock.iter().find_map(|(_, time, _)| *time).unwrap_or(0.0);
        let entries = run.clock.iter().step_by(each).chain(last);
        let entry = |(step, time, tokens): &(u64, Option<f64>, f64)| {
            json!([step, time.map(|s| ((s - start) * 10.0).round() / 10.0), tokens.round()])
        };
        entries.map(entry).collect::<Vec<_>>()
    };
    let clocks: Vec<_> = runs.iter().map(clock).collect();
    let plot = [PLOT.0, PLOT.1, PLOT.2, PLOT.3];
    let data = json!({ "plot": plot, "clocks": clocks, "charts": charts }).to_string();
    // No text of a run may end the element.
    let data = data.replace('<', "\\u003c");
    format!(
        "<script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{}</script>\n",
        include_str!("run_page.js")
    )
}

/// Returns the metrics that only programs with routers have.
fn router_keys(runs: &[Run]) -> Vec<String> {
    let endings = ["_dropped", "_entropy", "_aux", "_z"];
    let mut keys: Vec<String> = runs
        .iter()
        .flat_map(|run| run.layers.keys())
        .filter(|k| endings.iter().any(|e| k.ends_with(e)))
        .cloned()
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

/// Renders a table with a column per run.
fn table(runs: &[Run]) -> String {
    let mut out = "<div class=\"wide\"><table>\n".to_owned();
    let mut row = |what: &str, value: &dyn Fn(&Run) -> String| {
        let cells: Vec<String> = runs.iter().map(value).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let cells: String = cells.iter().map(|c| format!("<td>{}</td>", escape(c))).collect();
            let _ = writeln!(out, "<tr><th>{what}</th>{cells}</tr>");
        }
    };
    let about = |key: &'static str| {
        move |run: &Run| match &run.about[key] {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        }
    };
    let last = |points: Option<&Vec<(u64, f64)>>| {
        points
            .and_then(|p| p.last())
            .map_or(String::new(), |(step, value)| format!("{value:.4} (step {step})"))
    };
    if runs.len() > 1 {
        row("run", &|run| run.name.clone());
    }
    row("program", &about("program"));
    row("target", &about("target"));
    row("mesh", &about("mesh"));
    row("layout", &about("layout"));
    row("parameters", &about("parameters"));
    row("last loss", &|run| last(run.numbers.get("loss")));
    row("held-out loss", &|run| last(run.evaluations.get("loss")));
    row("rollbacks", &|run| match run.rollbacks.len() {
        0 => String::new(),
        n => n.to_string(),
    });
    row("note", &|run| run.note.clone().unwrap_or_default());
    out + "</table></div>\n"
}

/// Renders the expert load over steps, with a heat map per layer.
fn loads(run: &Run) -> String {
    let mut out = String::new();
    for (key, layers) in run.maps.iter().filter(|(key, _)| key.ends_with("_load")) {
        let stack = key.trim_end_matches("_load");
        let _ = writeln!(
            out,
            "<h2>{}: load of experts, {}</h2>\n{}",
            escape(&run.name),
            escape(stack),
            heat::legend()
        );
        let dropped = run.layers.get(&format!("{stack}_dropped"));
        for (i, layer) in layers.iter().enumerate() {
            out += &heat::map(i, layer, dropped.and_then(|all| all.get(i)));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_whole_and_needs_nothing_else() {
        let lines: String = (1..=2000)
            .map(|s| {
                let eval = if s % 500 == 0 { ",\"eval\":{\"loss\":2.5}" } else { "" };
                let loss = if s == 7 { "null".into() } else { format!("{}", 5.0 / f64::from(s)) };
                format!(
                    "{{\"step\":{s},\"loss\":{loss},\"tokens_per_s\":9.5,\"encoder_load\":[[0.5,0.5],[0.9,0.1]],\
                     \"extra\":1,\"encoder_dropped\":[0.0,0.25]{eval}}}\n"
                )
            })
            .collect();
        let mut one = Run::parse("a <run>", json!({ "program": "p&q" }), lines.as_bytes());
        one.add_settings("[set]\nlr = 0.5  # flag\n# settings.batch = 8  # model\n# A comment.\n");
        let text = page(std::slice::from_ref(&one));
        for part in [
            "a &lt;run&gt;",
            "p&amp;q",
            "Throughput",
            "held-out",
            "layer 1",
            "dropped",
            "data:image/png;base64,",
            "\"label\":\"training\"",
            "<th>settings.batch</th><td>8</td>",
            "<summary>other metrics</summary>",
        ] {
            assert!(text.contains(part), "`{part}`");
        }
        // The name space of SVG is no address that a browser asks.
        let text_without_space = text.replace("http://www.w3.org/2000/svg", "");
        for part in ["http://", "https://", "NaN", "Gradient norm", "<run>"] {
            assert!(!text_without_space.contains(part), "`{part}`");
        }
        assert!(text.len() < 200_000, "{} bytes: long runs are thinned out", text.len());
        assert_eq!(text, page(std::slice::from_ref(&one)), "the same each time");
        let mut other = Run { name: "other".into(), ..one.clone() };
        other.add_settings("lr = 0.25");
        let both = page(&[one, other]);
        assert!(both.contains("class=\"key c1\"") && both.contains("other training"));
        assert!(both.contains("<th>lr</th><td>0.5</td><td>0.25</td>") && !both.contains("settings.batch"));
        // A run without steps.
        assert!(page(&[Run::parse("new", Value::Null, b"")]).contains("no steps yet"));
    }
}

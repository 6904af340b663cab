//! The page of training runs: a table, charts of the metrics, heat maps of expert load.

use crate::{
    chart::{COLOURS, Chart, Line},
    heat,
    html::{document, escape},
    run::Run,
    speedup,
};
use std::fmt::Write;

/// Charts: title, unit, metric, metric of evaluations in the same chart.
const CHARTS: [(&str, &str, &str, Option<&str>); 9] = [
    ("Loss", "nats per token", "loss", Some("loss")),
    ("Throughput", "tokens per second", "tokens_per_s", None),
    ("Step time", "ms", "step_ms", None),
    ("Wait for data", "ms", "wait_ms", None),
    ("Gradient norm", "", "grad_norm", None),
    ("Learning rate", "", "learning_rate", None),
    ("Model FLOPs utilization", "", "mfu", None),
    ("Device memory", "bytes", "device_memory", None),
    ("Host memory", "bytes", "host_memory", None),
];

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
    body += "<div class=\"charts\">\n";
    for (title, unit, key, eval) in CHARTS {
        body += &curves(runs, title, unit, key, eval);
    }
    // Router metrics are per layer; the chart shows their mean.
    for key in router_keys(runs) {
        body += &curves(runs, &key.replace('_', " "), "mean over layers", &key, None);
    }
    body += "</div>\n";
    body += &speedup::sections(runs);
    for run in runs {
        body += &loads(run);
    }
    document(&names.join(", "), &body)
}

fn curves(runs: &[Run], title: &str, unit: &str, key: &str, eval: Option<&str>) -> String {
    let mut lines = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        let label = if runs.len() > 1 { format!("{} ", run.name) } else { String::new() };
        lines.extend(run.numbers.get(key).map(|points| Line {
            label: format!("{label}{}", if eval.is_some() { "training" } else { key }),
            colour: i,
            dashed: false,
            points: points.clone(),
        }));
        lines.extend(eval.and_then(|key| run.evaluations.get(key)).map(|points| Line {
            label: format!("{label}held-out"),
            colour: if runs.len() > 1 { i } else { 1 },
            dashed: true,
            points: points.clone(),
        }));
    }
    let marks = match runs {
        [one] => one.rollbacks.clone(),
        _ => Vec::new(),
    };
    Chart { title: title.to_owned(), unit: unit.to_owned(), lines, marks }.svg().unwrap_or_default()
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
    let mut out = "<table>\n".to_owned();
    let mut row = |what: &str, value: &dyn Fn(&Run) -> String| {
        let cells: Vec<String> = runs.iter().map(value).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let cells: String = cells.iter().map(|c| format!("<td>{}</td>", escape(c))).collect();
            let _ = writeln!(out, "<tr><th>{what}</th>{cells}</tr>");
        }
    };
    let about = |key: &'static str| {
        move |run: &Run| match &run.about[key] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
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
    out + "</table>\n"
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
                     \"encoder_dropped\":[0.0,0.25]{eval}}}\n"
                )
            })
            .collect();
        let one = Run::parse("a <run>", serde_json::json!({ "program": "p&q" }), lines.as_bytes());
        let text = page(std::slice::from_ref(&one));
        for part in [
            "a &lt;run&gt;",
            "p&amp;q",
            "Throughput",
            "held-out",
            "layer 1",
            "dropped",
            "data:image/png;base64,",
        ] {
            assert!(text.contains(part), "`{part}`");
        }
        for part in ["<script", "http://", "https://", "NaN", "Gradient norm"] {
            assert!(!text.contains(part), "`{part}`");
        }
        assert!(text.len() < 200_000, "{} bytes: long runs are thinned out", text.len());
        assert_eq!(text, page(std::slice::from_ref(&one)), "the same each time");
        let both = page(&[one.clone(), Run { name: "other".into(), ..one }]);
        assert!(both.contains("class=\"key c1\"") && both.contains("other training"));
        // A run without steps.
        assert!(page(&[Run::parse("new", serde_json::Value::Null, b"")]).contains("no steps yet"));
    }
}

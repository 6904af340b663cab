//! Training runs as one page: HTML with everything in it, no scripts, readable in light and dark.
//!
//! Reading order: [`run`] (what a run's files say), here (the page), [`chart`] (curves), [`heat`] (loads of experts).

pub mod chart;
pub mod heat;
pub mod run;

use chart::{Chart, Line};
use run::Run;
use std::fmt::Write;

/// Charts: title, unit, key of the metrics file, key of an evaluation that belongs into the same chart.
const CHARTS: [(&str, &str, &str, Option<&str>); 9] = [
    ("Loss", "nats a token", "loss", Some("loss")),
    ("Throughput", "tokens a second", "tokens_per_s", None),
    ("Time of a step", "ms", "step_ms", None),
    ("Waiting for data", "ms", "wait_ms", None),
    ("Norm of the gradient", "", "grad_norm", None),
    ("Learning rate", "", "learning_rate", None),
    ("Model FLOPs utilization", "", "mfu", None),
    ("Device memory", "bytes", "device_memory", None),
    ("Host memory", "bytes", "host_memory", None),
];

/// The page of these runs.
pub fn page(runs: &[Run]) -> String {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = escaped(&names.join(", "));
    let mut body = format!("<h1>{title}</h1>\n{}", table(runs));
    if runs.len() > 1 {
        let keys: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(i, name)| format!("<span class=\"key c{}\"></span>{}", i % chart::COLOURS, escaped(name)))
            .collect();
        let _ = writeln!(body, "<p class=\"keys\">{}</p>", keys.join(" "));
    }
    body += "<div class=\"charts\">\n";
    for (title, unit, key, eval) in CHARTS {
        body += &curves(runs, title, unit, key, eval);
    }
    // Numbers of routers: one for each layer; their mean is enough for a curve.
    for key in router_keys(runs) {
        body += &curves(runs, &key.replace('_', " "), "mean of layers", &key, None);
    }
    body += "</div>\n";
    for run in runs {
        body += &loads(run);
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
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

/// Keys of numbers that only programs with routers have.
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

/// What the runs are, a column each.
fn table(runs: &[Run]) -> String {
    let mut out = "<table>\n".to_owned();
    let mut row = |what: &str, value: &dyn Fn(&Run) -> String| {
        let cells: Vec<String> = runs.iter().map(value).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let cells: String = cells.iter().map(|c| format!("<td>{}</td>", escaped(c))).collect();
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
    row("returns to a checkpoint", &|run| match run.rollbacks.len() {
        0 => String::new(),
        n => n.to_string(),
    });
    row("note", &|run| run.note.clone().unwrap_or_default());
    out + "</table>\n"
}

/// Loads of experts over steps, a map for each layer.
fn loads(run: &Run) -> String {
    let mut out = String::new();
    for (key, layers) in run.maps.iter().filter(|(key, _)| key.ends_with("_load")) {
        let stack = key.trim_end_matches("_load");
        let _ = writeln!(
            out,
            "<h2>{}: load of experts, {}</h2>\n{}",
            escaped(&run.name),
            escaped(stack),
            heat::legend()
        );
        let dropped = run.layers.get(&format!("{stack}_dropped"));
        for (i, layer) in layers.iter().enumerate() {
            out += &heat::map(i, layer, dropped.and_then(|all| all.get(i)));
        }
    }
    out
}

/// Text that may stand in HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "\
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #6a737d; --grid: #e3e6ea;
  --c0: #2f6db5; --c1: #c8572b; --c2: #2e8b57; --c3: #8254b0; --c4: #a87f00; --c5: #b03a6f; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --ink: #e4e7ea; --soft: #99a1a9; --grid: #2c3137;
  --c0: #6ea8ec; --c1: #ef8f63; --c2: #62c290; --c3: #b893e2; --c4: #d5b04a; --c5: #e37fae; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; max-width: 1180px;
  margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 0.3rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 600; padding-right: 1.2rem; color: var(--soft); }
td { padding-right: 1.2rem; overflow-wrap: anywhere; } th, td { vertical-align: top; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), 1fr)); gap: 1rem; margin-top: 1rem; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .title { fill: var(--ink); font-size: 13px; font-weight: 600; }
.grid { stroke: var(--grid); } .mark { stroke: var(--soft); stroke-dasharray: 2 3; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .dashed { stroke-dasharray: 5 3; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); } .s3 { stroke: var(--c3); }
.s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); }
svg .f0 { fill: var(--c0); } svg .f1 { fill: var(--c1); } svg .f2 { fill: var(--c2); } svg .f3 { fill: var(--c3); }
svg .f4 { fill: var(--c4); } svg .f5 { fill: var(--c5); }
.key { display: inline-block; width: 1em; height: 0.7em; margin-right: 0.35em; border-radius: 2px; }
.keys { color: var(--soft); } .c0 { background: var(--c0); } .c1 { background: var(--c1); } .c2 { background: var(--c2); }
.c3 { background: var(--c3); } .c4 { background: var(--c4); } .c5 { background: var(--c5); }
figure { margin: 0.5rem 0 1rem; } figcaption { color: var(--soft); font-size: 0.85rem; }
img { width: 100%; display: block; image-rendering: pixelated; border-radius: 2px; }
img.drops { height: 8px; margin-top: 2px; } img.legend { width: 260px; height: 10px; }
.scale { display: flex; width: 260px; justify-content: space-between; color: var(--soft); font-size: 0.8rem; }
";

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
        for part in ["<script", "http://", "https://", "NaN", "Norm of the gradient"] {
            assert!(!text.contains(part), "`{part}`");
        }
        assert!(text.len() < 200_000, "{} bytes: long runs are thinned out", text.len());
        assert_eq!(text, page(std::slice::from_ref(&one)), "the same each time");
        let both = page(&[one.clone(), Run { name: "other".into(), ..one }]);
        assert!(both.contains("class=\"key c1\"") && both.contains("other training"));
        // Nothing yet.
        assert!(page(&[Run::parse("new", serde_json::Value::Null, b"")]).contains("no steps yet"));
    }
}

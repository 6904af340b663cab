//! Results of an evaluation: one object, a table by text (language, corpus, task), and the load of experts.

use page::visible::visible;
use report::table::table;
use runtime::train::Means;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Experts whose loads are shown in a table; those of more are in the object only.
const EXPERTS: usize = 16;
/// The key of the names of texts.
const TEXTS: &str = "texts";

/// Returns the means as one object; outputs by layer are nested lists. With several texts, `texts` is the
/// list of their names.
pub fn object(means: &Means, texts: &[&str]) -> Map<String, Value> {
    let mut all: Map<String, Value> =
        means.numbers.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
    for (name, (dims, values)) in &means.tensors {
        all.insert(name.clone(), nested(dims, values));
    }
    if texts.len() > 1 {
        all.insert(TEXTS.to_owned(), json!(texts));
    }
    if let Some(loss) = means.numbers.get("loss") {
        all.insert("perplexity".into(), loss.exp().into());
    }
    all
}

fn nested(dims: &[usize], values: &[f64]) -> Value {
    match dims {
        [] | [_] => json!(values),
        [first, rest @ ..] => {
            let each = rest.iter().product::<usize>();
            (0..*first).map(|i| nested(rest, &values[i * each..(i + 1) * each])).collect()
        }
    }
}

/// Returns an object as text: its numbers, one a line; with several texts a table by text, and tables of the
/// load of experts by text.
pub fn text(object: &Map<String, Value>) -> String {
    let texts: Vec<&str> =
        object.get(TEXTS).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let mut out = String::new();
    let is_of_text =
        |name: &str| texts.iter().any(|text| name.strip_prefix(text).is_some_and(|r| r.starts_with('/')));
    for (name, value) in object.iter().filter(|(name, _)| !is_of_text(name)) {
        if !value.is_array() {
            // Writing to a string does not fail.
            let _ = writeln!(out, "{name:24} {value}");
        }
    }
    if !texts.is_empty() {
        out.push('\n');
        let _ = by_text(&mut out, object, &texts);
        let _ = loads(&mut out, object, &texts);
    }
    out
}

/// Returns the names of outputs that end so, without their ending: those of `decoder_load` are `decoder`.
fn routers<'a>(object: &'a Map<String, Value>, ending: &str) -> Vec<&'a str> {
    object.keys().filter(|name| !name.contains('/')).filter_map(|name| name.strip_suffix(ending)).collect()
}

fn by_text(out: &mut String, object: &Map<String, Value>, texts: &[&str]) -> std::fmt::Result {
    let routers = routers(object, "_dropped");
    let mut heads: Vec<String> =
        ["text", "tokens", "loss", "perplexity", "accuracy"].map(str::to_owned).into();
    heads.extend(routers.iter().map(|router| format!("{router} dropped")));
    let rows: Vec<Vec<String>> = [""]
        .iter()
        .chain(texts)
        .map(|text| {
            let number = |name: &str| {
                let name = if text.is_empty() { name.to_owned() } else { format!("{text}/{name}") };
                object.get(&name).and_then(Value::as_f64)
            };
            let shown = |value: Option<f64>, digits: usize| {
                value.map_or("—".to_owned(), |x| format!("{x:.digits$}"))
            };
            let loss = number("loss");
            let name = if text.is_empty() { "all".to_owned() } else { visible(text).into_owned() };
            let own = [
                name,
                shown(number("tokens"), 0),
                shown(loss, 4),
                shown(loss.map(f64::exp), 3),
                shown(number("accuracy"), 4),
            ];
            let dropped = routers.iter().map(|router| number(&format!("{router}_dropped")));
            own.into_iter().chain(dropped.map(|share| share.map_or("—".to_owned(), percent))).collect()
        })
        .collect();
    let heads: Vec<&str> = heads.iter().map(String::as_str).collect();
    table(out, &heads, &format!("<{}", ">".repeat(heads.len() - 1)), &rows)
}

fn loads(out: &mut String, object: &Map<String, Value>, texts: &[&str]) -> std::fmt::Result {
    for router in routers(object, "_load") {
        let of = |text: &str| -> Option<Vec<Vec<f64>>> {
            let layers = object.get(&format!("{text}/{router}_load"))?.as_array()?.iter();
            let floats = |layer: &Value| layer.as_array()?.iter().map(Value::as_f64).collect();
            layers.map(floats).collect()
        };
        let all: Vec<(&str, Vec<Vec<f64>>)> =
            texts.iter().filter_map(|text| Some((*text, of(text)?))).collect();
        let experts = all.first().and_then(|(_, layers)| layers.first()).map_or(0, Vec::len);
        if experts == 0 || experts > EXPERTS {
            continue;
        }
        let mut rows = Vec::new();
        for layer in 0..all[0].1.len() {
            for (text, layers) in &all {
                let cells = layers[layer].iter().map(|load| percent(*load));
                rows.push([layer.to_string(), visible(text).into_owned()].into_iter().chain(cells).collect());
            }
        }
        let numbers: Vec<String> = (0..experts).map(|e| e.to_string()).collect();
        let first = format!("{router}: sparse layer");
        let heads: Vec<&str> = [first.as_str(), "load of experts"]
            .into_iter()
            .chain(numbers.iter().map(String::as_str))
            .collect();
        table(out, &heads, &format!("<<{}", ">".repeat(experts)), &rows)?;
    }
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means() -> Means {
        let numbers = [
            ("loss", 2.0),
            ("accuracy", 0.5),
            ("tokens", 30.0),
            ("decoder_dropped", 0.02),
            ("de/loss", 1.0),
            ("de/accuracy", 0.75),
            ("de/tokens", 10.0),
            ("de/decoder_dropped", 0.0),
            ("sw/loss", 2.5),
            ("sw/accuracy", 0.375),
            ("sw/tokens", 20.0),
            ("sw/decoder_dropped", 0.03),
        ];
        let tensors = [
            ("decoder_load", [0.5, 0.5, 0.25, 0.75]),
            ("de/decoder_load", [1.0, 0.0, 0.25, 0.75]),
            ("sw/decoder_load", [0.25, 0.75, 0.25, 0.75]),
        ];
        Means {
            numbers: numbers.map(|(name, value)| (name.to_owned(), value)).into(),
            tensors: tensors.map(|(name, values)| (name.to_owned(), (vec![2, 2], values.to_vec()))).into(),
        }
    }

    #[test]
    fn several_texts_are_a_table_and_one_is_lines() {
        let all = object(&means(), &["de", "sw"]);
        assert_eq!(all["sw/decoder_load"], json!([[0.25, 0.75], [0.25, 0.75]]));
        let lines: Vec<String> =
            text(&all).lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "loss 2.0",
            "perplexity 7.38905609893065",
            "text tokens loss perplexity accuracy decoder dropped",
            "all 30 2.0000 7.389 0.5000 2.00 %",
            "de 10 1.0000 2.718 0.7500 0.00 %",
            "sw 20 2.5000 12.182 0.3750 3.00 %",
            "decoder: sparse layer load of experts 0 1",
            "0 de 100.00 % 0.00 %",
            "1 sw 25.00 % 75.00 %",
        ] {
            assert!(lines.iter().any(|l| l == line), "`{line}` is not in\n{}", lines.join("\n"));
        }
        assert!(!lines.iter().any(|l| l.starts_with("de/")), "{lines:?}");
        let one = Means { numbers: [("loss".to_owned(), 0.0)].into(), ..Means::default() };
        assert_eq!(text(&object(&one, &[""])), format!("{:24} 0.0\n{:24} 1.0\n", "loss", "perplexity"));
    }
}

//! The metrics of a training run.

use crate::{chart::Points, heat::Rows};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A training run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// The path of the run as the user gave it.
    pub name: String,
    /// The description of the run, or null.
    pub about: Value,
    /// Scalar metrics; per-layer metrics are averaged over layers.
    pub numbers: BTreeMap<String, Points>,
    /// Per-layer metrics, by layer.
    pub layers: BTreeMap<String, Vec<Points>>,
    /// Per-expert metrics, by layer.
    pub maps: BTreeMap<String, Vec<Rows>>,
    /// Metrics of evaluations on held-out text.
    pub evaluations: BTreeMap<String, Points>,
    /// The first step after each rollback.
    pub rollbacks: Vec<u64>,
    /// A note about unreadable lines of the file.
    pub note: Option<String>,
    /// Step, Unix time in seconds at its end, and tokens up to it. Files of older versions have no times.
    pub clock: Vec<(u64, Option<f64>, f64)>,
    /// Options and settings of the run, by name.
    pub settings: BTreeMap<String, String>,
}

impl Run {
    /// Parses metrics, one JSON object per line. An unfinished last line is ignored; other invalid lines are
    /// skipped and counted in the note.
    pub fn parse(name: &str, about: Value, text: &[u8]) -> Self {
        let mut run = Self { name: name.to_owned(), about, ..Self::default() };
        let mut odd = 0;
        for line in text.split_inclusive(|b| *b == b'\n') {
            let parsed = serde_json::from_slice::<Value>(line).ok();
            match parsed.as_ref().and_then(|v| Some((v["step"].as_u64()?, v.as_object()?))) {
                Some((step, object)) => run.add(step, object),
                None if line.ends_with(b"\n") && !line.trim_ascii().is_empty() => odd += 1,
                None => {}
            }
        }
        run.note = match (run.numbers.is_empty(), odd) {
            (true, 0) => Some("no steps yet".to_owned()),
            (_, 0) => None,
            (_, 1) => Some("1 line is not a metrics record and was skipped".to_owned()),
            (_, n) => Some(format!("{n} lines are not metrics records and were skipped")),
        };
        run
    }

    /// Summarizes the run as JSON: for every metric the last value, the median and the mean of the last 20
    /// steps; for evaluations the last and the lowest value with their steps.
    pub fn summary(&self) -> Value {
        let pair = |(step, value): &(u64, f64)| json!({ "step": step, "value": value });
        let mut numbers = Map::new();
        for (key, points) in &self.numbers {
            let mut sorted: Vec<f64> = points.iter().map(|p| p.1).collect();
            sorted.sort_by(f64::total_cmp);
            let tail = &points[points.len().saturating_sub(20)..];
            let mean = tail.iter().map(|p| p.1).sum::<f64>() / tail.len() as f64;
            let about = json!({ "last": points.last().map(pair), "median": sorted[sorted.len() / 2],
                "mean_of_last_20": mean });
            numbers.insert(key.clone(), about);
        }
        let mut evaluations = Map::new();
        for (key, points) in &self.evaluations {
            let lowest = points.iter().min_by(|a, b| a.1.total_cmp(&b.1));
            let about = json!({ "last": points.last().map(pair), "lowest": lowest.map(pair) });
            evaluations.insert(key.clone(), about);
        }
        let all = self.numbers.values().chain(self.evaluations.values());
        let steps = all.filter_map(|points| Some(points.last()?.0)).max();
        json!({ "run": self.name, "about": self.about, "last_step": steps, "numbers": numbers,
            "evaluations": evaluations, "rollbacks": self.rollbacks, "note": self.note })
    }

    /// Adds the options of a run folder's `config.toml`: its lines, without tables and origins. Settings of
    /// the model are comments there.
    pub fn add_settings(&mut self, config: &str) {
        for line in config.lines() {
            let line = line.strip_prefix("# ").unwrap_or(line);
            let Some((key, rest)) = line.split_once(" = ") else { continue };
            let value = rest.rsplit_once(" # ").map_or(rest, |(value, _origin)| value).trim();
            if !key.contains(char::is_whitespace) {
                self.settings.insert(key.to_owned(), value.to_owned());
            }
        }
    }

    /// Advances the clock by a step.
    fn tick(&mut self, step: u64, object: &Map<String, Value>) {
        let number = |key: &str| object.get(key).and_then(Value::as_f64);
        let tokens = number("tokens_per_s").unwrap_or(0.0) * number("step_ms").unwrap_or(0.0) / 1e3;
        // A rollback repeats steps.
        while self.clock.last().is_some_and(|(earlier, ..)| *earlier >= step) {
            self.clock.pop();
        }
        let before = self.clock.last().map_or(0.0, |(.., tokens)| *tokens);
        self.clock.push((step, number("time"), before + tokens));
    }

    fn add(&mut self, step: u64, object: &Map<String, Value>) {
        self.tick(step, object);
        for (key, value) in object {
            match (key.as_str(), value) {
                ("step" | "time" | "non_finite", _) => {}
                ("rollback", _) => self.rollbacks.push(step),
                ("eval", Value::Object(means)) => {
                    for (key, value) in means.iter().filter_map(|(k, v)| Some((k, v.as_f64()?))) {
                        self.evaluations.entry(key.clone()).or_default().push((step, value));
                    }
                }
                (_, Value::Array(layers)) => self.add_layers(step, key, layers),
                (_, value) => {
                    if let Some(value) = value.as_f64() {
                        self.numbers.entry(key.clone()).or_default().push((step, value));
                    }
                }
            }
        }
    }

    fn add_layers(&mut self, step: u64, key: &str, layers: &[Value]) {
        if layers.first().is_some_and(Value::is_array) {
            let maps = self.maps.entry(key.to_owned()).or_default();
            maps.resize(maps.len().max(layers.len()), Rows::new());
            for (rows, layer) in maps.iter_mut().zip(layers) {
                let values = layer.as_array().into_iter().flatten();
                rows.push((step, values.map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()));
            }
            return;
        }
        let numbers: Vec<f64> = layers.iter().filter_map(Value::as_f64).collect();
        if numbers.len() != layers.len() || numbers.is_empty() {
            return;
        }
        let all = self.layers.entry(key.to_owned()).or_default();
        all.resize(all.len().max(numbers.len()), Points::new());
        all.iter_mut().zip(&numbers).for_each(|(points, n)| points.push((step, *n)));
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        self.numbers.entry(key.to_owned()).or_default().push((step, mean));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_is_being_written() {
        let text = b"{\"step\":1,\"loss\":2.0,\"load\":[[1,2],[3,null]],\"z\":[1,3]}\nnonsense\n\
                     {\"step\":2,\"loss\":null,\"eval\":{\"loss\":1.5},\"rollback\":{\"from\":9}}\n{\"step\":3,\"lo";
        let run = Run::parse("r", Value::Null, text);
        assert_eq!(run.numbers["loss"], [(1, 2.0)]);
        assert_eq!((&run.numbers["z"], run.layers["z"].len()), (&vec![(1, 2.0)], 2));
        assert_eq!(run.maps["load"][0], [(1, vec![1.0, 2.0])]);
        assert!(run.maps["load"][1][0].1[1].is_nan());
        let sum = run.summary();
        assert_eq!((run.evaluations["loss"][0], run.rollbacks), ((2, 1.5), vec![2]));
        assert_eq!((&sum["last_step"], &sum["run"]), (&2.into(), &"r".into()));
        assert_eq!(
            sum["numbers"]["loss"],
            json!({ "last": { "step": 1, "value": 2.0 }, "median": 2.0, "mean_of_last_20": 2.0 })
        );
        assert_eq!(sum["evaluations"]["loss"]["lowest"], json!({ "step": 2, "value": 1.5 }));
        assert_eq!(run.note.unwrap(), "1 line is not a metrics record and was skipped");
        assert_eq!(Run::parse("new", Value::Null, b"").summary()["last_step"], Value::Null);
    }
}

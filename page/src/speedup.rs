//! Speed-up of a run over another one, by text (language, corpus, task): the steps and the time after which
//! it reaches the final held-out loss of the other (figure 8 of the Switch Transformers paper).

use crate::{
    bars::bars,
    html::{escape, section, table},
    run::Run,
};
use serde_json::{Value, json};
use std::fmt::Write;

/// A text in two runs, of which the first is the baseline.
#[derive(Clone, PartialEq, Debug)]
pub struct Speedup {
    /// The name of the text; `all` for all texts together.
    pub text: String,
    /// The baseline's last held-out loss.
    pub loss: f64,
    /// The step of that evaluation, and the training time until then, in seconds.
    pub baseline: (u64, Option<f64>),
    /// The same for the first evaluation of the other run that is at most this loss. `None` means that there
    /// is none.
    pub reached: Option<(u64, Option<f64>)>,
}

/// The name of all texts together.
const ALL: &str = "all";
/// Largest number of bars of a histogram, without that of texts whose loss was not reached.
const MOST: usize = 12;

/// Heads of [`Speedup::cells`].
pub const HEADS: [&str; 8] = [
    "text",
    "baseline loss",
    "baseline step",
    "baseline seconds",
    "step",
    "seconds",
    "steps ratio",
    "time ratio",
];

impl Speedup {
    /// Returns the ratio of steps. `None` means that the loss was not reached.
    pub fn steps(&self) -> Option<f64> {
        self.reached.map(|(step, _)| self.baseline.0 as f64 / step as f64)
    }

    /// Returns the ratio of training times. `None` means that the loss was not reached, or a time is unknown.
    pub fn time(&self) -> Option<f64> {
        let (other, own) = (self.baseline.1?, self.reached?.1?);
        (own > 0.0).then(|| other / own)
    }

    /// Returns the cells of a table with [`HEADS`]; times are in seconds.
    pub fn cells(&self) -> Vec<String> {
        let seconds = |time: Option<f64>| time.map_or("—".to_owned(), |s| format!("{s:.1}"));
        let ratio = |ratio: Option<f64>| ratio.map_or("—".to_owned(), |x| format!("{x:.2}×"));
        let (step, time) = match self.reached {
            Some((step, time)) => (step.to_string(), seconds(time)),
            None => ("not reached".to_owned(), "—".to_owned()),
        };
        let baseline = [format!("{:.4}", self.loss), self.baseline.0.to_string(), seconds(self.baseline.1)];
        [
            std::slice::from_ref(&self.text),
            &baseline[..],
            &[step, time, ratio(self.steps()), ratio(self.time())],
        ]
        .concat()
    }
}

/// Returns the texts that both runs evaluate, `all` first. Time is the sum of the times of steps, without
/// evaluations.
pub fn speedups(baseline: &Run, run: &Run) -> Vec<Speedup> {
    let mut all = Vec::new();
    for (key, points) in &baseline.evaluations {
        let text = if key == "loss" { Some(ALL) } else { key.strip_suffix("/loss") };
        let (Some(text), Some((step, loss)), Some(own)) = (text, points.last(), run.evaluations.get(key))
        else {
            continue;
        };
        let reached = own.iter().find(|(_, own)| own <= loss).map(|(step, _)| (*step, seconds(run, *step)));
        let baseline = (*step, seconds(baseline, *step));
        all.push(Speedup { text: text.to_owned(), loss: *loss, baseline, reached });
    }
    all.sort_by_key(|speedup| speedup.text != ALL);
    all
}

/// Returns the first run, another one, and its speed-ups over the first, for each run that evaluates a text
/// of the first.
pub fn compared(runs: &[Run]) -> Vec<(&Run, &Run, Vec<Speedup>)> {
    let Some((baseline, others)) = runs.split_first() else { return Vec::new() };
    let all = others.iter().map(|run| (baseline, run, speedups(baseline, run)));
    all.filter(|(_, _, speedups)| !speedups.is_empty()).collect()
}

/// Returns the training time up to a step. `None` means that the times of steps are unknown.
fn seconds(run: &Run, step: u64) -> Option<f64> {
    let times = run.numbers.get("step_ms")?;
    Some(times.iter().filter(|(at, _)| *at <= step).map(|(_, ms)| ms).sum::<f64>() / 1e3)
}

/// Returns the texts without `all`, if there are any.
fn texts(all: &[Speedup]) -> Vec<&Speedup> {
    let texts: Vec<&Speedup> = all.iter().filter(|speedup| speedup.text != ALL).collect();
    if texts.is_empty() { all.iter().collect() } else { texts }
}

/// Returns the numbers of texts by ratio of steps: ranges with their labels, in ascending order, and last the
/// texts whose loss was not reached.
pub fn histogram(all: &[Speedup]) -> Vec<(String, usize)> {
    let ratios: Vec<Option<f64>> = texts(all).into_iter().map(Speedup::steps).collect();
    let most = ratios.iter().flatten().fold(0.0, |a: f64, b| a.max(*b));
    let width = (most / MOST as f64).ceil().max(1.0);
    let ranges = (most / width) as usize + 1;
    let mut counts = vec![0; ranges];
    ratios.iter().flatten().for_each(|ratio| counts[(ratio / width) as usize] += 1);
    let label = |i: usize| format!("{}–{}×", i as f64 * width, (i + 1) as f64 * width);
    let mut bars: Vec<(String, usize)> = counts.into_iter().enumerate().map(|(i, n)| (label(i), n)).collect();
    let not_reached = ratios.iter().filter(|ratio| ratio.is_none()).count();
    bars.extend((not_reached > 0).then(|| ("not reached".to_owned(), not_reached)));
    bars
}

/// Returns one sentence about all texts: the mean of ratios of steps, and the share of at least 4.
pub fn sentence(all: &[Speedup]) -> String {
    let texts = texts(all);
    let mut ratios: Vec<f64> = texts.iter().filter_map(|speedup| speedup.steps()).collect();
    ratios.sort_by(f64::total_cmp);
    let mut text = format!("{} of {} reach the final loss", ratios.len(), texts.len());
    if !ratios.is_empty() {
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        let four = ratios.iter().filter(|ratio| **ratio >= 4.0).count() as f64 / texts.len() as f64;
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "; in steps, the mean of these is {mean:.2}×, the median {:.2}×; {:.0} % of all texts are at least 4×",
            ratios[ratios.len() / 2],
            four * 100.0
        );
    }
    text
}

/// Returns the comparison of each run with the first, as JSON.
pub fn json(runs: &[Run]) -> Value {
    let of = |(baseline, run, all): (&Run, &Run, Vec<Speedup>)| {
        let texts: Vec<Value> = all
            .iter()
            .map(|s| {
                json!({ "text": s.text, "loss": s.loss, "baseline_step": s.baseline.0,
                    "baseline_seconds": s.baseline.1, "step": s.reached.map(|r| r.0),
                    "seconds": s.reached.and_then(|r| r.1), "steps_ratio": s.steps(), "time_ratio": s.time() })
            })
            .collect();
        json!({ "baseline": baseline.name, "run": run.name, "texts": texts })
    };
    compared(runs).into_iter().map(of).collect()
}

/// Returns the sections of a page that compare each run with the first.
pub(crate) fn sections(runs: &[Run]) -> String {
    let of = |(baseline, run, all): (&Run, &Run, Vec<Speedup>)| {
        let title = format!("Speed-up of {} over {}", escape(&run.name), escape(&baseline.name));
        let note = format!(
            "The first evaluation at which the run has the baseline's final held-out loss: {}.",
            escape(&sentence(&all))
        );
        let rows: Vec<(String, Vec<f64>)> =
            histogram(&all).into_iter().map(|(label, count)| (label, vec![count as f64])).collect();
        let chart = bars(&rows, |count| format!("{count}"));
        let cells = table(&HEADS, "lrrrrrrr", all.iter().map(Speedup::cells));
        section(&title, &note, &format!("{chart}<div style=\"overflow-x:auto\">{cells}</div>"))
    };
    compared(runs).into_iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of 40 steps of `ms` milliseconds with evaluations every 10 steps.
    fn run(name: &str, ms: f64, texts: &[(&str, [f64; 4])]) -> Run {
        let mut lines = String::new();
        for step in 1..=40 {
            let mut line = json!({ "step": step, "loss": 1.0, "step_ms": ms });
            if step % 10 == 0 {
                let at = step / 10 - 1;
                let eval = texts.iter().map(|(text, losses)| ((*text).to_owned(), losses[at].into()));
                line["eval"] = Value::Object(eval.collect());
            }
            lines += &format!("{line}\n");
        }
        Run::parse(name, Value::Null, lines.as_bytes())
    }

    fn pair() -> [Run; 2] {
        let dense = [
            ("loss", [4.0, 3.5, 3.2, 3.0]),
            ("de/loss", [4.0, 3.0, 2.5, 2.0]),
            ("sw/loss", [4.0, 3.0, 2.0, 1.0]),
            ("en/loss", [4.0, 3.0, 2.5, 2.5]),
            ("old/loss", [1.0; 4]),
        ];
        let sparse = [
            ("loss", [3.1, 3.0, 2.0, 1.0]),
            ("de/loss", [2.0, 1.5, 1.2, 1.1]),
            ("sw/loss", [3.0, 2.0, 1.5, 1.2]),
            ("en/loss", [3.0, 2.6, 2.5, 2.4]),
        ];
        [run("dense", 100.0, &dense), run("sparse", 200.0, &sparse)]
    }

    #[test]
    fn steps_and_times_are_those_of_the_first_evaluation_as_good() {
        let [dense, sparse] = pair();
        let all = speedups(&dense, &sparse);
        let seen: Vec<_> =
            all.iter().map(|s| (s.text.as_str(), s.baseline, s.reached, s.steps(), s.time())).collect();
        let at = |step: u64, seconds: f64| (step, Some(seconds));
        assert_eq!(
            seen,
            [
                ("all", at(40, 4.0), Some(at(20, 4.0)), Some(2.0), Some(1.0)),
                ("de", at(40, 4.0), Some(at(10, 2.0)), Some(4.0), Some(2.0)),
                ("en", at(40, 4.0), Some(at(30, 6.0)), Some(4.0 / 3.0), Some(4.0 / 6.0)),
                ("sw", at(40, 4.0), None, None, None),
            ]
        );
        let bars = histogram(&all);
        let bars: Vec<(&str, usize)> = bars.iter().map(|(label, n)| (label.as_str(), *n)).collect();
        assert_eq!(
            bars,
            [("0–1×", 0), ("1–2×", 1), ("2–3×", 0), ("3–4×", 0), ("4–5×", 1), ("not reached", 1)]
        );
    }

    #[test]
    fn a_comparison_has_a_table_and_bars() {
        let runs = pair();
        let page = sections(&runs);
        for part in [
            "Speed-up of sparse over dense",
            "2 of 3 reach the final loss; in steps, the mean of these is 2.67×",
            "33 % of all texts are at least 4×",
            "not reached",
            "<svg",
        ] {
            assert!(page.contains(part), "`{part}` is not in\n{page}");
        }
        let json = json(&runs);
        assert_eq!(json[0]["texts"][1]["steps_ratio"], 4.0);
        assert_eq!(sections(&runs[..1]), "");
        // Ratios of hundreds have few bars.
        let far = |step: u64| Speedup {
            text: "a".into(),
            loss: 1.0,
            baseline: (1000, None),
            reached: Some((step, None)),
        };
        assert!(histogram(&[far(1), far(500)]).len() <= MOST + 1);
    }
}

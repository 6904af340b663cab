//! The speed-up of runs over the first one by text (language, corpus, task), for a terminal.

use page::{
    run::Run,
    speedup::{HEADS, Speedup, compared, histogram, sentence},
};
use report::table::table;
use std::fmt::Write;

/// Width of the longest bar of a histogram.
const COLUMNS: usize = 40;

/// Returns a sentence, a table by text and a histogram of ratios for each run that evaluates a text of the
/// first. Without such a run, the result is empty.
pub fn text(runs: &[Run]) -> String {
    let mut out = String::new();
    for (baseline, run, all) in compared(runs) {
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{} reaches the final held-out losses of {}: {}",
            run.name,
            baseline.name,
            sentence(&all)
        );
        let rows: Vec<Vec<String>> = all.iter().map(Speedup::cells).collect();
        let _ = table(&mut out, &HEADS, "<>>>>>>>", &rows);
        out += &bars(&histogram(&all));
    }
    out
}

/// Returns a line for each range of ratios, with the number of texts as a bar.
fn bars(ranges: &[(String, usize)]) -> String {
    let most = ranges.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    let rows: Vec<Vec<String>> = ranges
        .iter()
        .map(|(label, count)| {
            vec![label.clone(), format!("{} {count}", "█".repeat((count * COLUMNS).div_ceil(most)))]
        })
        .collect();
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = table(&mut out, &["texts by ratio of steps", ""], "><", &rows);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// A run with two evaluations of three texts, after steps of 100 ms.
    fn run(name: &str, evaluations: [&str; 2]) -> Run {
        let line = |(step, eval): (usize, &str)| {
            format!("{{\"step\": {step}, \"loss\": 1.0, \"step_ms\": 100.0, \"eval\": {{{eval}}}}}\n")
        };
        let lines: String = [1, 2].into_iter().zip(evaluations).map(line).collect();
        Run::parse(name, Value::Null, lines.as_bytes())
    }

    #[test]
    fn a_comparison_is_a_sentence_a_table_and_bars() {
        let first = r#""loss": 4, "de/loss": 4, "sw/loss": 4"#;
        let dense = run("dense", [first, r#""loss": 3, "de/loss": 3, "sw/loss": 2"#]);
        let sparse = run("sparse", [r#""loss": 3, "de/loss": 2, "sw/loss": 3"#, first]);
        let expected = "\
sparse reaches the final held-out losses of dense: 1 of 2 reach the final loss; in steps, the mean of these is \
2.00×, the median 2.00×; 0 % of all texts are at least 4×
text  baseline loss  baseline step  baseline seconds         step  seconds  steps ratio  time ratio
all          3.0000              2               0.2            1      0.1        2.00×       2.00×
de           3.0000              2               0.2            1      0.1        2.00×       2.00×
sw           2.0000              2               0.2  not reached        —            —           —

texts by ratio of steps
                   0–1×   0
                   1–2×   0
                   2–3×  ████████████████████████████████████████ 1
            not reached  ████████████████████████████████████████ 1

";
        assert_eq!(text(&[dense.clone(), sparse]), expected);
        assert_eq!(text(&[dense]), "");
    }
}

//! Compilation of the best candidates: numbers of the target's compiler instead of estimates.

use crate::{candidate::Candidate, search::Ranked};
use anyhow::Result;
use compiler::cost::target::Slice;
use report::{
    compiled::Compiled,
    table::{count, size, table},
};
use serde_json::{Value, json};
use std::{
    fmt,
    time::{Duration, Instant},
};

/// The compiler of the target.
pub trait Compile {
    /// Compiles a candidate, the one with this number, from 1.
    ///
    /// `None` means that the user stopped it; the inner error is the compiler's message for a program that
    /// does not fit.
    fn compile(&self, number: usize, candidate: &Candidate) -> Result<Option<Result<Compiled, String>>>;
    /// True once the user has requested a stop.
    fn is_stopped(&self) -> bool;
}

/// Limits of a verification.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Number of candidates that fit.
    pub candidates: usize,
    /// The start of the plan.
    pub since: Instant,
    /// Time from the start within which compilations may be expected to end.
    pub within: Duration,
}

/// A candidate and the result of its compilation.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The candidate and its estimated cost.
    pub ranked: Ranked,
    /// `None` if it was not compiled; the compiler's message if it does not fit.
    pub compiled: Option<Result<Compiled, String>>,
}

impl From<Ranked> for Verified {
    fn from(ranked: Ranked) -> Self {
        Self { ranked, compiled: None }
    }
}

/// Compiles the best candidates until as many as requested fit, then sorts these first, by the compiler's
/// cycles. Returns true if the next compilation would have exceeded the time budget.
///
/// Of the candidates with the same mesh and number of microbatches only one that fits is compiled: the
/// estimates are less exact between such groups than within one.
///
/// # Errors
/// A compilation fails for another reason than memory.
pub fn verify(all: &mut [Verified], slice: &Slice, budget: &Budget, compiler: &dyn Compile) -> Result<bool> {
    // A candidate that does not fit by the estimate may fit: one more than requested is compiled.
    let (mut fit, mut tried, mut longest, mut is_late) = (Vec::new(), 0, Duration::ZERO, false);
    for row in all.iter_mut() {
        if fit.len() == budget.candidates || tried > budget.candidates || compiler.is_stopped() {
            break;
        }
        let candidate = &row.ranked.candidate;
        let kind = candidate.kind();
        if fit.contains(&kind) {
            continue;
        }
        if tried > 0 && budget.since.elapsed() + longest > budget.within {
            is_late = true;
            break;
        }
        let begin = Instant::now();
        let Some(outcome) = compiler.compile(tried + 1, candidate)? else { break };
        longest = longest.max(begin.elapsed());
        tried += 1;
        if outcome.is_ok() {
            fit.push(kind);
        }
        row.compiled = Some(outcome);
    }
    let rank = |v: &Verified| match &v.compiled {
        Some(Ok(_)) => (0, v.seconds(slice)),
        None => (1, 0.0),
        Some(Err(_)) => (2, 0.0),
    };
    all.sort_by(|a, b| rank(a).0.cmp(&rank(b).0).then(rank(a).1.total_cmp(&rank(b).1)));
    Ok(is_late)
}

impl Verified {
    /// Returns the seconds of a step: those of the compiled program, else its cycles plus the estimate of
    /// communication, else the estimate.
    pub fn seconds(&self, slice: &Slice) -> f64 {
        let program = match &self.compiled {
            Some(Ok(compiled)) => compiled.program.as_ref().filter(|p| p.estimated_cycles > 0),
            Some(Err(_)) | None => None,
        };
        let estimate = &self.ranked.estimate;
        program.map_or(estimate.seconds(), |program| match &program.time {
            Some(time) => time.total(),
            None => program.estimated_cycles as f64 / slice.speed().hertz + estimate.network,
        })
    }

    /// True if the candidate fits: by its compilation, else by the estimate.
    pub fn fits(&self, slice: &Slice) -> bool {
        self.ranked.fits(slice.hbm()) || matches!(self.compiled, Some(Ok(_)))
    }

    /// Returns an object with all numbers. `command` is the command that compiles the candidate.
    pub fn json(&self, slice: &Slice, command: &str) -> Value {
        json!({
            "candidate": self.ranked.candidate,
            "estimate": self.ranked.estimate,
            "fits": self.ranked.fits(slice.hbm()),
            "step_seconds": self.seconds(slice),
            "compiled": self.compiled.as_ref().and_then(|c| c.as_ref().ok()),
            "does_not_fit": self.compiled.as_ref().and_then(|c| c.as_ref().err()),
            "command": command,
        })
    }

    fn row(&self, slice: &Slice) -> Vec<String> {
        let (c, e) = (&self.ranked.candidate, &self.ranked.estimate);
        let guess = format!("~{}", seconds(e.seconds()));
        let (step, peak, cycles) = match &self.compiled {
            None => {
                (guess, if self.ranked.fits(slice.hbm()) { "-" } else { "no" }.to_owned(), "-".to_owned())
            }
            Some(Err(_)) => (guess, "does not fit".to_owned(), "-".to_owned()),
            Some(Ok(compiled)) => (
                seconds(self.seconds(slice)),
                compiled.memory.map_or_else(|| "-".to_owned(), |m| size(m.peak)),
                compiled.program.as_ref().map_or_else(|| "-".to_owned(), |p| count(p.estimated_cycles)),
            ),
        };
        vec![
            step,
            seconds(e.products),
            seconds(e.memory),
            seconds(e.network),
            count(e.flops),
            size(e.wire_bytes),
            size(e.bytes),
            peak,
            cycles,
            c.mesh.clone(),
            c.layout.clone(),
            c.state_layout.clone(),
            c.schedule.join(" "),
        ]
    }
}

/// Writes a table with one line per candidate.
///
/// # Errors
/// Those of `out`.
pub fn describe(out: &mut dyn fmt::Write, all: &[Verified], slice: &Slice) -> fmt::Result {
    let heads = [
        "step",
        "products",
        "memory",
        "network",
        "FLOPs",
        "sent",
        "peak",
        "libtpu: peak",
        "cycles",
        "mesh",
        "layout",
        "state",
        "schedule",
    ];
    let rows: Vec<Vec<String>> = all.iter().map(|v| v.row(slice)).collect();
    table(out, &heads, ">>>>>>>>><<<<", &rows)
}

/// Formats seconds.
pub fn seconds(s: f64) -> String {
    if s < 1.0 { format!("{:.1} ms", s * 1e3) } else { format!("{s:.2} s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Estimate;
    use std::cell::RefCell;

    /// Compiles candidates whose mesh is not `large`, and counts them.
    struct Counting(RefCell<Vec<String>>);

    impl Compile for Counting {
        fn compile(&self, _: usize, candidate: &Candidate) -> Result<Option<Result<Compiled, String>>> {
            self.0.borrow_mut().push(candidate.mesh.clone());
            Ok(Some(match candidate.mesh.as_str() {
                "large" => Err("it does not fit".to_owned()),
                _ => Ok(Compiled::default()),
            }))
        }

        fn is_stopped(&self) -> bool {
            false
        }
    }

    #[track_caller]
    fn check(meshes: &[&str], candidates: usize, within: u64, compiled: &[&str], sorted: &[&str]) {
        let ranked = |mesh: &&str| Ranked {
            candidate: Candidate { mesh: (*mesh).to_owned(), ..Candidate::default() },
            estimate: Estimate::default(),
        };
        let mut all: Vec<Verified> = meshes.iter().map(ranked).map(Verified::from).collect();
        let slice = Slice::parse("v5e:2x2").unwrap();
        let compiler = Counting(RefCell::default());
        let budget = Budget { candidates, since: Instant::now(), within: Duration::from_secs(within) };
        verify(&mut all, &slice, &budget, &compiler).unwrap();
        assert_eq!(*compiler.0.borrow(), compiled);
        let order: Vec<&str> = all.iter().map(|v| v.ranked.candidate.mesh.as_str()).collect();
        assert_eq!(order, sorted);
    }

    #[test]
    fn one_candidate_of_each_kind_is_compiled_until_enough_fit() {
        check(&["a", "a", "b", "c"], 2, 60, &["a", "b"], &["a", "b", "a", "c"]);
        check(&["large", "a", "b"], 1, 60, &["large", "a"], &["a", "b", "large"]);
        check(&["a", "b"], 0, 60, &[], &["a", "b"]);
        // The first compilation always begins.
        check(&["a", "b"], 2, 0, &["a"], &["a", "b"]);
    }
}

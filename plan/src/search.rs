//! The search: rounds of candidates, each over the best of the one before.
//!
//! The cost of a candidate is estimated from the program of one device: this needs no plugin and takes well
//! under a second. The number of candidates is a product, so the search has three rounds: all placements with
//! the model's own schedule; all schedules for the best placements; all placements again for the best
//! schedules.

use crate::{
    candidate::{Candidate, Estimate},
    evaluate::Evaluator,
    space::Space,
};
use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// A candidate and its estimated cost.
#[derive(Clone, PartialEq, Debug)]
pub struct Ranked {
    /// The candidate.
    pub candidate: Candidate,
    /// The cost.
    pub estimate: Estimate,
}

/// The share of a device's memory that an estimate may use, because estimates are not exact.
const USABLE: f64 = 0.95;

/// Numbers of placements in the second round: the fastest, and those with the least memory.
const BY_SPEED: usize = 6;
const BY_MEMORY: usize = 4;

/// Number of schedules in the third round.
const FINALISTS: usize = 4;

impl Ranked {
    /// True if the candidate fits `hbm` bytes of memory.
    pub fn fits(&self, hbm: u64) -> bool {
        self.estimate.bytes as f64 <= USABLE * hbm as f64
    }
}

/// The candidates that a search has evaluated.
#[derive(Default)]
pub struct Seen {
    /// Valid candidates.
    pub ranked: Vec<Ranked>,
    /// Number of invalid candidates.
    pub illegal: usize,
}

/// Sorts candidates: first those that fit, by time; then the others, by memory. The order of equal ones does
/// not depend on the order in which they were estimated.
pub fn sort(ranked: &mut [Ranked], hbm: u64) {
    ranked.sort_by(|a, b| {
        let fits = b.fits(hbm).cmp(&a.fits(hbm));
        let cost = |r: &Ranked| if r.fits(hbm) { r.estimate.seconds() } else { r.estimate.bytes as f64 };
        fits.then(cost(a).total_cmp(&cost(b))).then_with(|| a.candidate.cmp(&b.candidate))
    });
}

/// Searches until all rounds are done or `stop` is set. Calls `progress` with the number of evaluated
/// candidates of a round, the number of all its candidates, and the best candidate so far.
pub fn search(
    evaluator: &Evaluator,
    space: &Space,
    hbm: u64,
    stop: &AtomicBool,
    progress: &(dyn Fn(usize, usize, Option<&Ranked>) + Sync),
) -> Seen {
    let mut round = Round { evaluator, hbm, stop, progress, known: BTreeSet::new(), seen: Seen::default() };
    round.run(space.placements(&[]));
    let mut fastest = round.seen.ranked.clone();
    let by_time = |a: &Ranked, b: &Ranked| a.estimate.seconds().total_cmp(&b.estimate.seconds());
    fastest.sort_by(|a, b| by_time(a, b).then_with(|| a.candidate.cmp(&b.candidate)));
    let mut smallest = round.seen.ranked.clone();
    smallest
        .sort_by(|a, b| a.estimate.bytes.cmp(&b.estimate.bytes).then_with(|| a.candidate.cmp(&b.candidate)));
    let chosen: Vec<Candidate> = fastest
        .iter()
        .take(BY_SPEED)
        .chain(smallest.iter().take(BY_MEMORY))
        .map(|r| r.candidate.clone())
        .collect();
    round.run(chosen.iter().flat_map(|c| space.schedules().into_iter().map(|s| c.with(s))).collect());
    sort(&mut round.seen.ranked, hbm);
    let schedules: BTreeSet<Vec<String>> =
        round.seen.ranked.iter().take(FINALISTS).map(|r| r.candidate.schedule.clone()).collect();
    round.run(schedules.iter().flat_map(|s| space.placements(s)).collect());
    sort(&mut round.seen.ranked, hbm);
    round.seen
}

struct Round<'a> {
    evaluator: &'a Evaluator<'a>,
    hbm: u64,
    stop: &'a AtomicBool,
    progress: &'a (dyn Fn(usize, usize, Option<&Ranked>) + Sync),
    known: BTreeSet<Candidate>,
    seen: Seen,
}

impl Round<'_> {
    /// Estimates all new candidates, on all cores.
    fn run(&mut self, candidates: Vec<Candidate>) {
        let mut todo = Vec::new();
        for candidate in candidates {
            if self.known.insert(candidate.clone()) {
                todo.push(candidate);
            }
        }
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let seen = Mutex::new(std::mem::take(&mut self.seen));
        let (hbm, progress) = (self.hbm, self.progress);
        let best = |seen: &Seen| {
            let mut ranked = seen.ranked.clone();
            sort(&mut ranked, hbm);
            ranked.into_iter().next()
        };
        let work = || {
            while !self.stop.load(Ordering::Relaxed) {
                let Some(candidate) = todo.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                let estimate = self.evaluator.estimate(candidate);
                // The panic of another worker is reported when it is joined; the data is consistent.
                let mut seen = seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                match estimate {
                    Some(estimate) => seen.ranked.push(Ranked { candidate: candidate.clone(), estimate }),
                    None => seen.illegal += 1,
                }
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, todo.len(), best(&seen).as_ref());
            }
        };
        let workers = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
        self.seen = seen.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_that_fit_come_first_by_time() {
        let ranked = |bytes, products| Ranked {
            candidate: Candidate::default(),
            estimate: Estimate { bytes, products, ..Estimate::default() },
        };
        let mut all = [ranked(200, 1.0), ranked(90, 3.0), ranked(150, 0.5), ranked(50, 2.0)];
        sort(&mut all, 100);
        let order: Vec<u64> = all.iter().map(|r| r.estimate.bytes).collect();
        assert_eq!(order, [50, 90, 150, 200]);
        let named = |mesh: &str| {
            let candidate = Candidate { mesh: mesh.into(), ..Candidate::default() };
            Ranked { candidate, estimate: Estimate::default() }
        };
        let mut equal = [named("b"), named("a")];
        sort(&mut equal, 100);
        assert_eq!(equal[0].candidate.mesh, "a");
    }
}

//! The search: rounds of candidates, each over the best of the one before.
//!
//! A candidate's cost is read off the program of one device: no plugin is needed, and each takes well under a second,
//! but their number is a product. So the search goes in rounds: all placements under the model's own schedule; all
//! schedules under the best placements; all placements again under the best schedules.

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

/// A candidate and what it would cost.
#[derive(Clone, PartialEq, Debug)]
pub struct Ranked {
    /// What is chosen.
    pub candidate: Candidate,
    /// What it costs.
    pub estimate: Estimate,
}

/// Of the memory of a device, the share that an estimate may take: estimates are not exact.
const USABLE: f64 = 0.95;

/// How many placements go into the second round, by speed and by memory.
const BY_SPEED: usize = 6;
const BY_MEMORY: usize = 4;

/// How many candidates go into the third round.
const FINALISTS: usize = 4;

impl Ranked {
    /// Whether it would fit `hbm` bytes.
    pub fn fits(&self, hbm: u64) -> bool {
        self.estimate.bytes as f64 <= USABLE * hbm as f64
    }
}

/// What a search has seen so far.
#[derive(Default)]
pub struct Seen {
    /// Everything that is legal.
    pub ranked: Vec<Ranked>,
    /// How many are not.
    pub illegal: usize,
}

/// Those that fit first, the fastest first; then those that do not, the smallest first.
pub fn sort(ranked: &mut [Ranked], hbm: u64) {
    ranked.sort_by(|a, b| {
        let fits = b.fits(hbm).cmp(&a.fits(hbm));
        let cost = |r: &Ranked| if r.fits(hbm) { r.estimate.seconds() } else { r.estimate.bytes as f64 };
        fits.then(cost(a).total_cmp(&cost(b)))
    });
}

/// Searches until it is done or `stop` is set. `progress` is told how many candidates a round has, how many of them
/// are done, and the best so far.
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
    fastest.sort_by(|a, b| a.estimate.seconds().total_cmp(&b.estimate.seconds()));
    let mut smallest = round.seen.ranked.clone();
    smallest.sort_by_key(|r| r.estimate.bytes);
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
    /// Estimates all candidates that are not known yet, on all cores.
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
                // A panic of another worker is shown when it is joined; what it left is whole.
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
    fn what_fits_comes_first_and_then_what_is_fast() {
        let ranked = |bytes, products| Ranked {
            candidate: Candidate::default(),
            estimate: Estimate { bytes, products, ..Estimate::default() },
        };
        let mut all = [ranked(200, 1.0), ranked(90, 3.0), ranked(150, 0.5), ranked(50, 2.0)];
        sort(&mut all, 100);
        let order: Vec<u64> = all.iter().map(|r| r.estimate.bytes).collect();
        assert_eq!(order, [50, 90, 150, 200]);
    }
}

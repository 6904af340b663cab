//! The search: rounds of candidates, each over the best of the one before.
//!
//! The cost of a candidate is estimated from the program of one device: this needs no plugin and takes well
//! under a second. The number of candidates is a product, so the search begins with three rounds: all
//! placements under the rules that the model states, with its own schedule; all schedules for the best
//! placements; all placements again for the best schedules. Then follows a best-first search over single
//! changes, which also finds rules that the model does not state.

use crate::{
    candidate::{Candidate, Estimate},
    evaluate::Evaluator,
    moves::{canonical, first, neighbours},
    space::{Fixed, Space},
    tuned,
};
use mesh::{Module, schedule::ENTRIES};
use std::{
    cmp,
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
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

/// Number of candidates whose neighbours are tried without finding a better one, before the search ends.
const PATIENCE: usize = 12;

/// The share of the time by which a candidate must be better to count as one.
const BETTER: f64 = 1e-3;

/// Limits of a search.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    /// True once the search must end.
    pub stop: &'a AtomicBool,
    /// The time at which changes of candidates are no longer tried. `None` means that there is none. The
    /// placements under the model's own rules are estimated all the same.
    pub until: Option<Instant>,
}

impl Ranked {
    /// True if the candidate fits `hbm` bytes of memory.
    pub fn fits(&self, hbm: u64) -> bool {
        self.estimate.bytes as f64 <= USABLE * hbm as f64
    }

    /// Returns what candidates are compared by: seconds if the candidate fits, else bytes.
    fn cost(&self, hbm: u64) -> f64 {
        if self.fits(hbm) { self.estimate.seconds() } else { self.estimate.bytes as f64 }
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

/// Sorts candidates: first those that fit, by time; then the others, by memory. Of equal ones, those with
/// fewer axes and a shorter schedule come first. The order does not depend on the order in which they were
/// estimated.
pub fn sort(ranked: &mut [Ranked], hbm: u64) {
    let parts = |c: &Candidate| (c.axes(), c.schedule.len());
    let simpler = |a: &Candidate, b: &Candidate| parts(a).cmp(&parts(b)).then_with(|| a.cmp(b));
    ranked.sort_by(|a, b| better(a, b, hbm).then_with(|| simpler(&a.candidate, &b.candidate)));
}

/// Compares two candidates: the smaller is the better.
fn better(a: &Ranked, b: &Ranked, hbm: u64) -> cmp::Ordering {
    b.fits(hbm).cmp(&a.fits(hbm)).then(a.cost(hbm).total_cmp(&b.cost(hbm)))
}

/// Returns the space of a program on `devices` devices: placements, entries of the schedule, and tuned
/// configurations to begin with. `is_given` is true for keys that the user has fixed.
pub fn space(
    evaluator: &Evaluator,
    module: &Module,
    devices: usize,
    fixed: &Fixed,
    is_given: &dyn Fn(&str) -> bool,
) -> Space {
    let mut space = Space::new(module, devices, fixed);
    space.entries = evaluator.entries(|entry| entry.candidates, is_given);
    space.changes = evaluator.entries(|entry| entry.changes, is_given);
    if !is_given("preset") && !ENTRIES.iter().any(|entry| is_given(entry.key)) {
        space.starts = tuned::starts(module, &space, &|schedule| evaluator.program(schedule));
    }
    space
}

/// Searches until nothing better is found or a limit is reached. Calls `progress` with the number of
/// evaluated candidates of a round, the number of all its candidates, and the best candidate so far.
pub fn search(
    evaluator: &Evaluator,
    space: &Space,
    hbm: u64,
    limits: Limits<'_>,
    progress: &(dyn Fn(usize, usize, Option<&Ranked>) + Sync),
) -> Seen {
    let (stop, known, seen) = (limits.stop, BTreeSet::new(), Seen::default());
    let mut round = Round { evaluator, hbm, stop, until: None, progress, known, seen };
    round.run(space.starts.clone());
    round.run(space.placements(&[]));
    if space.states_no_rule() {
        round.run(first(space));
    }
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
    let own = round.known.clone();
    if !space.dims.is_empty() {
        round.until = limits.until;
        round.climb(space);
    }
    sort(&mut round.seen.ranked, hbm);
    prefer(&mut round.seen.ranked, hbm, &own);
    distinct(&mut round.seen.ranked);
    round.seen
}

/// Moves candidates of `own`, which have the model's own rules, before others of the same cost.
fn prefer(ranked: &mut [Ranked], hbm: u64, own: &BTreeSet<Candidate>) {
    let is_other = |r: &Ranked| !own.contains(&r.candidate);
    ranked.sort_by(|a, b| better(a, b, hbm).then_with(|| is_other(a).cmp(&is_other(b))));
}

/// Removes candidates whose placement differs from an earlier one's in the names of axes only, and which have
/// the same schedule, or one of the same cost.
fn distinct(ranked: &mut Vec<Ranked>) {
    let (mut forms, mut costs) = (BTreeSet::new(), BTreeSet::new());
    ranked.retain(|r| {
        let form = canonical(&r.candidate);
        let e = &r.estimate;
        let cost = [e.seconds().to_bits(), e.bytes, e.flops, e.wire_bytes];
        forms.insert(form.clone()) && costs.insert((form.with(Vec::new()), cost))
    });
}

struct Round<'a> {
    evaluator: &'a Evaluator<'a>,
    hbm: u64,
    stop: &'a AtomicBool,
    /// The time at which this round ends.
    until: Option<Instant>,
    progress: &'a (dyn Fn(usize, usize, Option<&Ranked>) + Sync),
    known: BTreeSet<Candidate>,
    seen: Seen,
}

impl Round<'_> {
    /// Tries the neighbours of the best candidate, then of the best whose neighbours were not tried, and so
    /// on. Candidates of equal cost and as many axes are likely one placement: one of them is enough.
    fn climb(&mut self, space: &Space) {
        let (mut tried, mut idle) = (BTreeSet::new(), 0);
        while idle < PATIENCE && !self.is_over() {
            let before = self.best();
            let cost = |r: &Ranked| {
                let e = &r.estimate;
                let numbers = [e.seconds().to_bits(), e.bytes, e.flops, e.wire_bytes];
                (numbers, r.candidate.axes())
            };
            let Some(next) = self.seen.ranked.iter().find(|r| !tried.contains(&cost(r))).cloned() else {
                return;
            };
            tried.insert(cost(&next));
            self.run(neighbours(space, &next.candidate));
            let is_better = match (before, self.best()) {
                (Some(before), Some(after)) if before.fits(self.hbm) == after.fits(self.hbm) => {
                    let (old, new) = (before.cost(self.hbm), after.cost(self.hbm));
                    new < old * (1.0 - BETTER)
                }
                (before, after) => before != after,
            };
            idle = if is_better { 0 } else { idle + 1 };
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Sorts the candidates and returns the best.
    fn best(&mut self) -> Option<Ranked> {
        sort(&mut self.seen.ranked, self.hbm);
        self.seen.ranked.first().cloned()
    }

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
            while !self.is_over() {
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
    use crate::{evaluate::Model, moves};
    use compiler::cost::target::Slice;

    /// A product of two matrices without a layout, whose first operand is much the larger.
    struct Product;

    impl Model for Product {
        fn program(&self, _: &[String]) -> Option<Module> {
            let text = "module product
func f(%0 x: f32[rows=65536, inner=512], %1 w: f32[inner=512, columns=512]) -> (y: f32[rows=65536, columns=512]) {
  %2 = einsum %0, %1 {out=[rows, columns], dtype=f32} : f32[rows=65536, columns=512]
  return %2
}
";
            Some(mesh::text::parse(text, "product.mesh").expect("the text is valid"))
        }
    }

    #[test]
    fn rules_are_found_for_a_program_that_states_none() {
        let module = Product.program(&[]).expect("a program");
        let slice = Slice::parse("v5e:2x4").expect("a slice");
        let evaluator = Evaluator::new(&Product, "f", &slice, None);
        let mut space = Space::new(&module, slice.devices(), &Fixed::default());
        assert!(space.states_no_rule());
        space.dims = moves::dims(&module, &module.functions[0]);
        assert_eq!(space.dims, ["rows", "columns", "inner"]);
        let limits = Limits { stop: &AtomicBool::new(false), until: None };
        let found = search(&evaluator, &space, slice.hbm(), limits, &|_, _, _| ());
        // No device computes what another does, and nothing is sent.
        let best = &found.ranked.first().expect("a candidate").candidate;
        assert_eq!((&*best.mesh, &*best.layout), ("data=8", "rows:data"));
    }

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
        let own = BTreeSet::from([named("b").candidate]);
        prefer(&mut equal, 100, &own);
        assert_eq!(equal[0].candidate.mesh, "b");
    }
}

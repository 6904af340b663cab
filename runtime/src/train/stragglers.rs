//! Detection of processes that delay the others.

use job::{Job, Orders};
use std::collections::BTreeSet;

/// The own time of a straggler, as a multiple of the median of all processes.
const FACTOR: f64 = 1.5;
/// The number of consecutive steps after which a process counts as a straggler.
const STEPS: u32 = 20;

/// Watches the time that each process spends on a step without waiting for others.
#[derive(Debug, Default)]
pub(super) struct Stragglers {
    /// The process that is slow, and for how many consecutive steps it has been.
    slow: Option<(u32, u32)>,
    reported: BTreeSet<u32>,
}

impl Stragglers {
    /// Takes the orders after a step. Returns a warning when a process has become a straggler.
    pub(super) fn step(&mut self, job: &Job, orders: &Orders) -> Option<String> {
        let rank = self.observe(orders)?;
        let host = job.members().get(rank as usize).map_or("", |member| member.host.as_str());
        Some(format!(
            "rank {rank} ({host}) delays the others: a step takes {:.1} ms there without waiting, and {:.1} ms in the \
             median",
            orders.slowest_micros as f64 / 1e3,
            orders.median_own_micros as f64 / 1e3
        ))
    }

    /// Returns the rank that has become a straggler with this step.
    fn observe(&mut self, orders: &Orders) -> Option<u32> {
        let rank = orders.slowest_rank;
        let is_slow = orders.slowest_micros as f64 > FACTOR * orders.median_own_micros as f64;
        let before = self.slow.filter(|(slow, _)| *slow == rank).map_or(0, |(_, steps)| steps);
        self.slow = is_slow.then_some((rank, before + 1));
        (is_slow && before + 1 >= STEPS && self.reported.insert(rank)).then_some(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straggler_is_named_once_after_many_slow_steps() {
        let orders = |slowest_rank, slowest_micros| Orders {
            slowest_rank,
            slowest_micros,
            median_own_micros: 100,
            ..Orders::default()
        };
        let mut stragglers = Stragglers::default();
        let mut steps = |rank, micros, count: u32| {
            (0..count).filter_map(|_| stragglers.observe(&orders(rank, micros))).collect::<Vec<_>>()
        };
        const NONE: [u32; 0] = [];
        assert_eq!(steps(3, 200, STEPS - 1), NONE);
        assert_eq!(steps(2, 140, 1), NONE, "a step without a straggler");
        assert_eq!(steps(3, 200, STEPS - 1), NONE);
        assert_eq!(steps(1, 200, 1), NONE, "another one");
        assert_eq!(steps(3, 200, STEPS), [3]);
        assert_eq!(steps(3, 200, 2 * STEPS), NONE);
        assert_eq!(steps(1, 200, STEPS), [1]);
    }
}

//! Waiting for host memory that earlier runs have not freed yet.
//!
//! A CPU plugin reports a run as finished a moment before it frees the run's temporary memory, and on a busy
//! machine this moment is long. A run that starts in between takes as much memory again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Access to the process's allocator, if it counts the memory in use. Libraries cannot assume such an
/// allocator; the binary that links one passes it to
/// [`Session::set_host_allocator`](crate::Session::set_host_allocator).
#[derive(Clone, Copy, Debug)]
pub struct HostAllocator {
    /// Returns the bytes in use in the large blocks that plugins allocate; `None` if they are not counted.
    pub in_use: fn() -> Option<usize>,
    /// Returns free memory to the operating system.
    pub trim: fn(),
}

/// Host memory of a session.
#[derive(Debug, Default)]
pub(super) struct HostMemory {
    allocator: Option<HostAllocator>,
    baseline: Option<Baseline>,
    /// Bytes of all snapshots of state that exist.
    snapshots: Arc<AtomicUsize>,
    /// The part of these bytes that is still the session's state, shared with a snapshot.
    shared: AtomicUsize,
}

/// Memory use while no program runs.
#[derive(Clone, Copy, Debug)]
struct Baseline {
    in_use: usize,
    /// Temporary memory that a run takes on one device.
    one_run: usize,
}

/// The bytes of a snapshot of state, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct SnapshotBytes {
    total: Arc<AtomicUsize>,
    bytes: usize,
}

impl HostMemory {
    pub(super) fn set_allocator(&mut self, allocator: HostAllocator) {
        self.allocator = Some(allocator);
    }

    /// Returns free memory to the system, and records how much is in use besides copies of state. `one_run`
    /// is the temporary memory in bytes that a run takes on one device.
    pub(super) fn record_baseline(&mut self, one_run: usize) {
        if let Some(allocator) = self.allocator {
            (allocator.trim)();
            let besides = |in_use: usize| in_use.saturating_sub(self.copied());
            self.baseline = (allocator.in_use)().map(|in_use| Baseline { in_use: besides(in_use), one_run });
        }
    }

    /// Waits until memory use is near the baseline, at most half a second. Returns at once without a
    /// baseline.
    pub(super) fn wait(&mut self) {
        const AT_MOST: Duration = Duration::from_millis(500);
        let (Some(allocator), Some(Baseline { in_use, one_run })) = (self.allocator, self.baseline) else {
            return;
        };
        let begin = Instant::now();
        // Less than one device's temporary memory may be new allocations of other kinds. Snapshots are
        // written meanwhile.
        let exceeds = |now: &usize| *now > in_use + one_run / 2 + self.copied();
        while let Some(now) = (allocator.in_use)().filter(exceeds) {
            if begin.elapsed() > AT_MOST {
                // Something else has allocated memory and keeps it.
                self.baseline = Some(Baseline { in_use: now.saturating_sub(self.copied()), one_run });
                return;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// The bytes of snapshots that are not the session's state.
    fn copied(&self) -> usize {
        let shared = self.shared.load(Ordering::Relaxed);
        self.snapshots.load(Ordering::Relaxed).saturating_sub(shared)
    }

    /// Counts a snapshot of `bytes` bytes. `shares_state` is true if it holds the session's own buffers.
    pub(super) fn count_snapshot(&self, bytes: usize, shares_state: bool) -> SnapshotBytes {
        if shares_state {
            self.shared.store(bytes, Ordering::Relaxed);
        }
        self.snapshots.fetch_add(bytes, Ordering::Relaxed);
        SnapshotBytes { total: self.snapshots.clone(), bytes }
    }

    /// Records that the state was replaced: snapshots share nothing with it any more.
    pub(super) fn state_was_replaced(&mut self) {
        *self.shared.get_mut() = 0;
    }
}

impl SnapshotBytes {
    /// Returns the number of bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for SnapshotBytes {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_has_no_copies_of_state() {
        let mut memory = HostMemory::default();
        memory.set_allocator(HostAllocator { in_use: || Some(1000), trim: || () });
        let in_use = |memory: &mut HostMemory| {
            memory.record_baseline(7);
            memory.baseline.map(|baseline| (baseline.in_use, baseline.one_run))
        };
        assert_eq!(in_use(&mut memory), Some((1000, 7)));
        let snapshot = memory.count_snapshot(300, true);
        assert_eq!(in_use(&mut memory), Some((1000, 7)), "the snapshot holds the state itself");
        memory.state_was_replaced();
        assert_eq!(in_use(&mut memory), Some((700, 7)));
        drop(snapshot);
        assert_eq!(in_use(&mut memory), Some((1000, 7)));
    }
}

//! The work in flight of a client, which must end before the client is destroyed.
//!
//! Plugins differ in how they handle the destruction of a client with work in flight: API 0.106 reads freed
//! memory. A client therefore waits for its work before it is destroyed, wherever its last reference is
//! dropped.

use crate::event::Event;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// A counter that can be waited for. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct InFlight(Arc<(Mutex<usize>, Condvar)>);

/// One unit of work; it ends when this is dropped.
pub(crate) struct Work(InFlight);

impl InFlight {
    /// Counts another unit of work.
    pub fn begin(&self) -> Work {
        *self.count() += 1;
        Work(self.clone())
    }

    /// Counts the work that ends with `event`. Waits for it if the plugin cannot register a callback.
    pub fn track(&self, event: &Event) {
        let work = self.begin();
        if event.on_ready(move |_| drop(work)).is_err() {
            // The owner of the event receives its error.
            let _ = event.wait();
        }
    }

    /// Blocks until all work has ended.
    pub fn wait(&self) {
        let mut count = self.count();
        while *count > 0 {
            count = self.0.1.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn count(&self) -> std::sync::MutexGuard<'_, usize> {
        // The count is right even if a thread panicked while it held the lock.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::InFlight;

    #[test]
    fn waiting_ends_with_the_last_work() {
        let in_flight = InFlight::default();
        in_flight.wait();
        let (first, second) = (in_flight.begin(), in_flight.begin());
        drop(first);
        assert_eq!(*in_flight.count(), 1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| in_flight.wait());
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!waiting.is_finished());
            drop(second);
        });
        assert_eq!(*in_flight.count(), 0);
    }
}

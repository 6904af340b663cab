//! Loss-spike detection.

use std::collections::VecDeque;

/// Options of loss-spike detection and rollback.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spikes {
    /// A loss is a spike if it exceeds the mean of the last losses by more than this many standard
    /// deviations.
    pub sigmas: f64,
    /// The number of last losses. Until there are as many, no loss is a spike.
    pub window: usize,
    /// The maximum number of rollbacks of a run.
    pub rollbacks: u64,
}

impl Default for Spikes {
    fn default() -> Self {
        Self { sigmas: 6.0, window: 50, rollbacks: 10 }
    }
}

/// The smallest standard deviation, as a fraction of the mean. Otherwise any loss after nearly equal ones
/// would be a spike.
const FLOOR: f64 = 0.01;

impl Spikes {
    /// Returns the largest loss that is not a spike. `None` if there are too few losses yet.
    pub(super) fn limit(&self, losses: &VecDeque<f64>) -> Option<f64> {
        if losses.len() < self.window {
            return None;
        }
        let last = losses.iter().skip(losses.len() - self.window);
        let count = self.window as f64;
        let mean = last.clone().sum::<f64>() / count;
        let variance = last.map(|loss| (loss - mean).powi(2)).sum::<f64>() / count;
        Some(mean + self.sigmas * variance.sqrt().max(FLOOR * mean.abs()))
    }
}

/// Adds a loss to the last `window` finite losses.
pub(super) fn remember(losses: &mut VecDeque<f64>, loss: f64, window: usize) {
    if loss.is_finite() {
        losses.push_back(loss);
    }
    while losses.len() > window {
        losses.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_follows_the_last_losses() {
        let spikes = Spikes { sigmas: 3.0, window: 4, rollbacks: 1 };
        let mut losses = VecDeque::new();
        for loss in [100.0, 1.0, f64::NAN, 3.0, 1.0] {
            remember(&mut losses, loss, 4);
        }
        assert_eq!(losses.len(), 4);
        remember(&mut losses, 3.0, 4);
        assert_eq!(spikes.limit(&losses), Some(2.0 + 3.0));
        // All equal: the deviation is one percent of the mean.
        let same: VecDeque<f64> = [2.0; 4].into();
        assert!((spikes.limit(&same).unwrap() - 2.06).abs() < 1e-12);
        assert_eq!(spikes.limit(&[2.0; 3].into()), None);
    }
}

//! Losses that jump: told from the noise of those before.

use std::collections::VecDeque;

/// When a loss is a spike, and what is done then.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spikes {
    /// So many standard deviations above the mean of the last losses.
    pub sigmas: f64,
    /// How many of the last losses that is; before there are as many, nothing is a spike.
    pub window: usize,
    /// How often a run may go back to a checkpoint.
    pub rollbacks: u64,
}

impl Default for Spikes {
    fn default() -> Self {
        Self { sigmas: 6.0, window: 50, rollbacks: 10 }
    }
}

/// Losses that hardly differ would make a spike of any other: a standard deviation is at least this share of the mean.
const FLOOR: f64 = 0.01;

impl Spikes {
    /// The largest loss that is none, if enough are known.
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

/// Takes note of a loss, of which `window` are kept.
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
        // All the same: one percent of the mean is the deviation.
        let same: VecDeque<f64> = [2.0; 4].into();
        assert!((spikes.limit(&same).unwrap() - 2.06).abs() < 1e-12);
        assert_eq!(spikes.limit(&[2.0; 3].into()), None);
    }
}

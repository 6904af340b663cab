//! The rate as a function of the step.

use crate::config::Mistakes;
use mesh::dsl::{Args, Tensor};

/// A linear rise from 0 over `warmup` steps to `rate`, then a decay.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Schedule {
    /// The highest rate.
    pub rate: f64,
    /// Steps until then.
    pub warmup: u32,
    /// What comes after.
    pub decay: Decay,
    /// Steps until the rate is 0, for the decays that end.
    pub steps: u32,
}

/// How the rate falls after the warm-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decay {
    /// It does not.
    Constant,
    /// `rate · sqrt(warmup / step)`.
    Rsqrt,
    /// In a straight line to 0.
    Linear,
    /// Along half a cosine to 0.
    Cosine,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { rate: 1e-3, warmup: 100, decay: Decay::Rsqrt, steps: 10_000 }
    }
}

impl Schedule {
    pub(super) fn with(mut self, args: &Args) -> Self {
        self.rate = args.get("lr", self.rate);
        self.warmup = args.get("warmup", self.warmup);
        self.steps = args.get("decay_steps", self.steps);
        let word = match self.decay {
            Decay::Constant => "constant",
            Decay::Rsqrt => "rsqrt",
            Decay::Linear => "linear",
            Decay::Cosine => "cosine",
        };
        self.decay = match args.choice("schedule", &["constant", "rsqrt", "linear", "cosine"], word) {
            "constant" => Decay::Constant,
            "linear" => Decay::Linear,
            "cosine" => Decay::Cosine,
            _ => Decay::Rsqrt,
        };
        self
    }

    pub(super) fn mistakes(&self, wrong: &mut Mistakes) {
        let rate = self.rate;
        wrong.unless(rate.is_finite() && rate >= 0.0, || format!("`lr` is {rate}"), "a number from 0");
        let ends = matches!(self.decay, Decay::Linear | Decay::Cosine);
        wrong.unless(
            !ends || self.steps > self.warmup,
            || format!("`decay_steps` is {}, with a `warmup` of {}", self.steps, self.warmup),
            "more steps than the warm-up has",
        );
    }

    /// The rate of step `t`, an `f32` that counts from 1.
    pub fn rate<'g>(&self, t: Tensor<'g>) -> Tensor<'g> {
        let warmup = f64::from(self.warmup.max(1));
        let rise = (t / warmup).minimum(1.0);
        let rest = f64::from(self.steps) - warmup;
        let share = || ((t - warmup) / rest).maximum(0.0).minimum(1.0);
        let fall = match self.decay {
            Decay::Constant => return rise * self.rate,
            Decay::Rsqrt => (t.maximum(warmup) / warmup).rsqrt(),
            Decay::Linear => 1.0 - share(),
            Decay::Cosine => (share() * std::f64::consts::PI).cos() * 0.5 + 0.5,
        };
        rise * fall * self.rate
    }
}

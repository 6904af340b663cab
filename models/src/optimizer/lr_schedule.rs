//! Learning-rate schedules.

use crate::mistakes::Mistakes;
use mesh::dsl::{Args, Tensor};

/// A linear warm-up from 0 to `rate` over `warmup` steps, then the product of some decays.
#[derive(Clone, PartialEq, Debug)]
pub struct LrSchedule {
    /// The peak learning rate.
    pub rate: f64,
    /// Steps of the warm-up.
    pub warmup: u32,
    /// The decays after the warm-up, which are multiplied.
    pub decays: Vec<Decay>,
    /// Step at which decays that end reach 0.
    pub steps: u32,
}

/// Decays of the learning rate after the warm-up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decay {
    /// No decay.
    Constant,
    /// `sqrt(warmup / step)`.
    Rsqrt,
    /// `1 / sqrt(max(step, warmup))`, T5's, without warm-up. With a rate of 1 and 10,000 steps this is also
    /// the default of Mesh TensorFlow's and transformers' Adafactor, `min(0.01, 1 / sqrt(step))`.
    T5,
    /// Linear to 0.
    Linear,
    /// Half a cosine to 0.
    Cosine,
}

impl Decay {
    const ALL: [Self; 5] = [Self::Constant, Self::Rsqrt, Self::T5, Self::Linear, Self::Cosine];

    fn word(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Rsqrt => "rsqrt",
            Self::T5 => "t5",
            Self::Linear => "linear",
            Self::Cosine => "cosine",
        }
    }
}

impl Default for LrSchedule {
    fn default() -> Self {
        Self { rate: 1e-3, warmup: 100, decays: vec![Decay::Rsqrt], steps: 10_000 }
    }
}

impl LrSchedule {
    /// Returns a constant learning rate.
    pub fn constant(rate: f64) -> Self {
        Self { rate, warmup: 0, decays: vec![Decay::Constant], ..Self::default() }
    }

    /// Returns `rate / sqrt(max(step, warmup))`.
    pub fn t5(rate: f64, warmup: u32) -> Self {
        Self { rate, warmup, decays: vec![Decay::T5], ..Self::default() }
    }

    pub(super) fn with(mut self, args: &Args) -> Self {
        self.rate = args.get("lr", self.rate);
        self.warmup = args.get("warmup", self.warmup);
        self.steps = args.get("decay_steps", self.steps);
        let mut words: Vec<&str> = self.decays.iter().map(|d| d.word()).collect();
        if words.is_empty() {
            words.push(Decay::Constant.word());
        }
        let chosen = args.product("schedule", &Decay::ALL.map(Decay::word), &words.join("*"));
        self.decays = Decay::ALL.into_iter().filter(|d| chosen.contains(&d.word())).collect();
        self
    }

    pub(super) fn mistakes(&self, wrong: &mut Mistakes) {
        wrong.not_negative("lr", self.rate);
        let ends = self.decays.iter().any(|d| matches!(d, Decay::Linear | Decay::Cosine));
        let rule = format!("more than `warmup` = {}", self.warmup);
        wrong.require(!ends || self.steps > self.warmup, "decay_steps", &rule, self.steps);
    }

    /// Returns the learning rate of step `t`, an `f32` that counts from 1.
    pub fn rate<'g>(&self, t: Tensor<'g>) -> Tensor<'g> {
        let warmup = f64::from(self.warmup.max(1));
        let rest = f64::from(self.steps) - warmup;
        let share = || ((t - warmup) / rest).maximum(0.0).minimum(1.0);
        let flat = self.decays.contains(&Decay::T5);
        let mut product = if flat { t.graph().constant(1.0, t.dtype()) } else { (t / warmup).minimum(1.0) };
        for decay in &self.decays {
            product *= match decay {
                Decay::Constant => continue,
                Decay::Rsqrt => (t.maximum(warmup) / warmup).rsqrt(),
                Decay::T5 => t.maximum(warmup).rsqrt(),
                Decay::Linear => 1.0 - share(),
                Decay::Cosine => (share() * std::f64::consts::PI).cos() * 0.5 + 0.5,
            };
        }
        product * self.rate
    }
}

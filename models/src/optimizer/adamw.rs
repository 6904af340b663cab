//! AdamW: the update is the mean gradient divided by the root mean square of gradients; weight decay is
//! decoupled.

use super::{Step, moment_slot};
use crate::{Weight, mistakes::Mistakes};
use mesh::dsl::{Args, Program, State, Tensor};

/// Settings of AdamW.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Weight decay: fraction of a matrix subtracted per step, times the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Slots {
    first: State,
    second: State,
}

impl Slots {
    pub(super) fn new(p: &Program, weight: &Weight) -> Self {
        Self { first: moment_slot(p, weight, "m", &[]), second: moment_slot(p, weight, "v", &[]) }
    }
}

impl AdamW {
    pub(super) fn with(mut self, args: &Args) -> Self {
        self.beta1 = args.get("beta1", self.beta1);
        self.beta2 = args.get("beta2", self.beta2);
        self.epsilon = args.get("optimizer_epsilon", self.epsilon);
        self.weight_decay = args.get("weight_decay", self.weight_decay);
        self
    }

    pub(super) fn mistakes(&self, wrong: &mut Mistakes) {
        wrong.share("beta1", self.beta1);
        wrong.share("beta2", self.beta2);
        wrong.positive("optimizer_epsilon", self.epsilon);
        wrong.not_negative("weight_decay", self.weight_decay);
    }

    pub(super) fn next<'g>(
        &self,
        weight: &Weight,
        slots: &Slots,
        value: Tensor<'g>,
        gradient: Tensor<'g>,
        step: &Step<'g>,
    ) -> Tensor<'g> {
        let g = value.graph();
        let first = slots.first.read(g) * self.beta1 + gradient * (1.0 - self.beta1);
        let second = slots.second.read(g) * self.beta2 + gradient.square() * (1.0 - self.beta2);
        step.put(&slots.first, first);
        step.put(&slots.second, second);
        // Bias correction of moments that start at 0; scalars, applied where they cost least.
        let root = second.sqrt() * forgotten(self.beta2, step.t).rsqrt() + self.epsilon;
        let change = first / root * (step.rate / forgotten(self.beta1, step.t));
        if weight.decay && self.weight_decay > 0.0 {
            value * (1.0 - step.rate * self.weight_decay) - change
        } else {
            value - change
        }
    }
}

/// Returns `1 - beta^t`, accurate also if `beta^t` is near 1: with `h = tanh(ln(beta^t) / 2)` it is `-2h /
/// (1 - h)`.
fn forgotten(beta: f64, t: Tensor<'_>) -> Tensor<'_> {
    // The logarithm of 0 is infinite; 1e-30 is as good as no memory.
    let h = (t * (beta.max(1e-30).ln() / 2.0)).tanh();
    h * -2.0 / (1.0 - h)
}

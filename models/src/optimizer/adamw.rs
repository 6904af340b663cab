//! AdamW: the change is the mean gradient over the root mean square of gradients; weights decay apart
//! from it.

use crate::{Weight, config::Mistakes};
use mesh::{
    DType,
    dsl::{Args, Init, Program, State, Tensor},
};

/// Its numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamW {
    /// Memory of the first moment.
    pub beta1: f64,
    /// Memory of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a matrix that goes away in a step, times the rate.
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
        let slot = |kind: &str| {
            let name = format!("{}/{kind}", weight.state.name());
            p.slot(name, DType::F32, weight.state.dims(), Init::Zeros)
        };
        Self { first: slot("m"), second: slot("v") }
    }
}

impl AdamW {
    pub(super) fn with(mut self, args: &Args) -> Self {
        self.beta1 = args.get("beta1", self.beta1);
        self.beta2 = args.get("beta2", self.beta2);
        self.weight_decay = args.get("weight_decay", self.weight_decay);
        self
    }

    pub(super) fn mistakes(&self, wrong: &mut Mistakes) {
        wrong.share("beta1", self.beta1);
        wrong.share("beta2", self.beta2);
        wrong.unless(self.epsilon > 0.0, || format!("`epsilon` is {}", self.epsilon), "more than 0");
        let decay = self.weight_decay;
        wrong.unless(decay >= 0.0, || format!("`weight_decay` is {decay}"), "a number from 0");
    }

    pub(super) fn next<'g>(
        &self,
        weight: &Weight,
        slots: &Slots,
        value: Tensor<'g>,
        gradient: Tensor<'g>,
        rate: Tensor<'g>,
        t: Tensor<'g>,
    ) -> Tensor<'g> {
        let g = value.graph();
        let first = slots.first.read(g) * self.beta1 + gradient * (1.0 - self.beta1);
        let second = slots.second.read(g) * self.beta2 + gradient.square() * (1.0 - self.beta2);
        slots.first.assign(first);
        slots.second.assign(second);
        // Moments begin at 0; numbers without dims undo that.
        let power = |beta: f64| -> Tensor<'g> { 1.0 - (t * beta.ln()).exp() };
        let root = second.sqrt() * power(self.beta2).rsqrt() + self.epsilon;
        let change = first / root * (rate / power(self.beta1));
        if weight.decay && self.weight_decay > 0.0 {
            value * (1.0 - rate * self.weight_decay) - change
        } else {
            value - change
        }
    }
}

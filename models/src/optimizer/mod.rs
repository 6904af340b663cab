//! How parameters move: the gradient, its norm, the schedule of the rate, and a method for each
//! parameter. Optimizers are ordinary programs; their memory is slots.

mod adafactor;
mod adamw;
mod schedule;

pub use adafactor::Adafactor;
pub use adamw::AdamW;
pub use schedule::{Decay, Schedule};

use crate::{Weight, config::Mistakes};
use mesh::{
    DType,
    dsl::{Args, Graph, Program, Tensor},
};

/// A method, its rate, and a limit for the gradient.
#[derive(Clone, PartialEq, Debug)]
pub struct Optimizer {
    /// How a gradient becomes a change.
    pub method: Method,
    /// How large the change is.
    pub schedule: Schedule,
    /// The gradient is scaled down so that its norm over all parameters is at most this; 0: it is not.
    pub clip: f64,
}

/// How a gradient becomes a change.
#[derive(Clone, PartialEq, Debug)]
pub enum Method {
    /// The gradient itself.
    Sgd,
    /// First and second moments.
    AdamW(AdamW),
    /// Second moments of matrices by rows and columns.
    Adafactor(Adafactor),
}

impl Method {
    /// AdamW with its usual numbers.
    pub fn adamw() -> Self {
        Self::AdamW(AdamW::default())
    }
    /// Adafactor with T5's numbers.
    pub fn adafactor() -> Self {
        Self::Adafactor(Adafactor::default())
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { method: Method::adamw(), schedule: Schedule::default(), clip: 1.0 }
    }
}

impl Optimizer {
    /// With the settings of the command line.
    pub fn with(mut self, args: &Args) -> Self {
        let word = match &self.method {
            Method::Sgd => "sgd",
            Method::AdamW(_) => "adamw",
            Method::Adafactor(_) => "adafactor",
        };
        self.method = match (args.choice("optimizer", &["adamw", "adafactor", "sgd"], word), self.method) {
            ("sgd", _) => Method::Sgd,
            ("adafactor", Method::Adafactor(method)) => Method::Adafactor(method.with(args)),
            ("adafactor", _) => Method::Adafactor(Adafactor::default().with(args)),
            (_, Method::AdamW(method)) => Method::AdamW(method.with(args)),
            (_, Method::Sgd | Method::Adafactor(_)) => Method::AdamW(AdamW::default().with(args)),
        };
        self.schedule = self.schedule.with(args);
        self.clip = args.get("clip", self.clip);
        self
    }

    /// Notes what is wrong with the numbers.
    pub fn mistakes(&self, wrong: &mut Mistakes) {
        wrong.unless(
            self.clip >= 0.0,
            || format!("`clip` is {}", self.clip),
            "a number from 0, which means none",
        );
        self.schedule.mistakes(wrong);
        match &self.method {
            Method::Sgd => {}
            Method::AdamW(method) => method.mistakes(wrong),
            Method::Adafactor(method) => method.mistakes(wrong),
        }
    }
}

/// An optimizer with its slots.
#[derive(Clone, Debug)]
pub struct Update {
    optimizer: Optimizer,
    weights: Vec<(Weight, Slots)>,
}

#[derive(Clone, Debug)]
enum Slots {
    None,
    AdamW(adamw::Slots),
    Adafactor(adafactor::Slots),
}

/// What is worth knowing of an update.
#[derive(Clone, Copy, Debug)]
pub struct Report<'g> {
    /// The norm of the gradient over all parameters, before it is limited.
    pub grad_norm: Tensor<'g>,
    /// The rate.
    pub rate: Tensor<'g>,
}

impl Update {
    /// Declares the slots of all `weights`.
    pub fn new(p: &Program, optimizer: &Optimizer, weights: Vec<Weight>) -> Self {
        let slots = |weight: &Weight| match &optimizer.method {
            Method::Sgd => Slots::None,
            Method::AdamW(_) => Slots::AdamW(adamw::Slots::new(p, weight)),
            Method::Adafactor(method) => Slots::Adafactor(method.slots(p, weight)),
        };
        let weights = weights.into_iter().map(|w| (w.clone(), slots(&w))).collect();
        Self { optimizer: optimizer.clone(), weights }
    }

    /// Assigns every parameter and slot its next value, in the step numbered `step` from 0.
    pub fn apply<'g>(&self, g: &'g Graph, loss: Tensor<'g>, step: Tensor<'g>) -> Report<'g> {
        let values: Vec<Tensor<'g>> = self.weights.iter().map(|(w, _)| w.state.read(g)).collect();
        let gradients = g.grad(loss, &values);
        let squares = gradients.iter().map(|gradient| gradient.square().sum_all());
        let total = squares.reduce(|a, b| a + b).unwrap_or(g.constant(0.0, DType::F32));
        let grad_norm = total.sqrt();
        let scale =
            (self.optimizer.clip > 0.0).then(|| self.optimizer.clip / grad_norm.maximum(self.optimizer.clip));
        // The first step is step 1 in the formulas.
        let t = (step + 1).cast(DType::F32);
        let rate = self.optimizer.schedule.rate(t);
        for (((weight, slots), value), gradient) in self.weights.iter().zip(values).zip(gradients) {
            let gradient = scale.map_or(gradient, |scale| gradient * scale);
            let next = match (&self.optimizer.method, slots) {
                (Method::AdamW(method), Slots::AdamW(slots)) => {
                    method.next(weight, slots, value, gradient, rate, t)
                }
                (Method::Adafactor(method), Slots::Adafactor(slots)) => {
                    method.next(weight, slots, value, gradient, rate, t)
                }
                (Method::Sgd | Method::AdamW(_) | Method::Adafactor(_), _) => value - gradient * rate,
            };
            weight.state.assign(next);
        }
        Report { grad_norm, rate }
    }
}

//! Optimizers: update rules, gradient clipping, learning-rate schedules. Optimizers are ordinary programs;
//! their memory is optimizer slots.
//!
//! A step whose loss or gradient is not finite can be skipped: parameters and slots keep their values bit
//! for bit, and a counter records the number of skipped steps. Skipped steps do not advance the update rule
//! or the learning rate.

mod adafactor;
mod adamw;
mod lr_schedule;

pub use adafactor::{Adafactor, Factored};
pub use adamw::AdamW;
pub use lr_schedule::{Decay, LrSchedule};

use crate::{Weight, mistakes::Mistakes};
use mesh::{
    DType, Dim,
    dsl::{Args, Graph, Init, Program, State, Tensor},
};

/// An update rule with its learning-rate schedule and gradient clipping.
#[derive(Clone, PartialEq, Debug)]
pub struct Optimizer {
    /// The update rule.
    pub method: Method,
    /// The learning-rate schedule.
    pub schedule: LrSchedule,
    /// Maximum norm of the gradient over all parameters; larger gradients are scaled down. 0 means no
    /// clipping.
    pub clip: f64,
    /// True if a step whose loss or gradient is not finite changes nothing.
    pub skip_non_finite: bool,
}

/// Update rules.
#[derive(Clone, PartialEq, Debug)]
pub enum Method {
    /// Gradient descent without momentum.
    Sgd,
    /// AdamW.
    AdamW(AdamW),
    /// Adafactor.
    Adafactor(Adafactor),
}

impl Method {
    /// Returns the scale of the initialization of routers and experts that suits the method.
    ///
    /// The paper's 0.1 is for Adafactor, whose steps are relative to the size of a parameter. A step of AdamW
    /// is as large as the learning rate: it overwrites small values at once, and training starts slower
    /// (`docs/results/initialization.md`).
    pub fn init_scale(&self) -> f64 {
        match self {
            Self::Adafactor(method) if method.relative => 0.1,
            Self::Adafactor(_) | Self::AdamW(_) | Self::Sgd => 1.0,
        }
    }

    /// Returns AdamW with its usual settings.
    pub fn adamw() -> Self {
        Self::AdamW(AdamW::default())
    }
    /// Returns Adafactor with T5X's settings.
    pub fn adafactor() -> Self {
        Self::Adafactor(Adafactor::default())
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { method: Method::adamw(), schedule: LrSchedule::default(), clip: 1.0, skip_non_finite: true }
    }
}

impl Optimizer {
    /// Returns the optimizer with the settings of the command line applied.
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
        self.skip_non_finite = args.get("skip_non_finite", self.skip_non_finite);
        self
    }

    /// Notes all mistakes of the settings.
    pub fn mistakes(&self, wrong: &mut Mistakes) {
        wrong.require(self.clip >= 0.0, "clip", "at least 0 (0 means no clipping)", self.clip);
        self.schedule.mistakes(wrong);
        match &self.method {
            Method::Sgd => {}
            Method::AdamW(method) => method.mistakes(wrong),
            Method::Adafactor(method) => method.mistakes(wrong),
        }
    }
}

/// An optimizer with its slots and parameters.
#[derive(Clone, Debug)]
pub struct Update {
    optimizer: Optimizer,
    weights: Vec<(Weight, Slots)>,
    /// Counter of skipped steps; `None` means that steps are never skipped.
    skipped: Option<State>,
}

#[derive(Clone, Debug)]
enum Slots {
    None,
    AdamW(adamw::Slots),
    Adafactor(adafactor::Slots),
}

/// Metrics of an update.
#[derive(Clone, Copy, Debug)]
pub struct Report<'g> {
    /// Norm of the gradient over all parameters, before clipping.
    pub grad_norm: Tensor<'g>,
    /// The learning rate.
    pub rate: Tensor<'g>,
    /// Number of steps skipped so far, including this one, as an `f32`; `None` means that steps are never
    /// skipped.
    pub skipped: Option<Tensor<'g>>,
    /// True unless the step is skipped; `None` means that steps are never skipped.
    pub good: Option<Tensor<'g>>,
}

/// Values of a step that all parameters share.
struct Step<'g> {
    rate: Tensor<'g>,
    /// The step number, an `f32` that counts from 1.
    t: Tensor<'g>,
    /// True unless the step is skipped; `None` means that steps are never skipped.
    good: Option<Tensor<'g>>,
}

impl<'g> Step<'g> {
    /// Assigns `next` to `state` unless the step is skipped.
    fn put(&self, state: &State, next: Tensor<'g>) {
        let next = self.good.map_or(next, |good| good.select(next, state.read(next.graph())));
        state.assign(next);
    }
}

/// Declares a slot of `weight` without the dims `without`, initialized to 0.
fn moment_slot(p: &Program, weight: &Weight, kind: &str, without: &[Dim]) -> State {
    let dims: Vec<Dim> = weight.state.dims().into_iter().filter(|d| !without.contains(d)).collect();
    p.slot(format!("{}/{kind}", weight.state.name()), DType::F32, dims, Init::Zeros)
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
        let skipped = optimizer.skip_non_finite.then(|| p.counter("skipped", DType::S32, Init::Zeros));
        Self { optimizer: optimizer.clone(), weights, skipped }
    }

    /// Returns the gradients of `loss` with respect to all parameters.
    pub fn gradients<'g>(&self, g: &'g Graph, loss: Tensor<'g>) -> Vec<Tensor<'g>> {
        g.grad(loss, &self.values(g))
    }

    fn values<'g>(&self, g: &'g Graph) -> Vec<Tensor<'g>> {
        self.weights.iter().map(|(w, _)| w.state.read(g)).collect()
    }

    /// Assigns the next values of all parameters and slots, in the step numbered `step` from 0, from the
    /// `gradients` of `loss`.
    pub fn apply<'g>(
        &self,
        g: &'g Graph,
        loss: Tensor<'g>,
        gradients: &[Tensor<'g>],
        step: Tensor<'g>,
    ) -> Report<'g> {
        let squares = gradients.iter().map(|gradient| gradient.square().sum_all());
        let total = squares.reduce(|a, b| a + b).unwrap_or(g.constant(0.0, DType::F32));
        let grad_norm = total.sqrt();
        let scale =
            (self.optimizer.clip > 0.0).then(|| self.optimizer.clip / grad_norm.maximum(self.optimizer.clip));
        let good = self.skipped.as_ref().map(|_| loss.is_finite() & grad_norm.is_finite());
        // The first step has number 1 in the formulas.
        let made = self.skipped.as_ref().map_or(step, |skipped| step - skipped.read(g));
        let t = (made + 1).cast(DType::F32);
        let step = Step { rate: self.optimizer.schedule.rate(t), t, good };
        for (((weight, slots), value), gradient) in self.weights.iter().zip(self.values(g)).zip(gradients) {
            let gradient = scale.map_or(*gradient, |scale| *gradient * scale);
            let next = match (&self.optimizer.method, slots) {
                (Method::AdamW(method), Slots::AdamW(slots)) => {
                    method.next(weight, slots, value, gradient, &step)
                }
                (Method::Adafactor(method), Slots::Adafactor(slots)) => {
                    method.next(weight, slots, value, gradient, &step)
                }
                (Method::Sgd | Method::AdamW(_) | Method::Adafactor(_), _) => value - gradient * step.rate,
            };
            step.put(&weight.state, next);
        }
        let skipped = self.skipped.as_ref().zip(good).map(|(skipped, good)| {
            let before = skipped.read(g);
            let after = good.select(before, before + 1);
            skipped.assign(after);
            after.cast(DType::F32)
        });
        Report { grad_norm, rate: step.rate, skipped, good: step.good }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the optimizer with these settings, and the mistakes in them.
    fn with(settings: &str) -> (Optimizer, Vec<String>) {
        let words = settings.split_whitespace().flat_map(|s| ["--set".to_owned(), s.to_owned()]);
        let args = Args::parse(words).expect("the arguments are legal");
        let optimizer = Optimizer::default().with(&args);
        let mut wrong = Mistakes::default();
        optimizer.mistakes(&mut wrong);
        let said = args.mistakes().into_iter().chain(wrong.0).map(|d| d.message);
        (optimizer, said.collect())
    }

    #[test]
    fn every_number_can_be_set() {
        let (optimizer, wrong) = with(
            "optimizer=adafactor adafactor=mesh_tf factored_from=4 relative=false update_clip=2 second_decay=0.9 \
             smallest=0.01 optimizer_epsilon=1e-20 beta1=0.5 weight_decay=0.1 lr=2 warmup=7 decay_steps=9 \
             schedule=cosine*t5 clip=3 skip_non_finite=false",
        );
        assert_eq!(wrong, Vec::<String>::new());
        let method = Adafactor {
            decay: 0.9,
            clip: 2.0,
            epsilon: 1e-20,
            smallest: 0.01,
            relative: false,
            factored: Factored::Largest,
            factored_from: 4,
            beta1: 0.5,
            weight_decay: 0.1,
        };
        let schedule = LrSchedule { rate: 2.0, warmup: 7, decays: vec![Decay::T5, Decay::Cosine], steps: 9 };
        let method = Method::Adafactor(method);
        assert_eq!(optimizer, Optimizer { method, schedule, clip: 3.0, skip_non_finite: false });
        let (optimizer, wrong) = with("beta1=0.8 beta2=0.95 optimizer_epsilon=1e-6 weight_decay=0");
        assert_eq!(wrong, Vec::<String>::new());
        let method = AdamW { beta1: 0.8, beta2: 0.95, epsilon: 1e-6, weight_decay: 0.0 };
        assert_eq!(optimizer.method, Method::AdamW(method));
        assert_eq!(with("optimizer=adafactor adafactor=transformers").0.method, {
            Method::Adafactor(Adafactor { factored_from: 1, ..Adafactor::t5x() })
        });
    }

    #[test]
    fn mistakes_name_the_setting() {
        let (_, wrong) = with(
            "optimizer=adafactor update_clip=0 second_decay=-1 smallest=-1 beta1=1 weight_decay=-1 lr=-1 clip=-1 \
             schedule=linear decay_steps=5",
        );
        let named =
            ["clip", "lr", "decay_steps", "beta1", "weight_decay", "second_decay", "update_clip", "smallest"];
        assert_eq!(wrong.len(), named.len(), "{wrong:?}");
        assert!(wrong.iter().zip(named).all(|(w, n)| w.starts_with(&format!("`{n}` must be"))), "{wrong:?}");
        assert_eq!(
            with("schedule=rsqrt*lineer").1,
            ["setting `schedule` must be one of constant, rsqrt, t5, linear, cosine, got `lineer`"]
        );
        assert_eq!(with("optimizer=sgd beta1=0.5").1, ["this program has no setting `beta1`"]);
        assert_eq!(
            with("adafactor=t5x").1,
            ["this program has no setting `adafactor`"],
            "AdamW is no Adafactor"
        );
    }
}

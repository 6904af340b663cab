//! Adafactor (Shazeer and Stern 2018): second moments of a matrix are factored into means over its columns
//! and its rows, the update is clipped by its root mean square, and the learning rate may be relative to the
//! size of the parameter.
//!
//! Implementations differ in which dims they factor and from which size on. [`Adafactor::t5x`],
//! [`Adafactor::transformers`] and [`Adafactor::mesh_tf`] reproduce three of them, checked by
//! `tests/tests/oracle_optimizers.rs`. Layers stacked in one parameter are treated separately in all of
//! them. Their default learning rate is [`super::Decay::T5`].

use super::{Step, moment_slot};
use crate::{Weight, mistakes::Mistakes};
use mesh::{
    Dim,
    dsl::{Args, Program, State, Tensor},
};
use std::cmp::Reverse;

/// Settings of Adafactor.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Adafactor {
    /// The decay of second moments in step `t` is `1 - t^-decay`.
    pub decay: f64,
    /// Updates are scaled down to at most this root mean square.
    pub clip: f64,
    /// Added to squared gradients.
    pub epsilon: f64,
    /// Lower bound of the parameter's root mean square in a relative learning rate.
    pub smallest: f64,
    /// True if the learning rate is relative to the parameter's root mean square.
    pub relative: bool,
    /// Dims that are factored.
    pub factored: Factored,
    /// Minimum number of elements of both factored dims.
    pub factored_from: usize,
    /// Decay of the first moment; 0 means no first moment.
    pub beta1: f64,
    /// Weight decay: fraction of a matrix subtracted per step, times the learning rate.
    pub weight_decay: f64,
}

/// Dims over which second moments are factored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Factored {
    /// Rows and columns of each matrix, each possibly several dims; experts are separate matrices.
    Matrices,
    /// The two largest dims.
    Largest,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self::t5x()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Slots {
    second: SecondMoment,
    first: Option<State>,
}

#[derive(Clone, Debug)]
enum SecondMoment {
    Factored {
        /// Factored dims, and the means over the other ones.
        rows: (Vec<Dim>, State),
        columns: (Vec<Dim>, State),
    },
    Whole(State),
}

impl Adafactor {
    /// Returns T5X's settings: factors matrices from 128 by 128 elements on.
    pub fn t5x() -> Self {
        Self {
            decay: 0.8,
            clip: 1.0,
            epsilon: 1e-30,
            smallest: 1e-3,
            relative: true,
            factored: Factored::Matrices,
            factored_from: 128,
            beta1: 0.0,
            weight_decay: 0.0,
        }
    }

    /// Returns the settings of Hugging Face transformers: factors matrices of any size.
    pub fn transformers() -> Self {
        Self { factored_from: 1, ..Self::t5x() }
    }

    /// Returns the settings of Mesh TensorFlow, the paper's code: factors the two largest dims, if the
    /// smaller one has at least 128 elements.
    pub fn mesh_tf() -> Self {
        Self { factored: Factored::Largest, ..Self::t5x() }
    }

    pub(super) fn with(mut self, args: &Args) -> Self {
        // `own` means the model's settings.
        self = match args.choice("adafactor", &["own", "t5x", "transformers", "mesh_tf"], "own") {
            "t5x" => Self::t5x(),
            "transformers" => Self::transformers(),
            "mesh_tf" => Self::mesh_tf(),
            _ => self,
        };
        self.decay = args.get("second_decay", self.decay);
        self.clip = args.get("update_clip", self.clip);
        self.epsilon = args.get("optimizer_epsilon", self.epsilon);
        self.smallest = args.get("smallest", self.smallest);
        self.relative = args.get("relative", self.relative);
        self.factored_from = args.get("factored_from", self.factored_from);
        self.beta1 = args.get("beta1", self.beta1);
        self.weight_decay = args.get("weight_decay", self.weight_decay);
        self
    }

    pub(super) fn mistakes(&self, wrong: &mut Mistakes) {
        wrong.share("beta1", self.beta1);
        wrong.not_negative("weight_decay", self.weight_decay);
        for (name, value) in
            [("second_decay", self.decay), ("update_clip", self.clip), ("optimizer_epsilon", self.epsilon)]
        {
            wrong.positive(name, value);
        }
        wrong.not_negative("smallest", self.smallest);
    }

    /// Returns the rows and columns to factor; `None` means that second moments are stored whole.
    fn factors(&self, weight: &Weight) -> Option<(Vec<Dim>, Vec<Dim>)> {
        let (rows, columns) = match self.factored {
            Factored::Matrices => (weight.rows.clone(), weight.columns.clone()),
            Factored::Largest => {
                let mut dims = weight.state.dims();
                dims.retain(|d| !weight.layers.contains(d));
                // Of equal sizes the first, as Mesh TensorFlow sorts them.
                dims.sort_by_key(|d| Reverse(weight.used_size(d)));
                let mut largest = dims.into_iter();
                let columns = largest.next().into_iter().collect();
                (largest.next().into_iter().collect(), columns)
            }
        };
        let large = |dims: &[Dim]| {
            !dims.is_empty()
                && dims.iter().map(|d| weight.used_size(d)).product::<usize>() >= self.factored_from
        };
        (large(&rows) && large(&columns)).then_some((rows, columns))
    }

    pub(super) fn slots(&self, p: &Program, weight: &Weight) -> Slots {
        let second = match self.factors(weight) {
            Some((rows, columns)) => SecondMoment::Factored {
                rows: (rows.clone(), moment_slot(p, weight, "v_rows", &columns)),
                columns: (columns, moment_slot(p, weight, "v_columns", &rows)),
            },
            None => SecondMoment::Whole(moment_slot(p, weight, "v", &[])),
        };
        Slots { second, first: (self.beta1 > 0.0).then(|| moment_slot(p, weight, "m", &[])) }
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
        // t^-decay is the weight of the new value.
        let fresh = (step.t.log() * -self.decay).exp();
        let square = gradient.square() + self.epsilon;
        let moved = |state: &State, new: Tensor<'g>| {
            let old = state.read(g);
            let next = old * (1.0 - fresh) + new * fresh;
            step.put(state, next);
            next
        };
        let mut change = match &slots.second {
            SecondMoment::Whole(second) => gradient * moved(second, square).rsqrt(),
            SecondMoment::Factored { rows: (rows, r), columns: (columns, c) } => {
                let r = moved(r, weight.mean(square, columns));
                let c = moved(c, weight.mean(square, rows));
                gradient * (r / weight.mean(r, rows)).rsqrt() * c.rsqrt()
            }
        };
        let whole: Vec<Dim> = value.dims().into_iter().filter(|d| !weight.layers.contains(d)).collect();
        let size = |x: Tensor<'g>| weight.mean(x.square(), &whole).sqrt();
        change = change / (size(change) / self.clip).maximum(1.0);
        let rate = if self.relative { size(value).maximum(self.smallest) * step.rate } else { step.rate };
        change *= rate;
        if let Some(first) = &slots.first {
            change = first.read(g) * self.beta1 + change * (1.0 - self.beta1);
            step.put(first, change);
        }
        if weight.decay && self.weight_decay > 0.0 {
            value * (1.0 - rate * self.weight_decay) - change
        } else {
            value - change
        }
    }
}

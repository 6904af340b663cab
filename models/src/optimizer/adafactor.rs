//! Adafactor (Shazeer and Stern 2018) with T5's numbers: second moments of a matrix are kept as means
//! over its columns and over its rows, the change is limited by its root mean square, and the rate is
//! relative to the size of the parameter.
//!
//! Layers that are stacked in one parameter are treated one by one, so that stacking changes nothing.

use crate::{Weight, config::Mistakes};
use mesh::{
    DType, Dim,
    dsl::{Args, Init, Program, State, Tensor},
};

/// Its numbers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Adafactor {
    /// The memory of second moments in step `t` is `1 - t^-decay`.
    pub decay: f64,
    /// The change is scaled down so that its root mean square is at most this.
    pub clip: f64,
    /// Added to squares of gradients.
    pub epsilon: f64,
    /// The rate is relative to the root mean square of the parameter, taken to be at least this.
    pub smallest: f64,
    /// Whether the rate is relative to the parameter at all.
    pub relative: bool,
    /// Matrices whose rows and columns both have at least this many elements are factored.
    pub factored_from: usize,
    /// Memory of the first moment; 0: there is none.
    pub beta1: f64,
    /// Share of a matrix that goes away in a step, times the rate.
    pub weight_decay: f64,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self {
            decay: 0.8,
            clip: 1.0,
            epsilon: 1e-30,
            smallest: 1e-3,
            relative: true,
            factored_from: 128,
            beta1: 0.0,
            weight_decay: 0.0,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Slots {
    second: Second,
    first: Option<State>,
}

#[derive(Clone, Debug)]
enum Second {
    /// Means over the columns, and over the rows.
    Factored(State, State),
    Whole(State),
}

impl Adafactor {
    pub(super) fn with(mut self, args: &Args) -> Self {
        self.beta1 = args.get("beta1", self.beta1);
        self.weight_decay = args.get("weight_decay", self.weight_decay);
        self.factored_from = args.get("factored_from", self.factored_from);
        self.relative = args.get("relative", self.relative);
        self
    }

    pub(super) fn mistakes(&self, wrong: &mut Mistakes) {
        wrong.share("beta1", self.beta1);
        let decay = self.weight_decay;
        wrong.unless(decay >= 0.0, || format!("`weight_decay` is {decay}"), "a number from 0");
        wrong.unless(self.clip > 0.0, || format!("Adafactor's `clip` is {}", self.clip), "more than 0");
    }

    fn is_factored(&self, weight: &Weight) -> bool {
        let size = |dims: &[Dim]| dims.iter().map(|d| d.size).product::<usize>();
        !weight.rows.is_empty()
            && !weight.columns.is_empty()
            && size(&weight.rows) >= self.factored_from
            && size(&weight.columns) >= self.factored_from
    }

    pub(super) fn slots(&self, p: &Program, weight: &Weight) -> Slots {
        let slot = |kind: &str, without: &[Dim]| {
            let dims: Vec<Dim> = weight.state.dims().into_iter().filter(|d| !without.contains(d)).collect();
            p.slot(format!("{}/{kind}", weight.state.name()), DType::F32, dims, Init::Zeros)
        };
        let second = if self.is_factored(weight) {
            Second::Factored(slot("v_rows", &weight.columns), slot("v_columns", &weight.rows))
        } else {
            Second::Whole(slot("v", &[]))
        };
        Slots { second, first: (self.beta1 > 0.0).then(|| slot("m", &[])) }
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
        // t^-decay is the weight of what is new.
        let fresh = (t.log() * -self.decay).exp();
        let square = gradient.square() + self.epsilon;
        let moved = |state: &State, new: Tensor<'g>| {
            let old = state.read(g);
            let next = old + (new - old) * fresh;
            state.assign(next);
            next
        };
        let mut change = match &slots.second {
            Second::Whole(second) => gradient * moved(second, square).rsqrt(),
            Second::Factored(rows, columns) => {
                let r = moved(rows, square.mean(&weight.columns));
                let c = moved(columns, square.mean(&weight.rows));
                gradient * (r / r.mean(&weight.rows)).rsqrt() * c.rsqrt()
            }
        };
        let whole: Vec<Dim> = value.dims().into_iter().filter(|d| !weight.layers.contains(d)).collect();
        let size = |x: Tensor<'g>| x.square().mean(&whole).sqrt();
        change = change / (size(change) / self.clip).maximum(1.0);
        let rate = if self.relative { size(value).maximum(self.smallest) * rate } else { rate };
        change *= rate;
        if let Some(first) = &slots.first {
            change = first.read(g) * self.beta1 + change * (1.0 - self.beta1);
            first.assign(change);
        }
        if weight.decay && self.weight_decay > 0.0 {
            value * (1.0 - rate * self.weight_decay) - change
        } else {
            value - change
        }
    }
}

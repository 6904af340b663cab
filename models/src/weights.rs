//! Trained parameters and their matrix structure, which optimizers use.

use mesh::{
    DType, Dim, Name,
    dsl::{Init, Program, State, Tensor},
    schedule::Cast,
};
use std::cell::RefCell;

use crate::Context;

/// A trained parameter. Its dims fall into three groups: those that stack independent matrices (layers,
/// experts), and the *rows* (what the product sums over) and *columns* of each matrix.
#[derive(Clone, Debug)]
pub struct Weight {
    /// The state.
    pub state: State,
    /// Dims that stack independent layers: an optimizer's statistics of a whole tensor are per layer.
    pub layers: Vec<Dim>,
    /// Rows of the matrix.
    pub rows: Vec<Dim>,
    /// Columns of the matrix; empty for a vector.
    pub columns: Vec<Dim>,
    /// True if weight decay applies to it.
    pub decay: bool,
}

impl Weight {
    /// Returns the value in the element type of activations; inside a scan over layers, that of the current
    /// layer.
    #[track_caller]
    pub fn read<'g>(&self, cx: &Context<'g>) -> Tensor<'g> {
        let value = self.state.read(cx.g);
        // XLA hoists a plain cast out of the loop over layers, which stores a second copy of all
        // parameters. It does not hoist a rounding; the cast after it changes no value.
        let late = match cx.schedule.cast {
            Cast::Step => false,
            Cast::Experts => self.stacks(),
            Cast::Layer => true,
        };
        if late && cx.dtype() == DType::Bf16 { value.round_bf16() } else { value }.cast(cx.dtype())
    }

    /// True if a layer has several matrices: one for each expert.
    fn stacks(&self) -> bool {
        self.state.dims().len() > self.layers.len() + self.rows.len() + self.columns.len()
    }
}

/// Declares parameters and remembers them, in order.
#[derive(Debug)]
pub struct Weights<'p> {
    program: &'p Program,
    layers: RefCell<Vec<Dim>>,
    all: RefCell<Vec<Weight>>,
}

impl<'p> Weights<'p> {
    /// Returns an empty list of parameters of `program`.
    pub fn new(program: &'p Program) -> Self {
        Self { program, layers: RefCell::default(), all: RefCell::default() }
    }

    /// Runs `f` in a scope: names of parameters declared in it begin with `name/`.
    pub fn scope<T>(&self, name: impl Into<Name>, f: impl FnOnce() -> T) -> T {
        self.program.scope(name, f)
    }

    /// Runs `f`; every parameter declared in it gets the leading dim `layers`, one entry for each layer of
    /// a stack.
    pub fn stacked<T>(&self, layers: &Dim, f: impl FnOnce() -> T) -> T {
        self.layers.borrow_mut().push(layers.clone());
        let result = f();
        self.layers.borrow_mut().pop();
        result
    }

    /// Declares a matrix with the dims `stored`, in this order: `rows` (summed over in the product),
    /// `columns`, and optionally others that stack matrices (experts).
    #[track_caller]
    pub fn matrix(&self, name: &str, stored: &[&Dim], rows: &[&Dim], columns: &[&Dim], init: Init) -> Weight {
        self.declare(name, stored, rows, columns, init, true)
    }

    /// Declares a vector or table without weight decay.
    #[track_caller]
    pub fn table(&self, name: &str, rows: &[&Dim], columns: &[&Dim], init: Init) -> Weight {
        self.declare(name, &[rows, columns].concat(), rows, columns, init, false)
    }

    #[track_caller]
    fn declare(
        &self,
        name: &str,
        stored: &[&Dim],
        rows: &[&Dim],
        columns: &[&Dim],
        init: Init,
        decay: bool,
    ) -> Weight {
        let owned = |dims: &[&Dim]| dims.iter().map(|d| (*d).clone()).collect::<Vec<Dim>>();
        let layers = self.layers.borrow().clone();
        let state = self.program.param(name, [layers.clone(), owned(stored)].concat(), init);
        let weight = Weight { state, layers, rows: owned(rows), columns: owned(columns), decay };
        self.all.borrow_mut().push(weight.clone());
        weight
    }

    /// Returns all parameters, in order of declaration.
    pub fn all(&self) -> Vec<Weight> {
        self.all.borrow().clone()
    }
}

//! Trained parameters and their matrix structure, which optimizers use.

use crate::{
    Context,
    lora::{Adapter, Lora},
    patterns::Patterns,
};
use mesh::{
    DType, Dim, Name,
    dsl::{Graph, Init, Names, Program, State, Tensor, einsum},
    schedule::Cast,
};
use std::cell::RefCell;

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
    /// Its adapter; `None` means that it has none.
    adapter: Option<Box<Adapter>>,
    /// True if it is a part of an adapter.
    adapts: bool,
    /// The used part of a padded dim of the same name; `None` means that no dim is padded.
    pub used: Option<Dim>,
}

impl Weight {
    /// Returns the value in `f32`, with the update of its adapter; inside a scan over layers, that of the
    /// current layer.
    #[track_caller]
    pub fn value<'g>(&self, g: &'g Graph) -> Tensor<'g> {
        let own = self.state.read(g).cast(DType::F32);
        self.adapter.as_ref().map_or(own, |adapter| own + adapter.matrix(g, own))
    }

    /// Returns [`Weight::value`] in the element type of activations.
    #[track_caller]
    pub fn read<'g>(&self, cx: &Context<'g>) -> Tensor<'g> {
        self.cast(cx, self.value(cx.g))
    }

    /// Returns the product of `x` and the matrix with the dims `out`. An adapter is applied to `x` and not to
    /// the matrix, so that training needs no gradient of the matrix.
    #[track_caller]
    pub fn product<'g>(&self, cx: &Context<'g>, x: Tensor<'g>, out: impl Names) -> Tensor<'g> {
        let out = out.names();
        let own = einsum([x, self.cast(cx, self.state.read(cx.g))], &out);
        self.adapter.as_ref().map_or(own, |adapter| own + adapter.product(cx, x, &out))
    }

    fn cast<'g>(&self, cx: &Context<'g>, value: Tensor<'g>) -> Tensor<'g> {
        // XLA hoists a plain cast out of the loop over layers, which stores a second copy of all
        // parameters. It does not hoist a rounding; the cast after it changes no value.
        let late = match cx.schedule.cast {
            Cast::Step => false,
            Cast::Experts => self.stacks(),
            Cast::Layer => true,
        };
        if late && cx.dtype() == DType::Bf16 { value.round_bf16() } else { value }.cast(cx.dtype())
    }

    /// Returns the mean of `x`, a value with dims of the parameter, over `dims`, without padding.
    pub fn mean<'g>(&self, x: Tensor<'g>, dims: &[Dim]) -> Tensor<'g> {
        let padded =
            self.used.as_ref().and_then(|used| dims.iter().find(|d| d.name == used.name).zip(Some(used)));
        let Some((dim, used)) = padded else { return x.mean(dims) };
        let g = x.graph();
        let counts = g.iota(dim, DType::S32).lt(used.size as i32);
        let count: usize = dims.iter().map(|d| self.used_size(d)).product();
        counts.select(x, g.constant(0.0, x.dtype())).sum(dims) * (1.0 / count as f64)
    }

    /// Returns the size of a dim without padding.
    pub fn used_size(&self, dim: &Dim) -> usize {
        self.used.as_ref().filter(|used| used.name == dim.name).map_or(dim.size, |used| used.size)
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
    lora: Option<Lora>,
    /// The element type of state that no function changes; `None` means parameters.
    stored: Option<DType>,
    layers: RefCell<Vec<Dim>>,
    all: RefCell<Vec<Weight>>,
}

impl<'p> Weights<'p> {
    /// Returns an empty list of parameters of `program`.
    pub fn new(program: &'p Program) -> Self {
        Self { program, lora: None, stored: None, layers: RefCell::default(), all: RefCell::default() }
    }

    /// Returns the list with adapters for the matrices that will be declared.
    pub fn with_adapters(self, lora: Option<&Lora>) -> Self {
        Self { lora: lora.cloned(), ..self }
    }

    /// Returns the list for a model that is not trained: its weights are not parameters of the program but
    /// other state of this element type, which is 0 until it is loaded.
    pub fn stored_as(self, dtype: DType) -> Self {
        Self { stored: Some(dtype), ..self }
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

    /// Declares state that is stored and checkpointed as a parameter, and that training changes by other
    /// rules than gradients.
    #[track_caller]
    pub fn without_gradient(&self, name: &str, dims: &[&Dim], init: Init) -> State {
        let layers = self.layers.borrow().clone();
        let dims: Vec<Dim> = layers.into_iter().chain(dims.iter().map(|d| (*d).clone())).collect();
        match self.stored {
            None => self.program.param(name, dims, init),
            Some(dtype) => self.program.store(name, dtype, dims, Init::Zeros),
        }
    }

    /// Records that only the part `used` of the dim of this name is used, in `weight` and in its adapter, and
    /// returns the parameter.
    pub fn padded(&self, weight: Weight, used: Dim) -> Weight {
        let has = |w: &Weight| w.state.dims().iter().any(|d| d.name == used.name);
        self.all.borrow_mut().iter_mut().filter(|w| has(w)).for_each(|w| w.used = Some(used.clone()));
        Weight { used: Some(used), ..weight }
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
        let dims = [layers.clone(), owned(stored)].concat();
        let state = match self.stored {
            None => self.program.param(name, dims, init),
            Some(dtype) => self.program.store(name, dtype, dims, Init::Zeros),
        };
        let (rows, columns) = (owned(rows), owned(columns));
        let (adapter, adapts, used) = (None, false, None);
        let mut weight = Weight { state, layers, rows, columns, decay, adapter, adapts, used };
        let place = self.all.borrow().len();
        weight.adapter = self.adapter(name, &weight).map(Box::new);
        // The parts of its adapter follow it.
        self.all.borrow_mut().insert(place, weight.clone());
        weight
    }

    /// Declares the adapter of a matrix, if it gets one.
    #[track_caller]
    fn adapter(&self, name: &str, weight: &Weight) -> Option<Adapter> {
        let Weight { state, layers, rows, columns, .. } = weight;
        let is_target = |lora: &&Lora| !columns.is_empty() && lora.targets.has(state.name());
        let lora = self.lora.as_ref().filter(is_target)?;
        let of_matrix = |dim: &Dim| rows.contains(dim) || columns.contains(dim);
        let stacked: Vec<Dim> = state.dims().into_iter().filter(|dim| !of_matrix(dim)).collect();
        let adapter = Adapter::new(self.program, lora, name, &stacked, (rows, columns));
        let (a, b, rank) = adapter.parts();
        let part = |state: &State, rows: &[Dim], columns: &[Dim]| Weight {
            state: state.clone(),
            layers: layers.clone(),
            rows: rows.to_vec(),
            columns: columns.to_vec(),
            decay: true,
            adapter: None,
            adapts: true,
            used: None,
        };
        let one = std::slice::from_ref(rank);
        self.all.borrow_mut().extend([part(a, rows, one), part(b, one, columns)]);
        Some(adapter)
    }

    /// Returns all parameters, in order of declaration.
    pub fn all(&self) -> Vec<Weight> {
        self.all.borrow().clone()
    }

    /// Returns the parameters that training changes: all, or with adapters only these, without those whose
    /// names `frozen` has.
    pub fn trained(&self, frozen: &Patterns) -> Vec<Weight> {
        let mut all = self.all();
        all.retain(|w| (self.lora.is_none() || w.adapts) && !frozen.has(w.state.name()));
        all
    }
}

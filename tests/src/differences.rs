//! Comparison of gradients with central finite differences, in the interpreter without rounding.

use crate::generate::rng::Rng;
use crate::generate::shrink::prune;
use crate::law::lower;
use compiler::interp::{self, Precision, Tensor, Tensors};
use mesh::ir::{Binary, Control, Elementwise, Reduce, ReduceKind};
use mesh::verify::Global;
use mesh::{BodyBuilder, DType, Dim, Function, Module, Name, Op, Site, Type, Value};

/// The distribution of an input's values.
#[derive(Clone, Debug)]
pub enum Draw {
    /// Distinct floats in an open interval, evenly spaced, in random order: no ties, and never exactly 0.
    Floats(f64, f64),
    /// These integers or truth values, repeated in this order.
    These(Vec<f64>),
}

/// An input of the function that is differentiated.
#[derive(Clone, Debug)]
pub struct Input {
    /// The type. Gradients are taken with respect to all floats.
    pub ty: Type,
    /// The distribution of its values.
    pub draw: Draw,
}

/// Makes an `f32` input between `low` and `high` with dims such as `a=2,b=3`.
pub fn floats(dims: &str, low: f64, high: f64) -> Input {
    Input { ty: Type::new(DType::F32, parse(dims)), draw: Draw::Floats(low, high) }
}

/// Makes an input of integers or truth values.
pub fn these(dtype: DType, dims: &str, numbers: &[f64]) -> Input {
    Input { ty: Type::new(dtype, parse(dims)), draw: Draw::These(numbers.to_vec()) }
}

/// Parses dims such as `a=2,b=3`.
pub fn parse(dims: &str) -> Vec<Dim> {
    let dims = dims.split(',').filter(|d| !d.is_empty());
    dims.map(|d| d.split_once('=').expect("dims are written name=size"))
        .map(|(name, size)| Dim::new(name, size.parse().expect("a size is a number")))
        .collect()
}

/// A body under construction.
pub struct Build<'e>(pub BodyBuilder<'e>);

impl Build<'_> {
    /// Adds an instruction and returns its results.
    #[track_caller]
    pub fn all(&mut self, op: Op, args: &[Value]) -> Vec<Value> {
        let here = std::panic::Location::caller();
        let site = Site::new(here.file(), here.line(), here.column(), "");
        self.0.emit(op, args, &site).unwrap_or_else(|e| panic!("{e}"))
    }
    /// Adds an instruction with one result.
    #[track_caller]
    pub fn one(&mut self, op: Op, args: &[Value]) -> Value {
        self.all(op, args)[0]
    }
}

/// Checks the gradients of a weighted sum of all float results of `build` with respect to each float
/// input, element by element. Returns the program that was checked.
#[track_caller]
pub fn check(inputs: &[Input], build: &dyn Fn(&mut Build<'_>, &[Value]) -> Vec<Value>) -> Module {
    check_in(Module { name: "checked".into(), ..Module::default() }, &Tensors::new(), inputs, build)
}

/// Like [`check`], in a module that declares state.
#[track_caller]
pub fn check_in(
    module: Module,
    state: &Tensors,
    inputs: &[Input],
    build: &dyn Fn(&mut Build<'_>, &[Value]) -> Vec<Value>,
) -> Module {
    let mut rng = Rng::new(inputs.len() as u64);
    let mut values = Tensors::new();
    let mut b = Build(BodyBuilder::new(&module.env));
    let mut params = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        values.insert(format!("x{i}").into(), draw(&mut rng, input, i));
        params.push(b.0.param(input.ty.clone(), None));
    }
    let results = build(&mut b, &params);
    let loss = weighted_sum(&mut b, &results, &mut rng, &mut values);
    let floats: Vec<Value> = params.iter().copied().filter(|v| b.0.ty(*v).dtype.is_float()).collect();
    let gradients = b.all(Op::Control(Control::Grad), &[vec![loss], floats.clone()].concat());
    let names: Vec<Name> = floats.iter().map(|v| format!("x{}", v.0).into()).collect();
    let body = b.0.finish([vec![loss], gradients].concat());
    let outputs = [Name::from("loss")].into_iter().chain(names.iter().map(|n| format!("d{n}").into()));
    let mut function = Function { name: "f".into(), inputs: Vec::new(), outputs: outputs.collect(), body };
    function.inputs = (0..function.body.params.len()).map(|i| format!("x{i}").into()).collect();
    let mut module = module.clone();
    module.functions.push(function);

    let probe = Probe::new(&module, values, state);
    for name in &names {
        for element in 0..probe.inputs[name].data.len() {
            let mut direction = probe.inputs[name].clone();
            direction.data.fill(0.0);
            *direction.data.iter_mut().nth(element).expect("the element is there") = 1.0;
            let slope = probe.slope(name, &direction);
            let claim = probe.claim(name, &direction);
            assert!(
                near(slope.value, claim),
                "element {element} of d{name}: the gradient is {claim}, finite differences give {}\n{}",
                slope.value,
                mesh::text::print(&module)
            );
        }
    }
    module
}

/// True if a difference quotient and a gradient agree within the error of the quotient.
pub fn near(slope: f64, claim: f64) -> bool {
    (slope - claim).abs() <= 1e-6 * slope.abs().max(claim.abs()).max(1.0)
}

fn draw(rng: &mut Rng, input: &Input, position: usize) -> Tensor {
    let n = input.ty.elements();
    let numbers = match &input.draw {
        Draw::Floats(low, high) => {
            // Inputs are shifted against each other, so that no two share a value.
            let shift = (position as f64 + 1.0) / (position as f64 + 2.3);
            let spaced: Vec<f64> =
                (0..n).map(|i| low + (high - low) * (i as f64 + shift) / n as f64).collect();
            rng.shuffled(&spaced)
        }
        Draw::These(numbers) => numbers.iter().copied().cycle().take(n).collect(),
    };
    let dims: Vec<Dim> = input.ty.logical().cloned().collect();
    Tensor::new(input.ty.dtype, &dims, numbers).expect("a number was drawn for each element")
}

/// Builds `Σ w · y` over all elements of all float results; the weights `w` are further inputs.
fn weighted_sum(b: &mut Build<'_>, results: &[Value], rng: &mut Rng, values: &mut Tensors) -> Value {
    let mut loss = None;
    for y in results {
        let ty = b.0.ty(*y).clone();
        if !ty.dtype.is_float() {
            continue;
        }
        let weights = Input { ty: ty.with_dtype(DType::F32), draw: Draw::Floats(-1.0, 1.5) };
        let position = values.len();
        values.insert(format!("x{position}").into(), draw(rng, &weights, position));
        let w = b.0.param(weights.ty, None);
        let y = match ty.dtype {
            DType::F32 => *y,
            _ => b.one(Op::Elementwise(Elementwise::Cast(DType::F32)), &[*y]),
        };
        let product = b.one(Op::Elementwise(Elementwise::Binary(Binary::Mul)), &[y, w]);
        let dims = ty.names().cloned().collect();
        let sum = b.one(Op::Reduce(Reduce::Over { kind: ReduceKind::Sum, dims }), &[product]);
        loss = Some(match loss {
            None => sum,
            Some(loss) => b.one(Op::Elementwise(Elementwise::Binary(Binary::Add)), &[loss, sum]),
        });
    }
    loss.expect("a program whose gradient is tested gives a float")
}

/// A function whose first output is a loss and whose output `dNAME` is its gradient with respect to input
/// `NAME`, at one point.
pub struct Probe<'p> {
    /// The module that computes only the loss.
    forward: Module,
    inputs: Tensors,
    state: &'p Tensors,
    gradients: Tensors,
}

/// A difference quotient with an estimate of its error.
#[derive(Clone, Copy, Debug)]
pub struct Slope {
    /// The best estimate.
    pub value: f64,
    /// The difference to a coarser estimate. If it is large, the function is not smooth here.
    pub doubt: f64,
}

impl<'p> Probe<'p> {
    /// Computes the gradients of the one function of `module` at the given inputs.
    #[track_caller]
    pub fn new(module: &Module, inputs: Tensors, state: &'p Tensors) -> Self {
        let text = || mesh::text::print(module);
        let expanded =
            lower(module).unwrap_or_else(|e| panic!("autodiff refuses a program: {e}\n{}", text()));
        Global::new(expanded.clone()).unwrap_or_else(|e| panic!("autodiff broke a rule: {e}\n{}", text()));
        let outcome = interp::run(&expanded, &module.functions[0].name, &inputs, state, Precision::Wide)
            .unwrap_or_else(|e| panic!("{e}\n{}", mesh::text::print(&expanded)));
        let mut forward = expanded;
        let function = &mut forward.functions[0];
        function.outputs.truncate(1);
        function.body.results.truncate(1);
        prune(&mut function.body, false);
        Self { forward, inputs, state, gradients: outcome.outputs }
    }

    /// Returns the loss with input `name` moved by `step · direction`.
    fn loss(&self, name: &Name, direction: &Tensor, step: f64) -> f64 {
        let mut inputs = self.inputs.clone();
        let x = inputs.get_mut(name).expect("the input is there");
        x.data.zip_mut_with(&direction.data, |x, d| *x += step * d);
        let outcome =
            interp::run(&self.forward, &self.forward.functions[0].name, &inputs, self.state, Precision::Wide)
                .expect("it ran before");
        outcome.outputs[&self.forward.functions[0].outputs[0]].number()
    }

    /// Returns the slope of the loss along a direction in input `name`.
    pub fn slope(&self, name: &Name, direction: &Tensor) -> Slope {
        let quotient = |h: f64| (self.loss(name, direction, h) - self.loss(name, direction, -h)) / (2.0 * h);
        let (wide, narrow) = (quotient(2e-4), quotient(1e-4));
        // Richardson extrapolation: the error of each quotient is proportional to the square of its step.
        Slope { value: (4.0 * narrow - wide) / 3.0, doubt: (narrow - wide).abs() }
    }

    /// Returns the slope by the gradient.
    pub fn claim(&self, name: &Name, direction: &Tensor) -> f64 {
        let gradient = &self.gradients[&*format!("d{name}")].ordered(&direction.names);
        gradient.data.iter().zip(&direction.data).map(|(g, d)| g * d).sum()
    }
}

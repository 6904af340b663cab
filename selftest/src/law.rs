//! The law that all backends give the same results: backends, and the comparison of their results.

use crate::generate::{Case, shrink::shrink};
use compiler::interp::{self, Outcome, Precision, Tensor, Tensors};
use compiler::pipeline::{self, Axes};
use mesh::verify::{Global, Local};
use mesh::{Body, Function, Inst, Module, Name, Op, Value, ir::StateOp};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A case with its module at the stages of the compiler.
pub struct Programs<'c> {
    /// The case.
    pub case: &'c Case,
    /// The Global module after autodiff.
    pub global: Module,
    /// The Global module after autodiff and simplification.
    pub simple_global: Module,
    /// The Local module for the case's mesh and layouts.
    pub local: Module,
    /// The Local module of the simplified module, simplified again. Plugins run this one.
    pub simple_local: Module,
}

/// A way to run programs.
pub trait Backend: Sync {
    /// Its name in messages.
    fn name(&self) -> String;
    /// Returns the results of all functions, in the order of the module.
    fn run(&self, programs: &Programs<'_>) -> Result<Vec<Outcome>, String>;
}

/// The interpreter: on one device for the Global stages, on simulated devices for the Local ones.
pub struct Interpreter {
    /// The stage it runs.
    pub stage: Stage,
    /// The precision of its arithmetic.
    pub precision: Precision,
}

/// Selects a module of [`Programs`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// [`Programs::global`].
    Global,
    /// [`Programs::simple_global`].
    SimpleGlobal,
    /// [`Programs::local`].
    Local,
    /// [`Programs::simple_local`].
    SimpleLocal,
}

impl Backend for Interpreter {
    fn name(&self) -> String {
        format!("{:?} in the interpreter", self.stage)
    }
    fn run(&self, programs: &Programs<'_>) -> Result<Vec<Outcome>, String> {
        let module = match self.stage {
            Stage::Global => &programs.global,
            Stage::SimpleGlobal => &programs.simple_global,
            Stage::Local => &programs.local,
            Stage::SimpleLocal => &programs.simple_local,
        };
        let case = programs.case;
        let run = |f: &Function| {
            interp::run(module, &f.name, &case.inputs[&f.name], &case.state, self.precision)
                .map_err(|e| e.to_string())
        };
        module.functions.iter().map(run).collect()
    }
}

/// A program that runs all functions of a module in sequence, with the inputs of a case. Compilation by a
/// plugin is slow, so that one program is compiled for all of them.
pub struct Merged {
    /// The module, with the function `all`.
    pub module: Module,
    /// The inputs of `all`.
    pub inputs: Tensors,
    functions: Vec<Function>,
}

impl Merged {
    /// Merges the functions of a case's Local module: on the case's mesh, or else on one device.
    pub fn new(programs: &Programs<'_>, partitioned: bool) -> Result<Self, String> {
        let whole = || -> Result<Module, String> {
            let local = pipeline::partition(&programs.simple_global, &Axes::default());
            local.and_then(|local| pipeline::simplify(&local)).map_err(|e| e.to_string())
        };
        let local = if partitioned { programs.simple_local.clone() } else { whole()? };
        let mut inputs = Tensors::new();
        for (function, own) in &programs.case.inputs {
            inputs.extend(own.iter().map(|(name, x)| (joined(function, name), x.clone())));
        }
        Ok(Self { module: merged(&local), inputs, functions: local.functions })
    }

    /// Divides the outcome of `all` into the outcomes of the functions, which began with `state`.
    pub fn parts(&self, outcome: &Outcome, state: &Tensors) -> Vec<Outcome> {
        self.functions.iter().map(|f| part(&self.module, f, outcome, state)).collect()
    }
}

/// Returns the name of a function's input or output in the merged function.
fn joined(function: &Name, name: &Name) -> Name {
    format!("{function}/{name}").into()
}

/// Merges all functions into one that runs them in sequence.
fn merged(module: &Module) -> Module {
    let mut all =
        Function { name: "all".into(), inputs: Vec::new(), outputs: Vec::new(), body: Body::default() };
    for f in &module.functions {
        all.inputs.extend(f.inputs.iter().map(|name| joined(&f.name, name)));
        all.outputs.extend(f.outputs.iter().map(|name| joined(&f.name, name)));
        let values: Vec<Value> =
            f.body.values.iter().map(|(_, data)| all.body.values.push(data.clone())).collect();
        let moved = |list: &[Value]| list.iter().map(|v| values[v.0 as usize]).collect::<Vec<_>>();
        all.body.params.extend(moved(&f.body.params));
        all.body.results.extend(moved(&f.body.results));
        all.body.insts.extend(f.body.insts.iter().map(|inst| Inst {
            args: moved(&inst.args),
            results: moved(&inst.results),
            ..inst.clone()
        }));
    }
    Module { functions: vec![all], ..module.clone() }
}

/// Extracts the results of one function from those of the merged function.
fn part(module: &Module, f: &Function, all: &Outcome, state: &Tensors) -> Outcome {
    let outputs = f.outputs.iter().map(|name| (name.clone(), all.outputs[&joined(&f.name, name)].clone()));
    let mut outcome = Outcome { outputs: outputs.collect(), state: state.clone() };
    for inst in &f.body.insts {
        if let Op::State(StateOp::Write(id)) = inst.op {
            let name = &module.env.states[id].name;
            outcome.state.insert(name.clone(), all.state[name].clone());
        }
    }
    outcome
}

/// Runs the compiler's stages on a case. Each stage must accept its input, which is legal.
pub fn prepare(case: &Case) -> Result<Programs<'_>, String> {
    Global::new(case.module.clone()).map_err(|e| format!("the verifier refuses the program: {e}"))?;
    let global = lower(&case.module).map_err(|e| format!("autodiff refuses the program: {e}"))?;
    accepted(Global::new(global.clone()).err(), "autodiff", &global)?;
    let simple_global = simplified(&global)?;
    accepted(Global::new(simple_global.clone()).err(), "the passes", &simple_global)?;
    let local = partitioned(case, &global)?;
    let simple_local = simplified(&partitioned(case, &simple_global)?)?;
    accepted(Local::new(simple_local.clone()).err(), "the passes", &simple_local)?;
    Ok(Programs { case, global, simple_global, local, simple_local })
}

fn simplified(module: &Module) -> Result<Module, String> {
    pipeline::simplify(module).map_err(|e| e.to_string())
}

fn partitioned(case: &Case, global: &Module) -> Result<Module, String> {
    let mut layouts = case.clone();
    // Simplification can remove dims.
    layouts.module = global.clone();
    layouts.drop_idle_rules();
    let (compute, state) = (layouts.layout.resolve(&case.mesh)?, layouts.state_layout.resolve(&case.mesh)?);
    let local = pipeline::partition(global, &Axes { mesh: case.mesh.clone(), compute, state })
        .map_err(|e| format!("the partitioner refuses a legal layout: {e}"))?;
    accepted(Local::new(local.clone()).err(), "the partitioner", &local)?;
    Ok(local)
}

fn accepted(errors: Option<mesh::Diagnostics>, who: &str, module: &Module) -> Result<(), String> {
    match errors {
        None => Ok(()),
        Some(e) => Err(format!("the verifier refuses what {who} made: {e}\n{}", mesh::text::print(module))),
    }
}

/// Runs autodiff.
pub fn lower(module: &Module) -> Result<Module, mesh::Diagnostics> {
    compiler::autodiff::expand(module)
}

/// The tolerance of a comparison: two floats differ at most by the sum of all bounds.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Relative to the largest element of the tensor, or to 1 if that is larger.
    pub relative: f64,
    /// The same for functions with bf16 values: one backend may round once where another rounds twice.
    pub bf16: f64,
    /// Relative to the largest effect of rounding on the tensor in the interpreter: a program that amplifies
    /// rounding does so on every backend.
    pub rounding: f64,
}

/// The largest difference of the elements of tensors.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Worst {
    /// The difference relative to the largest element of the tensor, or to 1 if that is larger.
    pub relative: f64,
    /// The difference as a part of the tolerance.
    pub of_tolerance: f64,
}

impl Worst {
    /// Returns the larger of both.
    pub fn or(self, other: Self) -> Self {
        Self {
            relative: self.relative.max(other.relative),
            of_tolerance: self.of_tolerance.max(other.of_tolerance),
        }
    }
}

/// Compares the results `a` and `b`; the error is the first difference. `rounding` contains the results
/// without rounding and with maximal rounding, if the tolerance needs them.
pub fn compare(
    functions: &[Function],
    [a, b]: [&[Outcome]; 2],
    rounding: Option<[&[Outcome]; 2]>,
    near: Tolerance,
) -> Result<Worst, String> {
    let mut worst = Worst::default();
    for (i, function) in functions.iter().enumerate() {
        let near = if narrow(&function.body) {
            Tolerance { relative: near.relative + near.bf16, ..near }
        } else {
            near
        };
        let rounding = rounding.map(|[wide, normal]| [&wide[i], &normal[i]]);
        let outputs = rounding.map(|r| r.map(|o| &o.outputs));
        let state = rounding.map(|r| r.map(|o| &o.state));
        let of_outputs = same(&a[i].outputs, &b[i].outputs, outputs, near)
            .map_err(|m| format!("function `{}`: output {m}", function.name))?;
        let of_state = same(&a[i].state, &b[i].state, state, near)
            .map_err(|m| format!("function `{}`: state {m}", function.name))?;
        worst = worst.or(of_outputs).or(of_state);
    }
    Ok(worst)
}

fn same(a: &Tensors, b: &Tensors, rounding: Option<[&Tensors; 2]>, near: Tolerance) -> Result<Worst, String> {
    let mut worst = Worst::default();
    if !a.keys().eq(b.keys()) {
        let list = |t: &Tensors| t.keys().map(Name::to_string).collect::<Vec<_>>().join(", ");
        return Err(format!("names: {} and {}", list(a), list(b)));
    }
    for (name, x) in a {
        let mut y = b[name].clone();
        if x.names.len() == y.names.len() && x.names.iter().all(|n| y.names.contains(n)) {
            // The order of dims has no meaning.
            y = y.ordered(&x.names);
        }
        if x.dtype != y.dtype || x.dims() != y.dims() {
            return Err(format!("`{name}`: {}{:?} and {}{:?}", x.dtype, x.dims(), y.dtype, y.dims()));
        }
        let lost = rounding.map_or(0.0, |[wide, normal]| distance(&wide[name], &normal[name]));
        let limit = limit(x, &y, lost, near);
        if let Some((place, (p, q))) = differs(x, &y, limit) {
            let dims = x.dims();
            return Err(format!("`{name}`: element {place} of {dims:?} is {p:?} and {q:?} (±{limit:e})"));
        }
        let apart = distance(x, &y);
        if apart > 0.0 {
            worst = worst.or(Worst { relative: apart / scale(x, &y), of_tolerance: apart / limit });
        }
    }
    Ok(worst)
}

/// True if a body has bf16 values.
fn narrow(body: &Body) -> bool {
    let own = body.values.iter().any(|(_, v)| v.ty.dtype == mesh::DType::Bf16);
    own || body.insts.iter().flat_map(|inst| inst.op.bodies()).any(narrow)
}

/// Returns the largest allowed difference of elements.
fn limit(x: &Tensor, y: &Tensor, lost: f64, near: Tolerance) -> f64 {
    if !x.dtype.is_float() {
        return 0.0;
    }
    near.relative * scale(x, y) + near.rounding * lost
}

/// Returns the largest finite magnitude of both, at least 1.
fn scale(x: &Tensor, y: &Tensor) -> f64 {
    let finite = x.data.iter().chain(&y.data).filter(|v| v.is_finite());
    finite.fold(1.0, |m: f64, v| m.max(v.abs()))
}

fn distance(x: &Tensor, y: &Tensor) -> f64 {
    x.data.iter().zip(&y.data).map(|(p, q)| (p - q).abs()).filter(|d| d.is_finite()).fold(0.0, f64::max)
}

/// Returns the first element that differs.
fn differs(x: &Tensor, y: &Tensor, limit: f64) -> Option<(usize, (f64, f64))> {
    let equal = |p: f64, q: f64| p == q || p.is_nan() && q.is_nan() || (p - q).abs() <= limit;
    let pairs = x.data.iter().copied().zip(y.data.iter().copied());
    pairs.enumerate().find(|(_, (p, q))| !equal(*p, *q))
}

/// Two backends whose results must agree.
pub struct Law<'b> {
    /// The first backend.
    pub one: &'b dyn Backend,
    /// The second backend.
    pub other: &'b dyn Backend,
    /// The tolerance.
    pub near: Tolerance,
}

/// Returns the largest difference between the backends of all laws.
///
/// # Errors
/// A stage refuses the case or panics, a backend fails, or results differ.
pub fn judge(case: &Case, laws: &[Law<'_>]) -> Result<Worst, String> {
    let attempt = || -> Result<Worst, String> {
        let mut worst = Worst::default();
        let programs = prepare(case)?;
        let run =
            |backend: &dyn Backend| backend.run(&programs).map_err(|e| format!("{}: {e}", backend.name()));
        let global = |precision| run(&Interpreter { stage: Stage::Global, precision });
        for law in laws {
            let rounding = match law.near.rounding > 0.0 {
                true => Some([global(Precision::Wide)?, global(Precision::Harsh)?]),
                false => None,
            };
            let rounding = rounding.as_ref().map(|r| r.each_ref().map(|o| &o[..]));
            let (one, other) = (run(law.one)?, run(law.other)?);
            let apart = compare(&case.module.functions, [&one, &other], rounding, law.near)
                .map_err(|e| format!("{} against {}: {e}", law.one.name(), law.other.name()))?;
            worst = worst.or(apart);
        }
        Ok(worst)
    };
    catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no message)");
        Err(format!("panic: {text}"))
    })
}

/// A case that breaks a law.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The law and the first difference.
    pub message: String,
    /// The case, reduced as far as it still fails in the same way.
    pub case: Box<Case>,
}

/// Reduces a case that fails with `first`, as long as `goes_on` returns true.
pub fn reduced(case: &Case, first: String, laws: &[Law<'_>], goes_on: &dyn Fn() -> bool) -> Failure {
    // A smaller case must fail in the same way: the message up to the first colon must be the same.
    let kind = first.split(':').next().unwrap_or_default().to_owned();
    let fails = |case: &Case| {
        let message = goes_on().then(|| judge(case, laws).err()).flatten();
        message.filter(|message| message.starts_with(&kind))
    };
    let alone = case.functions().find_map(|case| fails(&case).map(|message| (case, message)));
    let Some((alone, message)) = alone else {
        return Failure { message: format!("all functions together: {first}"), case: Box::new(case.clone()) };
    };
    let (small, message) = shrink(alone, message, &|module| lower(module).ok(), &fails);
    Failure { message, case: Box::new(small) }
}

impl fmt::Display for Failure {
    /// Writes the difference, and everything that reproduces it: the program, its placement and its values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { seed, module, mesh, layout, state_layout, inputs, state } = &*self.case;
        writeln!(f, "{}", self.message)?;
        writeln!(f, "seed {seed} mesh `{mesh}` layout `{layout}` state layout `{state_layout}`")?;
        write!(f, "{}", mesh::text::print(module))?;
        let used = state.iter().filter(|(name, _)| module.env.states.iter().any(|(_, s)| s.name == **name));
        for (name, x) in inputs.values().flatten().chain(used) {
            writeln!(f, "// {name}: {}{:?} = {:?}", x.dtype, x.dims(), x.elements())?;
        }
        let local = catch_unwind(AssertUnwindSafe(|| {
            prepare(&self.case).map(|programs| mesh::text::print(&programs.simple_local))
        }));
        match local {
            Ok(Ok(text)) => write!(f, "// The program of one device:\n{text}"),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }
}

//! The law that a program means the same however it is run: backends, and how their results are compared.

use crate::generate::{Case, shrink::shrink};
use compiler::interp::{self, Outcome, Precision, Tensor, Tensors};
use compiler::{partition::partition, passes};
use mesh::verify::{Global, Local};
use mesh::{Module, Name};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A case made ready to run: its module at the stages of the compiler.
pub struct Programs<'c> {
    /// Where it comes from.
    pub case: &'c Case,
    /// Without requests for gradients.
    pub global: Module,
    /// The same, simplified.
    pub simple_global: Module,
    /// One device's program for the case's mesh and layouts.
    pub local: Module,
    /// From the simplified module, and simplified again: what is handed to plugins.
    pub simple_local: Module,
}

/// One way to run programs.
pub trait Backend: Sync {
    /// What it is called in messages.
    fn name(&self) -> String;
    /// What the functions give, in the order of the module.
    fn run(&self, programs: &Programs<'_>) -> Result<Vec<Outcome>, String>;
}

/// The interpreter: on one device for the Global stages, on simulated devices for the Local ones.
pub struct Interpreter {
    /// Which stage it runs.
    pub stage: Stage,
    /// With which numbers.
    pub precision: Precision,
}

/// The modules in [`Programs`].
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
        let run = |f: &mesh::Function| {
            interp::run(module, &f.name, &case.inputs[&f.name], &case.state, self.precision)
                .map_err(|e| e.to_string())
        };
        module.functions.iter().map(run).collect()
    }
}

/// Runs the compiler's stages on a case; each must accept its input, since all of it is legal.
pub fn prepare(case: &Case) -> Result<Programs<'_>, String> {
    Global::new(case.module.clone()).map_err(|e| format!("the verifier refuses the program: {e}"))?;
    let global = lower(&case.module).map_err(|e| format!("autodiff refuses the program: {e}"))?;
    accepted(Global::new(global.clone()).err(), "autodiff", &global)?;
    let mut simple_global = global.clone();
    passes::simplify(&mut simple_global);
    accepted(Global::new(simple_global.clone()).err(), "the passes", &simple_global)?;
    let local = partitioned(case, &global)?;
    let mut simple_local = partitioned(case, &simple_global)?;
    passes::simplify(&mut simple_local);
    accepted(Local::new(simple_local.clone()).err(), "the passes", &simple_local)?;
    Ok(Programs { case, global, simple_global, local, simple_local })
}

fn partitioned(case: &Case, global: &Module) -> Result<Module, String> {
    let mut layouts = case.clone();
    // Simplified programs may have lost some dims.
    layouts.module = global.clone();
    layouts.drop_idle_rules();
    let compute = layouts.layout.resolve(&case.mesh)?;
    let state = layouts.state_layout.resolve(&case.mesh)?;
    let local = partition(global, &case.mesh, &compute, &state)
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

/// Replaces requests for gradients.
pub fn lower(module: &Module) -> Result<Module, mesh::Diagnostics> {
    compiler::autodiff::expand(module)
}

/// How near two floats must be.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Times the largest element of the tensor, or 1.
    pub relative: f64,
}

/// Whether both give the same; if not, where they differ first.
pub fn compare(
    functions: &[mesh::Function],
    a: &[Outcome],
    b: &[Outcome],
    near: Tolerance,
) -> Result<(), String> {
    for ((function, a), b) in functions.iter().zip(a).zip(b) {
        for (what, a, b) in [("output", &a.outputs, &b.outputs), ("state", &a.state, &b.state)] {
            same(a, b, near).map_err(|m| format!("function `{}`: {what} {m}", function.name))?;
        }
    }
    Ok(())
}

fn same(a: &Tensors, b: &Tensors, near: Tolerance) -> Result<(), String> {
    if !a.keys().eq(b.keys()) {
        let list = |t: &Tensors| t.keys().map(Name::to_string).collect::<Vec<_>>().join(", ");
        return Err(format!("names: {} and {}", list(a), list(b)));
    }
    for (name, x) in a {
        let mut y = b[name].clone();
        if x.names.len() == y.names.len() && x.names.iter().all(|n| y.names.contains(n)) {
            // The order of dims changes no meaning.
            y = y.ordered(&x.names);
        }
        if x.dtype != y.dtype || x.dims() != y.dims() {
            return Err(format!("`{name}`: {}{:?} and {}{:?}", x.dtype, x.dims(), y.dtype, y.dims()));
        }
        if let Some((place, (p, q))) = differs(x, &y, near) {
            return Err(format!("`{name}`: element {place} of {:?} is {p:?} and {q:?}", x.dims()));
        }
    }
    Ok(())
}

/// The first element in which they differ.
fn differs(x: &Tensor, y: &Tensor, near: Tolerance) -> Option<(usize, (f64, f64))> {
    let largest =
        x.data.iter().chain(&y.data).filter(|v| v.is_finite()).fold(1.0, |m: f64, v| m.max(v.abs()));
    let limit = if x.dtype.is_float() { near.relative * largest } else { 0.0 };
    let equal = |p: f64, q: f64| p == q || p.is_nan() && q.is_nan() || (p - q).abs() <= limit;
    let pairs = x.data.iter().copied().zip(y.data.iter().copied());
    pairs.enumerate().find(|(_, (p, q))| !equal(*p, *q))
}

/// Two backends that give the same.
pub struct Law<'b> {
    /// One.
    pub one: &'b dyn Backend,
    /// The other.
    pub other: &'b dyn Backend,
    /// How nearly the same.
    pub near: Tolerance,
}

/// What is wrong with a case, if anything: a stage refuses it or panics, a backend fails, or a law is
/// broken.
pub fn broken(case: &Case, laws: &[Law<'_>]) -> Option<String> {
    let attempt = || -> Result<(), String> {
        let programs = prepare(case)?;
        for law in laws {
            let run = |backend: &dyn Backend| {
                backend.run(&programs).map_err(|e| format!("{}: {e}", backend.name()))
            };
            let (one, other) = (run(law.one)?, run(law.other)?);
            compare(&case.module.functions, &one, &other, law.near)
                .map_err(|e| format!("{} against {}: {e}", law.one.name(), law.other.name()))?;
        }
        Ok(())
    };
    match catch_unwind(AssertUnwindSafe(attempt)) {
        Ok(result) => result.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("(no message)");
            Some(format!("panic: {text}"))
        }
    }
}

/// Checks a case. A failure is made small and shown with all that is needed to see it again.
#[track_caller]
pub fn check(case: &Case, laws: &[Law<'_>]) {
    let Some(first) = broken(case, laws) else { return };
    // A smaller case must fail in the same way: the words up to the first colon say how.
    let kind = first.split(':').next().unwrap_or_default().to_owned();
    let fails = |case: &Case| broken(case, laws).filter(|m| m.starts_with(&kind));
    let alone = case.functions().find_map(|case| fails(&case).map(|message| (case, message)));
    let Some((alone, message)) = alone else {
        panic!("seed {}: only all functions of the module together fail: {first}", case.seed);
    };
    let (small, message) = shrink(alone, message, &|module| lower(module).ok(), &fails);
    let local = match catch_unwind(AssertUnwindSafe(|| {
        prepare(&small).map(|p| mesh::text::print(&p.simple_local))
    })) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) | Err(_) => String::new(),
    };
    panic!(
        "{message}\nseed {} mesh `{}` layout `{}` state layout `{}`\n{}\n{local}",
        small.seed,
        small.mesh,
        small.layout,
        small.state_layout,
        mesh::text::print(&small.module),
    );
}

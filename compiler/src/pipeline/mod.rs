//! The pipeline: stages in order, with a verified program between them.
//!
//! `order` lists all stages and passes. A stage takes a verified module and returns a module, which is
//! verified before the next stage runs. A mistake in the program or its layout is reported before the first
//! stage that rewrites the program ([`verify`], [`check_layout`]); whatever a later stage refuses is a fault
//! of the compiler and is reported as such, with the stage and the pass. Nothing is written and no clock is
//! read here: an [`Observer`] sees the program after each pass and stage, and may dump or time it.

mod order;
mod step;
#[cfg(test)]
mod tests;

pub use order::{Pass, Stage};
pub use step::{Observer, PassRun, Step, unobserved};

use crate::{
    artefact::{self, Artefact, Settings},
    fault::ours,
    partition, precision,
};
use mesh::{
    Diagnostic, Diagnostics, Layout, Mesh, Module,
    layout::AxisMap,
    verify::{Global, Local},
};
use order::{Group, Run};
use std::{borrow::Cow, ops::ControlFlow};
use step::View;

/// The mesh and the layouts that a program is compiled for.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Placement {
    /// The mesh.
    pub mesh: Mesh,
    /// Rules for the dims of every value.
    pub layout: Layout,
    /// Further rules for stored tensors.
    pub state_layout: Layout,
}

impl Placement {
    /// Looks up the axes of the rules.
    pub fn resolve(&self) -> Result<Axes, Diagnostic> {
        let resolve = |layout: &Layout, what: &str| {
            layout.resolve(&self.mesh).map_err(|message| Diagnostic::new("", format!("{what}: {message}")))
        };
        Ok(Axes {
            mesh: self.mesh.clone(),
            compute: resolve(&self.layout, "layout")?,
            state: resolve(&self.state_layout, "state layout")?,
        })
    }
}

/// A placement with the axes of its rules looked up.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Axes {
    /// The mesh.
    pub mesh: Mesh,
    /// Rules for the dims of every value.
    pub compute: AxisMap,
    /// Further rules for stored tensors.
    pub state: AxisMap,
}

/// Runs all stages but [`Stage::Hlo`].
pub fn compile(module: Module, placement: &Placement, observe: Observer) -> Result<Local, Diagnostics> {
    let global = verify(module, observe)?;
    check_layout(&global, placement)?;
    let global = optimize(global, Stage::SimplifyGradients, observe)?;
    localize(&global, placement, Stage::SimplifyLocal, observe)
}

/// Verifies a program as its author wrote it, and the precision that it states.
pub fn verify(module: Module, observe: Observer) -> Result<Global, Diagnostics> {
    let global = Global::new(module)?;
    if precision::is_selective(global.module()) {
        precision::routers(global.module())?;
    }
    observe(Step { stage: Stage::Verify, pass: None, view: View::Module(global.module()) });
    Ok(global)
}

/// Verifies a program of one device, such as a dump of stage `simplify-local`. Only [`emit`] is left to run
/// on it.
pub fn verify_local(module: Module, observe: Observer) -> Result<Local, Diagnostics> {
    let local = Local::new(module)?;
    observe(Step { stage: Stage::Verify, pass: None, view: View::Module(local.module()) });
    Ok(local)
}

/// Checks the layouts against a program and reports all mistakes. Check the program as its author wrote it:
/// mistakes are then reported at its own lines, and dims that optimization removes still count.
pub fn check_layout(global: &Global, placement: &Placement) -> Result<(), Diagnostics> {
    let axes = placement.resolve()?;
    partition::check(global.module(), &axes.mesh, &axes.compute, &axes.state)
}

/// Expands gradients and makes the program small. `last` is the last stage to run, at most
/// [`Stage::SimplifyGradients`].
pub fn optimize(global: Global, last: Stage, observe: Observer) -> Result<Global, Diagnostics> {
    let mut global = global;
    for stage in [Stage::Simplify, Stage::Autodiff, Stage::SimplifyGradients] {
        if stage <= last {
            let groups = stage.groups();
            global = run(stage, groups, global.module(), &Axes::default(), Global::new, observe)?;
            observe(Step { stage, pass: None, view: View::Module(global.module()) });
        }
    }
    Ok(global)
}

/// Makes the program of one device from an optimized program whose layout [`check_layout`] has accepted.
/// `last` is the last stage to run, [`Stage::Partition`] or a later one.
pub fn localize(
    global: &Global,
    placement: &Placement,
    last: Stage,
    observe: Observer,
) -> Result<Local, Diagnostics> {
    let axes = placement.resolve()?;
    let stage = Stage::Partition;
    let local = run(stage, stage.groups(), global.module(), &axes, Local::new, observe)?;
    observe(Step { stage, pass: None, view: View::Module(local.module()) });
    if last < Stage::SimplifyLocal {
        return Ok(local);
    }
    let stage = Stage::SimplifyLocal;
    let local = run(stage, simplifying(local.module()), local.module(), &axes, Local::new, observe)?;
    if precision::is_selective(local.module()) {
        precision::exchanges(local.module())?;
    }
    observe(Step { stage, pass: None, view: View::Module(local.module()) });
    Ok(local)
}

/// Makes every output whole on every device, for programs whose devices belong to several hosts: each host
/// can then read all outputs. State stays split.
pub fn replicate_outputs(local: Local) -> Result<Local, Diagnostics> {
    let mut module = local.into_module();
    partition::outputs::replicate(&mut module);
    Local::new(module).map_err(|mistakes| ours("replicate-outputs", None, mistakes))
}

/// Makes the files of an artefact.
pub fn emit(local: &Local, settings: &Settings, observe: Observer) -> Result<Artefact, Diagnostics> {
    let artefact = artefact::build(local.module(), settings)?;
    observe(Step { stage: Stage::Hlo, pass: None, view: View::Artefact(&artefact) });
    Ok(artefact)
}

/// Makes a program without requests for gradients small: a Global one with the passes of [`Stage::Simplify`],
/// a Local one with those of [`Stage::SimplifyLocal`].
pub fn simplify(module: &Module) -> Result<Module, Diagnostics> {
    let stage = if module.env.mesh.axes().is_empty() { Stage::Simplify } else { Stage::SimplifyLocal };
    run(stage, stage.groups(), module, &Axes::default(), Ok, &mut unobserved)
}

/// Checks a layout and partitions a Global module without requests for gradients, which need not be
/// optimized.
pub fn partition(module: &Module, axes: &Axes) -> Result<Module, Diagnostics> {
    partition::check(module, &axes.mesh, &axes.compute, &axes.state)?;
    run(Stage::Partition, Stage::Partition.groups(), module, axes, Ok, &mut unobserved)
}

/// The passes of [`Stage::SimplifyLocal`]. A program for one device without axes is still a Global program,
/// and takes the passes of those.
fn simplifying(local: &Module) -> &'static [Group] {
    if local.env.mesh.axes().is_empty() { Stage::Simplify.groups() } else { Stage::SimplifyLocal.groups() }
}

/// Runs the passes of a stage and verifies the result. Whatever is refused is reported as a fault of the
/// compiler.
fn run<V>(
    stage: Stage,
    groups: &[Group],
    module: &Module,
    axes: &Axes,
    verified: fn(Module) -> Result<V, Diagnostics>,
    observe: Observer,
) -> Result<V, Diagnostics> {
    let mut current = Cow::Borrowed(module);
    let mut refused = Ok(());
    each(groups, &mut current, axes, &mut |pass, outcome, module| match outcome {
        Ok(pass) => {
            observe(Step { stage, pass: Some(pass), view: View::Module(module) });
            ControlFlow::Continue(())
        }
        Err(mistakes) => {
            refused = Err(ours(stage.name(), Some(pass), mistakes));
            ControlFlow::Break(())
        }
    });
    refused?;
    verified(current.into_owned()).map_err(|mistakes| {
        // The passes run again, with the verifier after each of them, to find the one to blame.
        let mut again = Cow::Borrowed(module);
        let mut guilty = None;
        each(groups, &mut again, axes, &mut |pass, _, module| {
            if verified(module.clone()).is_ok() {
                return ControlFlow::Continue(());
            }
            guilty = Some(pass);
            ControlFlow::Break(())
        });
        ours(stage.name(), guilty, mistakes)
    })
}

/// Called after each pass with its name, how it went, and the module.
type After<'a> = &'a mut dyn FnMut(&'static str, Result<PassRun, Diagnostics>, &Module) -> ControlFlow<()>;

/// Runs passes in order until `after` breaks.
fn each(groups: &[Group], module: &mut Cow<Module>, axes: &Axes, after: After) {
    let mut number = 0;
    for group in groups {
        let (passes, rounds) = group.passes();
        for _ in 0..rounds {
            let mut changed = false;
            for pass in passes {
                number += 1;
                let outcome = apply(pass.run, module, axes);
                changed |= outcome.as_ref().is_ok_and(|changed| *changed);
                let outcome = outcome.map(|changed| PassRun { name: pass.name, number, changed });
                if after(pass.name, outcome, module).is_break() {
                    return;
                }
            }
            if !changed {
                break;
            }
        }
    }
}

/// Runs one pass. Returns true if it changed the module.
fn apply(run: Run, module: &mut Cow<Module>, axes: &Axes) -> Result<bool, Diagnostics> {
    let new = match run {
        Run::Rewrite(rewrite) => return Ok(rewrite(module.to_mut())),
        Run::Expand(expand) => expand(module)?,
        Run::Partition => partition::partition(module, &axes.mesh, &axes.compute, &axes.state)?,
        Run::Peepholes(peepholes) => return Ok(partition::peephole::run(module.to_mut(), peepholes)?),
    };
    *module = Cow::Owned(new);
    Ok(true)
}

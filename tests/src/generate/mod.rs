//! Random well-typed programs with random meshes and legal layouts, the same from the same seed.
//!
//! The programs cover every operation family, states, scans, conditionals and gradients. They are *tame*:
//! no number overflows, nothing divides by what may be 0, and operations that jump (comparisons, sorts,
//! casts to integers) see *exact* operands only, those that are the same bit for bit however the program
//! is run. So whoever runs a program right gets nearly the same numbers.
//!
//! Reading order: [`rng`], [`program`] (functions, and what each family adds to them in the file of its
//! name), [`layout`], [`values`], [`shrink`](mod@shrink).

mod contract;
mod control;
mod elementwise;
mod index;
pub mod layout;
pub mod program;
mod random;
mod reduce;
pub mod rng;
mod shape;
pub mod shrink;
pub mod values;

use compiler::interp::Tensors;
use mesh::{Layout, Mesh, Module, Name};
use rng::Rng;
use std::collections::BTreeMap;

/// A Global module with all that is needed to run it on one device or many.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it was made from.
    pub seed: u64,
    /// The functions `f0`, `f1`, … with dims and states of their own. They may ask for gradients.
    pub module: Module,
    /// A mesh of 1 to 8 devices.
    pub mesh: Mesh,
    /// A layout that is legal for every value.
    pub layout: Layout,
    /// How states are split further.
    pub state_layout: Layout,
    /// Inputs of each function.
    pub inputs: BTreeMap<Name, Tensors>,
    /// All state.
    pub state: Tensors,
}

/// The case of `seed`, with `functions` independent programs in one module, each of about `size`
/// instructions besides those of inner bodies and gradients.
pub fn case(seed: u64, functions: usize, size: usize) -> Case {
    let mut rng = Rng::new(seed);
    let (module, hints) = program::module(&mut rng, functions, size);
    let mesh = layout::mesh(&mut rng);
    let (layout, state_layout) = layout::legal(&mut rng, &lowered(&module), &mesh);
    let (inputs, state) = values::of(&mut rng, &module, &hints);
    Case { seed, module, mesh, layout, state_layout, inputs, state }
}

/// The module whose values the layout must suit: gradients add some. If they cannot be had, that is for a
/// test to find out, not for the generator.
fn lowered(module: &Module) -> Module {
    let expanded = std::panic::catch_unwind(|| compiler::autodiff::expand(module));
    expanded.ok().and_then(Result::ok).unwrap_or_else(|| module.clone())
}

impl Case {
    /// The same programs on another mesh, with another layout.
    pub fn relaid(&self, seed: u64) -> Case {
        let mut rng = Rng::new(!seed);
        let mesh = layout::mesh(&mut rng);
        let (layout, state_layout) = layout::legal(&mut rng, &lowered(&self.module), &mesh);
        Case { mesh, layout, state_layout, ..self.clone() }
    }

    /// Each function as a case by itself.
    pub fn functions(&self) -> impl Iterator<Item = Case> {
        self.module.functions.iter().map(|function| {
            let mut case = self.clone();
            case.module.functions = vec![function.clone()];
            case.inputs.retain(|name, _| *name == function.name);
            case.drop_idle_rules();
            case
        })
    }

    /// Removes layout rules for dims that no value has; the compiler takes them for mistakes.
    pub fn drop_idle_rules(&mut self) {
        let types = layout::types(&self.module);
        let used = |name: &Name| *name == "*" || types.iter().any(|ty| ty.has(name));
        self.layout.rules.retain(|(name, _)| used(name));
        self.state_layout.rules.retain(|(name, _)| used(name));
    }
}

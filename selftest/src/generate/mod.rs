//! Random well-typed programs with random meshes and legal layouts, deterministic in the seed.
//!
//! The programs cover every operation family, states, scans, conditionals and gradients. They are *tame*:
//! no number overflows, no divisor can be 0, and discontinuous operations (comparisons, sorts, casts to
//! integers) have only *exact* operands, which are bit-equal however the program is run. All correct backends
//! therefore give nearly the same numbers.
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

/// A Global module with everything needed to run it on one device or many.
#[derive(Clone, Debug)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// The functions `f0`, `f1`, … with separate dims and states. They can contain gradient requests.
    pub module: Module,
    /// The mesh, of 1 to 8 devices.
    pub mesh: Mesh,
    /// The layout, which is legal for every value.
    pub layout: Layout,
    /// The state layout.
    pub state_layout: Layout,
    /// The inputs of each function.
    pub inputs: BTreeMap<Name, Tensors>,
    /// The state of all functions.
    pub state: Tensors,
}

/// Generates the case of `seed`: `functions` independent programs in one module, each with about `size`
/// instructions, not counting inner bodies and gradients.
pub fn case(seed: u64, functions: usize, size: usize) -> Case {
    on_mesh(seed, functions, size, &layout::mesh)
}

/// [`case`] with a mesh that `mesh` chooses.
pub fn on_mesh(seed: u64, functions: usize, size: usize, mesh: &dyn Fn(&mut Rng) -> Mesh) -> Case {
    let mut rng = Rng::new(seed);
    let (module, hints) = program::module(&mut rng, functions, size);
    let mesh = mesh(&mut rng);
    let (layout, state_layout) = layout::legal(&mut rng, &lowered(&module), &mesh);
    let (inputs, state) = values::of(&mut rng, &module, &hints);
    Case { seed, module, mesh, layout, state_layout, inputs, state }
}

/// Returns the module for whose values the layout must be legal: that with gradients. If autodiff fails, a
/// test reports it, not the generator.
fn lowered(module: &Module) -> Module {
    let expanded = std::panic::catch_unwind(|| compiler::autodiff::expand(module));
    expanded.ok().and_then(Result::ok).unwrap_or_else(|| module.clone())
}

impl Case {
    /// Returns the same programs on another mesh, with another layout.
    pub fn relaid(&self, seed: u64) -> Case {
        let mut rng = Rng::new(!seed);
        let mesh = layout::mesh(&mut rng);
        let (layout, state_layout) = layout::legal(&mut rng, &lowered(&self.module), &mesh);
        Case { mesh, layout, state_layout, ..self.clone() }
    }

    /// Returns each function as a separate case.
    pub fn functions(&self) -> impl Iterator<Item = Case> {
        self.module.functions.iter().map(|function| {
            let mut case = self.clone();
            case.module.functions = vec![function.clone()];
            case.inputs.retain(|name, _| *name == function.name);
            case.drop_idle_rules();
            case
        })
    }

    /// Removes layout rules for dims that no value has, which the compiler reports as errors.
    pub fn drop_idle_rules(&mut self) {
        let types = layout::types(&self.module);
        let used = |name: &Name| *name == "*" || types.iter().any(|ty| ty.has(name));
        self.layout.rules.retain(|(name, _)| used(name));
        self.state_layout.rules.retain(|(name, _)| used(name));
    }
}

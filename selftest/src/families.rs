//! Counts of operations by family.

use mesh::{Body, Module, Op};

/// The names of the families.
pub const NAMES: [&str; 9] =
    ["elementwise", "contract", "reduce", "shape", "index", "random", "state", "control", "collective"];

/// Numbers of instructions of each family, in the order of [`NAMES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts(pub [u64; 9]);

impl Counts {
    /// Adds the instructions of all functions of a module, those of inner bodies included.
    pub fn add(&mut self, module: &Module) {
        module.functions.iter().for_each(|function| self.body(&function.body));
    }

    fn body(&mut self, body: &Body) {
        for inst in &body.insts {
            self.0[index(&inst.op)] += 1;
            inst.op.bodies().into_iter().for_each(|inner| self.body(inner));
        }
    }

    /// Returns names and counts.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        NAMES.into_iter().zip(self.0)
    }
}

fn index(op: &Op) -> usize {
    match op {
        Op::Elementwise(_) => 0,
        Op::Contract(_) => 1,
        Op::Reduce(_) => 2,
        Op::Shape(_) => 3,
        Op::Index(_) => 4,
        Op::Random(_) => 5,
        Op::State(_) => 6,
        Op::Control(_) => 7,
        Op::Collective(_) => 8,
    }
}

//! Passes that make a program smaller without changing what it means. All work on both stages.
//!
//! - [`fold`]: arithmetic on constants, and operations that do nothing;
//! - [`cse`]: what is computed twice is computed once;
//! - [`accumulate`]: sums over iterations are made where their terms are made (Local only);
//! - [`hoist`]: what is the same in every iteration leaves the loop (Global only);
//! - [`narrow`]: what loops stack is as narrow as it can be (Global only, once, after autodiff);
//! - [`slices`]: parameters that are not gathered are cast slice by slice (Local only);
//! - [`row_sums`]: sums over what is multiplied anyway become a column of the product (Local only);
//! - [`dce`]: what nobody uses goes, and values are numbered anew.
//!
//! Values may change in the sign of a zero and in the last bits of numbers below 1e-30, and not otherwise. Types stay exactly the same, with the order
//! of dims. A body that asks for a gradient keeps all its values as they are until autodiff has been there
//! (`asks_for_gradients`); bodies inside it, and dead code, are fair game.

pub mod accumulate;
pub mod cse;
pub mod dce;
pub mod fold;
pub mod hoist;
pub mod narrow;
pub mod row_sums;
pub mod slices;

use mesh::{Body, Module, Op, ir::Control};

/// More rounds than any program should need; what is left then is correct, only not the smallest.
const ROUNDS: usize = 16;

/// Runs all passes until none finds anything. On a Local module, nothing leaves loops: where an operation
/// with communication stands was decided when the program was partitioned.
pub fn simplify(module: &mut Module) {
    let global = module.env.mesh.axes().is_empty();
    for _ in 0..ROUNDS {
        let mut changed = fold::run(module);
        changed |= cse::run(module);
        if global {
            changed |= hoist::run(module);
        }
        changed |= dce::run(module);
        if !changed {
            break;
        }
    }
    if !global && (slices::run(module) | accumulate::run(module) | row_sums::run(module)) {
        dce::run(module);
    }
}

/// Whether the body itself, not one inside it, asks for a gradient. Each of its values is then a variable
/// of its own: of two equal ones, the gradient with respect to one has nothing to do with the other.
fn asks_for_gradients(body: &Body) -> bool {
    body.insts.iter().any(|inst| inst.op == Op::Control(Control::Grad))
}

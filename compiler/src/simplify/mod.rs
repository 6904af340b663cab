//! Passes that make a program smaller without changing its meaning. `pipeline::order` lists them in the order
//! in which they run.
//!
//! A pass may change the sign of a zero and the last bits of numbers below 1e-30, and nothing else. Types
//! stay exactly the same, including the order of dims. While a body asks for a gradient, its values stay as
//! they are (`asks_for_gradients`); bodies inside it, and dead code, may be rewritten.

pub mod accumulate;
pub mod cse;
pub mod dce;
pub mod fold;
pub mod hoist;
pub mod narrow;
pub mod row_sums;
pub mod slices;

use mesh::{Body, Op, ir::Control};

/// True if the body itself, not one inside it, asks for a gradient. Each of its values is then a separate
/// variable: of two equal ones, the gradient with respect to one is not that with respect to the other.
fn asks_for_gradients(body: &Body) -> bool {
    body.insts.iter().any(|inst| inst.op == Op::Control(Control::Grad))
}

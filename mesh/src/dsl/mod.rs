//! The Rust DSL: ordinary Rust code builds programs from [`Tensor`]s with named dims.
//!
//! ```
//! use mesh::{DType, Dim, dsl::{Init, Program, einsum}};
//!
//! let p = Program::new("affine");
//! let (batch, d_in, d_out) = (Dim::new("batch", 8), Dim::new("d_in", 4), Dim::new("d_out", 2));
//! let w = p.param("w", [&d_in, &d_out], Init::truncated_normal(1.0, &[&d_in]));
//! p.function("step", |g| {
//!     let x = g.input("x", DType::F32, [&batch, &d_in]);
//!     let y = einsum([x, w.read(g)], [&batch, &d_out]) * 2.0 + 1.0;
//!     g.output("y", y);
//! });
//! let module = p.finish().expect("the program has no mistakes");
//! assert_eq!(module.functions.len(), 2); // `init` comes from the initializers
//! ```
//!
//! A mistake in the model does not panic. The DSL omits the operation, records a [`crate::Diagnostic`] with
//! the line of the model, and returns a *poison* tensor. Operations on poison give poison without another
//! diagnostic, so that one mistake is reported once. [`Program::finish`] reports all mistakes together.
//!
//! Reading order: [`Program`] and [`State`] (declarations), [`Graph`] (a function under construction: inputs,
//! outputs, scopes, captures), the op families, which are the methods of [`Tensor`], then [`main()`], the
//! entry of model programs.

mod caller;
mod contract;
mod control;
mod elementwise;
mod entry;
mod frame;
mod graph;
mod index;
mod init;
mod map;
mod names;
mod program;
mod random;
mod reduce;
mod running;
mod shape;
mod shared;
mod stages;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod vectorize;
mod watch;
mod window;

pub use contract::{einsum, einsum_as};
pub use control::{ScanOptions, Tree};
pub use elementwise::Operand;
pub use entry::{Args, MAX_SIZE, Setting, diagnostic_json, main, run};
pub use graph::{Graph, Tensor};
pub use index::sort;
pub use init::Init;
pub use names::{Dims, Names};
pub use program::Program;
pub use random::{REHEARSAL, Rng};
pub use running::associative_scan;
pub use shape::concat;
pub use stages::{STAGE, TICKS};
pub use state::State;
pub use window::{Edges, Window};

//! The mesh language: tensors over *named* dimensions, the machine as a mesh of *axes*, and the
//! typed intermediate representation that every stage of the compiler reads and writes.
//!
//! Reading order: [`dim`] and [`axis`] (the two kinds of name), [`layout`] (which dim is split over
//! which axis), [`ty`] (types), [`ir`] (operations, bodies, modules), [`schedule`] (choices of a program that change
//! time and memory, not results), [`infer`] (the one function
//! that gives an operation's result types), [`verify`] (whether a module is legal), [`text`] (modules
//! as `.mesh` text), [`dsl`] (programs built by Rust code).
//!
//! Nothing here knows a device, a file or a clock.

pub mod arena;
pub mod axis;
pub mod build;
pub mod diag;
pub mod dim;
pub mod dsl;
pub mod infer;
pub mod ir;
pub mod layout;
pub mod random;
pub mod schedule;
pub mod text;
pub mod ty;
pub mod verify;

pub use axis::{Axis, AxisId, AxisSet, Mesh};
pub use build::BodyBuilder;
pub use diag::{Diagnostic, Diagnostics};
pub use dim::{Dim, Name};
pub use ir::{Body, Env, Function, Inst, Module, Op, Site, StateDecl, StateId, StateKind, Value};
pub use layout::Layout;
pub use schedule::Schedule;
pub use ty::{DType, TensorDim, Type};

//! The mesh language: tensors with *named* dims, devices in a mesh of *axes*, and the typed intermediate
//! representation that every stage of the compiler reads and writes.
//!
//! Reading order:
//! - [`dim`] and [`axis`]: named dims of tensors, named axes of the mesh;
//! - [`layout`]: rules that split dims over axes;
//! - types: [`ty`];
//! - [`ir`]: operations, bodies and modules;
//! - [`schedule`]: choices of a program that change time and memory, but not results;
//! - [`task`]: the contract between a program and the runtime;
//! - [`infer`]: the result types of operations, and the rules for operands;
//! - [`build`]: the builder of bodies, which calls `infer`;
//! - [`verify`]: the rules for whole modules;
//! - [`text`]: modules as `.mesh` text;
//! - [`dsl`]: programs written in Rust;
//! - [`random`]: the random numbers of `random` instructions, bit for bit.
//!
//! **Invariant:** this crate knows no device, file or clock.

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
pub mod task;
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
pub use task::Task;
pub use ty::{DType, TensorDim, Type};

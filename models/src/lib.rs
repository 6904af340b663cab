//! Layers, objectives and optimizers in the language, and the Transformers made of them.
//!
//! A model is a [`Config`]: the numbers of a published model are a few lines, and everything can be
//! overridden with `--set key=value`. [`main()`] makes a program of it: the parameters, `train_step`,
//! `eval_step`, and the facts that the runtime needs.
//!
//! Reading order: [`config`] (what a model is), [`context`] (what every layer needs to know when it runs:
//! precision, random numbers, training or not), [`weights`] (parameters and what optimizers know of
//! them), the layers ([`norm`], [`position`], [`attention`], [`feed_forward`], [`switch`], [`embedding`]),
//! [`stack`] (encoder and decoder), [`stream`] (what flows between its blocks), [`objective`], [`optimizer`], [`microbatch`]
//! (a step in parts), [`program`], [`generate`] and [`score`]
//! (programs that generate and score), [`zoo`] (published models), [`hf`] (names of Hugging Face's tensors),
//! [`probe`] (what happens inside, for comparisons).
//!
//! Names of dims are an interface: layouts refer to them. `batch`, `length` (of the input),
//! `target_length`, `memory_length` (what attention looks at), `d_model` (`stream` between blocks, if that is asked for), `d_ff`, `heads`, `d_kv`, `vocab`,
//! `layers`; in a Switch layer `experts_all` and `batch` before tokens travel to their experts, `experts`
//! and `expert_batch` after.

pub mod attention;
pub mod config;
pub mod context;
pub mod embedding;
pub mod feed_forward;
pub mod generate;
pub mod hf;
pub mod microbatch;
pub mod norm;
pub mod objective;
pub mod optimizer;
pub mod position;
pub mod probe;
pub mod program;
pub mod score;
pub mod stack;
pub mod stream;
pub mod switch;
pub mod weights;
pub mod zoo;

pub use config::{Activation, Config, Objective, Precision};
pub use context::Context;
pub use generate::Generation;
pub use mesh::schedule::{Dispatch, Schedule};
pub use optimizer::{LrSchedule, Method, Optimizer};
pub use program::{main, program};
pub use switch::Switch;
pub use weights::{Weight, Weights};

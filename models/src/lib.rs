//! Layers, objectives and optimizers in the language, and the Transformers made of them.
//!
//! A model is a [`Config`]: a published model takes a few lines, and every number can be overridden with
//! `--set key=value`. [`main()`] turns it into a program: parameters, `train_step`, `eval_step`, and the
//! metadata that the runtime reads.
//!
//! Reading order: [`config`] (sizes and settings of a model), [`precision`], [`mistakes`], [`context`] (state
//! that layers share while a function is built: precision, random numbers, training or not), [`weights`]
//! (parameters and their matrix structure) with [`patterns`] (of their names) and [`lora`] (low-rank
//! adapters), the layers ([`norm`], [`position`], [`attention`], [`feed_forward`], [`switch`],
//! [`embedding`]), [`stack`] (encoder and decoder), [`stream`] (the residual stream), [`objective`] (losses),
//! [`decoder`] (decoder-only models), [`model`] (models of both kinds), [`optimizer`], [`microbatch`]
//! (gradient accumulation), [`tokens`] (special tokens), [`distill`] (teachers), `metadata` and `program`,
//! `evaluation`, [`generate`], [`score`] and [`routes`] (programs that evaluate, generate, score and record
//! routing), [`zoo`] (published models), [`hf`] and [`t5x`] (tensor names of Hugging Face and of T5X),
//! [`probe`] (intermediate values, for comparison with other systems).
//!
//! Names of dims are an interface, because layouts refer to them: `batch`, `length` (of the input),
//! `target_length`, `memory_length` (positions that attention attends to), `d_model` (between blocks
//! `stream`, with the schedule entry `residual=stream`), `d_ff`, `heads`, `d_kv`, `vocab`, `layers`; in a
//! Switch layer `experts_all` and `batch` before the all-to-all that sends tokens to their experts,
//! `experts` and `expert_batch` after it.

pub mod attention;
pub mod config;
pub mod context;
pub mod decoder;
pub mod distill;
pub mod embedding;
mod evaluation;
pub mod feed_forward;
pub mod generate;
pub mod hf;
pub mod lora;
mod metadata;
pub mod microbatch;
pub mod mistakes;
pub mod model;
pub mod norm;
pub mod objective;
pub mod optimizer;
#[cfg(test)]
mod parts;
pub mod patterns;
pub mod position;
pub mod precision;
pub mod probe;
pub mod program;
pub mod routes;
pub mod score;
pub mod stack;
pub mod stream;
pub mod switch;
pub mod t5x;
pub mod tokens;
pub mod weights;
pub mod zoo;

pub use config::{Activation, Config};
pub use context::Context;
pub use decoder::Decoder;
pub use generate::Generation;
pub use mesh::schedule::{Dispatch, Schedule};
pub use mesh::task::Objective;
pub use optimizer::{LrSchedule, Method, Optimizer};
pub use precision::Precision;
pub use program::{main, program};
pub use switch::Switch;
pub use weights::{Weight, Weights};

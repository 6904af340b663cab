//! Supervised tasks: examples of an input and a target, made of the fields of data files, and metrics of
//! predictions.
//!
//! Reading order: [`template`] (text with fields) with [`value`] and [`filter`] (changes of a field), and
//! [`answers`]; [`spec`] (the task file), [`label`] (label sets), [`example`] (one record becomes an
//! example), [`ready`] (task files that are part of mesh), [`task`] (tasks as the user names them, and their
//! examples by split), [`source`] (batches for training and evaluation); [`metric`] (the metrics by name),
//! [`metrics`] (their definitions), [`score`] (their values for a task) and [`evaluation`] (predictions and
//! tables).

pub mod answers;
pub mod evaluation;
pub mod example;
pub mod filter;
pub mod label;
pub mod metric;
pub mod metrics;
pub mod ready;
pub mod score;
pub mod source;
pub mod spec;
pub mod task;
pub mod template;
pub mod value;

pub use evaluation::{Method, Predictions};
pub use example::Example;
pub use metric::Metric;
pub use source::{TaskSource, batches};
pub use spec::{Split, TaskSpec};
pub use task::Task;

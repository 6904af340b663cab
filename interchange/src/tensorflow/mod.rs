//! Checkpoints of TensorFlow with the variables of T5 and of Mesh TensorFlow's Switch Transformers.
//!
//! Reading order: `table` (the index, a table of LevelDB), `bundle` (the entries of the index and the files
//! with elements), `names` (the names of T5X for their tensors), [`Checkpoint`] (all of it, as a source for
//! [`crate::t5x::import`]).

mod bundle;
mod names;
mod table;

pub use bundle::Checkpoint;

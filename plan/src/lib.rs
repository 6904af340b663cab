//! Search for a good way to run a model on a TPU slice: mesh, layouts and schedule.
//!
//! Reading order: `space` (the choices), [`candidate`] (one choice and its cost), [`evaluate`] (estimates
//! the cost from the program of one device), [`moves`] (changes of a candidate), [`mod@search`] (rounds of
//! candidates), [`mod@verify`] (compilation of the best candidates), [`tuned`] (results for known programs).

pub mod candidate;
pub mod evaluate;
pub mod moves;
pub mod search;
pub mod space;
pub mod tuned;
pub mod verify;

pub use candidate::{Candidate, Estimate};
pub use evaluate::{Cache, Evaluator, Model};
pub use search::{Limits, Ranked, Seen, search, space};
pub use space::{Fixed, Space};
pub use verify::{Budget, Compile, Verified, verify};

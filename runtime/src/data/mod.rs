//! Training data: files, tokens, span corruption, and batches in an order that depends on nothing but
//! the seed and the step.
//!
//! There is no shuffle buffer: the text is cut into windows, a pseudo-random permutation of the windows is
//! computed for every epoch, and the noise of an example is keyed by what it is an example of. So any host
//! can compute any batch, and training resumes at any step with nothing but the step's number.
//!
//! Reading order: [`files`] (what there is to read), `format` (compression, JSON lines), [`tokenizer`], [`stream`] (all
//! tokens of a text), [`spans`] (the objective), [`order`] (permutations and random numbers), [`source`] (batches),
//! [`loader`] (batches ahead of time), [`entropy`] and [`stats`].

pub mod entropy;
pub mod files;
mod format;
pub mod loader;
pub mod order;
pub mod source;
pub mod spans;
pub mod stats;
pub mod stream;
pub mod tokenizer;

pub use entropy::{Counts, unigram_entropy};
pub use files::{TEXT_FIELD, Text};
pub use loader::Loader;
pub use source::{Batch, Options, Source, Task};
pub use spans::SpanCorruption;
pub use stats::Stats;
pub use stream::Stream;
pub use tokenizer::{Bytes, Pieces, Tokenizer};

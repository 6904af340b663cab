//! Training data: files, tokens, span corruption, and batches in an order that depends on nothing but
//! the seed and the step.
//!
//! There is no shuffle buffer: the text is cut into windows, a pseudo-random permutation of the windows is
//! computed for every epoch, and the noise of an example is keyed by what it is an example of. So any host
//! can compute any batch, and training resumes at any step with nothing but the step's number.
//!
//! Reading order: [`files`] (what there is to read), `format` (compression, JSON lines), `parquet`, [`tokenizer`],
//! [`stream`] (all tokens of a text), [`cache`] (tokens on disk), [`corpus`] (either), [`spans`] and [`objective`] (what
//! examples are), [`order`] (permutations and random numbers), `packing` (several examples in a row), [`mixture`]
//! (several texts), [`batch`], [`source`] (batches of all this), [`loader`] (batches ahead of time), [`entropy`] and
//! [`stats`].

pub mod batch;
pub mod cache;
pub mod corpus;
pub mod entropy;
pub mod error;
pub mod files;
mod format;
pub mod loader;
pub mod mixture;
mod objective;
pub mod order;
mod packing;
mod parquet;
mod problem;
mod provenance;
pub mod source;
pub mod spans;
pub mod stats;
pub mod stream;
pub mod task;
pub mod tokenizer;

pub use batch::Batch;
pub use cache::Cache;
pub use corpus::Corpus;
pub use entropy::{Counts, unigram_entropy};
pub use error::{Error, Result};
pub use files::{TEXT_FIELD, Text};
pub use loader::Loader;
pub use mixture::{Mixture, Temperature};
pub use provenance::About;
pub use source::{Named, Options, Source};
pub use spans::SpanCorruption;
pub use stats::Stats;
pub use stream::Stream;
pub use task::{Objective, Task};
pub use tokenizer::{Bytes, Codec, FileTokenizer, Pieces, Tokenizer};

//! Training data: files, tokenizers, tokens, training objectives, mixtures of corpora, and batches.
//!
//! The order of the data depends on the seed and the step number alone. There is no shuffle buffer: tokens
//! are divided into windows, each epoch uses a pseudo-random permutation of the windows, and the random
//! numbers of an example are keyed by the example. Every host can therefore compute every batch, and a run
//! resumes at any step from the step number.
//!
//! Reading order: [`reading`] (options), [`files`] (which files are read), `format` (JSON Lines and text),
//! `compressed` and `parquet`; [`records`] (files with fields) and `parquet_records`; [`tokenizer`];
//! `assembly` (from parts of files to tokens), [`tokenized_text`] (tokens in memory), [`prepared`] (tokens on
//! disk), [`tokens`] (either of them); [`batch_spec`] (what a program requires), [`spans`] (span corruption)
//! and `example` (inputs and targets); [`order`] (permutations and random numbers), `packing` (several
//! examples in a row), [`rates`], `mixture_spec` and `interleaving` (mixtures); [`rows`] (the rows that a
//! process needs), [`batch`], [`batch_source`] (the trait that training loops use), [`mixture`] (its
//! implementation for text), [`pairs`] and [`pair_mixture`] (that for supervised tasks), [`teacher`] (rows
//! with a teacher's logits), [`loader`] (batches made ahead of time); [`entropy`] and [`stats`].

mod assembly;
pub mod batch;
pub mod batch_source;
pub mod batch_spec;
mod caught;
pub mod chunked;
mod compressed;
pub mod entropy;
pub mod error;
mod example;
pub mod files;
mod format;
mod interleaving;
pub mod loader;
pub mod mixture;
mod mixture_spec;
pub mod order;
mod packing;
pub mod pair_mixture;
pub mod pairs;
mod parquet;
mod parquet_records;
pub mod prepared;
mod problem;
mod provenance;
pub mod rates;
pub mod reading;
pub mod records;
pub mod rows;
pub mod spans;
pub mod stats;
pub mod teacher;
pub mod text;
pub mod tokenized_text;
pub mod tokenizer;
pub mod tokens;

pub use batch::Batch;
pub use batch_source::BatchSource;
pub use batch_spec::BatchSpec;
pub use entropy::Counts;
pub use error::{Error, Result};
pub use files::Skipped;
pub use loader::Loader;
pub use mixture::{Corpus, Mixture, Options};
pub use pair_mixture::{PairCorpus, PairMixture};
pub use pairs::Pairs;
pub use prepared::PreparedTokens;
pub use provenance::Provenance;
pub use rates::{MixtureSpec, Temperature};
pub use reading::{MAX_DECOMPRESSED, Reading, TEXT_FIELD};
pub use records::Record;
pub use rows::Rows;
pub use spans::SpanCorruption;
pub use stats::Stats;
pub use teacher::{TeacherRows, TeacherWriter};
pub use text::Text;
pub use tokenized_text::TokenizedText;
pub use tokenizer::{Bytes, Codec, FileTokenizer, Pieces, Tokenizer};
pub use tokens::Tokens;

/// The training objective and the special tokens of a program, as its manifest states them.
pub use proto::manifest::{Objective, Sentinels, SpecialTokens};

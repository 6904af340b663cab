//! Data of training and evaluation: one corpus, or a mixture of several, and the tokenizer.

use super::ranges::{bytes, positive, steps};
use anyhow::{Context, Result};
use data::{
    BatchSpec, Codec, Corpus, Mixture, MixtureSpec, PreparedTokens, Skipped, Stats, TEXT_FIELD, Temperature,
    Tokenizer, Tokens, rates::CorpusSpec,
};
use driver::failure::failure;
use runtime::generate::Sizes;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Options of commands that make examples from text.
#[derive(clap::Args, Debug)]
pub struct DataOptions {
    /// Text, JSON lines (plain, .gz or .zst) or Parquet; directories of such files; patterns such as
    /// 'corpus/*.jsonl.gz'; prepared tokens. Several corpora have names and optional sampling rates:
    /// en='en/*.txt':2 de=german:1
    #[arg(long, required_unless_present = "mixture", num_args = 1.., value_name = "FILE|NAME=FILE[:RATE]")]
    data: Vec<PathBuf>,
    /// Mixture of corpora, described in a TOML file: optional `temperature` and `cap`, and for each corpus a
    /// table [sources.NAME] with `files` and optional `rate` and `text_field`
    #[arg(long, value_name = "FILE.toml", conflicts_with = "data")]
    mixture: Option<PathBuf>,
    /// Temperature T of a mixture without rates: corpora are sampled in proportion to examples^(1/T).
    /// Default: 1
    #[arg(long, value_name = "T", value_parser = positive, allow_negative_numbers = true)]
    mix_temperature: Option<f64>,
    /// Cap of a mixture without rates: the largest number of examples of a corpus that counts
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    mix_cap: Option<u64>,
    #[command(flatten)]
    reading: Reading,
}

/// Corpora that have been read.
pub struct Texts {
    all: Vec<Corpus>,
    temperature: Temperature,
}

impl DataOptions {
    /// Reads all corpora.
    pub fn open(&self) -> Result<Texts> {
        self.read(match &self.mixture {
            Some(path) => MixtureSpec::of_file(path)?,
            None => MixtureSpec::of_words(&self.data)?,
        })
    }

    /// Reads other files with the same options.
    pub fn open_others(&self, files: &[PathBuf]) -> Result<Texts> {
        self.read(MixtureSpec::of_words(files)?)
    }

    fn read(&self, mixture: MixtureSpec) -> Result<Texts> {
        let tokenizer = self.reading.tokenizer.named()?;
        let mut all = Vec::new();
        for (name, CorpusSpec { files, rate, text_field }) in &mixture.sources {
            let read = self.reading.tokens(files, text_field.as_deref(), tokenizer.as_ref());
            let tokens = if name.is_empty() {
                read?
            } else {
                read.with_context(|| format!("reading the corpus `{name}`"))?
            };
            all.push(Corpus { name: name.clone(), rate: *rate, tokens });
        }
        let (temperature, cap) = (self.mix_temperature.or(mixture.temperature), self.mix_cap.or(mixture.cap));
        if (temperature.is_some() || cap.is_some()) && mixture.sources.values().all(|s| s.rate.is_some()) {
            return Err(failure(
                "`--mix-temperature` and `--mix-cap` have no effect: every corpus of the mixture has a rate",
                "leave out either the rates, or the temperature and the cap",
            ));
        }
        let default = Temperature::default();
        let temperature = Temperature {
            temperature: temperature.unwrap_or(default.temperature),
            cap: cap.unwrap_or(default.cap),
        };
        Ok(Texts { all, temperature })
    }
}

impl Texts {
    /// Returns the examples for a program; the share `held_out` of each corpus is for evaluation only.
    pub fn mixture(self, spec: BatchSpec, held_out: f64) -> Result<Arc<Mixture>> {
        let options = data::Options { held_out, temperature: self.temperature, ..data::Options::default() };
        Ok(Arc::new(Mixture::new(self.all, spec, &options)?))
    }
}

/// The tokenizer.
#[derive(clap::Args, Debug)]
pub struct TokenizerArgs {
    /// Tokenizer: bytes, a tokenizer.json, or a SentencePiece model. Default: the tokenizer of prepared
    /// tokens, else bytes
    #[arg(long, value_name = "bytes|FILE")]
    tokenizer: Option<String>,
}

impl TokenizerArgs {
    /// Opens the tokenizer. `None` means that none was named.
    pub fn named(&self) -> Result<Option<Tokenizer>> {
        Ok(match self.tokenizer.as_deref() {
            None => None,
            Some("bytes") => Some(Tokenizer::Bytes),
            Some(file) => Some(Tokenizer::Pieces(data::tokenizer::open(Path::new(file))?)),
        })
    }

    /// Opens the tokenizer; bytes if none was named.
    pub fn or_bytes(&self) -> Result<Tokenizer> {
        Ok(self.named()?.unwrap_or(Tokenizer::Bytes))
    }

    /// Returns the codec between text and the tokens of a model: the tokenizer that was named, which must fit
    /// the vocabulary, else bytes. `None` means that the vocabulary is too small for bytes.
    pub fn codec(&self, sizes: Sizes) -> Result<Option<Codec>> {
        let Sizes { vocab, special_tokens, .. } = sizes;
        Ok(match self.named()? {
            Some(tokenizer) => Some(Codec::new(vocab, tokenizer, special_tokens)?),
            None => Codec::new(vocab, Tokenizer::Bytes, special_tokens).ok(),
        })
    }
}

/// Options of commands that read text files.
#[derive(clap::Args, Debug)]
pub struct Reading {
    /// Field of JSON lines, or column of Parquet, with the text
    #[arg(long, value_name = "FIELD", default_value = TEXT_FIELD)]
    text_field: String,
    /// Largest size of a compressed data file when it is decompressed, such as 500MB or 20GiB
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = bytes)]
    max_decompressed: u64,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
}

impl Reading {
    /// Returns the tokens of these files, or prepared tokens.
    pub fn tokens(
        &self,
        paths: &[PathBuf],
        field: Option<&str>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Tokens> {
        Ok(Tokens::open(paths, &self.options(field), tokenizer)?)
    }

    /// Returns the options of reading files. `field` replaces that of the command line.
    pub fn options<'a>(&'a self, field: Option<&'a str>) -> data::Reading<'a> {
        let field = field.unwrap_or(&self.text_field);
        data::Reading { field, max_decompressed: self.max_decompressed }
    }

    /// Returns statistics of these files or of prepared tokens, the skipped files, and the tokenizer.
    pub fn stats(&self, paths: &[PathBuf]) -> Result<(Stats, Vec<Skipped>, Tokenizer)> {
        if let [dir] = paths
            && PreparedTokens::is_at(dir)
        {
            let prepared = PreparedTokens::open(dir)?;
            let stats = Stats::of_prepared(&prepared)?;
            let tokens = Tokens::of_prepared(prepared, self.tokenizer.named()?.as_ref())?;
            return Ok((stats, Vec::new(), tokens.tokenizer().clone()));
        }
        let tokenizer = self.tokenizer.or_bytes()?;
        let (stats, skipped) = Stats::of_files(paths, &self.options(None), &tokenizer)?;
        Ok((stats, skipped, tokenizer))
    }
}

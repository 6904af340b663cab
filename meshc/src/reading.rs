//! How text is read, as the command line says.

use anyhow::Result;
use data::{Cache, Corpus, Stats, TEXT_FIELD, Text, Tokenizer};
use std::path::{Path, PathBuf};

/// What makes tokens of text, and text of tokens.
#[derive(clap::Args, Debug)]
pub struct TokenizerArgs {
    /// How text becomes tokens: bytes, or a file: tokenizer.json or a SentencePiece model. Default: that of prepared
    /// tokens, else bytes
    #[arg(long, value_name = "bytes|FILE")]
    tokenizer: Option<String>,
}

impl TokenizerArgs {
    /// The one that was named, if one was.
    pub fn named(&self) -> Result<Option<Tokenizer>> {
        Ok(match self.tokenizer.as_deref() {
            None => None,
            Some("bytes") => Some(Tokenizer::Bytes),
            Some(file) => Some(Tokenizer::Pieces(data::tokenizer::open(Path::new(file))?)),
        })
    }

    /// The one that was named, else bytes.
    pub fn or_bytes(&self) -> Result<Tokenizer> {
        Ok(self.named()?.unwrap_or(Tokenizer::Bytes))
    }
}

/// Options of commands that read text.
#[derive(clap::Args, Debug)]
pub struct Reading {
    /// The field of JSON lines, or the column of Parquet, that has the text
    #[arg(long, value_name = "FIELD", default_value = TEXT_FIELD)]
    pub text_field: String,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
}

impl Reading {
    /// The tokens of these files, or those that were prepared.
    pub fn corpus(
        &self,
        paths: &[PathBuf],
        field: Option<&str>,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Corpus> {
        Ok(Corpus::open(paths, field.unwrap_or(&self.text_field), tokenizer)?)
    }

    /// Numbers about these files, or about prepared tokens; what was left out; and what made the tokens.
    pub fn stats(&self, paths: &[PathBuf]) -> Result<(Stats, Text, Tokenizer)> {
        if let [dir] = paths
            && Cache::is_at(dir)
        {
            let cache = Cache::open(dir)?;
            let stats = Stats::of_cache(&cache)?;
            let corpus = Corpus::of_cache(cache, self.tokenizer.named()?.as_ref())?;
            return Ok((stats, Text::default(), corpus.tokenizer().clone()));
        }
        let text = Text::read_field(paths, &self.text_field)?;
        let tokenizer = self.tokenizer.or_bytes()?;
        Ok((Stats::of(&text, &tokenizer)?, text, tokenizer))
    }
}

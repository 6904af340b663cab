//! How text for training is read, as the command line says.

use anyhow::Result;
use runtime::data::{TEXT_FIELD, Text, Tokenizer};
use std::path::{Path, PathBuf};

/// Options of commands that read text.
#[derive(clap::Args, Debug)]
pub struct Reading {
    /// The field of JSON lines that has the text
    #[arg(long, value_name = "FIELD", default_value = TEXT_FIELD)]
    text_field: String,
    /// How text becomes tokens: bytes, or a file: tokenizer.json or a SentencePiece model
    #[arg(long, value_name = "bytes|FILE", default_value = "bytes")]
    tokenizer: String,
}

impl Reading {
    /// What is in these files.
    pub fn text(&self, paths: &[PathBuf]) -> Result<Text> {
        Ok(Text::read_field(paths, &self.text_field)?)
    }

    /// What makes tokens of it.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Ok(match self.tokenizer.as_str() {
            "bytes" => Tokenizer::Bytes,
            file => Tokenizer::Pieces(tokenizer::open(Path::new(file))?),
        })
    }
}

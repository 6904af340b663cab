//! How text for training is read, as the command line says.

use anyhow::Result;
use runtime::data::{TEXT_FIELD, Text};
use std::path::PathBuf;

/// Options of commands that read text.
#[derive(clap::Args, Debug)]
pub struct Reading {
    /// The field of JSON lines that has the text
    #[arg(long, value_name = "FIELD", default_value = TEXT_FIELD)]
    text_field: String,
}

impl Reading {
    /// What is in these files.
    pub fn text(&self, paths: &[PathBuf]) -> Result<Text> {
        Ok(Text::read_field(paths, &self.text_field)?)
    }
}

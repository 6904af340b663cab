//! The inputs of generation.

use crate::failure::failure;
use anyhow::{Context, Result};
use interchange::tensors;
use serde_json::Value;
use std::{io::Read, path::Path};

/// Inputs before tokenization.
#[derive(Debug)]
pub enum Input {
    /// Texts.
    Texts(Vec<String>),
    /// Token ids without padding.
    Tokens(Vec<Vec<i32>>),
}

impl Input {
    /// Returns the number of inputs.
    pub fn len(&self) -> usize {
        match self {
            Self::Texts(texts) => texts.len(),
            Self::Tokens(rows) => rows.len(),
        }
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns true if the inputs are texts.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Texts(_))
    }
}

/// Reads the inputs in a file: texts, one per line (`-` for standard input); `NAME.json`, a list of texts or
/// of lists of token ids; `NAME.safetensors` with token ids.
///
/// # Errors
/// The file cannot be read, or has no inputs.
pub fn read(path: &Path) -> Result<Input> {
    let name = path.display().to_string();
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    let input = if ending == "safetensors" {
        Input::Tokens(tensors::token_rows(&tensors::read(&[path.to_owned()])?, &name)?)
    } else {
        let mut bytes = Vec::new();
        match name.as_str() {
            "-" => std::io::stdin().read_to_end(&mut bytes).context("reading standard input").map(|_| ())?,
            _ => {
                bytes = proto::regular::read(path).with_context(|| format!("reading the inputs `{name}`"))?
            }
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            failure(format!("`{name}` is not text: byte {at} is not UTF-8"), "give UTF-8 or token ids")
        })?;
        match ending {
            "json" => from_json(&text, &name)?,
            _ => Input::Texts(text.lines().map(str::to_owned).collect()),
        }
    };
    if input.is_empty() {
        return Err(failure(format!("`{name}` has no inputs"), "give at least one input"));
    }
    Ok(input)
}

fn from_json(text: &str, name: &str) -> Result<Input> {
    let wrong = |why: String| {
        failure(format!("`{name}` is not a list of inputs: {why}"), "write [\"text\", …] or [[1, 2, …], …]")
    };
    let value: Value = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    if let Ok(texts) = serde_json::from_value::<Vec<String>>(value.clone()) {
        return Ok(Input::Texts(texts));
    }
    serde_json::from_value(value).map(Input::Tokens).map_err(|e| wrong(e.to_string()))
}

//! The tokenizer of a model: the one that the user names, or the one that its checkpoint contains.

use crate::{failure::failure, request::Setting};
use anyhow::Result;
use data::{Codec, Tokenizer};
use runtime::{
    checkpoint::{Checkpoint, TOKENIZER},
    generate::Sizes,
};
use std::path::Path;

/// A tokenizer as the user names it: `bytes` or a file. `None` means that none was named.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a>(pub Option<&'a str>);

impl Choice<'_> {
    /// Opens the tokenizer. `None` means that none was named.
    ///
    /// # Errors
    /// The file cannot be read or is no tokenizer.
    pub fn named(self) -> Result<Option<Tokenizer>> {
        Ok(match self.0 {
            None => None,
            Some("bytes") => Some(Tokenizer::Bytes),
            Some(file) => Some(Tokenizer::Pieces(data::tokenizer::open(Path::new(file))?)),
        })
    }

    /// Returns the codec between text and the tokens of the model of a checkpoint, or the reason why text
    /// cannot be encoded.
    ///
    /// # Errors
    /// A tokenizer was named that is not the checkpoint's, or it does not fit the vocabulary.
    pub fn codec(self, sizes: Sizes, checkpoint: &Checkpoint) -> Result<Result<Codec, Unknown>> {
        let Sizes { vocab, special_tokens, .. } = sizes;
        let tokenizer = match self.of(checkpoint)? {
            Ok(tokenizer) => tokenizer,
            Err(unknown) => return Ok(Err(unknown)),
        };
        Ok(match Codec::new(vocab, tokenizer, special_tokens) {
            Ok(codec) => Ok(codec),
            Err(error) if self.0.is_some() => return Err(error.into()),
            Err(error) => Err(Unknown {
                what: format!("text cannot be encoded: {error}"),
                help: "give token ids, or write them: --json, --output NAME.json or NAME.safetensors".into(),
            }),
        })
    }

    /// Returns the tokenizer of the model of a checkpoint: the one that was named, else the one in the
    /// checkpoint; or the reason why it is not known.
    ///
    /// # Errors
    /// A tokenizer was named that is not the checkpoint's, or one of the two cannot be read.
    pub fn of(self, checkpoint: &Checkpoint) -> Result<Result<Tokenizer, Unknown>> {
        let dir = checkpoint.dir().display();
        let recorded = checkpoint.facts().get(TOKENIZER);
        if let Some(tokenizer) = self.named()? {
            return match recorded.filter(|recorded| **recorded != tokenizer.identity()) {
                Some(recorded) => Err(differs(&tokenizer, recorded, checkpoint, "`--tokenizer`")),
                None => Ok(Ok(tokenizer)),
            };
        }
        if let Some(contents) = checkpoint.tokenizer()? {
            let parsed = data::tokenizer::parse(contents.into(), &format!("{dir}/tokenizer"))?;
            return Ok(Ok(Tokenizer::Pieces(parsed)));
        }
        Ok(match recorded.map(String::as_str) {
            Some("bytes") => Ok(Tokenizer::Bytes),
            Some(digest) => Err(Unknown {
                what: format!(
                    "the tokenizer of `{dir}` has the digest {digest}; the checkpoint does not contain it"
                ),
                help: "name its file with --tokenizer, or use token ids".into(),
            }),
            None => Err(Unknown {
                what: format!("`{dir}` does not say which tokenizer its model has"),
                help: "name it with --tokenizer (`bytes` or a file), or use token ids".into(),
            }),
        })
    }
}

/// The reason why the tokenizer of a model is not known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unknown {
    what: String,
    help: String,
}

impl Unknown {
    /// Returns the error for text that needs a tokenizer.
    pub fn error(&self) -> anyhow::Error {
        failure(self.what.clone(), self.help.clone())
    }
}

/// Returns the tokens of the text of an input or a target, for a program of these sizes. Between the two
/// parts of one text there is no end token, and a score is that of the target alone.
///
/// # Errors
/// The tokenizer fails, or makes a token outside the vocabulary.
pub fn encode(codec: &Codec, sizes: Sizes, text: &str) -> data::Result<Vec<i32>> {
    if sizes.continues { codec.encode_part(text) } else { codec.encode(text) }
}

/// Returns the setting that makes room for inputs of up to `longest` tokens. `None` means that the program
/// takes them, or that its inputs have a fixed length.
pub fn room(sizes: Sizes, longest: Option<usize>) -> Option<Setting> {
    let longest = longest.filter(|longest| sizes.continues && *longest > sizes.input_length)?;
    Some(("input_length", longest.next_power_of_two().to_string()))
}

/// Returns the error for a tokenizer that is not the one of a checkpoint.
pub fn differs(tokenizer: &Tokenizer, recorded: &str, checkpoint: &Checkpoint, what: &str) -> anyhow::Error {
    failure(
        format!(
            "the tokenizer of {what}, `{}` ({}), is not the one of `{}` ({recorded})",
            tokenizer.name(),
            tokenizer.identity(),
            checkpoint.dir().display()
        ),
        "the model would read other tokens than it was trained on: use its tokenizer, or leave --tokenizer out",
    )
}

//! A body of tokens: text that was read and cut into tokens, or tokens that were prepared.

use super::{cache::Cache, files::Text, provenance::About, stream::Stream, tokenizer::Tokenizer};
use crate::{Error, Result};
use std::{ops::Range, path::PathBuf, sync::Arc};

/// Tokens of one text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Corpus(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tokens: Tokens,
    tokenizer: Tokenizer,
    about: About,
}

#[derive(Debug)]
enum Tokens {
    Memory { text: Text, stream: Stream },
    Cache(Cache),
}

impl Corpus {
    /// Reads files, folders and patterns, as [`Text::read_field`] does; or one folder that [`Cache::prepare`] has
    /// written. Nothing as a tokenizer: that of prepared tokens, or bytes.
    pub fn open(paths: &[PathBuf], field: &str, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        match paths.iter().find(|path| Cache::is_at(path)) {
            None => Self::of_text(Text::read_field(paths, field)?, tokenizer.unwrap_or(&Tokenizer::Bytes)),
            Some(dir) if paths.len() == 1 => Self::of_cache(Cache::open(dir)?, tokenizer),
            Some(dir) => Err(Error::input(
                format!("`{}` has prepared tokens, and other data is named beside it", dir.display()),
                "give the two names, as in --data a=DIR b=FILE, or prepare all of it together",
            )),
        }
    }

    /// The tokens of a text.
    pub fn of_text(mut text: Text, tokenizer: &Tokenizer) -> Result<Self> {
        let stream = Stream::new(&text, tokenizer)?;
        let (files, bytes) = (text.files.len(), text.bytes.len() as u64);
        let about = About { files, bytes, skipped: std::mem::take(&mut text.skipped), prepared: None };
        if stream != Stream::Bytes {
            // The tokens say it all.
            text = Text::default();
        }
        Ok(Self(Arc::new(Inner {
            tokens: Tokens::Memory { text, stream },
            tokenizer: tokenizer.clone(),
            about,
        })))
    }

    /// Prepared tokens; a tokenizer that is named is to be that of the tokens.
    pub fn of_cache(cache: Cache, tokenizer: Option<&Tokenizer>) -> Result<Self> {
        let made_by = cache.tokenizer();
        let tokenizer = match tokenizer {
            Some(given) if given.identity() != made_by.identity() => {
                return Err(Error::input(
                    format!(
                        "the tokens in `{}` were made by the tokenizer `{}` ({}), not by `{}` ({})",
                        cache.dir().display(),
                        made_by.name(),
                        made_by.identity(),
                        given.name(),
                        given.identity()
                    ),
                    "leave --tokenizer out, name the one that made the tokens, or prepare the text again",
                ));
            }
            // It can do more: cut other text into tokens.
            Some(given) => given.clone(),
            None => made_by,
        };
        let about = cache.about();
        Ok(Self(Arc::new(Inner { tokens: Tokens::Cache(cache), tokenizer, about })))
    }

    /// How many tokens there are, ends of documents that are kept apart included.
    pub fn len(&self) -> usize {
        match &self.0.tokens {
            Tokens::Memory { text, stream } => stream.len(text),
            Tokens::Cache(cache) => cache.len(),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the tokens. `range` lies in what there is.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<i32>> {
        match &self.0.tokens {
            Tokens::Memory { text, stream } => Ok(stream.read(text, range)),
            Tokens::Cache(cache) => cache.read(range),
        }
    }

    /// Where an end stands behind a document that is kept apart from what follows.
    pub fn ends(&self) -> Result<Vec<usize>> {
        match &self.0.tokens {
            Tokens::Memory { text, stream } => Ok(stream.ends(text)),
            Tokens::Cache(cache) => cache.ends(),
        }
    }

    /// What makes tokens of such text.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// Where it comes from.
    pub fn about(&self) -> &About {
        &self.0.about
    }

    /// What is counted, for messages: `bytes` or `tokens`.
    pub(super) fn unit(&self) -> &'static str {
        match &self.0.tokens {
            Tokens::Memory { stream: Stream::Bytes, .. } => "bytes",
            Tokens::Memory { .. } | Tokens::Cache(_) => "tokens",
        }
    }

    /// A digest of the tokens: the same for a text and for what was prepared from it.
    pub fn digest(&self) -> String {
        match &self.0.tokens {
            Tokens::Memory { text, stream } => stream.digest(text),
            Tokens::Cache(cache) => cache.digest().to_owned(),
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.0.tokens {
            Tokens::Memory { text, .. } => &text.bytes,
            Tokens::Cache(_) => &[],
        }
    }
}

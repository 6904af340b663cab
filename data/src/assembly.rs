//! From parts of files to tokens: texts are divided into chunks, chunks are tokenized in parallel, and tokens
//! reach an output in order.
//!
//! Only a few MiB of text are in memory at a time.

use super::{
    files::Sink,
    format::Part,
    text::Text,
    tokenizer::{FIRST_BYTE, Pieces, Tokenizer},
};
use crate::{Error, Result};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Receives tokens in order.
pub(super) trait Output {
    /// The number of tokens so far, with end tokens.
    fn len(&self) -> u64;
    /// Notes that a file begins here.
    fn mark(&mut self) -> Result<()>;
    /// Drops the tokens since the mark.
    fn undo(&mut self) -> Result<()>;
    /// Appends tokens of text.
    fn tokens(&mut self, tokens: &[i32]) -> Result<()>;
    /// A document ends at token `end`. If it is `separated`, it is the last so far, and an end token is
    /// appended.
    fn document(&mut self, end: u64, separated: bool) -> Result<()>;
    /// A file is complete.
    fn file(&mut self, path: &Path) -> Result<()>;
}

/// The assembly of tokens.
pub(super) struct Assembly<'a> {
    tokenizer: &'a Tokenizer,
    output: &'a mut dyn Output,
    events: Vec<Event>,
    /// Bytes of text in `events`.
    pending: usize,
    /// The position of the last [`Event::Begin`] while it is in `events`.
    begin: Option<usize>,
    /// Text of a text file that is in no chunk yet.
    open: Vec<u8>,
    /// True if the current file is a text file.
    is_text: bool,
    /// The end of the last text file while it is undecided if an end token follows: that depends on the next
    /// file.
    undecided: Option<u64>,
    /// Bytes of text of the current file.
    file_bytes: u64,
    /// Bytes of text of complete files.
    bytes: u64,
    /// The number of complete files.
    files: usize,
}

/// A step of the output.
enum Event {
    Begin,
    /// A document of a format with documents begins: it is separated from the text before it.
    Separate,
    Chunk(Vec<u8>),
    /// A document of a format with documents ends.
    Document,
    /// A text file ends.
    Text,
    File(PathBuf),
}

/// Bytes of text that are tokenized together.
const TOGETHER: usize = 4 << 20;
/// Steps that are taken together.
const EVENTS: usize = 1 << 16;

impl<'a> Assembly<'a> {
    /// Creates an assembly of tokens of `tokenizer`.
    pub fn new(tokenizer: &'a Tokenizer, output: &'a mut dyn Output) -> Self {
        Self {
            tokenizer,
            output,
            events: Vec::new(),
            pending: 0,
            begin: None,
            open: Vec::new(),
            is_text: false,
            undecided: None,
            file_bytes: 0,
            bytes: 0,
            files: 0,
        }
    }

    /// Delivers all tokens. Returns the number of files and the bytes of their text.
    ///
    /// # Errors
    /// If the text cannot be tokenized or the output fails.
    pub fn finish(mut self) -> Result<(usize, u64)> {
        self.deliver()?;
        if let Some(end) = self.undecided.take() {
            self.output.document(end, false)?;
        }
        Ok((self.files, self.bytes))
    }

    /// Adds a text in memory, as if it were a file.
    pub fn of_text(&mut self, text: &Text) -> Result<()> {
        self.begin(Path::new(""))?;
        for (range, separated) in text.parts() {
            let part = &text.bytes[range];
            if separated { self.document(part)? } else { self.text(part)? }
        }
        self.end(Path::new(""))
    }

    /// Adds text of a text file.
    fn text(&mut self, text: &[u8]) -> Result<()> {
        (self.is_text, self.file_bytes) = (true, self.file_bytes + text.len() as u64);
        self.open.extend_from_slice(text);
        let mut start = 0;
        while let Some(length) = cut(&self.open[start..]) {
            self.events.push(Event::Chunk(self.open[start..start + length].to_vec()));
            start += length;
        }
        self.open.drain(..start);
        self.took(start)
    }

    /// Adds a document.
    fn document(&mut self, text: &[u8]) -> Result<()> {
        (self.is_text, self.file_bytes) = (false, self.file_bytes + text.len() as u64);
        self.events.push(Event::Separate);
        let mut rest = text;
        while let Some(length) = cut(rest) {
            let (chunk, others) = rest.split_at(length);
            self.events.push(Event::Chunk(chunk.to_vec()));
            rest = others;
        }
        self.events.push(Event::Chunk(rest.to_vec()));
        self.events.push(Event::Document);
        self.took(text.len())
    }

    fn took(&mut self, bytes: usize) -> Result<()> {
        self.pending += bytes;
        if self.pending >= TOGETHER || self.events.len() >= EVENTS { self.deliver() } else { Ok(()) }
    }

    /// Tokenizes the text of all events and delivers them.
    fn deliver(&mut self) -> Result<()> {
        let events = std::mem::take(&mut self.events);
        (self.pending, self.begin) = (0, None);
        let tokenizer = self.tokenizer;
        let tokens = |event: &Event| match event {
            Event::Chunk(text) => tokens(text, tokenizer),
            Event::Begin | Event::Separate | Event::Document | Event::Text | Event::File(_) => Ok(Vec::new()),
        };
        let all: Vec<Vec<i32>> = events.par_iter().map(tokens).collect::<Result<_>>()?;
        for (event, tokens) in events.into_iter().zip(all) {
            let len = self.output.len();
            match event {
                Event::Begin => self.output.mark()?,
                Event::Chunk(_) => self.output.tokens(&tokens)?,
                Event::Separate => {
                    if let Some(end) = self.undecided.take() {
                        self.output.document(end, true)?;
                    }
                }
                Event::Document => self.output.document(len, true)?,
                Event::Text => {
                    if let Some(end) = self.undecided.replace(len) {
                        self.output.document(end, false)?;
                    }
                }
                Event::File(path) => self.output.file(&path)?,
            }
        }
        Ok(())
    }
}

impl Sink for Assembly<'_> {
    fn begin(&mut self, _: &Path) -> Result<()> {
        (self.begin, self.is_text, self.file_bytes) = (Some(self.events.len()), false, 0);
        self.events.push(Event::Begin);
        Ok(())
    }

    fn part(&mut self, part: Part<'_>) -> Result<()> {
        match part {
            Part::Text(text) => self.text(text.as_bytes()),
            Part::Document(text) => self.document(text.as_bytes()),
        }
    }

    fn end(&mut self, path: &Path) -> Result<()> {
        let rest = std::mem::take(&mut self.open);
        let length = rest.len();
        if self.is_text {
            self.events.extend([Event::Chunk(rest), Event::Text]);
        }
        self.events.push(Event::File(path.to_owned()));
        (self.files, self.bytes) = (self.files + 1, self.bytes + self.file_bytes);
        self.took(length)
    }

    fn undo(&mut self) -> Result<()> {
        self.open.clear();
        match self.begin.take() {
            Some(at) => self.events.truncate(at),
            None => {
                self.events.clear();
                self.output.undo()?;
            }
        }
        Ok(())
    }
}

/// The size in bytes at which long documents are divided, at the end of a line, so that a tokenizer gets a
/// bounded text.
const CHUNK: usize = 1 << 16;
/// The longest line that is tokenized at once.
const LINE: usize = 1 << 20;

/// Returns the length of the next chunk of a text. `None` means that the rest is one chunk or, if more may
/// follow, that its length depends on it.
fn cut(text: &[u8]) -> Option<usize> {
    if text.len() <= CHUNK {
        return None;
    }
    let some = &text[..text.len().min(LINE)];
    let last = some[..CHUNK].iter().rposition(|b| *b == b'\n');
    let line = last.or_else(|| some[CHUNK..].iter().position(|b| *b == b'\n').map(|at| CHUNK + at));
    if let Some(at) = line {
        return Some(at + 1);
    }
    if text.len() < LINE {
        return None;
    }
    // Both a space and the first byte of a character begin with a boundary.
    let space = some.iter().rposition(|b| *b == b' ').filter(|at| *at > 0);
    space.or_else(|| (1..LINE).rev().find(|at| text[*at] & 0xc0 != 0x80))
}

/// Returns the tokens of a chunk.
fn tokens(text: &[u8], tokenizer: &Tokenizer) -> Result<Vec<i32>> {
    match tokenizer {
        Tokenizer::Bytes => Ok(text.iter().map(|b| FIRST_BYTE + i32::from(*b)).collect()),
        Tokenizer::Pieces(_) if text.is_empty() => Ok(Vec::new()),
        Tokenizer::Pieces(pieces) => piece_tokens(text, &**pieces),
    }
}

fn piece_tokens(text: &[u8], pieces: &dyn Pieces) -> Result<Vec<i32>> {
    let text = std::str::from_utf8(text).map_err(|error| {
        let help = "a tokenizer other than `bytes` needs UTF-8";
        Error::input(format!("the text is not UTF-8 at offset {}", error.valid_up_to()), help)
    })?;
    let tokens = pieces.encode(text)?;
    let known = 2..pieces.tokens() as i32;
    match tokens.iter().find(|token| !known.contains(token)) {
        None => Ok(tokens),
        Some(wrong) => Err(Error::input(
            format!(
                "the tokenizer `{}` makes token {wrong} of text, but tokens of text must be from 2 to below {}",
                pieces.name(),
                known.end
            ),
            "0 and 1 are reserved for padding and the end: use a tokenizer whose text does not use them",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All chunks of a text that arrives in parts of `part` bytes.
    fn chunks(text: &str, part: usize) -> Vec<usize> {
        let (mut open, mut out) = (Vec::new(), Vec::new());
        for part in text.as_bytes().chunks(part) {
            open.extend_from_slice(part);
            while let Some(length) = cut(&open) {
                out.push(length);
                open.drain(..length);
            }
        }
        out.push(open.len());
        out.retain(|length| *length > 0);
        out
    }

    #[track_caller]
    fn check(text: &str, expected: &[usize]) {
        let (mut rest, mut whole) = (text.as_bytes(), Vec::new());
        while let Some(length) = cut(rest) {
            whole.push(length);
            rest = &rest[length..];
        }
        whole.push(rest.len());
        whole.retain(|length| *length > 0);
        assert_eq!(whole, expected);
        for part in [1 << 10, 1 << 16, 100_003] {
            assert_eq!(chunks(text, part), expected, "in parts of {part}");
        }
    }

    #[test]
    fn long_texts_are_divided_at_line_ends() {
        check(&"x".repeat(CHUNK), &[CHUNK]);
        check(&format!("{}\n{}", "x".repeat(CHUNK - 8), "y".repeat(100)), &[CHUNK - 7, 100]);
        check(&format!("{}\n{}", "x".repeat(CHUNK + 8), "y".repeat(100)), &[CHUNK + 9, 100]);
        let lines = format!("{}\n", "x".repeat(99));
        check(&lines.repeat(2000), &[65_500, 65_500, 65_500, 3_500]);
    }

    #[test]
    fn lines_without_end_are_divided_at_spaces_or_characters() {
        let words = "word ".repeat(LINE / 5 * 2);
        let length = LINE / 5 * 5 - 1;
        check(&words, &[length, LINE / 5 * 5, words.len() - length - LINE / 5 * 5]);
        let text = "\u{e9}".repeat(LINE / 2 + 10);
        assert_eq!(cut(text.as_bytes()), Some(LINE - 2));
    }
}

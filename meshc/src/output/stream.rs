//! Standard output and standard error, without panics.
//!
//! If the reader of standard output closes the pipe (`meshc … | head -1`), the rest of the output is
//! discarded and the command completes its other work, such as files and checkpoints. Any other failure, such
//! as a full disk, is reported when the command has ended ([`finish`]). Messages on standard error are best
//! effort.

use anyhow::{Context, Result};
use page::visible::visible;
use signal_hook::low_level::exit;
use std::{
    fmt,
    io::{self, ErrorKind, IsTerminal, Write, stderr, stdout},
    sync::{Mutex, MutexGuard},
};

/// The first failure of a write to standard output.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes to standard output, as `print!` does.
macro_rules! out {
    ($($words:tt)*) => { $crate::output::stream::write_out(format_args!($($words)*)) };
}

/// Writes a line to standard output, as `println!` does.
macro_rules! outln {
    ($($words:tt)*) => { $crate::output::stream::write_out(format_args!("{}\n", format_args!($($words)*))) };
}

/// Writes to standard error, as `eprint!` does.
macro_rules! err {
    ($($words:tt)*) => { $crate::output::stream::write_err(format_args!($($words)*)) };
}

/// Writes a line to standard error, as `eprintln!` does.
macro_rules! errln {
    ($($words:tt)*) => { $crate::output::stream::write_err(format_args!("{}\n", format_args!($($words)*))) };
}

pub(crate) use {err, errln, out, outln};

/// Writes to standard output, unless an earlier write failed. Control characters become visible.
pub fn write_out(text: fmt::Arguments<'_>) {
    write(visible(&text.to_string()).as_bytes());
}

/// Writes data to standard output, unless an earlier write failed. A terminal gets visible characters.
pub fn write_bytes(bytes: &[u8]) {
    match stdout().is_terminal() {
        true => write_out(format_args!("{}", String::from_utf8_lossy(bytes))),
        false => write(bytes),
    }
}

fn write(bytes: &[u8]) {
    let mut failed = failed();
    if failed.is_none() {
        *failed = stdout().write_all(bytes).err();
    }
}

/// Writes to standard error. Control characters become visible. Failures are ignored, because nobody reads
/// the messages.
pub fn write_err(text: fmt::Arguments<'_>) {
    // One write per message, so that messages of several threads are not mixed.
    let _ = stderr().write_all(visible(&text.to_string()).as_bytes());
}

/// Ends the process if standard output was closed. Call it in loops that only produce output.
pub fn end_if_closed() {
    let is_closed = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
    if failed().as_ref().is_some_and(is_closed) {
        // Skips the destructors of plugin libraries, which may still be running.
        exit(0);
    }
}

/// Writes what is buffered, and returns the first failure, except that the reader has closed the pipe.
pub fn finish() -> Result<()> {
    let mut failed = failed();
    let failure = failed.take().or_else(|| stdout().flush().err());
    match failure.filter(|error| error.kind() != ErrorKind::BrokenPipe) {
        Some(error) => Err(error).context("writing to standard output"),
        None => Ok(()),
    }
}

fn failed() -> MutexGuard<'static, Option<io::Error>> {
    // The value is whole even if another thread panicked.
    FAILED.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

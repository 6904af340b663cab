//! Errors on standard error.

use super::stream::errln;
use std::io::{IsTerminal, Write, stderr};

/// Prints an error to standard error: as text, or as one line of JSON if `--json` is among the arguments.
pub fn say(error: &anyhow::Error) {
    if std::env::args_os().any(|word| word == "--json") {
        return errln!("{}", driver::failure::json(error));
    }
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    // Control characters are visible in the text, except those of colours. A closed stream is ignored.
    let _ = stderr().write_all(format!("{}\n", driver::failure::text(error, colour)).as_bytes());
}

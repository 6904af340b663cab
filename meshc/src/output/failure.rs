//! Errors on standard error.

use super::stream::errln;
use std::io::{IsTerminal, stderr};

/// Prints an error to standard error: as text, or as one line of JSON if `--json` is among the arguments.
pub fn say(error: &anyhow::Error) {
    if std::env::args_os().any(|word| word == "--json") {
        return errln!("{}", driver::failure::json(error));
    }
    let colour = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    errln!("{}", driver::failure::text(error, colour));
}

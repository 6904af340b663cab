//! `meshc`: models to programs, programs to artefacts, artefacts to runs. The only crate that knows both the
//! compiler and the runtime.
//!
//! Reading order: [`cli`] (the command line), [`commands`] (one file each), then what they share: [`args`] (arguments),
//! [`build`] (from a model to what runs), [`output`] (what is said and written). A command uses these, and never another
//! command.

mod args;
mod build;
mod cli;
mod commands;
mod output;

use std::process::ExitCode;

/// Exit codes: 0 all is well, 1 something is wrong with what was given, 2 the command line itself is wrong.
fn main() -> ExitCode {
    match cli::parse().and_then(|cli| cli.command.run()) {
        Ok(code) => code,
        Err(error) => {
            output::failure::say(&error);
            ExitCode::FAILURE
        }
    }
}

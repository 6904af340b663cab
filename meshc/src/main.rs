//! The command line `meshc`: compiles models into artefacts, and runs them.
//!
//! The only crate that depends on both the compiler and the runtime.
//!
//! Reading order: [`cli`] (the command line), [`commands`] (one file each), and the code they share: [`args`]
//! (arguments), [`build`] (from a model to a session), [`output`] (messages and files). A command never uses
//! another command.

mod args;
mod build;
mod cli;
mod commands;
mod output;

use std::process::ExitCode;

/// Exit codes: 0: success; 1: invalid input or a failed run; 2: invalid command line.
fn main() -> ExitCode {
    match cli::parse().and_then(|cli| cli.command.run()) {
        Ok(code) => code,
        Err(error) => {
            output::failure::say(&error);
            ExitCode::FAILURE
        }
    }
}

//! The command line `meshc`: compiles models into artefacts, and runs them.
//!
//! Reading order: [`cli`] (the command line), [`commands`] (one file each), and the code they share: [`args`]
//! (arguments, which fill a `driver::Request`), [`hosts`] (several processes), [`output`] (messages and run
//! directories). A command never uses another command.

mod args;
mod cli;
mod commands;
mod hosts;
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

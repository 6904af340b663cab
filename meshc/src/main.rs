//! The command line `meshc`: compiles models into artefacts, and runs them.
//!
//! Reading order: [`cli`] (the command line), [`commands`] (one file each), and the code they share: [`args`]
//! (arguments, which fill a `driver::Request`), [`output`] (messages and run directories). A command never
//! uses another command.

#![warn(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod cli;
mod commands;
mod output;

use std::process::ExitCode;

/// Exit codes: 0: success; 1: invalid input or a failed run; 2: invalid command line.
fn main() -> ExitCode {
    output::signals::survive_file_limits();
    let result = cli::parse().and_then(|cli| cli.command.run());
    let written = output::stream::finish();
    result.and_then(|code| written.map(|()| code)).unwrap_or_else(|error| {
        output::signals::wait_if_ending();
        output::failure::say(&error);
        ExitCode::FAILURE
    })
}

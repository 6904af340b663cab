//! `meshc`: models to programs, programs to artefacts, artefacts to runs. The only crate that knows both the
//! compiler and the runtime.
//!
//! Reading order: [`config`] (the command line, and files of options), [`commands`], one file each; then what they
//! share: [`model`] (from a model file to a program), [`artefact`] (from a program to what runs), [`subject`] (programs
//! with parameters), [`placement`] and [`target`] (where it is to run), [`lower`] (through the compiler), [`ahead`]
//! (through a plugin's compiler), [`fit`] (programs that are too large), [`plan`] (the
//! search for a good way to run a program), [`device`] (plugins and clients), [`tensors`]
//! (safetensors), [`folder`] (writing things whole), [`hf`] (models of Hugging Face's transformers), [`reading`] (text
//! for training), [`run_folder`], [`signals`], [`summary`] and [`progress`] (what is said about training),
//! [`page`] (runs to look at), [`diagnostics`] and [`failure`] (about mistakes).

mod ahead;
mod artefact;
mod commands;
mod config;
mod data_options;
mod device;
mod diagnostics;
mod failure;
mod fit;
mod flags;
mod folder;
mod hf;
mod lower;
mod model;
mod page;
mod placement;
mod plan;
mod progress;
mod reading;
mod run_folder;
mod signals;
mod subject;
mod summary;
mod target;
mod tensors;

use std::process::ExitCode;

/// Exit codes: 0 all is well, 1 something is wrong with what was given, 2 the command line itself is wrong.
fn main() -> ExitCode {
    match config::parse().and_then(|cli| cli.command.run()) {
        Ok(code) => code,
        Err(error) => {
            failure::say(&error);
            ExitCode::FAILURE
        }
    }
}

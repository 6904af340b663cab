//! What goes wrong at run time: what, where, why, and what to do.

use std::{io, path::PathBuf};

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{action} `{path}`: {source}")]
    Io {
        /// What was tried, such as `reading`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An artefact is incomplete, altered, or of another version.
    #[error("artefact `{path}`: {reason}\n  help: {help}")]
    Artefact {
        /// The directory or file.
        path: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        help: &'static str,
    },
    /// A checkpoint is incomplete, altered, or of another version.
    #[error("checkpoint `{path}`: {reason}\n  help: {help}")]
    Checkpoint {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        help: String,
    },
    /// Something the caller gave does not fit the program.
    #[error("{what}\n  help: {help}")]
    Input {
        /// What is wrong, with names and numbers.
        what: String,
        /// What to do.
        help: String,
    },
    /// Data could not be read or prepared.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// The plugin refused or failed.
    #[error("{context}: {source}")]
    Pjrt {
        /// What was being done.
        context: String,
        /// The plugin's answer.
        source: pjrt::Error,
    },
}

/// The runtime's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Something the caller gave does not fit.
    pub fn input(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Input { what: what.into(), help: help.into() }
    }
    /// A failed file operation.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
    /// A failed call of the plugin.
    pub fn pjrt(context: impl Into<String>) -> impl FnOnce(pjrt::Error) -> Self {
        let context = context.into();
        move |source| Self::Pjrt { context, source }
    }
}

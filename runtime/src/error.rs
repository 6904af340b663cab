//! Errors of the runtime: what failed, where, why, and what to do.

use std::{io, path::PathBuf};

/// An error of the runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{action} `{path}`: {source}")]
    Io {
        /// The operation, such as `reading`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// An artefact is incomplete, altered, or of another version.
    #[error("artefact `{path}`: {reason}\n  help: {help}")]
    Artefact {
        /// The directory or file.
        path: String,
        /// The reason.
        reason: String,
        /// The remedy.
        help: &'static str,
    },
    /// A checkpoint is incomplete, altered, or of another version.
    #[error("checkpoint `{path}`: {reason}\n  help: {help}")]
    Checkpoint {
        /// The folder.
        path: PathBuf,
        /// The reason.
        reason: String,
        /// The remedy.
        help: String,
    },
    /// Invalid input.
    #[error("{what}\n  help: {help}")]
    Input {
        /// The fault, with names and numbers.
        what: String,
        /// The remedy.
        help: String,
    },
    /// Values that a program asserts to be finite are not.
    #[error(
        "{}assertion failed: {values}\n  help: the program asserts that they are finite: assert values before \
         them to find the first one, or use a lower learning rate or f32",
        step.map(|step| format!("step {step}: ")).unwrap_or_default()
    )]
    Assertion {
        /// The training step.
        step: Option<u64>,
        /// The values, with their numbers of NaN and infinite elements.
        values: String,
    },
    /// Data could not be read or prepared.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// Another process of the job is lost, or the processes disagree.
    #[error("{0}")]
    Job(String),
    /// The processes of the job differ, or one of them failed in what they do together. All of them get such
    /// an error.
    #[error("{0}")]
    Disagreement(String),
    /// The plugin returned an error.
    #[error("{context}: {source}")]
    Pjrt {
        /// The operation.
        context: String,
        /// The plugin's error.
        source: pjrt::Error,
    },
}

/// The result of fallible operations of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Returns the reason without the path of a checkpoint.
    pub fn reason(&self) -> String {
        match self {
            Self::Checkpoint { reason, .. } => reason.clone(),
            other => other.to_string(),
        }
    }
    /// Creates an error for invalid input.
    pub fn input(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Input { what: what.into(), help: help.into() }
    }
    /// Creates an error for a failed file operation.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
    /// Creates an error for a failed call of the plugin.
    pub fn pjrt(context: impl Into<String>) -> impl FnOnce(pjrt::Error) -> Self {
        let context = context.into();
        move |source| Self::Pjrt { context, source }
    }
}

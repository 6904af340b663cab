//! Errors, with enough context to act on.
//!
//! A PJRT error says neither which call failed nor in which plugin. [`CallError`] adds both, and the
//! executable if there is one.

use crate::version::ApiVersion;
use std::fmt;
use std::path::PathBuf;

/// The result of all fallible operations of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system could not load the file as a shared library.
    #[error(
        "cannot load the PJRT plugin {}: {reason}; give the path of a plugin's shared library (.so) for this machine",
        path.display()
    )]
    Load {
        /// The path as the caller gave it.
        path: PathBuf,
        /// The operating system's message.
        reason: String,
    },
    /// The file is a shared library, but not a PJRT plugin.
    #[error(
        "{} is not a PJRT plugin: {reason}; give the path of a shared library that exports GetPjrtApi",
        path.display()
    )]
    NotAPlugin {
        /// The library.
        path: PathBuf,
        /// The missing symbol or property.
        reason: String,
    },
    /// The plugin's API version is not supported.
    #[error(
        "the PJRT plugin {} has API version {found}, but {needed}; install a plugin of a matching release",
        path.display()
    )]
    Version {
        /// The plugin.
        path: PathBuf,
        /// Its version.
        found: ApiVersion,
        /// The supported versions.
        needed: String,
    },
    /// The plugin's function table lacks a function.
    #[error(
        "the PJRT plugin {} (API {version}) has no function {function}; use a plugin that provides it",
        path.display()
    )]
    MissingFunction {
        /// The function's name in the C API.
        function: &'static str,
        /// The plugin.
        path: PathBuf,
        /// Its version.
        version: ApiVersion,
    },
    /// The plugin returned an error.
    #[error(transparent)]
    Call(Box<CallError>),
    /// The call was refused before it reached the plugin, because it is invalid or unsafe.
    #[error("{operation}{}: {reason}", for_executable(executable))]
    Invalid {
        /// The operation.
        operation: &'static str,
        /// The fault, and what would be valid.
        reason: String,
        /// The executable concerned, if any.
        executable: Option<String>,
    },
    /// The plugin's profiler returned an error.
    #[error("{function} failed: {reason} (plugin {})", path.display())]
    Profiler {
        /// The plugin.
        path: PathBuf,
        /// The function's name in the C API.
        function: &'static str,
        /// The plugin's message.
        reason: String,
    },
    /// The plugin reported success but violated the C API.
    #[error("the PJRT plugin {} broke the API's contract in {function}: {reason}", path.display())]
    Contract {
        /// The plugin.
        path: PathBuf,
        /// The function's name in the C API.
        function: &'static str,
        /// The violation.
        reason: String,
    },
}

/// An error returned by a plugin.
#[derive(Clone, Debug)]
pub struct CallError {
    /// The error's code.
    pub code: Code,
    /// The plugin's message.
    pub message: String,
    /// The function of the C API that failed, or that started the background work that failed.
    pub function: &'static str,
    /// The plugin.
    pub plugin: PathBuf,
    /// The executable that was compiled, queried or run, if known.
    pub executable: Option<String>,
    /// The id of the device it happened on, if known.
    pub device: Option<i32>,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.function)?;
        f.write_str(&for_executable(&self.executable))?;
        if let Some(device) = self.device {
            write!(f, " on device {device}")?;
        }
        write!(f, ": {} ({}; plugin {})", self.message.trim_end(), self.code, self.plugin.display())
    }
}

impl std::error::Error for CallError {}

/// Returns " for executable `name`", or an empty text.
fn for_executable(executable: &Option<String>) -> String {
    executable.as_ref().map(|name| format!(" for executable `{name}`")).unwrap_or_default()
}

impl Error {
    /// Returns the plugin's error code. `None` for errors that this crate made.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Call(error) => Some(error.code),
            Error::Load { .. }
            | Error::NotAPlugin { .. }
            | Error::Version { .. }
            | Error::MissingFunction { .. }
            | Error::Invalid { .. }
            | Error::Profiler { .. }
            | Error::Contract { .. } => None,
        }
    }

    /// Returns true if the plugin lacks a capability, as opposed to a failed operation.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Error::MissingFunction { .. }) || self.code() == Some(Code::Unimplemented)
    }

    /// Creates an error for a call that is refused by this crate.
    pub(crate) fn invalid(operation: &'static str, reason: impl Into<String>) -> Self {
        Error::Invalid { operation, reason: reason.into(), executable: None }
    }

    /// Adds the name of the executable.
    pub(crate) fn with_executable(mut self, name: &str) -> Self {
        match &mut self {
            Error::Call(error) => error.executable = Some(name.to_owned()),
            Error::Invalid { executable, .. } => *executable = Some(name.to_owned()),
            Error::Load { .. }
            | Error::NotAPlugin { .. }
            | Error::Version { .. }
            | Error::MissingFunction { .. }
            | Error::Profiler { .. }
            | Error::Contract { .. } => {}
        }
        self
    }
}

/// Converts errors that mean "not implemented" to `None`.
pub(crate) fn optional<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_unimplemented() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The code of a plugin's error: the canonical codes of Abseil and gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // The names are the documentation; the meanings are gRPC's.
pub enum Code {
    Ok,
    Cancelled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
    /// A code that this crate does not know.
    Other(i32),
}

/// The codes in numerical order, with their usual names.
const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

impl Code {
    /// Converts from the number in the C API.
    pub(crate) fn from_raw(raw: i32) -> Self {
        usize::try_from(raw)
            .ok()
            .and_then(|index| CODES.get(index))
            .map_or(Code::Other(raw), |(code, _)| *code)
    }

    /// Returns the number in the C API.
    pub(crate) fn to_raw(self) -> i32 {
        match self {
            Code::Other(raw) => raw,
            known => CODES.iter().zip(0..).find(|((code, _), _)| *code == known).map_or(2, |(_, raw)| raw),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CODES.iter().find(|(code, _)| code == self) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "code {}", self.to_raw()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CallError, Code, Error, optional};
    use std::path::PathBuf;

    fn call_error(code: Code) -> Error {
        Error::Call(Box::new(CallError {
            code,
            message: "no such thing\n".into(),
            function: "PJRT_Client_Compile",
            plugin: PathBuf::from("/p/cpu.so"),
            executable: None,
            device: None,
        }))
    }

    #[test]
    fn codes_round_trip() {
        for raw in [-1, 0, 3, 12, 16, 17, 400] {
            assert_eq!(Code::from_raw(raw).to_raw(), raw);
        }
        assert_eq!(Code::from_raw(12), Code::Unimplemented);
        assert_eq!(Code::from_raw(99).to_string(), "code 99");
        assert_eq!(Code::from_raw(8).to_string(), "RESOURCE_EXHAUSTED");
    }

    #[test]
    fn a_message_names_call_code_plugin_and_executable() {
        let error = call_error(Code::NotFound);
        assert_eq!(
            error.to_string(),
            "PJRT_Client_Compile failed: no such thing (NOT_FOUND; plugin /p/cpu.so)"
        );
        assert_eq!(
            error.with_executable("train_step").to_string(),
            "PJRT_Client_Compile failed for executable `train_step`: no such thing (NOT_FOUND; plugin /p/cpu.so)"
        );
    }

    #[test]
    fn unimplemented_is_absence() {
        assert!(matches!(optional::<()>(Err(call_error(Code::Unimplemented))), Ok(None)));
        assert!(optional::<()>(Err(call_error(Code::Internal))).is_err());
        assert!(matches!(optional(Ok(1)), Ok(Some(1))));
    }
}

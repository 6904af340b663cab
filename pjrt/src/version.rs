//! Versions of the PJRT C API.

use std::fmt;

/// A version of the PJRT C API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    /// Breaking changes; always 0 so far.
    pub major: i32,
    /// Additions, in principle.
    pub minor: i32,
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The oldest API this crate speaks. Layouts of argument structs changed in place at 0.45 and at 0.57; from here on
/// they only grew.
pub const OLDEST: ApiVersion = ApiVersion { major: 0, minor: 57 };

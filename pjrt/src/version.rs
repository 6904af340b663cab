//! Versions of the PJRT C API.

use std::fmt;

/// A version of the PJRT C API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    /// Incremented on breaking changes; 0 so far.
    pub major: i32,
    /// Incremented on additions.
    pub minor: i32,
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The oldest supported API version. Argument structs changed incompatibly at 0.45 and at 0.57; since then
/// they have only grown.
pub const OLDEST: ApiVersion = ApiVersion { major: 0, minor: 57 };

//! Generated stubs of the service, and the metadata entry that carries the token.

#[rustfmt::skip]
#[path = "gen/coordinator.rs"]
#[allow(missing_docs, unused_qualifications, unreachable_pub, clippy::all)]
mod stubs;

pub use stubs::{coordinator_client, coordinator_server};

/// Metadata entry of every call.
pub const TOKEN: &str = "mesh-job-token";

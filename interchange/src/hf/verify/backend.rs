//! The compiler and the devices of a verification, provided by the caller.

use anyhow::Result;
use runtime::Session;

/// A program on devices.
pub struct Opened {
    /// The program's session; no parameter has a value yet.
    pub session: Session,
    /// The number of devices that the batch is split over.
    pub shards: usize,
    /// Devices, mesh and layout, in words.
    pub placed: String,
}

/// Compiles programs and opens sessions with them.
pub trait Backend {
    /// Opens the program `name`. `layout` is the model's own layout; `build` makes the program for a batch
    /// that is divisible by a number of shards.
    fn open(&self, name: &str, layout: &str, build: &dyn Fn(usize) -> mesh::dsl::Program) -> Result<Opened>;
}

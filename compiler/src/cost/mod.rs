//! Costs that stages and reports share: bytes on the wire, buffers reused in place, and the TPU slices that
//! programs are compiled for, with their names at Google Cloud.

pub mod cloud;
pub mod in_place;
pub mod target;
pub mod time;
pub mod wire;

//! What the stages and reports need to know of cost: bytes on the wire, buffers written in place, and the TPU slices
//! that programs are compiled for.

pub mod in_place;
pub mod target;
pub mod time;
pub mod wire;

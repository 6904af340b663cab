//! The parts of a command line that no single command owns: option files with the origin of each value
//! ([`config`]), and value parsers of numeric options ([`ranges`]).
//!
//! Absent on purpose: the commands and their options, which are in `meshc`.

pub mod config;
pub mod ranges;

//! The parts of a command line that no single command owns: option files with the origin of each value
//! ([`config`]), value parsers of numeric options ([`ranges`]), groups of options in the help ([`groups`]),
//! completions and man pages ([`shell`]).
//!
//! Absent on purpose: the commands and their options, which are in `meshc`.

pub mod config;
pub mod groups;
pub mod ranges;
pub mod shell;

//! What the tests that cross crates share. The tests themselves are in `tests/tests/`.

pub mod diff;
pub mod differences;
pub mod filetest;
pub mod generate;
pub mod law;
pub mod loops;
pub mod moe;
pub mod oracle;
pub mod plugin;
pub mod training;

//! What the tests that cross crates share. The tests themselves are in `tests/tests/`.

pub mod diff;
pub mod filetest;
pub mod plugin;

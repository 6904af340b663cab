//! Code shared by the tests across crates, which are in `tests/tests/`.

pub mod backends;
pub mod diff;
pub mod differences;
pub mod filetest;
pub mod law;
pub mod loops;
pub mod moe;
pub mod oracle;
pub mod plugin;
pub mod steps;
pub mod training;

pub use selftest::generate;

use std::io::Write;

/// Prints that a test is skipped and why. It bypasses the test harness, which hides the output of passing
/// tests.
pub fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // A closed standard error is ignored.
    let _ = std::io::stderr().write_all(format!("skipped {test}: {why}\n").as_bytes());
}

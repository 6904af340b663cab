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

use std::io::Write;

/// Says that a test is skipped and why, past the test harness, which keeps what passing tests print to itself.
pub fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Where standard error is closed nobody wants to know.
    let _ = std::io::stderr().write_all(format!("skipped {test}: {why}\n").as_bytes());
}

//! T5 1.0 Large, 738 million parameters.
//!
//! `meshc report models/t5_large.rs --mesh data=8`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::t5_large())
}

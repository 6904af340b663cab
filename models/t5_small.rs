//! T5 1.0 Small, 60 million parameters.
//!
//! `meshc report models/t5_small.rs --mesh data=8`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::t5_small())
}

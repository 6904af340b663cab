//! T5 1.0 Base, 223 million parameters.
//!
//! `meshc report models/t5_base.rs --mesh data=8`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::t5_base())
}

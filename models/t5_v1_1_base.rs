//! T5 1.1 Base: gated GELU, an output projection of its own.
//!
//! `meshc report models/t5_v1_1_base.rs --mesh data=8`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::t5_v1_1_base())
}

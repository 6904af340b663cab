//! T5 1.0 11B: 128 heads of 128, layers 65536 wide.
//!
//! `meshc report models/t5_11b.rs --mesh data=4,model=16`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::t5_11b())
}

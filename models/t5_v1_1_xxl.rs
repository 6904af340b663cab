//! T5 1.1 XXL, the paper's T5-XXL: 11 billion parameters.
//!
//! `meshc report models/t5_v1_1_xxl.rs --mesh data=4,model=16`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::t5_v1_1_xxl())
}

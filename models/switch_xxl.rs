//! Switch-XXL: T5-XXL with 128 experts in every other layer, 394.5 billion parameters.
//!
//! `meshc report models/switch_xxl.rs --mesh data=4,expert=64,model=4`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::switch_xxl())
}

//! Switch-Large: T5-Large with 128 experts in every other layer, 26.3 billion parameters.
//!
//! `meshc report models/switch_large.rs --mesh data=4,expert=32`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::switch_large())
}

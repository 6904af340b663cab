//! Switch-Large as in the paper's Table 9: gated layers, 27.1 billion parameters.
//!
//! `meshc report models/switch_large_table9.rs --mesh data=4,expert=32`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::switch_large_table9())
}

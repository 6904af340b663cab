//! Switch-Base as in the paper's Table 9: gated layers, two thirds as wide.
//!
//! `meshc report models/switch_base_table9.rs --mesh data=4,expert=8`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::switch_base_table9())
}

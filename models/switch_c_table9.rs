//! Switch-C with the 32 heads of the paper's Table 9.
//!
//! `meshc report models/switch_c_table9.rs --mesh expert=2048`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::switch_c_table9())
}

//! Switch-XXL with the 64 experts of the paper's Table 9, 201.3 billion parameters.
//!
//! `meshc report models/switch_xxl_table9.rs --mesh data=4,expert=64,model=4`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::switch_xxl_table9())
}

//! MoE-Base: T5-Base with 128 experts in every other layer, of which every token uses two.
//!
//! `meshc report models/moe_base.rs --mesh data=4,expert=8`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::moe_base())
}

//! mSwitch-Base: mT5-Base with 128 experts in every other layer.
//!
//! `meshc report models/mswitch_base.rs --mesh data=4,expert=8`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::mswitch_base())
}

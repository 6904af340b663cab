//! Switch-C: 2048 experts in every layer, 1.571 trillion parameters, split over experts only.
//!
//! `meshc report models/switch_c.rs --mesh expert=2048`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::switch_c())
}

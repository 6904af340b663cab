//! Switch-Base: T5-Base with experts in every other layer. 7.4 billion parameters with its 128 experts; 8, 16,
//! 32, 64 and 256 were released too: `--set experts=8`.
//!
//! `meshc report models/switch_base.rs --mesh data=4,expert=8`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::switch_base(128))
}

//! Switch-XXL: T5-XXL with 128 experts in every other layer, 394.5 billion parameters.
//!
//! `meshc report models/switch_xxl.rs --mesh data=4,expert=64,model=4`
//!
//! A model file can start from a built-in model and change any field of it. This one changes nothing, so that
//! it is the same model as `meshc report switch_xxl`.

use models::{Config, zoo};
use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(config())
}

/// The model.
fn config() -> Config {
    Config { name: "switch_xxl".into(), ..zoo::switch_xxl() }
}

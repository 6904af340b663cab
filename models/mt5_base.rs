//! mT5-Base: T5 1.1 Base with the vocabulary of 101 languages and inputs of 1024 tokens.
//!
//! `meshc report models/mt5_base.rs --mesh data=8`

use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(models::zoo::mt5_base())
}

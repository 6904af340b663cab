//! `meshc explain`: explains the labels of mistakes.

use crate::output::stream::{out, outln};
use anyhow::Result;
use driver::explain::{explain, index};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Label, such as contract_c1 in `error[contract_c1]`. Default: list all labels
    label: Option<String>,
}

/// Prints the explanation of a label, or all labels.
pub fn run(args: &Args) -> Result<()> {
    match &args.label {
        Some(label) => out!("{}", explain(label)?),
        None => {
            out!("{}", index());
            outln!("\n`meshc explain LABEL` prints an example and the way out");
        }
    }
    Ok(())
}

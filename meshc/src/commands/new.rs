//! `meshc new`: creates a package for a model.

use crate::output::stream::outln;
use anyhow::Result;
use driver::scaffold::create;
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Folder to create; its name is the name of the model
    name: PathBuf,
}

/// Creates the package.
pub fn run(args: &Args) -> Result<()> {
    create(&args.name)?.iter().for_each(|file| outln!("{}", file.display()));
    let name = args.name.display();
    outln!("\nNext: edit {name}/src/main.rs, then");
    outln!("  meshc check {name} --watch");
    outln!("  meshc train {name} --data FILES");
    outln!("  cargo test --manifest-path {name}/Cargo.toml");
    Ok(())
}

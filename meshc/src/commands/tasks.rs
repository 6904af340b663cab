//! `meshc tasks`: the supervised tasks that are part of mesh, or the file of one.

use crate::output::stream::{out, outln};
use ::tasks::ready;
use anyhow::Result;
use driver::failure::failure;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Task whose file is printed
    #[arg(value_name = "TASK")]
    task: Option<String>,
}

/// Lists the tasks, with one line each, or prints the file of one.
pub fn run(args: &Args) -> Result<()> {
    let Some(name) = &args.task else {
        let width = ready::READY.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, text) in ready::READY {
            outln!("{name:width$}  {}", ready::about(text));
        }
        return Ok(());
    };
    let found = ready::READY.iter().find(|(of, _)| of == name);
    let (_, text) =
        found.ok_or_else(|| failure(format!("`{name}` is no task"), "`meshc tasks` lists all"))?;
    out!("{text}");
    Ok(())
}

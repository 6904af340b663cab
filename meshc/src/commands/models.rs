//! `meshc models`: built-in models and schedule presets.

use crate::output::stream::outln;
use anyhow::Result;
use models::zoo;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Lists built-in models and schedule presets, with one line each.
pub fn run(_: &Args) -> Result<()> {
    let width = zoo::ALL.iter().map(|preset| preset.name.len()).max().unwrap_or(0);
    outln!("built-in models:");
    zoo::ALL.iter().for_each(|preset| outln!("  {:width$}  {}", preset.name, preset.summary));
    outln!("schedule presets (--schedule preset=NAME):");
    for preset in &zoo::SCHEDULES {
        outln!("  {:width$}  {}: {}", preset.name, preset.summary, preset.entries);
    }
    Ok(())
}

//! `meshc models`: built-in models and schedule presets.

use anyhow::Result;
use models::zoo;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Lists built-in models and schedule presets, with one line each.
pub fn run(_: &Args) -> Result<()> {
    let width = zoo::ALL.iter().map(|preset| preset.name.len()).max().unwrap_or(0);
    println!("built-in models:");
    zoo::ALL.iter().for_each(|preset| println!("  {:width$}  {}", preset.name, preset.summary));
    println!("schedule presets (--schedule preset=NAME):");
    for preset in &zoo::SCHEDULES {
        println!("  {:width$}  {}: {}", preset.name, preset.summary, preset.entries);
    }
    Ok(())
}

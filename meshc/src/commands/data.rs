//! `meshc data`: what there is to train on.

use crate::{reading::Reading, summary};
use anyhow::Result;
use runtime::data::Stats;
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Count documents, bytes and tokens, and say how long documents are and how even tokens
    Stats(StatsArgs),
}

#[derive(clap::Args, Debug)]
struct StatsArgs {
    /// Text and JSON lines, plain, .gz or .zst; folders with such files; patterns such as 'corpus/*.jsonl.gz'
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Does what was asked for.
pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Stats(args) => stats(args),
    }
}

fn stats(args: &StatsArgs) -> Result<()> {
    let text = args.reading.text(&args.files)?;
    let tokenizer = args.reading.tokenizer()?;
    let stats = Stats::of(&text, &tokenizer)?;
    if args.json {
        let mut value = serde_json::to_value(&stats)?;
        value["tokenizer"] = tokenizer.name().into();
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    print!("{}", summary::stats(&stats, &tokenizer));
    for skipped in &text.skipped {
        println!("left out      {} {}", skipped.path.display(), skipped.reason);
    }
    Ok(())
}

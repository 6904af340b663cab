//! `meshc data`: statistics of text, and prepared tokens.

use crate::{
    args::data::Reading,
    output::stream::{errln, out, outln},
};
use anyhow::Result;
use data::{PreparedTokens, prepared};
use driver::overview;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Count documents, bytes and tokens; report document lengths and token entropy
    Stats(StatsArgs),
    /// Tokenize text into a directory that --data accepts instead of the text
    Prepare(PrepareArgs),
    /// Verify prepared tokens against the digests in their manifest
    Verify(VerifyArgs),
}

#[derive(clap::Args, Debug)]
struct StatsArgs {
    /// Text, JSON lines (plain, .gz or .zst) or Parquet; directories of such files; patterns such as
    /// 'corpus/*.jsonl.gz'; or a directory of prepared tokens
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    reading: Reading,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct PrepareArgs {
    /// Text, JSON lines (plain, .gz or .zst) or Parquet; directories of such files; patterns such as
    /// 'corpus/*.jsonl.gz'
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Directory to create
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    reading: Reading,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
struct VerifyArgs {
    /// Directories of prepared tokens
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Stats(args) => stats(args),
        Command::Prepare(args) => prepare(args),
        Command::Verify(args) => args.folders.iter().try_for_each(|dir| verify(dir)),
    }
}

fn stats(args: &StatsArgs) -> Result<()> {
    let (stats, all_skipped, tokenizer) = args.reading.stats(&args.files)?;
    if args.json {
        let mut value = serde_json::to_value(&stats)?;
        value["tokenizer"] = tokenizer.name().into();
        outln!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    out!("{}", overview::stats(&stats, &tokenizer));
    for skipped in &all_skipped {
        outln!("skipped       {} {}", skipped.path.display(), skipped.reason);
    }
    Ok(())
}

fn prepare(args: &PrepareArgs) -> Result<()> {
    let tokenizer = args.reading.tokenizer.choice().named()?.unwrap_or_default();
    let mut observe = |number: usize, path: &Path| {
        if !args.json {
            errln!("{number:6}  {}", path.display());
        }
    };
    let tokens =
        prepared::prepare(&args.files, &args.reading.options(None), &tokenizer, &args.output, &mut observe)?;
    let manifest = tokens.manifest();
    if args.json {
        let value = json!({
            "folder": tokens.dir(), "tokens": manifest.tokens, "documents": manifest.documents, "bytes": manifest.bytes,
            "files": manifest.sources.len(), "width": manifest.width, "tokenizer": manifest.tokenizer.name,
        });
        outln!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        out!("{}", overview::prepared(&tokens));
    }
    Ok(())
}

fn verify(dir: &Path) -> Result<()> {
    let tokens = PreparedTokens::open(dir)?;
    tokens.verify()?;
    outln!("{}: valid, {} tokens", dir.display(), tokens.manifest().tokens);
    Ok(())
}

//! Benchmarks, with peers beside them. Every command prints one JSON object.
//!
//! `bench` without a subcommand starts `bench step` and `bench lower` in separate processes. Times are
//! medians after warm-up. Machines are noisy: compare ratios of runs that were made side by side, and compare
//! CPU time as well as wall time.

mod dispatch;
mod drops;
mod generate;
mod hosts;
mod lower;
mod open;
mod peers;
mod pods;
mod prepare;
mod save;
mod step;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::process::ExitCode;

/// Reuses large freed blocks, as `meshc` does.
const ALLOCATOR: runtime::HostAllocator =
    runtime::HostAllocator { in_use: cpu_heap::memory_in_use, trim: cpu_heap::give_back_memory };

const USAGE: &str = "usage: bench [--peers PYTHON] [--quick]
       bench step MODEL.mesh MESH STEPS
       bench lower MODEL.mesh
       bench dispatch [ROUNDS] [--quick]
       bench generate [--peers PYTHON] [--quick]
       bench generate-many RUNS
       bench hosts [step] [traffic] [start] [coordinator] [--quick]
       bench open [BOXES]
       bench pods [base|xxl|c|base-capacity-1|xxl-capacity-1|c-30-heads]…
       bench pods --drops
       bench prepare TEXT TOKENIZER [--peers PYTHON TOKENIZER.json]
       bench save [ROUNDS] [--quick] [--dir DIR]

Without a subcommand: compile time and step times of switch_tiny on 1 and 8 CPU devices, in f32 and bf16. With
--peers, the same model in JAX as well, alternating; PYTHON needs the packages in bench/peers/requirements.txt.";

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn save(options: &[&str]) -> Result<Value> {
    let (mut rounds, mut dir, mut options) = (7, ".", options.iter().copied());
    let mut quick = false;
    while let Some(option) = options.next() {
        match option {
            "--quick" => quick = true,
            "--dir" => dir = options.next().context("--dir needs a folder")?,
            number => rounds = number.parse().context("ROUNDS must be a number")?,
        }
    }
    save::measure(rounds, quick, dir)
}

fn run(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["step", model, mesh, steps] => {
            step::measure(model, mesh, steps.parse().context("STEPS must be a number")?)?
        }
        ["lower", model] => lower::measure(model)?,
        ["dispatch", options @ ..] => {
            let quick = options.contains(&"--quick");
            let rounds = options.iter().find(|o| **o != "--quick");
            let rounds = rounds.map_or(Ok(9), |r| r.parse()).context("ROUNDS must be a number")?;
            dispatch::measure(rounds, quick)?
        }
        ["open"] => open::measure(20_000, 9)?,
        ["open", boxes] => open::measure(boxes.parse().context("BOXES must be a number")?, 9)?,
        ["hosts", words @ ..] => hosts::measure(words)?,
        ["prepare", text, tokenizer] => prepare::measure(text, tokenizer, None)?,
        ["prepare", text, tokenizer, "--peers", python, json] => {
            prepare::measure(text, tokenizer, Some((python, json)))?
        }
        ["pods", words @ ..] => pods::measure(words)?,
        ["save", options @ ..] => save(options)?,
        ["generate", options @ ..] => generate::measure(options)?,
        ["generate-many", runs] => generate::many(runs.parse().context("RUNS must be a number")?)?,
        ["generate-one", layers, sparse, d_model, rows, dir, runs] => generate::one(
            [layers, sparse, d_model, rows],
            dir,
            runs.parse().context("RUNS must be a number")?,
        )?,
        ["-h" | "--help"] => {
            println!("{USAGE}");
            return Ok(());
        }
        options => {
            let (mut python, mut quick, mut options) = (None, false, options.iter());
            while let Some(option) = options.next() {
                match *option {
                    "--peers" => {
                        python = Some(*options.next().context("--peers needs a Python interpreter")?)
                    }
                    "--quick" => quick = true,
                    other => bail!("unknown argument `{other}`\n{USAGE}"),
                }
            }
            peers::all(python, quick)?
        }
    };
    println!("{}", serde_json::to_string_pretty(&result)?);
    Ok(())
}

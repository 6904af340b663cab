//! The command line.

use crate::{
    args::config::Words,
    commands::{
        check, checkpoint, compile, convert, data, eval, explain, generate, models, new, plan, plugin,
        report, routes, run, runs, score, selftest, shell, slice, tasks, train,
    },
    output::host::VERSION,
};
use anyhow::Result;
use clap::{CommandFactory, FromArgMatches};
use driver::hosts::start;
use options::groups::grouped;
use std::{env, ffi::OsString, process::ExitCode};

/// Compiles, trains and runs mesh-tensor programs: named dims over named axes of devices

#[derive(clap::Parser, Debug)]
#[command(name = "meshc", version, long_version = long_version(), max_term_width = 110, after_help = EXIT_CODES)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The version, the platform of this binary, and the plugins that it can load.
fn long_version() -> String {
    let target = env!("MESH_TARGET");
    format!("{VERSION}\ntarget: {target}\nPJRT API of plugins: {} or newer", pjrt::OLDEST)
}

const EXIT_CODES: &str = "\
Exit codes:
  0        success
  1        invalid input or a failed run
  2        invalid command line
  128 + N  stopped by signal N";

/// The commands.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Check a model under a mesh and a layout
    Check(check::Args),
    /// Create a package for a new model
    New(new::Args),
    /// Compile a model into an artefact directory
    Compile(compile::Args),
    /// Report parameters, FLOPs, memory by part and collectives by axis
    Report(report::Args),
    /// Search for a good mesh, layouts and schedule for a TPU slice
    Plan(plan::Args),
    /// Call a function of an artefact with tensors from files
    Run(run::Args),
    /// Train a model on text
    Train(Box<train::Args>),
    /// Write a page about training runs: losses, throughput, expert load
    Runs(runs::Args),
    /// Evaluate on held-out text: loss, perplexity, accuracy
    Eval(eval::Args),
    /// Generate text or token ids for each input
    Generate(generate::Args),
    /// Score given targets: log-likelihood, perplexity
    Score(score::Args),
    /// Show which tokens go to which expert, and what other capacities would drop
    Routes(routes::Args),
    /// List, verify, compare, convert and remove checkpoints
    Checkpoint(checkpoint::Args),
    /// Import and export Hugging Face models, and verify them against expected values
    Convert(convert::Args),
    /// Prepare and inspect training data
    Data(data::Args),
    /// List built-in models and schedule presets
    Models(models::Args),
    /// List supervised tasks, or print the file of one
    Tasks(tasks::Args),
    /// List, install and diagnose PJRT plugins
    Plugin(plugin::Args),
    /// Compare the devices of a plugin with the reference interpreter on random programs
    Selftest(selftest::Args),
    /// Print facts of a TPU slice, or the environment of one of its hosts, for scripts
    Slice(slice::Args),
    /// Explain the label of an error: the rule, an example, the way out
    Explain(explain::Args),
    /// Print completions for a shell, or write man pages
    Shell(shell::Args),
}

impl Command {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        let one = start::stay_on_one;
        match self {
            Self::Check(args) => check::run(&args)?,
            Self::Compile(args) => one("compile").and_then(|()| compile::run(&args))?,
            Self::Report(args) => return one("report").and_then(|()| report::run(&args)),
            Self::Plan(args) => return one("plan").and_then(|()| plan::run(&args)),
            Self::Run(args) => one("run").and_then(|()| run::run(&args))?,
            Self::Train(args) => return train::run(*args),
            Self::Runs(args) => runs::run(&args)?,
            Self::Eval(args) => return eval::run(&args),
            Self::Generate(args) => return generate::run(&args),
            Self::Score(args) => return score::run(&args),
            Self::Routes(args) => return routes::run(&args),
            Self::Checkpoint(args) => return checkpoint::run(&args),
            Self::Convert(args) => return one("convert").and_then(|()| convert::run(&args)),
            Self::Data(args) => data::run(&args)?,
            Self::Models(args) => models::run(&args)?,
            Self::Tasks(args) => tasks::run(&args)?,
            Self::Plugin(args) => plugin::run(&args)?,
            Self::Selftest(args) => return selftest::run(&args),
            Self::Slice(args) => slice::run(&args)?,
            Self::New(args) => new::run(&args)?,
            Self::Explain(args) => explain::run(&args)?,
            Self::Shell(args) => shell::run(&args, &command())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the definition of the command line.
fn command() -> clap::Command {
    grouped(Cli::command())
}

/// Parses the command line of this process, including the option file it names.
pub fn parse() -> Result<Cli> {
    let words: Vec<OsString> = env::args_os().collect();
    if words.get(1).is_none_or(|command| command != "train") {
        return Ok(Cli::from_arg_matches(&command().get_matches_from(words))?);
    }
    from_words(words).map_err(|error| match error.downcast::<clap::Error>() {
        Ok(error) => error.exit(),
        Err(error) => error,
    })
}

fn from_words(typed: Vec<OsString>) -> Result<Cli> {
    let command = command();
    let words = Words::new(&command, typed)?;
    let matches = command.clone().try_get_matches_from(&words.all).map_err(|error| words.located(error))?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let (Command::Train(args), Some(matches)) = (&mut cli.command, matches.subcommand_matches("train")) {
        args.resolved = words.resolved(&command, matches);
    }
    Ok(cli)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Returns the resolved values of a command line with this option file, or the error message.
    fn resolve(file: &str, typed: &[&str]) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.toml");
        fs::write(&path, file).unwrap();
        let fixed = ["meshc", "train", "--config", path.to_str().unwrap()];
        let words = fixed.iter().chain(typed).map(OsString::from).collect();
        let here = format!("{}/", folder.path().display());
        match from_words(words) {
            Ok(Cli { command: Command::Train(args) }) => Ok(args.resolved.toml().replace(&here, "")),
            Ok(_) => panic!("the command is train"),
            Err(error) => Err(error.to_string().replace(&here, "")),
        }
    }

    #[track_caller]
    fn has(text: &str, parts: &[&str]) {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` is not in:\n{text}"));
    }

    const FILE: &str = "model = \"m.rs\"\ndata = [\"a.txt\", 'b c']\nsteps = 1_000\nheld_out = 0.125\n\
                        resume = true\nrun-dir = \"r\"\njson = false\n\n[set]\nd_model = 16\nlr = 0.5\n";

    #[test]
    fn flags_come_before_the_file_and_the_file_before_defaults() {
        let text = resolve(FILE, &["--steps", "7", "--set", "lr=0.25", "--seed", "3"]).unwrap();
        has(
            &text,
            &[
                "model = \"m.rs\" # t.toml:1",
                "data = [\"a.txt\", \"b c\"] # t.toml:2",
                "steps = 7 # flag",
                "seed = 3 # flag",
                "held-out = 0.125 # t.toml:4",
                "resume = true # t.toml:5",
                "text-field = \"text\" # default",
                "[set]",
                "d_model = 16 # t.toml:10",
                "lr = 0.25 # flag",
            ],
        );
        assert!(!text.contains("json") && !text.contains("0.5"), "{text}");
        has(&resolve(FILE, &[]).unwrap(), &["steps = 1000 # t.toml:3", "lr = 0.5 # t.toml:11"]);
        // The output is an option file with the same values.
        let again = resolve(&text, &[]).unwrap();
        has(&again, &["steps = 7 # t.toml:", "lr = 0.25 # t.toml:"]);
        let values = |text: &str| -> Vec<String> {
            let mut all: Vec<String> =
                text.lines().map(|l| l.split(" #").next().unwrap().trim().to_owned()).collect();
            all.sort();
            all
        };
        assert_eq!(values(&again), values(&text));
    }

    #[test]
    fn errors_name_the_line_and_suggest_an_option() {
        let fails =
            |file: &str, parts: &[&str]| has(&resolve(file, &["m.rs", "--data", "x"]).unwrap_err(), parts);
        fails(
            "steps = 4\nsave_evry = 2\n",
            &["t.toml:2: unknown option `save_evry`", "did you mean `save-every`?"],
        );
        fails("[nonsense]\nx = 1\n", &["t.toml:1: unknown option `nonsense`", "meshc train --help"]);
        fails("config = \"t.toml\"\n", &["unknown option `config`"]);
        fails("steps = 4\nsteps = 5\n", &["t.toml:2: duplicate key"]);
        fails("run-dir = \"a\"\nrun_dir = \"b\"\n", &["`run-dir` is already set in line"]);
        fails("\nsteps = [1, 2]\n", &["t.toml:2: invalid value of `steps`: array", "one string or number"]);
        fails("resume = \"yes\"\n", &["t.toml:1: invalid value of `resume`: string", "true or false"]);
        fails("\nheld_out = 1.5\n", &["t.toml:2: invalid value '1.5' for '--held-out <SHARE>'"]);
        fails("\n\nsteps = \"many\"\n", &["t.toml:3: invalid value 'many' for '--steps <N>'", "--help"]);
        fails("steps = = 3\n", &["t.toml:1:", "KEY = VALUE"]);
        fails("set = 3\n", &["t.toml:1: invalid value of `set`: integer", "a table"]);
        // Missing options are reported as without a file.
        let error = resolve("steps = 3\n", &[]).unwrap_err();
        has(&error, &["required arguments", "--data", "MODEL|ARTEFACT|CHECKPOINT"]);
    }

    /// Every numeric option with values outside its range.
    const INVALID: &[(&[&str], &str, &[&str])] = &[
        (&["train"], "steps", &["0", "-1", "1.5"]),
        (&["train"], "seed", &["-1", "4294967296"]),
        (&["train"], "profile", &["0", "-1"]),
        (&["train"], "save-every", &["0", "-5"]),
        (&["train"], "keep", &["0"]),
        (&["train"], "keep-every", &["0"]),
        (&["train"], "keep-best", &["0"]),
        (&["train"], "eval-every", &["0"]),
        (&["train"], "eval-batches", &["0"]),
        (&["train"], "held-out", &["1.5", "1", "-0.1", "nan"]),
        (&["train"], "eval-examples", &["0"]),
        (&["train"], "patience", &["0"]),
        (&["train"], "min-delta", &["-1", "inf"]),
        (&["train"], "spike-sigmas", &["-1", "0", "nan"]),
        (&["train"], "spike-window", &["1"]),
        (&["train"], "max-rollbacks", &["-1"]),
        (&["train"], "max-skipped", &["0"]),
        (&["train"], "mix-temperature", &["0", "-1"]),
        (&["train"], "mix-cap", &["0"]),
        (&["train"], "restarts", &["-1"]),
        (&["eval"], "held-out", &["0", "1"]),
        (&["eval"], "batches", &["0"]),
        (&["eval"], "examples", &["0"]),
        (&["eval"], "mix-temperature", &["0"]),
        (&["eval"], "mix-cap", &["0"]),
        (&["routes"], "held-out", &["0", "1"]),
        (&["routes"], "sample", &["0"]),
        (&["routes"], "capacity-factor", &["0", "-1", "nan"]),
        (&["routes"], "mix-temperature", &["0"]),
        (&["routes"], "mix-cap", &["0"]),
        (&["generate"], "beams", &["0"]),
        (&["generate"], "sequences", &["0"]),
        (&["generate"], "seed", &["-1"]),
        (&["generate"], "temperature", &["0", "-0.5"]),
        (&["generate"], "top-k", &["0"]),
        (&["generate"], "top-p", &["0", "1.5"]),
        (&["generate"], "length-penalty", &["nan"]),
        (&["generate"], "repetition-penalty", &["0", "-1", "nan"]),
        (&["generate"], "no-repeat-ngram-size", &["-1", "1.5"]),
        (&["generate"], "min-length", &["-1"]),
        (&["generate"], "max-length", &["0"]),
        (&["plan"], "verify", &["-1"]),
        (&["plan"], "within", &["-1"]),
        (&["plan"], "top", &["0"]),
        (&["score"], "top", &["0", "-1"]),
        (&["score"], "mix-temperature", &["0"]),
        (&["score"], "mix-cap", &["0"]),
        (&["run"], "seed", &["-1", "4294967296"]),
        (&["selftest"], "programs", &["-1", "1.5"]),
        (&["selftest"], "seconds", &["-1", "nan"]),
        (&["selftest"], "seed", &["-1", "4294967296"]),
        (&["checkpoint", "prune"], "keep", &["0"]),
        (&["checkpoint", "prune"], "keep-every", &["0"]),
        (&["checkpoint", "prune"], "keep-best", &["0"]),
        (&["checkpoint", "convert"], "experts", &["0"]),
        (&["slice"], "worker", &["-1"]),
        (&["slice"], "slice", &["-1"]),
        (&["checkpoint", "convert"], "keep-experts", &["-1", "x", "1.5"]),
        (&["checkpoint", "convert"], "ffn", &["-1", "x"]),
        (&["checkpoint", "convert"], "scale", &["-1", "nan", "x"]),
        (&["checkpoint", "convert"], "router-noise", &["-0.5", "inf"]),
        (&["checkpoint", "convert"], "reinitialize", &["-0.5", "nan", "2"]),
        (&["checkpoint", "convert"], "seed", &["-1", "1.5"]),
        (&["convert"], "devices", &["0", "-8"]),
        (&["convert", "hf"], "devices", &["0"]),
        (&["convert", "to-hf"], "shard-size", &["0"]),
    ];

    /// The same for the commands that run in several processes.
    const INVALID_PLACES: [(&str, &[&str]); 5] = [
        ("hosts", &["0", "-1"]),
        ("rank", &["-1", "4294967296"]),
        ("processes", &["0"]),
        ("dead-after", &["0", "nan"]),
        ("join-within", &["-1", "inf"]),
    ];

    fn invalid() -> impl Iterator<Item = (&'static [&'static str], &'static str, &'static [&'static str])> {
        let commands: [&[&str]; 5] = [&["train"], &["eval"], &["generate"], &["score"], &["routes"]];
        let places =
            commands.into_iter().flat_map(|c| INVALID_PLACES.map(|(option, values)| (c, option, values)));
        INVALID.iter().copied().chain(places)
    }

    #[test]
    fn numbers_outside_their_range_are_refused_with_option_and_value() {
        for (command, option, values) in invalid() {
            for value in values {
                let typed = format!("--{option}={value}");
                let words = [&["meshc"], command, &[typed.as_str()]].concat();
                let error = Cli::command().try_get_matches_from(words).unwrap_err().to_string();
                let names = format!("invalid value '{value}' for '--{option} ");
                assert!(error.contains(&names), "{command:?}: `{names}` is not in:\n{error}");
                assert!(error.contains(": must be "), "{command:?}: the range is not in:\n{error}");
            }
        }
    }

    /// Collects the options that validate their values, with the words of their commands.
    fn validated(command: &clap::Command, words: &[String], all: &mut Vec<(Vec<String>, String)>) {
        for sub in command.get_subcommands() {
            validated(sub, &[words, &[sub.get_name().to_owned()]].concat(), all);
        }
        for name in command.get_arguments().filter_map(clap::Arg::get_long) {
            let typed = [words, &[format!("--{name}=?")]].concat();
            let error = Cli::command().try_get_matches_from(typed).err();
            if error.is_some_and(|e| e.kind() == clap::error::ErrorKind::ValueValidation) {
                all.push((words[1..].to_vec(), name.to_owned()));
            }
        }
    }

    #[test]
    fn every_numeric_option_is_in_the_table() {
        // Options that are not numbers.
        let others = [
            "mesh",
            "layout",
            "state-layout",
            "target",
            "target-option",
            "client-option",
            "flag",
            "stop-after",
            "max-decompressed",
            "split",
            "map",
            "limit",
            "by",
        ];
        let mut all = Vec::new();
        validated(&Cli::command(), &["meshc".to_owned()], &mut all);
        assert!(all.len() > INVALID.len(), "{all:?}");
        for (command, option) in all {
            let listed = invalid().any(|(words, name, _)| command == words && option == name);
            assert!(
                listed || others.contains(&option.as_str()),
                "add `{option}` of {command:?} to the table"
            );
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

//! Groups of options in the help of a command with many options.

use clap::Command;

/// Options from which on the help is grouped.
const MANY: usize = 12;

/// Headings, and the long names of their options in all commands. Other options are under `Options`.
const GROUPS: &[(&str, &[&str])] = &[
    ("Model", &["dtype", "set", "schedule"]),
    ("Placement", &["mesh", "layout", "state-layout", "target", "target-option", "several-hosts", "devices"]),
    (
        "Data",
        &[
            "data",
            "mixture",
            "mix-temperature",
            "mix-cap",
            "text-field",
            "max-decompressed",
            "tokenizer",
            "task-data",
            "split",
        ],
    ),
    (
        "Run directory and checkpoints",
        &[
            "run-dir",
            "no-run-dir",
            "metrics",
            "tensorboard",
            "from",
            "checkpoint-dir",
            "save-every",
            "keep",
            "keep-every",
            "keep-best",
            "resume",
            "map",
            "allow-missing",
            "ignore",
            "freeze",
        ],
    ),
    (
        "Evaluation",
        &[
            "eval-every",
            "eval-data",
            "eval-batches",
            "held-out",
            "patience",
            "min-delta",
            "tasks",
            "batches",
            "eval-metrics",
            "eval-examples",
            "best",
        ],
    ),
    (
        "Spikes and skipped steps",
        &["spike-sigmas", "spike-window", "max-rollbacks", "max-skipped", "allow-non-finite"],
    ),
    (
        "Decoding",
        &[
            "method",
            "beams",
            "sequences",
            "temperature",
            "top-k",
            "top-p",
            "length-penalty",
            "early-stopping",
            "min-length",
            "max-length",
            "uncached",
        ],
    ),
    ("Distillation", &["teacher", "teacher-logits"]),
    ("Stages", &["emit", "function", "dump", "dump-passes", "stop-after"]),
    ("Profiles", &["profile", "timings"]),
    ("Experts", &["experts", "dense", "keep-experts", "keep-by-load", "ffn", "scale", "router-noise"]),
    (
        "Processes",
        &["hosts", "rank", "coordinator", "processes", "restarts", "dead-after", "join-within", "limit"],
    ),
    ("Plugin", &["plugin", "client-option", "no-executable-cache", "flag", "overlap"]),
];

/// Returns the command line with grouped options in every command that has many.
pub fn grouped(command: Command) -> Command {
    let options = command.get_arguments().filter(|arg| arg.get_long().is_some()).count();
    let command = command.mut_subcommands(grouped);
    if options < MANY {
        return command;
    }
    command.mut_args(|arg| match arg.get_long().and_then(heading) {
        Some(heading) => arg.help_heading(heading),
        None => arg,
    })
}

/// Returns the heading of an option. `None` means the general one.
fn heading(option: &str) -> Option<&'static str> {
    GROUPS.iter().find(|(_, options)| options.contains(&option)).map(|(heading, _)| *heading)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    #[test]
    fn options_of_a_large_command_are_grouped() {
        let with = |count: usize| {
            let other = (0..count).map(|i| Arg::new(format!("o{i}")).long(format!("o{i}")));
            let command = Command::new("c").arg(Arg::new("mesh").long("mesh")).args(other);
            grouped(Command::new("m").subcommand(command))
        };
        let help = |mut command: Command| {
            command.find_subcommand_mut("c").expect("it was added").render_help().to_string()
        };
        assert!(help(with(MANY)).contains("\nPlacement:\n      --mesh"), "{}", help(with(MANY)));
        assert!(!help(with(1)).contains("Placement"));
    }

    #[test]
    fn an_option_has_one_group() {
        let mut all: Vec<&str> = GROUPS.iter().flat_map(|(_, options)| options.iter().copied()).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{all:?}");
    }
}

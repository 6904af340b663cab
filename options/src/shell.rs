//! Completions for shells, and man pages.

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::generate;
use clap_mangen::Man;

pub use clap_complete::Shell;

/// Returns the completion script of a shell.
pub fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    script
}

/// Returns the man pages of a command line: their file names, such as `meshc-train.1`, and contents. The
/// first one is the page of the command itself.
///
/// # Errors
/// A page cannot be rendered.
pub fn man(command: &Command) -> Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    add(command, command.get_name(), &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    // The name is a part of the program text; clap asks for one that lives as long as the process.
    let named = command.clone().name(name.to_owned()).disable_help_subcommand(true);
    let mut page = Vec::new();
    Man::new(named).render(&mut page).with_context(|| format!("rendering the man page of `{name}`"))?;
    pages.push((format!("{name}.1"), page));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        add(sub, &format!("{name}-{}", sub.get_name()), pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, ValueEnum};

    fn command() -> Command {
        let sub = Command::new("train").about("Trains a model").arg(Arg::new("steps").long("steps"));
        Command::new("tool").about("A tool").subcommand(sub)
    }

    #[test]
    fn every_shell_completes_commands_and_options() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completions(command(), *shell)).unwrap();
            assert!(script.contains("train") && script.contains("steps"), "{shell}: {script}");
        }
    }

    #[test]
    fn every_command_has_a_man_page() {
        let pages = man(&command()).unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tool.1", "tool-train.1"]);
        let text = String::from_utf8(pages[1].1.clone()).unwrap();
        assert!(text.contains(".TH tool-train 1") && text.contains("Trains a model"), "{text}");
    }
}

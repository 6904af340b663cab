//! `meshc shell`: completions and man pages.

use crate::output::stream::{outln, write_bytes};
use anyhow::Result;
use driver::files::write_file;
use options::shell::{Shell, completions, man};
use std::path::PathBuf;

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages of all commands
    Man {
        /// Directory for the pages. Default: print the page of meshc itself
        #[arg(short, long, value_name = "DIR")]
        output: Option<PathBuf>,
    },
}

/// Prints or writes.
pub fn run(args: &Args, command: &clap::Command) -> Result<()> {
    match &args.what {
        What::Completions { shell } => write_bytes(&completions(command.clone(), *shell)),
        What::Man { output: None } => man(command)?.iter().take(1).for_each(|(_, page)| write_bytes(page)),
        What::Man { output: Some(dir) } => {
            for (name, page) in man(command)? {
                write_file(&dir.join(&name), &page)?;
                outln!("{}", dir.join(&name).display());
            }
        }
    }
    Ok(())
}

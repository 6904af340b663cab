//! Flags of a plugin's compiler, which an artefact keeps.

use crate::{failure::failure, target::Target};
use anyhow::Result;
use compiler::cost::target::OVERLAP;

/// Those that a command takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct FlagArgs {
    /// A flag for the plugin's compiler, stored in the artefact; may be given several times
    #[arg(long = "flag", value_name = "KEY=VALUE", value_parser = flag)]
    pub given: Vec<(String, String)>,
    /// On a TPU slice: exchanges and gathers run beside work that does not need them (see `exchange_parts`)
    #[arg(long)]
    pub overlap: bool,
}

impl FlagArgs {
    /// All of them for `target`; what is given by name comes last and holds.
    pub fn of(&self, target: &Target) -> Result<Vec<(String, String)>> {
        if self.overlap && target.slice().is_none() {
            return Err(failure(
                format!("--overlap is for TPU slices, and the target is {target}"),
                "leave it out: other compilers overlap what they can without being told",
            ));
        }
        let overlap = OVERLAP.iter().filter(|_| self.overlap).map(|f| ((*f).to_owned(), "true".to_owned()));
        Ok(overlap.chain(self.given.iter().cloned()).collect())
    }

    /// As they are written on the command line.
    pub fn words(&self) -> impl Iterator<Item = String> {
        let given = self.given.iter().map(|(key, value)| format!("--flag {key}={value}"));
        self.overlap.then(|| "--overlap".to_owned()).into_iter().chain(given)
    }
}

/// Reads `key=value`, both text.
fn flag(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no value: write {text}=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_by_name_holds() {
        let flags = |overlap, given: &[&str], target: &str| {
            let given = given.iter().map(|f| flag(f).unwrap()).collect();
            FlagArgs { given, overlap }.of(&target.parse().unwrap())
        };
        let own = format!("{}=false", OVERLAP[0]);
        let all = flags(true, &[&own], "tpu:v5e:2x4").unwrap();
        assert_eq!(all.len(), OVERLAP.len() + 1);
        assert_eq!(all.last().unwrap(), &(OVERLAP[0].to_owned(), "false".to_owned()));
        assert_eq!(flags(false, &["a=b=c"], "cpu").unwrap(), [("a".to_owned(), "b=c".to_owned())]);
        assert!(flags(true, &[], "cpu").unwrap_err().to_string().contains("--overlap"));
        assert!(flag("a").is_err());
    }
}

//! Facts that must be equal in all processes of a job, compared before anything is compiled.

use super::member::{Agreed, Member};
use crate::files::cache;
use anyhow::Result;
use job::{Job, member::Contribution};
use proto::Message;
use runtime::{Artefact, tokens::Folder};
use std::{collections::BTreeMap, env, ffi::OsString, fs, path::Path, time::Duration};

/// Facts by name.
pub type Facts = BTreeMap<String, String>;

/// The time in which all processes load their data and build their model.
const LOAD: Duration = Duration::from_secs(3600);
/// The remedy for a difference.
const HELP: &str = "start all processes with the same program, plugin, data, options and environment; if only \
                    some of the processors have bf16 units, add --schedule products=f32";
/// Options that may differ: places of files, and the place of the process.
const OWN: [&str; 5] = ["rank", "coordinator", "plugin", "config", "metrics"];

/// Compares the facts of this process, or the error that prevented them, with those of the others. Returns
/// the value that was prepared together with the facts.
///
/// # Errors
/// This process failed; another one failed; or facts differ. All processes get an error that names the hosts.
pub fn agree<T>(member: &Member, what: &str, prepared: Result<(T, Facts)>) -> Result<T> {
    runtime::tokens::finish(&member.job);
    if !member.is_in_job() {
        return prepared.map(|(value, _)| value);
    }
    let failure = prepared.as_ref().err().map(|error| format!("{error:#}"));
    let equal = prepared.as_ref().map_or_else(|_| Facts::new(), |(_, facts)| facts.clone());
    let meeting = member.job.meet(what, Contribution { failure, equal, payload: Vec::new() }, LOAD)?;
    let refusal = meeting.verdict.refusal(member.job.members(), HELP);
    match (prepared, refusal) {
        (Ok((value, _)), None) => Ok(value),
        (Ok(_), Some(refusal)) => Err(Agreed(refusal).into()),
        (Err(own), refusal) => Err(own.context(Agreed(refusal.unwrap_or_default()))),
    }
}

/// Returns the folder of tokens that the processes of a job share. A process that is alone does not use it.
///
/// # Errors
/// There is no folder for caches, or the executable of this process cannot be read.
pub fn shared_tokens(job: &Job) -> Result<Folder> {
    if job.size() == 1 {
        return Ok(Folder::default());
    }
    Ok(Folder { path: cache()?.join("tokens"), version: digest(&env::current_exe()?)? })
}

/// Returns the facts of this program and its environment.
///
/// # Errors
/// The executable of this process cannot be read.
pub fn of_program() -> Result<Facts> {
    let mut facts = Facts::from([("binary".to_owned(), digest(&env::current_exe()?)?)]);
    let text = |text: OsString| text.to_string_lossy().into_owned();
    facts.extend(of_variables(env::vars_os().map(|(name, value)| (text(name), text(value)))));
    Ok(facts)
}

/// Returns the variables that change programs, one fact each. The slice of a host is its own.
fn of_variables(variables: impl Iterator<Item = (String, String)>) -> Facts {
    let changes_programs = |name: &str| {
        let of_slices = name.starts_with("MEGASCALE_") && name != "MEGASCALE_SLICE_ID";
        let of_bounds = name.starts_with("TPU_") && name.ends_with("BOUNDS");
        ["XLA_FLAGS", "LIBTPU_INIT_ARGS"].contains(&name) || of_slices || of_bounds
    };
    let shared = variables.filter(|(name, _)| changes_programs(name));
    shared.map(|(name, value)| (format!("variable {name}"), value)).collect()
}

/// Returns the options of a run, one fact each.
pub fn of_options(options: impl Iterator<Item = (String, String)>) -> Facts {
    let shared = options.filter(|(key, _)| !OWN.contains(&key.as_str()));
    shared.map(|(key, value)| (format!("option `{key}`"), value)).collect()
}

/// Returns the words of a command line without the options that may differ.
pub fn of_words(words: impl Iterator<Item = String>) -> String {
    let mut shared = Vec::new();
    let mut is_value = false;
    for word in words {
        let option = word.strip_prefix("--").unwrap_or_default();
        let name = option.split('=').next().unwrap_or_default();
        if OWN.contains(&name) {
            is_value = !option.contains('=');
        } else if !std::mem::take(&mut is_value) {
            shared.push(word);
        }
    }
    shared.join(" ")
}

/// Returns the digest of a program and all its files.
///
/// # Errors
/// A file that the manifest names is missing.
pub fn of_artefact(artefact: &Artefact) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&artefact.manifest.encode_to_vec());
    for function in &artefact.manifest.functions {
        hasher.update(artefact.file(&function.module)?).update(artefact.file(&function.compile_options)?);
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// Returns the digest of a file.
///
/// # Errors
/// The file cannot be read.
pub fn digest(path: &Path) -> Result<String> {
    let file = fs::File::open(path).map_err(|e| anyhow::anyhow!("reading `{}`: {e}", path.display()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(|e| anyhow::anyhow!("reading `{}`: {e}", path.display()))?;
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_with_the_place_of_a_process_may_differ() {
        let check = |words: &str, shared: &str| {
            assert_eq!(of_words(words.split(' ').map(str::to_owned)), shared, "{words}");
        };
        check("score ck --input a --rank 1 --hosts 2", "score ck --input a --hosts 2");
        check("score --rank=1 ck --coordinator h:1 --plugin=/a/b", "score ck");
        check("score ck --input a", "score ck --input a");
    }

    #[test]
    fn facts_are_the_variables_that_change_programs_and_the_options_of_the_run() {
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        #[track_caller]
        fn check(facts: Facts, expected: &[&str]) {
            let found: Vec<String> = facts.iter().map(|(name, value)| format!("{name}: {value}")).collect();
            assert_eq!(found, expected);
        }
        let variables = [
            ("XLA_FLAGS", "--xla_dump_to=d"),
            ("LIBTPU_INIT_ARGS", "--a=1"),
            ("MEGASCALE_NUM_SLICES", "2"),
            ("MEGASCALE_SLICE_ID", "1"),
            ("TPU_HOST_BOUNDS", "2,2,1"),
            ("TPU_WORKER_ID", "3"),
            ("HOME", "/root"),
        ];
        check(
            of_variables(variables.map(pair).into_iter()),
            &[
                "variable LIBTPU_INIT_ARGS: --a=1",
                "variable MEGASCALE_NUM_SLICES: 2",
                "variable TPU_HOST_BOUNDS: 2,2,1",
                "variable XLA_FLAGS: --xla_dump_to=d",
            ],
        );
        let options = [
            ("steps", "3"),
            ("rank", "1"),
            ("coordinator", "h:1"),
            ("plugin", "p.so"),
            ("config", "c.toml"),
            ("metrics", "m"),
            ("seed", "4"),
        ];
        check(of_options(options.map(pair).into_iter()), &["option `seed`: 4", "option `steps`: 3"]);
    }
}

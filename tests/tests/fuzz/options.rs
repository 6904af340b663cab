//! Option files and task files.

use super::{
    inputs::{Kind, Read, one},
    mutate::Files,
};
use clap::{Arg, ArgAction, Command, value_parser};
use options::config::Words;
use std::{ffi::OsString, fs, path::Path, path::PathBuf};
use tasks::{Split, Task};

/// A command line with an option of every kind that option files know.
fn command() -> Command {
    let option = |name: &'static str| Arg::new(name).long(name);
    let train = Command::new("train")
        .arg(Arg::new("model").required(true))
        .arg(option("config").value_parser(value_parser!(PathBuf)))
        .arg(option("steps").value_parser(value_parser!(u64)).default_value("100"))
        .arg(option("held-out").value_parser(value_parser!(f64)).allow_negative_numbers(true))
        .arg(option("layout"))
        .arg(option("resume").action(ArgAction::SetTrue))
        .arg(option("data").num_args(1..).action(ArgAction::Append))
        .arg(option("set").value_name("KEY=VALUE").action(ArgAction::Append));
    Command::new("meshc").subcommand(train)
}

/// Returns the resolved options of a file; `None` if it is refused.
fn resolved(path: &Path) -> Option<options::config::Resolved> {
    let cli = command();
    let typed = ["meshc", "train", "--config"].map(OsString::from).into_iter().chain([path.into()]);
    let words = Words::new(&cli, typed.collect()).ok()?;
    match cli.clone().try_get_matches_from(&words.all) {
        Ok(matches) => Some(words.resolved(&cli, matches.subcommand_matches("train")?)),
        Err(error) => {
            let _ = words.located(error).to_string();
            None
        }
    }
}

/// Option files. The resolved options are an option file with the same values.
pub fn option_files() -> Kind {
    let seeds = [
        "model = \"m.rs\"\nsteps = 1_000\nheld_out = 0.05\nresume = true\n\n[set]\nd_model = 64\nlr = 1e-3\n",
        "model = \"m.mesh\"\ndata = [\"a/*.jsonl.gz\", 'b \"c\".txt']\nlayout = \"batch:data\"\nset = { name = \"x\\n\", a-b = 0x1F }\n",
        "# A comment.\nmodel = '''m'''\nheld-out = -0.0\nsteps = 18446744073709551615\n[set]\n\"odd key\" = true\n",
    ];
    let read = |dir: &Path, _| {
        let Some(first) = resolved(&dir.join("o.toml")) else { return Ok(Read::Refused) };
        let text = first.toml();
        let again = dir.join("again.toml");
        fs::write(&again, &text).map_err(|e| e.to_string())?;
        let Some(second) = resolved(&again) else {
            return Err(format!("resolved options are refused: {text}"));
        };
        if first.values().ne(second.values()) {
            return Err(format!("{text}\nbecomes\n{}", second.toml()));
        }
        Ok(Read::Same)
    };
    let seeds = seeds.into_iter().map(|text| one("o.toml", text)).collect();
    Kind { name: "option files", seeds, read: Box::new(read) }
}

/// Task files with their data.
pub fn task_files() -> Kind {
    let records = "{\"text\": \"a b\", \"label\": 0, \"n\": [1, {\"x\": \"y\"}]}\n{\"text\": \"ü\", \"label\": 1, \"n\": null}\n";
    let with_data =
        |task: &str| -> Files { vec![("t.toml".into(), task.into()), ("d.jsonl".into(), records.into())] };
    let splits = "[splits]\ntrain = [\"d.jsonl\"]\nvalidation = [\"d*\"]\n";
    let mut seeds = vec![
        with_data(&format!(
            "name = \"t-1\"\ninputs = \"{{text}} and {{n}}\"\ntargets = \"{{label}}\"\nmetrics = [\"exact_match\"]\n{splits}"
        )),
        with_data(&format!(
            "inputs = \"is: {{text}}\"\nmetrics = [\"accuracy\", \"f1\"]\n[label]\nfield = \"label\"\nnames = [\"no\", \"yes\"]\n{splits}"
        )),
    ];
    let ready = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tasks/ready");
    let ready = super::inputs::files_of(&ready).into_iter().filter(|(name, _)| name.ends_with(".toml"));
    seeds.extend(ready.map(|(_, text)| vec![("t.toml".into(), text), ("d.jsonl".into(), records.into())]));
    let read = |dir: &Path, _| {
        let name = dir.join("t.toml").display().to_string();
        let Ok(all) = Task::open(&[name], None, 1 << 24) else { return Ok(Read::Refused) };
        let is_read = |split| all.iter().all(|task| task.examples(split).is_ok());
        let read = [Split::Train, Split::Validation, Split::Test].map(is_read);
        Ok(if read.contains(&true) { Read::Same } else { Read::Refused })
    };
    Kind { name: "task files", seeds, read: Box::new(read) }
}

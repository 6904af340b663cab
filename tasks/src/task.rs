//! Tasks as the user names them, and their examples.

use crate::{
    example::{Example, examples},
    ready,
    spec::{Split, TaskSpec},
};
use data::{Error, Result, records};
use std::path::{Path, PathBuf};

/// A task.
#[derive(Clone, PartialEq, Debug)]
pub struct Task {
    /// Its description.
    pub spec: TaskSpec,
    /// The largest number of bytes that a compressed file may have when it is decompressed.
    pub max_decompressed: u64,
}

impl Task {
    /// Opens tasks by name: task files (`.toml`), tasks that are part of mesh or patterns of them such as
    /// `glue_*`, and files of JSON Lines or Parquet with the fields `inputs` and `targets`. `data` is the
    /// folder of the data; `None` means the folder of a task file, or the working directory.
    ///
    /// # Errors
    /// A name is none of these, or a task file is wrong.
    pub fn open(names: &[String], data: Option<&Path>, max_decompressed: u64) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for name in names {
            let path = Path::new(name);
            if path.extension().is_some_and(|e| e == "toml") {
                all.push(TaskSpec::of_file(path, data)?);
                continue;
            }
            let found = ready::matching(name);
            match found.is_empty() {
                false => {
                    let folder = data.unwrap_or(Path::new(""));
                    let parse = |(name, text): &(&str, &str)| TaskSpec::parse(text, name, name, folder);
                    all.extend(found.iter().map(parse).collect::<Result<Vec<_>>>()?);
                }
                true if path.exists() || name.contains('*') => all.push(TaskSpec::of_pairs(path)),
                true => return Err(unknown(name)),
            }
        }
        Ok(all.into_iter().map(|spec| Self { spec, max_decompressed }).collect())
    }

    /// Returns the files of a split; empty if the task has none.
    pub fn files(&self, split: Split) -> &[PathBuf] {
        self.spec.splits.get(&split).map_or(&[], Vec::as_slice)
    }

    /// Reads the examples of a split, in the order of the files.
    ///
    /// # Errors
    /// The task has no such split, a file cannot be read, a record does not fit the task, or no record is an
    /// example.
    pub fn examples(&self, split: Split) -> Result<Vec<Example>> {
        let (name, files) = (&self.spec.name, self.files(split));
        if files.is_empty() {
            let has: Vec<String> = self.spec.splits.keys().map(|split| format!("`{split}`")).collect();
            return Err(Error::input(
                format!("the task `{name}` has no split `{split}`, but {}", has.join(", ")),
                format!("add it to [splits] of the task `{name}`, or choose another split"),
            ));
        }
        let mut all = Vec::new();
        let mut records = 0;
        records::read(files, self.max_decompressed, &mut |record| {
            records += 1;
            all.extend(examples(&self.spec, split, &record)?);
            Ok(())
        })?;
        match all.is_empty() {
            false => Ok(all),
            true => Err(Error::input(
                format!("none of the {records} records of the split `{split}` is an example of `{name}`"),
                "give the files examples, or correct `only` in the task",
            )),
        }
    }
}

fn unknown(name: &str) -> Error {
    Error::input(
        format!("`{name}` is no task"),
        "name a task file (NAME.toml), a file with `inputs` and `targets` (.jsonl or .parquet), or one of the tasks \
         that `meshc tasks` lists",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
            Self(dir)
        }

        fn task(&self, name: &str) -> Result<Task> {
            let name = self.0.path().join(name).display().to_string();
            Ok(Task::open(&[name], None, 1 << 20)?.remove(0))
        }
    }

    #[track_caller]
    fn fails(folder: &Folder, task: &str, split: Split, parts: &[&str]) {
        let error = folder.task(task).and_then(|t| t.examples(split)).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "`{part}` is not in: {error}");
        }
    }

    const NLI: &str = "inputs = \"nli premise: {premise} hypothesis: {hypothesis}\"\nmetrics = [\"accuracy\"]\n\
                       [label]\nfield = \"label\"\nnames = [\"entailment\", \"neutral\"]\n";

    #[test]
    fn records_become_examples() {
        let splits = "[splits]\ntrain = [\"t.jsonl\"]\ntest = [\"hidden.jsonl\"]\n";
        let folder = Folder::new(&[
            ("nli.toml", &format!("{NLI}{splits}")),
            ("t.jsonl", "{\"premise\": \"p\", \"hypothesis\": \"h\", \"label\": 1}\n"),
            ("hidden.jsonl", "{\"premise\": \"p\", \"hypothesis\": \"h\", \"label\": -1}\n"),
        ]);
        let task = folder.task("nli.toml").unwrap();
        let labels = vec!["entailment".to_owned(), "neutral".to_owned()];
        let inputs = "nli premise: p hypothesis: h".to_owned();
        let hidden = Example { inputs, labels, ..Example::default() };
        let whole = Example {
            targets: Some("neutral".into()),
            answers: vec!["neutral".into()],
            label: Some(1),
            ..hidden.clone()
        };
        assert_eq!(task.examples(Split::Train).unwrap(), [whole]);
        assert_eq!(task.examples(Split::Test).unwrap(), [hidden]);
        fails(&folder, "nli.toml", Split::Validation, &["has no split `validation`, but `train`, `test`"]);
    }

    #[test]
    fn answers_and_pairs() {
        let record = "{\"q\": \"who?\", \"a\": {\"text\": [\"x\", \"y\"]}, \"lang\": \"en\"}\n\
                      {\"q\": \"wer?\", \"a\": {\"text\": [\"z\"]}, \"lang\": \"de\"}\n";
        let text = "inputs = \"{q}\"\ntargets = \"{a.text.0}\"\nanswers = \"a.text\"\neach_answer = true\n\
                    only = { lang = \"en\" }\n[splits]\ntrain = [\"q.jsonl\"]\nvalidation = [\"q.jsonl\"]\n";
        let folder = Folder::new(&[
            ("qa.toml", text),
            ("q.jsonl", record),
            ("pairs.jsonl", "{\"inputs\": \"i\", \"targets\": \"t\", \"more\": 1}\n"),
        ]);
        let task = folder.task("qa.toml").unwrap();
        let targets = |split| -> Vec<String> {
            task.examples(split).unwrap().into_iter().filter_map(|e| e.targets).collect()
        };
        assert_eq!(
            (targets(Split::Train), targets(Split::Validation)),
            (vec!["x".into(), "y".into()], vec!["x".into()])
        );
        assert_eq!(task.examples(Split::Validation).unwrap()[0].answers, ["x", "y"]);
        let pairs = folder.task("pairs.jsonl").unwrap();
        assert_eq!(pairs.spec.name, "pairs");
        let one = &pairs.examples(Split::Train).unwrap()[0];
        assert_eq!((one.inputs.as_str(), one.targets.as_deref()), ("i", Some("t")));
    }

    #[test]
    fn bad_records_are_named() {
        let splits = "[splits]\ntrain = [\"t.jsonl\"]\n";
        let good = "{\"premise\": \"p\", \"hypothesis\": \"h\", \"label\": 1}\n";
        let nli = |lines: &str| {
            Folder::new(&[("nli.toml", &format!("{NLI}{splits}")), ("t.jsonl", &format!("{good}\n{lines}"))])
        };
        let check = |lines: &str, parts: &[&str]| fails(&nli(lines), "nli.toml", Split::Train, parts);
        check(
            "{\"premise\": \"p\", \"label\": 1}",
            &[
                "line 3 of `",
                "t.jsonl`",
                "no field `hypothesis`, but `premise`",
                "(of `inputs`)",
                "task `nli`",
            ],
        );
        check(
            "{\"premise\": \"p\", \"hypothesis\": \"h\", \"label\": 2}",
            &["line 3", "label `2`", "outside the set `entailment`, `neutral`"],
        );
        check("{\"premise\": \"p\", \"hypothesis\": \"h\", \"label\": -1}", &["line 3", "has no label"]);
        let pairs = Folder::new(&[("p.jsonl", "{\"inputs\": \"i\", \"targets\": \" \"}\n")]);
        fails(&pairs, "p.jsonl", Split::Train, &["line 1", "has an empty target"]);
        let pairs = Folder::new(&[("p.jsonl", "{\"inputs\": \"i\", \"target\": \"t\"}\n")]);
        fails(
            &pairs,
            "p.jsonl",
            Split::Train,
            &["no field `targets`, but `inputs`, `target`", "(of `targets`)"],
        );
        fails(&pairs, "none", Split::Train, &["is no task", "meshc tasks"]);
        let none = Folder::new(&[
            ("n.toml", "only = { a = 1 }\n[splits]\ntrain = [\"p.jsonl\"]\n"),
            ("p.jsonl", "{\"inputs\": \"i\", \"targets\": \"t\"}\n"),
        ]);
        fails(&none, "n.toml", Split::Train, &["none of the 1 records of the split `train`", "`only`"]);
    }
}

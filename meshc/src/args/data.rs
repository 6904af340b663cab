//! Data of training and evaluation: one corpus, or a mixture of several, and the tokenizer.

use super::ranges::{bytes, positive, steps};
use anyhow::{Context, Result};
use data::{
    Corpus, Mixture, MixtureSpec, PreparedTokens, Skipped, Stats, TEXT_FIELD, TeacherRows, Temperature,
    Tokenizer, Tokens, rates::CorpusSpec,
};
pub use driver::source::Source;
use driver::{
    failure::failure,
    hosts::agree,
    predict::Wanted,
    subject::newest,
    teacher_logits,
    tokenizer::{Choice, differs},
};
use job::Job;
use runtime::{
    Artefact, Contract,
    checkpoint::{Checkpoint, TOKENIZER},
    tokens,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tasks::{Split, Task, TaskSource};

/// Options of commands that make examples from text.
#[derive(clap::Args, Debug)]
pub struct DataOptions {
    /// Text, JSON lines (plain, .gz or .zst) or Parquet; directories of such files; patterns such as
    /// 'corpus/*.jsonl.gz'; prepared tokens. Several corpora have names and optional sampling rates:
    /// en='en/*.txt':2 de=german:1
    #[arg(long, num_args = 1.., value_name = "FILE|NAME=FILE[:RATE]")]
    data: Vec<PathBuf>,
    /// Mixture of corpora, described in a TOML file: optional `temperature` and `cap`, and for each corpus a
    /// table [sources.NAME] with `files` and optional `rate` and `text_field`
    #[arg(long, value_name = "FILE.toml", conflicts_with = "data")]
    mixture: Option<PathBuf>,
    /// Supervised tasks in place of text: task files (NAME.toml), tasks of `meshc tasks` or patterns such as
    /// 'glue_*', and files of JSON lines or Parquet with the fields `inputs` and `targets`
    #[arg(long, num_args = 1.., value_name = "TASK", conflicts_with_all = ["data", "mixture"])]
    pub tasks: Vec<String>,
    /// Rows with a teacher's logits in place of text, a file of `meshc score --logits`: distils the teacher
    /// into MODEL
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "mixture", "tasks"])]
    pub teacher_logits: Option<PathBuf>,
    /// Directory of the tasks' data. Default: that of the task file; for tasks of `meshc tasks`, the working
    /// directory
    #[arg(long, value_name = "DIR", requires = "tasks")]
    task_data: Option<PathBuf>,
    /// Split of the tasks that is evaluated: train, validation or test
    #[arg(long, value_name = "SPLIT", default_value_t = Split::Validation, requires = "tasks")]
    split: Split,
    /// Temperature T of a mixture without rates: corpora are sampled in proportion to examples^(1/T).
    /// Default: 1
    #[arg(long, value_name = "T", value_parser = positive, allow_negative_numbers = true)]
    mix_temperature: Option<f64>,
    /// Cap of a mixture without rates: the largest number of examples of a corpus that counts
    #[arg(long, value_name = "N", value_parser = steps, allow_negative_numbers = true)]
    mix_cap: Option<u64>,
    #[command(flatten)]
    reading: Reading,
}

/// Corpora that have been read, or tasks.
pub enum Texts {
    /// Corpora.
    Corpora(Vec<Corpus>, Temperature),
    /// Tasks.
    Tasks(Vec<Task>, TaskSource),
    /// Rows with a teacher's logits, and the identity of the tokenizer they must have, if one is known.
    Teacher(PathBuf, Option<String>),
}

/// The options that name data, one of which is required.
pub const FORMS: [&str; 4] = ["data", "mixture", "tasks", "teacher_logits"];

impl DataOptions {
    /// Reads all corpora, or the task files. Training that starts from the checkpoint `from` has its
    /// tokenizer.
    ///
    /// # Errors
    /// Among others, those of [`DataOptions::open_for`].
    pub fn open(&self, job: &Job, from: Option<&Path>) -> Result<Texts> {
        match from {
            None if self.teacher_logits.is_some() => self.open_teacher(None),
            Some(dir) => self.open_for(job, &newest(dir, |_| ())?),
            None if self.tasks.is_empty() => {
                self.read(job, self.mixture()?, self.reading.tokenizer.choice().named()?)
            }
            None => self.open_tasks(self.reading.tokenizer.choice().named()?.unwrap_or_default()),
        }
    }

    /// Returns the tasks with their examples of the split, at most `most` of each.
    pub fn examples(&self, most: Option<usize>) -> Result<Vec<Wanted>> {
        let of = |task: Task| {
            let mut examples = task.examples(self.split)?;
            examples.truncate(most.unwrap_or(usize::MAX));
            Ok((task.spec, examples))
        };
        self.all_tasks()?.into_iter().map(of).collect()
    }

    /// Returns the tokenizer's options.
    pub fn tokenizer(&self) -> &TokenizerArgs {
        &self.reading.tokenizer
    }

    fn all_tasks(&self) -> Result<Vec<Task>> {
        Ok(Task::open(&self.tasks, self.task_data.as_deref(), self.reading.max_decompressed)?)
    }

    fn open_tasks(&self, tokenizer: Tokenizer) -> Result<Texts> {
        let temperature = self.temperature(None, None);
        let (split, held_out) = (self.split, 0.0);
        Ok(Texts::Tasks(
            self.all_tasks()?,
            TaskSource { tokenizer, split, evaluate_only: false, held_out, temperature },
        ))
    }

    /// Reads nothing yet. The tokenizer of the rows must be the one that was named, or that of the
    /// checkpoint.
    fn open_teacher(&self, checkpoint: Option<&Checkpoint>) -> Result<Texts> {
        let path = self.teacher_logits.clone().unwrap_or_default();
        let named = self.reading.tokenizer.choice().named()?.map(|named| named.identity().to_owned());
        let recorded = || checkpoint?.facts().get(TOKENIZER).cloned();
        Ok(Texts::Teacher(path, named.or_else(recorded)))
    }

    fn mixture(&self) -> Result<MixtureSpec> {
        Ok(match &self.mixture {
            Some(path) => MixtureSpec::of_file(path)?,
            None => MixtureSpec::of_words(&self.data)?,
        })
    }

    /// Reads other files with the same options, and with the tokenizer of `texts`.
    pub fn open_others(&self, job: &Job, files: &[PathBuf], texts: &Texts) -> Result<Texts> {
        self.read(job, MixtureSpec::of_words(files)?, texts.tokenizer().cloned())
    }

    /// Reads all corpora for the model of a checkpoint, with its tokenizer.
    ///
    /// # Errors
    /// Among others, if the tokens are those of another tokenizer, or no tokenizer is known for a text.
    pub fn open_for(&self, job: &Job, checkpoint: &Checkpoint) -> Result<Texts> {
        if self.teacher_logits.is_some() {
            return self.open_teacher(Some(checkpoint));
        }
        let (tokenizer, unknown) = match self.reading.tokenizer.choice().of(checkpoint)? {
            Ok(tokenizer) => (Some(tokenizer), None),
            Err(unknown) => (None, Some(unknown)),
        };
        if !self.tasks.is_empty() {
            return self.open_tasks(tokenizer.ok_or_else(|| unknown.unwrap_or_default().error())?);
        }
        let texts = self.read(job, self.mixture()?, tokenizer)?;
        let recorded = checkpoint.facts().get(TOKENIZER);
        let Texts::Corpora(all, _) = &texts else { return Ok(texts) };
        for corpus in all {
            let identity = corpus.tokens.tokenizer().identity();
            match (recorded, &unknown) {
                // Prepared tokens of the right tokenizer are enough.
                (Some(recorded), _) if recorded == identity => {}
                (Some(recorded), None) => {
                    return Err(differs(corpus.tokens.tokenizer(), recorded, checkpoint, "the data"));
                }
                (None, None) => {}
                // Prepared tokens name their tokenizer.
                (None, Some(_)) if corpus.tokens.provenance().prepared.is_some() => {}
                (_, Some(unknown)) => return Err(unknown.error()),
            }
        }
        Ok(texts)
    }

    fn read(&self, job: &Job, mixture: MixtureSpec, tokenizer: Option<Tokenizer>) -> Result<Texts> {
        let mut all = Vec::new();
        let shared = agree::shared_tokens(job)?;
        for (name, CorpusSpec { files, rate, text_field }) in &mixture.sources {
            let reading = self.reading.options(text_field.as_deref());
            let read = tokens::open(job, &shared, files, &reading, tokenizer.as_ref());
            let tokens = if name.is_empty() {
                read?
            } else {
                read.with_context(|| format!("reading the corpus `{name}`"))?
            };
            all.push(Corpus { name: name.clone(), rate: *rate, tokens });
        }
        let (temperature, cap) = (self.mix_temperature.or(mixture.temperature), self.mix_cap.or(mixture.cap));
        if (temperature.is_some() || cap.is_some()) && mixture.sources.values().all(|s| s.rate.is_some()) {
            return Err(failure(
                "`--mix-temperature` and `--mix-cap` have no effect: every corpus of the mixture has a rate",
                "leave out either the rates, or the temperature and the cap",
            ));
        }
        Ok(Texts::Corpora(all, self.temperature(mixture.temperature, mixture.cap)))
    }

    /// Returns the options of sampling: those of the command line, else the given ones.
    fn temperature(&self, temperature: Option<f64>, cap: Option<u64>) -> Temperature {
        let default = Temperature::default();
        Temperature {
            temperature: self.mix_temperature.or(temperature).unwrap_or(default.temperature),
            cap: self.mix_cap.or(cap).unwrap_or(default.cap),
        }
    }
}

impl Texts {
    /// Returns the tokenizer. `None` means that there are no corpora, or rows that have not been read.
    fn tokenizer(&self) -> Option<&Tokenizer> {
        match self {
            Self::Corpora(all, _) => all.first().map(|corpus| corpus.tokens.tokenizer()),
            Self::Tasks(_, options) => Some(&options.tokenizer),
            Self::Teacher(..) => None,
        }
    }

    /// Returns the examples for a program; the share `held_out` of each corpus is for evaluation only.
    pub fn source(self, artefact: &Artefact, held_out: f64) -> Result<Source> {
        let spec = Contract::batch_spec(artefact)?;
        Ok(match self {
            Self::Teacher(path, tokenizer) => {
                let rows = TeacherRows::open(&path, spec, Contract::teacher_top(artefact), held_out)?;
                teacher_logits::check_tokenizer(&rows, tokenizer.as_deref(), &path)?;
                Source::Teacher(Arc::new(rows))
            }
            Self::Corpora(all, temperature) => {
                let options = data::Options { held_out, temperature, ..data::Options::default() };
                Source::Text(Arc::new(Mixture::new(all, spec, &options)?))
            }
            Self::Tasks(all, options) => {
                let options = TaskSource { held_out, evaluate_only: held_out == 1.0, ..options };
                Source::Tasks(Arc::new(tasks::batches(&all, spec, &options)?))
            }
        })
    }
}

/// The tokenizer.
#[derive(clap::Args, Debug)]
pub struct TokenizerArgs {
    /// Tokenizer: bytes, a tokenizer.json, or a SentencePiece model. Default: the tokenizer of the checkpoint
    /// or of prepared tokens; for training on text, bytes
    #[arg(long, value_name = "bytes|FILE")]
    tokenizer: Option<String>,
}

impl TokenizerArgs {
    /// Returns the tokenizer as the user names it.
    pub fn choice(&self) -> Choice<'_> {
        Choice(self.tokenizer.as_deref())
    }
}

/// Options of commands that read text files.
#[derive(clap::Args, Debug)]
pub struct Reading {
    /// Field of JSON lines, or column of Parquet, with the text
    #[arg(long, value_name = "FIELD", default_value = TEXT_FIELD)]
    text_field: String,
    /// Largest size of a compressed data file when it is decompressed, such as 500MB or 20GiB
    #[arg(long, value_name = "SIZE", default_value = "4GiB", value_parser = bytes)]
    max_decompressed: u64,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
}

impl Reading {
    /// Returns the options of reading files. `field` replaces that of the command line.
    pub fn options<'a>(&'a self, field: Option<&'a str>) -> data::Reading<'a> {
        let field = field.unwrap_or(&self.text_field);
        data::Reading { field, max_decompressed: self.max_decompressed }
    }

    /// Returns statistics of these files or of prepared tokens, the skipped files, and the tokenizer.
    pub fn stats(&self, paths: &[PathBuf]) -> Result<(Stats, Vec<Skipped>, Tokenizer)> {
        if let [dir] = paths
            && PreparedTokens::is_at(dir)
        {
            let prepared = PreparedTokens::open(dir)?;
            let stats = Stats::of_prepared(&prepared)?;
            let tokens = Tokens::of_prepared(prepared, self.tokenizer.choice().named()?.as_ref())?;
            return Ok((stats, Vec::new(), tokens.tokenizer().clone()));
        }
        let tokenizer = self.tokenizer.choice().named()?.unwrap_or_default();
        let (stats, skipped) = Stats::of_files(paths, &self.options(None), &tokenizer)?;
        Ok((stats, skipped, tokenizer))
    }
}

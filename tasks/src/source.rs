//! Batches of tasks for training and evaluation.

use crate::{example::Example, spec::Split, task::Task};
use data::{BatchSpec, Codec, Error, PairCorpus, PairMixture, Pairs, Result, Temperature, Tokenizer};

/// Options of [`batches`].
#[derive(Clone, Debug)]
pub struct TaskSource {
    /// The tokenizer of inputs and targets.
    pub tokenizer: Tokenizer,
    /// The split to evaluate on, for a task that has it.
    pub split: Split,
    /// True if there are only batches for evaluation.
    pub evaluate_only: bool,
    /// The share of the training examples, at their end, that is held out in a task without the split to
    /// evaluate on: in `[0, 1]`.
    pub held_out: f64,
    /// Determines sampling rates that the tasks do not give.
    pub temperature: Temperature,
}

/// Returns the batches of tasks for a program.
///
/// # Errors
/// A task cannot be read, an example has no target, or the program's lengths or vocabulary do not fit.
pub fn batches(tasks: &[Task], spec: BatchSpec, options: &TaskSource) -> Result<PairMixture> {
    let codec = Codec::new(spec.vocab, options.tokenizer.clone(), spec.special_tokens)?;
    let corpora = tasks.iter().map(|task| corpus(task, &spec, options, &codec));
    PairMixture::new(corpora.collect::<Result<_>>()?, options.tokenizer.clone(), spec, options.temperature)
}

/// Returns a line about each task: its share of the rows, its examples, and how many of them are cut.
pub fn describe(source: &PairMixture) -> Vec<String> {
    let line = |(task, share): (&PairCorpus, f64)| {
        let [train, held_out] = [&task.train, &task.held_out].map(Pairs::truncated);
        let cut = match [train[0] + held_out[0], train[1] + held_out[1]] {
            [0, 0] => "none cut".to_owned(),
            [inputs, targets] => format!("{inputs} inputs and {targets} targets cut to the model's lengths"),
        };
        let (train, held_out) = (task.train.len(), task.held_out.len());
        format!("{:5.2} % {}: {train} examples, {held_out} held out, {cut}", share * 100.0, task.name)
    };
    source.corpora().zip(source.shares()).map(line).collect()
}

fn corpus(task: &Task, spec: &BatchSpec, options: &TaskSource, codec: &Codec) -> Result<PairCorpus> {
    let own = task.files(options.split);
    // A file of pairs is every split: it is either trained on or evaluated on.
    let has_split = !own.is_empty() && own != task.files(Split::Train);
    let (train, held_out) = if options.evaluate_only {
        (Vec::new(), task.examples(options.split)?)
    } else if has_split {
        (task.examples(Split::Train)?, task.examples(options.split)?)
    } else {
        let mut train = task.examples(Split::Train)?;
        let count = (train.len() as f64 * options.held_out).ceil() as usize;
        let held_out = train.split_off(train.len() - count.min(train.len()));
        (train, held_out)
    };
    let pairs = |examples: &[Example]| pairs(task, examples, spec, codec);
    let (train, held_out) = (pairs(&train)?, pairs(&held_out)?);
    Ok(PairCorpus { name: task.spec.name.clone(), rate: task.spec.rate, train, held_out })
}

/// Returns the tokens of examples.
fn pairs(task: &Task, examples: &[Example], spec: &BatchSpec, codec: &Codec) -> Result<Pairs> {
    let mut pairs = Pairs::default();
    for example in examples {
        let target = example.targets.as_deref().ok_or_else(|| {
            Error::input(
                format!("the task `{}` has examples without a target", task.spec.name),
                "losses need targets: choose another split",
            )
        })?;
        let room = [spec.input_length.max(1), spec.target_length.max(1)];
        pairs.push(&codec.encode(&example.inputs)?, &codec.encode(target)?, room);
    }
    Ok(pairs)
}

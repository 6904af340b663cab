//! The text form of a task: `train objective=lm vocab=384 batch=8 target_length=64`.

use super::{DecodingMethod, Generation, Names, Objective, Sentinels, SpecialTokens, Task, TaskKind};
use crate::{Diagnostic, Name, layout::suggest};
use std::fmt;

/// Keys of all kinds.
const KEYS: [&str; 16] = [
    "vocab",
    "batch",
    "input_length",
    "target_length",
    "continues",
    "pad",
    "eos",
    "first_sentinel",
    "sentinels",
    "inputs",
    "targets",
    "inputs_segments",
    "targets_segments",
    "seed",
    "loss",
    "row_loss",
];

impl TaskKind {
    /// The kind called `word`, with default values.
    ///
    /// # Errors
    /// If there is no such kind.
    pub fn parse(word: &str) -> Result<Self, Diagnostic> {
        match word {
            "train" => Ok(Self::Train { objective: Objective::SpanCorruption, packing: false }),
            "score" => Ok(Self::Score),
            "generate" => Ok(Self::Generate(Generation::default())),
            _ => Err(Diagnostic::new(
                "",
                format!("a task must be one of train, score, generate, got `{word}`"),
            )),
        }
    }

    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Train { .. } => &["objective", "packing"],
            Self::Score => &[],
            Self::Generate(_) => &["method", "beams", "steps", "filter"],
        }
    }

    /// Sets an entry of this kind. `None` means it has no such entry.
    fn set(&mut self, key: &str, value: &str) -> Option<Result<(), Diagnostic>> {
        Some(match (self, key) {
            (Self::Train { objective, .. }, "objective") => {
                choice(key, value, &Objective::ALL.map(|o| (o.name(), o))).map(|o| *objective = o)
            }
            (Self::Train { packing, .. }, "packing") => flag(key, value).map(|p| *packing = p),
            (Self::Generate(g), "method") => {
                choice(key, value, &DecodingMethod::ALL.map(|m| (m.name(), m))).map(|m| g.method = m)
            }
            (Self::Generate(g), "beams") => number(key, value).map(|n| g.beams = n),
            (Self::Generate(g), "steps") => number(key, value).map(|n| g.steps = n),
            (Self::Generate(g), "filter") => flag(key, value).map(|f| g.filter = f),
            (Self::Train { .. } | Self::Score | Self::Generate(_), _) => return None,
        })
    }
}

impl Task {
    /// Sets the entry `key` of the text form.
    ///
    /// # Errors
    /// Names the entry, its value and what is allowed; the task is unchanged then.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Diagnostic> {
        if let Some(result) = self.kind.set(key, value) {
            return result;
        }
        let tokens = &mut self.special_tokens;
        let sentinels = tokens.sentinels.unwrap_or(Sentinels { first: 0, count: 0 });
        let names = &mut self.names;
        match key {
            "vocab" => self.vocab = number(key, value)?,
            "batch" => self.batch = number(key, value)?,
            "input_length" => self.input_length = number(key, value)?,
            "target_length" => self.target_length = number(key, value)?,
            "continues" => self.continues = flag(key, value)?,
            "pad" => tokens.pad = number(key, value)?,
            "eos" => tokens.eos = number(key, value)?,
            "first_sentinel" => {
                tokens.sentinels = Some(Sentinels { first: number(key, value)?, ..sentinels });
            }
            "sentinels" => tokens.sentinels = Some(Sentinels { count: number(key, value)?, ..sentinels }),
            "inputs" => names.inputs = name(key, value)?,
            "targets" => names.targets = name(key, value)?,
            "inputs_segments" => names.inputs_segments = name(key, value)?,
            "targets_segments" => names.targets_segments = name(key, value)?,
            "seed" => names.seed = name(key, value)?,
            "loss" => names.loss = name(key, value)?,
            "row_loss" => names.row_loss = name(key, value)?,
            _ => return Err(self.unknown(key)),
        }
        Ok(())
    }

    fn unknown(&self, key: &str) -> Diagnostic {
        let known = || self.kind.keys().iter().chain(&KEYS).copied();
        let list = format!("the entries are {}", known().collect::<Vec<_>>().join(", "));
        Diagnostic::new("", format!("a task `{}` has no entry `{key}`", self.kind.name())).help(
            match suggest(key, known()) {
                Some(hint) => format!("did you mean `{hint}`? {list}"),
                None => list,
            },
        )
    }

    /// The entries of the text form: those of the kind and the sizes, and others that differ from their
    /// defaults.
    fn entries(&self) -> Vec<(&'static str, String)> {
        let mut all = match self.kind {
            TaskKind::Train { objective, packing } => {
                let packing = packing.then(|| ("packing", "true".to_owned()));
                [("objective", objective.name().to_owned())].into_iter().chain(packing).collect()
            }
            TaskKind::Score => Vec::new(),
            TaskKind::Generate(Generation { method, beams, steps, filter }) => vec![
                ("method", method.name().to_owned()),
                ("beams", beams.to_string()),
                ("steps", steps.to_string()),
                ("filter", filter.to_string()),
            ],
        };
        let sizes = [
            ("vocab", self.vocab),
            ("batch", self.batch),
            ("input_length", self.input_length),
            ("target_length", self.target_length),
        ];
        all.extend(sizes.map(|(key, size)| (key, size.to_string())));
        all.extend(self.continues.then(|| ("continues", "true".to_owned())));
        let (SpecialTokens { pad, eos, sentinels }, usual) = (self.special_tokens, SpecialTokens::default());
        all.extend((pad != usual.pad).then(|| ("pad", pad.to_string())));
        all.extend((eos != usual.eos).then(|| ("eos", eos.to_string())));
        if let Some(Sentinels { first, count }) = sentinels {
            all.extend([("first_sentinel", first.to_string()), ("sentinels", count.to_string())]);
        }
        let names = self.names.by_role().into_iter().filter(|(role, name)| **name != **role);
        all.extend(names.map(|(role, name)| (role, name.to_string())));
        all
    }
}

impl Names {
    /// The names with their roles; a role is the default name.
    pub fn by_role(&self) -> [(&'static str, &Name); 7] {
        let Self { inputs, targets, inputs_segments, targets_segments, seed, loss, row_loss } = self;
        [
            ("inputs", inputs),
            ("targets", targets),
            ("inputs_segments", inputs_segments),
            ("targets_segments", targets_segments),
            ("seed", seed),
            ("loss", loss),
            ("row_loss", row_loss),
        ]
    }
}

/// Prints `train objective=lm vocab=384 …`.
impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.name())?;
        self.entries().into_iter().try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

fn choice<T: Copy>(key: &str, text: &str, words: &[(&'static str, T)]) -> Result<T, Diagnostic> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        wrong(key, &format!("one of {}", all.join(", ")), text)
    })
}

fn flag(key: &str, text: &str) -> Result<bool, Diagnostic> {
    text.parse().map_err(|_| wrong(key, "true or false", text))
}

fn number<T: std::str::FromStr>(key: &str, text: &str) -> Result<T, Diagnostic> {
    text.parse().map_err(|_| wrong(key, "a whole number", text))
}

fn name(key: &str, text: &str) -> Result<Name, Diagnostic> {
    if Name::is_word(text) {
        Ok(text.into())
    } else {
        Err(wrong(key, "the name of an input or output", text))
    }
}

fn wrong(key: &str, allowed: &str, text: &str) -> Diagnostic {
    Diagnostic::new("", format!("task entry `{key}` must be {allowed}, got `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Task, Diagnostic> {
        let (kind, entries) = text.split_once(' ').unwrap_or((text, ""));
        let mut task = Task::new(TaskKind::parse(kind)?);
        for entry in entries.split_whitespace() {
            let (key, value) = entry.split_once('=').expect("entries of the test have values");
            task.set(key, value)?;
        }
        Ok(task)
    }

    #[test]
    fn tasks_print_as_they_are_read() {
        for text in [
            "train objective=span_corruption vocab=384 batch=32 input_length=128 target_length=128",
            "train objective=lm packing=true vocab=9 batch=1 input_length=0 target_length=4 pad=2 eos=3 loss=xent",
            "train objective=prefix_lm vocab=9 batch=1 input_length=2 target_length=4 first_sentinel=8 sentinels=3",
            "score vocab=9 batch=1 input_length=2 target_length=4 inputs=source",
            "score vocab=9 batch=1 input_length=2 target_length=4 continues=true",
            "generate method=beam beams=4 steps=16 filter=true vocab=9 batch=1 input_length=2 target_length=4",
        ] {
            assert_eq!(parse(text).map(|task| task.to_string()), Ok(text.to_owned()));
        }
    }

    #[track_caller]
    fn fails(text: &str, error: &str) {
        assert_eq!(parse(text).expect_err("the task is wrong").to_string(), error);
    }

    #[test]
    fn mistakes_name_the_entry_and_what_is_allowed() {
        fails("learn", "error: a task must be one of train, score, generate, got `learn`");
        fails(
            "train objective=mlm",
            "error: task entry `objective` must be one of span_corruption, prefix_lm, lm, got `mlm`",
        );
        fails("train vocab=many", "error: task entry `vocab` must be a whole number, got `many`");
        fails(
            "score vocap=3",
            "error: a task `score` has no entry `vocap`\n  help: did you mean `vocab`? the entries are vocab, batch, \
             input_length, target_length, continues, pad, eos, first_sentinel, sentinels, inputs, targets, inputs_segments, \
             targets_segments, seed, loss, row_loss",
        );
    }
}

//! Scoring: the log likelihood of given targets.

use super::{Sizes, padded};
use crate::{Contract, Error, Result, Session};
use proto::manifest::TaskKind;
use std::collections::BTreeMap;

/// The score of one target.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Score {
    /// The log probability of the target, in nats.
    pub log_likelihood: f64,
    /// The number of tokens of the target.
    pub tokens: usize,
    /// The number of tokens that are the most likely ones at their position.
    pub correct: usize,
}

/// Scores targets with the program of a session.
pub struct Scorer<'s> {
    session: &'s mut Session,
    sizes: Sizes,
    contract: Contract,
}

impl<'s> Scorer<'s> {
    /// Compiles the session's program, whose parameters must have values.
    ///
    /// # Errors
    /// The program was not compiled with `task=score`, or cannot be compiled.
    pub fn new(session: &'s mut Session) -> Result<Self> {
        let contract = Contract::of_kind(session.artefact(), TaskKind::Score)?;
        let sizes = Sizes::of(&contract);
        session.compile("score")?;
        Ok(Self { session, sizes, contract })
    }

    /// Returns the sizes of the program.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Scores the target of each `(input, target)`, token ids without padding.
    ///
    /// # Errors
    /// An input (unless targets continue inputs) or a target is empty, too long or not in the vocabulary, or
    /// a call fails.
    pub fn run(&mut self, pairs: &[(Vec<i32>, Vec<i32>)]) -> Result<Vec<Score>> {
        for (number, (input, target)) in pairs.iter().enumerate() {
            // A text may have no beginning.
            if !(self.sizes.continues && input.is_empty()) {
                self.sizes.check_input(number, input)?;
            }
            let (what, room) = (format!("target {}", number + 1), self.sizes.target_length);
            self.sizes.check(&what, target, room, "target_length")?;
        }
        let mut all = Vec::with_capacity(pairs.len());
        for rows in pairs.chunks(self.sizes.batch) {
            all.extend(self.batch(rows)?);
        }
        Ok(all)
    }

    fn batch(&mut self, rows: &[(Vec<i32>, Vec<i32>)]) -> Result<Vec<Score>> {
        let Sizes { batch, input_length, target_length, .. } = self.sizes;
        let (inputs, targets): (Vec<_>, Vec<_>) = rows.iter().cloned().unzip();
        let (names, pad) = (self.contract.names(), self.sizes.pad());
        let given = BTreeMap::from([
            (names.inputs.clone(), padded(&inputs, batch, input_length, pad)),
            (names.targets.clone(), padded(&targets, batch, target_length, pad)),
        ]);
        let results = self.session.call("score", &given)?.wait()?;
        let column = |name: &str| {
            let value = results.get(name).map(|v| v.to_f64()).transpose()?;
            value.filter(|v| v.len() >= rows.len()).ok_or_else(|| {
                Error::input(
                    format!("the function `score` of this program has no output `{name}` per sequence"),
                    "use a model of the library, compiled with --set task=score",
                )
            })
        };
        let (log, tokens, correct) = (column("log_likelihood")?, column("tokens")?, column("correct")?);
        let score = |i: usize| Score {
            log_likelihood: log[i],
            tokens: tokens[i] as usize,
            correct: correct[i] as usize,
        };
        Ok((0..rows.len()).map(score).collect())
    }
}

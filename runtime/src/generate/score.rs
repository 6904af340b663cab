//! How likely a model finds given targets.

use super::{Sizes, padded};
use crate::{Error, Result, Session};
use std::collections::BTreeMap;

/// What a model says of one target.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Score {
    /// The logarithm of its probability, in nats.
    pub log_likelihood: f64,
    /// Its tokens.
    pub tokens: usize,
    /// How many of them are the most likely ones where they stand.
    pub correct: usize,
}

/// Scores with the program of a session.
pub struct Scorer<'s> {
    session: &'s mut Session,
    sizes: Sizes,
}

impl<'s> Scorer<'s> {
    /// For a session whose program scores and whose parameters have values.
    pub fn new(session: &'s mut Session) -> Result<Self> {
        let sizes = Sizes::of(session, "score")?;
        session.compile("score")?;
        Ok(Self { session, sizes })
    }

    /// The sizes of the program.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The score of the target of each `(input, target)`, token ids without padding.
    pub fn run(&mut self, pairs: &[(Vec<i32>, Vec<i32>)]) -> Result<Vec<Score>> {
        for (number, (input, target)) in pairs.iter().enumerate() {
            self.sizes.check_input(number, input)?;
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
        let given = BTreeMap::from([
            ("inputs".to_owned(), padded(&inputs, batch, input_length)),
            ("targets".to_owned(), padded(&targets, batch, target_length)),
        ]);
        let results = self.session.call("score", &given)?.wait()?;
        let column = |name: &str| {
            let value = results.get(name).map(|v| v.to_f64()).transpose()?;
            value.filter(|v| v.len() >= rows.len()).ok_or_else(|| {
                Error::input(
                    format!("`score` of this program gives no `{name}` for each sequence"),
                    "score with a program of the library's, compiled with task=score",
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

//! The largest logits of a teacher for given rows.

use crate::{Contract, Error, Result, Session};
use data::{Batch, BatchSource, BatchSpec, batch::Top};

/// Takes the input, the target and the largest logits of a row.
pub type EachRow<'a> = dyn FnMut(&[i32], &[i32], &Top) -> Result<()> + 'a;

/// Computes the largest logits with the program of a session, which was compiled with `task=logits`.
pub struct Teacher<'s> {
    session: &'s mut Session,
    contract: Contract,
    spec: BatchSpec,
    /// The number of logits of each target token.
    top: usize,
}

impl<'s> Teacher<'s> {
    /// Compiles the session's program, whose parameters must have values.
    ///
    /// # Errors
    /// The program takes no batches of training, cannot be compiled, or has fewer tokens than `top`.
    pub fn new(session: &'s mut Session, top: usize) -> Result<Self> {
        let contract = Contract::of(session.artefact())?;
        let spec = Contract::batch_spec(session.artefact())?;
        if top == 0 || top > spec.vocab {
            return Err(Error::input(
                format!(
                    "`--top` must be from 1 to {}, the vocabulary of the teacher (got {top})",
                    spec.vocab
                ),
                "change --top",
            ));
        }
        session.compile("eval_step")?;
        Ok(Self { session, contract, spec, top })
    }

    /// Computes the logits of all held-out rows of `source`. Calls `each` with the input, the target and the
    /// largest logits of each row, with padding up to the lengths of the program. The host holds one batch.
    ///
    /// # Errors
    /// A batch cannot be read, a call fails, or logits are not finite.
    pub fn run(&mut self, source: &dyn BatchSource, each: &mut EachRow<'_>) -> Result<()> {
        let (inputs, targets) = (self.spec.input_length, self.spec.target_length);
        for number in 0..source.held_out_batches() {
            let batch = source.held_out_batch(number)?;
            let logits = self.logits(&batch)?;
            let vocab = logits.len() / batch.targets.len();
            for row in (0..batch.size).filter(|row| batch.row_target_tokens().nth(*row) != Some(0)) {
                let part = |all: &[i32], length: usize| all[(row * length).min(all.len())..].to_vec();
                let (mut input, mut target) = (part(&batch.inputs, inputs), part(&batch.targets, targets));
                input.truncate(inputs);
                target.truncate(targets);
                let logits = &logits[row * targets * vocab..(row + 1) * targets * vocab];
                each(&input, &target, &self.largest(logits, vocab, &target)?)?;
            }
        }
        Ok(())
    }

    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let function = self.session.artefact().function("eval_step")?;
        let feeds = self.contract.feeds(function, batch, 0);
        let results = self.session.call("eval_step", &feeds)?.wait()?;
        let value = results.get("logits").ok_or_else(|| {
            Error::input(
                "the function `eval_step` of this program has no output `logits`",
                "use a model of the library, compiled with --set task=logits",
            )
        })?;
        Ok(value.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// Returns the largest logits of a row, the largest first; of equal ones, that of the smaller token.
    /// Padding has zeros.
    fn largest(&self, logits: &[f32], vocab: usize, target: &[i32]) -> Result<Top> {
        let mut all = Top::default();
        for (logits, token) in logits.chunks(vocab).zip(target) {
            if *token == self.spec.pad() {
                all.tokens.resize(all.tokens.len() + self.top, 0);
                all.logits.resize(all.logits.len() + self.top, 0.0);
                continue;
            }
            // Logits after the vocabulary are those of padding.
            let logits = &logits[..self.spec.vocab];
            if logits.iter().any(|x| !x.is_finite()) {
                return Err(Error::input(
                    "the logits of the teacher are not finite",
                    "evaluate the teacher with meshc eval; if its activations are bf16, try f32",
                ));
            }
            let mut order: Vec<usize> = (0..logits.len()).collect();
            let larger = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
            if self.top < order.len() {
                order.select_nth_unstable_by(self.top - 1, larger);
                order.truncate(self.top);
            }
            order.sort_unstable_by(larger);
            all.tokens.extend(order.iter().map(|token| *token as i32));
            all.logits.extend(order.iter().map(|token| logits[*token]));
        }
        Ok(all)
    }
}

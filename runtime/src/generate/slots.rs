//! More inputs than rows: a row whose sequences have ended begins another input while the others continue.
//!
//! Reading inputs costs about the same for one and for several of them, so a row waits until as many rows are
//! free as begin at once, or until no other row continues.

use super::{Generator, Options, Sequence, padded};
use crate::{Artefact, Contract, HostTensor, Outputs, Result};
use std::collections::BTreeMap;

/// Returns the number of inputs that the function `admit` of a program takes. `None` means that it has no
/// such function.
pub(super) fn admitted(artefact: &Artefact, contract: &Contract) -> Option<usize> {
    let admit = artefact.manifest.functions.iter().find(|f| f.name == "admit")?;
    let inputs = admit.inputs.iter().find(|input| input.name == contract.names().inputs)?;
    let dims = &inputs.tensor.as_ref()?.dims;
    dims.first().and_then(|dim| usize::try_from(dim.size).ok())
}

/// The rows of the devices.
struct Slots {
    /// The input of each row whose sequences were not yet read; `None` means that the row is free.
    inputs: Vec<Option<usize>>,
    /// The next input that begins.
    next: usize,
    /// Sequences that wait for those of earlier inputs.
    ready: BTreeMap<usize, Vec<Sequence>>,
    /// The next input whose sequences are given out.
    given: usize,
}

impl Generator<'_> {
    /// Generates for all inputs, of which at most `admitted` begin at once after the first batch.
    pub(super) fn continuously(
        &mut self,
        inputs: &[Vec<i32>],
        admitted: usize,
        options: &Options,
        each: &mut dyn FnMut(usize, Vec<Sequence>) -> Result<()>,
    ) -> Result<()> {
        let batch = self.sizes.batch;
        let length = options.max_length.unwrap_or(self.sizes.target_length);
        let of_decode = self.inputs(0, length, options);
        let first = BTreeMap::from([(
            self.contract.names().inputs.clone(),
            padded(&inputs[..batch], batch, self.sizes.input_length, self.sizes.pad()),
        )]);
        self.session.call("encode", &first)?.wait()?;
        let mut slots =
            Slots { inputs: (0..batch).map(Some).collect(), next: batch, ready: BTreeMap::new(), given: 0 };
        let lag = usize::from(!self.session.uses_host_memory()?);
        let mut before: Option<Outputs> = None;
        loop {
            let now = self.session.call("decode", &of_decode)?;
            let known = if lag == 0 { Some(now) } else { before.replace(now) };
            let Some(known) = known else { continue };
            let rows = known.wait()?;
            let open = rows.get("open_rows").map(HostTensor::to_f64).transpose()?.unwrap_or_default();
            let ended: Vec<usize> = (0..batch)
                .filter(|row| slots.inputs[*row].is_some() && open.get(*row).is_none_or(|open| *open == 0.0))
                .collect();
            let running = slots.inputs.iter().flatten().count() - ended.len();
            let waiting = inputs.len() - slots.next;
            if running > 0 && (waiting == 0 || ended.len() < admitted.min(waiting)) {
                continue;
            }
            // The outputs of a call before rows began say nothing about them.
            if let Some(last) = before.take() {
                last.wait()?;
            }
            let sequences = self.results(of_decode.clone(), length)?;
            slots.take(&ended, sequences);
            slots.give(each)?;
            if slots.inputs.iter().all(Option::is_none) && slots.next == inputs.len() {
                return Ok(());
            }
            self.fill(inputs, admitted, &mut slots)?;
        }
    }

    /// Begins inputs in all free rows, `admitted` at a time.
    fn fill(&mut self, inputs: &[Vec<i32>], admitted: usize, slots: &mut Slots) -> Result<()> {
        let names = self.contract.names().clone();
        loop {
            let free = (0..slots.inputs.len()).filter(|row| slots.inputs[*row].is_none());
            let rows: Vec<usize> = free.take(admitted.min(inputs.len() - slots.next)).collect();
            if rows.is_empty() {
                return Ok(());
            }
            let first = slots.next;
            let mut from = vec![-1; slots.inputs.len()];
            for (at, row) in rows.iter().enumerate() {
                slots.inputs[*row] = Some(first + at);
                from[*row] = at as i32;
            }
            slots.next += rows.len();
            let given =
                padded(&inputs[first..slots.next], admitted, self.sizes.input_length, self.sizes.pad());
            let whole = |values: &[i32]| HostTensor::s32(&[values.len()], values);
            let mut all = BTreeMap::from([(names.inputs.clone(), given), ("from".to_owned(), whole(&from))]);
            if self.generation.method() == super::DecodingMethod::Sample {
                let numbers: Vec<i32> = slots.inputs.iter().map(|input| input.unwrap_or(0) as i32).collect();
                all.insert("numbers".to_owned(), whole(&numbers));
            }
            self.session.call("admit", &all)?.wait()?;
        }
    }
}

impl Slots {
    /// Frees rows whose sequences have ended; `sequences` are those of all rows.
    fn take(&mut self, ended: &[usize], sequences: Vec<Vec<Sequence>>) {
        for (row, sequences) in sequences.into_iter().enumerate().filter(|(row, _)| ended.contains(row)) {
            if let Some(input) = self.inputs[row].take() {
                self.ready.insert(input, sequences);
            }
        }
    }

    /// Gives out sequences in the order of inputs.
    fn give(&mut self, each: &mut dyn FnMut(usize, Vec<Sequence>) -> Result<()>) -> Result<()> {
        while let Some(sequences) = self.ready.remove(&self.given) {
            each(self.given, sequences)?;
            self.given += 1;
        }
        Ok(())
    }
}

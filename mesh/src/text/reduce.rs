//! Reductions as text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
    words,
};
use crate::ir::{Reduce, ReduceKind};

words!(kind_word, KINDS, ReduceKind {
    Sum = "reduce_sum", Max = "reduce_max", Min = "reduce_min", Mean = "reduce_mean",
    LogSumExp = "reduce_logsumexp",
});

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(name, _)| *name).chain(["argmax"])
}

pub(super) fn name(op: &Reduce) -> &'static str {
    match op {
        Reduce::Over { kind, .. } => kind_word(*kind),
        Reduce::ArgMax { .. } => "argmax",
    }
}

pub(super) fn attributes(op: &Reduce, a: &mut AttrWriter<'_>) {
    match op {
        Reduce::Over { kind: _, dims } => a.names("dims", dims),
        Reduce::ArgMax { dim } => a.name("dim", dim),
    }
}

pub(super) fn build(name: &str, a: &mut Attrs<'_, '_>) -> Parsed<Option<Reduce>> {
    if name == "argmax" {
        return Ok(Some(Reduce::ArgMax { dim: a.name("dim")? }));
    }
    let Some((_, kind)) = KINDS.iter().find(|(word, _)| *word == name) else { return Ok(None) };
    Ok(Some(Reduce::Over { kind: *kind, dims: a.names("dims")? }))
}

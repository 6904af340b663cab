//! Folds in text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
    words,
};
use crate::ir::{Fold, Reduce};

words!(fold, FOLDS, Fold {
    Sum = "reduce_sum", Max = "reduce_max", Min = "reduce_min", Mean = "reduce_mean",
    LogSumExp = "reduce_logsumexp",
});

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FOLDS.iter().map(|(name, _)| *name).chain(["argmax"])
}

pub(super) fn name(op: &Reduce) -> &'static str {
    match op {
        Reduce::Fold { kind, .. } => fold(*kind),
        Reduce::ArgMax { .. } => "argmax",
    }
}

pub(super) fn attributes(op: &Reduce, a: &mut AttrWriter<'_>) {
    match op {
        Reduce::Fold { kind: _, dims } => a.names("dims", dims),
        Reduce::ArgMax { dim } => a.name("dim", dim),
    }
}

pub(super) fn build(name: &str, a: &mut Attrs<'_, '_>) -> Parsed<Option<Reduce>> {
    if name == "argmax" {
        return Ok(Some(Reduce::ArgMax { dim: a.name("dim")? }));
    }
    let Some((_, kind)) = FOLDS.iter().find(|(word, _)| *word == name) else { return Ok(None) };
    Ok(Some(Reduce::Fold { kind: *kind, dims: a.names("dims")? }))
}

//! Elementwise operations as text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
};
use crate::ir::{Binary, Compare, Elementwise, Unary};

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let unary = Unary::ALL.iter().map(|op| op.name());
    let binary = Binary::ALL.iter().map(|op| op.name());
    let compare = Compare::ALL.iter().map(|op| op.name());
    unary.chain(binary).chain(compare).chain(["select", "cast", "stop_gradient", "with_gradient"])
}

pub(super) fn name(op: &Elementwise) -> &'static str {
    match op {
        Elementwise::Unary(op) => op.name(),
        Elementwise::Binary(op) => op.name(),
        Elementwise::Compare(op) => op.name(),
        Elementwise::Select => "select",
        Elementwise::Cast(_) => "cast",
        Elementwise::StopGradient => "stop_gradient",
        Elementwise::WithGradient => "with_gradient",
    }
}

pub(super) fn attributes(op: &Elementwise, a: &mut AttrWriter<'_>) {
    match op {
        Elementwise::Cast(dtype) => a.name("dtype", dtype.name()),
        Elementwise::Unary(_)
        | Elementwise::Binary(_)
        | Elementwise::Compare(_)
        | Elementwise::Select
        | Elementwise::StopGradient
        | Elementwise::WithGradient => {}
    }
}

pub(super) fn build(name: &str, a: &mut Attrs<'_, '_>) -> Parsed<Option<Elementwise>> {
    Ok(match name {
        "select" => Some(Elementwise::Select),
        "cast" => Some(Elementwise::Cast(a.dtype("dtype")?)),
        "stop_gradient" => Some(Elementwise::StopGradient),
        "with_gradient" => Some(Elementwise::WithGradient),
        _ => find(Unary::ALL, Unary::name, name)
            .map(Elementwise::Unary)
            .or_else(|| find(Binary::ALL, Binary::name, name).map(Elementwise::Binary))
            .or_else(|| find(Compare::ALL, Compare::name, name).map(Elementwise::Compare)),
    })
}

fn find<T: Copy>(all: &[T], word: fn(T) -> &'static str, name: &str) -> Option<T> {
    all.iter().copied().find(|op| word(*op) == name)
}

//! Elementwise operations as text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
    words,
};
use crate::ir::{Binary, Compare, Elementwise, Unary};

words!(unary, UNARY, Unary {
    Neg = "neg", Abs = "abs", Sign = "sign", Exp = "exp", Log = "log", Log1p = "log1p", Sqrt = "sqrt",
    Rsqrt = "rsqrt", Sin = "sin", Cos = "cos", Tanh = "tanh", Logistic = "logistic", Relu = "relu",
    Gelu = "gelu", Floor = "floor", RoundBf16 = "round_bf16", Not = "not", IsFinite = "is_finite",
});
words!(binary, BINARY, Binary {
    Add = "add", Sub = "sub", Mul = "mul", Div = "div", Rem = "rem", Pow = "pow", Max = "max", Min = "min",
    And = "and", Or = "or", Xor = "xor", Shl = "shl", Shr = "shr",
});
words!(compare, COMPARE, Compare { Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge" });

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let tables = UNARY.iter().map(|(name, _)| *name).chain(BINARY.iter().map(|(name, _)| *name));
    tables.chain(COMPARE.iter().map(|(name, _)| *name)).chain(["select", "cast", "stop_gradient"])
}

pub(super) fn name(op: &Elementwise) -> &'static str {
    match op {
        Elementwise::Unary(op) => unary(*op),
        Elementwise::Binary(op) => binary(*op),
        Elementwise::Compare(op) => compare(*op),
        Elementwise::Select => "select",
        Elementwise::Cast(_) => "cast",
        Elementwise::StopGradient => "stop_gradient",
    }
}

pub(super) fn attributes(op: &Elementwise, a: &mut AttrWriter<'_>) {
    match op {
        Elementwise::Cast(dtype) => a.name("dtype", dtype.name()),
        Elementwise::Unary(_)
        | Elementwise::Binary(_)
        | Elementwise::Compare(_)
        | Elementwise::Select
        | Elementwise::StopGradient => {}
    }
}

pub(super) fn build(name: &str, a: &mut Attrs<'_, '_>) -> Parsed<Option<Elementwise>> {
    Ok(match name {
        "select" => Some(Elementwise::Select),
        "cast" => Some(Elementwise::Cast(a.dtype("dtype")?)),
        "stop_gradient" => Some(Elementwise::StopGradient),
        _ => find(UNARY, name)
            .map(Elementwise::Unary)
            .or_else(|| find(BINARY, name).map(Elementwise::Binary))
            .or_else(|| find(COMPARE, name).map(Elementwise::Compare)),
    })
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(word, _)| *word == name).map(|(_, op)| *op)
}

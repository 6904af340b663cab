//! Einsum as text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
};
use crate::ir::Contract;

pub(super) const NAME: &str = "einsum";

pub(super) fn attributes(op: &Contract, a: &mut AttrWriter<'_>) {
    a.names("out", &op.out);
    a.name("dtype", op.dtype.name());
}

pub(super) fn build(a: &mut Attrs<'_, '_>) -> Parsed<Contract> {
    Ok(Contract { out: a.names("out")?, dtype: a.dtype("dtype")? })
}

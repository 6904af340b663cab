//! State access as text.

use super::{
    attrs::{AttrWriter, Attrs},
    cursor::Parsed,
};
use crate::{Env, ir::StateOp};

pub(super) const NAMES: &[&str] = &["read", "write"];

pub(super) fn name(op: &StateOp) -> &'static str {
    match op {
        StateOp::Read(_) => "read",
        StateOp::Write(_) => "write",
    }
}

pub(super) fn attributes(op: &StateOp, env: &Env, a: &mut AttrWriter<'_>) {
    match op {
        StateOp::Read(id) | StateOp::Write(id) => a.state("state", env, *id),
    }
}

pub(super) fn build(name: &str, a: &mut Attrs<'_, '_>) -> Parsed<Option<StateOp>> {
    Ok(Some(match name {
        "read" => StateOp::Read(a.state("state")?),
        "write" => StateOp::Write(a.state("state")?),
        _ => return Ok(None),
    }))
}

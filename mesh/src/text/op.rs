//! Names and attributes of all operations, both ways.

use super::{
    attrs::{AttrWriter, Attrs},
    collective, contract, control,
    cursor::Parsed,
    elementwise, index, random, reduce, shape, state,
};
use crate::{Env, Op};
use std::collections::HashMap;

/// The name of an operation in `.mesh` text.
pub fn op_name(op: &Op) -> &'static str {
    match op {
        Op::Elementwise(op) => elementwise::name(op),
        Op::Contract(_) => contract::NAME,
        Op::Reduce(op) => reduce::name(op),
        Op::Shape(op) => shape::name(op),
        Op::Index(op) => index::name(op),
        Op::Random(_) => random::NAME,
        Op::State(op) => state::name(op),
        Op::Control(op) => control::name(op),
        Op::Collective(op) => collective::name(op),
    }
}

/// Writes the attributes of an operation.
pub(super) fn attributes(op: &Op, env: &Env, a: &mut AttrWriter<'_>) {
    match op {
        Op::Elementwise(op) => elementwise::attributes(op, a),
        Op::Contract(op) => contract::attributes(op, a),
        Op::Reduce(op) => reduce::attributes(op, a),
        Op::Shape(op) => shape::attributes(op, a),
        Op::Index(op) => index::attributes(op, a),
        Op::Random(op) => random::attributes(op, a),
        Op::State(op) => state::attributes(op, env, a),
        Op::Control(op) => control::attributes(op, a),
        Op::Collective(op) => collective::attributes(op, a),
    }
}

/// A family of operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    Elementwise,
    Contract,
    Reduce,
    Shape,
    Index,
    Random,
    State,
    Control,
    Collective,
}

/// The names of all operations, with their families.
pub(super) fn names() -> impl Iterator<Item = (&'static str, Family)> {
    let of = |names: &'static [&'static str], family| names.iter().map(move |name| (*name, family));
    elementwise::names()
        .map(|name| (name, Family::Elementwise))
        .chain(of(&[contract::NAME], Family::Contract))
        .chain(reduce::names().map(|name| (name, Family::Reduce)))
        .chain(of(shape::NAMES, Family::Shape))
        .chain(of(index::NAMES, Family::Index))
        .chain(of(&[random::NAME], Family::Random))
        .chain(of(state::NAMES, Family::State))
        .chain(of(control::NAMES, Family::Control))
        .chain(of(collective::NAMES, Family::Collective))
}

/// The names of all operations in `.mesh` text.
pub fn op_names() -> impl Iterator<Item = &'static str> {
    names().map(|(name, _)| name)
}

/// The family of each operation, by name.
pub(super) fn families() -> HashMap<&'static str, Family> {
    names().collect()
}

/// Builds the operation called `name` of `family` from its attributes and bodies.
pub(super) fn build(family: Family, name: &str, mut a: Attrs<'_, '_>) -> Parsed<Op> {
    let op = match family {
        Family::Elementwise => elementwise::build(name, &mut a)?.map(Op::Elementwise),
        Family::Contract => Some(Op::Contract(contract::build(&mut a)?)),
        Family::Reduce => reduce::build(name, &mut a)?.map(Op::Reduce),
        Family::Shape => shape::build(name, &mut a)?.map(Op::Shape),
        Family::Index => index::build(name, &mut a)?.map(Op::Index),
        Family::Random => Some(Op::Random(random::build(&mut a)?)),
        Family::State => state::build(name, &mut a)?.map(Op::State),
        Family::Control => control::build(name, &mut a)?.map(Op::Control),
        Family::Collective => collective::build(name, &mut a)?.map(Op::Collective),
    };
    a.finish()?;
    Ok(op.expect("each family builds the names it lists, as a test checks"))
}

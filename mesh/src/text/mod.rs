//! Modules as `.mesh` text: the output of models, the dumps of stages, and the input of filetests.
//!
//! Tests check two laws. First, `parse(print(m)) == m`, sites and names of values included, for a verified
//! module whose values are numbered in the order of their definitions (as [`crate::BodyBuilder`] does) and
//! have unique names. Second, `print(parse(t))` is the canonical form of `t`. The grammar is in `docs/ir.md`.
//!
//! Reading order: `lexer` (tokens), `cursor` (names, types, sites and errors), `write` (names and types to
//! text), `attrs` (the `{key=value}` of an operation, both ways), one file per family of operations (both
//! ways), `op` (all families), `print`, `parse`.

mod attrs;
mod collective;
mod contract;
mod control;
mod cursor;
mod elementwise;
mod index;
mod lexer;
mod op;
mod parse;
mod print;
mod random;
mod reduce;
mod shape;
mod state;
#[cfg(test)]
mod tests;
mod write;

pub use op::{op_name, op_names};
pub use parse::{parse, parse_source};
pub use print::{print, print_type};

/// Defines the words of an enum without fields: a function from variant to word, and a table for parsing.
macro_rules! words {
    ($function:ident, $table:ident, $ty:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        pub(super) const $table: &[(&str, $ty)] = &[$(($word, $ty::$variant)),*];
        pub(super) fn $function(x: $ty) -> &'static str {
            match x {
                $($ty::$variant => $word),*
            }
        }
    };
}
use words;

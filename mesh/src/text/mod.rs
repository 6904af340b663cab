//! Modules as `.mesh` text: what models hand to the compiler, what stages dump, what tests are made of.
//!
//! Two laws, tested: `parse(print(m)) == m` for a verified module whose values are numbered in the order of
//! their definitions (as [`crate::BodyBuilder`] numbers them), sites and names of values included; and
//! `print(parse(t))` is the canonical form of `t`. The grammar stands in `docs/ir.md`.
//!
//! Reading order: `lexer` (words and marks), `cursor` (names, types, sites and mistakes), `write` (names and
//! types to text), `attrs` (the `{key=value}` of an operation, both ways), one file per family of operations (both ways), `op` (the
//! families together), `print`, `parse`.

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

pub use op::op_name;
pub use parse::{parse, parse_source};
pub use print::{print, print_type};

/// Gives an enum without fields its words: a function from variant to word, whose match is complete, and
/// a table for the way back.
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

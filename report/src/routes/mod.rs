//! Routing of tokens: which tokens go to which expert in every sparse layer, how layers agree, and how many
//! tokens other capacities would drop.
//!
//! Reading order: [`replay`] (expert slots from recorded choices), `counts` (tokens by property and expert),
//! [`observer`] (from recorded choices to counts), `bound` (the number of counts), [`summary`] (the results,
//! the JSON form), `text` (tables for a terminal). The page is [`crate::html::routes`].

mod bound;
mod counts;
pub mod observer;
pub mod replay;
pub mod summary;
mod text;

pub use bound::{Extent, most_counts};
pub use counts::Lift;
pub use observer::{Layer, Observer, Record, Rule, Token};
pub use summary::{Coactivation, Expert, LayerRoutes, Names, Properties, Routes, TextRoutes, WhatIf};

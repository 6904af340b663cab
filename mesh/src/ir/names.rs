//! Names of values: for people who read a program. They do not change what it computes.

use crate::Name;
use std::{borrow::Cow, collections::HashSet};

/// True if `name` can name a value: a word as [`Name::is_word`] says, without `//`.
pub fn is_value_name(name: &str) -> bool {
    Name::is_word(name) && !name.contains("//")
}

/// Returns `name`, or `name` with the first of the suffixes `_2`, `_3`, … that is not taken.
pub fn unique<'n>(name: &'n str, taken: &HashSet<Cow<'_, str>>) -> Cow<'n, str> {
    if !taken.contains(name) {
        return Cow::Borrowed(name);
    }
    let suffixed = (2..).map(|n| format!("{name}_{n}")).find(|name| !taken.contains(name.as_str()));
    Cow::Owned(suffixed.expect("a body has fewer values than there are numbers"))
}

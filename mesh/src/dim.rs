//! Names and dims. A *dim* belongs to tensors and has a name and a size. An *axis* belongs to the mesh.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

/// The largest number of bytes of a name.
pub const MAX_NAME: usize = 1024;

/// A name of a dim, axis, state, function, scope or value. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// True if `text` is a bare word in `.mesh` text: a letter or `_`, then letters, digits, `_`, `.`,
    /// `-` or `/`.
    pub fn is_word(text: &str) -> bool {
        let mut chars = text.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/'))
    }
    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Returns the reason why `text` cannot be the name of a `what`, such as a dim: it is empty, has more
    /// than [`MAX_NAME`] bytes, or contains a control character, line separator or paragraph separator, which
    /// tables, logs and other programs would obey. `None` means that it can.
    pub fn fault(what: &str, text: &str) -> Option<String> {
        if text.is_empty() {
            return Some(format!("the {what} has an empty name"));
        }
        let has_end = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        let short: String = text.chars().take(40).collect();
        let short = if short.len() < text.len() { short + "…" } else { short };
        let short = short.escape_debug();
        if text.len() > MAX_NAME {
            let bytes = text.len();
            return Some(format!("the name of {what} `{short}` has {bytes} bytes, more than {MAX_NAME}"));
        }
        let c = text.chars().find(|c| has_end(*c))?;
        Some(format!("the name of {what} `{short}` contains the control character `{}`", c.escape_debug()))
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}
impl From<String> for Name {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}
impl From<&Name> for Name {
    fn from(name: &Name) -> Self {
        name.clone()
    }
}
impl From<Dim> for Name {
    fn from(dim: Dim) -> Self {
        dim.name
    }
}
impl From<&Dim> for Name {
    fn from(dim: &Dim) -> Self {
        dim.name.clone()
    }
}
impl Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}
impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}
impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A named dimension of tensors, with its logical (unsharded) size.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Dim {
    /// The name; within one tensor names are unique.
    pub name: Name,
    /// The logical size, at least 1.
    pub size: usize,
}

impl Dim {
    /// Creates a dim of `size` elements.
    pub fn new(name: impl Into<Name>, size: usize) -> Self {
        Self { name: name.into(), size }
    }
    /// Returns a dim of the same size with another name.
    pub fn renamed(&self, name: impl Into<Name>) -> Self {
        Self::new(name, self.size)
    }
    /// Returns a dim of the same name with another size.
    pub fn sized(&self, size: usize) -> Self {
        Self::new(self.name.clone(), size)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(Name::fault("dim", text).as_deref(), expected);
    }

    #[test]
    fn names_have_no_control_characters_and_are_bounded() {
        check("d model", None);
        check("größe\u{1f600}", None);
        check(&"a".repeat(MAX_NAME), None);
        check("", Some("the dim has an empty name"));
        check("a\nb", Some("the name of dim `a\\nb` contains the control character `\\n`"));
        check("\u{1b}[31m", Some("the name of dim `\\u{1b}[31m` contains the control character `\\u{1b}`"));
        check("a\u{2028}b", Some("the name of dim `a\\u{2028}b` contains the control character `\\u{2028}`"));
        let long = format!("the name of dim `{}…` has 70000 bytes, more than 1024", "x".repeat(40));
        check(&"x".repeat(70_000), Some(&long));
    }
}

//! Names and dims. A *dim* belongs to tensors and has a name and a size. An *axis* belongs to the mesh.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

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

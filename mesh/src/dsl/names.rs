//! Argument types for lists of dims and of names of dims: one or several, as [`Dim`] or as text.

use crate::{Dim, Name};
use std::borrow::Borrow;

/// Names of dims: `&dim` or `dim`, `"length"`, `[&batch, &length]`, `["batch", "length"]`, a slice or a
/// `Vec`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name dims",
    label = "names of dims are expected here",
    note = "write one dim or name, such as `&batch` or `\"batch\"`, or several, such as `[&batch, &length]`"
)]
pub trait Names {
    /// The names, in order.
    fn names(self) -> Vec<Name>;
}

impl Names for Dim {
    fn names(self) -> Vec<Name> {
        vec![self.name]
    }
}
impl Names for &Dim {
    fn names(self) -> Vec<Name> {
        vec![self.name.clone()]
    }
}
impl Names for &str {
    fn names(self) -> Vec<Name> {
        vec![self.into()]
    }
}
impl Names for &Name {
    fn names(self) -> Vec<Name> {
        vec![self.clone()]
    }
}
impl Names for Name {
    fn names(self) -> Vec<Name> {
        vec![self]
    }
}
impl<T: Into<Name>, const N: usize> Names for [T; N] {
    fn names(self) -> Vec<Name> {
        self.into_iter().map(Into::into).collect()
    }
}
impl<T> Names for &[T]
where
    for<'a> &'a T: Into<Name>,
{
    fn names(self) -> Vec<Name> {
        self.iter().map(Into::into).collect()
    }
}
impl<T> Names for &Vec<T>
where
    for<'a> &'a T: Into<Name>,
{
    fn names(self) -> Vec<Name> {
        self.iter().map(Into::into).collect()
    }
}
impl<T: Into<Name>> Names for Vec<T> {
    fn names(self) -> Vec<Name> {
        self.into_iter().map(Into::into).collect()
    }
}

/// Dims with their sizes: `&dim` or `dim`, `[&batch, &length]`, `[]`, a slice or a `Vec`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a list of dims",
    label = "dims with their sizes are expected here",
    note = "write one dim, such as `&batch`, or several, such as `[&batch, &length]`; a name has no size"
)]
pub trait Dims {
    /// The dims, in order.
    fn dims(self) -> Vec<Dim>;
}

impl Dims for Dim {
    fn dims(self) -> Vec<Dim> {
        vec![self]
    }
}
impl Dims for &Dim {
    fn dims(self) -> Vec<Dim> {
        vec![self.clone()]
    }
}
impl<const N: usize> Dims for [&Dim; N] {
    fn dims(self) -> Vec<Dim> {
        self.into_iter().cloned().collect()
    }
}
impl<T: Borrow<Dim>> Dims for &[T] {
    fn dims(self) -> Vec<Dim> {
        self.iter().map(|d| d.borrow().clone()).collect()
    }
}
impl<T: Borrow<Dim>> Dims for &Vec<T> {
    fn dims(self) -> Vec<Dim> {
        self.iter().map(|d| d.borrow().clone()).collect()
    }
}
impl<T: Borrow<Dim>> Dims for Vec<T> {
    fn dims(self) -> Vec<Dim> {
        self.iter().map(|d| d.borrow().clone()).collect()
    }
}

/// Declares a variable for each dim, which has the name of the variable.
///
/// ```
/// mesh::dims! { batch = 16, length = 128 }
/// assert_eq!((batch.to_string(), length.size), ("batch=16".to_owned(), 128));
/// ```
#[macro_export]
macro_rules! dims {
    ($($name:ident = $size:expr),+ $(,)?) => {
        $(let $name = $crate::Dim::new(stringify!($name), $size);)+
    };
}

//! The type of an array.

use crate::element_type::ElementType;
use std::fmt;

/// An element type and dims.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArrayType {
    /// The type of the elements.
    pub element_type: ElementType,
    /// Dim sizes, outermost first.
    pub dims: Vec<i64>,
}

impl fmt::Display for ArrayType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(i64::to_string).collect();
        write!(f, "{}[{}]", self.element_type, dims.join(","))
    }
}

/// Returns the bytes of a dense array. `None` if that exceeds the address space or a dim is negative.
pub(crate) fn byte_size(element: usize, dims: &[i64]) -> Option<usize> {
    dims.iter()
        .try_fold(element, |size, dim| size.checked_mul(usize::try_from(*dim).ok()?))
        .filter(|size| isize::try_from(*size).is_ok())
}

//! The type of an array.

use crate::element_type::ElementType;
use std::fmt;

/// The type of an array.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ArrayType {
    /// Of its elements.
    pub element_type: ElementType,
    /// Its sizes, outermost first.
    pub dims: Vec<i64>,
}

impl fmt::Display for ArrayType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.dims.iter().map(i64::to_string).collect();
        write!(f, "{}[{}]", self.element_type, dims.join(","))
    }
}

/// Bytes of a dense array, if that can be counted in memory.
pub(crate) fn byte_size(element: usize, dims: &[i64]) -> Option<usize> {
    dims.iter()
        .try_fold(element, |size, dim| size.checked_mul(usize::try_from(*dim).ok()?))
        .filter(|size| isize::try_from(*size).is_ok())
}

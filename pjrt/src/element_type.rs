//! Element types of arrays.

use std::fmt;

/// The type of an array's elements.
///
/// The types that models compute with have names; any other is represented by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the documentation.
pub enum ElementType {
    /// Booleans, one byte each.
    Pred,
    S8,
    S16,
    S32,
    S64,
    U8,
    U16,
    U32,
    U64,
    F16,
    F32,
    F64,
    Bf16,
    /// A type that this crate cannot transfer between host and device, by its number in the C API.
    Other(i32),
}

/// Number in the C API, bytes of an element, name in HLO text.
const KNOWN: [(ElementType, i32, usize, &str); 13] = [
    (ElementType::Pred, 1, 1, "pred"),
    (ElementType::S8, 2, 1, "s8"),
    (ElementType::S16, 3, 2, "s16"),
    (ElementType::S32, 4, 4, "s32"),
    (ElementType::S64, 5, 8, "s64"),
    (ElementType::U8, 6, 1, "u8"),
    (ElementType::U16, 7, 2, "u16"),
    (ElementType::U32, 8, 4, "u32"),
    (ElementType::U64, 9, 8, "u64"),
    (ElementType::F16, 10, 2, "f16"),
    (ElementType::F32, 11, 4, "f32"),
    (ElementType::F64, 12, 8, "f64"),
    (ElementType::Bf16, 13, 2, "bf16"),
];

impl ElementType {
    /// Returns the bytes of one element on the host. `None` for [`ElementType::Other`].
    pub fn byte_size(self) -> Option<usize> {
        KNOWN.iter().find(|row| row.0 == self).map(|row| row.2)
    }

    /// Converts from the number in the C API.
    pub(crate) fn from_raw(raw: i32) -> Self {
        KNOWN.iter().find(|row| row.1 == raw).map_or(ElementType::Other(raw), |row| row.0)
    }

    /// Returns the number in the C API.
    pub(crate) fn to_raw(self) -> i32 {
        match self {
            ElementType::Other(raw) => raw,
            known => KNOWN.iter().find(|row| row.0 == known).map_or(0, |row| row.1),
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match KNOWN.iter().find(|row| row.0 == *self) {
            Some(row) => f.write_str(row.3),
            None => write!(f, "type#{}", self.to_raw()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ElementType;

    #[test]
    fn numbers_round_trip() {
        for raw in -1..40 {
            assert_eq!(ElementType::from_raw(raw).to_raw(), raw);
        }
        assert_eq!(ElementType::from_raw(13), ElementType::Bf16);
        assert_eq!(ElementType::from_raw(14), ElementType::Other(14));
        assert_eq!(ElementType::Other(14).byte_size(), None);
        assert_eq!(ElementType::Other(14).to_string(), "type#14");
        assert_eq!(ElementType::Bf16.byte_size(), Some(2));
        assert_eq!(ElementType::S64.to_string(), "s64");
    }
}

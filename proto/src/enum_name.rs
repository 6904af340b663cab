//! Serialization of enum fields by name.
//!
//! prost stores an enum field as its number. The generated manifest types name this function in
//! `#[serde(serialize_with)]`, which `cargo xtask codegen` adds to every enum field.

use serde::{Serialize, Serializer};

/// Serializes `number` as the name of the value of `E`; a number without a name becomes `unspecified`.
pub(crate) fn serialize<E, S>(number: &i32, serializer: S) -> Result<S::Ok, S::Error>
where
    E: TryFrom<i32> + Default + Serialize,
    S: Serializer,
{
    E::try_from(*number).unwrap_or_default().serialize(serializer)
}

//! What a program takes, read from the program itself.
//!
//! The C API does not tell the types of an executable's parameters, and plugins differ in what they do with arguments
//! that do not fit: most refuse, some crash when several devices are involved (seen in API 0.106). So the parameters
//! are read from the program before it is compiled, by as much of a protobuf reader as that takes.

use crate::array_type::ArrayType;
use crate::element_type::ElementType;

/// Fields of `HloModuleProto`, `ProgramShapeProto` and `ShapeProto`.
const MODULE_SIGNATURE: u64 = 4;
const SIGNATURE_PARAMETERS: u64 = 1;
const SHAPE_ELEMENT_TYPE: u64 = 2;
const SHAPE_DIMENSIONS: u64 = 3;

/// HLO numbers element types as PJRT does up to F64, where PJRT goes on with BF16 and HLO with tuples.
const HLO_TUPLE: u64 = 13;
const HLO_BF16: u64 = 16;

/// The types of the parameters of a serialized `HloModuleProto`. `None` where the bytes are something else, or where a
/// parameter is not an array: then it is for the plugin to say what does not fit.
pub(crate) fn parameters(module: &[u8]) -> Option<Vec<ArrayType>> {
    let mut signature = None;
    for field in Fields(module) {
        if let (MODULE_SIGNATURE, Value::Bytes(bytes)) = field? {
            signature = Some(bytes);
        }
    }
    let mut parameters = Vec::new();
    for field in Fields(signature?) {
        if let (SIGNATURE_PARAMETERS, Value::Bytes(shape)) = field? {
            parameters.push(array_type(shape)?);
        }
    }
    Some(parameters)
}

fn array_type(shape: &[u8]) -> Option<ArrayType> {
    let (mut element_type, mut dims) = (0, Vec::new());
    for field in Fields(shape) {
        match field? {
            (SHAPE_ELEMENT_TYPE, Value::Int(raw)) => element_type = raw,
            (SHAPE_DIMENSIONS, Value::Int(dim)) => dims.push(dim as i64),
            (SHAPE_DIMENSIONS, Value::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    dims.push(varint(&mut packed)? as i64);
                }
            }
            (_, Value::Int(_) | Value::Bytes(_) | Value::Other) => {}
        }
    }
    let element_type = match element_type {
        HLO_BF16 => ElementType::Bf16,
        known @ 1..HLO_TUPLE => ElementType::from_raw(known as i32),
        _ => return None,
    };
    Some(ArrayType { element_type, dims })
}

/// A field's value, as far as it is of interest.
enum Value<'a> {
    Int(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message; `None` where the bytes are not one.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.0.is_empty()).then(|| {
            let field = field(&mut self.0);
            if field.is_none() {
                self.0 = &[];
            }
            field
        })
    }
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = varint(bytes)?;
    let value = match tag & 7 {
        0 => Value::Int(varint(bytes)?),
        1 => bytes.split_off(..8).map(|_| Value::Other)?,
        2 => {
            let len = usize::try_from(varint(bytes)?).ok()?;
            Value::Bytes(bytes.split_off(..len)?)
        }
        5 => bytes.split_off(..4).map(|_| Value::Other)?,
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::parameters;

    /// A module `m` with a signature: `f32[2,300]`, `bf16[]`, result `f32[]`; behind it a fixed-size field.
    const MODULE: &[u8] = &[
        0x0a, 1, b'm', // name
        0x22, 19, // signature of 19 bytes
        0x0a, 7, 0x10, 11, 0x1a, 3, 2, 0xac, 2, // f32, packed dims
        0x0a, 2, 0x10, 16, // bf16, no dims
        0x12, 4, 0x10, 11, 0x08, 0, // result
        0x31, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn a_signature_is_found() {
        let found: Vec<_> = parameters(MODULE).expect("a module").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["f32[2,300]", "bf16[]"]);
    }

    #[test]
    fn anything_else_is_left_to_the_plugin() {
        assert_eq!(parameters(b""), None);
        assert_eq!(parameters(b"not a module"), None);
        for len in 0..MODULE.len() - 9 {
            // Cut short it is no message, or one without a signature.
            assert_eq!(parameters(&MODULE[..len]), None, "{len}");
        }
        let mut tuple = MODULE.to_vec();
        tuple[8] = 13;
        assert_eq!(parameters(&tuple), None);
    }
}

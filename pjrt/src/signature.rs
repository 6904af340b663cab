//! The parameter types of a program, read from its HLO.
//!
//! The C API does not report the types of an executable's parameters, and plugins differ in how they treat
//! wrong arguments: most refuse them, some crash when several devices are involved (API 0.106). So this crate
//! reads the parameters from the program before it is compiled, with a minimal protobuf reader.

use crate::array_type::ArrayType;
use crate::element_type::ElementType;

/// Field numbers of `HloModuleProto`, `ProgramShapeProto` and `ShapeProto`.
const MODULE_SIGNATURE: u64 = 4;
const SIGNATURE_PARAMETERS: u64 = 1;
const SHAPE_ELEMENT_TYPE: u64 = 2;
const SHAPE_DIMENSIONS: u64 = 3;

/// HLO numbers element types as PJRT does up to F64. The next number is BF16 in PJRT and TUPLE in HLO.
const HLO_TUPLE: u64 = 13;
const HLO_BF16: u64 = 16;

/// Returns the types of the parameters of a serialized `HloModuleProto`. `None` if the bytes are something
/// else, or a parameter is not an array: then the plugin has to check the arguments.
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

/// The value of a field.
enum Value<'a> {
    Int(u64),
    Bytes(&'a [u8]),
    Other,
}

/// Iterates over the fields of a message; an item is `None` if the bytes are not a message.
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

    /// A module `m` with a signature (parameters `f32[2,300]` and `bf16[]`, result `f32[]`), then a
    /// fixed-size field.
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
            // A truncated module is not a message, or has no signature.
            assert_eq!(parameters(&MODULE[..len]), None, "{len}");
        }
        let mut tuple = MODULE.to_vec();
        tuple[8] = 13;
        assert_eq!(parameters(&tuple), None);
    }
}

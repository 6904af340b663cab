//! Rewrites a program with donated state into one that returns new state in fresh buffers.

use prost::{
    DecodeError,
    encoding::{DecodeContext, decode_key, skip_field},
};

/// The field number of `HloModuleProto.input_output_alias` (proto/protos/hlo.proto).
const INPUT_OUTPUT_ALIAS: u32 = 8;

/// Returns a serialized module without its `input_output_alias`. All other bytes stay, including those of
/// fields that our `.proto` files do not declare.
///
/// # Errors
/// If `module` is not a protobuf message.
pub fn out_of_place(module: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let (mut kept, mut rest) = (Vec::with_capacity(module.len()), module);
    while !rest.is_empty() {
        let field = rest;
        let (number, wire_type) = decode_key(&mut rest)?;
        skip_field(wire_type, number, &mut rest, DecodeContext::default())?;
        if number != INPUT_OUTPUT_ALIAS {
            kept.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::out_of_place;
    use crate::xla::{
        HloInputOutputAliasProto, HloModuleProto, hlo_input_output_alias_proto::AliasEntryProto,
    };
    use prost::Message;

    #[test]
    fn aliases_go_and_all_else_stays() {
        let plain = HloModuleProto { name: "m".into(), id: 300, is_dynamic: true, ..Default::default() };
        let entry = AliasEntryProto { parameter_number: 3, ..Default::default() };
        let alias = Some(HloInputOutputAliasProto { entries: vec![entry; 5] });
        let aliased = HloModuleProto { input_output_alias: alias, ..plain.clone() };
        assert!(aliased.encode_to_vec() != plain.encode_to_vec());
        // Field 100, an undeclared field: a varint of two bytes.
        let unknown = [0xa0, 0x06, 0x96, 0x01];
        let foreign = |m: &HloModuleProto| [m.encode_to_vec(), unknown.to_vec()].concat();
        assert_eq!(out_of_place(&foreign(&aliased)).unwrap(), foreign(&plain));
        assert_eq!(out_of_place(&foreign(&plain)).unwrap(), foreign(&plain));
        assert!(out_of_place(&aliased.encode_to_vec()[..9]).is_err());
    }
}

//! A small module for tests: one of each thing that modules have.

use crate::xla::hlo_input_output_alias_proto::AliasEntryProto;
use crate::xla::op_sharding::Type;
use crate::xla::{
    CollectiveDeviceListProto, HloComputationProto, HloInputOutputAliasProto, HloInstructionProto,
    HloModuleProto, Kind, LayoutProto, LiteralProto, OpMetadata, OpSharding, PrimitiveType,
    ProgramShapeProto, ReplicaGroup, ShapeProto,
};

/// A row-major array shape.
pub fn array(element_type: PrimitiveType, dims: &[i64]) -> ShapeProto {
    let minor_to_major = (0..dims.len() as i64).rev().collect();
    ShapeProto {
        element_type: element_type.into(),
        dimensions: dims.to_vec(),
        layout: Some(LayoutProto { minor_to_major, ..Default::default() }),
        ..Default::default()
    }
}

/// A tuple shape.
pub fn tuple(elements: &[ShapeProto]) -> ShapeProto {
    let tuple_shapes = elements.to_vec();
    ShapeProto { element_type: PrimitiveType::Tuple.into(), tuple_shapes, ..Default::default() }
}

/// An instruction, sharded by hand.
pub fn op(id: i64, name: &str, opcode: &str, shape: ShapeProto, operands: &[i64]) -> HloInstructionProto {
    let sharding = OpSharding { r#type: Type::Manual.into(), ..Default::default() };
    HloInstructionProto {
        id,
        name: name.into(),
        opcode: opcode.into(),
        shape: Some(shape),
        operand_ids: operands.to_vec(),
        sharding: Some(sharding),
        ..Default::default()
    }
}

/// Eight partitions: half of the sum of `x` over groups of four, `x` donated.
pub fn module() -> HloModuleProto {
    let scalar = array(PrimitiveType::F32, &[]);
    let row = array(PrimitiveType::F32, &[4]);
    let add = HloComputationProto {
        name: "add".into(),
        id: 1,
        root_id: 3,
        program_shape: Some(signature(&[("a", &scalar), ("b", &scalar)], &scalar)),
        instructions: vec![
            op(1, "a", "parameter", scalar.clone(), &[]),
            HloInstructionProto { parameter_number: 1, ..op(2, "b", "parameter", scalar.clone(), &[]) },
            op(3, "add.3", "add", scalar.clone(), &[1, 2]),
        ],
        ..Default::default()
    };
    let half = LiteralProto { shape: Some(scalar.clone()), f32s: vec![0.5], ..Default::default() };
    let groups = [[0, 1, 2, 3], [4, 5, 6, 7]].map(|ids| ReplicaGroup { replica_ids: ids.to_vec() });
    let sum = HloInstructionProto {
        channel_id: 1,
        use_global_device_ids: true,
        collective_device_list: Some(CollectiveDeviceListProto {
            replica_groups: groups.to_vec(),
            ..Default::default()
        }),
        called_computation_ids: vec![1],
        metadata: Some(OpMetadata {
            op_name: "loss/sum".into(),
            source_file: "model.rs".into(),
            source_line: 7,
            ..Default::default()
        }),
        ..op(5, "sum", "all-reduce", row.clone(), &[4])
    };
    let result = tuple(&[row.clone(), row.clone()]);
    let main = HloComputationProto {
        name: "main".into(),
        id: 2,
        root_id: 9,
        program_shape: Some(signature(&[("x", &row)], &result)),
        instructions: vec![
            op(4, "x", "parameter", row.clone(), &[]),
            sum,
            HloInstructionProto { literal: Some(half), ..op(6, "c", "constant", scalar, &[]) },
            op(7, "half", "broadcast", row.clone(), &[6]),
            op(8, "scaled", "multiply", row.clone(), &[5, 7]),
            op(9, "out", "tuple", result.clone(), &[8, 4]),
        ],
        ..Default::default()
    };
    let alias = AliasEntryProto {
        output_shape_index: vec![0],
        parameter_number: 0,
        parameter_shape_index: vec![],
        kind: Kind::MustAlias.into(),
    };
    HloModuleProto {
        name: "sample".into(),
        entry_computation_name: "main".into(),
        entry_computation_id: 2,
        computations: vec![add, main],
        host_program_shape: Some(signature(&[("x", &row)], &result)),
        id: 1,
        input_output_alias: Some(HloInputOutputAliasProto { entries: vec![alias] }),
        ..Default::default()
    }
}

fn signature(parameters: &[(&str, &ShapeProto)], result: &ShapeProto) -> ProgramShapeProto {
    ProgramShapeProto {
        parameters: parameters.iter().map(|(_, shape)| (*shape).clone()).collect(),
        parameter_names: parameters.iter().map(|(name, _)| name.to_string()).collect(),
        result: Some(result.clone()),
    }
}

//! A small module and a small manifest for tests, with one of each kind of entry.

use crate::manifest;
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

/// An instruction with manual sharding.
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

/// A module for eight partitions: half of the sum of `x` over groups of four, with `x` donated.
pub fn module() -> HloModuleProto {
    let scalar = array(PrimitiveType::F32, &[]);
    let row = array(PrimitiveType::F32, &[4]);
    let add = add(&scalar);
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
            HloInstructionProto { literal: Some(half.into()), ..op(6, "c", "constant", scalar, &[]) },
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

/// The computation that adds two scalars.
fn add(scalar: &ShapeProto) -> HloComputationProto {
    HloComputationProto {
        name: "add".into(),
        id: 1,
        root_id: 3,
        program_shape: Some(signature(&[("a", scalar), ("b", scalar)], scalar)),
        instructions: vec![
            op(1, "a", "parameter", scalar.clone(), &[]),
            HloInstructionProto { parameter_number: 1, ..op(2, "b", "parameter", scalar.clone(), &[]) },
            op(3, "add.3", "add", scalar.clone(), &[1, 2]),
        ],
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

/// A manifest of one function on a mesh of four devices. Its inputs are state, data and a seed.
pub fn manifest() -> manifest::Manifest {
    use manifest::{Axis, Cost, Function, InputKind, Mesh, OutputKind, Source, StateKind, Summary};
    let w = tensor("bf16", &[("d_model", 4, &[], 4), ("d_ff", 8, &["model"], 4)]);
    let data = tensor("s32", &[("batch", 6, &["data"], 3), ("length", 5, &[], 5)]);
    let seed = tensor("u32", &[]);
    let (scalar, count) = (tensor("f32", &[]), tensor("s32", &[]));
    let state =
        |name: &str, kind: StateKind, tensor: &manifest::Tensor, slot_of: &str| manifest::StateEntry {
            name: name.into(),
            kind: kind.into(),
            tensor: Some(tensor.clone()),
            slot_of: slot_of.into(),
        };
    manifest::Manifest {
        format_version: 1,
        program: "tiny".into(),
        producer: "meshc 0.1.0".into(),
        target: "cpu".into(),
        mesh: Some(Mesh {
            axes: [("data", 2), ("model", 2)].map(|(n, size)| Axis { name: n.into(), size }).to_vec(),
        }),
        layout: "batch:data,d_ff:model".into(),
        state_layout: String::new(),
        random: "threefry2x32, keyed by (seed, step, op, global index)".into(),
        state: vec![
            state("w", StateKind::Param, &w, ""),
            state("w/m", StateKind::Slot, &w, "w"),
            state("step", StateKind::Counter, &count, ""),
        ],
        functions: vec![Function {
            name: "train_step".into(),
            module: Some(file("train_step.hlo.pb")),
            compile_options: Some(file("train_step.compile_options.pb")),
            inputs: vec![
                input("w", InputKind::State, "w", &w),
                input("tokens", InputKind::Data, "", &data),
                input("seed", InputKind::Seed, "", &seed),
            ],
            outputs: vec![
                output("w", OutputKind::State, "w", &w),
                output("loss", OutputKind::Metric, "", &scalar),
            ],
            cost: Some(Cost {
                flops_per_device: 1 << 60,
                peak_bytes_per_device: 4096,
                collective_bytes_per_device: 12,
            }),
        }],
        source: Some(Source { name: "models/tiny.rs".into(), sha256: "fedcba9876543210".repeat(4) }),
        summary: Some(Summary { parameters: 32, state_bytes_per_device: 68, flops_per_step: u64::MAX }),
        meta: [("dtype".into(), "bf16".into())].into(),
        task: Some(task()),
    }
}

/// The task contract of a program that trains on `tokens`.
fn task() -> manifest::Task {
    use manifest::{Objective, SpecialTokens, Task, TaskKind, TaskNames, Training};
    Task {
        kind: TaskKind::Train.into(),
        vocab: 384,
        batch: 6,
        input_length: 0,
        target_length: 5,
        continues: false,
        special_tokens: Some(SpecialTokens { pad: 0, eos: 1, sentinels: None }),
        names: Some(TaskNames { targets: "tokens".into(), loss: "loss".into(), ..TaskNames::default() }),
        training: Some(Training { objective: Objective::Lm.into(), packing: false }),
        generation: None,
    }
}

fn input(name: &str, kind: manifest::InputKind, state: &str, tensor: &manifest::Tensor) -> manifest::Input {
    manifest::Input {
        name: name.into(),
        kind: kind.into(),
        state: state.into(),
        tensor: Some(tensor.clone()),
        donated_to: (kind == manifest::InputKind::State).then_some(0),
    }
}

fn output(
    name: &str,
    kind: manifest::OutputKind,
    state: &str,
    tensor: &manifest::Tensor,
) -> manifest::Output {
    manifest::Output {
        name: name.into(),
        kind: kind.into(),
        state: state.into(),
        tensor: Some(tensor.clone()),
    }
}

fn file(name: &str) -> manifest::File {
    manifest::File { name: name.into(), sha256: "0123456789abcdef".repeat(4), bytes: 77 }
}

/// A tensor of dims (name, size, axes, local size).
fn tensor(dtype: &str, dims: &[(&str, u64, &[&str], u64)]) -> manifest::Tensor {
    let dims = dims.iter().map(|&(name, size, axes, local_size)| manifest::Dim {
        name: name.into(),
        size,
        axes: axes.iter().map(ToString::to_string).collect(),
        local_size,
    });
    manifest::Tensor { dtype: dtype.into(), dims: dims.collect() }
}

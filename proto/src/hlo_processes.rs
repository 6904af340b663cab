//! Rewrites a program for several devices into one whose collectives are custom calls.
//!
//! CPU plugins have no collectives between processes. The rewritten program runs as replicas on the devices
//! of one process; each collective and `partition-id` becomes a custom call of [`TARGET`], whose handler
//! exchanges data with the other processes. Its first argument is `replica-id`, so that the handler knows the
//! device; its attribute `call` is a number by which the handler finds the [`Exchange`].

use crate::xla::{
    CompileOptionsProto, CustomCallApiVersion, DeviceAssignmentProto, HloComputationProto,
    HloInstructionProto, HloModuleProto, LayoutProto, PrimitiveType, ShapeProto,
    device_assignment_proto::ComputationDevice,
};
use prost::Message;

/// The target of the custom calls.
pub const TARGET: &str = "mesh_exchange";
/// The call number that asks for the device's position in the mesh.
pub const PARTITION_ID: i64 = -1;

/// One collective of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exchange {
    /// Its function.
    pub kind: Kind,
    /// Element type of operand and result.
    pub element: PrimitiveType,
    /// Sizes of the operand, outermost first.
    pub sizes: Vec<usize>,
    /// Positions in the mesh of the devices that exchange data with each other.
    pub groups: Vec<Vec<usize>>,
}

/// The function of a collective.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Combines the operands of a group elementwise.
    AllReduce(Combine),
    /// Concatenates the operands of a group along a dimension.
    AllGather {
        /// The dimension.
        dim: usize,
    },
    /// As [`Kind::AllReduce`], of which each device keeps its part along a dimension.
    ReduceScatter {
        /// The function.
        combine: Combine,
        /// The dimension.
        dim: usize,
    },
    /// Part `i` of the operand along a dimension goes to device `i` of the group.
    AllToAll {
        /// The dimension.
        dim: usize,
    },
    /// The operand of the first device of each pair goes to the second. A device that receives none gets
    /// zeros.
    Permute {
        /// Positions in the mesh of senders and receivers.
        pairs: Vec<(usize, usize)>,
    },
}

/// An elementwise function of two values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combine {
    /// The sum.
    Add,
    /// The maximum; `or` of booleans.
    Max,
    /// The minimum; `and` of booleans.
    Min,
}

/// Rewrites a serialized module. Collectives are numbered from `first` in the order of the module; the result
/// lists them in that order.
///
/// # Errors
/// The module is no protobuf message, or has a collective that the compiler does not emit.
pub fn for_processes(module: &[u8], first: i64) -> Result<(Vec<u8>, Vec<Exchange>), String> {
    let mut module = HloModuleProto::decode(module).map_err(|error| error.to_string())?;
    let ids = module.computations.iter().flat_map(|c| &c.instructions).map(|i| i.id);
    let mut next_id = ids.max().unwrap_or(0) + 1;
    let combiners: Vec<(i64, Option<Combine>)> =
        module.computations.iter().map(|c| (c.id, combiner(c))).collect();
    let mut exchanges = Vec::new();
    for computation in &mut module.computations {
        let is_call = |i: &HloInstructionProto| i.opcode == "partition-id" || is_collective(&i.opcode);
        if !computation.instructions.iter().any(is_call) {
            continue;
        }
        let replica = replica_id(next_id);
        next_id += 1;
        let operands: Vec<(i64, ShapeProto)> =
            (computation.instructions.iter()).map(|i| (i.id, i.shape.clone().unwrap_or_default())).collect();
        for instruction in computation.instructions.iter_mut().filter(|i| is_call(i)) {
            let number = if instruction.opcode == "partition-id" {
                PARTITION_ID
            } else {
                let operand = operand(instruction, &operands)?;
                exchanges.push(exchange(instruction, operand, &combiners)?);
                first + exchanges.len() as i64 - 1
            };
            into_call(instruction, number, &replica, &operands);
        }
        computation.instructions.insert(0, replica);
    }
    Ok((module.encode_to_vec(), exchanges))
}

/// Compile options of a rewritten program for devices `device_ids` of one process: all other options stay.
///
/// # Errors
/// `options` is no protobuf message.
pub fn options_for_processes(options: &[u8], device_ids: &[i64]) -> Result<Vec<u8>, String> {
    let mut options = CompileOptionsProto::decode(options).map_err(|error| error.to_string())?;
    let build = options.executable_build_options.get_or_insert_default();
    build.num_replicas = device_ids.len() as i64;
    build.num_partitions = 1;
    build.use_spmd_partitioning = false;
    build.device_assignment = Some(DeviceAssignmentProto {
        replica_count: device_ids.len() as i32,
        computation_count: 1,
        computation_devices: vec![ComputationDevice { replica_device_ids: device_ids.to_vec() }],
    });
    Ok(options.encode_to_vec())
}

fn is_collective(opcode: &str) -> bool {
    matches!(opcode, "all-reduce" | "all-gather" | "reduce-scatter" | "all-to-all" | "collective-permute")
}

/// The function of a computation with two scalar parameters, if it is one that collectives use.
fn combiner(computation: &HloComputationProto) -> Option<Combine> {
    let root = computation.instructions.iter().find(|i| i.id == computation.root_id)?;
    match root.opcode.as_str() {
        "add" => Some(Combine::Add),
        "maximum" | "or" => Some(Combine::Max),
        "minimum" | "and" => Some(Combine::Min),
        _ => None,
    }
}

/// The operand's shape.
fn operand<'o>(
    instruction: &HloInstructionProto,
    operands: &'o [(i64, ShapeProto)],
) -> Result<&'o ShapeProto, String> {
    let [id] = instruction.operand_ids[..] else {
        return Err(format!("`{}` has {} operands, not 1", instruction.name, instruction.operand_ids.len()));
    };
    let found = operands.iter().find(|(operand, _)| *operand == id);
    found.map(|(_, shape)| shape).ok_or_else(|| format!("`{}` has no operand", instruction.name))
}

fn exchange(
    instruction: &HloInstructionProto,
    operand: &ShapeProto,
    combiners: &[(i64, Option<Combine>)],
) -> Result<Exchange, String> {
    let name = &instruction.name;
    let combine = || {
        let callee = instruction.called_computation_ids.first();
        let found = combiners.iter().find(|(id, _)| Some(id) == callee);
        let found = found.and_then(|(_, combine)| *combine);
        found.ok_or_else(|| format!("`{name}` combines by a function other than sum, maximum and minimum"))
    };
    let dim = || {
        let dim = instruction.dimensions.first().and_then(|dim| usize::try_from(*dim).ok());
        dim.ok_or_else(|| format!("`{name}` has no dimension"))
    };
    let number = |n: &i64| usize::try_from(*n).map_err(|_| format!("`{name}` has the number {n}"));
    let pairs = || {
        let pairs = instruction.source_target_pairs.iter();
        pairs
            .map(|pair| Ok((number(&pair.source)?, number(&pair.target)?)))
            .collect::<Result<Vec<_>, String>>()
    };
    let kind = match instruction.opcode.as_str() {
        "all-reduce" => Kind::AllReduce(combine()?),
        "all-gather" => Kind::AllGather { dim: dim()? },
        "reduce-scatter" => Kind::ReduceScatter { combine: combine()?, dim: dim()? },
        "collective-permute" => Kind::Permute { pairs: pairs()? },
        _ => Kind::AllToAll { dim: dim()? },
    };
    let groups = instruction.replica_groups.iter().map(|g| g.replica_ids.iter().map(number).collect());
    let mut groups: Vec<Vec<usize>> = groups.collect::<Result<_, _>>()?;
    if let Kind::Permute { pairs } = &kind {
        groups = connected(pairs);
    }
    if groups.is_empty() {
        return Err(format!("`{name}` has no replica groups"));
    }
    let sizes = operand.dimensions.iter().map(number).collect::<Result<_, _>>()?;
    Ok(Exchange { kind, element: operand.element_type(), sizes, groups })
}

/// The sets of devices that messages connect, each in ascending order.
fn connected(pairs: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (from, to) in pairs {
        let (mut joined, rest): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|g| g.contains(from) || g.contains(to));
        joined.push(vec![*from, *to]);
        let mut joined = joined.concat();
        joined.sort_unstable();
        joined.dedup();
        groups = rest;
        groups.push(joined);
    }
    groups.sort_unstable();
    groups
}

/// `replica-id`, the device's number in this process.
fn replica_id(id: i64) -> HloInstructionProto {
    let mut shape = ShapeProto { layout: Some(LayoutProto::default()), ..Default::default() };
    shape.set_element_type(PrimitiveType::U32);
    HloInstructionProto {
        name: format!("replica-id.{id}"),
        opcode: "replica-id".into(),
        shape: Some(shape),
        id,
        ..Default::default()
    }
}

/// Replaces a collective by a custom call with the same name, result and position in the model.
fn into_call(
    instruction: &mut HloInstructionProto,
    number: i64,
    replica: &HloInstructionProto,
    operands: &[(i64, ShapeProto)],
) {
    let shape_of = |id: &i64| operands.iter().find(|(operand, _)| operand == id).map(|(_, shape)| shape);
    let given = instruction.operand_ids.iter().filter_map(shape_of).cloned();
    let shapes: Vec<ShapeProto> = replica.shape.iter().cloned().chain(given).map(row_major).collect();
    let mut call = HloInstructionProto {
        name: instruction.name.clone(),
        opcode: "custom-call".into(),
        shape: instruction.shape.clone().map(row_major),
        metadata: instruction.metadata.clone(),
        id: instruction.id,
        operand_ids: [&[replica.id], &instruction.operand_ids[..]].concat(),
        custom_call_target: TARGET.into(),
        backend_config: format!("{{call = {number} : i64}}").into_bytes(),
        // The handler reads and writes dense row-major arrays.
        constrain_layout: true,
        operand_shapes_with_layout: shapes,
        // A device must make every call that the others of its group make, used or not.
        custom_call_has_side_effect: number != PARTITION_ID,
        ..Default::default()
    };
    call.set_custom_call_api_version(CustomCallApiVersion::ApiVersionTypedFfi);
    *instruction = call;
}

/// A shape with its outermost dimension first in memory.
fn row_major(mut shape: ShapeProto) -> ShapeProto {
    let rank = shape.dimensions.len() as i64;
    shape.layout = Some(LayoutProto { minor_to_major: (0..rank).rev().collect(), ..Default::default() });
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xla::{ReplicaGroup, SourceTarget};

    fn shape(element: PrimitiveType, sizes: &[i64]) -> ShapeProto {
        let mut shape = ShapeProto { dimensions: sizes.to_vec(), ..Default::default() };
        shape.set_element_type(element);
        shape
    }

    fn instruction(id: i64, opcode: &str, operands: &[i64]) -> HloInstructionProto {
        HloInstructionProto {
            name: format!("i{id}"),
            opcode: opcode.into(),
            shape: Some(shape(PrimitiveType::F32, &[4, 6])),
            id,
            operand_ids: operands.to_vec(),
            replica_groups: vec![
                ReplicaGroup { replica_ids: vec![0, 2] },
                ReplicaGroup { replica_ids: vec![1, 3] },
            ],
            ..Default::default()
        }
    }

    fn module(collective: HloInstructionProto) -> Vec<u8> {
        let root = |id, opcode: &str| HloComputationProto {
            name: opcode.into(),
            id,
            root_id: 10 * id,
            instructions: vec![instruction(10 * id, opcode, &[])],
            ..Default::default()
        };
        let position = HloInstructionProto {
            shape: Some(shape(PrimitiveType::U32, &[])),
            ..instruction(3, "partition-id", &[])
        };
        let main = HloComputationProto {
            name: "main".into(),
            id: 1,
            root_id: 2,
            instructions: vec![instruction(1, "parameter", &[]), position, collective],
            ..Default::default()
        };
        let computations = vec![root(7, "add"), root(8, "or"), root(9, "subtract"), main];
        HloModuleProto { computations, ..Default::default() }.encode_to_vec()
    }

    #[track_caller]
    fn check(collective: HloInstructionProto, expect: Result<Kind, &str>) {
        match (for_processes(&module(collective), 5), expect) {
            (Ok((bytes, exchanges)), Ok(kind)) => {
                let groups = vec![vec![0, 2], vec![1, 3]];
                let expected = Exchange { kind, element: PrimitiveType::F32, sizes: vec![4, 6], groups };
                assert_eq!(exchanges, [expected]);
                let module = HloModuleProto::decode(&bytes[..]).unwrap();
                let main = module.computations.last().unwrap();
                let [replica, parameter, position, call] = &main.instructions[..] else { panic!("{main:?}") };
                assert_eq!((replica.opcode.as_str(), replica.id), ("replica-id", 91));
                assert_eq!(parameter.opcode, "parameter");
                assert_eq!(position.backend_config, b"{call = -1 : i64}");
                assert_eq!((position.id, &position.operand_ids[..]), (3, &[91][..]));
                assert_eq!(call.backend_config, b"{call = 5 : i64}");
                assert_eq!((call.id, &call.operand_ids[..]), (2, &[91, 1][..]));
                assert_eq!(call.custom_call_target, TARGET);
                let layout = call.shape.as_ref().unwrap().layout.as_ref().unwrap();
                assert_eq!(layout.minor_to_major, [1, 0]);
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn collectives_become_custom_calls() {
        let all_reduce = |callee| HloInstructionProto {
            called_computation_ids: vec![callee],
            ..instruction(2, "all-reduce", &[1])
        };
        check(all_reduce(7), Ok(Kind::AllReduce(Combine::Add)));
        check(all_reduce(8), Ok(Kind::AllReduce(Combine::Max)));
        check(all_reduce(9), Err("`i2` combines by a function other than"));
        let along =
            |opcode: &str| HloInstructionProto { dimensions: vec![1], ..instruction(2, opcode, &[1]) };
        check(along("all-gather"), Ok(Kind::AllGather { dim: 1 }));
        check(along("all-to-all"), Ok(Kind::AllToAll { dim: 1 }));
        let scatter = HloInstructionProto { called_computation_ids: vec![7], ..along("reduce-scatter") };
        check(scatter, Ok(Kind::ReduceScatter { combine: Combine::Add, dim: 1 }));
        let message = |source, target| SourceTarget { source, target };
        let permute = HloInstructionProto {
            source_target_pairs: vec![message(3, 1), message(0, 2), message(2, 0)],
            replica_groups: vec![],
            ..instruction(2, "collective-permute", &[1])
        };
        check(permute.clone(), Ok(Kind::Permute { pairs: vec![(3, 1), (0, 2), (2, 0)] }));
        check(
            HloInstructionProto { source_target_pairs: vec![message(-1, 0)], ..permute },
            Err("`i2` has the number -1"),
        );
        check(instruction(2, "all-gather", &[1]), Err("`i2` has no dimension"));
        check(
            HloInstructionProto { operand_ids: vec![1, 1], ..along("all-gather") },
            Err("2 operands, not 1"),
        );
        check(
            HloInstructionProto { replica_groups: vec![], ..along("all-gather") },
            Err("no replica groups"),
        );
        assert!(for_processes(&[0xff], 0).is_err());
    }

    #[test]
    fn options_are_for_replicas() {
        let options = crate::compile_options::single_program(8, None);
        let bytes = options_for_processes(&options.encode_to_vec(), &[0, 1]).unwrap();
        let build = CompileOptionsProto::decode(&bytes[..]).unwrap().executable_build_options.unwrap();
        assert_eq!((build.num_replicas, build.num_partitions), (2, 1));
        assert!(!build.use_spmd_partitioning);
        let devices = build.device_assignment.unwrap();
        assert_eq!((devices.replica_count, devices.computation_count), (2, 1));
        assert_eq!(devices.computation_devices[0].replica_device_ids, [0, 1]);
    }
}

//! Small optimized programs, with expected numbers counted by hand.

use super::*;
use compiler::cost::time::Pattern;
use proto::xla::{DotDimensionNumbers, OpMetadata};

fn shape(dims: &[i64]) -> Option<ShapeProto> {
    Some(ShapeProto {
        element_type: PrimitiveType::Bf16 as i32,
        dimensions: dims.to_vec(),
        ..Default::default()
    })
}

fn op(id: i64, opcode: &str, dims: &[i64], operands: &[i64]) -> HloInstructionProto {
    HloInstructionProto {
        id,
        name: format!("{opcode}.{id}"),
        opcode: opcode.into(),
        shape: shape(dims),
        operand_ids: operands.to_vec(),
        metadata: Some(OpMetadata {
            op_name: "encoder/block/ffn/experts/einsum".into(),
            source_file: "m.rs".into(),
            source_line: 7,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn computation(id: i64, name: &str, instructions: Vec<HloInstructionProto>) -> HloComputationProto {
    HloComputationProto { id, name: name.into(), instructions, ..Default::default() }
}

/// A loop of three iterations over a fused product and an all-reduce; an asynchronous all-gather outside.
fn module() -> HloModuleProto {
    let dot = HloInstructionProto {
        dot_dimension_numbers: Some(
            DotDimensionNumbers {
                lhs_contracting_dimensions: vec![1],
                rhs_contracting_dimensions: vec![0],
                ..Default::default()
            }
            .into(),
        ),
        ..op(3, "dot", &[4, 16], &[1, 2])
    };
    let fused = computation(
        1,
        "fused",
        vec![op(1, "parameter", &[4, 8], &[]), op(2, "parameter", &[8, 16], &[]), dot],
    );
    let fusion = HloInstructionProto {
        called_computation_ids: vec![1],
        backend_config: br#"{"window_config":{"estimated_cycles":"100","x":"1"}}"#.to_vec(),
        ..op(13, "fusion", &[4, 16], &[11, 12])
    };
    let body = vec![
        op(11, "parameter", &[4, 8], &[]),
        op(12, "parameter", &[8, 16], &[]),
        fusion,
        op(14, "all-reduce", &[4, 16], &[13]),
    ];
    let body = computation(2, "body", body);
    let limit = proto::xla::LiteralProto { s32s: vec![3], ..Default::default() };
    let condition = computation(
        3,
        "condition",
        vec![HloInstructionProto { literal: Some(limit.into()), ..op(21, "constant", &[], &[]) }],
    );
    let looped =
        HloInstructionProto { called_computation_ids: vec![2, 3], ..op(32, "while", &[4, 16], &[31]) };
    let entry = vec![
        op(31, "parameter", &[4, 16], &[]),
        looped,
        op(33, "all-gather-start", &[4, 32], &[31]),
        op(34, "all-gather-done", &[4, 32], &[33]),
    ];
    let entry = computation(4, "main", entry);
    HloModuleProto {
        computations: vec![fused, body, condition, entry],
        entry_computation_id: 4,
        ..Default::default()
    }
}

#[test]
fn everything_counts_as_often_as_it_runs() {
    let counted = count(&module(), &Mesh::parse("data=2").unwrap(), None);
    assert_eq!(counted.matmul_flops, 3 * 2 * 4 * 16 * 8);
    assert_eq!(counted.estimated_cycles, 300);
    assert_eq!(counted.parts.len(), 1);
    assert_eq!((counted.parts[0].part.as_str(), counted.parts[0].estimated_cycles), ("experts", 300));
    // Twice half of 128 bytes, three times; half of the 256 bytes of the result.
    let kinds: Vec<_> = counted.kinds.iter().map(|k| (k.kind.as_str(), k.count, k.wire_bytes)).collect();
    assert_eq!(kinds, [("all-reduce", 3, 384.0), ("all-gather", 1, 128.0)]);
    assert_eq!(counted.wire_bytes, 512.0);
    assert_eq!(counted.axes, [AxesUse { axes: vec!["data".into()], count: 4, wire_bytes: 512.0 }]);
    assert_eq!(counted.collectives[0].source, "m.rs:7");
    assert_eq!(counted.collectives[0].dtype, "bf16");
    assert_eq!(counted.collectives[0].direction, Direction::Forward);
    assert_eq!(counted.loops, [LoopUse { body: "body".into(), trips: 3, count: 1, depth: 0 }]);
}

#[test]
fn names_say_which_half_of_a_step_a_collective_is_of() {
    for (name, direction, scope) in [
        ("encoder/einsum", Direction::Forward, "encoder"),
        ("backward/encoder/einsum", Direction::Backward, "encoder"),
        ("backward/einsum", Direction::Backward, ""),
        ("backwards/einsum", Direction::Forward, "backwards"),
        ("jit(f)/transpose(jvp(g))/dot_general", Direction::Backward, "jit(f)/transpose(jvp(g))"),
        ("einsum", Direction::Forward, ""),
    ] {
        let mut module = module();
        module.computations[3].instructions[2].metadata.as_mut().unwrap().op_name = name.into();
        let counted = count(&module, &Mesh::parse("data=2").unwrap(), None);
        let gather = counted.collectives.iter().find(|c| c.kind == "all-gather").unwrap();
        assert_eq!((gather.direction, gather.scope.as_str()), (direction, scope), "{name}");
    }
}

#[test]
fn a_noted_trip_count_comes_before_a_guess() {
    let mut module = module();
    let config = br#"{"known_trip_count":{"n":"5"},"known_init_step":{"init":"0","step":"1"}}"#;
    module.computations[3].instructions[1].backend_config = config.to_vec();
    assert_eq!(count(&module, &Mesh::default(), None).estimated_cycles, 500);
}

#[test]
fn a_program_without_an_entry_does_nothing() {
    assert_eq!(count(&HloModuleProto::default(), &Mesh::default(), None), Optimized::default());
}

/// The time on four chips of v5e of an entry with these instructions beside two parameters, a fusion of
/// 1,500 cycles (one microsecond) being `f`, the start and the end of an all-gather `s` and `e`, those of an
/// asynchronous slice `a` and `d`, and an all-reduce `r`.
#[track_caller]
fn check_time(
    program: &str,
    compute: f64,
    network: impl Fn(f64, f64) -> f64,
    exposed: impl Fn(f64, f64) -> f64,
) {
    let cycles = br#"{"estimated_cycles":"1500"}"#.to_vec();
    let instruction = |(i, what): (usize, char)| match what {
        'f' => {
            HloInstructionProto { backend_config: cycles.clone(), ..op(10 + i as i64, "fusion", &[4], &[]) }
        }
        's' => op(2, "all-gather-start", &[1 << 20, 4], &[1]),
        'e' => op(3, "all-gather-done", &[1 << 20, 4], &[2]),
        'a' => HloInstructionProto {
            called_computation_ids: vec![9],
            ..op(5, "async-start", &[1 << 10, 4], &[1])
        },
        'd' => op(6, "async-done", &[1 << 10, 4], &[5]),
        _ => op(4, "all-reduce", &[1 << 20], &[1]),
    };
    let mut entry = vec![op(1, "parameter", &[1 << 20], &[])];
    entry.extend(program.chars().enumerate().map(instruction));
    let sliced = vec![op(7, "parameter", &[1 << 20], &[]), op(8, "slice", &[1 << 10, 4], &[7])];
    let module = HloModuleProto {
        computations: vec![computation(9, "sliced", sliced), computation(4, "main", entry)],
        entry_computation_id: 4,
        ..Default::default()
    };
    let slice = Slice::parse("v5e:2x2").unwrap();
    let mesh = Mesh::parse(&format!("data={}", slice.devices())).unwrap();
    let (time, devices) = (count(&module, &mesh, Some(&slice)).time.unwrap(), slice.devices());
    let (n, bytes) = (devices as f64, (2 << 20) as f64);
    let seconds = |wire: f64| slice.transfer_time(Pattern::Ring, 0..devices, wire);
    let (gather, sum) = (seconds(bytes * (n - 1.0)), seconds(2.0 * bytes * (n - 1.0) / n));
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{program}: {a} for {b}");
    close(time.compute, compute);
    close(time.network, network(gather, sum));
    close(time.exposed, exposed(gather, sum));
}

#[test]
fn computation_between_the_start_and_the_end_of_a_collective_covers_it() {
    let us = 1e-6;
    check_time("f", us, |_, _| 0.0, |_, _| 0.0);
    check_time("fse", us, |g, _| g, |g, _| g);
    check_time("sfe", us, |g, _| g, move |g, _| g - us);
    check_time("sfef", 2.0 * us, |g, _| g, move |g, _| g - us);
    check_time("frf", 2.0 * us, |_, s| s, |_, s| s);
    // An asynchronous slice sends nothing, and its end waits for no collective.
    check_time("sadfe", us, |g, _| g, move |g, _| g - us);
    // The network is busy with the first when the second begins.
    check_time("sffre", 2.0 * us, |g, s| g + s, move |g, s| g + s - 2.0 * us);
}

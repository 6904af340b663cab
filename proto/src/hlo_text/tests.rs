//! Tests with small modules. `proto/tests/against_jaxlib.py`, which needs jaxlib, compares with XLA's printer
//! and parser.

use half::{bf16, f16};

use super::*;
use crate::sample::{array, module, op, tuple};
use crate::xla::axis_ref_proto::SubAxis;
use crate::xla::hlo_instruction_proto::SliceDimensions;
use crate::xla::hlo_schedule_proto::InstructionSequence;
use crate::xla::mesh_proto::{IotaTransform, MeshAxis};
use crate::xla::padding_config::PaddingConfigDimension;
use crate::xla::stack_frame_index_proto::{FileLocation, StackFrame};
use crate::xla::{
    AxisRefProto, DotDimensionNumbers, IotaReplicaGroupListProto, LiteralProto,
    MeshAxesReplicaGroupListProto, MeshProto, PaddingConfig, PrimitiveType, Window, WindowDimension,
};

#[test]
fn a_module() {
    let text = print(&module(), &Options { num_partitions: 8, ..Options::default() });
    let expected = "\
HloModule sample, input_output_alias={ {0}: (0, {}, must-alias) }, \
entry_computation_layout={(f32[4]{0})->(f32[4]{0}, f32[4]{0})}, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0), sharding={manual}
  %b = f32[] parameter(1), sharding={manual}
  ROOT %add.3 = f32[] add(%a, %b), sharding={manual}
}

ENTRY %main (x: f32[4]) -> (f32[4], f32[4]) {
  %x = f32[4]{0} parameter(0), sharding={manual}
  %sum = f32[4]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, \
use_global_device_ids=true, to_apply=%add, sharding={manual}, \
metadata={op_name=\"loss/sum\" source_file=\"model.rs\" source_line=7}
  %c = f32[] constant(0.5), sharding={manual}
  %half = f32[4]{0} broadcast(%c), dimensions={}, sharding={manual}
  %scaled = f32[4]{0} multiply(%sum, %half), sharding={manual}
  ROOT %out = (f32[4]{0}, f32[4]{0}) tuple(%scaled, %x), sharding={manual}
}
";
    assert_eq!(text, expected);
}

#[test]
fn a_scheduled_module_is_printed_as_it_runs() {
    let order = |module: &HloModuleProto| -> Vec<String> {
        let text = print(module, &Options::default());
        let entry = text.split("ENTRY").nth(1).unwrap_or_default().lines().skip(1);
        entry
            .filter_map(|l| Some(l.trim().trim_start_matches("ROOT ").split_once(" =")?.0.to_owned()))
            .collect()
    };
    let mut module = module();
    let (entry, plain) = (module.entry_computation_id, order(&module));
    let computation = module.computations.iter().find(|c| c.id == entry).expect("there is an entry");
    let mut ids: Vec<i64> = computation.instructions.iter().map(|i| i.id).collect();
    ids.swap(0, 2);
    let scheduled = |module: &mut HloModuleProto, ids: &[i64]| {
        let sequence = InstructionSequence { instruction_ids: ids.to_vec() };
        module.schedule = Some(HloScheduleProto { sequences: [(entry, sequence)].into() });
    };
    scheduled(&mut module, &ids);
    let mut swapped = plain.clone();
    swapped.swap(0, 2);
    assert_eq!(order(&module), swapped);
    // Instructions that the schedule omits are printed too.
    scheduled(&mut module, &ids[1..]);
    assert_eq!(order(&module), plain);
}

/// Checks the text of the attributes of one instruction.
#[track_caller]
fn attributes_of(instruction: HloInstructionProto, expected: &str) {
    let module = HloModuleProto::default();
    let instruction = HloInstructionProto { sharding: None, ..instruction };
    assert_eq!(join(attributes::of(&instruction, &Names::of(&module))), expected);
}

#[test]
fn attributes() {
    let new = |opcode: &str| op(1, "i", opcode, array(PrimitiveType::F32, &[2]), &[]);
    let dims = |numbers: &[i64]| numbers.to_vec();
    let slice = |start, limit, stride| SliceDimensions { start, limit, stride };
    attributes_of(
        HloInstructionProto { slice_dimensions: vec![slice(0, 4, 1), slice(1, 9, 2)], ..new("slice") },
        "slice={[0:4:1], [1:9:2]}",
    );
    let pad = |low, high, interior| PaddingConfigDimension {
        edge_padding_low: low,
        edge_padding_high: high,
        interior_padding: interior,
    };
    let config = |dimensions| Some(PaddingConfig { dimensions });
    attributes_of(
        HloInstructionProto { padding_config: config(vec![pad(1, -2, 0), pad(0, 0, 3)]), ..new("pad") },
        "padding=1_-2_0x0_0_3",
    );
    let numbers = DotDimensionNumbers {
        lhs_contracting_dimensions: dims(&[2]),
        rhs_contracting_dimensions: dims(&[1]),
        lhs_batch_dimensions: dims(&[0]),
        rhs_batch_dimensions: dims(&[0]),
    };
    attributes_of(
        HloInstructionProto { dot_dimension_numbers: Some(numbers.into()), ..new("dot") },
        "lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={1}",
    );
    let window = |size, padding_low| WindowDimension {
        size,
        stride: 1,
        padding_low,
        window_dilation: 1,
        base_dilation: 1,
        ..Default::default()
    };
    let window = Window { dimensions: vec![window(1, 0), window(8, 7)] };
    attributes_of(
        HloInstructionProto { window: Some(window), ..new("reduce-window") },
        "window={size=1x8 pad=0_0x7_0}",
    );
    let iota = IotaReplicaGroupListProto {
        num_replica_groups: 4,
        num_devices_per_group: 2,
        iota_reshape_dims: dims(&[2, 4]),
        iota_transpose_perm: vec![1, 0],
    };
    attributes_of(
        HloInstructionProto { iota_collective_device_list: Some(iota), ..new("all-gather") },
        "replica_groups=[4,2]<=[2,4]T(1,0)",
    );
    attributes_of(
        HloInstructionProto {
            mesh_axes_replica_group_list: Some(MeshAxesReplicaGroupListProto {
                mesh: Some(MeshProto {
                    axes: [("a", 2), ("b", 4)].map(|(n, size)| MeshAxis { name: n.into(), size }).to_vec(),
                    iota_transform: Some(IotaTransform {
                        reshape_dims: vec![4, 2],
                        transpose_perm: vec![1, 0],
                    }),
                    ..Default::default()
                }),
                axes: vec![
                    AxisRefProto {
                        mesh_axis_index: 1,
                        sub_axis_info: Some(SubAxis { pre_size: 1, size: 2 }),
                    },
                    AxisRefProto { mesh_axis_index: 0, sub_axis_info: None },
                ],
            }),
            ..new("all-reduce")
        },
        "replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b':(1)2,'a'}",
    );
    attributes_of(
        HloInstructionProto { called_computation_ids: vec![3, 4], ..new("while") },
        "condition=%no_computation.4, body=%no_computation.3",
    );
}

#[track_caller]
fn literal_of(literal: LiteralProto, element_type: PrimitiveType, dims: &[i64], expected: &str) {
    let literal = LiteralProto { shape: Some(array(element_type, dims)), ..literal };
    assert_eq!(super::literal(&literal), expected);
}

#[test]
fn literals() {
    let s32s = LiteralProto { s32s: (0..8).collect(), ..Default::default() };
    literal_of(s32s.clone(), PrimitiveType::S32, &[8], "{0, 1, 2, 3, 4, 5, 6, 7}");
    let cube = "{ { { 0, 1 }, { 2, 3 } }, { { 4, 5 }, { 6, 7 } } }";
    literal_of(s32s.clone(), PrimitiveType::S32, &[2, 2, 2], cube);
    literal_of(s32s, PrimitiveType::S32, &[9], "/* 8 elements for a shape of 9 */");
    let pred = LiteralProto { preds: vec![true], ..Default::default() };
    literal_of(pred.clone(), PrimitiveType::Pred, &[], "true");
    literal_of(pred, PrimitiveType::Pred, &[1], "{1}");
    let none = LiteralProto::default();
    literal_of(none.clone(), PrimitiveType::F32, &[3, 0], "{  }");
    literal_of(none.clone(), PrimitiveType::F32, &[-1], "/* literal of an impossible shape */");
    let huge = &[i64::MAX, i64::MAX];
    literal_of(none.clone(), PrimitiveType::F32, huge, "/* literal of an impossible shape */");
    literal_of(none, PrimitiveType::F32, &[1 << 60], "/* 0 elements for a shape of 1152921504606846976 */");
    let bytes = LiteralProto { s8s: vec![255, 2], ..Default::default() };
    literal_of(bytes, PrimitiveType::S8, &[2], "{-1, 2}");
}

#[test]
fn numbers_read_back() {
    for (value, expected) in [
        (0.0f32, "0"),
        (-0.0, "-0.0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (0.1, "0.1"),
        (1e8, "100000000"),
        (1e9, "1e9"),
        (123456.79, "123456.79"),
        (0.00001, "0.00001"),
        (1.25e-6, "1.25e-6"),
        (f32::MAX, "3.4028235e38"),
        (f32::from_bits(1), "1e-45"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
        (f32::NAN, "nan"),
    ] {
        assert_eq!(format_f32(value), expected);
    }
    // For all finite values of the half precisions: the text parses to the same value and has minimal length.
    for bits in 0..=u16::MAX {
        let (b, f) = (bf16::from_bits(bits), f16::from_bits(bits));
        if b.is_finite() {
            let text = format_bf16(b);
            assert_eq!(bf16::from_f64(text.parse().unwrap()).to_bits(), bits, "{text}");
            assert!(significant_digits(&text) <= 4, "{text}");
        }
        if f.is_finite() {
            let text = format_f16(f);
            assert_eq!(f16::from_f64(text.parse().unwrap()).to_bits(), bits, "{text}");
            assert!(significant_digits(&text) <= 5, "{text}");
        }
    }
    assert_eq!(format_bf16(bf16::from_f32(0.1)), "0.1");
    assert_eq!(format_bf16(bf16::MAX), "3.39e38");
}

fn significant_digits(text: &str) -> usize {
    let mantissa = text.split('e').next().unwrap();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').len()
}

#[test]
fn shapes() {
    let element = array(PrimitiveType::Bf16, &[2, 3]);
    assert_eq!(shape(&element), "bf16[2,3]{1,0}");
    assert_eq!(shape_without_layout(&tuple(&[element.clone(), tuple(&[])])), "(bf16[2,3], ())");
    let mut tiled = element;
    let layout = tiled.layout.as_mut().unwrap();
    layout.tiles = vec![crate::xla::TileProto { dimensions: vec![8, 128] }];
    layout.memory_space = 1;
    assert_eq!(shape(&tiled), "bf16[2,3]{1,0:T(8,128)S(1)}");
}

/// Positions in tables are looked up.
#[test]
fn stack_frames() {
    let mut module = module();
    let frame = |file_location_id| StackFrame { file_location_id, parent_frame_id: 0 };
    let location = |file_name_id| FileLocation { file_name_id, line: 12, column: 3, ..Default::default() };
    module.stack_frame_index = Some(StackFrameIndexProto {
        file_names: vec!["a.rs".into(), "b.rs".into()],
        file_locations: vec![location(2), location(3)],
        stack_frames: vec![frame(1), frame(2), frame(-1)],
        ..Default::default()
    });
    for (id, expected) in [
        (1, r#"metadata={op_name="o" source_file="b.rs" source_line=12}"#),
        // A dangling reference in the chain.
        (2, r#"metadata={op_name="o"}"#),
        (3, r#"metadata={op_name="o"}"#),
        (9, r#"metadata={op_name="o"}"#),
    ] {
        let metadata = OpMetadata { op_name: "o".into(), stack_frame_id: id, ..Default::default() };
        module.computations[1].instructions[0].metadata = Some(metadata);
        let text = print(&module, &Options::default());
        assert!(text.contains(&format!("parameter(0), sharding={{manual}}, {expected}\n")), "{text}");
    }
}

#[test]
fn quoting() {
    assert_eq!(quoted("a\"b\\c\n'é".as_bytes()), r#""a\"b\\c\n\'\303\251""#);
    assert_eq!(dictionary_or_quoted(b"{a = 1}"), "{a = 1}");
    assert_eq!(dictionary_or_quoted(b"\xff"), "\"\\377\"");
}

/// Every module that decodes prints, even if it is malformed.
#[test]
fn damaged_modules_print() {
    use crate::Message;
    let bytes = module().encode_to_vec();
    let mut printed = 0;
    for at in 0..bytes.len() {
        for change in [1u8, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= change;
            if let Ok(module) = HloModuleProto::decode(damaged.as_slice()) {
                printed += print(&module, &Options::default()).len();
                crate::hlo_check::check(&module, 8);
            }
        }
        // Truncated bytes either fail to decode or give a module that prints.
        if let Ok(module) = HloModuleProto::decode(&bytes[..at]) {
            printed += print(&module, &Options::default()).len();
        }
    }
    assert!(printed > 0);
}

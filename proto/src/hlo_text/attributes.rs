//! Attributes of instructions, after the operands.
//!
//! The order is XLA's: attributes of the operation, called computations, sharding, hints. Default values are
//! printed only if XLA's parser requires them.

use super::sharding::{replica_groups, sharding};
use super::{Names, braced, join, quoted};
use crate::xla::precision_config::{Algorithm, Precision};
use crate::xla::{
    CustomCallApiVersion, CustomCallSchedule, HloInstructionProto, PaddingConfig, PrecisionConfig,
    PrimitiveType, RandomAlgorithm, RandomDistribution, Window,
};

/// All attributes except metadata and backend configuration.
pub(super) fn of(instruction: &HloInstructionProto, names: &Names<'_>) -> Vec<String> {
    let mut out = own(instruction);
    out.extend(called(instruction, names));
    if let Some(value) = &instruction.sharding {
        out.push(format!("sharding={}", sharding(value)));
    }
    if let Some(attributes) = instruction.frontend_attributes.as_ref().filter(|a| !a.map.is_empty()) {
        out.push(format!("frontend_attributes={}", super::frontend_attributes(attributes)));
    }
    if !instruction.control_predecessor_ids.is_empty() {
        let ids = instruction.control_predecessor_ids.iter();
        out.push(format!("control-predecessors={{{}}}", join(ids.map(|&id| names.instruction(id)))));
    }
    out
}

/// The attributes of the operation itself.
fn own(instruction: &HloInstructionProto) -> Vec<String> {
    match instruction.opcode.as_str() {
        "broadcast" | "transpose" | "reduce" | "concatenate" | "reverse" | "map" | "get-dimension-size"
        | "set-dimension-size" => vec![dimensions(instruction)],
        "sort" => sort(instruction),
        "iota" => vec![format!("iota_dimension={}", first(&instruction.dimensions))],
        "get-tuple-element" => vec![format!("index={}", instruction.tuple_index)],
        "slice" => vec![slice(instruction)],
        "dynamic-slice" => {
            vec![format!("dynamic_slice_sizes={}", braced(&instruction.dynamic_slice_sizes))]
        }
        "pad" => instruction.padding_config.iter().map(padding).collect(),
        "reduce-window" | "select-and-scatter" => instruction.window.iter().map(window).collect(),
        "dot" => dot(instruction),
        "gather" => gather(instruction),
        "scatter" => scatter(instruction),
        "compare" => compare(instruction),
        "reduce-precision" => vec![
            format!("exponent_bits={}", instruction.exponent_bits),
            format!("mantissa_bits={}", instruction.mantissa_bits),
        ],
        "rng" => vec![format!("distribution={}", distribution(instruction.distribution()))],
        "rng-bit-generator" => vec![format!("algorithm={}", algorithm(instruction.rng_algorithm()))],
        "rng-get-and-update-state" => vec![format!("delta={}", instruction.delta)],
        "topk" => vec![format!("k={}", instruction.k), format!("largest={}", instruction.largest)],
        "fusion" => vec![format!("kind={}", instruction.fusion_kind)],
        "custom-call" => custom_call(instruction),
        "all-reduce"
        | "all-reduce-start"
        | "all-gather"
        | "all-gather-start"
        | "reduce-scatter"
        | "all-to-all"
        | "collective-permute"
        | "collective-permute-start"
        | "collective-broadcast" => collective(instruction),
        _ => Vec::new(),
    }
}

/// The computations that an instruction calls, by role.
fn called(instruction: &HloInstructionProto, names: &Names<'_>) -> Vec<String> {
    let ids = &instruction.called_computation_ids;
    if ids.is_empty() {
        return Vec::new();
    }
    let name = |i: usize| ids.get(i).map(|&id| names.computation(id)).unwrap_or_default();
    let list = || join(ids.iter().map(|&id| names.computation(id)));
    match instruction.opcode.as_str() {
        "while" => vec![format!("condition={}", name(1)), format!("body={}", name(0))],
        "select-and-scatter" => vec![format!("select={}", name(0)), format!("scatter={}", name(1))],
        "conditional" if two_way(instruction, names) => {
            vec![format!("true_computation={}", name(0)), format!("false_computation={}", name(1))]
        }
        "conditional" => vec![format!("branch_computations={{{}}}", list())],
        "custom-call" => vec![format!("called_computations={{{}}}", list())],
        "fusion" | "async-start" => vec![format!("calls={}", name(0))],
        "async-update" | "async-done" => Vec::new(),
        "call" if instruction.is_composite => {
            vec![format!("to_apply={}", name(0)), "is_composite=true".to_string()]
        }
        _ => vec![format!("to_apply={}", name(0))],
    }
}

/// True if a conditional branches on a `pred`, false if on a number.
fn two_way(instruction: &HloInstructionProto, names: &Names<'_>) -> bool {
    let chooser = instruction.operand_ids.first().and_then(|id| names.instructions.get(id));
    chooser
        .and_then(|chooser| chooser.shape.as_ref())
        .is_some_and(|s| s.element_type() == PrimitiveType::Pred)
}

fn dimensions(instruction: &HloInstructionProto) -> String {
    format!("dimensions={}", braced(&instruction.dimensions))
}

fn first(dimensions: &[i64]) -> i64 {
    dimensions.first().copied().unwrap_or_default()
}

fn sort(instruction: &HloInstructionProto) -> Vec<String> {
    let mut out = vec![dimensions(instruction)];
    if instruction.is_stable {
        out.push("is_stable=true".to_string());
    }
    out
}

/// `slice={[0:2], [0:8:2]}`. If one stride is not 1, all strides are printed.
fn slice(instruction: &HloInstructionProto) -> String {
    let strided = instruction.slice_dimensions.iter().any(|d| d.stride != 1);
    let ranges = instruction.slice_dimensions.iter().map(|d| {
        let stride = if strided { format!(":{}", d.stride) } else { String::new() };
        format!("[{}:{}{stride}]", d.start, d.limit)
    });
    format!("slice={{{}}}", join(ranges))
}

/// `padding=1_2x0_0`, or with interiors `padding=1_2_0x0_0_1`.
fn padding(config: &PaddingConfig) -> String {
    let interior = config.dimensions.iter().any(|d| d.interior_padding != 0);
    let dims = config.dimensions.iter().map(|d| {
        let interior = if interior { format!("_{}", d.interior_padding) } else { String::new() };
        format!("{}_{}{interior}", d.edge_padding_low, d.edge_padding_high)
    });
    format!("padding={}", dims.collect::<Vec<_>>().join("x"))
}

/// `window={size=1x3 stride=1x2 pad=0_0x0_1}`. Default entries are omitted.
fn window(window: &Window) -> String {
    let dims = &window.dimensions;
    let each = |word: &dyn Fn(usize) -> String| (0..dims.len()).map(word).collect::<Vec<_>>().join("x");
    let mut parts = vec![format!("size={}", each(&|i| dims[i].size.to_string()))];
    if dims.iter().any(|d| d.stride != 1) {
        parts.push(format!("stride={}", each(&|i| dims[i].stride.to_string())));
    }
    if dims.iter().any(|d| d.padding_low != 0 || d.padding_high != 0) {
        parts.push(format!("pad={}", each(&|i| format!("{}_{}", dims[i].padding_low, dims[i].padding_high))));
    }
    if dims.iter().any(|d| d.base_dilation != 1) {
        parts.push(format!("lhs_dilate={}", each(&|i| dims[i].base_dilation.to_string())));
    }
    if dims.iter().any(|d| d.window_dilation != 1) {
        parts.push(format!("rhs_dilate={}", each(&|i| dims[i].window_dilation.to_string())));
    }
    if dims.iter().any(|d| d.window_reversal) {
        parts.push(format!("rhs_reversal={}", each(&|i| u8::from(dims[i].window_reversal).to_string())));
    }
    format!("window={{{}}}", parts.join(" "))
}

fn dot(instruction: &HloInstructionProto) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(numbers) = &instruction.dot_dimension_numbers {
        let lists = [
            ("lhs_batch_dims", &numbers.lhs_batch_dimensions),
            ("lhs_contracting_dims", &numbers.lhs_contracting_dimensions),
            ("rhs_batch_dims", &numbers.rhs_batch_dimensions),
            ("rhs_contracting_dims", &numbers.rhs_contracting_dimensions),
        ];
        let given = lists.into_iter().filter(|(_, dims)| !dims.is_empty());
        out.extend(given.map(|(key, dims)| format!("{key}={}", braced(dims))));
    }
    out.extend(instruction.precision_config.iter().flat_map(precision));
    out
}

fn precision(config: &PrecisionConfig) -> Vec<String> {
    let mut out = Vec::new();
    if config.operand_precision().any(|p| p != Precision::Default) {
        let words = config.operand_precision().map(|p| p.as_str_name().to_lowercase());
        out.push(format!("operand_precision={{{}}}", words.collect::<Vec<_>>().join(",")));
    }
    if config.algorithm() != Algorithm::AlgUnset {
        let name = config.algorithm().as_str_name().to_lowercase();
        out.push(format!("algorithm={}", name.trim_start_matches("alg_")));
    }
    out
}

fn gather(instruction: &HloInstructionProto) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(numbers) = &instruction.gather_dimension_numbers {
        out.push(format!("offset_dims={}", braced(&numbers.offset_dims)));
        out.push(format!("collapsed_slice_dims={}", braced(&numbers.collapsed_slice_dims)));
        out.push(format!("start_index_map={}", braced(&numbers.start_index_map)));
        if !numbers.operand_batching_dims.is_empty() {
            out.push(format!("operand_batching_dims={}", braced(&numbers.operand_batching_dims)));
            let dims = braced(&numbers.start_indices_batching_dims);
            out.push(format!("start_indices_batching_dims={dims}"));
        }
        out.push(format!("index_vector_dim={}", numbers.index_vector_dim));
    }
    out.push(format!("slice_sizes={}", braced(&instruction.gather_slice_sizes)));
    if instruction.indices_are_sorted {
        out.push("indices_are_sorted=true".to_string());
    }
    out
}

fn scatter(instruction: &HloInstructionProto) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(numbers) = &instruction.scatter_dimension_numbers {
        out.push(format!("update_window_dims={}", braced(&numbers.update_window_dims)));
        out.push(format!("inserted_window_dims={}", braced(&numbers.inserted_window_dims)));
        let dims = braced(&numbers.scatter_dims_to_operand_dims);
        out.push(format!("scatter_dims_to_operand_dims={dims}"));
        if !numbers.input_batching_dims.is_empty() {
            out.push(format!("input_batching_dims={}", braced(&numbers.input_batching_dims)));
            let dims = braced(&numbers.scatter_indices_batching_dims);
            out.push(format!("scatter_indices_batching_dims={dims}"));
        }
        out.push(format!("index_vector_dim={}", numbers.index_vector_dim));
    }
    if instruction.indices_are_sorted {
        out.push("indices_are_sorted=true".to_string());
    }
    if instruction.unique_indices {
        out.push("unique_indices=true".to_string());
    }
    out
}

/// The type of a comparison, if it is not the one that the operands imply.
fn compare(instruction: &HloInstructionProto) -> Vec<String> {
    let mut out = vec![format!("direction={}", instruction.comparison_direction)];
    if instruction.comparison_type == "TOTALORDER" {
        out.push("type=TOTALORDER".to_string());
    }
    out
}

fn distribution(distribution: RandomDistribution) -> &'static str {
    match distribution {
        RandomDistribution::RngInvalid => "rng_invalid",
        RandomDistribution::RngUniform => "rng_uniform",
        RandomDistribution::RngNormal => "rng_normal",
    }
}

fn algorithm(algorithm: RandomAlgorithm) -> &'static str {
    match algorithm {
        RandomAlgorithm::RngDefault => "rng_default",
        RandomAlgorithm::RngThreeFry => "rng_three_fry",
        RandomAlgorithm::RngPhilox => "rng_philox",
    }
}

fn custom_call(instruction: &HloInstructionProto) -> Vec<String> {
    let target = quoted(instruction.custom_call_target.as_bytes());
    let mut out = vec![format!("custom_call_target={target}")];
    if instruction.constrain_layout {
        let shapes = join(instruction.operand_shapes_with_layout.iter().map(super::shape));
        out.push(format!("operand_layout_constraints={{{shapes}}}"));
    }
    if instruction.custom_call_has_side_effect {
        out.push("custom_call_has_side_effect=true".to_string());
    }
    match instruction.custom_call_schedule() {
        CustomCallSchedule::ScheduleNone => {}
        schedule @ (CustomCallSchedule::ScheduleLatest | CustomCallSchedule::ScheduleEarliest) => {
            out.push(format!("schedule={}", schedule.as_str_name()));
        }
    }
    match instruction.custom_call_api_version() {
        CustomCallApiVersion::ApiVersionUnspecified | CustomCallApiVersion::ApiVersionOriginal => {}
        version @ (CustomCallApiVersion::ApiVersionStatusReturning
        | CustomCallApiVersion::ApiVersionStatusReturningUnified
        | CustomCallApiVersion::ApiVersionTypedFfi) => {
            out.push(format!("api_version={}", version.as_str_name()));
        }
    }
    out
}

fn collective(instruction: &HloInstructionProto) -> Vec<String> {
    let mut out = Vec::new();
    if instruction.channel_id > 0 {
        out.push(format!("channel_id={}", instruction.channel_id));
    }
    if instruction.opcode.starts_with("collective-permute") {
        let pairs = instruction.source_target_pairs.iter();
        let pairs: Vec<String> = pairs.map(|pair| format!("{{{},{}}}", pair.source, pair.target)).collect();
        out.push(format!("source_target_pairs={{{}}}", pairs.join(",")));
        return out;
    }
    let groups = replica_groups(instruction).unwrap_or_else(|| "{}".to_string());
    out.push(format!("replica_groups={groups}"));
    let global = instruction.use_global_device_ids.then(|| "use_global_device_ids=true".to_string());
    let dims = (!instruction.dimensions.is_empty()).then(|| dimensions(instruction));
    // XLA prints the dimensions of an all-gather first and those of a reduce-scatter last.
    if instruction.opcode.starts_with("all-gather") {
        out.extend(dims);
        out.extend(global);
    } else {
        out.extend(global);
        out.extend(dims);
    }
    out
}

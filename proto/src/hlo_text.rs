//! The printer of HLO modules, in XLA's syntax.
//!
//! `--dump` writes this text and golden tests compare it. XLA's parser reads it, and it contains everything
//! that our emitter writes. In an optimized module from a plugin, instructions with fields that we do not
//! declare (convolutions, host transfers) print without their attributes.
//!
//! Printing never fails: it shows a dangling id or a literal of the wrong length as such.

use std::collections::HashMap;
use std::fmt::Write;

use crate::xla::{
    FrontendAttributes, HloComputationProto, HloInstructionProto, HloModuleProto, HloScheduleProto, Kind,
    OpMetadata, ProgramShapeProto, StackFrameIndexProto,
};

mod attributes;
mod literal;
mod shape;
mod sharding;

pub use literal::{format_bf16, format_f16, format_f32, literal};
pub use shape::{dtype_name, shape, shape_without_layout};
pub use sharding::sharding;

/// Options of the printer.
#[derive(Debug, Clone)]
pub struct Options {
    /// True to print `metadata={op_name="…" source_file="…" source_line=…}`.
    pub metadata: bool,
    /// Literals with more elements print as `{...}`, which XLA reads as an arbitrary value.
    pub literal_limit: usize,
    /// A number for the first line, which the module does not contain.
    pub num_partitions: i64,
    /// A number for the first line, which the module does not contain.
    pub replica_count: i64,
}

impl Default for Options {
    fn default() -> Options {
        Options { metadata: true, literal_limit: usize::MAX, num_partitions: 1, replica_count: 1 }
    }
}

/// Returns the text of a module.
pub fn print(module: &HloModuleProto, options: &Options) -> String {
    let names = Names::of(module);
    let mut out = String::new();
    header(&mut out, module, options);
    for computation in &module.computations {
        out.push('\n');
        let entry = computation.id == module.entry_computation_id;
        print_computation(&mut out, computation, entry, &names, options);
    }
    out
}

/// Names of instructions and computations by id.
struct Names<'a> {
    instructions: HashMap<i64, &'a HloInstructionProto>,
    computations: HashMap<i64, &'a str>,
    frames: Option<&'a StackFrameIndexProto>,
    schedule: Option<&'a HloScheduleProto>,
}

impl<'a> Names<'a> {
    fn of(module: &'a HloModuleProto) -> Names<'a> {
        let computations = module.computations.iter().map(|c| (c.id, c.name.as_str())).collect();
        let instructions = module.computations.iter().flat_map(|c| &c.instructions);
        let instructions = instructions.map(|i| (i.id, i)).collect();
        Names {
            instructions,
            computations,
            frames: module.stack_frame_index.as_ref(),
            schedule: module.schedule.as_ref(),
        }
    }

    /// Returns the instructions of a computation, in the order of the module's schedule if it has one.
    fn ordered(&self, computation: &'a HloComputationProto) -> Vec<&'a HloInstructionProto> {
        let order = self.schedule.and_then(|s| s.sequences.get(&computation.id));
        let order =
            order.map(|o| o.instruction_ids.iter().filter_map(|id| self.instructions.get(id).copied()));
        // An incomplete schedule is ignored.
        let all = &computation.instructions;
        order
            .map(Iterator::collect)
            .filter(|o: &Vec<_>| o.len() == all.len())
            .unwrap_or_else(|| all.iter().collect())
    }

    fn instruction(&self, id: i64) -> String {
        match self.instructions.get(&id) {
            Some(instruction) => format!("%{}", instruction.name),
            None => format!("%no_instruction.{id}"),
        }
    }

    fn computation(&self, id: i64) -> String {
        match self.computations.get(&id) {
            Some(name) => format!("%{name}"),
            None => format!("%no_computation.{id}"),
        }
    }

    /// Returns the file and line of a stack frame. Ids count from 1.
    fn frame(&self, id: i32) -> Option<(&'a str, i32)> {
        fn at<T>(table: &[T], id: i32) -> Option<&T> {
            table.get(usize::try_from(id).ok()?.checked_sub(1)?)
        }
        let tables = self.frames?;
        let frame = at(&tables.stack_frames, id)?;
        let location = at(&tables.file_locations, frame.file_location_id)?;
        Some((at(&tables.file_names, location.file_name_id)?, location.line))
    }
}

/// The first line.
fn header(out: &mut String, module: &HloModuleProto, options: &Options) {
    let mut parts = vec![format!("HloModule {}", module.name)];
    if module.schedule.is_some() {
        parts.push("is_scheduled=true".to_string());
    }
    if let Some(alias) = module.input_output_alias.as_ref().filter(|alias| !alias.entries.is_empty()) {
        let entries = alias.entries.iter().map(|entry| {
            let kind = match entry.kind() {
                Kind::MustAlias => "must-alias",
                Kind::MayAlias | Kind::UndefinedAlias => "may-alias",
            };
            let output = braced(&entry.output_shape_index);
            let path = braced_spaced(&entry.parameter_shape_index);
            format!("{output}: ({}, {path}, {kind})", entry.parameter_number)
        });
        parts.push(format!("input_output_alias={{ {} }}", join(entries)));
    }
    if let Some(donor) = module.buffer_donor.as_ref().filter(|donor| !donor.entries.is_empty()) {
        let entries = donor.entries.iter();
        let entries = entries
            .map(|entry| format!("({}, {})", entry.parameter_number, braced(&entry.parameter_shape_index)));
        parts.push(format!("buffer_donor={{ {} }}", join(entries)));
    }
    if let Some(signature) = &module.host_program_shape {
        parts.push(format!("entry_computation_layout={{{}}}", program_shape(signature)));
    }
    if options.replica_count > 1 {
        parts.push(format!("replica_count={}", options.replica_count));
    }
    if options.num_partitions > 1 {
        parts.push(format!("num_partitions={}", options.num_partitions));
    }
    if let Some(attributes) = &module.frontend_attributes
        && !attributes.map.is_empty()
    {
        parts.push(format!("frontend_attributes={}", frontend_attributes(attributes)));
    }
    out.push_str(&parts.join(", "));
    out.push('\n');
}

/// `(f32[2]{0}, s32[])->f32[2]{0}`.
fn program_shape(signature: &ProgramShapeProto) -> String {
    let result = signature.result.as_ref().map(shape).unwrap_or_default();
    format!("({})->{result}", shape::list(&signature.parameters))
}

fn print_computation<'a>(
    out: &mut String,
    computation: &'a HloComputationProto,
    entry: bool,
    names: &Names<'a>,
    options: &Options,
) {
    let prefix = if entry { "ENTRY " } else { "" };
    let signature = signature(computation);
    let thread = match computation.execution_thread.as_str() {
        "" | "main" => String::new(),
        thread => format!(", execution_thread={}", quoted(thread.as_bytes())),
    };
    let _ = writeln!(out, "{prefix}%{}{signature} {{", computation.name);
    for instruction in names.ordered(computation) {
        let root = if instruction.id == computation.root_id { "ROOT " } else { "" };
        let _ = writeln!(out, "  {root}{}", print_instruction(instruction, names, options));
    }
    let _ = writeln!(out, "}}{thread}");
}

/// ` (x: f32[2], y: s32[]) -> f32[2]`, or the empty text if the proto has no signature.
fn signature(computation: &HloComputationProto) -> String {
    let Some(signature) = &computation.program_shape else { return String::new() };
    let parameters = signature.parameters.iter().enumerate().map(|(i, parameter)| {
        let name = signature.parameter_names.get(i).map_or("?", String::as_str);
        format!("{name}: {}", shape_without_layout(parameter))
    });
    let result = signature.result.as_ref().map(shape_without_layout).unwrap_or_default();
    format!(" ({}) -> {result}", join(parameters))
}

fn print_instruction(instruction: &HloInstructionProto, names: &Names<'_>, options: &Options) -> String {
    let result = instruction.shape.as_ref().map(shape).unwrap_or_default();
    let operands = match (instruction.opcode.as_str(), &instruction.literal) {
        ("parameter", _) => instruction.parameter_number.to_string(),
        ("constant", Some(value)) => literal::literal_within(value, options.literal_limit),
        _ => operands(&instruction.operand_ids, names),
    };
    let mut line = format!("%{} = {result} {}({operands})", instruction.name, instruction.opcode);
    for attribute in attributes::of(instruction, names) {
        line.push_str(", ");
        line.push_str(&attribute);
    }
    if let Some(metadata) = instruction.metadata.as_ref().filter(|_| options.metadata) {
        let metadata = print_metadata(metadata, names);
        if !metadata.is_empty() {
            let _ = write!(line, ", metadata={{{metadata}}}");
        }
    }
    if !instruction.backend_config.is_empty() {
        let _ = write!(line, ", backend_config={}", dictionary_or_quoted(&instruction.backend_config));
    }
    line
}

/// Operand names; every fifth one has its number in a comment.
fn operands(ids: &[i64], names: &Names<'_>) -> String {
    join(ids.iter().enumerate().map(|(i, &id)| {
        let number = if i > 0 && i % 5 == 0 { format!("/*index={i}*/") } else { String::new() };
        format!("{number}{}", names.instruction(id))
    }))
}

/// Metadata. Positions in the module's tables are looked up.
fn print_metadata(metadata: &OpMetadata, names: &Names<'_>) -> String {
    let (mut file, mut line) = (metadata.source_file.as_str(), metadata.source_line);
    if let (true, Some(frame)) = (file.is_empty(), names.frame(metadata.stack_frame_id)) {
        (file, line) = frame;
    }
    let mut parts = Vec::new();
    for (key, value) in [
        ("op_type", metadata.op_type.as_str()),
        ("op_name", metadata.op_name.as_str()),
        ("source_file", file),
    ] {
        if !value.is_empty() {
            parts.push(format!("{key}={}", quoted(value.as_bytes())));
        }
    }
    let numbers = [
        ("source_line", line),
        ("source_end_line", metadata.source_end_line),
        ("source_column", metadata.source_column),
        ("source_end_column", metadata.source_end_column),
    ];
    for (key, value) in numbers {
        if value != 0 {
            parts.push(format!("{key}={value}"));
        }
    }
    parts.join(" ")
}

fn frontend_attributes(attributes: &FrontendAttributes) -> String {
    let pairs = attributes.map.iter();
    let pairs = pairs.map(|(key, value)| format!("{key}={}", dictionary_or_quoted(value.as_bytes())));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
}

/// `{1,2}`.
fn braced(numbers: &[i64]) -> String {
    let numbers: Vec<String> = numbers.iter().map(i64::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

/// `{1, 2}`, the spelling that XLA uses for some attributes.
fn braced_spaced(numbers: &[i64]) -> String {
    format!("{{{}}}", join(numbers.iter().map(i64::to_string)))
}

/// Joins parts with `, `.
fn join(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().collect::<Vec<_>>().join(", ")
}

/// Dictionaries print verbatim, other text as a quoted string.
fn dictionary_or_quoted(text: &[u8]) -> String {
    match std::str::from_utf8(text) {
        Ok(dictionary) if dictionary.starts_with('{') && dictionary.ends_with('}') => dictionary.to_string(),
        _ => quoted(text),
    }
}

/// A quoted string with C escapes; bytes outside ASCII become octal escapes.
fn quoted(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for &byte in text {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b'"' | b'\'' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            0x20..=0x7e => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:03o}");
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;

//! Counts what an optimized program does, which is the module that a plugin's compiler made.
//!
//! Every instruction counts as often as it runs: times the trips of the loops around it; all branches of a
//! conditional count. Matmul FLOPs are two for each multiply-add of products and convolutions (TPUs turn
//! products into these). Estimated cycles are those that the TPU's compiler writes for each fusion, without
//! collectives. Wire bytes are per device, in rings. An asynchronous collective counts once, where it starts.

mod arithmetic;
mod groups;
mod timeline;

pub use timeline::StepTime;

use super::{
    collectives::Direction,
    part::{PARTS, part},
};
use compiler::{cost::target::Slice, hlo::BACKWARD};
use mesh::Mesh;
use proto::xla::{HloComputationProto, HloInstructionProto, HloModuleProto, PrimitiveType, ShapeProto};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// The work of one call of a compiled function on one device.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Optimized {
    /// FLOPs of products and convolutions.
    pub matmul_flops: u64,
    /// Cycles that the compiler estimates; 0 if it does not say.
    pub estimated_cycles: u64,
    /// Bytes that one device sends.
    pub wire_bytes: f64,
    /// The FLOPs and cycles by part of the model.
    pub parts: Vec<PartUse>,
    /// Communication by kind.
    pub kinds: Vec<KindUse>,
    /// Communication by axes of the mesh.
    pub axes: Vec<AxesUse>,
    /// All communication, sorted by bytes sent.
    pub collectives: Vec<OptimizedCollective>,
    /// The loops, in order.
    pub loops: Vec<LoopUse>,
    /// Instructions of the module, in all computations.
    pub instructions: usize,
    /// The time of a call on the slice that the module was compiled for; `None` if it is for none, or the
    /// compiler estimates no cycles.
    #[serde(default)]
    pub time: Option<StepTime>,
}

/// The work of a part of the model.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PartUse {
    /// Its name.
    pub part: String,
    /// FLOPs of its products.
    pub matmul_flops: u64,
    /// Cycles that the compiler estimates.
    pub estimated_cycles: u64,
}

/// Collectives of one kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KindUse {
    /// The name of the kind in HLO.
    pub kind: String,
    /// The number of instructions in the program.
    pub instructions: u64,
    /// The number of runs.
    pub count: u64,
    /// Bytes of the operands.
    pub bytes: u64,
    /// Bytes that one device sends.
    pub wire_bytes: f64,
}

/// Collectives over the same axes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AxesUse {
    /// Names of the axes; the number of devices if the groups are not groups of mesh axes.
    pub axes: Vec<String>,
    /// The number of runs.
    pub count: u64,
    /// Bytes that one device sends.
    pub wire_bytes: f64,
}

/// Collectives that are equal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OptimizedCollective {
    /// The name of the kind in HLO.
    pub kind: String,
    /// Names of the axes.
    pub axes: Vec<String>,
    /// The number of devices in a group.
    pub group: u64,
    /// The element types that are sent.
    pub dtype: String,
    /// Bytes of the operands of one run.
    pub bytes: u64,
    /// Bytes that one device sends in one run.
    pub wire_bytes: f64,
    /// The number of runs.
    pub count: u64,
    /// The pass it belongs to.
    #[serde(default)]
    pub direction: Direction,
    /// The scope.
    pub scope: String,
    /// `file:line` of the model.
    pub source: String,
}

/// A loop.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LoopUse {
    /// The body's name.
    pub body: String,
    /// The number of iterations of one run.
    pub trips: u64,
    /// The number of runs of the loop.
    pub count: u64,
    /// The number of loops around it.
    pub depth: usize,
}

/// Counts what `module` does. `mesh` names the groups of devices, and `slice` gives the time.
pub fn count(module: &HloModuleProto, mesh: &Mesh, slice: Option<&Slice>) -> Optimized {
    let mut walk = Walk {
        computations: module.computations.iter().map(|c| (c.id, c)).collect(),
        mesh,
        devices: mesh.devices() as u64,
        parts: vec![(0, 0); PARTS.len()],
        found: Optimized::default(),
    };
    walk.found.instructions = module.computations.iter().map(|c| c.instructions.len()).sum();
    let entry = module.computations.iter().find(|c| c.id == module.entry_computation_id);
    let entry =
        entry.or_else(|| module.computations.iter().find(|c| c.name == module.entry_computation_name));
    if let Some(entry) = entry {
        walk.computation(entry, Around { times: 1, depth: 0, fused: false });
        walk.found.time = slice.and_then(|slice| timeline::step_time(module, entry, slice));
    }
    let Walk { parts, mut found, .. } = walk;
    for (name, (matmul_flops, estimated_cycles)) in PARTS.iter().zip(parts) {
        if matmul_flops + estimated_cycles > 0 {
            found.parts.push(PartUse { part: (*name).to_owned(), matmul_flops, estimated_cycles });
        }
    }
    let sent = |c: &OptimizedCollective| c.wire_bytes * c.count as f64;
    found.collectives.sort_by(|a, b| sent(b).total_cmp(&sent(a)));
    found.kinds.sort_by(|a, b| b.wire_bytes.total_cmp(&a.wire_bytes));
    found.axes.sort_by(|a, b| b.wire_bytes.total_cmp(&a.wire_bytes));
    found
}

/// The surroundings of a computation.
#[derive(Clone, Copy)]
struct Around {
    times: u64,
    depth: usize,
    fused: bool,
}

struct Walk<'m> {
    computations: FxHashMap<i64, &'m HloComputationProto>,
    mesh: &'m Mesh,
    devices: u64,
    /// FLOPs and cycles of each of [`PARTS`].
    parts: Vec<(u64, u64)>,
    found: Optimized,
}

/// Instructions of a computation by their ids.
type ById<'m> = FxHashMap<i64, &'m HloInstructionProto>;

impl<'m> Walk<'m> {
    fn computation(&mut self, of: &'m HloComputationProto, around: Around) {
        let by_id: ById = of.instructions.iter().map(|i| (i.id, i)).collect();
        for inst in &of.instructions {
            if !around.fused
                && let Some(cycles) = number_after(&inst.backend_config, b"\"estimated_cycles\":")
            {
                let cycles = cycles.saturating_mul(around.times);
                self.found.estimated_cycles = self.found.estimated_cycles.saturating_add(cycles);
                self.part(inst).1 += cycles;
            }
            if let Some(flops) = arithmetic::flops(inst, &by_id) {
                let flops = flops.saturating_mul(around.times);
                self.found.matmul_flops = self.found.matmul_flops.saturating_add(flops);
                self.part(inst).0 += flops;
            }
            self.collective(of, inst, &by_id, around);
            self.inside(inst, around);
        }
    }

    fn part(&mut self, inst: &HloInstructionProto) -> &mut (u64, u64) {
        let name = part(scope(inst));
        let at = PARTS.iter().position(|p| *p == name).unwrap_or(PARTS.len() - 1);
        &mut self.parts[at]
    }

    /// Walks the computations that an instruction calls.
    fn inside(&mut self, inst: &'m HloInstructionProto, around: Around) {
        let called: Vec<&'m HloComputationProto> =
            inst.called_computation_ids.iter().filter_map(|id| self.computations.get(id).copied()).collect();
        match inst.opcode.as_str() {
            "while" => {
                let [body, rest @ ..] = &called[..] else { return };
                let trips = trips(inst, rest.first().copied());
                let (times, depth) = (around.times, around.depth);
                self.found.loops.push(LoopUse { body: body.name.clone(), trips, count: times, depth });
                self.computation(
                    body,
                    Around { times: times.saturating_mul(trips), depth: depth + 1, ..around },
                );
            }
            "fusion" => called.iter().for_each(|c| self.computation(c, Around { fused: true, ..around })),
            "call" | "async-start" | "conditional" => called.iter().for_each(|c| self.computation(c, around)),
            // The computations of reduce, sort, scatter and all-reduce work on single numbers.
            _ => {}
        }
    }

    fn collective(
        &mut self,
        of: &HloComputationProto,
        inst: &HloInstructionProto,
        by_id: &ById,
        around: Around,
    ) {
        let groups = groups::of(inst, self.devices);
        let Some(sent) = Sent::new(of, inst, by_id, groups.size) else { return };
        let operands = || inst.operand_ids.iter().filter_map(|id| by_id.get(id)?.shape.as_ref());
        let mut dtypes: Vec<&str> = operands().flat_map(dtypes).collect();
        dtypes.sort_unstable();
        dtypes.dedup();
        self.found.add(OptimizedCollective {
            kind: sent.kind.to_owned(),
            axes: groups.axes(self.mesh),
            group: groups.size,
            dtype: dtypes.join("+"),
            bytes: sent.bytes,
            wire_bytes: sent.wire_bytes,
            count: around.times,
            direction: direction(inst),
            scope: scope(inst).to_owned(),
            source: source(inst),
        });
    }
}

/// The bytes of one run of a collective.
struct Sent {
    /// The name of the kind in HLO.
    kind: &'static str,
    /// Bytes of the operands.
    bytes: u64,
    /// Bytes that one device sends.
    wire_bytes: f64,
}

impl Sent {
    /// The collective that `inst` is or starts, in groups of `size` devices. `None` for other instructions.
    fn new(of: &HloComputationProto, inst: &HloInstructionProto, by_id: &ById, size: u64) -> Option<Self> {
        let mut kind = kind(&inst.opcode)?;
        // A fusion of the TPU's compiler, in which the all-reduce is a reduce-scatter.
        if kind == "all-reduce" && of.name.contains("all-reduce-scatter") {
            kind = "reduce-scatter";
        }
        let operands = inst.operand_ids.iter().filter_map(|id| by_id.get(id)?.shape.as_ref());
        let bytes = operands.map(shape_bytes).sum();
        Some(Self { kind, bytes, wire_bytes: wire_bytes(kind, inst, bytes, size) })
    }
}

/// Bytes that one device sends in one run of a collective with operands of `bytes`, in a ring of `size`
/// devices.
fn wire_bytes(kind: &str, inst: &HloInstructionProto, bytes: u64, size: u64) -> f64 {
    let n = size as f64;
    let out = match (kind, inst.opcode.ends_with("-start")) {
        ("all-gather", true) => bytes * size,
        _ => inst.shape.as_ref().map_or(0, shape_bytes),
    };
    match kind {
        "all-reduce" => 2.0 * (n - 1.0) / n * bytes as f64,
        "all-gather" => (n - 1.0) / n * out as f64,
        "collective-permute" | "collective-broadcast" => bytes as f64,
        _ => (n - 1.0) / n * bytes as f64,
    }
}

impl Optimized {
    /// Adds an instruction to the totals, by kind and by axes, and to the list of collectives.
    fn add(&mut self, used: OptimizedCollective) {
        let count = used.count;
        let sent = used.wire_bytes * count as f64;
        self.wire_bytes += sent;
        let kinds = &mut self.kinds;
        let at = kinds.iter().position(|k| k.kind == used.kind).unwrap_or_else(|| {
            let kind = used.kind.clone();
            kinds.push(KindUse { kind, instructions: 0, count: 0, bytes: 0, wire_bytes: 0.0 });
            kinds.len() - 1
        });
        kinds[at].instructions += 1;
        kinds[at].count += count;
        kinds[at].bytes += used.bytes * count;
        kinds[at].wire_bytes += sent;
        let over = &mut self.axes;
        let at = over.iter().position(|k| k.axes == used.axes).unwrap_or_else(|| {
            over.push(AxesUse { axes: used.axes.clone(), count: 0, wire_bytes: 0.0 });
            over.len() - 1
        });
        over[at].count += count;
        over[at].wire_bytes += sent;
        let alike = |o: &&mut OptimizedCollective| OptimizedCollective { count, ..(**o).clone() } == used;
        match self.collectives.iter_mut().find(alike) {
            Some(other) => other.count += count,
            None => self.collectives.push(used),
        }
    }
}

/// The collective that an instruction is or starts.
fn kind(opcode: &str) -> Option<&'static str> {
    const KINDS: [&str; 7] = [
        "all-to-all",
        "ragged-all-to-all",
        "all-reduce",
        "all-gather",
        "reduce-scatter",
        "collective-permute",
        "collective-broadcast",
    ];
    let base = opcode.strip_suffix("-start").unwrap_or(opcode);
    KINDS.into_iter().find(|k| *k == base)
}

/// The number of iterations of a loop: as the compiler noted it, else the largest number that the condition
/// compares with.
fn trips(inst: &HloInstructionProto, condition: Option<&HloComputationProto>) -> u64 {
    if let Some(n) = number_after(&inst.backend_config, b"\"known_trip_count\":") {
        return n;
    }
    let constants = condition.iter().flat_map(|c| &c.instructions).filter(|i| i.opcode == "constant");
    let numbers = constants.flat_map(|i| i.literal.as_ref()).flat_map(|l| {
        let narrow = l.s32s.iter().map(|n| i64::from(*n)).chain(l.u32s.iter().map(|n| i64::from(*n)));
        narrow.chain(l.s64s.iter().copied())
    });
    numbers.max().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(1)
}

/// The number after `key` in a backend's JSON, possibly in quotes or in braces with the key `n`.
fn number_after(config: &[u8], key: &[u8]) -> Option<u64> {
    let at = config.windows(key.len()).position(|w| w == key)? + key.len();
    let rest = &config[at..];
    let from = rest.iter().position(|b| !b" \":{n".contains(b))?;
    let digits = rest[from..].iter().take_while(|b| b.is_ascii_digit());
    let text = String::from_utf8(digits.copied().collect()).ok()?;
    text.parse().ok()
}

fn scope(inst: &HloInstructionProto) -> &str {
    let path = path(inst).rsplit_once('/').map_or("", |(path, _)| path);
    match path.strip_prefix(BACKWARD) {
        Some("") => "",
        Some(rest) => rest.strip_prefix('/').unwrap_or(path),
        None => path,
    }
}

/// The pass, by the names of our scopes and those of JAX.
fn direction(inst: &HloInstructionProto) -> Direction {
    let path = path(inst);
    let ours = path.strip_prefix(BACKWARD).is_some_and(|rest| rest.starts_with('/'));
    if ours || path.contains("transpose(") { Direction::Backward } else { Direction::Forward }
}

fn path(inst: &HloInstructionProto) -> &str {
    inst.metadata.as_ref().map_or("", |m| &m.op_name)
}

fn source(inst: &HloInstructionProto) -> String {
    let Some(m) = &inst.metadata else { return String::new() };
    if m.source_line == 0 { m.source_file.clone() } else { format!("{}:{}", m.source_file, m.source_line) }
}

fn shape_bytes(shape: &ShapeProto) -> u64 {
    if !shape.tuple_shapes.is_empty() {
        return shape.tuple_shapes.iter().map(shape_bytes).sum();
    }
    (elements(shape) * bits(shape.element_type)).div_ceil(8)
}

fn elements(shape: &ShapeProto) -> u64 {
    shape.dimensions.iter().map(|n| u64::try_from(*n).unwrap_or(0)).product()
}

fn dtypes(shape: &ShapeProto) -> Vec<&'static str> {
    if !shape.tuple_shapes.is_empty() {
        return shape.tuple_shapes.iter().flat_map(dtypes).collect();
    }
    vec![match PrimitiveType::try_from(shape.element_type) {
        Ok(PrimitiveType::Bf16) => "bf16",
        Ok(PrimitiveType::F32) => "f32",
        Ok(PrimitiveType::S32) => "s32",
        Ok(PrimitiveType::U32) => "u32",
        Ok(PrimitiveType::Pred) => "pred",
        Ok(other) => other.as_str_name(),
        Err(_) => "unknown",
    }]
}

fn bits(element_type: i32) -> u64 {
    use PrimitiveType as P;
    let Ok(element_type) = P::try_from(element_type) else { return 0 };
    match element_type {
        P::Invalid | P::Tuple | P::OpaqueType | P::Token => 0,
        P::S1 | P::U1 => 1,
        P::S2 | P::U2 => 2,
        P::S4 | P::U4 | P::F4e2m1fn => 4,
        P::Pred | P::S8 | P::U8 => 8,
        P::F8e5m2
        | P::F8e4m3fn
        | P::F8e4m3b11fnuz
        | P::F8e5m2fnuz
        | P::F8e4m3fnuz
        | P::F8e4m3
        | P::F8e3m4
        | P::F8e8m0fnu => 8,
        P::S16 | P::U16 | P::F16 | P::Bf16 => 16,
        P::S32 | P::U32 | P::F32 => 32,
        P::S64 | P::U64 | P::F64 | P::C64 => 64,
        P::C128 => 128,
    }
}

#[cfg(test)]
mod tests;

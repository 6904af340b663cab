//! HLO instructions: a module under construction, with one method per opcode. It knows shapes only; named
//! dims belong to the emitter above it.
//!
//! Ids are unique in the module and count from 1. In a module for several partitions every instruction has
//! the sharding `manual`, so that XLA's partitioner has nothing to decide.

use proto::xla::{
    DotDimensionNumbers, GatherDimensionNumbers, HloComputationProto, HloInstructionProto, HloModuleProto,
    LayoutProto, LiteralProto, OpMetadata, OpSharding, PaddingConfig, PrecisionConfig, PrimitiveType,
    ProgramShapeProto, ReplicaGroup, ScatterDimensionNumbers, ShapeProto, SourceTarget, Window,
    WindowDimension, hlo_instruction_proto::SliceDimensions, op_sharding,
    padding_config::PaddingConfigDimension, precision_config::Precision,
};
use rustc_hash::{FxHashMap, FxHashSet};

/// An instruction of the module under construction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Hlo(u32);

/// A finished computation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Computation(i64);

/// The shape of an instruction's result.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Shape {
    Array(PrimitiveType, Vec<usize>),
    Tuple(Vec<Shape>),
}

impl Shape {
    /// Element type and sizes of an array.
    pub(super) fn array(&self) -> (PrimitiveType, &[usize]) {
        match self {
            Self::Array(ty, dims) => (*ty, dims),
            Self::Tuple(_) => panic!("an array shape was expected"),
        }
    }

    fn to_proto(&self) -> ShapeProto {
        match self {
            Self::Array(ty, dims) => ShapeProto {
                element_type: *ty as i32,
                dimensions: dims.iter().map(|d| *d as i64).collect(),
                layout: Some(LayoutProto {
                    minor_to_major: (0..dims.len() as i64).rev().collect(),
                    ..Default::default()
                }),
                is_dynamic_dimension: vec![false; dims.len()],
                ..Default::default()
            },
            Self::Tuple(parts) => ShapeProto {
                element_type: PrimitiveType::Tuple as i32,
                tuple_shapes: parts.iter().map(Shape::to_proto).collect(),
                ..Default::default()
            },
        }
    }

    fn manual(&self) -> OpSharding {
        let one = || OpSharding { r#type: op_sharding::Type::Manual as i32, ..Default::default() };
        match self {
            Self::Array(..) => one(),
            Self::Tuple(parts) if parts.is_empty() => one(),
            Self::Tuple(parts) => OpSharding {
                r#type: op_sharding::Type::Tuple as i32,
                tuple_shardings: parts.iter().map(Shape::manual).collect(),
                ..Default::default()
            },
        }
    }
}

/// The functions of two scalars that reductions apply.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Combine {
    Add,
    Max,
    Min,
    And,
    Or,
}

impl Combine {
    fn opcode(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Max => "maximum",
            Self::Min => "minimum",
            Self::And => "and",
            Self::Or => "or",
        }
    }
}

#[derive(Default)]
struct Open {
    name: String,
    instructions: Vec<HloInstructionProto>,
    parameters: Vec<(Shape, String)>,
    /// Constants and their broadcasts, each created once, by type, bits and sizes.
    splats: FxHashMap<(i32, u64, Vec<usize>), Hlo>,
}

/// A module under construction.
pub(super) struct Builder {
    manual: bool,
    shapes: Vec<Shape>,
    open: Vec<Open>,
    done: Vec<HloComputationProto>,
    combiners: FxHashMap<(Combine, i32), Computation>,
    channels: i64,
    dots: FxHashSet<Hlo>,
    /// Metadata of the instructions that follow.
    pub(super) metadata: OpMetadata,
}

impl Builder {
    /// A module for `partitions` devices, with its entry computation open.
    pub(super) fn new(partitions: usize) -> Self {
        Self {
            manual: partitions > 1,
            shapes: vec![Shape::Tuple(Vec::new())],
            open: vec![Open { name: "main".into(), ..Default::default() }],
            done: Vec::new(),
            combiners: FxHashMap::default(),
            channels: 0,
            dots: FxHashSet::default(),
            metadata: OpMetadata::default(),
        }
    }

    /// Ends the entry computation and the module.
    pub(super) fn finish(mut self, name: &str, root: Hlo) -> HloModuleProto {
        let entry = self.end(root);
        let last = self.done.last().expect("the entry was just ended");
        HloModuleProto {
            name: name.to_owned(),
            entry_computation_name: last.name.clone(),
            host_program_shape: last.program_shape.clone(),
            id: 1,
            entry_computation_id: entry.0,
            computations: self.done,
            ..Default::default()
        }
    }

    /// Opens a computation for the instructions that follow.
    pub(super) fn begin(&mut self, name: &str) {
        self.open.push(Open { name: name.to_owned(), ..Default::default() });
    }

    /// Closes the innermost open computation.
    pub(super) fn end(&mut self, root: Hlo) -> Computation {
        let open = self.open.pop().expect("begin comes before end");
        let id = self.done.len() as i64 + 1;
        let (parameters, parameter_names) =
            open.parameters.iter().map(|(s, n)| (s.to_proto(), n.clone())).unzip();
        self.done.push(HloComputationProto {
            name: format!("{}.{id}", open.name),
            instructions: open.instructions,
            program_shape: Some(ProgramShapeProto {
                parameters,
                result: Some(self.shape(root).to_proto()),
                parameter_names,
            }),
            id,
            root_id: i64::from(root.0),
            ..Default::default()
        });
        Computation(id)
    }

    /// The shape of an instruction.
    pub(super) fn shape(&self, x: Hlo) -> &Shape {
        &self.shapes[x.0 as usize]
    }
    /// The element type of an array.
    pub(super) fn dtype(&self, x: Hlo) -> PrimitiveType {
        self.shape(x).array().0
    }
    /// True if an instruction of the open computation is a dot.
    pub(super) fn is_dot(&self, x: Hlo) -> bool {
        self.dots.contains(&x)
    }
    /// The sizes of an array.
    pub(super) fn sizes(&self, x: Hlo) -> Vec<usize> {
        self.shape(x).array().1.to_vec()
    }

    fn push(&mut self, opcode: &str, shape: Shape, operands: &[Hlo], mut proto: HloInstructionProto) -> Hlo {
        let id = self.shapes.len();
        proto.id = id as i64;
        proto.name = format!("{opcode}.{id}");
        proto.opcode = opcode.to_owned();
        proto.shape = Some(shape.to_proto());
        proto.operand_ids = operands.iter().map(|o| i64::from(o.0)).collect();
        proto.metadata = Some(self.metadata.clone());
        if self.manual {
            proto.sharding = Some(shape.manual());
        }
        self.shapes.push(shape);
        self.open.last_mut().expect("a computation is open").instructions.push(proto);
        Hlo(u32::try_from(id).expect("a module never has 2^32 instructions"))
    }

    fn plain(&mut self, opcode: &str, shape: Shape, operands: &[Hlo]) -> Hlo {
        self.push(opcode, shape, operands, HloInstructionProto::default())
    }

    // Parameters, constants, tuples.

    /// The next parameter of the open computation.
    pub(super) fn parameter(&mut self, shape: Shape, name: &str) -> Hlo {
        let open = self.open.last_mut().expect("a computation is open");
        let parameter_number = open.parameters.len() as i64;
        open.parameters.push((shape.clone(), name.to_owned()));
        self.push("parameter", shape, &[], HloInstructionProto { parameter_number, ..Default::default() })
    }

    /// A constant. Integers are exact in `value`.
    pub(super) fn constant(&mut self, ty: PrimitiveType, value: f64) -> Hlo {
        self.splat(ty, value, &[])
    }

    /// A constant broadcast to an array.
    pub(super) fn splat(&mut self, ty: PrimitiveType, value: f64, sizes: &[usize]) -> Hlo {
        let key = (ty as i32, value.to_bits(), sizes.to_vec());
        let open = self.open.last_mut().expect("a computation is open");
        if let Some(made) = open.splats.get(&key) {
            return *made;
        }
        let made = if sizes.is_empty() {
            self.literal(ty, value)
        } else {
            let scalar = self.constant(ty, value);
            self.broadcast(scalar, sizes, &[])
        };
        self.open.last_mut().expect("a computation is open").splats.insert(key, made);
        made
    }

    fn literal(&mut self, ty: PrimitiveType, value: f64) -> Hlo {
        let shape = Shape::Array(ty, Vec::new());
        let mut literal = LiteralProto { shape: Some(shape.to_proto()), ..Default::default() };
        match ty {
            PrimitiveType::Pred => literal.preds = vec![value != 0.0],
            PrimitiveType::S32 => literal.s32s = vec![value as i32],
            PrimitiveType::U32 => literal.u32s = vec![value as u32],
            PrimitiveType::F32 => literal.f32s = vec![value as f32],
            PrimitiveType::Bf16 => literal.bf16s = half::bf16::from_f64(value).to_le_bytes().to_vec(),
            other => panic!("no constants of type {other:?} are emitted"),
        }
        self.push(
            "constant",
            shape,
            &[],
            HloInstructionProto { literal: Some(literal.into()), ..Default::default() },
        )
    }

    /// `value` with the shape and type of `like`.
    pub(super) fn splat_like(&mut self, like: Hlo, value: f64) -> Hlo {
        let sizes = self.sizes(like);
        self.splat(self.dtype(like), value, &sizes)
    }

    /// A tuple.
    pub(super) fn tuple(&mut self, parts: &[Hlo]) -> Hlo {
        let shape = Shape::Tuple(parts.iter().map(|p| self.shape(*p).clone()).collect());
        self.plain("tuple", shape, parts)
    }

    /// Part `index` of a tuple.
    pub(super) fn part(&mut self, tuple: Hlo, index: usize) -> Hlo {
        let Shape::Tuple(parts) = self.shape(tuple) else { panic!("part of an array") };
        let shape = parts[index].clone();
        let proto = HloInstructionProto { tuple_index: index as i64, ..Default::default() };
        self.push("get-tuple-element", shape, &[tuple], proto)
    }

    /// An iota along dimension `dim`.
    pub(super) fn iota(&mut self, ty: PrimitiveType, sizes: &[usize], dim: usize) -> Hlo {
        let proto = HloInstructionProto { dimensions: vec![dim as i64], ..Default::default() };
        self.push("iota", Shape::Array(ty, sizes.to_vec()), &[], proto)
    }

    // Elementwise.

    /// A unary function, by opcode.
    pub(super) fn unary(&mut self, opcode: &str, x: Hlo) -> Hlo {
        let shape = self.shape(x).clone();
        self.plain(opcode, shape, &[x])
    }
    /// Rounds to a float format with so many bits.
    pub(super) fn reduce_precision(&mut self, x: Hlo, exponent_bits: i32, mantissa_bits: i32) -> Hlo {
        let shape = self.shape(x).clone();
        let proto = HloInstructionProto { exponent_bits, mantissa_bits, ..HloInstructionProto::default() };
        self.push("reduce-precision", shape, &[x], proto)
    }
    /// True where the element is neither infinite nor NaN.
    pub(super) fn is_finite(&mut self, x: Hlo) -> Hlo {
        let shape = Shape::Array(PrimitiveType::Pred, self.sizes(x));
        self.plain("is-finite", shape, &[x])
    }
    /// A binary function, by opcode.
    pub(super) fn binary(&mut self, opcode: &str, a: Hlo, b: Hlo) -> Hlo {
        debug_assert_eq!(self.shape(a), self.shape(b), "{opcode}");
        let shape = self.shape(a).clone();
        self.plain(opcode, shape, &[a, b])
    }
    /// A comparison: `EQ`, `NE`, `LT`, `LE`, `GT` or `GE`.
    pub(super) fn compare(&mut self, direction: &str, a: Hlo, b: Hlo) -> Hlo {
        debug_assert_eq!(self.shape(a), self.shape(b), "compare");
        let comparison_type = match self.dtype(a) {
            PrimitiveType::F32 | PrimitiveType::Bf16 => "FLOAT",
            PrimitiveType::S32 => "SIGNED",
            _ => "UNSIGNED",
        };
        let shape = Shape::Array(PrimitiveType::Pred, self.sizes(a));
        let proto = HloInstructionProto {
            comparison_direction: direction.to_owned(),
            comparison_type: comparison_type.to_owned(),
            ..Default::default()
        };
        self.push("compare", shape, &[a, b], proto)
    }
    /// `a` where `p` is true, else `b`.
    pub(super) fn select(&mut self, p: Hlo, a: Hlo, b: Hlo) -> Hlo {
        debug_assert_eq!(self.shape(a), self.shape(b), "select");
        let shape = self.shape(a).clone();
        self.plain("select", shape, &[p, a, b])
    }
    /// `x` between the scalars or arrays `low` and `high`.
    pub(super) fn clamp(&mut self, low: Hlo, x: Hlo, high: Hlo) -> Hlo {
        let shape = self.shape(x).clone();
        self.plain("clamp", shape, &[low, x, high])
    }
    /// Converts to another element type; `x` itself if it has that type.
    pub(super) fn convert(&mut self, x: Hlo, ty: PrimitiveType) -> Hlo {
        if self.dtype(x) == ty {
            return x;
        }
        let shape = Shape::Array(ty, self.sizes(x));
        self.plain("convert", shape, &[x])
    }

    // Movement.

    /// Repeats `x` to `sizes`; dimension i of `x` becomes `dims[i]` (ascending).
    pub(super) fn broadcast(&mut self, x: Hlo, sizes: &[usize], dims: &[usize]) -> Hlo {
        debug_assert!(dims.is_sorted(), "broadcast dimensions rise");
        let proto = HloInstructionProto {
            dimensions: dims.iter().map(|d| *d as i64).collect(),
            ..Default::default()
        };
        let shape = Shape::Array(self.dtype(x), sizes.to_vec());
        self.push("broadcast", shape, &[x], proto)
    }
    /// Dimension `permutation[i]` of `x` becomes dimension i.
    pub(super) fn transpose(&mut self, x: Hlo, permutation: &[usize]) -> Hlo {
        if permutation.is_sorted() {
            return x;
        }
        let old = self.sizes(x);
        let shape = Shape::Array(self.dtype(x), permutation.iter().map(|p| old[*p]).collect());
        let dimensions = permutation.iter().map(|d| *d as i64).collect();
        self.push("transpose", shape, &[x], HloInstructionProto { dimensions, ..Default::default() })
    }
    /// The same elements in row-major order under other sizes.
    pub(super) fn reshape(&mut self, x: Hlo, sizes: &[usize]) -> Hlo {
        if self.shape(x).array().1 == sizes {
            return x;
        }
        let shape = Shape::Array(self.dtype(x), sizes.to_vec());
        self.plain("reshape", shape, &[x])
    }
    /// Elements `start..limit` by `stride` of dimension `dim`.
    pub(super) fn slice(&mut self, x: Hlo, dim: usize, start: usize, limit: usize, stride: usize) -> Hlo {
        let mut sizes = self.sizes(x);
        if start == 0 && limit == sizes[dim] && stride == 1 {
            return x;
        }
        let part = |i: usize, n: usize| {
            if i == dim {
                SliceDimensions { start: start as i64, limit: limit as i64, stride: stride as i64 }
            } else {
                SliceDimensions { start: 0, limit: n as i64, stride: 1 }
            }
        };
        let slice_dimensions = sizes.iter().enumerate().map(|(i, n)| part(i, *n)).collect();
        sizes[dim] = (limit - start).div_ceil(stride);
        let shape = Shape::Array(self.dtype(x), sizes);
        self.push("slice", shape, &[x], HloInstructionProto { slice_dimensions, ..Default::default() })
    }
    /// `low` and `high` elements of the scalar `value` around dimension `dim`.
    pub(super) fn pad(&mut self, x: Hlo, value: Hlo, dim: usize, low: usize, high: usize) -> Hlo {
        let mut sizes = self.sizes(x);
        let (edge_padding_low, edge_padding_high) = (low as i64, high as i64);
        let padded = PaddingConfigDimension { edge_padding_low, edge_padding_high, interior_padding: 0 };
        let part = |i: usize| if i == dim { padded } else { PaddingConfigDimension::default() };
        let config = PaddingConfig { dimensions: (0..sizes.len()).map(part).collect() };
        sizes[dim] += low + high;
        let shape = Shape::Array(self.dtype(x), sizes);
        let proto = HloInstructionProto { padding_config: Some(config), ..Default::default() };
        self.push("pad", shape, &[x, value], proto)
    }
    /// Concatenation along dimension `dim`.
    pub(super) fn concatenate(&mut self, parts: &[Hlo], dim: usize) -> Hlo {
        if let [one] = parts {
            return *one;
        }
        let mut sizes = self.sizes(parts[0]);
        sizes[dim] = parts.iter().map(|p| self.shape(*p).array().1[dim]).sum();
        let shape = Shape::Array(self.dtype(parts[0]), sizes);
        let proto = HloInstructionProto { dimensions: vec![dim as i64], ..Default::default() };
        self.push("concatenate", shape, parts, proto)
    }
    /// A slice of `sizes` at `starts`, one scalar for each dimension.
    pub(super) fn dynamic_slice(&mut self, x: Hlo, starts: &[Hlo], sizes: &[usize]) -> Hlo {
        let shape = Shape::Array(self.dtype(x), sizes.to_vec());
        let proto = HloInstructionProto {
            dynamic_slice_sizes: sizes.iter().map(|s| *s as i64).collect(),
            ..Default::default()
        };
        let operands: Vec<Hlo> = [x].into_iter().chain(starts.iter().copied()).collect();
        self.push("dynamic-slice", shape, &operands, proto)
    }
    /// `x` with `update` written over it at `starts`.
    pub(super) fn dynamic_update_slice(&mut self, x: Hlo, update: Hlo, starts: &[Hlo]) -> Hlo {
        let shape = self.shape(x).clone();
        let operands: Vec<Hlo> = [x, update].into_iter().chain(starts.iter().copied()).collect();
        self.plain("dynamic-update-slice", shape, &operands)
    }
    /// Rows of `x` (`[rows, width]`) at the indices `[n]`: `[n, width]`.
    pub(super) fn gather_rows(&mut self, x: Hlo, index: Hlo) -> Hlo {
        let (width, count) = (self.sizes(x)[1], self.sizes(index)[0]);
        let numbers = GatherDimensionNumbers {
            offset_dims: vec![1],
            collapsed_slice_dims: vec![0],
            start_index_map: vec![0],
            index_vector_dim: 1,
            ..Default::default()
        };
        let proto = HloInstructionProto {
            gather_dimension_numbers: Some(numbers.into()),
            gather_slice_sizes: vec![1, width as i64],
            ..Default::default()
        };
        let shape = Shape::Array(self.dtype(x), vec![count, width]);
        self.push("gather", shape, &[x, index], proto)
    }
    /// `x` (`[rows, width]`) with rows of `updates` (`[n, width]`) combined with those at the indices `[n]`;
    /// an index outside is dropped.
    pub(super) fn scatter_rows(&mut self, combine: Combine, x: Hlo, index: Hlo, updates: Hlo) -> Hlo {
        let combine = self.combiner(combine, self.dtype(x));
        let numbers = ScatterDimensionNumbers {
            update_window_dims: vec![1],
            inserted_window_dims: vec![0],
            scatter_dims_to_operand_dims: vec![0],
            index_vector_dim: 1,
            ..Default::default()
        };
        let proto = HloInstructionProto {
            scatter_dimension_numbers: Some(numbers.into()),
            called_computation_ids: vec![combine.0],
            ..Default::default()
        };
        let shape = self.shape(x).clone();
        self.push("scatter", shape, &[x, index, updates], proto)
    }

    // Arithmetic over dimensions.

    /// Products of `a` and `b`, summed over the contracting dimensions. The result has the batch dimensions,
    /// then the other dimensions of `a`, then those of `b`.
    pub(super) fn dot(&mut self, a: Hlo, b: Hlo, numbers: DotDimensionNumbers, ty: PrimitiveType) -> Hlo {
        let free = |sizes: &[usize], batch: &[i64], gone: &[i64]| -> Vec<usize> {
            let kept =
                (0..sizes.len()).filter(|i| !batch.contains(&(*i as i64)) && !gone.contains(&(*i as i64)));
            kept.map(|i| sizes[i]).collect()
        };
        let (sa, sb) = (self.sizes(a), self.sizes(b));
        let mut sizes: Vec<usize> = numbers.lhs_batch_dimensions.iter().map(|d| sa[*d as usize]).collect();
        sizes.extend(free(&sa, &numbers.lhs_batch_dimensions, &numbers.lhs_contracting_dimensions));
        sizes.extend(free(&sb, &numbers.rhs_batch_dimensions, &numbers.rhs_contracting_dimensions));
        // A float32 product computes in float32: accelerators round operands to less by default.
        let precision = match self.dtype(a) {
            PrimitiveType::F32 => Precision::Highest,
            _ => Precision::Default,
        };
        let config = PrecisionConfig { operand_precision: vec![precision as i32; 2], ..Default::default() };
        let proto = HloInstructionProto {
            dot_dimension_numbers: Some(numbers.into()),
            precision_config: Some(config),
            ..Default::default()
        };
        let dot = self.push("dot", Shape::Array(ty, sizes), &[a, b], proto);
        self.dots.insert(dot);
        dot
    }

    /// Reduces `x` over dimensions, starting from the scalar `init`.
    pub(super) fn reduce(&mut self, combine: Combine, x: Hlo, init: f64, dims: &[usize]) -> Hlo {
        if dims.is_empty() {
            return x;
        }
        let ty = self.dtype(x);
        let init = self.constant(ty, init);
        let to_apply = self.combiner(combine, ty);
        let sizes = self.sizes(x);
        let kept = (0..sizes.len()).filter(|i| !dims.contains(i)).map(|i| sizes[i]).collect();
        let proto = HloInstructionProto {
            dimensions: dims.iter().map(|d| *d as i64).collect(),
            called_computation_ids: vec![to_apply.0],
            ..Default::default()
        };
        self.push("reduce", Shape::Array(ty, kept), &[x, init], proto)
    }

    /// Sums of `x` along `dim` up to each element, or from each element on if `back`.
    pub(super) fn running_sum(&mut self, x: Hlo, dim: usize, back: bool) -> Hlo {
        let (ty, sizes) = (self.dtype(x), self.sizes(x));
        let init = self.constant(ty, 0.0);
        let to_apply = self.combiner(Combine::Add, ty);
        let of = |i: usize| {
            let size = if i == dim { sizes[i] as i64 } else { 1 };
            let (padding_low, padding_high) = if back { (0, size - 1) } else { (size - 1, 0) };
            WindowDimension {
                size,
                stride: 1,
                padding_low,
                padding_high,
                window_dilation: 1,
                base_dilation: 1,
                window_reversal: false,
            }
        };
        let proto = HloInstructionProto {
            window: Some(Window { dimensions: (0..sizes.len()).map(of).collect() }),
            called_computation_ids: vec![to_apply.0],
            ..Default::default()
        };
        self.push("reduce-window", Shape::Array(ty, sizes.clone()), &[x, init], proto)
    }

    /// Sorts all operands along `dim` by the first. The sort is stable.
    pub(super) fn sort(&mut self, operands: &[Hlo], dim: usize, descending: bool) -> Hlo {
        self.begin("order");
        let metadata = std::mem::take(&mut self.metadata);
        let mut first = Vec::new();
        for (i, x) in operands.iter().enumerate() {
            for side in ["a", "b"] {
                let p = self.parameter(Shape::Array(self.dtype(*x), Vec::new()), &format!("{side}{i}"));
                if i == 0 {
                    first.push(p);
                }
            }
        }
        let root = self.compare(if descending { "GT" } else { "LT" }, first[0], first[1]);
        let comparator = self.end(root);
        self.metadata = metadata;
        let shape = match operands {
            [one] => self.shape(*one).clone(),
            _ => Shape::Tuple(operands.iter().map(|o| self.shape(*o).clone()).collect()),
        };
        let proto = HloInstructionProto {
            dimensions: vec![dim as i64],
            called_computation_ids: vec![comparator.0],
            is_stable: true,
            ..Default::default()
        };
        self.push("sort", shape, operands, proto)
    }

    /// The computation that a reduction applies to two scalars, created once per kind and type.
    fn combiner(&mut self, combine: Combine, ty: PrimitiveType) -> Computation {
        if let Some(done) = self.combiners.get(&(combine, ty as i32)) {
            return *done;
        }
        let metadata = std::mem::take(&mut self.metadata);
        self.begin(combine.opcode());
        let a = self.parameter(Shape::Array(ty, Vec::new()), "a");
        let b = self.parameter(Shape::Array(ty, Vec::new()), "b");
        let root = self.binary(combine.opcode(), a, b);
        let done = self.end(root);
        self.metadata = metadata;
        self.combiners.insert((combine, ty as i32), done);
        done
    }

    // Control.

    /// `body` applied to `init` while `condition` holds.
    pub(super) fn while_loop(&mut self, condition: Computation, body: Computation, init: Hlo) -> Hlo {
        let shape = self.shape(init).clone();
        let proto =
            HloInstructionProto { called_computation_ids: vec![body.0, condition.0], ..Default::default() };
        self.push("while", shape, &[init], proto)
    }

    /// The tuple `x`, whose parts the compiler of the plugin takes for other values than those of `x`.
    pub(super) fn barrier(&mut self, x: Hlo) -> Hlo {
        let shape = self.shape(x).clone();
        self.plain("opt-barrier", shape, &[x])
    }

    /// `then(x)` if the `pred` holds, else `otherwise(x)`.
    pub(super) fn conditional(&mut self, p: Hlo, x: Hlo, branches: [Computation; 2], shape: Shape) -> Hlo {
        let proto = HloInstructionProto {
            called_computation_ids: branches.iter().map(|c| c.0).collect(),
            ..Default::default()
        };
        self.push("conditional", shape, &[p, x, x], proto)
    }

    // Communication.

    /// The id of this device.
    pub(super) fn partition_id(&mut self) -> Hlo {
        self.plain("partition-id", Shape::Array(PrimitiveType::U32, Vec::new()), &[])
    }

    fn channel(&mut self, groups: &[Vec<usize>]) -> HloInstructionProto {
        self.channels += 1;
        let group = |g: &Vec<usize>| ReplicaGroup { replica_ids: g.iter().map(|d| *d as i64).collect() };
        HloInstructionProto {
            channel_id: self.channels,
            use_global_device_ids: true,
            replica_groups: groups.iter().map(group).collect(),
            ..Default::default()
        }
    }

    /// Reduces across the devices of each group.
    pub(super) fn all_reduce(&mut self, combine: Combine, x: Hlo, groups: &[Vec<usize>]) -> Hlo {
        let to_apply = self.combiner(combine, self.dtype(x));
        let proto = HloInstructionProto { called_computation_ids: vec![to_apply.0], ..self.channel(groups) };
        let shape = self.shape(x).clone();
        self.push("all-reduce", shape, &[x], proto)
    }
    /// Concatenates the shards of each group along `dim`.
    pub(super) fn all_gather(&mut self, x: Hlo, dim: usize, groups: &[Vec<usize>]) -> Hlo {
        let mut sizes = self.sizes(x);
        sizes[dim] *= groups[0].len();
        let proto = HloInstructionProto { dimensions: vec![dim as i64], ..self.channel(groups) };
        let shape = Shape::Array(self.dtype(x), sizes);
        self.push("all-gather", shape, &[x], proto)
    }
    /// Sums across each group; each device gets its shard along `dim`.
    pub(super) fn reduce_scatter(&mut self, x: Hlo, dim: usize, groups: &[Vec<usize>]) -> Hlo {
        let to_apply = self.combiner(Combine::Add, self.dtype(x));
        let mut sizes = self.sizes(x);
        sizes[dim] /= groups[0].len();
        let proto = HloInstructionProto {
            dimensions: vec![dim as i64],
            called_computation_ids: vec![to_apply.0],
            ..self.channel(groups)
        };
        let shape = Shape::Array(self.dtype(x), sizes);
        self.push("reduce-scatter", shape, &[x], proto)
    }
    /// Sends `x` from the first device of each pair to the second. Devices that receive none get zeros.
    pub(super) fn collective_permute(&mut self, x: Hlo, pairs: &[(usize, usize)]) -> Hlo {
        self.channels += 1;
        let pair = |(source, target): &(usize, usize)| SourceTarget {
            source: *source as i64,
            target: *target as i64,
        };
        let proto = HloInstructionProto {
            channel_id: self.channels,
            source_target_pairs: pairs.iter().map(pair).collect(),
            ..Default::default()
        };
        let shape = self.shape(x).clone();
        self.push("collective-permute", shape, &[x], proto)
    }
    /// Element i along `dim`, whose size is the group's, is sent to device i of the group; the element that
    /// device j sent arrives at position j.
    pub(super) fn all_to_all(&mut self, x: Hlo, dim: usize, groups: &[Vec<usize>]) -> Hlo {
        let proto = HloInstructionProto { dimensions: vec![dim as i64], ..self.channel(groups) };
        // Without global ids: groups of an all-to-all are partition numbers already.
        let proto = HloInstructionProto { use_global_device_ids: false, ..proto };
        let shape = self.shape(x).clone();
        self.push("all-to-all", shape, &[x], proto)
    }
}

//! Emits HLO from a Local module: one SPMD module per function.
//!
//! Here, and only here, dims get an order in memory. Every value keeps the order that is natural to its
//! producer (a dot produces batch, left, right), and a consumer requests another only if it must. At the
//! boundary of a function the order is that of the type.
//!
//! Parameters of the entry computation are the state that the function uses, in order of declaration, then
//! its inputs. The result is a tuple of the state that it writes, in order of declaration, then its outputs.
//! State that is read and written is donated: input and output alias.

mod builder;
mod collective;
mod contract;
mod control;
mod elementwise;
mod index;
mod random;
mod reduce;
mod shape;
mod state;

use builder::{Builder, Combine, Computation, Hlo, Shape};
use mesh::{
    AxisId, Body, DType, Diagnostic, Env, Inst, Mesh, Module, Name, Op, StateId, Type, Value, ir::Phase,
    schedule::Products,
};
use proto::xla::{HloModuleProto, OpMetadata, PrimitiveType};
use rustc_hash::FxHashMap;

pub use state::{Emitted, Port, PortKind};

/// Kinds of machine for which programs are written differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Platform {
    /// XLA's CPU backend is fast for one arrangement of a product's operands only.
    Cpu {
        /// True if the processor has no units for bf16 products, or XLA does not use them.
        lacks_bf16: bool,
    },
    /// GPUs and TPUs, whose compilers choose layouts themselves.
    Accelerator,
}

impl Platform {
    /// The platform of a target such as `cpu`, `gpu` or `tpu:v5e:2x4`. `lacks_bf16` is a fact of the
    /// processor for the target `cpu`.
    pub fn of_target(target: &str, lacks_bf16: bool) -> Self {
        if target == "cpu" { Self::Cpu { lacks_bf16 } } else { Self::Accelerator }
    }

    fn is_cpu(self) -> bool {
        match self {
            Self::Cpu { .. } => true,
            Self::Accelerator => false,
        }
    }

    /// True if matrices of bf16 values are multiplied in f32.
    fn widens(self, products: Products) -> bool {
        match (self, products) {
            (Self::Cpu { lacks_bf16 }, Products::Auto) => lacks_bf16,
            (Self::Cpu { .. }, Products::F32) => true,
            (Self::Cpu { .. }, Products::Bf16)
            | (Self::Accelerator, Products::Auto | Products::F32 | Products::Bf16) => false,
        }
    }
}

/// Emits `function` of a verified Local module.
pub fn emit(local: &Module, function: &str, platform: Platform) -> Result<Emitted, Diagnostic> {
    state::emit(local, local.require_function(function)?, platform)
}

/// A value in HLO: the instruction, and the order of its dims in memory.
#[derive(Clone, Debug)]
struct Tensor {
    hlo: Hlo,
    order: Vec<Name>,
    /// For a bf16 value that was computed in float32, its value before rounding. An elementwise operation
    /// that is its only user continues from there: a chain of elementwise operations rounds once, at its end.
    wide: Option<Hlo>,
}

impl Tensor {
    fn new(hlo: Hlo, order: Vec<Name>) -> Self {
        Self { hlo, order, wide: None }
    }
    fn scalar(hlo: Hlo) -> Self {
        Self::new(hlo, Vec::new())
    }
    /// Another instruction with the same dims in the same order.
    fn with(&self, hlo: Hlo) -> Self {
        Self::new(hlo, self.order.clone())
    }
    fn position(&self, name: &str) -> usize {
        self.order.iter().position(|n| *n == *name).expect("the verifier checked the dim")
    }
}

struct Emitter<'m> {
    env: &'m Env,
    platform: Platform,
    b: Builder,
    /// The state at entry that the function uses.
    states: FxHashMap<StateId, Tensor>,
    /// The state written so far.
    written: FxHashMap<StateId, Tensor>,
    /// The number of stacks that loops fill, so far.
    stacks: u32,
    /// Values gathered with small dims merged, by the same values with separate dims.
    merged: FxHashMap<Hlo, Hlo>,
    /// Sums of a few rows at their indices in a matrix that is 0 elsewhere, by their values.
    few_rows: FxHashMap<Hlo, Rows>,
    /// True if parameters are cast slice by slice instead of before the loop.
    casts_slices: bool,
    /// True if matrices of bf16 values are multiplied in f32.
    widens_products: bool,
}

/// Rows that are added to a matrix at their indices.
#[derive(Clone, Copy, Debug)]
struct Rows {
    index: Hlo,
    updates: Hlo,
    /// The sizes of the matrix.
    matrix: [usize; 2],
}

fn primitive(dtype: DType) -> PrimitiveType {
    match dtype {
        DType::Pred => PrimitiveType::Pred,
        DType::S32 => PrimitiveType::S32,
        DType::U32 => PrimitiveType::U32,
        DType::Bf16 => PrimitiveType::Bf16,
        DType::F32 => PrimitiveType::F32,
    }
}

/// Values of one body, by id.
type Values = Vec<Option<Tensor>>;

impl<'m> Emitter<'m> {
    fn mesh(&self) -> &'m Mesh {
        &self.env.mesh
    }

    /// Emits the instructions of `body` for given parameters; returns its results.
    fn body(&mut self, body: &'m Body, params: Vec<Tensor>) -> Vec<Tensor> {
        let mut values: Values = vec![None; body.values.len()];
        for (value, tensor) in body.params.iter().zip(params) {
            values[value.0 as usize] = Some(tensor);
        }
        let uses = uses(body);
        for inst in &body.insts {
            self.b.metadata = metadata(inst);
            let arg = |v: &Value| {
                let tensor = get(&values, *v);
                let wide = tensor.wide.filter(|_| uses[v.0 as usize] == 1);
                Tensor { wide, ..tensor }
            };
            let args: Vec<Tensor> = inst.args.iter().map(arg).collect();
            let results = self.inst(body, inst, args);
            for (value, tensor) in inst.results.iter().zip(results) {
                debug_assert_eq!(
                    self.b.sizes(tensor.hlo),
                    self.local_sizes(body.ty(*value), &tensor.order),
                    "{:?}",
                    inst.op
                );
                values[value.0 as usize] = Some(tensor);
            }
        }
        body.results.iter().map(|v| get(&values, *v)).collect()
    }

    fn inst(&mut self, body: &'m Body, inst: &'m Inst, args: Vec<Tensor>) -> Vec<Tensor> {
        let arg_types: Vec<&Type> = inst.args.iter().map(|v| body.ty(*v)).collect();
        let result = || body.ty(inst.results[0]);
        match &inst.op {
            Op::Elementwise(op) => vec![self.elementwise(op, &args)],
            Op::Contract(op) => vec![self.contract(op, &args)],
            Op::Reduce(op) => vec![self.reduce(op, &args[0], arg_types[0])],
            Op::Shape(op) => vec![self.shape_op(op, &args, result())],
            Op::Index(op) => self.index(op, &args, &arg_types),
            Op::Random(op) => vec![self.random(op, &args)],
            Op::State(op) => self.state(op, args),
            Op::Control(op) => self.control(op, args),
            Op::Collective(op) => vec![self.collective(op, &args[0], arg_types[0])],
        }
    }

    // Orders of dims.

    /// Local sizes of a type's dims in the given order.
    fn local_sizes(&self, ty: &Type, order: &[Name]) -> Vec<usize> {
        let size = |n: &Name| {
            let d = ty.dim(n).expect("orders name the dims of the type");
            d.dim.size / self.mesh().product(&d.axes)
        };
        order.iter().map(size).collect()
    }

    /// `x` with its dims in `order`, which has the same names.
    fn ordered(&mut self, x: &Tensor, order: &[Name]) -> Hlo {
        let permutation: Vec<usize> = order.iter().map(|n| x.position(n)).collect();
        if self.platform.is_cpu() && self.b.is_dot(x.hlo) {
            return self.turned(x.hlo, &permutation);
        }
        self.b.transpose(x.hlo, &permutation)
    }

    /// A transpose that XLA's CPU backend does not fold into the adjacent product, which would move the
    /// product to a slow arrangement: one dimension is moved in two parts.
    fn turned(&mut self, x: Hlo, permutation: &[usize]) -> Hlo {
        let sizes = self.b.sizes(x);
        if permutation.is_sorted() {
            return x;
        }
        let cut = |i: &usize| factor(sizes[*i]).map(|f| (*i, f));
        // Prefers to split a dimension that moves; takes the first that can be split.
        let moved = (0..sizes.len()).filter(|i| permutation[*i] != *i);
        let Some((at, part)) = moved.chain(0..sizes.len()).find_map(|i| cut(&i)) else {
            return self.b.transpose(x, permutation);
        };
        let mut split = sizes.clone();
        split.splice(at..=at, [part, sizes[at] / part]);
        let split = self.b.reshape(x, &split);
        let new = |p: usize| if p > at { p + 1 } else { p };
        let parts = permutation.iter().flat_map(|p| if *p == at { vec![at, at + 1] } else { vec![new(*p)] });
        let turned = self.b.transpose(split, &parts.collect::<Vec<_>>());
        self.b.reshape(turned, &permutation.iter().map(|p| sizes[*p]).collect::<Vec<_>>())
    }

    /// `x` broadcast by name to `order` with `sizes`.
    fn expanded(&mut self, x: &Tensor, order: &[Name], sizes: &[usize]) -> Hlo {
        let kept: Vec<Name> = order.iter().filter(|n| x.order.contains(n)).cloned().collect();
        let hlo = self.ordered(x, &kept);
        if kept.len() == order.len() {
            return hlo;
        }
        let dims: Vec<usize> = kept.iter().map(|n| position(order, n)).collect();
        self.b.broadcast(hlo, sizes, &dims)
    }

    /// Broadcasts all of `xs` by name to one order: the dims of the largest, preceded by those it lacks.
    fn common(&mut self, xs: &[Tensor]) -> (Vec<Hlo>, Vec<Name>) {
        let elements = |e: &Self, x: &Tensor| e.b.sizes(x.hlo).iter().product::<usize>();
        let mut largest = &xs[0];
        for x in &xs[1..] {
            if elements(self, x) > elements(self, largest) {
                largest = x;
            }
        }
        let mut order = largest.order.clone();
        let mut sizes = self.b.sizes(largest.hlo);
        for x in xs {
            let missing: Vec<usize> = (0..x.order.len()).filter(|i| !order.contains(&x.order[*i])).collect();
            // Dims that the largest lacks come first, so that its own stay contiguous.
            let all = self.b.sizes(x.hlo);
            for (place, i) in missing.into_iter().enumerate() {
                order.insert(place, x.order[i].clone());
                sizes.insert(place, all[i]);
            }
        }
        (xs.iter().map(|x| self.expanded(x, &order, &sizes)).collect(), order)
    }

    // Positions on the mesh.

    /// This device's position along `axes` (major first), as an `s32`.
    fn index_along(&mut self, axes: &[AxisId]) -> Hlo {
        let id = self.b.partition_id();
        let id = self.b.convert(id, PrimitiveType::S32);
        let mut sum: Option<Hlo> = None;
        let mut weight = self.mesh().product(axes);
        for axis in axes {
            let size = self.mesh().size(*axis);
            weight /= size;
            let stride: usize = self.mesh().axes()[axis.0 as usize + 1..].iter().map(|a| a.size).product();
            let stride = self.b.constant(PrimitiveType::S32, stride as f64);
            let size = self.b.constant(PrimitiveType::S32, size as f64);
            let weight = self.b.constant(PrimitiveType::S32, weight as f64);
            let coord = self.b.binary("divide", id, stride);
            let coord = self.b.binary("remainder", coord, size);
            let term = self.b.binary("multiply", coord, weight);
            sum = Some(match sum {
                Some(sum) => self.b.binary("add", sum, term),
                None => term,
            });
        }
        sum.unwrap_or_else(|| self.b.constant(PrimitiveType::S32, 0.0))
    }

    /// The start of this device's shard of a dim with `local` elements, split over `axes`; `None` if it is 0
    /// on all devices.
    fn shard_offset(&mut self, axes: &[AxisId], local: usize) -> Option<Hlo> {
        if self.mesh().product(axes) == 1 {
            return None;
        }
        let index = self.index_along(axes);
        let local = self.b.constant(PrimitiveType::S32, local as f64);
        Some(self.b.binary("multiply", index, local))
    }

    /// Logical positions along a dim split over `axes`: `local` numbers of an integer type.
    fn positions(&mut self, axes: &[AxisId], local: usize, ty: PrimitiveType) -> Hlo {
        let iota = self.b.iota(ty, &[local], 0);
        match self.shard_offset(axes, local) {
            None => iota,
            Some(offset) => {
                let offset = self.b.convert(offset, ty);
                let offset = self.b.broadcast(offset, &[local], &[]);
                self.b.binary("add", iota, offset)
            }
        }
    }
}

/// The number of uses of each value.
fn uses(body: &Body) -> Vec<usize> {
    let mut uses = vec![0; body.values.len()];
    let args = body.insts.iter().flat_map(|inst| &inst.args);
    args.chain(&body.results).for_each(|v| uses[v.0 as usize] += 1);
    uses
}

fn get(values: &Values, value: Value) -> Tensor {
    values[value.0 as usize].clone().expect("the verifier checked that values are defined before use")
}

/// The largest factor of `n` up to its square root, if there is one above 1.
fn factor(n: usize) -> Option<usize> {
    (2..=n.isqrt()).rev().find(|f| n.is_multiple_of(*f))
}

fn position(order: &[Name], name: &Name) -> usize {
    order.iter().position(|n| n == name).expect("the name was taken from this order")
}

/// The prefix of scopes of instructions that autodiff added.
pub const BACKWARD: &str = "backward";

fn metadata(inst: &Inst) -> OpMetadata {
    let op = family(&inst.op);
    let phase = match inst.site.phase {
        Phase::Forward => None,
        Phase::Backward => Some(BACKWARD),
    };
    let scope = Some(&*inst.site.scope).filter(|scope| !scope.is_empty());
    let path: Vec<&str> = phase.into_iter().chain(scope).chain([op]).collect();
    OpMetadata {
        op_type: op.to_owned(),
        op_name: path.join("/"),
        source_file: inst.site.file.to_string(),
        source_line: inst.site.line as i32,
        ..Default::default()
    }
}

/// The word for an operation in metadata.
fn family(op: &Op) -> &'static str {
    match op {
        Op::Elementwise(_) => "elementwise",
        Op::Contract(_) => "einsum",
        Op::Reduce(_) => "reduce",
        Op::Shape(_) => "shape",
        Op::Index(_) => "index",
        Op::Random(_) => "random",
        Op::State(_) => "state",
        Op::Control(_) => "control",
        Op::Collective(_) => "collective",
    }
}

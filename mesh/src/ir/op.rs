//! The operations, one enum per family. These enums are closed: every stage matches every variant, so
//! that a new operation makes the compiler write the task list.
//!
//! The documentation of a variant gives its operands in order and its result. Dims are meant by name;
//! binary operations broadcast by name (the result has the dims of both). What holds for shards and
//! pending sums in Local modules stands in `docs/ir.md` and is checked in [`crate::infer`].

use super::{Body, StateId};
use crate::{AxisId, AxisSet, DType, Dim, Name, TensorDim};
use std::ops::Range;

/// What an instruction computes.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// Element by element.
    Elementwise(Elementwise),
    /// Products summed over dims.
    Contract(Contract),
    /// Dims folded away.
    Reduce(Reduce),
    /// Creation and movement without arithmetic.
    Shape(Shape),
    /// Movement by index, and what orders elements.
    Index(Index),
    /// Counter-based random numbers.
    Random(Random),
    /// Reads and writes of state.
    State(StateOp),
    /// Operations that hold bodies, and the request for a gradient.
    Control(Control),
    /// Communication over mesh axes (Local only).
    Collective(Collective),
}

impl Op {
    /// The bodies inside the operation.
    pub fn bodies(&self) -> Vec<&Body> {
        let Op::Control(control) = self else { return Vec::new() };
        match control {
            Control::Scan(scan) => vec![&scan.body],
            Control::Cond { then, otherwise } => vec![then, otherwise],
            Control::Grad => Vec::new(),
        }
    }

    /// The same, to be changed.
    pub fn bodies_mut(&mut self) -> Vec<&mut Body> {
        let Op::Control(control) = self else { return Vec::new() };
        match control {
            Control::Scan(scan) => vec![&mut scan.body],
            Control::Cond { then, otherwise } => vec![then, otherwise],
            Control::Grad => Vec::new(),
        }
    }
}

/// Element-by-element operations.
#[derive(Clone, PartialEq, Debug)]
pub enum Elementwise {
    /// `(x)`: a function of one number.
    Unary(Unary),
    /// `(a, b)`, equal element types: a function of two numbers, broadcast by name.
    Binary(Binary),
    /// `(a, b)`, equal element types: a truth value, broadcast by name.
    Compare(Compare),
    /// `(p, a, b)`: `a` where the `pred` `p` holds, else `b`; broadcast by name.
    Select,
    /// `(x)`: converted to another element type. Float to integer truncates towards zero; `pred`
    /// becomes 0 or 1; to `pred` is "not zero"; float to bf16 rounds to nearest even.
    Cast(DType),
    /// `(x)`: `x`, through which no gradient flows.
    StopGradient,
}

/// Functions of one number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unary {
    /// `-x`.
    Neg,
    /// `|x|`.
    Abs,
    /// -1, 0 or 1.
    Sign,
    /// `e^x`.
    Exp,
    /// Natural logarithm.
    Log,
    /// `ln(1 + x)`, exact near 0.
    Log1p,
    /// Square root.
    Sqrt,
    /// `x^-1/2`.
    Rsqrt,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Hyperbolic tangent.
    Tanh,
    /// `1 / (1 + e^-x)`.
    Logistic,
    /// `max(x, 0)`; its derivative at 0 is 0.
    Relu,
    /// GELU by tanh: `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, as T5 1.1 uses it.
    Gelu,
    /// Largest whole number not above `x`.
    Floor,
    /// The nearest number that bf16 has, ties to even, in `x`'s own type. (Of a cast to bf16 and back compilers
    /// may keep the digits.) Its derivative is taken to be 1.
    RoundBf16,
    /// Logical not of a `pred`, bitwise not of an integer.
    Not,
    /// A `pred`: neither infinite nor NaN.
    IsFinite,
}

/// Functions of two numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Binary {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a · b`.
    Mul,
    /// `a / b`; for integers truncated towards zero.
    Div,
    /// Remainder with the sign of `a`.
    Rem,
    /// `a^b`.
    Pow,
    /// The larger.
    Max,
    /// The smaller.
    Min,
    /// And: logical for `pred`, bitwise for integers.
    And,
    /// Or.
    Or,
    /// Exclusive or.
    Xor,
    /// `a << b` for `u32`; 0 when `b` ≥ 32.
    Shl,
    /// `a >> b` for `u32`, filling with 0; 0 when `b` ≥ 32.
    Shr,
}

/// Comparisons.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Compare {
    /// `a == b`.
    Eq,
    /// `a != b`.
    Ne,
    /// `a < b`.
    Lt,
    /// `a <= b`.
    Le,
    /// `a > b`.
    Gt,
    /// `a >= b`.
    Ge,
}

/// `(a, b)`: einsum of two tensors of one float type: `out = Σ a · b` over all dims that are not in `out`.
/// Dims in both operands and in `out` are batch dims. Products and sums are float32; the result is
/// rounded to `dtype`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Contract {
    /// Names of the result's dims, in order.
    pub out: Vec<Name>,
    /// Element type of the result.
    pub dtype: DType,
}

/// Folds over dims.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reduce {
    /// `(x)`: `x` folded over `dims`.
    Over {
        /// How.
        kind: ReduceKind,
        /// Which dims go.
        dims: Vec<Name>,
    },
    /// `(x)`: the `s32` position of the largest element along `dim`, the first of equals.
    ArgMax {
        /// The dim that goes.
        dim: Name,
    },
}

/// Kinds of fold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReduceKind {
    /// Sum (bf16 is summed in float32 and rounded once).
    Sum,
    /// Largest; for `pred`: any.
    Max,
    /// Smallest; for `pred`: all.
    Min,
    /// Mean of floats.
    Mean,
    /// `ln Σ e^x` of floats, safe against overflow.
    LogSumExp,
}

/// Creation and movement.
#[derive(Clone, PartialEq, Debug)]
pub enum Shape {
    /// `()`: one number without dims. Integers are exact in the `f64`.
    Constant {
        /// Element type.
        dtype: DType,
        /// The number (1 or 0 for `pred`).
        value: f64,
    },
    /// `()`: 0, 1, 2, … along `dim`; a shard holds its own part of the logical sequence.
    Iota {
        /// The dim.
        dim: TensorDim,
        /// Element type.
        dtype: DType,
    },
    /// `(x)`: dims under other names, all at once.
    Rename {
        /// `(from, to)` pairs.
        pairs: Vec<(Name, Name)>,
    },
    /// `(x)`: the dims `from` (taken row-major in this order) become the dims `to` (row-major), with as
    /// many elements. `from` and `to` may be empty when the other side has one element. The new dims
    /// stand where the first of `from` stood (at the end if `from` is empty).
    Reshape {
        /// Dims that go.
        from: Vec<Name>,
        /// Dims that come.
        to: Vec<TensorDim>,
    },
    /// `(x)`: repeated along new dims, which stand first.
    Broadcast {
        /// Dims that come.
        dims: Vec<TensorDim>,
    },
    /// `(x)`: elements `start, start + stride, …` below `limit` along `dim`.
    Slice {
        /// The dim.
        dim: Name,
        /// First element.
        start: usize,
        /// First element not taken.
        limit: usize,
        /// Step, at least 1.
        stride: usize,
    },
    /// `(x)`: `low` elements of `value` before and `high` after, along `dim`.
    Pad {
        /// The dim.
        dim: Name,
        /// Elements before.
        low: usize,
        /// Elements after.
        high: usize,
        /// What they hold.
        value: f64,
    },
    /// `(x, …)`: one after the other along `dim`; all else equal.
    Concat {
        /// The dim.
        dim: Name,
    },
}

/// What a gather does with an index outside of the dim.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outside {
    /// Reads 0.
    Zero,
    /// Reads the nearest element.
    Clamp,
}

/// Movement by index. Indices are `s32`.
#[derive(Clone, PartialEq, Debug)]
pub enum Index {
    /// `(index)`: 1 where the position along the new last dim equals the index, else 0 (all 0 for an
    /// index outside).
    OneHot {
        /// The dim that comes.
        dim: TensorDim,
        /// Element type.
        dtype: DType,
    },
    /// `(x, index)`: `x` at `index` along `dim`. Dims that both have are batch dims. Result dims: those
    /// of `index`, then the other dims of `x`.
    Gather {
        /// The dim of `x` that goes.
        dim: Name,
        /// What an index outside reads.
        outside: Outside,
    },
    /// `(index, updates)`: zeros, plus every element of `updates` added at `index` along the new dim
    /// `dim`; the dims `over` of `index` go, its other dims are batch dims. An index outside is dropped.
    /// Result dims: batch dims in the order of `index`, then `dim`, then the other dims of `updates`.
    ScatterAdd {
        /// The dim that comes.
        dim: TensorDim,
        /// Dims of `index` (and `updates`) that are summed away.
        over: Vec<Name>,
    },
    /// `(x, forward, inverse)`: a partial permutation. Element `j` along `to` of the result is element
    /// `forward[j]` of `x` along `dim`, or 0 where `forward[j]` is outside. `inverse[i]` says where element
    /// `i` went, or is outside (write -1). The two must agree: then the gradient is the same operation the
    /// other way round, a gather, not a scatter. `forward` has dims batch + `to`, `inverse` has batch +
    /// `dim`; `x` has batch + `dim` + others. Result dims: those of `forward`, then the others of `x`.
    Permute {
        /// The dim of `x` that goes.
        dim: Name,
        /// The dim that comes (its size is `forward`'s).
        to: Name,
    },
    /// `(x)`: the largest elements along `dim`, in falling order, the first of equals first: values, and
    /// their `s32` positions. `to` replaces `dim`.
    TopK {
        /// The dim that goes.
        dim: Name,
        /// The dim that comes; its size is k.
        to: Dim,
    },
    /// `(key, payload, …)`, all with the same dims: all sorted along `dim` by `key`; stable.
    Sort {
        /// The dim.
        dim: Name,
        /// Largest first.
        descending: bool,
    },
    /// `(x)`: running sum along `dim`.
    CumSum {
        /// The dim.
        dim: Name,
        /// Without the element itself.
        exclusive: bool,
        /// From the end.
        reverse: bool,
    },
    /// `(x, start)`, `start` an `s32` without dims: `size` elements of `dim` from `start`, which is clamped
    /// so that they lie inside.
    DynamicSlice {
        /// The dim.
        dim: Name,
        /// How many elements.
        size: usize,
    },
    /// `(x, update, start)`: `x` with `update` (smaller along `dim`) written over it from `start`, clamped.
    DynamicUpdate {
        /// The dim.
        dim: Name,
    },
}

/// `(seed, counter)`, both `u32` without dims: random numbers, a pure function of seed, counter, `stream`
/// and each element's *logical* position, so that they are the same under every layout.
#[derive(Clone, PartialEq, Debug)]
pub struct Random {
    /// What they are.
    pub dist: Dist,
    /// The result's dims.
    pub dims: Vec<TensorDim>,
    /// Element type: of `dist` if it has only one, else a float type.
    pub dtype: DType,
    /// Tells the random operations of a program apart.
    pub stream: u32,
}

/// Distributions.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Dist {
    /// All 32 bits of a `u32`.
    Bits,
    /// Even in [0, 1): the top 24 bits · 2^-24.
    Uniform,
    /// Mean 0, deviation 1.
    Normal,
    /// The normal, drawn again while beyond two deviations (not rescaled).
    TruncatedNormal,
    /// A `pred`, true with this probability.
    Bernoulli(f64),
}

/// State. A function sees every state as it was when the function was called; writes take effect when
/// it returns, at most one per state.
#[derive(Clone, PartialEq, Debug)]
pub enum StateOp {
    /// `()`: the state's value at entry.
    Read(StateId),
    /// `(x)`: the state's value after return. No result. Only at the top level of a function.
    Write(StateId),
}

/// Operations that hold bodies.
#[derive(Clone, PartialEq, Debug)]
pub enum Control {
    /// `(carry…, xs…, captures…)`: see [`Scan`].
    Scan(Box<Scan>),
    /// `(p, x…)`, `p` a `pred` without dims: the results of `then(x…)` if it holds, else of `otherwise(x…)`.
    Cond {
        /// If the predicate holds.
        then: Box<Body>,
        /// If not.
        otherwise: Box<Body>,
    },
    /// `(loss, x…)`: the gradients of `loss`, a float without dims, with respect to each `x`, which are
    /// values of the same body. Global only, expanded by autodiff.
    Grad,
}

/// A loop over a dim. The body's parameters are the carries, one slice (without the dim) of each of the
/// `xs`, and the captures; its results are the new carries, then the ys. Results of the instruction: the
/// last carries, then the ys stacked along the dim, which stands first.
#[derive(Clone, PartialEq, Debug)]
pub struct Scan {
    /// The dim looped over, such as `layers`. It is never split in a body's arguments.
    pub dim: Dim,
    /// How many arguments are carries.
    pub carries: usize,
    /// How many arguments are sliced. The rest are captures.
    pub xs: usize,
    /// From the last slice to the first.
    pub reverse: bool,
    /// What the forward pass keeps for the backward pass.
    pub remat: Remat,
    /// Emit the iterations one after the other instead of as a loop.
    pub unroll: bool,
    /// One iteration.
    pub body: Body,
}

impl Scan {
    /// Which arguments are sliced. Those before are carries, those after are captures.
    pub fn slices(&self) -> Range<usize> {
        self.carries..self.carries + self.xs
    }
}

/// What the forward half of a differentiated scan keeps for the backward half; the rest is computed again.
/// Of what a policy allows, the fewest bytes are kept. Slices and captures need not be kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Remat {
    /// Only what is cheap is computed again: element-by-element operations, creation and movement
    /// (constants, iotas, random numbers, broadcasts, renames of one dim).
    #[default]
    SaveAll,
    /// As before, and einsums besides that sum up few terms ([`Remat::few_terms`]) for each element: those of attention's
    /// weights.
    SaveLong,
    /// As before with more terms, those of attention's results; and einsums of slices and captures, for which nothing
    /// has to be kept.
    SaveCompact,
    /// All is computed again but einsums, renames of several dims at once (which may be exchanges between
    /// devices), and loops that hold such.
    SaveContractions,
    /// Everything is computed again, from the carries.
    SaveCarries,
}

impl Remat {
    /// Up to so many terms an element an einsum is computed again, if it is not anyway.
    pub fn few_terms(self) -> usize {
        match self {
            Remat::SaveLong => 64,
            Remat::SaveCompact => 512,
            Remat::SaveAll | Remat::SaveContractions | Remat::SaveCarries => 0,
        }
    }
}

/// Communication. `axes` lists are major first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Collective {
    /// `(x)`: settles the pending sum, max or min over `axes`.
    AllReduce {
        /// What is owed.
        kind: Pending,
        /// Over which axes.
        axes: AxisSet,
    },
    /// `(x)`: makes `dim` whole along `axes`, which are the last of its axes.
    AllGather {
        /// The dim.
        dim: Name,
        /// Its last axes.
        axes: Vec<AxisId>,
    },
    /// `(x)`: settles the pending sum over `axes` and splits `dim` over them, after its own axes.
    ReduceScatter {
        /// The dim.
        dim: Name,
        /// The axes.
        axes: Vec<AxisId>,
    },
    /// `(x)`: takes `axes`, the last of dim `from`, away from it and splits dim `to` over them, after its
    /// own axes.
    AllToAll {
        /// The dim that becomes whole along `axes`.
        from: Name,
        /// The dim that is split further.
        to: Name,
        /// The axes that move.
        axes: Vec<AxisId>,
    },
    /// `(x)`: every device keeps its own part of `dim`, replicated so far; nothing is sent.
    Shard {
        /// The dim.
        dim: Name,
        /// The axes, after its own.
        axes: Vec<AxisId>,
    },
    /// `(x)`: a replicated value becomes a pending sum: the first device along `axes` keeps it, the others
    /// hold 0. Nothing is sent.
    AsPending {
        /// The axes.
        axes: AxisSet,
    },
}

/// What an all-reduce settles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pending {
    /// A sum.
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

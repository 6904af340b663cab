//! The operations, one enum per family. Every stage matches every variant of these enums, so that the Rust
//! compiler lists the places that a new operation needs.
//!
//! The documentation of a variant gives its operands in order and its result. Dims are matched by name;
//! binary operations broadcast by name (the result has the dims of both). The rules for shards and pending
//! sums in Local modules are in `docs/ir.md`; [`crate::infer`] checks them.

use super::{Body, Remat, StateId};
use crate::{AxisId, AxisSet, DType, Dim, Name, TensorDim};
use std::ops::Range;

/// An operation.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// Elementwise operations.
    Elementwise(Elementwise),
    /// Einsum: products summed over dims.
    Contract(Contract),
    /// Reductions over dims.
    Reduce(Reduce),
    /// Creation and movement without arithmetic.
    Shape(Shape),
    /// Movement by index, sorting, and running sums.
    Index(Index),
    /// Counter-based random numbers.
    Random(Random),
    /// Reads and writes of state.
    State(StateOp),
    /// Operations that contain bodies, and the request for a gradient.
    Control(Control),
    /// Communication over mesh axes (Local only).
    Collective(Collective),
}

impl Op {
    /// The bodies that the operation contains.
    pub fn bodies(&self) -> Vec<&Body> {
        let Op::Control(control) = self else { return Vec::new() };
        match control {
            Control::Scan(scan) => vec![&scan.body],
            Control::Cond { then, otherwise } => vec![then, otherwise],
            Control::Grad => Vec::new(),
        }
    }

    /// The bodies that the operation contains, mutable.
    pub fn bodies_mut(&mut self) -> Vec<&mut Body> {
        let Op::Control(control) = self else { return Vec::new() };
        match control {
            Control::Scan(scan) => vec![&mut scan.body],
            Control::Cond { then, otherwise } => vec![then, otherwise],
            Control::Grad => Vec::new(),
        }
    }
}

/// Elementwise operations.
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
    /// `(x)`: `x`, without a gradient.
    StopGradient,
    /// `(x, y)`, floats of one type: `x`, whose gradient goes to `y` as if `y` were the result.
    WithGradient,
}

/// Gives an enum the list of its variants and their names in text.
macro_rules! words {
    ($table:ident) => {
        $table!(words);
    };
    ($ty:ident;
     $($operator:ident $word:literal),*;
     $($(#[$doc:meta])* $method:ident $variant:ident $name:literal,)*) => {
        impl $ty {
            /// All variants.
            pub const ALL: &[Self] = &[$(Self::$operator,)* $(Self::$variant),*];

            /// The name in `.mesh` text.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$operator => $word,)*
                    $(Self::$variant => $name),*
                }
            }
        }
    };
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
    /// `e^x - 1`, exact near 0.
    Expm1,
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
    /// The error function `2/√π · ∫₀ˣ e^(-t²) dt`.
    Erf,
    /// Largest whole number not above `x`.
    Floor,
    /// Smallest whole number not below `x`.
    Ceil,
    /// The nearest whole number, ties to even.
    Round,
    /// The nearest bf16 number, ties to even, in the type of `x`. (XLA may simplify a cast to bf16 and back,
    /// but not this.) Its derivative is defined as 1.
    RoundBf16,
    /// Logical not of a `pred`, bitwise not of an integer.
    Not,
    /// A `pred`: neither infinite nor NaN.
    IsFinite,
}

/// Calls a macro with the words of [`Unary`]: names in text; methods of the DSL with their documentation.
macro_rules! unary_words {
    ($user:ident) => {
        $user!(
            Unary;
            Neg "neg", Not "not";
            /// `|x|`.
            abs Abs "abs",
            /// -1, 0 or 1.
            sign Sign "sign",
            /// `e^x`.
            exp Exp "exp",
            /// `e^x - 1`, exact near 0.
            expm1 Expm1 "expm1",
            /// Natural logarithm.
            log Log "log",
            /// `ln(1 + x)`, exact near 0.
            log1p Log1p "log1p",
            /// Square root.
            sqrt Sqrt "sqrt",
            /// `x^-1/2`.
            rsqrt Rsqrt "rsqrt",
            /// Sine.
            sin Sin "sin",
            /// Cosine.
            cos Cos "cos",
            /// Hyperbolic tangent.
            tanh Tanh "tanh",
            /// `1 / (1 + e^-x)`.
            logistic Logistic "logistic",
            /// `max(x, 0)`.
            relu Relu "relu",
            /// GELU by tanh.
            gelu Gelu "gelu",
            /// The error function.
            erf Erf "erf",
            /// Largest whole number not above the element.
            floor Floor "floor",
            /// Smallest whole number not below the element.
            ceil Ceil "ceil",
            /// The nearest whole number, ties to even.
            round Round "round",
            /// The nearest bf16 number, in the type of the tensor. The gradient passes through.
            round_bf16 RoundBf16 "round_bf16",
            /// A `pred`: neither infinite nor NaN.
            is_finite IsFinite "is_finite",
        );
    };
}
pub(crate) use unary_words;
words!(unary_words);

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
    /// The angle of the point `(b, a)`, in `[-π, π]`.
    Atan2,
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

/// The words of [`Binary`], as [`unary_words`].
macro_rules! binary_words {
    ($user:ident) => {
        $user!(
            Binary;
            Add "add", Sub "sub", Mul "mul", Div "div", Rem "rem", And "and", Or "or", Xor "xor", Shl "shl",
            Shr "shr";
            /// `self^other`.
            pow Pow "pow",
            /// The angle of the point `(other, self)`, in `[-π, π]`.
            atan2 Atan2 "atan2",
            /// The larger of two.
            maximum Max "max",
            /// The smaller of two.
            minimum Min "min",
        );
    };
}
pub(crate) use binary_words;
words!(binary_words);

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

/// The words of [`Compare`], as [`unary_words`].
macro_rules! compare_words {
    ($user:ident) => {
        $user!(
            Compare;;
            /// A `pred`: equal.
            eq Eq "eq",
            /// A `pred`: not equal.
            ne Ne "ne",
            /// A `pred`: less.
            lt Lt "lt",
            /// A `pred`: less or equal.
            le Le "le",
            /// A `pred`: greater.
            gt Gt "gt",
            /// A `pred`: greater or equal.
            ge Ge "ge",
        );
    };
}
pub(crate) use compare_words;
words!(compare_words);

/// `(a, b)`: einsum of two tensors of one number type: `out = Σ a · b` over all dims that are not in `out`.
/// Dims in both operands and in `out` are batch dims. Of floats, products and sums are float32, and the
/// result is rounded to the float type `dtype`; of whole numbers they wrap, and `dtype` is their type.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Contract {
    /// Names of the result's dims, in order.
    pub out: Vec<Name>,
    /// Element type of the result.
    pub dtype: DType,
}

/// Reductions over dims.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reduce {
    /// `(x)`: `x` reduced over `dims`.
    Over {
        /// The kind of reduction.
        kind: ReduceKind,
        /// The dims that are removed.
        dims: Vec<Name>,
    },
    /// `(x)`: the `s32` position of the largest element along `dim`, the first of equals.
    ArgMax {
        /// The dim that is removed.
        dim: Name,
    },
}

/// Kinds of reduction.
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
    /// `ln Σ e^x` of floats, without overflow.
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
    /// `()`: 0, 1, 2, … along `dim`. A shard holds its part of the logical sequence.
    Iota {
        /// The dim.
        dim: TensorDim,
        /// Element type.
        dtype: DType,
    },
    /// `(x)`: `x` with other names of dims, all renamed at once.
    Rename {
        /// `(from, to)` pairs.
        pairs: Vec<(Name, Name)>,
    },
    /// `(x)`: the dims `from` (row-major in this order) become the dims `to` (row-major), with the same
    /// number of elements. `from` or `to` may be empty if the other side has one element. The new dims
    /// take the position of the first of `from` (the end if `from` is empty).
    Reshape {
        /// Old dims.
        from: Vec<Name>,
        /// New dims.
        to: Vec<TensorDim>,
    },
    /// `(x)`: `x` repeated along new dims, which come first.
    Broadcast {
        /// New dims.
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
        /// The value of the new elements.
        value: f64,
    },
    /// `(x, …)`: the operands one after the other along `dim`. Their other dims are equal.
    Concat {
        /// The dim.
        dim: Name,
    },
    /// `(x)`: `x`, in which element `i` along `dim` moves to position `i + by`. `edge` says what enters.
    Shift {
        /// The dim.
        dim: Name,
        /// Positions by which elements move; negative towards lower positions. At most the size of the dim.
        by: isize,
        /// The elements that enter.
        edge: Edge,
    },
}

/// The elements that enter at the end of a dim when a shift moves the others away.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Edge {
    /// This number; the elements at the other end are dropped.
    Fill(f64),
    /// The elements that leave at the other end.
    Wrap,
}

/// The result of a gather for an index outside of the dim.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outside {
    /// Reads 0.
    Zero,
    /// Reads the nearest element.
    Clamp,
}

/// The extreme that a scatter looks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Extreme {
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// Movement by index. Indices are `s32`.
#[derive(Clone, PartialEq, Debug)]
pub enum Index {
    /// `(index)`: 1 where the position along the new last dim equals the index, else 0 (all 0 for an
    /// index outside of the dim).
    OneHot {
        /// The new dim.
        dim: TensorDim,
        /// Element type.
        dtype: DType,
    },
    /// `(x, index)`: `x` at `index` along `dim`. Dims that both have are batch dims. Result dims: those
    /// of `index`, then the other dims of `x`.
    Gather {
        /// The dim of `x` that is indexed and removed.
        dim: Name,
        /// The result for an index outside of `dim`.
        outside: Outside,
    },
    /// `(index, updates)`: zeros, plus every element of `updates` added at `index` along the new dim `dim`.
    /// The dims `over` of `index` are removed, its other dims are batch dims. An update whose index is
    /// outside of `dim` is dropped. Result dims: batch dims in the order of `index`, then `dim`, then the
    /// other dims of `updates`.
    ScatterAdd {
        /// The new dim.
        dim: TensorDim,
        /// Dims of `index` (and `updates`) that are summed.
        over: Vec<Name>,
    },
    /// `(x, index, updates)`: `x`, in which every element along `dim` is the extreme of itself and of the
    /// updates whose index it is. The dims `over` of `index` (and `updates`) are removed, its other dims are
    /// batch dims. `x` has batch + `dim` + the other dims of `updates`, in any order. An update whose index
    /// is outside of `dim` is dropped.
    ScatterExtreme {
        /// The largest or the smallest.
        kind: Extreme,
        /// The dim of `x` that is indexed.
        dim: Name,
        /// Dims of `index` and `updates` that are removed.
        over: Vec<Name>,
    },
    /// `(x, forward, inverse)`: a partial permutation. Element `j` along `to` of the result is element
    /// `forward[j]` of `x` along `dim`, or 0 if `forward[j]` is outside of `dim`. `inverse[i]` is the
    /// position of element `i` in the result, or outside (-1) if it has none. The two must agree: then the
    /// gradient is the same operation with the two exchanged, a gather and not a scatter. `forward` has dims
    /// batch + `to`, `inverse` has batch + `dim`; `x` has batch + `dim` + others. Result dims: those of
    /// `forward`, then the others of `x`.
    Permute {
        /// The dim of `x` that is removed.
        dim: Name,
        /// The new dim, with the size that it has in `forward`.
        to: Name,
    },
    /// `(x)`: the largest elements along `dim`, in descending order, the first of equals first: values, and
    /// their `s32` positions. `to` replaces `dim`.
    TopK {
        /// The old dim.
        dim: Name,
        /// The new dim, of size k.
        to: Dim,
    },
    /// `(key, payload, …)`, all with the same dims: all sorted along `dim` by `key`. The sort is stable.
    Sort {
        /// The dim.
        dim: Name,
        /// True if the largest comes first.
        descending: bool,
    },
    /// `(x)`: running sum along `dim`.
    CumSum {
        /// The dim.
        dim: Name,
        /// True if the sum does not include the element itself.
        exclusive: bool,
        /// True if the sum runs from the end.
        reverse: bool,
    },
    /// `(x, start)`, `start` an `s32` without dims: `size` elements of `dim` from `start`, which is clamped
    /// so that all of them are in `dim`.
    DynamicSlice {
        /// The dim.
        dim: Name,
        /// The number of elements.
        size: usize,
    },
    /// `(x, update, start)`: `x`, in which `update` (smaller along `dim`) replaces the elements from `start`,
    /// clamped likewise.
    DynamicUpdate {
        /// The dim.
        dim: Name,
    },
}

/// `(seed, counter)`, both `u32` without dims: random numbers. They are a pure function of seed, counter,
/// `stream` and each element's *logical* position, so they are the same under every layout.
#[derive(Clone, PartialEq, Debug)]
pub struct Random {
    /// The distribution.
    pub dist: Dist,
    /// The result's dims.
    pub dims: Vec<TensorDim>,
    /// Element type: that of `dist` if it has only one, else a float type.
    pub dtype: DType,
    /// The random stream: different for all random operations of a program.
    pub stream: u32,
}

/// Distributions.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Dist {
    /// All 32 bits of a `u32`.
    Bits,
    /// Uniform in [0, 1): the top 24 bits · 2^-24.
    Uniform,
    /// Normal with mean 0 and standard deviation 1.
    Normal,
    /// The normal distribution, truncated at two standard deviations (not rescaled).
    TruncatedNormal,
    /// A `pred`, true with this probability.
    Bernoulli(f64),
}

/// State access. A function sees every state as it was when the function was called. Writes take effect when
/// it returns, at most one per state.
#[derive(Clone, PartialEq, Debug)]
pub enum StateOp {
    /// `()`: the value of the state at entry.
    Read(StateId),
    /// `(x)`: sets the value of the state after return. No result. Only at the top level of a function.
    Write(StateId),
}

/// Operations that contain bodies, and the request for a gradient.
#[derive(Clone, PartialEq, Debug)]
pub enum Control {
    /// `(carry…, xs…, captures…)`: see [`Scan`].
    Scan(Box<Scan>),
    /// `(p, x…)`, `p` a `pred` without dims: the results of `then(x…)` if `p` is true, else of
    /// `otherwise(x…)`.
    Cond {
        /// The body for true.
        then: Box<Body>,
        /// The body for false.
        otherwise: Box<Body>,
    },
    /// `(loss, x…)`: the gradients of `loss`, a float without dims, with respect to each `x`, a value of the
    /// same body. Global only; autodiff expands it.
    Grad,
}

/// A loop over a dim. The parameters of the body are the carries, one slice (without the dim) of each of the
/// `xs`, and the captures. Its results are the new carries, then the ys. The results of the instruction are
/// the last carries, then the ys stacked along the dim, which comes first.
#[derive(Clone, PartialEq, Debug)]
pub struct Scan {
    /// The dim looped over, such as `layers`. It is not split in the arguments.
    pub dim: Dim,
    /// The number of arguments that are carries.
    pub carries: usize,
    /// The number of arguments that are sliced. The rest are captures.
    pub xs: usize,
    /// True if the loop runs from the last slice to the first.
    pub reverse: bool,
    /// The values that the forward pass saves for the backward pass.
    pub remat: Remat,
    /// True if the iterations are emitted one after the other instead of as a loop.
    pub unroll: bool,
    /// True if no operation of the iterations is merged with an equal one outside: the backward half of a
    /// loop of one iteration, which would otherwise save what it is to recompute.
    pub barrier: bool,
    /// One iteration.
    pub body: Body,
}

impl Scan {
    /// The positions of the sliced arguments. Carries come before them, captures after them.
    pub fn slices(&self) -> Range<usize> {
        self.carries..self.carries + self.xs
    }
}

/// Collectives. Lists of axes are major first.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Collective {
    /// `(x)`: reduces the pending sum, max or min over `axes`.
    AllReduce {
        /// The kind of pending value.
        kind: Pending,
        /// The axes.
        axes: AxisSet,
    },
    /// `(x)`: gathers `dim` along `axes`, the last of its axes, which then no longer split it.
    AllGather {
        /// The dim.
        dim: Name,
        /// Its last axes.
        axes: Vec<AxisId>,
    },
    /// `(x)`: reduces the pending sum over `axes` and splits `dim` over them, after its present axes.
    ReduceScatter {
        /// The dim.
        dim: Name,
        /// The axes.
        axes: Vec<AxisId>,
    },
    /// `(x)`: moves `axes`, the last axes of dim `from`, to dim `to`, after its present axes.
    AllToAll {
        /// The dim that `axes` no longer split.
        from: Name,
        /// The dim that `axes` split.
        to: Name,
        /// The axes.
        axes: Vec<AxisId>,
    },
    /// `(x)`: moves shard `i` of `dim` to position `i + by`. With `wrap` the last shards become the first;
    /// without it they are dropped, and zeros enter.
    Permute {
        /// The dim.
        dim: Name,
        /// All of its axes.
        axes: Vec<AxisId>,
        /// Shards by which shards move; negative towards lower positions. At most the number of shards.
        by: isize,
        /// True if shards that leave at one end enter at the other.
        wrap: bool,
    },
    /// `(x)`: splits `dim` over `axes`, along which `x` is replicated. Every device keeps its shard, and
    /// nothing is sent.
    Shard {
        /// The dim.
        dim: Name,
        /// The axes, after its present ones.
        axes: Vec<AxisId>,
    },
    /// `(x)`: turns a replicated value into a pending sum. The first device along `axes` keeps the value, the
    /// others hold 0, and nothing is sent.
    AsPending {
        /// The axes.
        axes: AxisSet,
    },
}

/// Kinds of pending value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pending {
    /// A pending sum.
    Sum,
    /// A pending maximum.
    Max,
    /// A pending minimum.
    Min,
}

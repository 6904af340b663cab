//! Facts about operations that several stages and the report need. Each fact is one exhaustive match, so that
//! the compiler asks for it when an operation is added; facts about unary functions are rows of one table
//! ([`unary`]).

use mesh::{
    Body, DType, Op, Value,
    ir::{
        Binary, Collective, Control, Edge, Elementwise, Index, Reduce, ReduceKind, Scan, Shape, StateOp,
        Unary,
    },
};

/// Facts about a function of one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnaryFacts {
    /// `f(x + y) = f(x) + f(y)`: the operand may be a pending sum.
    pub linear: bool,
    /// True if the derivative is not zero everywhere.
    pub differentiable: bool,
    /// True if XLA computes it again in every consumer rather than store the result.
    pub recomputed: bool,
    /// True if every device computes the same bits, so that it may be folded.
    pub exact: bool,
}

/// The facts about `op`.
pub fn unary(op: Unary) -> UnaryFacts {
    let facts =
        |linear, differentiable, recomputed, exact| UnaryFacts { linear, differentiable, recomputed, exact };
    match op {
        //                             linear differentiable recomputed exact
        Unary::Neg => facts(true, true, true, true),
        Unary::Abs | Unary::Relu => facts(false, true, true, true),
        Unary::RoundBf16 => facts(false, true, true, false),
        Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round | Unary::Not | Unary::IsFinite => {
            facts(false, false, true, true)
        }
        Unary::Exp
        | Unary::Expm1
        | Unary::Log
        | Unary::Log1p
        | Unary::Sqrt
        | Unary::Rsqrt
        | Unary::Sin
        | Unary::Cos
        | Unary::Tanh
        | Unary::Logistic
        | Unary::Erf
        | Unary::Gelu => facts(false, true, false, false),
    }
}

/// The flow of derivatives through an operation, from operands to results.
#[derive(Debug)]
pub enum Flow<'o> {
    /// Every result depends on every operand.
    All,
    /// Result `i` depends on operand `i`.
    Pairs,
    /// The result depends on operand 1.
    Second,
    /// No result depends on an operand.
    Nothing,
    /// As through the body of this loop.
    Scan(&'o Scan),
    /// As through both branches; the predicate has no part in it.
    Cond(&'o Body, &'o Body),
}

/// The flow of derivatives through `op`.
pub fn flow(op: &Op) -> Flow<'_> {
    match op {
        Op::Elementwise(Elementwise::Unary(op)) if !unary(*op).differentiable => Flow::Nothing,
        Op::Elementwise(Elementwise::Compare(_) | Elementwise::StopGradient) => Flow::Nothing,
        Op::Elementwise(
            Elementwise::Unary(_) | Elementwise::Binary(_) | Elementwise::Select | Elementwise::Cast(_),
        ) => Flow::All,
        Op::Elementwise(Elementwise::WithGradient) => Flow::Second,
        Op::Contract(_) | Op::Reduce(_) | Op::Shape(_) => Flow::All,
        Op::Index(Index::Sort { .. }) => Flow::Pairs,
        Op::Index(
            Index::OneHot { .. }
            | Index::Gather { .. }
            | Index::ScatterAdd { .. }
            | Index::ScatterExtreme { .. }
            | Index::Permute { .. }
            | Index::TopK { .. }
            | Index::CumSum { .. }
            | Index::DynamicSlice { .. }
            | Index::DynamicUpdate { .. },
        ) => Flow::All,
        Op::Random(_) | Op::State(_) | Op::Collective(_) => Flow::Nothing,
        Op::Control(Control::Grad) => Flow::Nothing,
        Op::Control(Control::Scan(scan)) => Flow::Scan(scan),
        Op::Control(Control::Cond { then, otherwise }) => Flow::Cond(then, otherwise),
    }
}

/// True if the operands of `op` may be swapped.
pub fn commutes(op: &Op) -> bool {
    match op {
        Op::Elementwise(Elementwise::Binary(op)) => match op {
            Binary::Add | Binary::Mul | Binary::And | Binary::Or | Binary::Xor => true,
            // At a tie, max and min give the gradient to their first operand.
            Binary::Max | Binary::Min => false,
            Binary::Sub
            | Binary::Div
            | Binary::Rem
            | Binary::Pow
            | Binary::Atan2
            | Binary::Shl
            | Binary::Shr => false,
        },
        Op::Contract(_) => true,
        Op::Elementwise(
            Elementwise::Unary(_)
            | Elementwise::Compare(_)
            | Elementwise::Select
            | Elementwise::Cast(_)
            | Elementwise::StopGradient
            | Elementwise::WithGradient,
        )
        | Op::Reduce(_)
        | Op::Shape(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::State(_)
        | Op::Control(_)
        | Op::Collective(_) => false,
    }
}

/// True if the result of `op` can be smaller than an operand in which it is linear.
pub fn shrinks(op: &Op) -> bool {
    match op {
        Op::Elementwise(Elementwise::Cast(_)) | Op::Contract(_) => true,
        Op::Reduce(Reduce::Over { kind: ReduceKind::Sum | ReduceKind::Mean, dims: _ }) => true,
        Op::Shape(Shape::Slice { dim: _, start: _, limit: _, stride: _ }) => true,
        Op::Index(Index::DynamicSlice { dim: _, size: _ } | Index::Gather { dim: _, outside: _ }) => true,
        Op::Index(Index::Permute { dim: _, to: _ }) => true,
        Op::Reduce(Reduce::Over {
            kind: ReduceKind::Max | ReduceKind::Min | ReduceKind::LogSumExp,
            dims: _,
        })
        | Op::Reduce(Reduce::ArgMax { dim: _ })
        | Op::Elementwise(
            Elementwise::Unary(_)
            | Elementwise::Binary(_)
            | Elementwise::Compare(_)
            | Elementwise::Select
            | Elementwise::StopGradient
            | Elementwise::WithGradient,
        )
        | Op::Shape(
            Shape::Constant { dtype: _, value: _ }
            | Shape::Iota { dim: _, dtype: _ }
            | Shape::Rename { pairs: _ }
            | Shape::Reshape { from: _, to: _ }
            | Shape::Broadcast { dims: _ }
            | Shape::Pad { dim: _, low: _, high: _, value: _ }
            | Shape::Concat { dim: _ }
            | Shape::Shift { dim: _, by: _, edge: _ },
        )
        | Op::Index(
            Index::OneHot { dim: _, dtype: _ }
            | Index::ScatterAdd { dim: _, over: _ }
            | Index::ScatterExtreme { kind: _, dim: _, over: _ }
            | Index::TopK { dim: _, to: _ }
            | Index::Sort { dim: _, descending: _ }
            | Index::CumSum { dim: _, exclusive: _, reverse: _ }
            | Index::DynamicUpdate { dim: _ },
        )
        | Op::Random(_)
        | Op::State(_)
        | Op::Control(_)
        | Op::Collective(_) => false,
    }
}

/// True for a rename of several dims at once, by which a program asks for an exchange between devices.
pub fn exchanges(op: &Op) -> bool {
    matches!(op, Op::Shape(Shape::Rename { pairs }) if pairs.len() > 1)
}

/// True for einsums, exchanges, and operations that contain them: what `remat=contractions` saves.
pub fn is_heavy(op: &Op) -> bool {
    let inside = |body: &&Body| body.insts.iter().any(|inst| is_heavy(&inst.op));
    matches!(op, Op::Contract(_)) || exchanges(op) || op.bodies().iter().any(inside)
}

/// True if a device fuses `op` into its consumer, so that recomputing it costs neither memory traffic nor
/// communication.
pub fn is_cheap(op: &Op) -> bool {
    match op {
        Op::Elementwise(_) => true,
        // A roll along a split dim sends every shard to another device.
        Op::Shape(Shape::Shift { dim: _, by: _, edge: Edge::Wrap }) => false,
        Op::Shape(_) => !exchanges(op),
        Op::Index(Index::OneHot { .. }) => true,
        Op::Index(
            Index::Gather { .. }
            | Index::ScatterAdd { .. }
            | Index::ScatterExtreme { .. }
            | Index::Permute { .. }
            | Index::TopK { .. }
            | Index::Sort { .. }
            | Index::CumSum { .. }
            | Index::DynamicSlice { .. }
            | Index::DynamicUpdate { .. },
        ) => false,
        // Reading state reads memory, as reading a saved value would.
        Op::State(_) => true,
        // The generator is a few dozen integer operations, fused into the consumer of the numbers.
        Op::Random(_) => true,
        Op::Contract(_) | Op::Reduce(_) | Op::Collective(_) => false,
        Op::Control(Control::Scan(_) | Control::Cond { .. } | Control::Grad) => false,
    }
}

/// The memory cost of moving a loop-invariant operation out of its loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hoisting {
    /// It creates a tensor out of little, and stays, or the tensor would be held throughout the loop.
    Creates,
    /// It leaves unless its result is larger than the captures that it is computed from.
    Light,
    /// It leaves.
    Heavy,
    /// It stays, whatever it depends on.
    Stays,
}

/// The conditions under which `op` may be hoisted.
pub fn hoisting(op: &Op) -> Hoisting {
    match op {
        Op::Shape(Shape::Constant { .. } | Shape::Iota { .. } | Shape::Broadcast { .. }) => Hoisting::Creates,
        Op::Index(Index::OneHot { .. }) => Hoisting::Creates,
        Op::Elementwise(_) => Hoisting::Light,
        Op::Shape(
            Shape::Rename { .. }
            | Shape::Reshape { .. }
            | Shape::Slice { .. }
            | Shape::Pad { .. }
            | Shape::Concat { .. }
            | Shape::Shift { .. },
        ) => Hoisting::Light,
        Op::Index(
            Index::Gather { .. }
            | Index::ScatterAdd { .. }
            | Index::ScatterExtreme { .. }
            | Index::Permute { .. }
            | Index::TopK { .. }
            | Index::Sort { .. }
            | Index::CumSum { .. }
            | Index::DynamicSlice { .. }
            | Index::DynamicUpdate { .. },
        ) => Hoisting::Heavy,
        Op::Contract(_) | Op::Reduce(_) => Hoisting::Heavy,
        Op::Control(Control::Scan(_) | Control::Cond { .. } | Control::Grad) => Hoisting::Heavy,
        // Random numbers are generated where they are used, or they would be held in memory.
        Op::Random(_) => Hoisting::Creates,
        Op::State(_) | Op::Collective(_) => Hoisting::Stays,
    }
}

/// True if the result is the operand's memory under another type.
pub fn is_view(op: &Op) -> bool {
    match op {
        Op::Shape(Shape::Rename { pairs: _ } | Shape::Reshape { from: _, to: _ })
        | Op::Elementwise(Elementwise::StopGradient) => true,
        Op::Shape(
            Shape::Constant { dtype: _, value: _ }
            | Shape::Iota { dim: _, dtype: _ }
            | Shape::Broadcast { dims: _ }
            | Shape::Slice { dim: _, start: _, limit: _, stride: _ }
            | Shape::Pad { dim: _, low: _, high: _, value: _ }
            | Shape::Concat { dim: _ }
            | Shape::Shift { dim: _, by: _, edge: _ },
        )
        | Op::Elementwise(
            Elementwise::Unary(_)
            | Elementwise::Binary(_)
            | Elementwise::Compare(_)
            | Elementwise::Select
            | Elementwise::Cast(_)
            | Elementwise::WithGradient,
        )
        | Op::Contract(_)
        | Op::Reduce(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::State(_)
        | Op::Control(_)
        | Op::Collective(_) => false,
    }
}

/// True if the result may be written over an operand that is not used afterwards.
pub fn in_place(op: &Op) -> bool {
    match op {
        Op::Elementwise(_) | Op::Collective(Collective::AllReduce { kind: _, axes: _ }) => true,
        Op::Collective(
            Collective::AllGather { dim: _, axes: _ }
            | Collective::ReduceScatter { dim: _, axes: _ }
            | Collective::AllToAll { from: _, to: _, axes: _ }
            | Collective::Permute { dim: _, axes: _, by: _, wrap: _ }
            | Collective::Shard { dim: _, axes: _ }
            | Collective::AsPending { axes: _ },
        )
        | Op::Contract(_)
        | Op::Reduce(_)
        | Op::Shape(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::State(_)
        | Op::Control(_) => false,
    }
}

/// The conditions under which a backend writes results to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    /// Never: they are created in their consumers, or are state.
    Never,
    /// Unless all consumers take them in by fusion.
    UnlessFused,
    /// Always.
    Always,
}

/// The conditions under which results of `op` are stored.
pub fn storage(op: &Op) -> Storage {
    match op {
        Op::Shape(
            Shape::Constant { dtype: _, value: _ }
            | Shape::Iota { dim: _, dtype: _ }
            | Shape::Broadcast { dims: _ },
        )
        | Op::Random(_)
        | Op::State(StateOp::Read(_) | StateOp::Write(_)) => Storage::Never,
        Op::Elementwise(_) | Op::Index(Index::OneHot { dim: _, dtype: _ }) => Storage::UnlessFused,
        Op::Shape(
            Shape::Rename { pairs: _ }
            | Shape::Reshape { from: _, to: _ }
            | Shape::Slice { dim: _, start: _, limit: _, stride: _ }
            | Shape::Pad { dim: _, low: _, high: _, value: _ }
            | Shape::Concat { dim: _ }
            | Shape::Shift { dim: _, by: _, edge: _ },
        )
        | Op::Index(
            Index::Gather { dim: _, outside: _ }
            | Index::ScatterAdd { dim: _, over: _ }
            | Index::ScatterExtreme { kind: _, dim: _, over: _ }
            | Index::Permute { dim: _, to: _ }
            | Index::TopK { dim: _, to: _ }
            | Index::Sort { dim: _, descending: _ }
            | Index::CumSum { dim: _, exclusive: _, reverse: _ }
            | Index::DynamicSlice { dim: _, size: _ }
            | Index::DynamicUpdate { dim: _ },
        )
        | Op::Contract(_)
        | Op::Reduce(_)
        | Op::Collective(_)
        | Op::Control(Control::Scan(_) | Control::Cond { then: _, otherwise: _ } | Control::Grad) => {
            Storage::Always
        }
    }
}

/// True if XLA duplicates this op into its consumers instead of storing the result.
pub fn recomputed(op: &Op) -> bool {
    match op {
        Op::Elementwise(Elementwise::Unary(op)) => unary(*op).recomputed,
        Op::Elementwise(Elementwise::Binary(op)) => match op {
            Binary::Div | Binary::Rem | Binary::Pow | Binary::Atan2 => false,
            Binary::Add
            | Binary::Sub
            | Binary::Mul
            | Binary::Max
            | Binary::Min
            | Binary::And
            | Binary::Or
            | Binary::Xor
            | Binary::Shl
            | Binary::Shr => true,
        },
        Op::Elementwise(
            Elementwise::Compare(_)
            | Elementwise::Select
            | Elementwise::Cast(_)
            | Elementwise::StopGradient
            | Elementwise::WithGradient,
        ) => true,
        Op::Contract(_)
        | Op::Reduce(_)
        | Op::Shape(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::State(_)
        | Op::Control(_)
        | Op::Collective(_) => false,
    }
}

/// True if a backend fuses the producer of an operand into `op`.
pub fn fuses_operands(op: &Op) -> bool {
    match op {
        Op::Elementwise(_) | Op::Reduce(Reduce::Over { kind: _, dims: _ }) => true,
        Op::Reduce(Reduce::ArgMax { dim: _ })
        | Op::Contract(_)
        | Op::Shape(_)
        | Op::Index(_)
        | Op::Random(_)
        | Op::State(_)
        | Op::Control(_)
        | Op::Collective(_) => false,
    }
}

/// True if a scan is emitted without a loop.
pub fn is_inline(scan: &Scan) -> bool {
    scan.unroll || scan.dim.size == 1
}

/// The one float type, narrower than its own, to which all uses of `v` cast it. `None` if there is another
/// use.
pub fn only_cast(body: &Body, v: Value) -> Option<DType> {
    let from = body.ty(v).dtype;
    let mut to = None;
    for inst in body.insts.iter().filter(|inst| inst.args.contains(&v)) {
        let Op::Elementwise(Elementwise::Cast(dtype)) = &inst.op else { return None };
        if to.is_some_and(|to| to != *dtype) {
            return None;
        }
        to = Some(*dtype);
    }
    let narrower = |to: &DType| from.is_float() && to.is_float() && to.bytes() < from.bytes();
    to.filter(narrower).filter(|_| !body.results.contains(&v))
}

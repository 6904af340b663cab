//! Inference of result types, used by the DSL, the parser, the passes and the verifier. It checks every rule
//! about operands; the labels are those of `docs/ir.md`.

mod collective;
mod contract;
mod control;
mod elementwise;
mod index;
mod random;
mod reduce;
pub mod shape;
mod state;

use crate::{
    AxisId, AxisSet, DType, Diagnostic, Env, Name, Op, TensorDim, Type,
    ir::{Collective, Control, Index, Shape},
    layout::suggest,
};

/// The largest number of elements of a tensor, chosen so that no count of bytes overflows 64 bits.
pub const MAX_ELEMENTS: usize = 1 << 60;

/// Returns the result types of `op` for operands of types `args`, or the first broken rule. The types in
/// `args` and in the bodies of `op` must be legal by themselves ([`check_type`]).
pub fn infer(env: &Env, op: &Op, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    check_attributes(env, op)?;
    let results = match op {
        Op::Elementwise(op) => elementwise::infer(env, op, args),
        Op::Contract(op) => contract::infer(env, op, args),
        Op::Reduce(op) => reduce::infer(env, op, args),
        Op::Shape(op) => shape::infer(env, op, args),
        Op::Index(op) => index::infer(env, op, args),
        Op::Random(op) => random::infer(op, args),
        Op::State(op) => state::infer(env, op, args),
        Op::Control(op) => control::infer(env, op, args),
        Op::Collective(op) => collective::infer(env, op, args),
    }?;
    results.iter().try_for_each(|ty| check_type(env, ty))?;
    Ok(results)
}

/// Checks the dims and axes that `op` itself names, independently of its operands.
fn check_attributes(env: &Env, op: &Op) -> Result<(), Diagnostic> {
    let (dims, axes): (&[TensorDim], &[AxisId]) = match op {
        Op::Shape(Shape::Iota { dim, .. }) => (std::slice::from_ref(dim), &[]),
        Op::Shape(Shape::Reshape { to: dims, .. } | Shape::Broadcast { dims }) => (dims, &[]),
        Op::Index(Index::OneHot { dim, .. } | Index::ScatterAdd { dim, .. }) => {
            (std::slice::from_ref(dim), &[])
        }
        Op::Random(random) => (&random.dims, &[]),
        Op::Collective(
            Collective::AllGather { axes, .. }
            | Collective::ReduceScatter { axes, .. }
            | Collective::AllToAll { axes, .. }
            | Collective::Permute { axes, .. }
            | Collective::Shard { axes, .. },
        ) => (&[], axes),
        Op::Collective(Collective::AllReduce { .. } | Collective::AsPending { .. }) => (&[], &[]),
        Op::Elementwise(_)
        | Op::Contract(_)
        | Op::Reduce(_)
        | Op::Shape(_)
        | Op::Index(_)
        | Op::State(_)
        | Op::Control(_) => (&[], &[]),
    };
    if axes.iter().any(|axis| axis.0 as usize >= env.mesh.axes().len()) {
        return Err(Diagnostic::new("type_t3", "communication over an axis that the mesh lacks"));
    }
    if let Op::Control(Control::Scan(scan)) = op {
        check_type(env, &Type::new(DType::F32, [scan.dim.clone()]))?;
    }
    if dims.is_empty() {
        return Ok(());
    }
    check_type(env, &of(DType::F32, dims.to_vec(), AxisSet::EMPTY))
}

/// Checks that a type is legal by itself: unique dims with proper names, each axis in one role, shards of
/// equal size.
pub fn check_type(env: &Env, ty: &Type) -> Result<(), Diagnostic> {
    let axes = env.mesh.axes().len();
    let pending = [(ty.sum, "a pending sum"), (ty.max, "a pending max"), (ty.min, "a pending min")];
    let mut used: Vec<(AxisId, String)> = Vec::new();
    let mut elements = 1usize;
    for (i, d) in ty.dims.iter().enumerate() {
        if ty.dims[..i].iter().any(|e| e.dim.name == d.dim.name) {
            return Err(Diagnostic::new(
                "type_t1",
                format!("dim `{}` appears twice in one tensor", d.dim.name),
            )
            .help("rename one of the two: dims of a tensor have different names"));
        }
        if let Some(fault) = Name::fault("dim", &d.dim.name) {
            return Err(Diagnostic::new("type_t8", fault).help("give the dim another name"));
        }
        if d.dim.size == 0 {
            return Err(Diagnostic::new("type_t2", format!("dim `{}` has size 0", d.dim.name))
                .help("every dim has at least one element"));
        }
        elements = elements.saturating_mul(d.dim.size);
        if elements > MAX_ELEMENTS {
            return Err(Diagnostic::new("type_t6", "a tensor of more than 2^60 elements")
                .help("check the sizes of its dims"));
        }
        check_split(env, d)?;
        used.extend(d.axes.iter().map(|axis| (*axis, format!("dim `{}`", d.dim.name))));
    }
    if !ty.sum.is_empty() && ty.dtype == DType::Pred {
        return Err(Diagnostic::new("type_t7", "a pending sum of pred")
            .help("only numbers are summed: gather the split dim first, or cast to a number"));
    }
    for (set, what) in pending {
        for axis in set.iter() {
            if axis.0 as usize >= axes {
                return Err(Diagnostic::new("type_t3", format!("{what} over an axis that the mesh lacks")));
            }
            used.push((axis, what.to_owned()));
        }
    }
    check_roles(env, ty, &used)
}

/// Checks the axes of one dim: they exist, occur once, and divide its size.
fn check_split(env: &Env, d: &TensorDim) -> Result<(), Diagnostic> {
    for (j, axis) in d.axes.iter().enumerate() {
        if axis.0 as usize >= env.mesh.axes().len() {
            return Err(Diagnostic::new(
                "type_t3",
                format!("dim `{}` is split over an axis that the mesh lacks", d.dim.name),
            ));
        }
        if d.axes[..j].contains(axis) {
            let axis = env.mesh.name(*axis);
            let message = format!("dim `{}` is split over axis `{axis}` twice", d.dim.name);
            return Err(Diagnostic::new("type_t5", message).help("name each axis once"));
        }
    }
    let parts = env.mesh.product(&d.axes);
    if d.dim.size.is_multiple_of(parts) {
        return Ok(());
    }
    let names: Vec<_> =
        d.axes.iter().map(|a| format!("{}={}", env.mesh.name(*a), env.mesh.size(*a))).collect();
    Err(Diagnostic::new(
        "type_t4",
        format!(
            "dim `{}` of size {} does not divide into {parts} shards ({})",
            d.dim.name,
            d.dim.size,
            names.join("·")
        ),
    )
    .help(divisor_help(&d.dim.name, d.dim.size, parts)))
}

/// Checks that no axis has two roles in `used`, the roles of the axes of `ty`.
fn check_roles(env: &Env, ty: &Type, used: &[(AxisId, String)]) -> Result<(), Diagnostic> {
    let twice = used.iter().enumerate().find_map(|(i, (axis, role))| {
        used[..i].iter().find(|(a, _)| a == axis).map(|(_, other)| (axis, other, role))
    });
    let Some((axis, other, role)) = twice else { return Ok(()) };
    let free = env.mesh.ids().filter(|a| used.iter().all(|(u, _)| u != a));
    let free: Vec<_> = free.map(|a| format!("`{}`", env.mesh.name(a))).collect();
    let help = if free.is_empty() {
        "no axis is free here: leave one of the two unsplit".to_owned()
    } else {
        format!("axes free for this tensor: {}; or leave one of the two unsplit", free.join(", "))
    };
    let (name, text) = (env.mesh.name(*axis), ty.display(&env.mesh));
    let message = format!("axis `{name}` is used for {other} and {role} of one tensor, {text}");
    Err(Diagnostic::new("type_t5", message).help(help))
}

/// Help for a dim that does not divide: possible numbers of shards, and possible sizes of the dim.
pub fn divisor_help(name: &str, size: usize, parts: usize) -> String {
    let divisors: Vec<String> =
        (1..=size.min(4096)).filter(|d| size.is_multiple_of(*d)).take(16).map(|d| d.to_string()).collect();
    let below = size / parts * parts;
    let near = if below == 0 { format!("{parts}") } else { format!("{below} or {}", below + parts) };
    format!("`{name}` can be split into {} parts; or make it {near}", divisors.join(", "))
}

// Helpers of the families.

fn count(args: &[&Type], want: usize, what: &str) -> Result<(), Diagnostic> {
    if args.len() == want {
        return Ok(());
    }
    Err(Diagnostic::new(
        "op_o1",
        format!("{what} takes {want} operand{}, not {}", if want == 1 { "" } else { "s" }, args.len()),
    ))
}

fn at_least(args: &[&Type], want: usize, what: &str) -> Result<(), Diagnostic> {
    if args.len() >= want {
        return Ok(());
    }
    Err(Diagnostic::new("op_o1", format!("{what} takes at least {want} operands, not {}", args.len())))
}

fn find<'t>(ty: &'t Type, name: &Name, what: &str) -> Result<&'t TensorDim, Diagnostic> {
    ty.dim(name).ok_or_else(|| {
        let known: Vec<&str> = ty.names().map(|n| n.as_str()).collect();
        let list = if known.is_empty() {
            "it has no dims".to_owned()
        } else {
            format!("its dims are {}", known.join(", "))
        };
        Diagnostic::new("op_o2", format!("{what}: the tensor has no dim `{name}`")).help(with_hint(
            name,
            ty.names(),
            &list,
        ))
    })
}

/// Help about an unknown dim: the known name that is nearest to `name`, if one is near, and `rest`.
pub(crate) fn with_hint<'n>(name: &str, known: impl Iterator<Item = &'n Name>, rest: &str) -> String {
    match suggest(name, known.map(|n| n.as_str())) {
        Some(hint) => format!("did you mean `{hint}`? {rest}"),
        None => rest.to_owned(),
    }
}

fn absent(ty: &Type, name: &Name, what: &str) -> Result<(), Diagnostic> {
    if !ty.has(name) {
        return Ok(());
    }
    Err(Diagnostic::new("op_o3", format!("{what}: the tensor already has a dim `{name}`"))
        .help("rename one of the two first"))
}

/// Checks that the dim `name` is not split.
fn whole(env: &Env, ty: &Type, name: &Name, what: &str) -> Result<(), Diagnostic> {
    let d = find(ty, name, what)?;
    if d.axes.is_empty() {
        return Ok(());
    }
    Err(Diagnostic::new(
        "op_o4",
        format!("{what} needs dim `{name}` whole, but it is split: {}", ty.display(&env.mesh)),
    )
    .help("gather it first"))
}

/// Checks an operand in which the operation is not linear: nothing is pending.
fn complete(env: &Env, ty: &Type, what: &str) -> Result<(), Diagnostic> {
    if ty.pending().is_empty() {
        return Ok(());
    }
    Err(Diagnostic::new(
        "op_o5",
        format!("{what} is not linear, but its operand is pending: {}", ty.display(&env.mesh)),
    )
    .help("all-reduce it first"))
}

/// Checks an operand in which the operation is linear: a sum may be pending, but no max or min.
fn linear(env: &Env, ty: &Type, what: &str) -> Result<(), Diagnostic> {
    if ty.max.union(ty.min).is_empty() {
        return Ok(());
    }
    Err(Diagnostic::new("op_o6", format!("{what} takes no pending max or min: {}", ty.display(&env.mesh)))
        .help("all-reduce it first"))
}

fn dtype(ty: &Type, ok: impl Fn(DType) -> bool, want: &str, what: &str) -> Result<(), Diagnostic> {
    if ok(ty.dtype) {
        return Ok(());
    }
    Err(Diagnostic::new("op_o7", format!("{what} takes {want}, not {}", ty.dtype)).help("cast it"))
}

/// Checks a start or predicate: one number of element type `want`, with nothing pending.
fn scalar(env: &Env, ty: &Type, want: DType, what: &str) -> Result<(), Diagnostic> {
    dtype(ty, |d| d == want, want.name(), what)?;
    complete(env, ty, what)?;
    if ty.dims.is_empty() {
        return Ok(());
    }
    Err(Diagnostic::new("op_o8", format!("{what} is one number, not {}", ty.display(&env.mesh))))
}

/// Checks that dims of both tensors have the same size and are split the same way.
fn agree(env: &Env, a: &Type, b: &Type, what: &str) -> Result<(), Diagnostic> {
    for d in &a.dims {
        let Some(e) = b.dim(&d.dim.name) else { continue };
        if d.dim.size != e.dim.size {
            return Err(Diagnostic::new(
                "op_o9",
                format!(
                    "{what}: dim `{}` is {} in one operand and {} in the other",
                    d.dim.name, d.dim.size, e.dim.size
                ),
            )
            .help("dims of one name have one size; rename one of the two if they mean different things"));
        }
        if d.axes != e.axes {
            return Err(Diagnostic::new(
                "op_o10",
                format!(
                    "{what}: dim `{}` is split differently: {} and {}",
                    d.dim.name,
                    a.display(&env.mesh),
                    b.display(&env.mesh)
                ),
            ));
        }
    }
    Ok(())
}

/// The dims of `a`, then those of `b` that `a` lacks.
fn union(a: &Type, b: &Type) -> Vec<TensorDim> {
    let extra = b.dims.iter().filter(|d| !a.has(&d.dim.name));
    a.dims.iter().chain(extra).cloned().collect()
}

fn of(dtype: DType, dims: Vec<TensorDim>, sum: AxisSet) -> Type {
    Type { dtype, dims, sum, max: AxisSet::EMPTY, min: AxisSet::EMPTY }
}

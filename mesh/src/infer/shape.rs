//! Result types of creation and movement.

use super::{absent, at_least, count, find, linear, of, whole};
use crate::{
    AxisId, AxisSet, DType, Diagnostic, Env, Mesh, Name, TensorDim, Type,
    ir::{Edge, Shape},
};

pub(super) fn infer(env: &Env, op: &Shape, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    match op {
        Shape::Constant { dtype, value } => {
            count(args, 0, "a constant")?;
            if !represents(*dtype, *value) {
                return Err(Diagnostic::new("shape_s1", format!("{value} is not a number of type {dtype}")));
            }
            Ok(vec![Type::scalar(*dtype)])
        }
        Shape::Iota { dim, dtype } => {
            count(args, 0, "iota")?;
            if *dtype == DType::Pred {
                return Err(Diagnostic::new("shape_s2", "iota gives numbers, not pred"));
            }
            Ok(vec![of(*dtype, vec![dim.clone()], AxisSet::EMPTY)])
        }
        Shape::Rename { pairs } => {
            count(args, 1, "rename")?;
            rename(args[0], pairs)
        }
        Shape::Reshape { from, to } => {
            count(args, 1, "reshape")?;
            linear(env, args[0], "reshape")?;
            reshape(env, args[0], from, to)
        }
        Shape::Broadcast { dims } => {
            count(args, 1, "broadcast")?;
            linear(env, args[0], "broadcast")?;
            dims.iter().try_for_each(|d| absent(args[0], &d.dim.name, "broadcast"))?;
            Ok(vec![of(args[0].dtype, dims.iter().chain(&args[0].dims).cloned().collect(), args[0].sum)])
        }
        Shape::Slice { dim, start, limit, stride } => {
            count(args, 1, "slice")?;
            slice(env, args[0], dim, *start, *limit, *stride)
        }
        Shape::Pad { dim, low, high, value } => {
            count(args, 1, "pad")?;
            pad(env, args[0], dim, low.saturating_add(*high), *value)
        }
        Shape::Concat { dim } => {
            at_least(args, 1, "concat")?;
            concat(env, args, dim)
        }
        Shape::Shift { dim, by, edge } => {
            count(args, 1, "shift")?;
            shift(env, args[0], dim, *by, *edge)
        }
    }
}

fn slice(
    env: &Env,
    x: &Type,
    dim: &Name,
    start: usize,
    limit: usize,
    stride: usize,
) -> Result<Vec<Type>, Diagnostic> {
    linear(env, x, "slice")?;
    whole(env, x, dim, "slice")?;
    let size = x.size(dim).unwrap_or(0);
    if stride == 0 || start >= limit || limit > size {
        let message = format!("slice {start}..{limit} by {stride} of dim `{dim}`, which has {size} elements");
        return Err(
            Diagnostic::new("shape_s3", message).help(format!("0 <= start < limit <= {size}, stride >= 1"))
        );
    }
    Ok(vec![resized(x, dim, (limit - start).div_ceil(stride))])
}

fn pad(env: &Env, x: &Type, dim: &Name, added: usize, value: f64) -> Result<Vec<Type>, Diagnostic> {
    linear(env, x, "pad")?;
    whole(env, x, dim, "pad")?;
    fill(x, value, "padded with")?;
    Ok(vec![resized(x, dim, x.size(dim).unwrap_or(0).saturating_add(added))])
}

/// Checks a number that new elements of `x` get, when it is `what`, such as "padded with".
fn fill(x: &Type, value: f64, what: &str) -> Result<(), Diagnostic> {
    if !represents(x.dtype, value) {
        let message = format!("{value} is not a number of type {}", x.dtype);
        return Err(Diagnostic::new("shape_s1", message));
    }
    if !x.sum.is_empty() && value != 0.0 {
        let message = format!("a pending sum can be {what} 0 only");
        return Err(Diagnostic::new("shape_s4", message).help("all-reduce it first"));
    }
    Ok(())
}

fn shift(env: &Env, x: &Type, dim: &Name, by: isize, edge: Edge) -> Result<Vec<Type>, Diagnostic> {
    linear(env, x, "shift")?;
    whole(env, x, dim, "shift")?;
    if let Edge::Fill(value) = edge {
        fill(x, value, "shifted with")?;
    }
    let size = x.size(dim).unwrap_or(0);
    if by.unsigned_abs() > size {
        let message = format!("a shift by {by} along dim `{dim}`, which has {size} elements");
        return Err(Diagnostic::new("shape_s10", message).help(format!("shift by -{size} to {size}")));
    }
    Ok(vec![x.clone()])
}

/// True if `dtype` can represent `value` (floats are rounded, whole numbers are not).
fn represents(dtype: DType, value: f64) -> bool {
    match dtype {
        DType::F32 | DType::Bf16 => true,
        DType::S32 => value.fract() == 0.0 && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value),
        DType::U32 => value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value),
        DType::Pred => value == 0.0 || value == 1.0,
    }
}

fn resized(ty: &Type, dim: &Name, size: usize) -> Type {
    let mut ty = ty.clone();
    ty.dims.iter_mut().filter(|d| d.dim.name == *dim).for_each(|d| d.dim.size = size);
    ty
}

fn rename(x: &Type, pairs: &[(Name, Name)]) -> Result<Vec<Type>, Diagnostic> {
    let mut ty = x.clone();
    for (i, (from, to)) in pairs.iter().enumerate() {
        find(x, from, "rename")?;
        if pairs[..i].iter().any(|(f, t)| f == from || t == to) {
            return Err(Diagnostic::new("shape_s5", format!("rename names `{from}` or `{to}` twice")));
        }
    }
    for d in &mut ty.dims {
        if let Some((_, to)) = pairs.iter().find(|(from, _)| *from == d.dim.name) {
            d.dim.name = to.clone();
        }
    }
    Ok(vec![ty])
}

fn reshape(env: &Env, x: &Type, from: &[Name], to: &[TensorDim]) -> Result<Vec<Type>, Diagnostic> {
    let mut old = Vec::new();
    for (i, name) in from.iter().enumerate() {
        old.push(find(x, name, "reshape")?.clone());
        if from[..i].contains(name) {
            return Err(Diagnostic::new("shape_s6", format!("reshape names dim `{name}` twice")));
        }
    }
    let elements = |dims: &[TensorDim]| dims.iter().fold(1usize, |n, d| n.saturating_mul(d.dim.size));
    if elements(&old) != elements(to) {
        let list = |dims: &[TensorDim]| {
            let words: Vec<_> = dims.iter().map(|d| d.dim.to_string()).collect();
            if words.is_empty() { "no dims".into() } else { words.join("·") }
        };
        return Err(Diagnostic::new(
            "shape_s7",
            format!(
                "reshape of {} ({} elements) to {} ({} elements)",
                list(&old),
                elements(&old),
                list(to),
                elements(to)
            ),
        )
        .help("both sides must have the same number of elements"));
    }
    let axes = (flat_axes(&env.mesh, &old), flat_axes(&env.mesh, to));
    if axes.0.is_none() || axes.0 != axes.1 {
        return Err(Diagnostic::new(
            "shape_s8",
            format!("reshape would move data between devices: {}", x.display(&env.mesh)),
        )
        .help("reshard first, so that the major dims of both sides are split over the same axes"));
    }
    let place = from.first().map_or(x.dims.len(), |n| x.position(n).unwrap_or(0));
    let place = x.dims[..place].iter().filter(|d| !from.contains(&d.dim.name)).count();
    let mut dims: Vec<TensorDim> = x.dims.iter().filter(|d| !from.contains(&d.dim.name)).cloned().collect();
    dims.splice(place..place, to.iter().cloned());
    Ok(vec![of(x.dtype, dims, x.sum)])
}

/// Returns the axes that split the row-major merger of `dims`, if each device then holds one contiguous
/// piece. That is the case if a split dim follows only dims of which a device holds one element.
pub fn flat_axes(mesh: &Mesh, dims: &[TensorDim]) -> Option<Vec<AxisId>> {
    let mut axes = Vec::new();
    let mut single = true;
    for d in dims {
        if !d.axes.is_empty() && !single {
            return None;
        }
        axes.extend(&d.axes);
        single &= d.dim.size == mesh.product(&d.axes);
    }
    Some(axes)
}

fn concat(env: &Env, args: &[&Type], dim: &Name) -> Result<Vec<Type>, Diagnostic> {
    let mut size = 0;
    for x in args {
        whole(env, x, dim, "concat")?;
        linear(env, x, "concat")?;
        size = x.size(dim).unwrap_or(0).saturating_add(size);
        if !resized(x, dim, 1).matches(&resized(args[0], dim, 1)) {
            return Err(Diagnostic::new(
                "shape_s9",
                format!(
                    "concat along `{dim}` of {} and {}",
                    args[0].display(&env.mesh),
                    x.display(&env.mesh)
                ),
            )
            .help("all operands must have the same type, except for the size of that dim"));
        }
    }
    Ok(vec![resized(args[0], dim, size)])
}

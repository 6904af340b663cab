//! Result types of indexing operations.

use super::{absent, agree, at_least, complete, count, dtype, find, linear, of, scalar, whole};
use crate::{
    AxisSet, DType, Diagnostic, Dim, Env, Name, TensorDim, Type,
    ir::{Extreme, Index, Outside},
};

pub(super) fn infer(env: &Env, op: &Index, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    match op {
        Index::OneHot { dim, dtype } => {
            count(args, 1, "one_hot")?;
            index(env, args[0], "one_hot")?;
            absent(args[0], &dim.dim.name, "one_hot")?;
            let dims = args[0].dims.iter().chain([dim]).cloned().collect();
            Ok(vec![of(*dtype, dims, AxisSet::EMPTY)])
        }
        Index::Gather { dim, outside } => {
            count(args, 2, "gather")?;
            gather(env, args[0], args[1], dim, *outside)
        }
        Index::ScatterAdd { dim, over } => {
            count(args, 2, "scatter_add")?;
            scatter(env, args[0], args[1], dim, over)
        }
        Index::ScatterExtreme { kind, dim, over } => scatter_extreme(env, args, *kind, dim, over),
        Index::Permute { dim, to } => {
            count(args, 3, "permute")?;
            permute(env, args, dim, to)
        }
        Index::TopK { dim, to } => {
            count(args, 1, "top_k")?;
            top_k(env, args[0], dim, to)
        }
        Index::Sort { dim, descending: _ } => {
            at_least(args, 1, "sort")?;
            sort(env, args, dim)
        }
        Index::CumSum { dim, exclusive: _, reverse: _ } => {
            count(args, 1, "cumsum")?;
            dtype(args[0], |d| d != DType::Pred, "a number", "cumsum")?;
            linear(env, args[0], "cumsum")?;
            whole(env, args[0], dim, "cumsum")?;
            Ok(vec![args[0].clone()])
        }
        Index::DynamicSlice { dim, size } => {
            count(args, 2, "dynamic_slice")?;
            dynamic_slice(env, args[0], args[1], dim, *size)
        }
        Index::DynamicUpdate { dim } => {
            count(args, 3, "dynamic_update")?;
            dynamic_update(env, args[0], args[1], args[2], dim)
        }
    }
}

fn top_k(env: &Env, x: &Type, dim: &Name, to: &Dim) -> Result<Vec<Type>, Diagnostic> {
    dtype(x, |d| d != DType::Pred, "a number", "top_k")?;
    complete(env, x, "top_k")?;
    whole(env, x, dim, "top_k")?;
    let size = x.size(dim).unwrap_or(0);
    if to.size > size {
        let message = format!("top {} of dim `{dim}`, which has {size} elements", to.size);
        return Err(Diagnostic::new("index_i1", message).help(format!("k is at most {size}")));
    }
    let mut ty = x.clone();
    if to.name != *dim {
        absent(&ty, &to.name, "top_k")?;
    }
    ty.dims.iter_mut().filter(|d| d.dim.name == *dim).for_each(|d| d.dim = to.clone());
    let positions = ty.with_dtype(DType::S32);
    Ok(vec![ty, positions])
}

fn sort(env: &Env, args: &[&Type], dim: &Name) -> Result<Vec<Type>, Diagnostic> {
    dtype(args[0], |d| d != DType::Pred, "a number as key", "sort")?;
    for x in args {
        complete(env, x, "sort")?;
        whole(env, x, dim, "sort")?;
        if !x.with_dtype(args[0].dtype).matches(args[0]) {
            let message = format!("sort of {} with {}", args[0].display(&env.mesh), x.display(&env.mesh));
            return Err(
                Diagnostic::new("index_i2", message).help("the key and all payloads must have the same dims")
            );
        }
    }
    Ok(args.iter().map(|x| of(x.dtype, args[0].dims.clone(), AxisSet::EMPTY)).collect())
}

fn dynamic_slice(
    env: &Env,
    x: &Type,
    start: &Type,
    dim: &Name,
    size: usize,
) -> Result<Vec<Type>, Diagnostic> {
    linear(env, x, "dynamic_slice")?;
    whole(env, x, dim, "dynamic_slice")?;
    scalar(env, start, DType::S32, "the start of dynamic_slice")?;
    let have = x.size(dim).unwrap_or(0);
    if size > have {
        let message = format!("dynamic_slice of {size} elements of dim `{dim}`, which has {have}");
        return Err(Diagnostic::new("index_i3", message));
    }
    let mut ty = x.clone();
    ty.dims.iter_mut().filter(|d| d.dim.name == *dim).for_each(|d| d.dim.size = size);
    Ok(vec![ty])
}

fn dynamic_update(
    env: &Env,
    x: &Type,
    update: &Type,
    start: &Type,
    dim: &Name,
) -> Result<Vec<Type>, Diagnostic> {
    linear(env, x, "dynamic_update")?;
    whole(env, x, dim, "dynamic_update")?;
    scalar(env, start, DType::S32, "the start of dynamic_update")?;
    let mut part = x.clone();
    let size = find(update, dim, "dynamic_update")?.dim.size;
    part.dims.iter_mut().filter(|d| d.dim.name == *dim).for_each(|d| d.dim.size = size);
    if !part.matches(update) || size > x.size(dim).unwrap_or(0) {
        let message =
            format!("dynamic_update of {} with {}", x.display(&env.mesh), update.display(&env.mesh));
        return Err(Diagnostic::new("index_i4", message)
            .help(format!("the update must have the same type, with `{dim}` of at most the same size")));
    }
    Ok(vec![x.clone()])
}

fn index(env: &Env, ty: &Type, what: &str) -> Result<(), Diagnostic> {
    dtype(ty, |d| d == DType::S32, "an s32 index", what)?;
    complete(env, ty, "an index")
}

fn gather(env: &Env, x: &Type, idx: &Type, dim: &Name, outside: Outside) -> Result<Vec<Type>, Diagnostic> {
    linear(env, x, "gather")?;
    index(env, idx, "gather")?;
    absent(idx, dim, "gather's index")?;
    let gone = find(x, dim, "gather")?;
    if outside == Outside::Clamp {
        whole(env, x, dim, "a clamping gather")?;
    }
    agree(env, x, idx, "gather")?;
    let rest = x.dims.iter().filter(|d| d.dim.name != *dim && !idx.has(&d.dim.name));
    let dims = idx.dims.iter().chain(rest).cloned().collect();
    Ok(vec![of(x.dtype, dims, x.sum.union(gone.axes.iter().copied().collect()))])
}

fn scatter(
    env: &Env,
    idx: &Type,
    updates: &Type,
    dim: &TensorDim,
    over: &[Name],
) -> Result<Vec<Type>, Diagnostic> {
    linear(env, updates, "scatter_add")?;
    index(env, idx, "scatter_add")?;
    dtype(updates, |d| d != DType::Pred, "numbers", "scatter_add")?;
    agree(env, idx, updates, "scatter_add")?;
    absent(updates, &dim.dim.name, "scatter_add")?;
    for name in idx.names() {
        find(updates, name, "scatter_add's updates")?;
    }
    let gone = removed(idx, over, "scatter_add")?;
    let batch = idx.dims.iter().filter(|d| !over.contains(&d.dim.name));
    let rest = updates.dims.iter().filter(|d| !idx.has(&d.dim.name));
    let dims = batch.chain([dim]).chain(rest).cloned().collect();
    Ok(vec![of(updates.dtype, dims, updates.sum.union(gone))])
}

/// The axes of the dims `over` of a scatter's index.
fn removed(idx: &Type, over: &[Name], what: &str) -> Result<AxisSet, Diagnostic> {
    let mut gone = AxisSet::EMPTY;
    for (i, name) in over.iter().enumerate() {
        gone = gone.union(find(idx, name, &format!("{what}'s index"))?.axes.iter().copied().collect());
        if over[..i].contains(name) {
            return Err(Diagnostic::new("index_i5", format!("{what} removes dim `{name}` twice")));
        }
    }
    Ok(gone)
}

fn scatter_extreme(
    env: &Env,
    args: &[&Type],
    kind: Extreme,
    dim: &Name,
    over: &[Name],
) -> Result<Vec<Type>, Diagnostic> {
    let what = match kind {
        Extreme::Max => "scatter_max",
        Extreme::Min => "scatter_min",
    };
    count(args, 3, what)?;
    let (x, idx, updates) = (args[0], args[1], args[2]);
    dtype(x, |d| d != DType::Pred, "a number", what)?;
    complete(env, x, what)?;
    index(env, idx, what)?;
    complete(env, updates, what)?;
    find(x, dim, what)?;
    absent(updates, dim, &format!("{what}'s updates"))?;
    for name in idx.names() {
        find(updates, name, &format!("{what}'s updates"))?;
    }
    let gone = removed(idx, over, what)?;
    for (a, b) in [(idx, updates), (x, idx), (x, updates)] {
        agree(env, a, b, what)?;
    }
    let kept = updates.names().filter(|n| !over.contains(n));
    let mut expected: Vec<&Name> = kept.chain([dim]).collect();
    let mut have: Vec<&Name> = x.names().collect();
    expected.sort();
    have.sort();
    if x.dtype != updates.dtype || have != expected {
        let message =
            format!("{what} of {} with updates {}", x.display(&env.mesh), updates.display(&env.mesh));
        let names: Vec<&str> = over.iter().map(|n| n.as_str()).collect();
        return Err(Diagnostic::new("index_i7", message).help(format!(
            "the updates have the element type and the dims of the tensor, with [{}] in place of `{dim}`",
            names.join(", ")
        )));
    }
    let mut ty = x.clone();
    match kind {
        Extreme::Max => ty.max = gone,
        Extreme::Min => ty.min = gone,
    }
    Ok(vec![ty])
}

fn permute(env: &Env, args: &[&Type], dim: &Name, to: &Name) -> Result<Vec<Type>, Diagnostic> {
    let (x, forward, inverse) = (args[0], args[1], args[2]);
    linear(env, x, "permute")?;
    index(env, forward, "permute")?;
    index(env, inverse, "permute")?;
    whole(env, x, dim, "permute")?;
    whole(env, forward, to, "permute's forward index")?;
    whole(env, inverse, dim, "permute's inverse index")?;
    absent(x, to, "permute")?;
    absent(forward, dim, "permute's forward index")?;
    absent(inverse, to, "permute's inverse index")?;
    agree(env, x, forward, "permute")?;
    agree(env, x, inverse, "permute")?;
    let batch =
        |ty: &Type, but: &Name| ty.dims.iter().filter(|d| d.dim.name != *but).cloned().collect::<Vec<_>>();
    let (f, i) = (batch(forward, to), batch(inverse, dim));
    if f.len() != i.len() || !f.iter().all(|d| i.contains(d) && x.has(&d.dim.name)) {
        return Err(Diagnostic::new(
            "index_i6",
            format!("permute by {} and {}", forward.display(&env.mesh), inverse.display(&env.mesh)),
        )
        .help(format!(
            "besides `{to}` and `{dim}`, both must have the same dims, all of which the tensor has"
        )));
    }
    let rest = x.dims.iter().filter(|d| d.dim.name != *dim && !forward.has(&d.dim.name));
    Ok(vec![of(x.dtype, forward.dims.iter().chain(rest).cloned().collect(), x.sum)])
}

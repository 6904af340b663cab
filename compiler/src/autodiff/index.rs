//! Gradients of movement by index. Indices have no gradient.

use super::{
    shape::fresh,
    tape::{Bwd, Outcome, Tape},
};
use mesh::{
    DType, Name, TensorDim, Type, Value,
    ir::{Binary, Compare, Index, Outside, Shape},
};

pub(super) fn pull(
    t: &mut Tape,
    op: &Index,
    args: &[Value],
    results: &[Value],
    cts: &[Option<Bwd>],
) -> Outcome {
    if let Index::Sort { dim, descending } = op {
        return sort(t, dim, *descending, args, cts);
    }
    let g = cts[0].expect("only the first result of these operations is a float, and a cotangent is there");
    match op {
        Index::OneHot { .. } | Index::Sort { .. } => Ok(()),
        Index::Gather { dim, outside } => {
            let ct = gather(t, dim, *outside, args[0], args[1], g)?;
            t.give(args[0], ct)
        }
        Index::ScatterAdd { dim, over: _ } => {
            let g = t.with_dims(g, [dim])?;
            let index = t.primal(args[0]);
            let back = Index::Gather { dim: dim.dim.name.clone(), outside: Outside::Zero };
            let ct = t.emit1(back, &[g, index])?;
            t.give(args[1], ct)
        }
        Index::ScatterExtreme { kind: _, dim, over } => scatter_extreme(t, dim, over, args, results[0], g),
        Index::Permute { dim, to } => {
            let (forward, inverse) = (t.primal(args[1]), t.primal(args[2]));
            let needed = t.ty(forward).dims.clone();
            let g = t.with_dims(g, &needed)?;
            let back = Index::Permute { dim: to.clone(), to: dim.clone() };
            let ct = t.emit1(back, &[g, inverse, forward])?;
            t.give(args[0], ct)
        }
        Index::TopK { dim, to } => {
            let positions = t.primal(results[1]);
            let ct = top_k(t, args[0], dim, &to.name, positions, g)?;
            t.give(args[0], ct)
        }
        Index::CumSum { dim, exclusive, reverse } => {
            let g = t.with_dims(g, find(t.forward_ty(args[0]), dim).as_ref())?;
            let back = Index::CumSum { dim: dim.clone(), exclusive: *exclusive, reverse: !*reverse };
            let ct = t.emit1(back, &[g])?;
            t.give(args[0], ct)
        }
        Index::DynamicSlice { dim, size: _ } => {
            let start = t.primal(args[1]);
            let g = t.with_dims(g, find(t.forward_ty(results[0]), dim).as_ref())?;
            let zeros = zeros_like(t, g, t.forward_ty(args[0]).clone())?;
            let ct = t.emit1(Index::DynamicUpdate { dim: dim.clone() }, &[zeros, g, start])?;
            t.give(args[0], ct)
        }
        Index::DynamicUpdate { dim } => dynamic_update(t, dim, args, g),
    }
}

fn find(ty: &Type, dim: &Name) -> Option<TensorDim> {
    ty.dim(dim).cloned()
}

/// Zeros of type `ty`, without the dims that `g` lacks.
fn zeros_like(t: &mut Tape, g: Bwd, mut ty: Type) -> Outcome<Bwd> {
    let have = t.ty(g);
    ty.dims.retain(|d| have.has(&d.dim.name));
    t.zeros(&ty)
}

/// Adds `g` at the positions it was read from. bf16 is added in float32, because many elements may meet at
/// one position.
fn scatter(t: &mut Tape, index: Bwd, g: Bwd, dim: TensorDim, over: Vec<Name>) -> Outcome<Bwd> {
    let needed = t.ty(index).dims.clone();
    let dtype = t.ty(g).dtype;
    let updates = if over.is_empty() { g } else { t.cast(g, DType::F32)? };
    let updates = t.with_dims(updates, &needed)?;
    let sum = t.emit1(Index::ScatterAdd { dim, over }, &[index, updates])?;
    t.cast(sum, dtype)
}

fn gather(t: &mut Tape, dim: &Name, outside: Outside, x: Value, index: Value, g: Bwd) -> Outcome<Bwd> {
    let ty = t.forward_ty(x);
    let gone = find(ty, dim).expect("a gather's dim is in its operand");
    let over: Vec<Name> = t.forward_ty(index).names().filter(|n| !ty.has(n)).cloned().collect();
    let mut index = t.primal(index);
    match outside {
        Outside::Zero => {}
        Outside::Clamp => {
            let (first, last) =
                (t.constant(DType::S32, 0.0)?, t.constant(DType::S32, gone.dim.size as f64 - 1.0)?);
            index = t.binary(Binary::Max, index, first)?;
            index = t.binary(Binary::Min, index, last)?;
        }
    }
    scatter(t, index, g, gone, over)
}

/// Divides the cotangent of each element equally between the element before and the updates that equal it.
fn scatter_extreme(
    t: &mut Tape,
    dim: &Name,
    over: &[Name],
    args: &[Value],
    result: Value,
    g: Bwd,
) -> Outcome {
    let (x, updates) = (args[0], args[2]);
    let dtype = t.forward_ty(x).dtype;
    let along = find(t.forward_ty(x), dim).expect("the dim of a scatter is in its operand");
    let (index, y) = (t.primal(args[1]), t.primal(result));
    let read = || Index::Gather { dim: dim.clone(), outside: Outside::Zero };
    let (old, new) = (t.primal(x), t.primal(updates));
    let stays = t.compare(Compare::Eq, old, y)?;
    let stays = t.cast(stays, DType::F32)?;
    let reached = t.emit1(read(), &[y, index])?;
    let arrives = t.compare(Compare::Eq, new, reached)?;
    let arrives = t.cast(arrives, DType::F32)?;
    let count = t.emit1(Index::ScatterAdd { dim: along, over: over.to_vec() }, &[index, arrives])?;
    let count = t.binary(Binary::Add, stays, count)?;
    let g = t.cast(g, DType::F32)?;
    let share = t.binary(Binary::Div, g, count)?;
    if t.wants(x) {
        let ct = t.mul(stays, share)?;
        let ct = t.cast(ct, dtype)?;
        t.give(x, ct)?;
    }
    if t.wants(updates) {
        let share = t.emit1(read(), &[share, index])?;
        let ct = t.mul(arrives, share)?;
        let ct = t.cast(ct, dtype)?;
        t.give(updates, ct)?;
    }
    Ok(())
}

/// Scatters each value to its position; positions are distinct.
fn top_k(t: &mut Tape, x: Value, dim: &Name, to: &Name, positions: Bwd, g: Bwd) -> Outcome<Bwd> {
    let gone = find(t.forward_ty(x), dim).expect("the dim of top_k is in its operand");
    let needed = t.ty(positions).dims.clone();
    let (mut positions, mut g) = (positions, t.with_dims(g, &needed)?);
    let mut over = to.clone();
    if to == dim {
        over = fresh(t.ty(g), "rank");
        let pairs = vec![(to.clone(), over.clone())];
        positions = t.emit1(Shape::Rename { pairs: pairs.clone() }, &[positions])?;
        g = t.emit1(Shape::Rename { pairs }, &[g])?;
    }
    t.emit1(Index::ScatterAdd { dim: gone, over: vec![over] }, &[positions, g])
}

/// Sorts again with the positions as payload; sorting by these moves the cotangents back. (A scatter would do
/// too, but sorts run well on every device.)
fn sort(t: &mut Tape, dim: &Name, descending: bool, args: &[Value], cts: &[Option<Bwd>]) -> Outcome {
    let ty = t.forward_ty(args[0]).clone();
    let along = find(&ty, dim).expect("the dim of a sort is in its operands");
    let key = t.primal(args[0]);
    let iota = t.emit1(Shape::Iota { dim: along, dtype: DType::S32 }, &[])?;
    let iota = t.with_dims(iota, &ty.dims)?;
    let order = t.emit(super::Op::Index(Index::Sort { dim: dim.clone(), descending }), &[key, iota])?[1];
    let mut operands = vec![order];
    let mut owners = Vec::new();
    for (arg, ct) in args.iter().zip(cts) {
        if let Some(ct) = ct
            && t.wants(*arg)
        {
            operands.push(t.with_dims(*ct, &ty.dims)?);
            owners.push(*arg);
        }
    }
    let back = t.emit(super::Op::Index(Index::Sort { dim: dim.clone(), descending: false }), &operands)?;
    owners.into_iter().zip(&back[1..]).try_for_each(|(arg, ct)| t.give(arg, *ct))
}

fn dynamic_update(t: &mut Tape, dim: &Name, args: &[Value], g: Bwd) -> Outcome {
    let (x, update) = (args[0], args[1]);
    let part = find(t.forward_ty(update), dim).expect("the dim of dynamic_update is in its update");
    if t.wants(x) {
        let start = t.primal(args[2]);
        let g = t.with_dims(g, find(t.forward_ty(x), dim).as_ref())?;
        let zeros = zeros_like(t, g, t.forward_ty(update).clone())?;
        let ct = t.emit1(Index::DynamicUpdate { dim: dim.clone() }, &[g, zeros, start])?;
        t.give(x, ct)?;
    }
    if t.wants(update) {
        // The update lies entirely inside, so a cotangent that is constant along `dim` stays as it is.
        let ct = if t.ty(g).has(dim) {
            let start = t.primal(args[2]);
            t.emit1(Index::DynamicSlice { dim: dim.clone(), size: part.dim.size }, &[g, start])?
        } else {
            g
        };
        t.give(update, ct)?;
    }
    Ok(())
}

//! Gradients of creation and movement.

use super::tape::{Bwd, Outcome, Tape};
use mesh::{
    Dim, Name, TensorDim, Type, Value,
    ir::{Edge, Shape},
};

pub(super) fn pull(t: &mut Tape, op: &Shape, args: &[Value], g: Bwd) -> Outcome {
    match op {
        Shape::Constant { .. } | Shape::Iota { .. } => Ok(()),
        Shape::Rename { pairs } => {
            let back = pairs.iter().filter(|(_, to)| t.ty(g).has(to));
            let pairs: Vec<(Name, Name)> = back.map(|(from, to)| (to.clone(), from.clone())).collect();
            let ct = if pairs.is_empty() { g } else { t.emit1(Shape::Rename { pairs }, &[g])? };
            t.give(args[0], ct)
        }
        Shape::Reshape { from, to } => {
            let ct = reshape(t, args[0], from, to, g)?;
            t.give(args[0], ct)
        }
        Shape::Broadcast { dims } => {
            let ct = t.sum_over(g, dims)?;
            t.give(args[0], ct)
        }
        Shape::Slice { dim, start, limit, stride } => {
            let ct = slice(t, args[0], dim, (*start, *limit, *stride), g)?;
            t.give(args[0], ct)
        }
        Shape::Pad { dim, low, .. } => {
            let size = t.forward_ty(args[0]).size(dim).unwrap_or(0);
            let ct = part(t, g, dim, *low, size)?;
            t.give(args[0], ct)
        }
        Shape::Concat { dim } => {
            let mut start = 0;
            for x in args {
                let size = t.forward_ty(*x).size(dim).unwrap_or(0);
                if t.wants(*x) {
                    let ct = part(t, g, dim, start, size)?;
                    t.give(*x, ct)?;
                }
                start += size;
            }
            Ok(())
        }
        Shape::Shift { dim, by, edge } => {
            let ct = shift(t, args[0], dim, -by, *edge, g)?;
            t.give(args[0], ct)
        }
    }
}

/// Moves the elements back. A cotangent that is constant along `dim` stays as it is in a roll.
fn shift(t: &mut Tape, x: Value, dim: &Name, by: isize, edge: Edge, g: Bwd) -> Outcome<Bwd> {
    let edge = match edge {
        Edge::Fill(_) => Edge::Fill(0.0),
        Edge::Wrap => Edge::Wrap,
    };
    if edge == Edge::Wrap && !t.ty(g).has(dim) {
        return Ok(g);
    }
    let size = t.forward_ty(x).size(dim).unwrap_or(0);
    let g = t.with_dims(g, &[whole(dim, size)])?;
    t.emit1(Shape::Shift { dim: dim.clone(), by, edge }, &[g])
}

/// Elements `start .. start + size`. A cotangent that is constant along `dim` stays as it is.
fn part(t: &mut Tape, g: Bwd, dim: &Name, start: usize, size: usize) -> Outcome<Bwd> {
    match t.ty(g).size(dim) {
        None => Ok(g),
        Some(all) if all == size => Ok(g),
        Some(_) => t.emit1(Shape::Slice { dim: dim.clone(), start, limit: start + size, stride: 1 }, &[g]),
    }
}

fn reshape(t: &mut Tape, x: Value, from: &[Name], to: &[TensorDim], g: Bwd) -> Outcome<Bwd> {
    if to.iter().all(|d| !t.ty(g).has(&d.dim.name)) {
        return Ok(g);
    }
    let whole = t.with_dims(g, to)?;
    let ty = t.forward_ty(x);
    let back = from.iter().filter_map(|n| ty.dim(n)).cloned().collect();
    let names = to.iter().map(|d| d.dim.name.clone()).collect();
    t.emit1(Shape::Reshape { from: names, to: back }, &[whole])
}

/// Puts the elements back where they were taken from, between zeros.
fn slice(
    t: &mut Tape,
    x: Value,
    dim: &Name,
    (start, limit, stride): (usize, usize, usize),
    g: Bwd,
) -> Outcome<Bwd> {
    let size = t.forward_ty(x).size(dim).unwrap_or(0);
    let count = (limit - start).div_ceil(stride);
    let mut g = t.with_dims(g, &[whole(dim, count)])?;
    let mut length = count;
    if stride > 1 && count > 1 {
        // Each element becomes the first of a row of `stride` elements.
        let row = fresh(t.ty(g), "row");
        let zeros = stride - 1;
        let split = Shape::Reshape { from: vec![dim.clone()], to: vec![whole(dim, count), whole(&row, 1)] };
        g = t.emit1(split, &[g])?;
        g = t.emit1(Shape::Pad { dim: row.clone(), low: 0, high: zeros, value: 0.0 }, &[g])?;
        let join = Shape::Reshape { from: vec![dim.clone(), row], to: vec![whole(dim, count * stride)] };
        g = t.emit1(join, &[g])?;
        length = (count * stride).min(size - start);
        g = part(t, g, dim, 0, length)?;
    }
    let high = size - start - length;
    if start == 0 && high == 0 {
        return Ok(g);
    }
    t.emit1(Shape::Pad { dim: dim.clone(), low: start, high, value: 0.0 }, &[g])
}

fn whole(name: &Name, size: usize) -> TensorDim {
    TensorDim { dim: Dim::new(name, size), axes: Vec::new() }
}

/// A name that no dim of `ty` has.
pub(super) fn fresh(ty: &Type, stem: &str) -> Name {
    let mut name = stem.to_owned();
    while ty.has(&name) {
        name.push('_');
    }
    name.into()
}

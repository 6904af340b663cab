//! Folding rules for creation and movement.

use super::Folder;
use mesh::{Name, Op, Value, ir::Shape};

pub(super) fn rewrite(f: &mut Folder, op: &Shape, args: &[Value], result: Value) -> Option<Value> {
    match op {
        Shape::Constant { .. } | Shape::Iota { .. } => None,
        Shape::Rename { pairs } => rename(f, pairs, args[0]),
        Shape::Reshape { from, to } => {
            if f.ty(args[0]) == f.ty(result) && from.iter().eq(to.iter().map(|d| &d.dim.name)) {
                return Some(args[0]);
            }
            let (Op::Shape(Shape::Reshape { from: first, to: middle }), inner) = f.def(args[0])? else {
                return splatted(f, args[0], result);
            };
            if !middle.iter().map(|d| &d.dim.name).eq(from) {
                return None;
            }
            let (op, x) = (Shape::Reshape { from: first.clone(), to: to.clone() }, inner[0]);
            f.emit1(Op::Shape(op), &[x])
        }
        Shape::Broadcast { dims } => {
            if dims.is_empty() {
                return Some(args[0]);
            }
            let (Op::Shape(Shape::Broadcast { dims: first }), inner) = f.def(args[0])? else { return None };
            let (dims, x) = ([&dims[..], first].concat(), inner[0]);
            f.emit1(Op::Shape(Shape::Broadcast { dims }), &[x])
        }
        Shape::Slice { .. } => (f.ty(args[0]) == f.ty(result)).then_some(args[0]),
        Shape::Pad { low: 0, high: 0, .. } => Some(args[0]),
        Shape::Pad { .. } => None,
        Shape::Concat { .. } => (args.len() == 1).then_some(args[0]),
        Shape::Shift { by, .. } => (*by == 0).then_some(args[0]),
    }
}

fn rename(f: &mut Folder, pairs: &[(Name, Name)], x: Value) -> Option<Value> {
    if pairs.iter().all(|(from, to)| from == to) {
        return Some(x);
    }
    if pairs.iter().any(|(from, to)| from == to) {
        let pairs = pairs.iter().filter(|(from, to)| from != to).cloned().collect();
        return f.emit1(Op::Shape(Shape::Rename { pairs }), &[x]);
    }
    match f.def(x)? {
        // A rename of several dims at once may be an exchange between devices, and stays as it is.
        (Op::Shape(Shape::Rename { pairs: first }), inner) if first.len() == 1 && pairs.len() == 1 => {
            let inner = inner[0];
            let ((a, b), (c, d)) = (&first[0], &pairs[0]);
            if b == c {
                return f.emit1(Op::Shape(Shape::Rename { pairs: vec![(a.clone(), d.clone())] }), &[inner]);
            }
            None
        }
        (Op::Shape(Shape::Rename { pairs: first }), inner) => {
            // The second exactly undoes the first.
            let undone = first.len() == pairs.len()
                && first.iter().all(|(a, b)| pairs.iter().any(|(c, d)| (b, a) == (c, d)));
            undone.then_some(inner[0])
        }
        _ => None,
    }
}

/// A reshape of a splat constant.
fn splatted(f: &mut Folder, x: Value, result: Value) -> Option<Value> {
    let number = f.splat(x)?;
    let ty = f.ty(result).clone();
    f.full(&ty, number)
}

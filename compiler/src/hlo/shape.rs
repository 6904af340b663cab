//! Creation and movement.

use super::{Emitter, Tensor, primitive};
use mesh::{
    Name, Type,
    ir::{Edge, Shape},
};

impl Emitter<'_> {
    pub(super) fn shape_op(&mut self, op: &Shape, args: &[Tensor], result: &Type) -> Tensor {
        match op {
            Shape::Constant { dtype, value } => Tensor::scalar(self.b.constant(primitive(*dtype), *value)),
            Shape::Iota { dim, dtype } => {
                let local = dim.dim.size / self.mesh().product(&dim.axes);
                // Counted in s32 and then converted: a float sum of offset and position may round twice.
                let ty = primitive(*dtype);
                let whole = if dtype.is_float() { proto::xla::PrimitiveType::S32 } else { ty };
                let hlo = self.positions(&dim.axes, local, whole);
                Tensor::new(self.b.convert(hlo, ty), vec![dim.dim.name.clone()])
            }
            Shape::Rename { pairs } => {
                let rename =
                    |n: &Name| pairs.iter().find(|(from, _)| from == n).map_or(n, |(_, to)| to).clone();
                Tensor::new(args[0].hlo, args[0].order.iter().map(rename).collect())
            }
            Shape::Reshape { from, to } => {
                let to: Vec<Name> = to.iter().map(|d| d.dim.name.clone()).collect();
                self.regroup(&args[0], from, &to, result)
            }
            Shape::Broadcast { dims } => {
                let new = dims.iter().map(|d| d.dim.name.clone());
                let order: Vec<Name> = new.chain(args[0].order.iter().cloned()).collect();
                let sizes = self.local_sizes(result, &order);
                Tensor::new(self.expanded(&args[0], &order, &sizes), order)
            }
            Shape::Slice { dim, start, limit, stride } => {
                let at = args[0].position(dim);
                args[0].with(self.b.slice(args[0].hlo, at, *start, *limit, *stride))
            }
            Shape::Pad { dim, low, high, value } => {
                let at = args[0].position(dim);
                let value = self.b.constant(self.b.dtype(args[0].hlo), *value);
                args[0].with(self.b.pad(args[0].hlo, value, at, *low, *high))
            }
            Shape::Concat { dim } => {
                let order = args[0].order.clone();
                let parts: Vec<_> = args.iter().map(|x| self.ordered(x, &order)).collect();
                Tensor::new(self.b.concatenate(&parts, args[0].position(dim)), order)
            }
            Shape::Shift { dim, by, edge } => self.shift(&args[0], dim, *by, *edge),
        }
    }

    /// Moves elements along a dim that is not split.
    fn shift(&mut self, x: &Tensor, dim: &Name, by: isize, edge: Edge) -> Tensor {
        let at = x.position(dim);
        let size = self.b.sizes(x.hlo)[at];
        match edge {
            Edge::Fill(value) => {
                let count = by.unsigned_abs();
                let (low, high) = if by > 0 { (count, 0) } else { (0, count) };
                let value = self.b.constant(self.b.dtype(x.hlo), value);
                let padded = self.b.pad(x.hlo, value, at, low, high);
                x.with(self.b.slice(padded, at, high, high + size, 1))
            }
            Edge::Wrap => {
                let count = by.rem_euclid(size as isize) as usize;
                if count == 0 {
                    return x.clone();
                }
                let last = self.b.slice(x.hlo, at, size - count, size, 1);
                let first = self.b.slice(x.hlo, at, 0, size - count, 1);
                x.with(self.b.concatenate(&[last, first], at))
            }
        }
    }

    /// Reshapes the dims `from` into the dims `to`. In memory `from` must be adjacent and in order; otherwise
    /// they are moved to the position of the first of them.
    fn regroup(&mut self, x: &Tensor, from: &[Name], to: &[Name], result: &Type) -> Tensor {
        let at = from.first().map_or(x.order.len(), |n| x.position(n));
        let before: Vec<Name> = x.order[..at].iter().filter(|n| !from.contains(n)).cloned().collect();
        let after: Vec<Name> = x.order[at..].iter().filter(|n| !from.contains(n)).cloned().collect();
        let hlo = self.ordered(x, &[&before[..], from, &after[..]].concat());
        let order = [&before[..], to, &after[..]].concat();
        let sizes = self.local_sizes(result, &order);
        Tensor::new(self.b.reshape(hlo, &sizes), order)
    }
}

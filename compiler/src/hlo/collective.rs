//! Communication over mesh axes.

use super::{Combine, Emitter, Tensor};
use mesh::{
    AxisId, Name, Type,
    ir::{Collective, Owed},
};
use proto::xla::PrimitiveType;

impl Emitter<'_> {
    pub(super) fn collective(&mut self, op: &Collective, x: &Tensor, ty: &Type) -> Tensor {
        match op {
            Collective::AllReduce { kind, axes } => {
                let pred = self.b.dtype(x.hlo) == PrimitiveType::Pred;
                let combine = match (kind, pred) {
                    (Owed::Sum, _) => Combine::Add,
                    (Owed::Max, false) => Combine::Max,
                    (Owed::Max, true) => Combine::Or,
                    (Owed::Min, false) => Combine::Min,
                    (Owed::Min, true) => Combine::And,
                };
                let groups = self.mesh().groups(&axes.iter().collect::<Vec<_>>());
                x.with(self.b.all_reduce(combine, x.hlo, &groups))
            }
            Collective::AllGather { dim, axes } => {
                let groups = self.mesh().groups(axes);
                x.with(self.b.all_gather(x.hlo, x.position(dim), &groups))
            }
            Collective::ReduceScatter { dim, axes } => {
                let groups = self.mesh().groups(axes);
                x.with(self.b.reduce_scatter(x.hlo, x.position(dim), &groups))
            }
            Collective::AllToAll { from, to, axes } => self.all_to_all(x, from, to, axes),
            Collective::Shard { dim, axes } => {
                let at = x.position(dim);
                let mut sizes = self.b.sizes(x.hlo);
                sizes[at] /= self.mesh().product(axes);
                let Some(start) = self.shard_offset(axes, sizes[at]) else { return x.clone() };
                let starts = self.starts(sizes.len(), at, start);
                x.with(self.b.dynamic_slice(x.hlo, &starts, &sizes))
            }
            Collective::Owe { axes } => {
                let axes: Vec<AxisId> = axes.iter().collect();
                let index = self.index_along(&axes);
                let zero = self.b.constant(PrimitiveType::S32, 0.0);
                let first = self.b.compare("EQ", index, zero);
                let sizes = self.b.sizes(x.hlo);
                let first = self.b.broadcast(first, &sizes, &[]);
                let nothing = self.b.splat_like(x.hlo, 0.0);
                debug_assert!(ty.sum.intersect(axes.into_iter().collect()).is_empty());
                x.with(self.b.select(first, x.hlo, nothing))
            }
        }
    }

    /// Dim `to` is cut into one part for each device of the group, the parts travel, and what arrives from
    /// the devices is joined along `from`.
    fn all_to_all(&mut self, x: &Tensor, from: &Name, to: &Name, axes: &[AxisId]) -> Tensor {
        let count = self.mesh().product(axes);
        let at = x.position(to);
        let mut sizes = self.b.sizes(x.hlo);
        sizes[at] /= count;
        sizes.insert(at, count);
        let cut = self.b.reshape(x.hlo, &sizes);
        // The sender's number leads before anything moves, so that each part is one piece.
        let mut order: Vec<usize> = (0..sizes.len()).filter(|i| *i != at).collect();
        order.insert(0, at);
        let cut = self.b.transpose(cut, &order);
        let moved = self.b.all_to_all(cut, 0, &self.mesh().groups(axes));
        // Dimension 0 now says who sent; it joins `from` as its major part.
        let place = x.position(from);
        let mut order: Vec<usize> = (1..sizes.len()).collect();
        order.insert(place, 0);
        let moved = self.b.transpose(moved, &order);
        let mut joined = self.b.sizes(moved);
        joined.remove(place);
        joined[place] *= count;
        x.with(self.b.reshape(moved, &joined))
    }
}

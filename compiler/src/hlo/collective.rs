//! Communication over mesh axes.

use super::{Combine, Emitter, Hlo, Tensor};
use mesh::{
    AxisId, Name, Type,
    ir::{Collective, Pending},
};
use proto::xla::PrimitiveType;
use std::ops::Range;

/// TPUs pad the last dimension of an array in memory to a multiple of this.
const LANES: usize = 128;

/// The dimensions of an array to merge so that each merged dimension fills [`LANES`]: from the last dimension
/// on, as few as possible.
fn as_one(sizes: &[usize]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = sizes.len();
    while start > 0 {
        let end = start;
        let mut size = 1;
        while start > 0 && size < LANES {
            start -= 1;
            size *= sizes[start];
        }
        parts.push(start..end);
    }
    parts.reverse();
    parts
}

impl Emitter<'_> {
    pub(super) fn collective(&mut self, op: &Collective, x: &Tensor, ty: &Type) -> Tensor {
        match op {
            Collective::AllReduce { kind, axes } => {
                let pred = self.b.dtype(x.hlo) == PrimitiveType::Pred;
                let combine = match (kind, pred) {
                    (Pending::Sum, _) => Combine::Add,
                    (Pending::Max, false) => Combine::Max,
                    (Pending::Max, true) => Combine::Or,
                    (Pending::Min, false) => Combine::Min,
                    (Pending::Min, true) => Combine::And,
                };
                let groups = self.mesh().groups(&axes.iter().collect::<Vec<_>>());
                x.with(self.b.all_reduce(combine, x.hlo, &groups))
            }
            Collective::AllGather { dim, axes } => {
                let at = x.position(dim);
                let (groups, times) = (self.mesh().groups(axes), self.mesh().product(axes));
                let gathered = self.gathered_as_one(x, at, times, &groups);
                x.with(gathered.unwrap_or_else(|| self.b.all_gather(x.hlo, at, &groups)))
            }
            Collective::ReduceScatter { dim, axes } => {
                let groups = self.mesh().groups(axes);
                x.with(self.b.reduce_scatter(x.hlo, x.position(dim), &groups))
            }
            Collective::AllToAll { from, to, axes } => self.all_to_all(x, from, to, axes),
            Collective::Permute { dim: _, axes, by, wrap } => {
                let pairs = self.mesh().moved(axes, *by, *wrap);
                if pairs.is_empty() {
                    return x.with(self.b.splat_like(x.hlo, 0.0));
                }
                if pairs.iter().all(|(from, to)| from == to) {
                    return x.clone();
                }
                x.with(self.b.collective_permute(x.hlo, &pairs))
            }
            Collective::Shard { dim, axes } => {
                let at = x.position(dim);
                let mut sizes = self.b.sizes(x.hlo);
                sizes[at] /= self.mesh().product(axes);
                let Some(start) = self.shard_offset(axes, sizes[at]) else { return x.clone() };
                let starts = self.starts(sizes.len(), at, start);
                x.with(self.b.dynamic_slice(x.hlo, &starts, &sizes))
            }
            Collective::AsPending { axes } => {
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

    /// An all-gather with small dims merged, where the machine would pad them in memory.
    fn gathered_as_one(&mut self, x: &Tensor, at: usize, times: usize, groups: &[Vec<usize>]) -> Option<Hlo> {
        if self.platform.is_cpu() {
            return None;
        }
        let mut sizes = self.b.sizes(x.hlo);
        let before = sizes.clone();
        sizes[at] *= times;
        let parts = as_one(&sizes);
        let place = parts.iter().position(|part| part.start == at)?;
        if parts.len() == sizes.len() {
            return None;
        }
        let before: Vec<usize> = parts.iter().map(|part| before[part.clone()].iter().product()).collect();
        let merged = self.b.reshape(x.hlo, &before);
        let merged = self.b.all_gather(merged, place, groups);
        let apart = self.b.reshape(merged, &sizes);
        self.merged.insert(apart, merged);
        Some(apart)
    }

    /// Splits dim `to` into one part for each device of the group, exchanges the parts, and joins what
    /// arrives along `from`.
    fn all_to_all(&mut self, x: &Tensor, from: &Name, to: &Name, axes: &[AxisId]) -> Tensor {
        let count = self.mesh().product(axes);
        let at = x.position(to);
        let mut sizes = self.b.sizes(x.hlo);
        sizes[at] /= count;
        sizes.insert(at, count);
        let cut = self.b.reshape(x.hlo, &sizes);
        // The dimension that counts devices comes first before the exchange, so that each part is contiguous.
        let mut order: Vec<usize> = (0..sizes.len()).filter(|i| *i != at).collect();
        order.insert(0, at);
        let cut = self.b.transpose(cut, &order);
        let moved = self.b.all_to_all(cut, 0, &self.mesh().groups(axes));
        // Dimension 0 is now the sender; it joins `from` as its major part.
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

#[cfg(test)]
mod tests {
    use super::as_one;

    #[test]
    fn small_dims_lie_as_one_until_lanes_are_full() {
        // Heads of 64 are merged with the next dim.
        assert_eq!(as_one(&[12, 4096, 16, 64]), [0..1, 1..2, 2..4]);
        assert_eq!(as_one(&[12, 16, 64, 4096]), [0..1, 1..3, 3..4]);
        assert_eq!(as_one(&[4096, 128]), [0..1, 1..2]);
        assert_eq!(as_one(&[2, 3]).as_slice(), std::slice::from_ref(&(0..2)));
    }
}

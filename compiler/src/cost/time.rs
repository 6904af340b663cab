//! Estimated times on a slice: a roofline for arithmetic and memory, and the links of the torus for
//! collectives.
//!
//! Assumptions: devices are numbered as libtpu does (core, then the first dim of the torus, …, then slices),
//! collectives of one program do not overlap, rings use both directions of every dim that they span, and
//! cores of a chip share its links. The estimates rank layouts; they do not predict measured times.

use super::{target::Slice, wire::steps};
use mesh::{AxisId, Mesh, ir::Collective};

/// Seconds of a step, by the busy part.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Work {
    /// Products that are bound by arithmetic, or by memory where that is slower.
    pub products: f64,
    /// All other reads and writes of memory.
    pub memory: f64,
    /// Collectives.
    pub network: f64,
}

impl Work {
    /// The sum of all parts.
    pub fn total(&self) -> f64 {
        self.products + self.memory + self.network
    }
}

/// Seconds to start a collective.
const START: f64 = 2e-6;

/// The extent of a group of devices in the machine.
#[derive(Clone, PartialEq, Debug)]
struct Span {
    /// The number of slices, and of chips along each dim of the torus, that its members occupy.
    slices: usize,
    extent: Vec<usize>,
    ring: Vec<bool>,
}

/// The way in which the devices of a group send to one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Around a ring: sums and gathers.
    Ring,
    /// Every device to every other: an all-to-all.
    Exchange,
}

impl Slice {
    /// The position of a device: slice, coordinates of its chip, core.
    fn place(&self, device: usize) -> (usize, Vec<usize>, usize) {
        let core = device % self.mode.devices;
        let mut rest = device / self.mode.devices;
        let mut coords = Vec::with_capacity(self.shape.len());
        for n in &self.shape {
            coords.push(rest % n);
            rest /= n;
        }
        (rest, coords, core)
    }

    fn span(&self, members: impl IntoIterator<Item = usize>) -> Span {
        let members: Vec<_> = members.into_iter().map(|d| self.place(d)).collect();
        let distinct = |mut all: Vec<usize>| {
            all.sort_unstable();
            all.dedup();
            all.len()
        };
        let along = |i: usize| distinct(members.iter().map(|m| m.1[i]).collect());
        let extent: Vec<usize> = (0..self.shape.len()).map(along).collect();
        let ring = |(i, wraps): (usize, bool)| wraps && extent[i] == self.shape[i];
        let ring = self.wraps().into_iter().enumerate().map(ring).collect();
        Span { slices: distinct(members.iter().map(|m| m.0).collect()), extent, ring }
    }

    /// Seconds of one collective over `axes` in which every device sends `wire` bytes.
    pub fn collective_time(&self, mesh: &Mesh, op: &Collective, axes: &[AxisId], wire: u64) -> f64 {
        if wire == 0 || axes.is_empty() {
            return 0.0;
        }
        let pattern = match op {
            Collective::Permute { dim: _, axes, by, wrap } => {
                let distance = steps(mesh.product(axes) as u64, *by, *wrap);
                return self.shift_time(group(mesh, axes), distance, wire as f64);
            }
            Collective::AllToAll { .. } => Pattern::Exchange,
            Collective::AllReduce { .. }
            | Collective::AllGather { .. }
            | Collective::ReduceScatter { .. }
            | Collective::Shard { .. }
            | Collective::AsPending { .. } => Pattern::Ring,
        };
        self.transfer_time(pattern, group(mesh, axes), wire as f64)
    }

    /// Seconds of one collective among `members`, in which every device sends `wire` bytes. All groups of the
    /// collective are taken to be like this one.
    pub fn transfer_time(
        &self,
        pattern: Pattern,
        members: impl IntoIterator<Item = usize>,
        wire: f64,
    ) -> f64 {
        let members: Vec<usize> = members.into_iter().collect();
        let (count, span, speed) = (members.len() as f64, self.span(members), self.speed());
        let exchange = pattern == Pattern::Exchange;
        let mut seconds = START;
        if span.slices > 1 {
            // Sums are computed within a slice first, so that each device sends its part only.
            let inside = if exchange { 1.0 } else { count / span.slices as f64 };
            seconds += wire / inside / speed.dcn;
        }
        let shared = self.mode.devices as f64;
        let dims = || span.extent.iter().zip(&span.ring).filter(|(n, _)| **n > 1);
        if dims().next().is_none() {
            // Between the cores of a chip, data move through its memory.
            return if span.slices > 1 { seconds } else { seconds + 2.0 * wire / speed.hbm };
        }
        let ways = |ring: &bool| if *ring { 2.0 } else { 1.0 };
        seconds += if exchange {
            // Half of what a device sends crosses the middle of each dim, over the links of the other dims'
            // rows.
            let load = |(n, ring): (&usize, &bool)| wire * *n as f64 / 4.0 / ways(ring);
            dims().map(load).fold(0.0, f64::max) * shared / speed.link
        } else {
            wire * shared / (speed.link * dims().map(|(_, ring)| ways(ring)).sum::<f64>())
        };
        seconds
    }

    /// Seconds in which each of `members` sends `wire` bytes to the one `distance` positions on. Messages go
    /// the same way and share links; those around the ends of a line go back over its idle links.
    fn shift_time(&self, members: impl IntoIterator<Item = usize>, distance: u64, wire: f64) -> f64 {
        let (span, speed) = (self.span(members), self.speed());
        if span.slices > 1 {
            return START + wire / speed.dcn;
        }
        if span.extent.iter().all(|n| *n == 1) {
            return START + 2.0 * wire / speed.hbm;
        }
        START + wire * distance as f64 * self.mode.devices as f64 / speed.link
    }

    /// Seconds in which every sender of `pairs` (sender, receiver) sends `wire` bytes: each link on the way
    /// carries the bytes of all pairs whose shortest way uses it, so the longest way bounds the time if all
    /// devices send alike.
    pub fn permute_time(&self, pairs: &[(usize, usize)], wire: f64) -> f64 {
        let (speed, wraps) = (self.speed(), self.wraps());
        let of = |(from, to): &(usize, usize)| {
            let (from, to) = (self.place(*from), self.place(*to));
            if from.0 != to.0 {
                return wire / speed.dcn;
            }
            let steps = |i: usize| {
                let line = from.1[i].abs_diff(to.1[i]);
                if wraps[i] { line.min(self.shape[i] - line) } else { line }
            };
            match (0..self.shape.len()).map(steps).max().unwrap_or(0) {
                0 if from.2 == to.2 => 0.0,
                0 => 2.0 * wire / speed.hbm,
                hops => wire * hops as f64 * self.mode.devices as f64 / speed.link,
            }
        };
        START + pairs.iter().map(of).fold(0.0, f64::max)
    }

    /// The share of the peak that a product of these sizes (rows, columns, summed) reaches on the matrix
    /// units.
    pub fn filling(&self, rows: usize, columns: usize, summed: usize) -> f64 {
        let unit = if matches!(self.generation.name.as_str(), "v6e" | "tpu7x") { 256 } else { 128 };
        let fill = |n: usize, to: usize| n as f64 / (n.div_ceil(to) * to) as f64;
        // The compiler puts the better side across the unit.
        let across = |a: usize, b: usize| fill(a, unit) * fill(b, 8);
        fill(summed, unit) * across(rows, columns).max(across(columns, rows))
    }
}

/// The devices that share a group with device 0.
pub fn group(mesh: &Mesh, axes: &[AxisId]) -> impl Iterator<Item = usize> {
    let mut strides = Vec::new();
    let mut stride = 1;
    for axis in mesh.ids().collect::<Vec<_>>().into_iter().rev() {
        if axes.contains(&axis) {
            strides.push((mesh.size(axis), stride));
        }
        stride *= mesh.size(axis);
    }
    let count: usize = strides.iter().map(|(n, _)| n).product();
    (0..count).map(move |mut i| {
        let mut device = 0;
        for (n, stride) in &strides {
            device += i % n * stride;
            i /= n;
        }
        device
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::ir::Pending;

    fn span(slice: &str, mesh: &str, axes: &[&str]) -> (usize, Vec<usize>, Vec<bool>) {
        let (slice, mesh) = (Slice::parse(slice).unwrap(), Mesh::parse(mesh).unwrap());
        let axes: Vec<AxisId> = axes.iter().map(|a| mesh.find(a).unwrap()).collect();
        let span = slice.span(group(&mesh, &axes));
        (span.slices, span.extent, span.ring)
    }

    #[test]
    fn groups_lie_where_the_numbering_puts_them() {
        assert_eq!(span("v5e:4x8", "data=8,model=4", &["model"]), (1, vec![4, 1], vec![false, false]));
        assert_eq!(span("v5e:4x8", "data=8,model=4", &["data"]), (1, vec![1, 8], vec![false, false]));
        assert_eq!(span("v5e:4x8", "data=4,model=8", &["model"]), (1, vec![4, 2], vec![false, false]));
        assert_eq!(
            span("v4:4x4x4:megacore", "a=4,b=16", &["b"]),
            (1, vec![4, 4, 1], vec![true, true, false])
        );
        assert_eq!(span("v3:2x2", "a=4,b=2", &["b"]).1, [1, 1]);
        assert_eq!(span("v5e:2x2:slices=2", "a=2,b=4", &["a"]), (2, vec![1, 1], vec![false, false]));
    }

    #[test]
    fn rings_are_faster_than_lines_and_exchanges_grow_with_the_ring() {
        let mesh = Mesh::parse("a=16,b=16").unwrap();
        let time = |slice: &str, op: &Collective, axis: usize| {
            Slice::parse(slice).unwrap().collective_time(&mesh, op, &[AxisId(axis as u32)], 1 << 30)
        };
        let sum = Collective::AllReduce { kind: Pending::Sum, axes: mesh::AxisSet::one(AxisId(0)) };
        let move_ = Collective::AllToAll { from: "x".into(), to: "y".into(), axes: vec![AxisId(0)] };
        assert!(time("v5e:16x16", &sum, 1) * 1.7 < time("v3:16x8", &sum, 1));
        assert!(time("v5e:16x16", &move_, 1) > 3.0 * time("v5e:16x16", &sum, 1));
        let ring = time("v5e:16x16", &sum, 0);
        assert!((ring - (1u64 << 30) as f64 / 90e9).abs() < 1e-4, "{ring}");
    }

    #[test]
    fn narrow_products_fill_less() {
        let v3 = Slice::parse("v3:4x4").unwrap();
        assert_eq!(v3.filling(512, 512, 64), 0.5);
        assert_eq!(v3.filling(512, 64, 512), 1.0);
        assert_eq!(Slice::parse("v6e:2x2").unwrap().filling(512, 512, 128), 0.5);
    }
}

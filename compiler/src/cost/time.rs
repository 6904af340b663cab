//! Estimated times on a slice: a roofline for arithmetic and memory, and the links of the torus for
//! collectives.
//!
//! Assumptions: devices are numbered as libtpu does (core, then the first dim of the torus, …, then slices),
//! collectives of one program do not overlap, rings use both directions of every dim that they span, and
//! cores of a chip share its links. The estimates rank layouts; they do not predict measured times.

use super::target::Slice;
use mesh::{AxisId, Mesh, ir::Collective};
use rustc_hash::FxHashMap;

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
                return self.permute_time(&mesh.moved(axes, *by, *wrap), wire as f64);
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

    /// Seconds in which every sender of `pairs` (sender, receiver) sends `wire` bytes. A message takes the
    /// shortest way along one dim of the torus after another, and messages share the links on their ways: the
    /// link with the most messages bounds the time.
    pub fn permute_time(&self, pairs: &[(usize, usize)], wire: f64) -> f64 {
        let (speed, wraps) = (self.speed(), self.wraps());
        // By slice, chip, dim and direction.
        let mut loads: FxHashMap<(usize, Vec<usize>, usize, bool), u32> = FxHashMap::default();
        let mut slowest: f64 = 0.0;
        for (from, to) in pairs.iter().filter(|(from, to)| from != to) {
            let (slice, mut at, _) = self.place(*from);
            let (other, goal, _) = self.place(*to);
            if slice != other {
                slowest = slowest.max(wire / speed.dcn);
                continue;
            }
            if at == goal {
                // Between the cores of a chip, data move through its memory.
                slowest = slowest.max(2.0 * wire / speed.hbm);
            }
            for (i, n) in self.shape.iter().enumerate() {
                let ahead = (goal[i] + n - at[i]) % n;
                let up = if wraps[i] { 2 * ahead <= *n } else { goal[i] > at[i] };
                while at[i] != goal[i] {
                    *loads.entry((slice, at.clone(), i, up)).or_default() += 1;
                    at[i] = (at[i] + if up { 1 } else { n - 1 }) % n;
                }
            }
        }
        let most = loads.into_values().max().unwrap_or(0);
        START + slowest.max(f64::from(most) * wire / speed.link)
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

    /// Checks the messages over the busiest link of a permute.
    #[track_caller]
    fn check_moved(slice: &str, mesh: &str, axes: &[&str], by: isize, wrap: bool, most: f64) {
        let (slice, mesh) = (Slice::parse(slice).unwrap(), Mesh::parse(mesh).unwrap());
        let axes: Vec<AxisId> = axes.iter().map(|a| mesh.find(a).unwrap()).collect();
        let op = Collective::Permute { dim: "x".into(), axes: axes.clone(), by, wrap };
        let seconds = slice.collective_time(&mesh, &op, &axes, 1 << 30) - START;
        let found = seconds * slice.speed().link / f64::from(1 << 30);
        assert!((found - most).abs() < 1e-6, "{found} messages, expected {most}");
    }

    #[test]
    fn a_permute_takes_the_time_of_its_busiest_link() {
        // A line: the message from the last chip to the first goes back over idle links.
        check_moved("v5e:4x8", "data=8,model=4", &["model"], 1, true, 1.0);
        check_moved("v5e:4x8", "data=8,model=4", &["model"], -1, false, 1.0);
        check_moved("v5e:4x8", "data=8,model=4", &["model"], 2, true, 2.0);
        check_moved("v5e:4x8", "data=8,model=4", &["model"], 3, true, 1.0);
        check_moved("v5e:4x8", "data=8,model=4", &["model"], 3, false, 1.0);
        // A ring.
        check_moved("v5e:16x16", "a=16,b=16", &["a"], 1, true, 1.0);
        check_moved("v5e:16x16", "a=16,b=16", &["a"], 15, true, 1.0);
        check_moved("v5e:16x16", "a=16,b=16", &["b"], -3, true, 3.0);
        check_moved("v5e:16x16", "a=16,b=16", &["b"], 3, false, 3.0);
        // Neighbours along an axis that are two chips from each other.
        check_moved("v5e:4x8", "data=8,x=2,y=2", &["x"], 1, true, 2.0);
        check_moved("v5e:4x8", "data=8,x=2,y=2", &["y"], 1, true, 1.0);
        check_moved("v5e:16x16", "a=16,b=8,c=2", &["b"], 1, true, 2.0);
        // An axis that spans two dims: the end of a row sends to the start of the next.
        check_moved("v5e:4x8", "data=4,model=8", &["model"], 1, false, 1.0);
        // Both cores of a chip send over one link.
        check_moved("v3:4x4", "a=16,b=2", &["a"], 1, false, 2.0);
    }

    #[test]
    fn a_permute_without_links_takes_the_time_of_memory_or_of_the_data_center() {
        let time = |slice: &str, pairs: &[(usize, usize)]| {
            let slice = Slice::parse(slice).unwrap();
            (slice.permute_time(pairs, 1e9) - START, slice.speed())
        };
        let (seconds, speed) = time("v3:2x2", &[(0, 1), (1, 0)]);
        assert!((seconds - 2e9 / speed.hbm).abs() < 1e-9, "{seconds}");
        let (seconds, speed) = time("v5e:2x2:slices=2", &[(0, 4), (4, 0)]);
        assert!((seconds - 1e9 / speed.dcn).abs() < 1e-9, "{seconds}");
        assert_eq!(time("v5e:2x2", &[(3, 3)]).0, 0.0);
    }

    #[test]
    fn narrow_products_fill_less() {
        let v3 = Slice::parse("v3:4x4").unwrap();
        assert_eq!(v3.filling(512, 512, 64), 0.5);
        assert_eq!(v3.filling(512, 64, 512), 1.0);
        assert_eq!(Slice::parse("v6e:2x2").unwrap().filling(512, 512, 128), 0.5);
    }
}

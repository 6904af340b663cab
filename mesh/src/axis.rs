//! The mesh of devices and its axes. Devices are numbered row-major: the first axis is the major one.

use crate::{Name, arena::Id, id_type};
use std::fmt;

id_type!(
    /// An axis of the mesh, by position.
    AxisId, "axis"
);

/// One axis of the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Axis {
    /// The name, such as `data`, `expert` or `model`.
    pub name: Name,
    /// The number of devices along it.
    pub size: usize,
}

/// A set of axes, as a bit set (a mesh has at most 32 axes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct AxisSet(pub u32);

impl AxisSet {
    /// No axis.
    pub const EMPTY: Self = Self(0);
    /// The set of one axis.
    pub fn one(axis: AxisId) -> Self {
        Self(1 << axis.0)
    }
    /// True if the set has no axis.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// True if `axis` is in the set.
    pub fn contains(self, axis: AxisId) -> bool {
        self.0 >> axis.0 & 1 == 1
    }
    /// Axes in either set.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Axes in both sets.
    pub fn intersect(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
    /// Axes of this set that are not in `other`.
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// Adds an axis. Returns false if the set has it already.
    pub fn insert(&mut self, axis: AxisId) -> bool {
        let fresh = !self.contains(axis);
        self.0 |= 1 << axis.0;
        fresh
    }
    /// The axes, in mesh order.
    pub fn iter(self) -> impl Iterator<Item = AxisId> {
        (0..32).map(AxisId).filter(move |a| self.contains(*a))
    }
}

impl FromIterator<AxisId> for AxisSet {
    fn from_iter<T: IntoIterator<Item = AxisId>>(axes: T) -> Self {
        axes.into_iter().fold(Self::EMPTY, |set, axis| set.union(Self::one(axis)))
    }
}

impl fmt::Debug for AxisSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The largest number of devices of a mesh. Collectives list all of them.
pub const MAX_DEVICES: u32 = 1 << 20;

/// The mesh of devices: named axes. The product of their sizes is the number of devices.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mesh {
    axes: Vec<Axis>,
}

impl Mesh {
    /// Returns a mesh with the given axes, major first. The error names the wrong axis and the reason.
    pub fn new(axes: Vec<Axis>) -> Result<Self, String> {
        if axes.len() > 32 {
            return Err(format!("a mesh has at most 32 axes, not {}", axes.len()));
        }
        for (i, axis) in axes.iter().enumerate() {
            if !Name::is_word(&axis.name) {
                return Err(format!(
                    "`{}` is not a valid name of a mesh axis: use letters, digits and `_`",
                    axis.name
                ));
            }
            if axis.size == 0 {
                return Err(format!(
                    "mesh axis `{}` has size 0: every axis has at least one device",
                    axis.name
                ));
            }
            if axes[..i].iter().any(|a| a.name == axis.name) {
                return Err(format!("mesh axis `{}` is given twice", axis.name));
            }
        }
        match axes.iter().try_fold(1u32, |n, a| n.checked_mul(u32::try_from(a.size).ok()?)) {
            Some(n) if n <= MAX_DEVICES => Ok(Self { axes }),
            Some(_) | None => Err(format!("the mesh has more than {MAX_DEVICES} devices")),
        }
    }
    /// Parses `data=2,expert=4`. The empty text is the mesh of one device.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
        let axis = |word: &str| {
            let (name, size) = word
                .split_once('=')
                .ok_or_else(|| format!("mesh axis `{word}` has no size: write it as `{word}=2`"))?;
            let size = size.trim().parse().map_err(|_| {
                format!("mesh axis `{}` has size `{}`, which is not a whole number", name.trim(), size.trim())
            })?;
            Ok(Axis { name: name.trim().into(), size })
        };
        Self::new(words.map(axis).collect::<Result<_, String>>()?)
    }
    /// All axes, major first.
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }
    /// Ids of all axes, major first.
    pub fn ids(&self) -> impl Iterator<Item = AxisId> + use<> {
        (0..self.axes.len()).map(AxisId::new)
    }
    /// The axis called `name`.
    pub fn find(&self, name: &str) -> Option<AxisId> {
        self.axes.iter().position(|a| a.name == *name).map(AxisId::new)
    }
    /// The name of an axis.
    pub fn name(&self, axis: AxisId) -> &Name {
        &self.axes[axis.index()].name
    }
    /// The size of an axis.
    pub fn size(&self, axis: AxisId) -> usize {
        self.axes[axis.index()].size
    }
    /// The product of the sizes of `axes`.
    pub fn product(&self, axes: &[AxisId]) -> usize {
        axes.iter().map(|a| self.size(*a)).product()
    }
    /// The number of devices of the mesh.
    pub fn devices(&self) -> usize {
        self.axes.iter().map(|a| a.size).product()
    }
    /// The coordinate of `device` along each axis.
    pub fn coords(&self, device: usize) -> Vec<usize> {
        let mut rest = device;
        let mut coords = vec![0; self.axes.len()];
        for (i, axis) in self.axes.iter().enumerate().rev() {
            coords[i] = rest % axis.size;
            rest /= axis.size;
        }
        coords
    }
    /// The position of `device` among the devices that differ only along `axes`. The first of `axes`
    /// is the major one.
    pub fn index_along(&self, device: usize, axes: &[AxisId]) -> usize {
        let coords = self.coords(device);
        axes.iter().fold(0, |index, a| index * self.size(*a) + coords[a.index()])
    }
    /// The groups of devices that differ only along `axes`. Devices of a group are in the order of
    /// [`Mesh::index_along`], and groups are in the order of their first device.
    pub fn groups(&self, axes: &[AxisId]) -> Vec<Vec<usize>> {
        let mut offsets = vec![0];
        for axis in axes {
            let stride: usize = self.axes[axis.index() + 1..].iter().map(|a| a.size).product();
            let along = |from: usize| (0..self.size(*axis)).map(move |i| from + i * stride);
            offsets = offsets.into_iter().flat_map(along).collect();
        }
        let firsts = (0..self.devices()).filter(|device| self.index_along(*device, axes) == 0);
        firsts.map(|first| offsets.iter().map(|offset| first + offset).collect()).collect()
    }
    /// Sender and receiver of each message if every device sends to the one whose position along `axes` is
    /// larger by `by`, in the order of [`Mesh::groups`]. With `wrap`, the first position follows the last;
    /// without it, there is no message to a position that does not exist.
    pub fn moved(&self, axes: &[AxisId], by: isize, wrap: bool) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        for group in self.groups(axes) {
            let count = group.len() as isize;
            for (i, from) in group.iter().enumerate() {
                let to = i as isize + by;
                if wrap || (0..count).contains(&to) {
                    pairs.push((*from, group[to.rem_euclid(count) as usize]));
                }
            }
        }
        pairs
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, axis) in self.axes.iter().enumerate() {
            write!(f, "{}{}={}", if i == 0 { "" } else { "," }, axis.name, axis.size)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_row_major_and_groups_follow_the_order_of_axes() {
        let mesh = Mesh::parse("data=2, expert=3").unwrap();
        assert_eq!(mesh.devices(), 6);
        assert_eq!(mesh.coords(4), [1, 1]);
        let (data, expert) = (mesh.find("data").unwrap(), mesh.find("expert").unwrap());
        assert_eq!(mesh.groups(&[data]), [[0, 3], [1, 4], [2, 5]]);
        assert_eq!(mesh.groups(&[expert]), [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(mesh.groups(&[expert, data]), [[0, 3, 1, 4, 2, 5]]);
        assert_eq!(mesh.groups(&[]), [[0], [1], [2], [3], [4], [5]]);
    }

    #[test]
    fn messages_go_to_positions_along_axes() {
        let mesh = Mesh::parse("data=2,expert=3").unwrap();
        let (data, expert) = (mesh.find("data").unwrap(), mesh.find("expert").unwrap());
        assert_eq!(mesh.moved(&[expert], 1, true), [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]);
        assert_eq!(mesh.moved(&[expert], -2, false), [(2, 0), (5, 3)]);
        assert_eq!(mesh.moved(&[data], 1, false), [(0, 3), (1, 4), (2, 5)]);
        assert_eq!(mesh.moved(&[expert, data], 5, true)[0], (0, 5));
        assert_eq!(mesh.moved(&[expert], 3, false), []);
        assert_eq!(mesh.moved(&[expert], -3, true)[1], (1, 1));
    }

    #[test]
    fn a_bad_mesh_says_what_is_wrong() {
        for (text, part) in [
            ("data", "no size"),
            ("data=x", "whole number"),
            ("data=0", "size 0"),
            ("a=2,a=2", "twice"),
            ("a=1048577", "more than 1048576 devices"),
            ("a=9223372036854775807,b=9223372036854775807", "more than 1048576 devices"),
        ] {
            assert!(Mesh::parse(text).unwrap_err().contains(part), "{text}");
        }
    }
}

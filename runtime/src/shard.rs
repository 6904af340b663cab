//! Regions of logical tensors: the shard of each device, overlaps, and copies between regions.

use proto::manifest::{Mesh, Tensor};
use std::fmt;

/// A rectangular region of a tensor.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    /// The first element along each dim.
    pub start: Vec<usize>,
    /// The number of elements along each dim.
    pub sizes: Vec<usize>,
}

impl Region {
    /// Returns the same region relative to the start of an enclosing region.
    pub fn relative_to(&self, outer: &Region) -> Region {
        let start = self.start.iter().zip(&outer.start).map(|(a, b)| a - b).collect();
        Region { start, sizes: self.sizes.clone() }
    }
}

impl fmt::Display for Region {
    /// Writes the range of every dim, with an exclusive end: `[0:2,16:32]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims = self
            .start
            .iter()
            .zip(&self.sizes)
            .map(|(start, size)| format!("{start}:{}", start.saturating_add(*size)));
        write!(f, "[{}]", dims.collect::<Vec<_>>().join(","))
    }
}

/// Returns true if a region is within a tensor of these sizes.
pub fn inside(region: &Region, dims: &[usize]) -> bool {
    let fits = |((start, size), dim): ((&usize, &usize), &usize)| {
        start.checked_add(*size).is_some_and(|end| end <= *dim)
    };
    region.start.len() == dims.len()
        && region.sizes.len() == dims.len()
        && region.start.iter().zip(&region.sizes).zip(dims).all(fits)
}

/// Returns the overlap of two regions of a tensor, if any.
pub fn common(a: &Region, b: &Region) -> Option<Region> {
    if !overlap((&a.start, &a.sizes), (&b.start, &b.sizes)) {
        return None;
    }
    let (mut start, mut sizes) = (Vec::new(), Vec::new());
    for i in 0..a.start.len() {
        let from = a.start[i].max(b.start[i]);
        let to = (a.start[i] + a.sizes[i]).min(b.start[i] + b.sizes[i]);
        start.push(from);
        sizes.push(to - from);
    }
    Some(Region { start, sizes })
}

/// Returns true if two regions of a tensor, given by starts and sizes, have a common element.
pub fn overlap(a: (&[usize], &[usize]), b: (&[usize], &[usize])) -> bool {
    (0..a.0.len()).all(|i| {
        let from = a.0[i].max(b.0[i]);
        from < (a.0[i] + a.1[i]).min(b.0[i] + b.1[i])
    })
}

/// Returns the number of devices of a mesh.
pub fn devices(mesh: &Mesh) -> usize {
    mesh.axes.iter().map(|a| a.size as usize).product()
}

/// Returns the region of `tensor` that the device at position `device` of the mesh holds. Positions are
/// row-major over the axes. A dim that is split over several axes is divided by the first of them first.
pub fn region(tensor: &Tensor, mesh: &Mesh, device: usize) -> Region {
    let mut coords = vec![0; mesh.axes.len()];
    let mut rest = device;
    for (i, axis) in mesh.axes.iter().enumerate().rev() {
        coords[i] = rest % axis.size as usize;
        rest /= axis.size as usize;
    }
    let mut start = Vec::new();
    let mut sizes = Vec::new();
    for dim in &tensor.dims {
        let mut index = 0;
        for name in &dim.axes {
            if let Some(i) = mesh.axes.iter().position(|a| a.name == *name) {
                index = index * mesh.axes[i].size as usize + coords[i];
            }
        }
        start.push(index * dim.local_size as usize);
        sizes.push(dim.local_size as usize);
    }
    Region { start, sizes }
}

/// Returns the logical sizes of a tensor.
pub fn dims(tensor: &Tensor) -> Vec<usize> {
    tensor.dims.iter().map(|d| d.size as usize).collect()
}

/// Returns the row-major strides, in bytes, of a tensor with these sizes.
pub fn strides(dims: &[usize], element: usize) -> Vec<usize> {
    let mut strides = vec![element; dims.len()];
    for i in (0..dims.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * dims[i + 1];
    }
    strides
}

/// Returns the byte offset of a region in a tensor with these strides.
pub fn offset(region: &Region, strides: &[usize]) -> usize {
    region.start.iter().zip(strides).map(|(s, t)| s * t).sum()
}

/// Copies `part` (dense, row-major) into its region of `whole`, a tensor of sizes `dims`.
pub fn paste(whole: &mut [u8], dims: &[usize], element: usize, region: &Region, part: &[u8]) {
    each_row(dims, element, region, |at, from, len| {
        whole[at..at + len].copy_from_slice(&part[from..from + len])
    });
}

/// Copies the region of `whole` into a dense row-major tensor.
pub fn cut(whole: &[u8], dims: &[usize], element: usize, region: &Region) -> Vec<u8> {
    let mut part = vec![0; region.sizes.iter().product::<usize>() * element];
    each_row(dims, element, region, |at, from, len| {
        part[from..from + len].copy_from_slice(&whole[at..at + len])
    });
    part
}

/// Calls `f(offset in the whole, offset in the part, bytes)` for every row of a region that is contiguous in
/// both.
fn each_row(dims: &[usize], element: usize, region: &Region, mut f: impl FnMut(usize, usize, usize)) {
    let strides = strides(dims, element);
    // Trailing dims that the region covers completely make longer rows.
    let mut inner = dims.len();
    while inner > 0 && region.sizes[inner - 1] == dims[inner - 1] {
        inner -= 1;
    }
    let outer = inner.saturating_sub(1);
    let row: usize = region.sizes[outer..].iter().product::<usize>() * element;
    let rows: usize = region.sizes[..outer].iter().product();
    let first: usize = (outer..dims.len()).map(|i| region.start[i] * strides[i]).sum();
    let mut index = vec![0; outer];
    for n in 0..rows {
        let at: usize = (0..outer).map(|i| (region.start[i] + index[i]) * strides[i]).sum();
        f(first + at, n * row, row);
        for i in (0..outer).rev() {
            index[i] += 1;
            if index[i] < region.sizes[i] {
                break;
            }
            index[i] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::manifest::{Axis, Dim};

    fn tensor(dims: &[(usize, &[&str], usize)]) -> Tensor {
        let dim = |(size, axes, local): &(usize, &[&str], usize)| Dim {
            name: String::new(),
            size: *size as u64,
            axes: axes.iter().map(|a| a.to_string()).collect(),
            local_size: *local as u64,
        };
        Tensor { dtype: "f32".into(), dims: dims.iter().map(dim).collect() }
    }

    #[test]
    fn parts_of_all_devices_make_the_whole() {
        let axis = |name: &str, size| Axis { name: name.into(), size };
        let mesh = Mesh { axes: vec![axis("data", 2), axis("model", 3)] };
        let whole: Vec<u8> = (0..4 * 6 * 5).collect();
        for t in [
            tensor(&[(4, &["data"], 2), (6, &["model"], 2), (5, &[], 5)]),
            tensor(&[(4, &[], 4), (6, &["model", "data"], 1), (5, &[], 5)]),
            tensor(&[(4, &[], 4), (6, &[], 6), (5, &[], 5)]),
        ] {
            let mut again = vec![0; whole.len()];
            for device in 0..devices(&mesh) {
                let region = region(&t, &mesh, device);
                let part = cut(&whole, &dims(&t), 1, &region);
                paste(&mut again, &dims(&t), 1, &region, &part);
            }
            assert_eq!(again, whole);
        }
        // Device 4 is at data 1, model 1; the dim is divided by model first.
        let t = tensor(&[(6, &["model", "data"], 1)]);
        assert_eq!(region(&t, &mesh, 4).start, [3]);
    }
}

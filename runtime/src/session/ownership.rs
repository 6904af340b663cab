//! The process that saves each part of the state.
//!
//! A region of a tensor may be held by devices of several processes. Exactly one of these processes writes it
//! to a checkpoint. All processes compute the same owners without communication: first the regions that only
//! one process holds, then the others from large to small, each to the holder that has the fewest elements so
//! far.

use crate::shard::{self, Region};
use proto::manifest::{Mesh, Tensor};
use std::{cmp::Reverse, collections::HashMap};

/// A distinct region of a tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub region: Region,
    /// The positions of the devices that hold it.
    pub positions: Vec<usize>,
    /// The rank that saves it.
    pub owner: usize,
}

/// Returns the distinct regions of each tensor with their owners. `ranks` are the numbers of the processes
/// that address the devices, by position in the mesh.
pub(super) fn owners(mesh: &Mesh, ranks: &[usize], tensors: &[&Tensor]) -> Vec<Vec<Part>> {
    let mut parts: Vec<Vec<Part>> = tensors.iter().map(|tensor| regions(mesh, ranks.len(), tensor)).collect();
    let mut order = Vec::new();
    for (tensor, regions) in parts.iter().enumerate() {
        for (number, part) in regions.iter().enumerate() {
            let mut holders: Vec<usize> = part.positions.iter().map(|position| ranks[*position]).collect();
            holders.sort_unstable();
            holders.dedup();
            let elements: usize = part.region.sizes.iter().product();
            order.push((holders.len() > 1, Reverse(elements), tensor, number, holders));
        }
    }
    order.sort();
    let mut load = vec![0; ranks.iter().max().map_or(0, |last| last + 1)];
    for (_, Reverse(elements), tensor, number, holders) in order {
        let owner = holders.into_iter().min_by_key(|rank| load[*rank]);
        let owner = owner.expect("every region was taken from a device that holds it");
        load[owner] += elements;
        parts[tensor][number].owner = owner;
    }
    parts
}

/// Returns the distinct regions of a tensor, each with the positions of its devices.
fn regions(mesh: &Mesh, devices: usize, tensor: &Tensor) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut index = HashMap::new();
    for position in 0..devices {
        let region = shard::region(tensor, mesh, position);
        let number = *index.entry(region.clone()).or_insert_with(|| {
            parts.push(Part { region, positions: Vec::new(), owner: 0 });
            parts.len() - 1
        });
        parts[number].positions.push(position);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::manifest::{Axis, Dim};

    fn mesh(axes: &[(&str, u64)]) -> Mesh {
        let axis = |(name, size): &(&str, u64)| Axis { name: (*name).to_owned(), size: *size };
        Mesh { axes: axes.iter().map(axis).collect() }
    }

    /// A tensor with one dim, split over `axes`.
    fn tensor(size: u64, axes: &[(&str, u64)]) -> Tensor {
        let parts: u64 = axes.iter().map(|(_, size)| size).product();
        let axes = axes.iter().map(|(name, _)| (*name).to_owned()).collect();
        let dim = Dim { name: "d".into(), size, axes, local_size: size / parts };
        Tensor { dtype: "f32".into(), dims: vec![dim] }
    }

    /// Checks that every element has one owner, which holds it, and returns the elements of each rank.
    #[track_caller]
    fn check(mesh: &Mesh, ranks: &[usize], tensors: &[Tensor]) -> Vec<usize> {
        let all = owners(mesh, ranks, &tensors.iter().collect::<Vec<_>>());
        let mut load = vec![0; ranks.iter().max().unwrap() + 1];
        for (tensor, parts) in tensors.iter().zip(all) {
            let mut seen = vec![0; tensor.dims[0].size as usize];
            for part in parts {
                assert!(part.positions.iter().any(|p| ranks[*p] == part.owner), "{part:?}");
                let (start, size) = (part.region.start[0], part.region.sizes[0]);
                seen[start..start + size].iter_mut().for_each(|n| *n += 1);
                load[part.owner] += size;
            }
            assert!(seen.iter().all(|n| *n == 1), "{seen:?}");
        }
        load
    }

    #[test]
    fn replicas_are_spread_over_their_holders() {
        let square = mesh(&[("data", 2), ("expert", 2)]);
        let neighbours = [0, 0, 1, 1];
        // Held by both ranks.
        let whole = || tensor(8, &[]);
        assert_eq!(check(&square, &neighbours, &[whole(), whole(), whole()]), [16, 8]);
        assert_eq!(check(&square, &neighbours, &[tensor(8, &[("expert", 2)])]), [4, 4]);
        // Each half is on one rank only.
        assert_eq!(check(&square, &neighbours, &[tensor(8, &[("data", 2)])]), [4, 4]);
        // Regions that only one rank holds are counted first.
        let mixed = [whole(), tensor(16, &[("data", 2)]), tensor(4, &[]), tensor(4, &[])];
        assert_eq!(check(&square, &neighbours, &mixed), [16, 16]);
        // The devices of a rank are not neighbours.
        let apart = [0, 1, 0, 1];
        assert_eq!(check(&square, &apart, &[tensor(8, &[("expert", 2)]), whole(), whole()]), [12, 12]);
        assert_eq!(check(&square, &[0; 4], &[whole(), tensor(8, &[("data", 2), ("expert", 2)])]), [16]);
    }

    #[test]
    fn four_ranks_share_the_replicas_of_a_data_axis() {
        let line = mesh(&[("data", 8), ("model", 2)]);
        let ranks: Vec<usize> = (0..16).map(|position| position / 4).collect();
        let tensors: Vec<Tensor> = (0..40).map(|n| tensor(64 + 8 * n, &[("model", 2)])).collect();
        let load = check(&line, &ranks, &tensors);
        let (least, most) = (load.iter().min().unwrap(), load.iter().max().unwrap());
        assert!(most - least <= 200, "{load:?}");
    }
}

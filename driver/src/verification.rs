//! Compiler and devices of a verification. From a number of devices and a layout it finds the sizes of the
//! mesh axes.

use crate::{
    device,
    failure::failure,
    lower::{Watch, emit, lower},
    placement::PlacementOptions,
    program::Program,
    request::Request,
    target::Target,
};
use anyhow::{Context, Result};
use compiler::pipeline::{self, Placement, Stage};
use interchange::hf::verify::{Backend, Opened};
use mesh::{Layout, Mesh, Name, axis::Axis};
use runtime::Artefact;

/// Compiles programs for the requested devices.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The placement and the plugin.
    pub request: Request,
    /// The number of devices. `None` means that of the mesh.
    pub devices: Option<usize>,
}

impl Backend for Compiler {
    fn open(&self, name: &str, layout: &str, build: &dyn Fn(usize) -> mesh::dsl::Program) -> Result<Opened> {
        let wanted = Wanted { devices: self.devices, placement: &self.request.placement };
        let (program, placement) = wanted.choose(layout, &|shards| Program::built(build(shards), name))?;
        let mut watch = Watch::default();
        let lowered = lower(&program, &placement, Stage::Hlo, &mut watch)?.context("all stages ran")?;
        let built = emit(&program, &placement, &Target::Cpu, &[], &lowered, &mut watch)?;
        let artefact = Artefact::new(name.to_owned(), built.manifest, built.files.into_iter().collect())?;
        let Placement { mesh, layout, .. } = &placement;
        let placed = format!(
            "{} devices, mesh {}, layout {}",
            mesh.devices(),
            if mesh.axes().is_empty() { "of one".to_owned() } else { mesh.to_string() },
            if layout.rules.is_empty() { "of none split".to_owned() } else { layout.to_string() },
        );
        Ok(Opened { session: device::session(&self.request, artefact)?, shards: shards(&placement), placed })
    }
}

/// The devices that the user requests.
struct Wanted<'a> {
    devices: Option<usize>,
    placement: &'a PlacementOptions,
}

impl Wanted<'_> {
    /// Returns the first placement under which the program is valid. `build` makes the program for a number
    /// of shards of its batch.
    fn choose(&self, own: &str, build: &dyn Fn(usize) -> Result<Program>) -> Result<(Program, Placement)> {
        let own = Layout::parse(own).map_err(|e| failure(e, "correct the model's own layout"))?;
        let layout = self.placement.layout.as_ref().unwrap_or(&own);
        let state_layout = self.placement.state_layout.clone().unwrap_or_default();
        let mut first = None;
        for mesh in self.meshes(layout, &state_layout)? {
            let layout = match self.placement.layout {
                Some(_) => layout.clone(),
                None => layout.restricted_to(&mesh),
            };
            let placement = Placement { mesh, layout, state_layout: state_layout.clone() };
            let shards = shards(&placement);
            let program = build(shards)?;
            match check(&program, &placement) {
                Ok(()) => return Ok((program, placement)),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| failure("no mesh is valid for the model", "give one with --mesh")))
    }

    /// Returns the meshes to try, those with the most equal axes first.
    fn meshes(&self, layout: &Layout, state: &Layout) -> Result<Vec<Mesh>> {
        if let Some(mesh) = &self.placement.mesh {
            let devices = mesh.devices();
            return match self.devices {
                Some(n) if n != devices => Err(failure(
                    format!("`--mesh {mesh}` has {devices} devices, which contradicts `--devices {n}`"),
                    "give one of the two",
                )),
                Some(_) | None => Ok(vec![mesh.clone()]),
            };
        }
        let devices = self.devices.unwrap_or(1);

        let mut axes: Vec<Name> = Vec::new();
        for axis in layout.rules.iter().chain(&state.rules).flat_map(|(_, axes)| axes) {
            if !axes.contains(axis) {
                axes.push(axis.clone());
            }
        }
        if axes.is_empty() && devices > 1 {
            axes.push("data".into());
        }
        let mut all = factors(devices, axes.len());
        // Equal axes test most; among equally even meshes, larger first axes come first.
        all.sort_by_key(|sizes| (sizes.iter().max().copied(), std::cmp::Reverse(sizes.clone())));
        // If no such mesh is valid, an additional axis along which all devices do the same takes the rest.
        let mut spare = factors(devices, axes.len() + 1);
        spare.retain(|sizes| sizes.last().is_some_and(|last| *last > 1));
        spare.sort_by_key(|sizes| (sizes.last().copied(), sizes.iter().max().copied()));
        if !axes.is_empty() && !axes.iter().any(|a| *a == "spare") {
            axes.push("spare".into());
            all.extend(spare);
        }
        let mesh = |sizes: Vec<usize>| {
            let axes = axes.iter().zip(sizes).map(|(name, size)| Axis { name: name.clone(), size });
            Mesh::new(axes.collect()).map_err(|e| failure(e, "give fewer devices"))
        };
        all.into_iter().map(mesh).collect()
    }
}

/// Returns all factorizations of `n` into `parts` factors.
fn factors(n: usize, parts: usize) -> Vec<Vec<usize>> {
    match parts {
        0 => vec![Vec::new()],
        1 => vec![vec![n]],
        _ => {
            let divisors = (1..=n).filter(|d| n.is_multiple_of(*d));
            divisors
                .flat_map(|d| factors(n / d, parts - 1).into_iter().map(move |rest| [vec![d], rest].concat()))
                .collect()
        }
    }
}

/// Returns the number of devices that sequences are split over.
fn shards(placement: &Placement) -> usize {
    let Placement { mesh, layout, .. } = placement;
    let of = |dim: &str| {
        let rule = layout.rules.iter().find(|(name, _)| name == dim);
        rule.map_or(1, |(_, axes)| axes.iter().filter_map(|a| mesh.find(a)).map(|a| mesh.size(a)).product())
    };
    let (batch, experts): (usize, usize) = (of("batch"), of("expert_batch"));
    batch.max(experts)
}

fn check(program: &Program, placement: &Placement) -> Result<()> {
    let wrong = |diagnostics| program.mistakes(&diagnostics);
    let global = pipeline::verify(program.module.clone(), &mut pipeline::unobserved).map_err(wrong)?;
    pipeline::check_layout(&global, placement).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(devices: usize, layout: &str, expect: &[&str]) {
        let wanted = Wanted { devices: Some(devices), placement: &PlacementOptions::default() };
        let layout = Layout::parse(layout).unwrap();
        let meshes = wanted.meshes(&layout, &Layout::default()).unwrap();
        let said: Vec<String> = meshes.iter().map(Mesh::to_string).collect();
        assert_eq!(said[..expect.len()], *expect);
    }

    #[test]
    fn axes_come_from_the_layout_and_are_as_even_as_can_be() {
        check(8, "batch:data", &["data=8"]);
        check(8, "batch:data+expert,heads:model", &["data=2,expert=2,model=2", "data=4,expert=2,model=1"]);
        check(8, "batch:a,heads:b", &["a=4,b=2", "a=2,b=4", "a=8,b=1"]);
        check(8, "experts:expert", &["expert=8", "expert=4,spare=2", "expert=2,spare=4"]);
        check(1, "batch:data", &["data=1"]);
        check(2, "", &["data=2"]);
    }
}

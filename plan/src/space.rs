//! The choices of a search: meshes, layouts, and entries of the schedule.

use crate::candidate::Candidate;
use mesh::{Axis, Layout, Mesh, Module, Name};

/// The part of a placement that the user fixed. The rest is searched.
#[derive(Clone, Debug, Default)]
pub struct Fixed {
    /// The mesh.
    pub mesh: Option<Mesh>,
    /// The compute layout.
    pub layout: Option<Layout>,
    /// The state layout.
    pub state_layout: Option<Layout>,
}

/// A search space.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// Number of devices.
    pub devices: usize,
    /// The part that the user fixed.
    pub fixed: Fixed,
    /// Dims that rules are tried for, besides the rules of `layouts`. Empty means that these rules are not
    /// changed.
    pub dims: Vec<Name>,
    /// Meshes with as many devices as the target.
    pub meshes: Vec<Mesh>,
    /// Layouts, for any of the meshes.
    pub layouts: Vec<Layout>,
    /// State layouts, for any of the meshes; `*:` alone stands for all axes of a mesh.
    pub state_layouts: Vec<StateLayout>,
    /// For each entry of the schedule that is searched, its values to try, as `key=value`. The model's own
    /// value is always tried.
    pub entries: Vec<Vec<String>>,
    /// Like `entries`, for entries that are tried by single changes only.
    pub changes: Vec<Vec<String>>,
    /// Candidates that the search begins with, such as tuned ones.
    pub starts: Vec<Candidate>,
}

/// A choice of state layout.
#[derive(Clone, PartialEq, Debug)]
pub enum StateLayout {
    /// These rules, restricted to the axes of the mesh.
    Rules(Layout),
    /// Every stored tensor over every axis.
    All,
}

impl Space {
    /// Returns the search space of a program on `devices` devices.
    pub fn new(module: &Module, devices: usize, fixed: &Fixed) -> Self {
        let own = |key: &str| Layout::parse(module.meta(key).unwrap_or_default()).unwrap_or_default();
        let layout = fixed.layout.clone().unwrap_or_else(|| own("layout"));
        let mut layouts = vec![layout.clone()];
        if fixed.layout.is_none() {
            // An unsplit vocabulary costs memory and arithmetic, and saves the collectives of a split
            // softmax.
            let rules: Vec<_> = layout.rules.iter().filter(|(dim, _)| *dim != "vocab").cloned().collect();
            layouts.push(Layout { rules });
        }
        let state_layouts = match &fixed.state_layout {
            Some(layout) => vec![StateLayout::Rules(layout.clone())],
            None => {
                let rules = ["", module.meta("state_layout").unwrap_or_default(), "*:data"];
                let rules = rules.iter().filter_map(|text| Layout::parse(text).ok()).map(StateLayout::Rules);
                rules.chain([StateLayout::All]).collect()
            }
        };
        let meshes = match &fixed.mesh {
            Some(mesh) => vec![mesh.clone()],
            None => meshes(&axes(&layout), devices),
        };
        let fixed = fixed.clone();
        Self { devices, fixed, meshes, layouts, state_layouts, ..Self::default() }
    }

    /// True if the program and the user state no rule, so that rules must be found.
    pub fn states_no_rule(&self) -> bool {
        self.fixed.layout.is_none() && self.layouts.iter().all(|layout| layout.rules.is_empty())
    }

    /// Returns all placements under some entries of the schedule, each once.
    pub fn placements(&self, schedule: &[String]) -> Vec<Candidate> {
        let mut all = Vec::new();
        for mesh in &self.meshes {
            for layout in &self.layouts {
                for state in &self.state_layouts {
                    let state = match state {
                        StateLayout::Rules(layout) => layout.restricted_to(mesh),
                        StateLayout::All => {
                            let axes: Vec<Name> = mesh.axes().iter().map(|a| a.name.clone()).collect();
                            Layout {
                                rules: if axes.is_empty() { Vec::new() } else { vec![("*".into(), axes)] },
                            }
                        }
                    };
                    let candidate = Candidate {
                        schedule: schedule.to_vec(),
                        mesh: mesh.to_string(),
                        layout: layout.restricted_to(mesh).to_string(),
                        state_layout: state.to_string(),
                    };
                    if !all.contains(&candidate) {
                        all.push(candidate);
                    }
                }
            }
        }
        all
    }

    /// Returns all combinations of entries, the model's own schedule first.
    pub fn schedules(&self) -> Vec<Vec<String>> {
        let mut all = vec![Vec::new()];
        for values in &self.entries {
            let more: Vec<Vec<String>> = values
                .iter()
                .flat_map(|value| {
                    all.iter()
                        .map(move |some: &Vec<String>| [&some[..], std::slice::from_ref(value)].concat())
                })
                .collect();
            all.extend(more);
        }
        all
    }
}

/// Returns the axes of a layout: `data` first and `model` last, because `model` has the most traffic and
/// minor axes connect neighbours.
fn axes(layout: &Layout) -> Vec<Name> {
    let mut found: Vec<Name> = Vec::new();
    for axis in layout.rules.iter().flat_map(|(_, axes)| axes) {
        if !found.contains(axis) {
            found.push(axis.clone());
        }
    }
    let rank = |axis: &Name| ["data", "expert", "", "model"].iter().position(|a| axis == a).unwrap_or(2);
    found.sort_by_key(rank);
    found
}

/// Returns all meshes over these axes with `devices` devices. Axes of size 1 are omitted.
fn meshes(axes: &[Name], devices: usize) -> Vec<Mesh> {
    fn go(axes: &[Name], devices: usize, chosen: &mut Vec<Axis>, all: &mut Vec<Mesh>) {
        let Some((axis, rest)) = axes.split_first() else {
            if devices == 1 {
                all.extend(Mesh::new(chosen.clone()));
            }
            return;
        };
        for size in (1..=devices).filter(|n| devices.is_multiple_of(*n)) {
            if size > 1 {
                chosen.push(Axis { name: axis.clone(), size });
            }
            go(rest, devices / size, chosen, all);
            if size > 1 {
                chosen.pop();
            }
        }
    }
    let mut all = Vec::new();
    go(axes, devices, &mut Vec::new(), &mut all);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::{Site, ir::Meta};

    fn module() -> Module {
        let layout = "batch:data+expert,experts:expert,heads:model,vocab:model";
        let entry =
            |(key, value): (&str, &str)| Meta { key: key.into(), value: value.into(), site: Site::default() };
        let meta = [("layout", layout), ("state_layout", "*:data")].map(entry).to_vec();
        Module { meta, ..Module::default() }
    }

    #[test]
    fn all_factors_are_tried() {
        let space = Space::new(&module(), 32, &Fixed::default());
        assert_eq!(space.meshes.len(), 21);
        let names: Vec<String> = space.meshes.iter().map(Mesh::to_string).collect();
        assert!(
            names.contains(&"expert=32".to_owned()) && names.contains(&"data=2,expert=4,model=4".to_owned())
        );
        assert!(space.meshes.iter().all(|m| m.devices() == 32));
    }

    #[test]
    fn placements_are_legal_for_their_mesh_and_differ() {
        let fixed = Fixed { mesh: Mesh::parse("expert=4").ok(), ..Fixed::default() };
        let space = Space::new(&module(), 4, &fixed);
        let text: Vec<String> =
            space.placements(&[]).iter().map(|c| format!("{} | {}", c.layout, c.state_layout)).collect();
        assert_eq!(text, ["batch:expert,experts:expert | ", "batch:expert,experts:expert | *:expert"]);
    }

    #[test]
    fn schedules_are_products() {
        let mut space = Space::new(&module(), 1, &Fixed::default());
        space.entries = vec![vec!["a=1".into(), "a=2".into()], vec!["b=1".into()]];
        let all = space.schedules();
        assert_eq!(all.len(), 6);
        assert_eq!(all[0], [] as [String; 0]);
        assert!(all.contains(&vec!["a=2".into(), "b=1".into()]));
    }
}

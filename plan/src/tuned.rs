//! Tuned configurations: meshes, layouts and schedules of known programs on known slices, which were compiled
//! with libtpu.

use crate::{candidate::Candidate, space::Space};
use compiler::cost::target::Slice;
use mesh::{Layout, Mesh, Module, StateKind};
use serde::Deserialize;

/// A configuration of a program on a slice.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuned {
    /// The name of the program.
    pub program: String,
    /// The number of its parameters, which differs if its sizes do.
    pub parameters: u64,
    /// The slice, such as `v4:8x8x8:megacore`.
    pub slice: String,
    /// The mesh.
    pub mesh: String,
    /// The state layout. The compute layout is the program's own.
    pub state_layout: String,
    /// Schedule entries, `key=value`.
    pub schedule: Vec<String>,
    /// Settings of the model, `key=value`.
    #[serde(default)]
    pub settings: Vec<String>,
    /// Flags of libtpu, `key=value`.
    #[serde(default)]
    pub flags: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    tuned: Vec<Tuned>,
}

/// Returns all tuned configurations.
pub fn all() -> Vec<Tuned> {
    let file: File = toml::from_str(include_str!("tuned.toml")).expect("a test reads the file");
    file.tuned
}

/// Returns the configuration of a program on `slice`. If the name of the slice states no mode of its chips,
/// the configuration may have another mode than the default.
pub fn find(module: &Module, slice: &Slice) -> Option<Tuned> {
    let parameters = parameters(module);
    let is_for = |tuned: &Tuned| {
        let on = tuned.slice();
        let mode = if slice.mode_is_given { on.mode } else { slice.mode.clone() };
        let is_slice = Slice { mode, mode_is_given: slice.mode_is_given, ..on } == *slice;
        is_slice && tuned.program == module.name && tuned.parameters == parameters
    };
    all().into_iter().find(is_for)
}

/// Returns the configurations of a program for slices with as many devices as `space`, as candidates of it.
/// `program` returns the program under some entries of the schedule. Configurations with other settings than
/// the program's, or other placements than the user's, are left out.
pub fn starts(
    module: &Module,
    space: &Space,
    program: &dyn Fn(&[String]) -> Option<Module>,
) -> Vec<Candidate> {
    let parameters = parameters(module);
    let settings: Vec<&str> = module.meta("settings").unwrap_or_default().split_whitespace().collect();
    let suits = |tuned: &Tuned| {
        let mesh = tuned.mesh();
        let has_mesh = space.fixed.mesh.as_ref().is_none_or(|fixed| *fixed == mesh);
        let has_settings = tuned.settings.iter().all(|setting| settings.contains(&&**setting));
        let is_program = tuned.program == module.name && tuned.parameters == parameters;
        is_program && has_settings && has_mesh && mesh.devices() == space.devices
    };
    let candidate = |tuned: Tuned| {
        let (mesh, under) = (tuned.mesh(), program(&tuned.schedule)?);
        let own = || Layout::parse(under.meta("layout").unwrap_or_default()).ok();
        let layout = space.fixed.layout.clone().or_else(own)?.restricted_to(&mesh);
        let state = space.fixed.state_layout.clone().unwrap_or_else(|| tuned.state_layout());
        Some(Candidate {
            schedule: tuned.schedule,
            mesh: mesh.to_string(),
            layout: layout.to_string(),
            state_layout: state.restricted_to(&mesh).to_string(),
        })
    };
    all().into_iter().filter(suits).filter_map(candidate).collect()
}

impl Tuned {
    /// Returns the slice.
    pub fn slice(&self) -> Slice {
        Slice::parse(&self.slice).expect("a test parses the slices")
    }

    /// Returns the mesh.
    pub fn mesh(&self) -> Mesh {
        Mesh::parse(&self.mesh).expect("a test parses the meshes")
    }

    /// Returns the state layout.
    pub fn state_layout(&self) -> Layout {
        Layout::parse(&self.state_layout).expect("a test parses the layouts")
    }

    /// Returns the configuration as options of the command line.
    pub fn options(&self) -> String {
        let settings = self.settings.iter().map(|s| format!(" --set {s}"));
        let schedule = self.schedule.iter().map(|s| format!(" --schedule {s}"));
        let flags = self.flags.iter().map(|f| format!(" --flag {f}"));
        let more: String = settings.chain(schedule).chain(flags).collect();
        format!(
            "--target tpu:{} --mesh {} --state-layout '{}'{more}",
            self.slice, self.mesh, self.state_layout
        )
    }
}

/// Returns the number of parameters of a program, at most the largest `u64`.
pub fn parameters(module: &Module) -> u64 {
    let parameters = module.env.states.iter().filter(|(_, state)| state.kind == StateKind::Param);
    parameters.fold(0, |sum: u64, (_, state)| sum.saturating_add(state.ty.elements() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Fixed;

    #[test]
    fn configurations_fit_their_slices() {
        for tuned in all() {
            let about = format!("{} on {}", tuned.program, tuned.slice);
            assert_eq!(tuned.mesh().devices(), tuned.slice().devices(), "{about}");
            tuned.state_layout().resolve(&tuned.mesh()).expect(&about);
            let pairs = tuned.schedule.iter().chain(&tuned.settings).chain(&tuned.flags);
            pairs.for_each(|pair| assert!(pair.contains('='), "{about}: {pair}"));
        }
    }

    #[test]
    fn a_slice_that_states_its_mode_keeps_it() {
        let name = "switch_xxl";
        let xxl = all().into_iter().find(|t| t.program == name).expect("it is in the file");
        let module = module(name, xxl.parameters);
        let found = |slice: &str| find(&module, &Slice::parse(slice).expect("it is a slice"));
        assert_eq!(found("v4:8x8x8"), Some(xxl.clone()));
        assert_eq!(found("v4:8x8x8:megacore"), Some(xxl));
        assert_eq!(found("v4:8x8x8:split"), None);
        assert_eq!(found("v4:8x8x16"), None);
        assert_eq!(found("v4:8x8x8:slices=2"), None);
        assert_eq!(find(&self::module(name, 1), &Slice::parse("v4:8x8x8").expect("it is a slice")), None);
    }

    #[test]
    fn a_plan_begins_with_configurations_for_as_many_devices() {
        let base = all().into_iter().find(|t| t.program == "switch_base").expect("it is in the file");
        let mut module = module("switch_base", base.parameters);
        let starts = |module: &Module, devices, mesh: Option<&str>| {
            let fixed = Fixed { mesh: mesh.and_then(|mesh| Mesh::parse(mesh).ok()), ..Fixed::default() };
            starts(module, &Space::new(module, devices, &fixed), &|_| Some(module.clone()))
        };
        let found = starts(&module, 32, None);
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].mesh, &found[0].schedule), (&base.mesh, &base.schedule));
        assert_eq!(starts(&module, 32, Some("expert=32")), found);
        assert_eq!(starts(&module, 32, Some("data=32")), []);
        assert_eq!(starts(&module, 64, None), []);
        // The configuration of Switch-C has a setting that changes the program.
        let c = all().into_iter().find(|t| t.program == "switch_c").expect("it is in the file");
        module = self::module("switch_c", c.parameters);
        assert_eq!(starts(&module, 2048, None), []);
        let site = mesh::Site::default();
        module.meta.push(mesh::ir::Meta {
            key: "settings".into(),
            value: "d=1 expert_groups=32".into(),
            site,
        });
        assert_eq!(starts(&module, 2048, None).len(), 1);
    }

    /// A program with so many parameters in one tensor.
    fn module(name: &str, parameters: u64) -> Module {
        let text = format!("module {name}\n\nstate param w: f32[n={parameters}]\n");
        mesh::text::parse(&text, "m.mesh").expect("it is a program")
    }
}

//! The mesh and the layouts of a program.

use crate::{failure::failure, target::Target};
use anyhow::Result;
use compiler::pipeline::Placement;
use mesh::{Layout, Mesh, Module};

/// Mesh and layouts, as far as the user has given them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PlacementOptions {
    /// The mesh. `None` means one device.
    pub mesh: Option<Mesh>,
    /// The compute layout. `None` means the model's own, restricted to the axes of the mesh.
    pub layout: Option<Layout>,
    /// The state layout. `None` means the model's own, restricted to the axes of the mesh.
    pub state_layout: Option<Layout>,
}

impl PlacementOptions {
    /// True if neither mesh nor layout was given.
    pub fn is_empty(&self) -> bool {
        self.mesh.is_none() && self.layout.is_none() && self.state_layout.is_none()
    }
}

/// Returns the placement of a program: `options`, completed by the model's own layouts.
///
/// A given layout that names an axis outside the mesh is an error. The model's own layouts are restricted to
/// the axes of the mesh.
pub fn place(module: &Module, options: &PlacementOptions) -> Result<Placement> {
    if !module.env.mesh.axes().is_empty() {
        return stated(module, options);
    }
    let mesh = options.mesh.clone().unwrap_or_default();
    let choose = |given: &Option<Layout>, key: &str, option: &str| -> Result<Layout> {
        let layout = match given {
            Some(layout) => layout.clone(),
            None => own(module, key)?.restricted_to(&mesh),
        };
        match layout.resolve(&mesh) {
            Ok(_) => Ok(layout),
            Err(what) => {
                Err(failure(what, format!("name an axis of --mesh in {option}, or add the axis to --mesh")))
            }
        }
    };
    let layout = choose(&options.layout, "layout", "--layout")?;
    let state_layout = choose(&options.state_layout, "state_layout", "--state-layout")?;
    Ok(Placement { mesh, layout, state_layout })
}

/// Returns the placement of a Local program, which states its mesh. Its values are already split, so that no
/// layout applies.
fn stated(module: &Module, options: &PlacementOptions) -> Result<Placement> {
    let mesh = module.env.mesh.clone();
    if options.layout.is_some()
        || options.state_layout.is_some()
        || options.mesh.as_ref().is_some_and(|m| *m != mesh)
    {
        return Err(failure(
            format!(
                "`{}` is already partitioned over the mesh {mesh}: --mesh, --layout and --state-layout have no effect",
                module.name
            ),
            "leave out --mesh, --layout and --state-layout, or give the program from before partitioning",
        ));
    }
    Ok(Placement { mesh, ..Placement::default() })
}

/// Checks that the mesh has as many devices as `target`, which has `devices`.
pub fn check_devices(mesh: &Mesh, target: &Target, devices: usize) -> Result<()> {
    let product = mesh.devices();
    if product == devices {
        return Ok(());
    }
    let given = match mesh.axes() {
        [] => "without --mesh a program has one device".to_owned(),
        _ => format!("the mesh {mesh} has {product} devices"),
    };
    Err(failure(
        format!("{given}, but {target} has {devices}"),
        format!("choose axis sizes whose product is {devices}, such as --mesh data={devices}"),
    ))
}

/// Returns a mesh with two devices along each axis of the model's own layout.
pub fn example(module: &Module) -> String {
    let layout = Layout::parse(module.meta("layout").unwrap_or_default()).unwrap_or_default();
    let mut axes: Vec<String> = Vec::new();
    for (_, rule) in &layout.rules {
        for axis in rule.iter().map(|axis| format!("{axis}=2")) {
            if !axes.contains(&axis) {
                axes.push(axis);
            }
        }
    }
    if axes.is_empty() { "data=2 --layout batch:data".to_owned() } else { axes.join(",") }
}

/// Returns the layout in a meta entry of the model.
fn own(module: &Module, key: &str) -> Result<Layout> {
    Layout::parse(module.meta(key).unwrap_or_default()).map_err(|what| {
        failure(
            format!("the meta entry `{key}` of program `{}` is not a layout: {what}", module.name),
            format!("correct it in the model, or override it with --{}", key.replace('_', "-")),
        )
    })
}

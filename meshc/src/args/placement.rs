//! The mesh and the layouts of a program.

use super::target::Target;
use crate::output::failure::failure;
use anyhow::Result;
use compiler::pipeline::Placement;
use mesh::{Layout, Mesh, Module};

/// How a program lies on its devices, as the user says it.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PlacementArgs {
    /// Axes of the mesh and their sizes, the major one first: data=2,expert=4. Default: one device
    #[arg(long, value_name = "AXIS=SIZE,…", value_parser = Mesh::parse)]
    pub mesh: Option<Mesh>,
    /// Which dim is split over which axes: batch:data+expert,experts:expert. Default: the model's own layout, as far as
    /// the mesh has its axes
    #[arg(long, value_name = "DIM:AXIS[+AXIS],…", value_parser = Layout::parse)]
    pub layout: Option<Layout>,
    /// How stored parameters and optimizer slots are split further; *:data splits each of them over data
    #[arg(long, value_name = "DIM:AXIS[+AXIS],…", value_parser = Layout::parse)]
    pub state_layout: Option<Layout>,
}

impl PlacementArgs {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.mesh.is_none() && self.layout.is_none() && self.state_layout.is_none()
    }
}

/// The same with the model's defaults. A layout that names an axis the mesh lacks is an error; rules of the
/// model's own layout for such axes are left out.
pub fn place(module: &Module, args: &PlacementArgs) -> Result<Placement> {
    if !module.env.mesh.axes().is_empty() {
        return stated(module, args);
    }
    let mesh = args.mesh.clone().unwrap_or_default();
    let choose = |given: &Option<Layout>, key: &str, option: &str| -> Result<Layout> {
        let layout = match given {
            Some(layout) => layout.clone(),
            None => own(module, key)?.restricted_to(&mesh),
        };
        match layout.resolve(&mesh) {
            Ok(_) => Ok(layout),
            Err(what) => {
                Err(failure(what, format!("name an axis of --mesh in {option}, or give --mesh the axis")))
            }
        }
    };
    let layout = choose(&args.layout, "layout", "--layout")?;
    let state_layout = choose(&args.state_layout, "state_layout", "--state-layout")?;
    Ok(Placement { mesh, layout, state_layout })
}

/// The placement of a Local program, which states its mesh. Its values are already split: there is no layout to choose.
fn stated(module: &Module, args: &PlacementArgs) -> Result<Placement> {
    let mesh = module.env.mesh.clone();
    if args.layout.is_some() || args.state_layout.is_some() || args.mesh.as_ref().is_some_and(|m| *m != mesh)
    {
        return Err(failure(
            format!("`{}` is partitioned already, over the mesh {mesh}", module.name),
            "leave --mesh, --layout and --state-layout out, or give the program from before it was partitioned",
        ));
    }
    Ok(Placement { mesh, ..Placement::default() })
}

/// Whether the mesh has as many devices as `target`, which has `devices`.
pub fn check_devices(mesh: &Mesh, target: &Target, devices: usize) -> Result<()> {
    let product = mesh.devices();
    if product == devices {
        return Ok(());
    }
    let given = match mesh.axes() {
        [] => "no --mesh is given, which is one device".to_owned(),
        _ => format!("the mesh {mesh} is {product} devices"),
    };
    Err(failure(
        format!("{given}, but {target} has {devices}"),
        format!("give --mesh sizes with the product {devices}, such as --mesh data={devices}"),
    ))
}

/// The layout that a model states for itself.
fn own(module: &Module, key: &str) -> Result<Layout> {
    Layout::parse(module.meta(key).unwrap_or_default()).map_err(|what| {
        failure(
            format!("the meta entry `{key}` of program `{}` is not a layout: {what}", module.name),
            format!("correct it in the model, or give --{}", key.replace('_', "-")),
        )
    })
}

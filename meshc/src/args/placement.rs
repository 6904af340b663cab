//! The mesh and the layouts of a program.

use driver::placement::PlacementOptions;
use mesh::{Layout, Mesh};

/// Mesh and layouts, as given on the command line.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PlacementArgs {
    /// Mesh axes and their sizes, major axis first: data=2,expert=4. Default: one device
    #[arg(long, value_name = "AXIS=SIZE,…", value_parser = Mesh::parse)]
    mesh: Option<Mesh>,
    /// Mesh axes that each dim is split over: batch:data+expert,experts:expert. Default: the model's own
    /// layout, restricted to the axes of the mesh
    #[arg(long, value_name = "DIM:AXIS[+AXIS],…", value_parser = Layout::parse)]
    layout: Option<Layout>,
    /// Additional splits of stored parameters and optimizer slots (ZeRO): *:data splits each over data
    #[arg(long, value_name = "DIM:AXIS[+AXIS],…", value_parser = Layout::parse)]
    state_layout: Option<Layout>,
}

impl PlacementArgs {
    /// Returns the mesh and the layouts.
    pub fn options(&self) -> PlacementOptions {
        let Self { mesh, layout, state_layout } = self.clone();
        PlacementOptions { mesh, layout, state_layout }
    }
}

//! `meshc selftest`: compares the devices of a plugin with the reference interpreter.

use crate::{
    args::{
        plugin::{FlagArgs, PluginArgs, environment},
        ranges,
    },
    output::{host::HOST, stream::outln},
};
use anyhow::Result;
use driver::{
    placement::PlacementOptions,
    request::Request,
    selftest::{self, Extent},
    target::{Target, TargetOptions},
};
use mesh::Mesh;
use std::{path::Path, process::ExitCode, time::Duration};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Mesh axes and their sizes. Default: x=2,y=2 on CPUs, else all devices along one axis
    #[arg(long, value_name = "AXIS=SIZE,…", value_parser = Mesh::parse)]
    mesh: Option<Mesh>,
    /// Number of random programs
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = ranges::whole)]
    programs: usize,
    /// Seconds after which no further program begins
    #[arg(long, value_name = "S", default_value_t = 600, value_parser = ranges::whole_64)]
    seconds: u64,
    /// Seed of the random programs
    #[arg(long, value_name = "N", default_value = "1", value_parser = ranges::whole_32)]
    seed: u32,
    /// Target: cpu, gpu, or a TPU slice such as tpu:v5e:2x4. Default: the platform of the plugin
    #[arg(long)]
    target: Option<Target>,
    /// Compile `max` as `min`, to see the self-test fail
    #[arg(long)]
    plant_fault: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    plugin: PluginArgs,
    #[command(flatten)]
    flags: FlagArgs,
}

/// Compares, and fails if a result differs.
pub fn run(args: &Args) -> Result<ExitCode> {
    environment(None)?;
    let request = Request {
        placement: PlacementOptions { mesh: args.mesh.clone(), ..PlacementOptions::default() },
        target: TargetOptions { target: args.target.clone(), ..TargetOptions::default() },
        plugin: args.plugin.options(),
        flags: args.flags.options(),
        ..Request::new(Path::new(""), HOST)
    };
    let limit = Duration::from_secs(args.seconds);
    let (programs, seed, fault) = (args.programs, args.seed.into(), args.plant_fault);
    let report = selftest::run(&request, Extent { programs, limit, seed, fault })?;
    if args.json {
        outln!("{:#}", report.json());
    } else {
        outln!("{report}");
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

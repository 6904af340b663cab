//! `meshc slice`: facts of a TPU slice for scripts, and the environment of its hosts.

use crate::{args::ranges::whole, output::stream::outln};
use anyhow::Result;
use compiler::cost::cloud::{self, Worker};
use driver::{failure::failure, target::Target};

/// Arguments.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// TPU slice, such as tpu:v5e:4x8 or tpu:v4:4x4x4:slices=2
    target: Target,
    /// Print the environment of the host with this index, instead of facts
    #[arg(long, value_name = "I", requires = "hosts", value_parser = whole,
        allow_negative_numbers = true)]
    worker: Option<usize>,
    /// Names or addresses of the hosts of its slice, in order
    #[arg(long, value_name = "HOST,HOST", value_delimiter = ',', requires = "worker")]
    hosts: Vec<String>,
    /// Index of its slice, of several
    #[arg(long, value_name = "S", default_value_t = 0, requires = "worker", value_parser = whole,
        allow_negative_numbers = true)]
    slice: usize,
    /// First host of the first slice, of several
    #[arg(long, value_name = "HOST", requires = "worker")]
    coordinator: Option<String>,
}

/// Prints lines `name=value`.
pub fn run(args: &Args) -> Result<()> {
    let Some(slice) = args.target.slice() else {
        let what = format!("{} is not a TPU slice", args.target);
        return Err(failure(what, "name one, such as tpu:v5e:4x8"));
    };
    if let Some(index) = args.worker {
        let coordinator = args.coordinator.clone();
        let worker = Worker { hosts: args.hosts.clone(), index, slice: args.slice, coordinator };
        let variables = cloud::environment(slice, &worker).map_err(|what| {
            failure(what, "give --hosts, --worker, --slice and --coordinator of this slice")
        })?;
        variables.iter().for_each(|(name, value)| outln!("{name}={value}"));
        return Ok(());
    }
    let names = &slice.generation.cloud;
    let or_none = |name: &Option<String>| name.clone().unwrap_or_default();
    outln!("target={}", args.target);
    outln!("slices={}", slice.slices);
    outln!("hosts={}", slice.hosts());
    outln!("chips={}", slice.chips());
    outln!("devices={}", slice.devices());
    outln!("topology={}", cloud::topology(slice));
    outln!("accelerator_type={}", cloud::accelerator_type(slice));
    outln!("type={}", names.name);
    outln!("runtime_version={}", or_none(&names.runtime));
    outln!("gke_accelerator={}", or_none(&names.gke));
    outln!("gke_machine={}", or_none(&names.machine));
    Ok(())
}

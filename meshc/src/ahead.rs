//! Compiling the functions of an artefact with a plugin, without running them.

use crate::{
    device::{PluginArgs, named_value},
    failure::failure,
    placement::check_devices,
    target::Target,
};
use anyhow::{Context, Result};
use compiler::{
    artefact::Artefact,
    report::table::{size, table},
};
use mesh::Mesh;
use pjrt::{Client, Executable, LoadedExecutable, Program, Topology, Value};
use proto::{Message, hlo_text, xla::HloModuleProto};
use runtime::plugin::{Surroundings, list};

/// What a program is compiled for, apart from its mesh.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TargetArgs {
    /// cpu, gpu or a TPU slice such as tpu:v5e:2x4
    #[arg(long, default_value = "cpu")]
    pub target: Target,
    /// An option of a TPU slice, such as chip_config_name=megacore or num_slices=2; may be given several times
    #[arg(long = "target-option", value_name = "KEY=VALUE", value_parser = named_value)]
    pub slice_options: Vec<(String, Value)>,
}

/// Which files are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// `NAME.executable`, the plugin's own bytes.
    pub executable: bool,
    /// `NAME.optimized_hlo.pb` and `.txt`, the program as the plugin runs it.
    pub optimized_hlo: bool,
}

/// Whether the target has as many devices as the mesh, as far as that can be known: only libtpu knows how many devices
/// a slice has.
pub fn check_target(args: &TargetArgs, mesh: &Mesh, plugin: &PluginArgs) -> Result<()> {
    let Target::Tpu(_) = args.target else { return Ok(()) };
    let platform = args.target.platform();
    if plugin.plugin.is_none() && list(platform, None, &Surroundings::of_process()?)?.is_empty() {
        eprintln!("note: libtpu was not found, so the number of devices of {} is not checked", args.target);
        return Ok(());
    }
    topology(args, plugin, mesh).map(drop)
}

/// The topology of a TPU target, if it has as many devices as the mesh.
fn topology(args: &TargetArgs, plugin: &PluginArgs, mesh: &Mesh) -> Result<Topology> {
    let chosen = plugin.load(args.target.platform())?;
    let slice = match &args.target {
        Target::Tpu(slice) => slice.as_str(),
        Target::Cpu | Target::Gpu => "",
    };
    let topology = Topology::create(&chosen.plugin, slice, &args.slice_options).map_err(|e| {
        failure(
            format!("`{}` makes no topology of {}: {e}", chosen.found.path.display(), args.target),
            "slices are named GENERATION:SHAPE, such as v4:2x2x1, v5e:2x4 or v5p:2x2x1; see --target-option for more",
        )
    })?;
    check_devices(mesh, &args.target, topology.devices()?.len())?;
    Ok(topology)
}

/// Whoever compiles: a client with its devices, or a topology that need not be here.
enum Compiler {
    Client(Client),
    Topology(Topology),
}

enum Compiled {
    Here(LoadedExecutable),
    Elsewhere(Executable),
}

impl Compiled {
    fn executable(&self) -> &Executable {
        match self {
            Self::Here(loaded) => loaded.executable(),
            Self::Elsewhere(executable) => executable,
        }
    }
}

/// Compiles all functions, says what each needs, and returns the files that are wanted.
pub fn compile(
    artefact: &Artefact,
    args: &TargetArgs,
    mesh: &Mesh,
    plugin: &PluginArgs,
    wanted: Wanted,
) -> Result<Vec<(String, Vec<u8>)>> {
    let compiler = match &args.target {
        Target::Tpu(_) => Compiler::Topology(topology(args, plugin, mesh)?),
        Target::Cpu | Target::Gpu => {
            let chosen = plugin.load(args.target.platform())?;
            let options = plugin.client_options(chosen.platform, mesh.devices() as u64);
            Compiler::Client(Client::create(&chosen.plugin, &options).context("creating a client")?)
        }
    };
    let mut files = Vec::new();
    let mut rows = Vec::new();
    for function in &artefact.manifest.functions {
        let bytes = |file: &Option<proto::manifest::File>| -> &[u8] {
            let name = file.as_ref().map_or("", |f| &f.name);
            artefact.files.iter().find(|(n, _)| n == name).map_or(&[], |(_, bytes)| bytes)
        };
        eprintln!("compiling {} for {}", function.name, args.target);
        let (code, options) = (Program::hlo(bytes(&function.module)), bytes(&function.compile_options));
        let compiled = match &compiler {
            Compiler::Client(client) => client.compile(&code, options).map(Compiled::Here),
            Compiler::Topology(topology) => topology.compile(&code, options, None).map(Compiled::Elsewhere),
        };
        let context = || {
            format!("compiling `{}` of `{}` for {}", function.name, artefact.manifest.program, args.target)
        };
        let compiled = compiled.with_context(context)?;
        let executable = compiled.executable();
        let estimate = function.cost.as_ref().map(|c| c.peak_bytes_per_device);
        rows.push(row(&function.name, executable, estimate)?);
        let lacks = |what: &str| {
            failure(
                format!("the plugin for {} does not give {what} of `{}`", args.target, function.name),
                "leave it out of --emit, or name another plugin with --plugin",
            )
        };
        if wanted.executable {
            let bytes = executable.serialize()?.ok_or_else(|| lacks("the bytes"))?;
            files.push((format!("{}.executable", function.name), bytes));
        }
        if wanted.optimized_hlo {
            let program = executable.optimized_program()?.ok_or_else(|| lacks("the optimized program"))?;
            files.extend(optimized(&function.name, program, mesh.devices()));
        }
    }
    let heads =
        ["function", "arguments", "outputs", "in place", "temporaries", "code", "peak", "our estimate"];
    println!("bytes per device, as {} has them:", args.target);
    let mut text = String::new();
    table(&mut text, &heads, "<>>>>>>>", &rows)?;
    print!("{text}");
    Ok(files)
}

/// What the plugin says that a function needs, beside what we say.
fn row(name: &str, executable: &Executable, estimate: Option<u64>) -> Result<Vec<String>> {
    let estimate = estimate.map_or_else(|| "-".to_owned(), size);
    let Some(stats) = executable.memory_stats()? else {
        return Ok([&[name.to_owned()][..], &vec!["-".to_owned(); 6], &[estimate]].concat());
    };
    let bytes = |n: i64| size(u64::try_from(n).unwrap_or(0));
    let sum = stats.arguments + stats.outputs - stats.aliased + stats.temporaries + stats.generated_code;
    Ok(vec![
        name.to_owned(),
        bytes(stats.arguments),
        bytes(stats.outputs),
        bytes(stats.aliased),
        bytes(stats.temporaries),
        bytes(stats.generated_code),
        bytes(stats.peak.filter(|p| *p > 0).unwrap_or(sum)),
        estimate,
    ])
}

/// An `HloModuleProtoWithConfig`, as far as it is read here.
#[derive(Clone, PartialEq, prost::Message)]
struct WithConfig {
    #[prost(message, optional, tag = "1")]
    hlo_module: Option<HloModuleProto>,
}

fn optimized(name: &str, program: pjrt::OptimizedCode, devices: usize) -> Vec<(String, Vec<u8>)> {
    let module = match program.format.as_str() {
        "hlo_with_config" => WithConfig::decode(&program.code[..]).ok().and_then(|m| m.hlo_module),
        "hlo" => HloModuleProto::decode(&program.code[..]).ok(),
        _ => None,
    };
    let Some(module) = module else {
        return vec![(format!("{name}.optimized.{}", program.format), program.code)];
    };
    let options = hlo_text::Options { num_partitions: devices as i64, ..Default::default() };
    vec![
        (format!("{name}.optimized_hlo.pb"), module.encode_to_vec()),
        (format!("{name}.optimized_hlo.txt"), hlo_text::print(&module, &options).into_bytes()),
    ]
}

//! Ahead-of-time compilation of an artefact's functions with a plugin.

use crate::{
    device::{load, topology},
    failure::failure,
    placement::check_devices,
    request::Request,
    target::Target,
};
use anyhow::{Context, Result};
use compiler::{artefact::Artefact, cost::target::Slice};
use mesh::Mesh;
use pjrt::{Client, Code, Executable, LoadedExecutable, Program, Topology};
use proto::{Message, hlo_text, manifest::Function, xla::HloModuleProto};
use report::{
    compiled::{Compiled, CompiledMemory},
    optimized,
};
use std::time::Instant;

/// The file with the plugin's own numbers about the functions.
pub const COMPILED: &str = "compiled.json";

/// The files that were requested.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// `NAME.executable`, serialized by the plugin.
    pub executable: bool,
    /// `NAME.optimized_hlo.pb` and `.txt`, the program after the plugin's optimizations.
    pub optimized_hlo: bool,
}

/// Checks that the target has as many devices as the mesh.
pub fn check_target(target: &Target, mesh: &Mesh) -> Result<()> {
    match target.slice() {
        Some(slice) => check_devices(mesh, target, slice.devices()),
        None => Ok(()),
    }
}

/// A compiler: a client with its devices, or a topology without devices.
enum Compiler {
    Client(Client),
    Topology(Topology),
}

enum Made {
    Here(LoadedExecutable),
    Elsewhere(Executable),
}

impl Made {
    fn executable(&self) -> &Executable {
        match self {
            Self::Here(loaded) => loaded.executable(),
            Self::Elsewhere(executable) => executable,
        }
    }
}

/// The compiler of a plugin for a target.
pub struct Ahead<'a> {
    compiler: Compiler,
    target: &'a Target,
    mesh: &'a Mesh,
}

/// A compiled function.
pub struct Outcome {
    /// Memory and operations of the function.
    pub compiled: Compiled,
    executable: Made,
    optimized: Option<(pjrt::OptimizedCode, Option<HloModuleProto>)>,
    devices: usize,
}

/// The plugin's message about a function that needs more memory than a device has.
#[derive(Debug)]
pub struct TooLarge(pub String);

impl<'a> Ahead<'a> {
    /// Returns the compiler of `target`, from the plugin of the request.
    pub fn new(request: &Request, target: &'a Target, mesh: &'a Mesh) -> Result<Self> {
        let compiler = match target {
            Target::Tpu(slice) => Compiler::Topology(topology(slice, request)?),
            Target::Cpu | Target::Gpu => {
                let chosen = load(request, target.platform())?;
                let options = request.plugin.client_options(chosen.platform, mesh.devices() as u64);
                Compiler::Client(Client::create(&chosen.plugin, &options).context("creating a client")?)
            }
        };
        Ok(Self { compiler, target, mesh })
    }

    /// Compiles one function of `artefact`.
    pub fn compile(&self, artefact: &Artefact, function: &Function) -> Result<Result<Outcome, TooLarge>> {
        let bytes = |file: &Option<proto::manifest::File>| -> &[u8] {
            let name = file.as_ref().map_or("", |f| &f.name);
            artefact.files.iter().find(|(n, _)| n == name).map_or(&[], |(_, bytes)| bytes)
        };
        let (code, options) = (Program::hlo(bytes(&function.module)), bytes(&function.compile_options));
        let since = Instant::now();
        let made = match &self.compiler {
            Compiler::Client(client) => client.compile(&code, options).map(Made::Here),
            Compiler::Topology(topology) => topology.compile(&code, options, None).map(Made::Elsewhere),
        };
        let made = match made {
            Ok(made) => made,
            Err(error) if error.code() == Some(Code::ResourceExhausted) => {
                return Ok(Err(TooLarge(error.to_string())));
            }
            Err(error) => {
                let what = format!(
                    "compiling `{}` of `{}` for {}",
                    function.name, artefact.manifest.program, self.target
                );
                return Err(anyhow::Error::new(error).context(what));
            }
        };
        let seconds = since.elapsed().as_secs_f64();
        let memory = memory(made.executable())?;
        let program = made.executable().optimized_program()?;
        let module = program.as_ref().and_then(module);
        let counted = module.as_ref().map(|m| optimized::count(m, self.mesh, self.target.slice()));
        let compiled = Compiled {
            function: function.name.clone(),
            target: self.target.to_string(),
            usable_bytes: self.target.slice().map_or(0, Slice::hbm),
            seconds,
            memory,
            program: counted,
        };
        let optimized = program.map(|p| (p, module));
        Ok(Ok(Outcome { compiled, executable: made, optimized, devices: self.mesh.devices() }))
    }
}

impl Outcome {
    /// Returns the requested files.
    pub fn files(self, wanted: Wanted) -> Result<Vec<(String, Vec<u8>)>> {
        let Compiled { function, target, .. } = &self.compiled;
        let lacks = |what: &str| {
            failure(
                format!("the plugin for {target} does not provide {what} of `{function}`"),
                "leave it out of --emit, or name another plugin with --plugin",
            )
        };
        let mut files = Vec::new();
        if wanted.executable {
            let bytes = self.executable.executable().serialize()?.ok_or_else(|| lacks("the executable"))?;
            files.push((format!("{function}.executable"), bytes));
        }
        if wanted.optimized_hlo {
            let (code, module) = self.optimized.ok_or_else(|| lacks("the optimized program"))?;
            files.extend(optimized_files(function, code, module, self.devices));
        }
        Ok(files)
    }
}

fn memory(executable: &Executable) -> Result<Option<CompiledMemory>> {
    let Some(stats) = executable.memory_stats()? else { return Ok(None) };
    let bytes = |n: i64| u64::try_from(n).unwrap_or(0);
    let sum = stats.arguments + stats.outputs - stats.aliased + stats.temporaries + stats.generated_code;
    Ok(Some(CompiledMemory {
        arguments: bytes(stats.arguments),
        outputs: bytes(stats.outputs),
        in_place: bytes(stats.aliased),
        temporaries: bytes(stats.temporaries),
        code: bytes(stats.generated_code),
        peak: bytes(stats.peak.filter(|p| *p > 0).unwrap_or(sum)),
    }))
}

/// The part of an `HloModuleProtoWithConfig` that is read here.
#[derive(Clone, PartialEq, prost::Message)]
struct WithConfig {
    #[prost(message, optional, tag = "1")]
    hlo_module: Option<HloModuleProto>,
}

fn module(program: &pjrt::OptimizedCode) -> Option<HloModuleProto> {
    match program.format.as_str() {
        "hlo_with_config" => WithConfig::decode(&program.code[..]).ok()?.hlo_module,
        "hlo" => HloModuleProto::decode(&program.code[..]).ok(),
        _ => None,
    }
}

/// Parses the HLO module of a file in our form or in the form of plugins.
pub fn read_module(bytes: &[u8]) -> Option<HloModuleProto> {
    let has_entry = |m: &HloModuleProto| !m.computations.is_empty();
    let plain = HloModuleProto::decode(bytes).ok().filter(has_entry);
    plain.or_else(|| WithConfig::decode(bytes).ok()?.hlo_module.filter(has_entry))
}

fn optimized_files(
    name: &str,
    program: pjrt::OptimizedCode,
    module: Option<HloModuleProto>,
    devices: usize,
) -> Vec<(String, Vec<u8>)> {
    let Some(module) = module else {
        return vec![(format!("{name}.optimized.{}", program.format), program.code)];
    };
    let options = hlo_text::Options { num_partitions: devices as i64, ..Default::default() };
    vec![
        (format!("{name}.optimized_hlo.pb"), module.encode_to_vec()),
        (format!("{name}.optimized_hlo.txt"), hlo_text::print(&module, &options).into_bytes()),
    ]
}

//! Builds artefacts: an HLO module and compile options per function, and the manifest that describes them.
//! Files are made in memory; the caller writes them.

use crate::{
    fault::ours,
    hlo::{self, Platform, Port, PortKind},
    precision, task,
};
use mesh::{DType, Diagnostic, Diagnostics, Layout, Mesh, Module, Name, StateDecl, StateKind, Type};
use proto::{
    Message, compile_options,
    manifest::{
        self, Axis, Dim, File, Function, Input, InputKind, Manifest, Output, OutputKind, Source, StateEntry,
        Summary, Tensor,
    },
    precision_check,
    xla::HloModuleProto,
};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The inputs of an artefact besides the program.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The producer, such as `meshc 0.1.0`.
    pub producer: String,
    /// The platform: `cpu`, `gpu`, `tpu:v5e:2x4`.
    pub target: String,
    /// The compute layout, as given.
    pub layout: Layout,
    /// The state layout, as given.
    pub state_layout: Layout,
    /// The model file, as the user named it.
    pub source: String,
    /// SHA-256 of the program's Global text, in hexadecimal.
    pub source_sha256: String,
    /// Compiler flags for the plugin.
    pub flags: Vec<(String, String)>,
    /// The plugin's ids of the mesh's devices, where its default order is not right.
    pub device_ids: Option<Vec<i64>>,
    /// True if the processor of the target `cpu` has no units for bf16 products.
    pub lacks_bf16: bool,
    /// Costs of each function, by name.
    pub costs: Vec<(String, manifest::Cost)>,
}

/// The files of an artefact except the manifest's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Artefact {
    /// The manifest, which describes them.
    pub manifest: Manifest,
    /// `(name, bytes)`.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Emits all functions of a verified Local module. The one mistake of a program that is found here is a `meta
/// dtype` of `selective` that the emitted HLO contradicts, for Local programs that did not come through the
/// earlier stages ([`crate::precision`]).
pub fn build(local: &Module, settings: &Settings) -> Result<Artefact, Diagnostics> {
    let mesh = &local.env.mesh;
    let mut options = compile_options::single_program(mesh.devices(), settings.device_ids.as_deref());
    for (name, value) in &settings.flags {
        compile_options::set_flag(&mut options, name, value);
    }
    let options = options.encode_to_vec();
    let mut files = Vec::new();
    let mut functions = Vec::new();
    for f in &local.functions {
        functions.push(function(local, &f.name, settings, &options, &mut files)?);
    }
    let axes = mesh.axes().iter().map(|a| Axis { name: a.name.to_string(), size: a.size as u64 });
    let manifest = Manifest {
        format_version: 1,
        program: local.name.clone(),
        producer: settings.producer.clone(),
        target: settings.target.clone(),
        mesh: Some(manifest::Mesh { axes: axes.collect() }),
        layout: settings.layout.to_string(),
        state_layout: settings.state_layout.to_string(),
        random: format!(
            "threefry2x32-{} by seed, counter, stream and logical position",
            mesh::random::THREEFRY_ROUNDS
        ),
        state: state(local),
        summary: Some(summary(local, &functions)),
        functions,
        source: Some(Source { name: settings.source.clone(), sha256: settings.source_sha256.clone() }),
        meta: meta(local),
        task: local.task.as_ref().map(task::message),
    };
    Ok(Artefact { manifest, files })
}

/// Emits one function: adds its files and returns its entry in the manifest.
fn function(
    local: &Module,
    name: &Name,
    settings: &Settings,
    options: &[u8],
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<Function, Diagnostics> {
    let mesh = &local.env.mesh;
    let seed = local.task.as_ref().map_or("seed", |task| task.names.seed.as_str());
    let platform = Platform::of_target(&settings.target, settings.lacks_bf16);
    let emitted = hlo::emit(local, name, platform).map_err(|d| ours("hlo", None, d))?;
    if precision::is_selective(local) {
        selective(&emitted.module).map_err(|d| d.in_function(name))?;
    }
    let mut add = |suffix: &str, bytes: Vec<u8>| {
        let name = format!("{name}.{suffix}");
        let file = File { name: name.clone(), sha256: digest(&bytes), bytes: bytes.len() as u64 };
        files.push((name, bytes));
        Some(file)
    };
    Ok(Function {
        name: name.to_string(),
        module: add("hlo.pb", emitted.module.encode_to_vec()),
        compile_options: add("compile_options.pb", options.to_vec()),
        inputs: emitted.inputs.iter().map(|p| input(p, seed, mesh)).collect(),
        outputs: emitted.outputs.iter().map(|p| output(p, mesh)).collect(),
        cost: settings.costs.iter().find(|(n, _)| **name == **n).map(|(_, c)| *c),
    })
}

/// The entries of the state tensors.
fn state(local: &Module) -> Vec<StateEntry> {
    let entry = |s: &StateDecl| StateEntry {
        name: s.name.to_string(),
        kind: kind(s.kind) as i32,
        tensor: Some(tensor(&s.ty, &local.env.mesh)),
        slot_of: slot_of(local, &s.name, s.kind),
    };
    local.env.states.iter().map(|(_, s)| entry(s)).collect()
}

/// The program's metadata, with its schedule.
fn meta(local: &Module) -> BTreeMap<String, String> {
    let schedule = local.schedule.to_string();
    let schedule = (!schedule.is_empty()).then(|| ("schedule".to_owned(), schedule));
    local.meta.iter().map(|entry| (entry.key.to_string(), entry.value.clone())).chain(schedule).collect()
}

/// Checks that a program with `selective` precision is so: tokens are bf16 when they are exchanged with the
/// experts, and routers compute in float32.
fn selective(module: &HloModuleProto) -> Result<(), Diagnostic> {
    let problems = precision_check::selective(module);
    let Some(first) = problems.first() else { return Ok(()) };
    let more = match problems.len() {
        1 => String::new(),
        n => format!(", and {} more like it", n - 1),
    };
    Err(Diagnostic::new("", format!("`meta dtype` is `selective`, but {first}{more}"))
        .help("cast to bf16 before tokens go to experts and back, and to f32 before the router's product"))
}

/// SHA-256 in lower-case hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn tensor(ty: &Type, mesh: &Mesh) -> Tensor {
    let dims = ty.dims.iter().zip(ty.local_shape(mesh)).map(|(d, local)| Dim {
        name: d.dim.name.to_string(),
        size: d.dim.size as u64,
        axes: d.axes.iter().map(|a| mesh.name(*a).to_string()).collect(),
        local_size: local as u64,
    });
    Tensor { dtype: ty.dtype.name().to_owned(), dims: dims.collect() }
}

fn input(port: &Port, seed: &str, mesh: &Mesh) -> Input {
    let kind = match port.kind {
        PortKind::State(_) => InputKind::State,
        PortKind::Data(_) if *port.name == *seed && port.ty == Type::scalar(DType::U32) => InputKind::Seed,
        PortKind::Data(_) => InputKind::Data,
    };
    Input {
        name: port.name.to_string(),
        kind: kind as i32,
        state: state_name(port),
        tensor: Some(tensor(&port.ty, mesh)),
        donated_to: port.donated_to.map(|i| i as u32),
    }
}

fn output(port: &Port, mesh: &Mesh) -> Output {
    let kind = match port.kind {
        PortKind::State(_) => OutputKind::State,
        PortKind::Data(_) if port.ty.dims.is_empty() => OutputKind::Metric,
        PortKind::Data(_) => OutputKind::Value,
    };
    Output {
        name: port.name.to_string(),
        kind: kind as i32,
        state: state_name(port),
        tensor: Some(tensor(&port.ty, mesh)),
    }
}

fn state_name(port: &Port) -> String {
    match port.kind {
        PortKind::State(_) => port.name.to_string(),
        PortKind::Data(_) => String::new(),
    }
}

fn kind(kind: StateKind) -> manifest::StateKind {
    match kind {
        StateKind::Param => manifest::StateKind::Param,
        StateKind::Slot => manifest::StateKind::Slot,
        StateKind::Counter => manifest::StateKind::Counter,
    }
}

/// The parameter that a slot belongs to: the longest parameter name that the slot's name ends with.
fn slot_of(local: &Module, name: &str, of: StateKind) -> String {
    if of != StateKind::Slot {
        return String::new();
    }
    let params = local.env.states.iter().filter(|(_, s)| s.kind == StateKind::Param);
    let owner = params.filter(|(_, s)| name.ends_with(s.name.as_str())).max_by_key(|(_, s)| s.name.len());
    owner.map_or(String::new(), |(_, s)| s.name.to_string())
}

fn summary(local: &Module, functions: &[Function]) -> Summary {
    let mesh = &local.env.mesh;
    let params = local.env.states.iter().filter(|(_, s)| s.kind == StateKind::Param);
    let step = functions.iter().find(|f| f.name == "train_step").and_then(|f| f.cost);
    Summary {
        parameters: params.map(|(_, s)| s.ty.elements() as u64).sum(),
        state_bytes_per_device: local.env.states.iter().map(|(_, s)| s.ty.local_bytes(mesh) as u64).sum(),
        flops_per_step: step.map_or(0, |c| c.flops_per_device * mesh.devices() as u64),
    }
}

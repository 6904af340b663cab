//! Comparison of the devices of a plugin with the reference interpreter.

use crate::{
    artefact::target,
    device::{Chosen, load},
    failure::failure,
    interpreter::{from_host, to_host},
    request::Request,
};
use anyhow::{Context, Result};
use compiler::{
    artefact::{Settings, build},
    cost::target::Slice,
    interp::{Outcome, Tensors},
};
use mesh::{
    Mesh, Module, Op,
    ir::{Binary, Elementwise},
};
use pjrt::Client;
use proto::{Message, hlo_check, xla::HloModuleProto};
use runtime::{Artefact, Session, plugin::Platform};
use selftest::{
    campaign,
    law::{Backend, Merged, Programs},
    report::Report,
};
use std::{collections::BTreeMap, time::Duration};

/// The extent of a self-test.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// The number of random programs.
    pub programs: usize,
    /// The time after which no further comparison begins.
    pub limit: Duration,
    /// The seed of the programs.
    pub seed: u64,
    /// True if `max` is compiled as `min`, which the self-test must find.
    pub fault: bool,
}

/// Compares the devices that the request names with the reference interpreter. Without a mesh in the request,
/// the mesh is `x=2,y=2` on CPUs, and otherwise all devices along one axis.
///
/// # Errors
/// There is no plugin, it makes no client, or it has fewer devices than the mesh.
pub fn run(request: &Request, extent: Extent) -> Result<Report> {
    let target = target(request)?;
    let chosen = load(request, target.platform())?;
    let mesh = request.placement.mesh.clone();
    let virtual_devices = mesh.as_ref().map_or(4, Mesh::devices) as u64;
    let options = request.plugin.client_options(chosen.platform, virtual_devices);
    let client = Client::create(&chosen.plugin, &options)
        .with_context(|| format!("creating a client of `{}`", chosen.found.path.display()))?;
    let mesh = match mesh {
        Some(mesh) => mesh,
        None => default_mesh(&chosen, &client)?,
    };
    let here = client.devices()?.len();
    if here < mesh.devices() {
        return Err(failure(
            format!("the mesh {mesh} has {} devices, and the plugin has {here}", mesh.devices()),
            "choose axis sizes whose product is at most that number",
        ));
    }
    (request.host.say)(&format!("comparing {} with the interpreter", chosen.found.path.display()));
    let devices = Devices {
        client,
        target: target.to_string(),
        flags: request.flags.of(&target)?,
        ids: target.slice().and_then(Slice::device_ids),
    };
    let of = |partitioned| Compared { devices: &devices, partitioned, fault: extent.fault };
    let (whole, split) = (of(false), of(true));
    let backends: &[&dyn Backend] = if mesh.devices() > 1 { &[&whole, &split] } else { &[&whole] };
    let options =
        campaign::Options { programs: extent.programs, limit: extent.limit, seed: extent.seed, mesh };
    let mut observe = |done: usize| {
        if done.is_multiple_of(50) {
            (request.host.say)(&format!("{done} of {} programs", extent.programs));
        }
    };
    Ok(campaign::run(&options, backends, &mut observe))
}

fn default_mesh(chosen: &Chosen, client: &Client) -> Result<Mesh> {
    let text = match chosen.platform {
        Platform::Cpu => "x=2,y=2".to_owned(),
        Platform::Gpu | Platform::Tpu => format!("x={}", client.devices()?.len()),
    };
    Mesh::parse(&text).map_err(|what| failure(what, "name a mesh with --mesh"))
}

/// The devices of a client, and the target and flags that programs are compiled with.
#[derive(Clone, Debug)]
pub struct Devices {
    /// The client.
    pub client: Client,
    /// The target, such as `cpu`.
    pub target: String,
    /// Flags of the plugin's compiler.
    pub flags: Vec<(String, String)>,
    /// The plugin's ids of the mesh's devices, where its default order is not right.
    pub ids: Option<Vec<i64>>,
}

/// The devices as a backend.
struct Compared<'d> {
    devices: &'d Devices,
    partitioned: bool,
    fault: bool,
}

impl Backend for Compared<'_> {
    fn name(&self) -> String {
        format!("the plugin on {}", if self.partitioned { "all devices" } else { "one device" })
    }
    fn run(&self, programs: &Programs<'_>) -> Result<Vec<Outcome>, String> {
        let mut all = Merged::new(programs, self.partitioned)?;
        if self.fault {
            plant_fault(&mut all.module);
        }
        let state = &programs.case.state;
        let outcome = Ready::new(&all.module, "all", self.devices)?.call(&all.inputs, state)?;
        Ok(all.parts(&outcome, state))
    }
}

/// Replaces `max` by `min`.
fn plant_fault(module: &mut Module) {
    for inst in module.functions.iter_mut().flat_map(|f| &mut f.body.insts) {
        if let Op::Elementwise(Elementwise::Binary(binary @ Binary::Max)) = &mut inst.op {
            *binary = Binary::Min;
        }
    }
}

/// A compiled function, called with whole tensors.
pub struct Ready {
    local: Module,
    function: String,
    session: Session,
}

impl Ready {
    /// Compiles `function` of a verified Local module.
    ///
    /// # Errors
    /// The program cannot be emitted, or the plugin cannot compile it.
    pub fn new(local: &Module, function: &str, device: &Devices) -> Result<Self, String> {
        let only = Module {
            functions: local.functions.iter().filter(|f| f.name == *function).cloned().collect(),
            ..local.clone()
        };
        let built = build(
            &only,
            &Settings {
                target: device.target.clone(),
                flags: device.flags.clone(),
                device_ids: device.ids.clone(),
                lacks_bf16: runtime::plugin::lacks_bf16(),
                ..Settings::default()
            },
        )
        .map_err(|e| e.to_string())?;
        check_structure(&built.files, local.env.mesh.devices())?;
        let artefact =
            Artefact::new(only.name.to_string(), built.manifest, built.files.into_iter().collect())
                .map_err(|e| e.to_string())?;
        let session = Session::with_client(device.client.clone(), artefact).map_err(|e| e.to_string())?;
        Ok(Self { local: only, function: function.to_owned(), session })
    }

    /// Calls the function with whole tensors, and returns its outputs and the state after it.
    ///
    /// # Errors
    /// The plugin fails, or a tensor does not fit.
    pub fn call(&mut self, inputs: &Tensors, state: &Tensors) -> Result<Outcome, String> {
        let (env, session) = (&self.local.env, &mut self.session);
        for (_, s) in env.states.iter() {
            if let Some(value) = state.get(&s.name) {
                session.set_state(&s.name, &to_host(value, &s.ty)).map_err(|e| e.to_string())?;
            }
        }
        let f = self.local.function(&self.function).ok_or("no such function")?;
        let mut given = BTreeMap::new();
        for (name, ty) in f.inputs.iter().zip(f.body.param_types()) {
            given.insert(name.to_string(), to_host(&inputs[name], ty));
        }
        let results =
            session.call(&self.function, &given).and_then(|o| o.wait()).map_err(|e| e.to_string())?;
        let mut outcome = Outcome { outputs: Tensors::new(), state: state.clone() };
        for (name, ty) in f.outputs.iter().zip(f.body.result_types()) {
            // Assertions are not among the results.
            if let Some(value) = results.get(name.as_str()) {
                outcome.outputs.insert(name.clone(), from_host(value, ty).map_err(|e| e.to_string())?);
            }
        }
        for (_, s) in env.states.iter() {
            if let Ok(value) = session.state(&s.name) {
                outcome.state.insert(s.name.clone(), from_host(&value, &s.ty).map_err(|e| e.to_string())?);
            }
        }
        Ok(outcome)
    }
}

/// Checks the structure of the emitted modules, for a mesh of so many devices: a plugin may crash on an
/// invalid one, and its fault is the compiler's.
fn check_structure(files: &[(String, Vec<u8>)], devices: usize) -> Result<(), String> {
    for (name, bytes) in files.iter().filter(|(name, _)| name.ends_with(".hlo.pb")) {
        let wrong = |what: String| format!("the compiler emitted an invalid module `{name}`: {what}");
        let module = HloModuleProto::decode(&bytes[..]).map_err(|e| wrong(e.to_string()))?;
        if let Some(problem) = hlo_check::check(&module, devices).first() {
            return Err(wrong(problem.to_string()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_modules_are_faults_of_the_compiler() {
        let text = "module m\n\nfunc f(%x x: f32[a=4]) -> (y: f32[a=4]) {\n  %y = neg %x : f32[a=4]\n  return %y\n}\n";
        let module = mesh::text::parse(text, "m").expect("it is a program");
        let built = build(&module, &Settings::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(check_structure(&built.files, 1), Ok(()));
        let mut checked = 0;
        for (name, bytes) in built.files.iter().filter(|(name, _)| name.ends_with(".hlo.pb")) {
            let mut module = HloModuleProto::decode(&bytes[..]).expect("it is a module");
            module.computations[0].instructions[0].id += 100;
            let said = check_structure(&[(name.clone(), module.encode_to_vec())], 1).unwrap_err();
            assert!(
                said.starts_with(&format!("the compiler emitted an invalid module `{name}`: ")),
                "{said}"
            );
            checked += 1;
        }
        assert_eq!(checked, 1, "{:?}", built.files.iter().map(|(name, _)| name).collect::<Vec<_>>());
    }
}

//! Runs programs on the CPU plugin: one client with eight devices for the whole process.

use compiler::artefact::{self, Settings};
use compiler::interp::{Outcome, Tensor, Tensors};
use mesh::{Dim, Module, Name, Type};
use pjrt::{Client, ClientOptions, ElementType, Plugin};
use runtime::{
    Artefact, ExecutableCache, HostTensor, Session,
    plugin::{Platform, SearchPaths, find},
};
use std::{collections::BTreeMap, sync::OnceLock};

/// Devices of the test client.
pub const DEVICES: i64 = 8;

/// Returns the client. The plugin is installed on first use.
pub fn client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    let make = || {
        let around = SearchPaths::from_environment().expect("tests run where there is a home folder");
        let found = find(Platform::Cpu, None, &around, &mut |line| eprintln!("{line}"))
            .expect("pip installs the CPU plugin");
        let plugin = Plugin::load(&found.path).expect("the CPU plugin loads");
        Client::create(&plugin, &ClientOptions::new().with("cpu_device_count", DEVICES))
            .expect("the CPU plugin makes a client")
    };
    CLIENT.get_or_init(make).clone()
}

/// Returns compiler flags for models that run for a few steps: without optimization, XLA compiles them in
/// half of the time. Returns none with `MESH_SLOW=1`: the slow suites run programs as users do.
pub fn flags() -> Vec<(String, String)> {
    if std::env::var_os("MESH_SLOW").is_some_and(|v| v == "1") {
        return Vec::new();
    }
    vec![("xla_backend_optimization_level".to_owned(), "0".to_owned())]
}

/// Returns a cache of executables beside the test executables, because many tests run the same programs.
pub fn executable_cache() -> ExecutableCache {
    let this = std::env::current_exe().expect("a test knows its executable");
    let target = this.ancestors().nth(3).expect("test executables are in target/PROFILE/deps");
    ExecutableCache::in_cache(&target.join("tmp").join("tests"))
}

/// Calls `function` of a verified Local module on the plugin, with whole tensors in and out.
pub fn run(local: &Module, function: &str, inputs: &Tensors, state: &Tensors) -> Result<Outcome, String> {
    run_with(local, function, inputs, state, &[])
}

/// Like [`call`], with compiler flags for the plugin.
pub fn run_with(
    local: &Module,
    function: &str,
    inputs: &Tensors,
    state: &Tensors,
    flags: &[(&str, &str)],
) -> Result<Outcome, String> {
    Ready::new(local, function, flags)?.call(inputs, state)
}

/// A compiled function.
pub struct Ready {
    local: Module,
    function: String,
    session: Session,
}

impl Ready {
    /// Compiles `function` of a verified Local module.
    pub fn new(local: &Module, function: &str, flags: &[(&str, &str)]) -> Result<Self, String> {
        let flags = flags.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let only = Module {
            functions: local.functions.iter().filter(|f| f.name == *function).cloned().collect(),
            ..local.clone()
        };
        let built = artefact::build(&only, &Settings { target: "cpu".into(), flags, ..Default::default() })
            .map_err(|e| e.to_string())?;
        let artefact = Artefact::new("test".into(), built.manifest, built.files.into_iter().collect())
            .map_err(|e| e.to_string())?;
        let session = Session::with_client(client(), artefact).map_err(|e| e.to_string())?;
        Ok(Self { local: only, function: function.to_owned(), session })
    }

    /// Calls the function with whole tensors.
    pub fn call(&mut self, inputs: &Tensors, state: &Tensors) -> Result<Outcome, String> {
        let (env, session) = (&self.local.env, &mut self.session);
        for (_, s) in env.states.iter() {
            if let Some(value) = state.get(&s.name) {
                session.set_state(&s.name, &host(value, &s.ty)).map_err(|e| e.to_string())?;
            }
        }
        let f = self.local.function(&self.function).ok_or("no such function")?;
        let mut given = BTreeMap::new();
        for (name, ty) in f.inputs.iter().zip(f.body.param_types()) {
            given.insert(name.to_string(), host(&inputs[name], ty));
        }
        let results =
            session.call(&self.function, &given).and_then(|o| o.wait()).map_err(|e| e.to_string())?;
        let mut outcome = Outcome { outputs: Tensors::new(), state: state.clone() };
        for (name, ty) in f.outputs.iter().zip(f.body.result_types()) {
            outcome.outputs.insert(name.clone(), back(&results[name.as_str()], ty)?);
        }
        for (_, s) in env.states.iter() {
            if let Ok(value) = session.state(&s.name) {
                outcome.state.insert(s.name.clone(), back(&value, &s.ty)?);
            }
        }
        Ok(outcome)
    }
}

/// Converts a tensor for the plugin: dims in the order of the type.
fn host(tensor: &Tensor, ty: &Type) -> HostTensor {
    let names: Vec<Name> = ty.names().cloned().collect();
    let ordered = tensor.ordered(&names);
    let dtype = match ty.dtype {
        mesh::DType::Pred => ElementType::Pred,
        mesh::DType::S32 => ElementType::S32,
        mesh::DType::U32 => ElementType::U32,
        mesh::DType::Bf16 => ElementType::Bf16,
        mesh::DType::F32 => ElementType::F32,
    };
    HostTensor { dtype, dims: ty.logical().map(|d| d.size).collect(), bytes: ordered.to_bytes() }
}

fn back(value: &HostTensor, ty: &Type) -> Result<Tensor, String> {
    let dims: Vec<Dim> = ty.logical().cloned().collect();
    Tensor::from_bytes(ty.dtype, &dims, &value.bytes)
}

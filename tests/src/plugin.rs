//! Runs programs on the CPU plugin: one client with eight devices for the whole process.

use compiler::interp::{Outcome, Tensors};
use driver::selftest::Devices;
pub use driver::selftest::Ready;
use mesh::Module;
use pjrt::{Client, ClientOptions, Plugin};
use runtime::{
    ExecutableCache,
    plugin::{Platform, SearchPaths, find},
};
use std::sync::OnceLock;

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

/// Like [`run`], with compiler flags for the plugin.
pub fn run_with(
    local: &Module,
    function: &str,
    inputs: &Tensors,
    state: &Tensors,
    flags: &[(&str, &str)],
) -> Result<Outcome, String> {
    ready(local, function, flags)?.call(inputs, state)
}

/// Compiles `function` of a verified Local module.
pub fn ready(local: &Module, function: &str, flags: &[(&str, &str)]) -> Result<Ready, String> {
    let flags = flags.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Ready::new(local, function, &Devices { client: client(), target: "cpu".into(), flags, ids: None })
}

//! Compiling for a client, with what its plugin is told besides an artefact's own options.

use pjrt::{Client, LoadedExecutable, Program};
use proto::{Message, compile_options, xla::CompileOptionsProto};

/// CPU plugins order a program's operations so that many can run at once, at the price of holding more at once. Ours
/// use all cores one by one, and all devices share the cores: ordered for little memory, a step of switch_tiny on
/// eight devices takes 92 MB of temporary memory a device, not 118, in the same time.
const CPU: (&str, &str) = ("xla_cpu_scheduler_type", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED");

/// `options` with what the client's plugin is told besides, if there is anything. What they say themselves holds.
pub fn advised(client: &Client, options: &[u8]) -> Option<Vec<u8>> {
    if client.platform_name().ok()? != "cpu" {
        return None;
    }
    let mut options = CompileOptionsProto::decode(options).ok()?;
    let (name, value) = CPU;
    if options.env_option_overrides.contains_key(name) {
        return None;
    }
    compile_options::set_flag(&mut options, name, value);
    Some(options.encode_to_vec())
}

/// Compiles with [`advised`] options, or without the advice where the plugin is too old to know of it.
pub fn compile(client: &Client, program: &Program<'_>, options: &[u8]) -> pjrt::Result<LoadedExecutable> {
    let Some(advised) = advised(client, options) else { return client.compile(program, options) };
    match client.compile(program, &advised) {
        Err(error) if error.to_string().contains(CPU.0) => client.compile(program, options),
        made => made,
    }
}

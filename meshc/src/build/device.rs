//! Plugins, clients, sessions and topologies.

use crate::{
    args::{
        plugin::{PluginArgs, guess, topology_options},
        target::Target,
    },
    output::{failure::failure, files::cache},
};
use anyhow::Result;
use compiler::cost::target::Slice;
use pjrt::{Plugin, Topology, Value};
use runtime::{
    Artefact, ExecutableCache, HostAllocator, Session,
    plugin::{self, Platform, PluginFile, SearchPaths, find},
};
use std::path::Path;

/// A loaded plugin and its platform.
#[derive(Debug)]
pub struct Chosen {
    /// The plugin.
    pub plugin: Plugin,
    /// The platform, which determines the options of the client.
    pub platform: Platform,
    /// The file of the plugin.
    pub found: PluginFile,
}

/// Loads the plugin that the user named, else the plugin for `platform`.
pub fn load(args: &PluginArgs, platform: Platform) -> Result<Chosen> {
    let around = SearchPaths::from_environment()?;
    let named = args.plugin.as_deref();
    let explicit = named.filter(|name| !["cpu", "gpu", "tpu"].contains(name)).map(Path::new);
    let wanted = args.platform().unwrap_or(platform);
    let found = find(wanted, explicit, &around, &mut |line| eprintln!("{line}"))?;
    let platform = guess(&found.path).unwrap_or(wanted);
    if platform == Platform::Cpu {
        cpu_heap::keep_freed_memory();
    }
    let plugin = plugin::load(&found.path, platform)?;
    Ok(Chosen { plugin, platform, found })
}

/// Opens a session for `artefact` on the plugin of its target.
pub fn session(args: &PluginArgs, artefact: Artefact) -> Result<Session> {
    let platform = Platform::of_target(&artefact.manifest.target)?;
    let chosen = load(args, platform)?;
    let devices = proto::manifest_check::devices(&artefact.manifest).unwrap_or(1);
    let options = args.client_options(chosen.platform, devices);
    let mut session = Session::open(&chosen.plugin, artefact, options)?;
    let allocator = HostAllocator { in_use: cpu_heap::memory_in_use, trim: cpu_heap::give_back_memory };
    session.set_host_allocator(allocator);
    if !args.no_executable_cache {
        session.set_executable_cache(ExecutableCache::in_cache(&cache()?));
    }
    Ok(session)
}

/// Creates the topology of a slice.
pub fn topology(slice: &Slice, more: &[(String, Value)], plugin: &PluginArgs) -> Result<Topology> {
    let target = Target::Tpu(Box::new(slice.clone()));
    let chosen = load(plugin, target.platform()).map_err(held)?;
    let options = topology_options(slice, more);
    let topology = Topology::create(&chosen.plugin, &slice.topology(), &options).map_err(|e| {
        failure(
            format!("`{}` cannot create the topology of {target}: {e}", chosen.found.path.display()),
            format!("this libtpu does not know the slice; shapes are {}", slice.generation.shapes.join(", ")),
        )
    })?;
    let devices = topology.devices()?.len();
    if devices != slice.devices() {
        return Err(failure(
            format!("{target} has {} devices, but libtpu reports {devices}", slice.devices()),
            "a --target-option changes the slice; express it in the name of the slice instead",
        ));
    }
    Ok(topology)
}

/// Explains the error of a libtpu that another process has locked. libtpu loads only once per machine unless
/// an environment variable allows more.
fn held(error: anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    if !["lockfile", "libtpu_lock", "already in use by"].iter().any(|words| text.contains(words)) {
        return error;
    }
    failure(
        format!("libtpu's lock file, /tmp/libtpu_lockfile, is held by another process or user: {text}"),
        "unset ALLOW_MULTIPLE_LIBTPU_LOAD, which meshc then sets to 1 (compiling ahead of time uses no TPU), or wait \
         until the other process has ended",
    )
}

//! Plugins, clients, sessions and topologies.

use crate::{
    failure::failure,
    files::cache,
    plugin::{INTERPRETER, guess},
    request::Request,
    target::Target,
};
use anyhow::Result;
use compiler::cost::target::Slice;
use pjrt::{ClientOptions, Plugin, Topology, Value};
use runtime::{
    Artefact, ExecutableCache, Interpreter, Session,
    plugin::{self, Platform, PluginFile, SearchPaths, find, tpu},
};
use std::{path::Path, sync::Arc};

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

/// The caller of the functions of a program: a plugin, or the interpreter.
#[derive(Debug)]
pub enum Backend {
    /// A plugin.
    Plugin(Chosen),
    /// The interpreter of one program.
    Interpreter(Arc<dyn Interpreter>),
}

impl Backend {
    /// Returns the plugin, if it is one.
    pub fn plugin(&self) -> Option<&Chosen> {
        match self {
            Self::Plugin(chosen) => Some(chosen),
            Self::Interpreter(_) => None,
        }
    }

    /// Opens a session for `artefact`. An interpreter must be that of its program.
    ///
    /// # Errors
    /// The plugin has too few devices, or reports an error.
    pub fn session(&self, request: &Request, artefact: Artefact) -> Result<Session> {
        match self {
            Self::Plugin(chosen) => on(chosen, request, artefact),
            Self::Interpreter(interpreter) => Ok(Session::interpreted(interpreter.clone(), artefact)),
        }
    }
}

/// Loads the plugin that the request names, else the plugin for `platform`.
pub fn load(request: &Request, platform: Platform) -> Result<Chosen> {
    let (options, host) = (&request.plugin, request.host);
    if options.is_interpreter() {
        return Err(failure(
            format!(
                "`--plugin {INTERPRETER}` works with `meshc run` and `meshc train` only: there is no plugin, \
                 client or compiler"
            ),
            "leave it out, or name a plugin",
        ));
    }
    let around = SearchPaths::from_environment()?;
    let named = options.plugin.as_deref();
    let explicit = named.filter(|name| !["cpu", "gpu", "tpu"].contains(name)).map(Path::new);
    let wanted = options.platform().unwrap_or(platform);
    let found = find(wanted, explicit, &around, &mut |line| (host.say)(line))?;
    let platform = guess(&found.path).unwrap_or(wanted);
    if platform == Platform::Cpu {
        (host.keep_freed_memory)();
    }
    for fault in plugin::known_faults(&found.path) {
        (host.say)(&format!("warning: {fault}"));
    }
    let plugin = plugin::load(&found.path, platform)?;
    Ok(Chosen { plugin, platform, found })
}

/// Opens a session for `artefact` on the plugin of its target.
pub fn session(request: &Request, artefact: Artefact) -> Result<Session> {
    on(&load_for(request, &artefact)?, request, artefact)
}

/// Loads the plugin that the request names, else the plugin of the artefact's target.
///
/// # Errors
/// There is no plugin, or the artefact is to run on TPUs and this machine certainly has none.
pub fn load_for(request: &Request, artefact: &Artefact) -> Result<Chosen> {
    let platform = Platform::of_target(&artefact.manifest.target)?;
    if request.plugin.platform().unwrap_or(platform) == Platform::Tpu && !tpu::is_present(Path::new("/")) {
        return Err(failure(
            format!(
                "`{}` is compiled for {}, and this machine has no TPU: no device of vendor {} in {}, no \
                 /dev/accel* and no /dev/vfio/*",
                artefact.origin,
                artefact.manifest.target,
                tpu::VENDOR,
                tpu::PCI_DEVICES
            ),
            "run it on a TPU VM (docs/tpu-vm.md), or try it on this machine's CPU with --plugin cpu",
        ));
    }
    load(request, platform)
}

/// Opens a session for `artefact` on a loaded plugin.
pub fn on(chosen: &Chosen, request: &Request, artefact: Artefact) -> Result<Session> {
    let devices = proto::manifest_check::devices(&artefact.manifest).unwrap_or(1);
    let options = request.plugin.client_options(chosen.platform, devices);
    with_options(chosen, request, artefact, options)
}

/// Opens a session for `artefact` on a client with these options.
pub fn with_options(
    chosen: &Chosen,
    request: &Request,
    artefact: Artefact,
    options: ClientOptions,
) -> Result<Session> {
    equipped(Session::open(&chosen.plugin, artefact, options)?, chosen, request)
}

/// Returns the session with the host's allocator, the profile and the cache of executables of the request.
pub fn equipped(mut session: Session, chosen: &Chosen, request: &Request) -> Result<Session> {
    session.set_host_allocator(request.host.allocator);
    if let Some(profile) = &request.profile {
        session.record_calls(profile.begin(&chosen.plugin));
    }
    if !request.plugin.no_executable_cache {
        session.set_executable_cache(ExecutableCache::in_cache(&cache()?));
    }
    Ok(session)
}

/// Creates the topology of a slice.
pub fn topology(slice: &Slice, request: &Request) -> Result<Topology> {
    let target = Target::Tpu(Box::new(slice.clone()));
    let chosen = load(request, target.platform()).map_err(held)?;
    let options = topology_options(slice, &request.target.slice_options);
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

/// Returns the options with which libtpu creates the topology of a slice.
fn topology_options(slice: &Slice, more: &[(String, Value)]) -> Vec<(String, Value)> {
    let mut options = more.to_vec();
    if let Some(config) = &slice.mode.config {
        options.push(("chip_config_name".into(), Value::Text(config.clone())));
    }
    if slice.slices > 1 {
        options.push(("num_slices".into(), Value::Int(slice.slices as i64)));
    }
    options
}

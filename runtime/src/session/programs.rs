//! The compiled programs of a session.

use super::executable_cache::{Compilation, ExecutableCache};
use crate::{Artefact, Error, Result, processes::Exchange, shard};
use pjrt::{Client, Execution, LoadedExecutable, Program};
use proto::hlo_alias::out_of_place;
use std::{borrow::Cow, collections::BTreeMap, path::Path, sync::Arc, time::Instant};

/// ExecutableCache by function, and how each of them was made.
#[derive(Default)]
pub(super) struct Programs {
    in_place: BTreeMap<String, Arc<LoadedExecutable>>,
    fresh_state: BTreeMap<String, Arc<LoadedExecutable>>,
    cache: Option<ExecutableCache>,
    compilations: Vec<Compilation>,
    /// Set in one of several CPU processes.
    exchange: Option<Arc<Exchange>>,
}

/// The buffers in which a program returns new state.
#[derive(Clone, Copy)]
enum StateOutputs {
    /// Those of the old state, which is donated.
    InPlace,
    /// New ones beside the old state.
    Fresh,
}

/// A program as the plugin compiles it.
struct Source<'a> {
    /// Its name in messages.
    function: String,
    code: Cow<'a, [u8]>,
    options: Cow<'a, [u8]>,
    /// The number of devices of this process that run it.
    devices: usize,
}

impl Programs {
    /// Programs of one of several CPU processes.
    pub(super) fn of_process(exchange: Arc<Exchange>) -> Self {
        Self { exchange: Some(exchange), ..Self::default() }
    }

    /// Prepares the run of a program.
    pub(super) fn begin_run(&self) -> Result<()> {
        self.exchange.as_ref().map_or(Ok(()), |exchange| exchange.begin_run())
    }

    /// Waits for a run to end if the next one depends on it.
    pub(super) fn end_run(&self, mut execution: Execution) -> Result<Execution> {
        if self.exchange.is_some() {
            let done = std::mem::take(&mut execution.done);
            pjrt::wait_all(done).map_err(Error::pjrt("running a program"))?;
        }
        Ok(execution)
    }

    /// Uses compiled programs from `cache`, and adds those that have to be compiled.
    pub(super) fn set_cache(&mut self, cache: ExecutableCache) {
        // Executables with custom calls belong to the process that registered their handlers.
        if self.exchange.is_none() {
            self.cache = Some(cache);
        }
    }

    /// Returns how each executable was made, in order.
    pub(super) fn compilations(&self) -> &[Compilation] {
        &self.compilations
    }

    /// Compiles `function`, or loads it from the cache, if that was not done before.
    pub(super) fn compile(
        &mut self,
        client: &Client,
        artefact: &Artefact,
        function: &str,
    ) -> Result<Arc<LoadedExecutable>> {
        if !self.in_place.contains_key(function) {
            let executable = self.make(client, artefact, function, StateOutputs::InPlace)?;
            self.in_place.insert(function.to_owned(), Arc::new(executable));
        }
        Ok(self.in_place[function].clone())
    }

    /// Compiles a variant of `function` that returns new state in fresh buffers, if that was not done before.
    pub(super) fn compile_with_fresh_state(
        &mut self,
        client: &Client,
        artefact: &Artefact,
        function: &str,
    ) -> Result<()> {
        if !self.fresh_state.contains_key(function) {
            let executable = self.make(client, artefact, function, StateOutputs::Fresh)?;
            self.fresh_state.insert(function.to_owned(), Arc::new(executable));
        }
        Ok(())
    }

    /// Returns the variant of `function` that returns new state in fresh buffers, if it was compiled.
    pub(super) fn with_fresh_state(&self, function: &str) -> Option<Arc<LoadedExecutable>> {
        self.fresh_state.get(function).cloned()
    }

    /// Returns true if any function was compiled with fresh state.
    pub(super) fn has_fresh_state(&self) -> bool {
        !self.fresh_state.is_empty()
    }

    /// Drops the executables of `function`. The plugin frees them when their runs have ended.
    pub(super) fn release(&mut self, function: &str) {
        self.in_place.remove(function);
        self.fresh_state.remove(function);
    }

    /// Returns the largest temporary memory in bytes that a run of any program takes on one device; 0 if
    /// unknown.
    pub(super) fn temporary_bytes(&self) -> Result<usize> {
        let mut largest = 0;
        for (name, executable) in self.in_place.iter().chain(&self.fresh_state) {
            let stats = executable.executable().memory_stats();
            let stats = stats.map_err(Error::pjrt(format!("querying the memory use of `{name}`")))?;
            largest = largest.max(stats.map_or(0, |s| s.temporaries).try_into().unwrap_or(0));
        }
        Ok(largest)
    }

    fn make(
        &mut self,
        client: &Client,
        artefact: &Artefact,
        function: &str,
        outputs: StateOutputs,
    ) -> Result<LoadedExecutable> {
        let begin = Instant::now();
        let Source { function, code, options, devices } = self.source(client, artefact, function, outputs)?;
        let program = Program::hlo(&code);
        let (mut loaded, mut note, mut entry) = (None, None, None);
        if let Some(cache) = &self.cache {
            match cache.entry(client, devices, &code, &options) {
                Ok(path) => {
                    match load(client, devices, cache, &path, &program) {
                        Ok(found) => loaded = found,
                        Err(why) => note = Some(why),
                    }
                    entry = Some(path);
                }
                Err(error) => note = Some(error.to_string()),
            }
        }
        let cached = loaded.is_some();
        let executable = match loaded {
            Some(executable) => executable,
            None => client
                .compile(&program, &options)
                .map_err(Error::pjrt(format!("compiling `{function}` of `{}`", artefact.manifest.program)))?,
        };
        let count = executable.devices().len();
        if count != devices {
            return Err(Error::input(
                format!("`{function}` was compiled for {count} devices, but {devices} are to run it"),
                "compile the program again",
            ));
        }
        let elapsed = begin.elapsed();
        if let (Some(cache), Some(path), false) = (&self.cache, &entry, cached)
            && let Err(why) = store(cache, path, &executable)
        {
            note = Some(why);
        }
        self.compilations.push(Compilation { function, cached, elapsed, entry, note });
        Ok(executable)
    }

    /// Returns the program that the plugin compiles.
    fn source<'a>(
        &self,
        client: &Client,
        artefact: &'a Artefact,
        function: &str,
        outputs: StateOutputs,
    ) -> Result<Source<'a>> {
        let f = artefact.function(function)?;
        let (code, options) = (artefact.file(&f.module)?, Cow::Borrowed(artefact.file(&f.compile_options)?));
        let devices = artefact.manifest.mesh.as_ref().map_or(1, shard::devices);
        let mut source =
            Source { function: function.to_owned(), code: Cow::Borrowed(code), options, devices };
        if let StateOutputs::Fresh = outputs {
            let wrong =
                |e| Error::input(format!("the code of `{function}`: {e}"), "compile the program again");
            source.code = Cow::Owned(out_of_place(code).map_err(wrong)?);
            source.function.push_str(" beside a snapshot");
        }
        if let Some(exchange) = &self.exchange {
            source.devices /= exchange.place().1;
            let own = client.addressable_devices().map_err(Error::pjrt("listing devices"))?;
            let ids: Vec<i64> =
                own.iter().take(source.devices).map(|device| i64::from(device.id())).collect();
            let (code, options) = exchange.rewrite(&source.code, &source.options, &ids)?;
            (source.code, source.options) = (Cow::Owned(code), Cow::Owned(options));
        }
        Ok(source)
    }
}

/// Loads an executable from the cache. `None` means that it has none; an error says why its entry cannot be
/// used.
fn load(
    client: &Client,
    devices: usize,
    cache: &ExecutableCache,
    entry: &Path,
    program: &Program<'_>,
) -> std::result::Result<Option<LoadedExecutable>, String> {
    let Some(bytes) = cache.read(entry).map_err(|e| e.to_string())? else { return Ok(None) };
    let loaded = client.load_serialized(&bytes, None).map_err(|error| {
        cache.remove(entry);
        format!("the plugin refused a cached executable: {error}")
    })?;
    if loaded.devices().len() != devices {
        cache.remove(entry);
        return Err(format!("a cached executable is for {} devices, not {devices}", loaded.devices().len()));
    }
    Ok(Some(match program.parameters() {
        Some(parameters) => loaded.with_parameters(parameters),
        None => loaded,
    }))
}

/// Adds an executable to the cache. The error says why that is not possible.
fn store(
    cache: &ExecutableCache,
    entry: &Path,
    executable: &LoadedExecutable,
) -> std::result::Result<(), String> {
    match executable.executable().serialize() {
        Ok(Some(bytes)) => cache.write(entry, &bytes).map_err(|e| e.to_string()),
        Ok(None) => Err("the plugin cannot serialize executables: the next start compiles again".to_owned()),
        Err(error) => Err(format!("the executable cannot be cached: {error}")),
    }
}

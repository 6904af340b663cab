//! The compiled programs of a session.

use super::{
    assignment::DeviceAssignment,
    executable_cache::{Compilation, ExecutableCache},
};
use crate::{Artefact, Error, Result, processes::Exchange};
use pjrt::{Client, Execution, LoadedExecutable, Program};
use proto::{compile_options::assign_devices, hlo_alias::out_of_place};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// ExecutableCache by function, and how each of them was made.
#[derive(Default)]
pub(super) struct Programs {
    in_place: BTreeMap<String, Arc<LoadedExecutable>>,
    fresh_state: BTreeMap<String, Arc<LoadedExecutable>>,
    cache: Option<ExecutableCache>,
    compilations: Vec<Compilation>,
    /// Set in one of several CPU processes.
    exchange: Option<Arc<Exchange>>,
    /// The number of runs by first launch id.
    launches: BTreeMap<u32, u32>,
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
    options: Vec<u8>,
}

impl Programs {
    /// Programs of one of several CPU processes.
    pub(super) fn of_process(exchange: Arc<Exchange>) -> Self {
        Self { exchange: Some(exchange), ..Self::default() }
    }

    /// Prepares the run of a program. Returns its launch id, 0 if no other process runs it too.
    ///
    /// Launch ids begin at a digest of the program and its devices, and count up. A platform that compares
    /// them between processes notices that two start different programs.
    pub(super) fn begin_run(
        &mut self,
        executable: &LoadedExecutable,
        assignment: &DeviceAssignment,
    ) -> Result<i32> {
        if let Some(exchange) = &self.exchange {
            exchange.begin_run()?;
        }
        if !assignment.is_shared() {
            return Ok(0);
        }
        let fingerprint = executable.executable().fingerprint();
        let fingerprint = fingerprint.map_err(Error::pjrt("asking for an executable's fingerprint"))?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(executable.name().as_bytes()).update(&fingerprint.unwrap_or_default());
        for id in assignment.ids() {
            hasher.update(&id.to_le_bytes());
        }
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        let first = u32::from_le_bytes([a, b, c, d]);
        let run = self.launches.entry(first).or_default();
        *run = run.wrapping_add(1);
        Ok(launch_id(first, *run))
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
        self.cache = Some(cache);
    }

    /// Returns the time since the last call in which runs waited for other processes; zero if the plugin does
    /// not tell.
    pub(super) fn take_waited(&self) -> Duration {
        self.exchange.as_ref().map_or(Duration::ZERO, |exchange| exchange.take_waited())
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
        assignment: &DeviceAssignment,
        function: &str,
    ) -> Result<Arc<LoadedExecutable>> {
        if !self.in_place.contains_key(function) {
            let source = self.source(artefact, assignment, function, StateOutputs::InPlace)?;
            let executable = self.make(client, artefact, assignment, source)?;
            self.in_place.insert(function.to_owned(), Arc::new(executable));
        }
        Ok(self.in_place[function].clone())
    }

    /// Compiles a variant of `function` that returns new state in fresh buffers, if that was not done before.
    pub(super) fn compile_with_fresh_state(
        &mut self,
        client: &Client,
        artefact: &Artefact,
        assignment: &DeviceAssignment,
        function: &str,
    ) -> Result<()> {
        if !self.fresh_state.contains_key(function) {
            let source = self.source(artefact, assignment, function, StateOutputs::Fresh)?;
            let executable = self.make(client, artefact, assignment, source)?;
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
        assignment: &DeviceAssignment,
        source: Source<'_>,
    ) -> Result<LoadedExecutable> {
        let begin = Instant::now();
        let Source { function, code, options } = source;
        let program = Program::hlo(&code);
        let (mut loaded, mut note, mut entry) = (None, None, None);
        if let Some(cache) = &self.cache {
            match cache.entry(client, assignment.devices().len(), &code, &options) {
                Ok(path) => {
                    match load(client, assignment, cache, &path, &program) {
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
        assignment.check(&executable).map_err(|why| {
            Error::input(
                format!("`{function}` was not compiled for the mesh: {why}"),
                "compile the program again for this mesh; if that does not help, the plugin ignores the device \
                 assignment of its compile options",
            )
        })?;
        let elapsed = begin.elapsed();
        if let (Some(cache), Some(path), false) = (&self.cache, &entry, cached)
            && let Err(why) = store(cache, path, &executable)
        {
            note = Some(why);
        }
        // Without a fingerprint, less is compared between processes. That is no reason to fail.
        let fingerprint = executable.executable().fingerprint().unwrap_or_default();
        let fingerprint = fingerprint.map(|bytes| blake3::hash(&bytes).to_hex()[..16].to_owned());
        self.compilations.push(Compilation { function, cached, elapsed, entry, note, fingerprint });
        Ok(executable)
    }

    /// Returns the program that the plugin compiles.
    fn source<'a>(
        &self,
        artefact: &'a Artefact,
        assignment: &DeviceAssignment,
        function: &str,
        outputs: StateOutputs,
    ) -> Result<Source<'a>> {
        let f = artefact.function(function)?;
        let (code, options) = (artefact.file(&f.module)?, artefact.file(&f.compile_options)?);
        let options = assign_devices(options, assignment.ids()).map_err(|e| {
            Error::input(format!("the compile options of `{function}`: {e}"), "compile the program again")
        })?;
        let mut source = Source { function: function.to_owned(), code: Cow::Borrowed(code), options };
        if let StateOutputs::Fresh = outputs {
            let wrong =
                |e| Error::input(format!("the code of `{function}`: {e}"), "compile the program again");
            source.code = Cow::Owned(out_of_place(code).map_err(wrong)?);
            source.function.push_str(" beside a snapshot");
        }
        if let Some(exchange) = &self.exchange {
            let (code, options) = exchange.rewrite(&source.code, &source.options, assignment.ids())?;
            (source.code, source.options) = (Cow::Owned(code), options);
        }
        Ok(source)
    }
}

/// Returns a positive number for the run `run` of the program with launch ids from `first`.
fn launch_id(first: u32, run: u32) -> i32 {
    let id = first.wrapping_add(run) & (u32::MAX >> 1);
    i32::try_from(id.max(1)).expect("31 bits are a positive number")
}

/// Loads an executable from the cache. `None` means that it has none; an error says why its entry cannot be
/// used.
fn load(
    client: &Client,
    assignment: &DeviceAssignment,
    cache: &ExecutableCache,
    entry: &Path,
    program: &Program<'_>,
) -> std::result::Result<Option<LoadedExecutable>, String> {
    let Some(bytes) = cache.read(entry).map_err(|e| e.to_string())? else { return Ok(None) };
    let loaded = client.load_serialized(&bytes, None).map_err(|error| {
        cache.remove(entry);
        format!("the plugin refused a cached executable: {error}")
    })?;
    assignment.check(&loaded).map_err(|why| {
        cache.remove(entry);
        format!("a cached executable is not for this mesh: {why}")
    })?;
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

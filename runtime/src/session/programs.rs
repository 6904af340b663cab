//! The compiled programs of a session.

use super::{
    assignment::DeviceAssignment,
    compilation::{Background, Made, Work},
    executable_cache::{Compilation, ExecutableCache},
};
use crate::{Artefact, Error, Result, processes::Exchange};
use pjrt::{Client, Execution, LoadedExecutable};
use proto::compile_options::assign_devices;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Executables by function, and how each of them was made.
#[derive(Default)]
pub(super) struct Programs {
    executables: BTreeMap<String, Arc<LoadedExecutable>>,
    background: Background,
    cache: Option<ExecutableCache>,
    compilations: Vec<Compilation>,
    /// Set in one of several CPU processes.
    exchange: Option<Arc<Exchange>>,
    /// The number of runs by first launch id.
    launches: BTreeMap<u32, u32>,
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

    /// Compiles `function`, or loads it from the cache, if that was not done before. Waits for a compilation
    /// that has begun.
    pub(super) fn compile(
        &mut self,
        client: &Client,
        artefact: &Artefact,
        assignment: &DeviceAssignment,
        function: &str,
    ) -> Result<Arc<LoadedExecutable>> {
        if !self.executables.contains_key(function) {
            let made = match self.background.take(function) {
                Some(made) => made?,
                None => self.work(client, artefact, assignment, function)?.run()?,
            };
            self.install(made);
        }
        Ok(self.executables[function].clone())
    }

    /// Begins to compile functions on background threads, in this order.
    pub(super) fn compile_ahead(
        &mut self,
        client: &Client,
        artefact: &Artefact,
        assignment: &DeviceAssignment,
        functions: &[&str],
    ) -> Result<()> {
        let is_new = |name: &&&str| !self.executables.contains_key(**name) && !self.background.has(name);
        let new = functions.iter().filter(is_new);
        let all = new.map(|name| self.work(client, artefact, assignment, name)).collect::<Result<_>>()?;
        self.background.start(all);
        Ok(())
    }

    /// Takes over the executables that background threads have finished.
    pub(super) fn collect(&mut self) -> Result<()> {
        while let Some(made) = self.background.finished() {
            self.install(made?);
        }
        Ok(())
    }

    /// Returns true if a background thread compiles `function`, or will.
    pub(super) fn is_compiling(&self, function: &str) -> bool {
        self.background.has(function)
    }

    /// Drops the executable of `function`. The plugin frees it when its runs have ended.
    pub(super) fn release(&mut self, function: &str) {
        self.executables.remove(function);
    }

    /// Returns the largest temporary memory in bytes that a run of any program takes on one device; 0 if
    /// unknown.
    pub(super) fn temporary_bytes(&self) -> Result<usize> {
        let mut largest = 0;
        for (name, executable) in &self.executables {
            let stats = executable.executable().memory_stats();
            let stats = stats.map_err(Error::pjrt(format!("querying the memory use of `{name}`")))?;
            largest = largest.max(stats.map_or(0, |s| s.temporaries).try_into().unwrap_or(0));
        }
        Ok(largest)
    }

    fn install(&mut self, Made { executable, compilation }: Made) {
        self.executables.insert(compilation.function.clone(), Arc::new(executable));
        self.compilations.push(compilation);
    }

    /// Returns the program that the plugin compiles.
    fn work(
        &self,
        client: &Client,
        artefact: &Artefact,
        assignment: &DeviceAssignment,
        function: &str,
    ) -> Result<Work> {
        let f = artefact.function(function)?;
        let (code, options) = (artefact.file(&f.module)?, artefact.file(&f.compile_options)?);
        let options = assign_devices(options, assignment.ids()).map_err(|e| {
            Error::input(format!("the compile options of `{function}`: {e}"), "compile the program again")
        })?;
        let (code, options) = match &self.exchange {
            Some(exchange) => exchange.rewrite(code, &options, assignment.ids())?,
            None => (code.to_vec(), options),
        };
        Ok(Work {
            client: client.clone(),
            assignment: assignment.clone(),
            cache: self.cache.clone(),
            program: artefact.manifest.program.clone(),
            function: function.to_owned(),
            code,
            options,
        })
    }
}

/// Returns a positive number for the run `run` of the program with launch ids from `first`.
fn launch_id(first: u32, run: u32) -> i32 {
    let id = first.wrapping_add(run) & (u32::MAX >> 1);
    i32::try_from(id.max(1)).expect("31 bits are a positive number")
}

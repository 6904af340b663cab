//! Compilations: in the calling thread, and on background threads.

use super::{
    assignment::DeviceAssignment,
    executable_cache::{Compilation, ExecutableCache},
};
use crate::{Error, Result};
use pjrt::{Client, LoadedExecutable, Program};
use std::{
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

/// A program to be compiled, with everything that its compilation needs.
pub(super) struct Work {
    pub client: Client,
    pub assignment: DeviceAssignment,
    pub cache: Option<ExecutableCache>,
    /// The name of the program, for messages.
    pub program: String,
    pub function: String,
    pub code: Vec<u8>,
    pub options: Vec<u8>,
}

/// A compiled program.
pub(super) struct Made {
    pub executable: LoadedExecutable,
    pub compilation: Compilation,
}

impl Work {
    /// Loads the program from the cache, or compiles it.
    pub(super) fn run(self) -> Result<Made> {
        let begin = Instant::now();
        let Self { client, assignment, cache, program: name, function, code, options } = self;
        let program = Program::hlo(&code);
        let (mut loaded, mut note, mut entry) = (None, None, None);
        if let Some(cache) = &cache {
            match cache.entry(&client, assignment.shards(), &code, &options) {
                Ok(path) => {
                    match load(&client, &assignment, cache, &path, &program) {
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
                .map_err(Error::pjrt(format!("compiling `{function}` of `{name}`")))?,
        };
        assignment.check(&executable).map_err(|why| {
            Error::input(
                format!("`{function}` was not compiled for the mesh: {why}"),
                "compile the program again for this mesh; if that does not help, the plugin ignores the device \
                 assignment of its compile options",
            )
        })?;
        let elapsed = begin.elapsed();
        if let (Some(cache), Some(path), false) = (&cache, &entry, cached)
            && let Err(why) = store(cache, path, &executable)
        {
            note = Some(why);
        }
        // Without a fingerprint, less is compared between processes. That is no reason to fail.
        let fingerprint = executable.executable().fingerprint().unwrap_or_default();
        let fingerprint = fingerprint.map(|bytes| blake3::hash(&bytes).to_hex()[..16].to_owned());
        let compilation = Compilation { function, cached, elapsed, entry, note, fingerprint };
        Ok(Made { executable, compilation })
    }
}

/// The programs that no thread compiles yet, and where their results go.
type Queue = Mutex<VecDeque<(Work, Sender<Result<Made>>)>>;

/// Compilations on background threads: one fewer than the machine has cores, and at least one.
///
/// Dropping this abandons what has not begun, and waits for the rest: a plugin must not compile while the
/// process ends.
#[derive(Default)]
pub(super) struct Background {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
    /// The results by function, in the order of compilation.
    results: Vec<(String, Receiver<Result<Made>>)>,
}

impl Background {
    /// Begins to compile these programs, in this order.
    pub(super) fn start(&mut self, all: Vec<Work>) {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads = all.len().min(cores.saturating_sub(1).max(1));
        for work in all {
            let (tell, result) = channel();
            self.results.push((work.function.clone(), result));
            lock(&self.queue).push_back((work, tell));
        }
        for _ in 0..threads {
            let queue = self.queue.clone();
            let compile = move || {
                while let Some((work, tell)) = next(&queue) {
                    // Nobody waits for the result if the session was dropped.
                    let _ = tell.send(work.run());
                }
            };
            // Without a thread, `take` compiles.
            self.threads.extend(thread::Builder::new().name("compile".into()).spawn(compile));
        }
    }

    /// Returns true if `function` was started and its result not taken yet.
    pub(super) fn has(&self, function: &str) -> bool {
        self.results.iter().any(|(name, _)| name == function)
    }

    /// Waits for the compilation of `function`, or compiles it here if no thread has begun. `None` means that
    /// it was not started.
    pub(super) fn take(&mut self, function: &str) -> Option<Result<Made>> {
        let at = self.results.iter().position(|(name, _)| name == function)?;
        let (_, result) = self.results.remove(at);
        let waiting = {
            let mut queue = lock(&self.queue);
            let at = queue.iter().position(|(work, _)| work.function == function);
            at.and_then(|at| queue.remove(at))
        };
        Some(match waiting {
            Some((work, _)) => work.run(),
            None => result.recv().unwrap_or_else(|_| Err(ended(function))),
        })
    }

    /// Returns the next result that is there.
    pub(super) fn finished(&mut self) -> Option<Result<Made>> {
        for at in 0..self.results.len() {
            let (function, result) = &self.results[at];
            let made = match result.try_recv() {
                Ok(made) => made,
                Err(TryRecvError::Empty) => continue,
                Err(TryRecvError::Disconnected) => Err(ended(function)),
            };
            self.results.remove(at);
            return Some(made);
        }
        None
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        lock(&self.queue).clear();
        for thread in self.threads.drain(..) {
            // A panic was printed by that thread, and its result is an error already.
            let _ = thread.join();
        }
    }
}

fn next(queue: &Queue) -> Option<(Work, Sender<Result<Made>>)> {
    lock(queue).pop_front()
}

fn lock(queue: &Queue) -> MutexGuard<'_, VecDeque<(Work, Sender<Result<Made>>)>> {
    // The queue is whole even if another thread panicked.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ended(function: &str) -> Error {
    Error::input(
        format!("the thread that compiles `{function}` ended"),
        "this is a bug: report it with the message above",
    )
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

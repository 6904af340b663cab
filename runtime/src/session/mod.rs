//! A session: a plugin's client with the programs of one artefact and their state on the devices.
//!
//! State stays on the devices between calls, shard by shard; the host never holds a whole model. A call
//! donates the state that it replaces, so device memory holds it once. State that a snapshot still reads is
//! not donated: the plugin copies it first, and the call replaces the copy.
//!
//! An interpreter can take the place of the client. It computes on whole tensors, so the session then has one
//! shard of each tensor, in the memory of the host.
//!
//! Reading order: `assignment` (devices and their positions in the mesh), `ownership` (the process that
//! saves each part of the state), `programs` with `compilation` and `executable_cache`, `interpreter`,
//! `buffer` (a shard), `state`, `transfer` (host to devices and back), `call` (arguments and results),
//! `host_memory` (waiting for memory that is still in use).

mod assignment;
mod buffer;
mod call;
mod compilation;
mod executable_cache;
mod host_memory;
mod interpreter;
mod ownership;
mod programs;
mod state;
mod transfer;

pub use assignment::Placement;
pub use call::{CallSpan, Calls, Outputs};
pub use executable_cache::{Compilation, ExecutableCache};
pub use host_memory::HostAllocator;
pub use interpreter::{Interpreted, Interpreter};
pub use transfer::Output;

pub(crate) use assignment::DeviceAssignment;
pub(crate) use buffer::{Buffer, PendingRead};
pub(crate) use host_memory::SnapshotBytes;

use crate::{Artefact, Error, HostTensor, Result, processes::Exchange, shard::Region};
use assignment::by_local_index;
use data::Rows;
use host_memory::HostMemory;
use pjrt::{Client, ClientOptions, CustomCalls, ExecuteOptions, Plugin};
use programs::Programs;
use proto::{
    hlo_processes::TARGET,
    manifest::{Function, InputKind, Tensor},
};
use state::State;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, PoisonError},
    time::{Duration, Instant},
};

/// Programs and state on devices.
pub struct Session {
    backend: Backend,
    artefact: Artefact,
    assignment: DeviceAssignment,
    programs: Programs,
    state: State,
    /// The parts of the state that this process saves, computed once.
    owned: OnceLock<Vec<OwnedParts>>,
    host_memory: HostMemory,
    /// The record of calls, if one is wanted.
    calls: Option<Calls>,
}

/// The caller of functions: a plugin, or an interpreter.
enum Backend {
    Plugin(Client),
    Interpreter(Arc<dyn Interpreter>),
}

/// The parts of one tensor that this process saves: regions, and the local index of a device that holds them.
pub(crate) type OwnedParts = Vec<(Region, usize)>;

impl Session {
    /// Creates a client of `plugin` for the artefact's mesh. Compiles nothing yet.
    ///
    /// # Errors
    /// The client cannot be created, or has fewer devices than the mesh.
    pub fn open(plugin: &Plugin, artefact: Artefact, options: ClientOptions) -> Result<Self> {
        let client = Client::create(plugin, &options).map_err(Error::pjrt("creating a client"))?;
        Self::with_client(client, artefact)
    }

    /// Creates a session on an existing client, which may have more devices than the mesh.
    ///
    /// # Errors
    /// The client has fewer devices than the mesh.
    pub fn with_client(client: Client, artefact: Artefact) -> Result<Self> {
        let mesh = artefact.manifest.mesh.clone().unwrap_or_default();
        let assignment = DeviceAssignment::of_client(&client, mesh)?;
        Ok(Self::new(Backend::Plugin(client), artefact, assignment, Programs::default()))
    }

    /// Creates a session without a plugin, whose functions `interpreter` calls. There is nothing to compile.
    pub fn interpreted(interpreter: Arc<dyn Interpreter>, mut artefact: Artefact) -> Self {
        interpreter::hold_whole_tensors(&mut artefact.manifest);
        let assignment = DeviceAssignment::of_interpreter();
        Self::new(Backend::Interpreter(interpreter), artefact, assignment, Programs::default())
    }

    /// Creates a session of one of several CPU processes. `exchange` connects them; all call the same
    /// functions in the same order. A call returns when its run has ended, because
    /// executions of collectives are counted by run.
    ///
    /// # Errors
    /// The processes cannot share the mesh equally, or the plugin has no custom calls.
    pub fn of_process(client: Client, artefact: Artefact, exchange: &Arc<Exchange>) -> Result<Self> {
        let mesh = artefact.manifest.mesh.clone().unwrap_or_default();
        let assignment = DeviceAssignment::of_rank(&client, mesh, exchange.place())?;
        let handler: Arc<dyn CustomCalls> = exchange.clone();
        client
            .plugin()
            .register_custom_calls(TARGET, &handler)
            .map_err(Error::pjrt("preparing collectives between processes"))?;
        let programs = Programs::of_process(exchange.clone());
        Ok(Self::new(Backend::Plugin(client), artefact, assignment, programs))
    }

    fn new(backend: Backend, artefact: Artefact, assignment: DeviceAssignment, programs: Programs) -> Self {
        Self {
            backend,
            artefact,
            assignment,
            programs,
            state: State::default(),
            owned: OnceLock::new(),
            host_memory: HostMemory::default(),
            calls: None,
        }
    }

    /// Adds every later call to `calls`. Calls then return only when their runs have ended.
    pub fn record_calls(&mut self, calls: Calls) {
        self.calls = Some(calls);
    }

    /// Uses compiled programs from `cache`, and adds those that have to be compiled.
    pub fn set_executable_cache(&mut self, cache: ExecutableCache) {
        self.programs.set_cache(cache);
    }

    /// Lets the session see how much host memory is in use. Without it, [`Session::wait_for_memory`] never
    /// waits.
    pub fn set_host_allocator(&mut self, allocator: HostAllocator) {
        self.host_memory.set_allocator(allocator);
    }

    /// Returns the artefact.
    pub fn artefact(&self) -> &Artefact {
        &self.artefact
    }
    /// Returns the client. `None` means that an interpreter takes its place.
    pub fn client(&self) -> Option<&Client> {
        match &self.backend {
            Backend::Plugin(client) => Some(client),
            Backend::Interpreter(_) => None,
        }
    }
    /// Returns this process's view of the devices, to be compared with that of the other processes
    /// ([`Placement::compare`]) before anything is compiled.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn placement(&self) -> Result<Placement> {
        self.assignment.placement(self.client())
    }
    /// Returns the time since the last call of this in which runs waited for other processes; zero if the
    /// plugin does not tell.
    pub(crate) fn take_waited(&self) -> Duration {
        self.programs.take_waited()
    }
    /// Returns how each executable was made, in order.
    pub fn compilations(&self) -> &[Compilation] {
        self.programs.compilations()
    }
    /// Returns true if the devices use the host's memory.
    pub fn uses_host_memory(&self) -> Result<bool> {
        let Some(client) = self.client() else { return Ok(true) };
        let platform = client.platform_name().map_err(Error::pjrt("querying the platform"))?;
        Ok(platform == "cpu")
    }
}

/// Programs.
impl Session {
    /// Compiles `function`, or loads it from the cache, if that was not done before.
    ///
    /// # Errors
    /// The artefact has no such function, or the plugin refuses it. Problems with the cache are not errors:
    /// the function is compiled, and [`Session::compilations`] tells why.
    pub fn compile(&mut self, function: &str) -> Result<()> {
        match &self.backend {
            Backend::Plugin(client) => {
                self.programs.compile(client, &self.artefact, &self.assignment, function).map(drop)
            }
            Backend::Interpreter(_) => self.artefact.function(function).map(drop),
        }
    }

    /// Begins to compile `functions` on background threads, in this order. [`Session::compile`] and
    /// [`Session::call`] wait for the functions they need.
    ///
    /// # Errors
    /// The artefact has no such function.
    pub fn compile_ahead(&mut self, functions: &[&str]) -> Result<()> {
        match &self.backend {
            Backend::Plugin(client) => {
                self.programs.compile_ahead(client, &self.artefact, &self.assignment, functions)
            }
            Backend::Interpreter(_) => {
                functions.iter().try_for_each(|name| self.artefact.function(name).map(drop))
            }
        }
    }

    /// Adds the executables that background threads have finished to [`Session::compilations`]. Waits for
    /// nothing.
    ///
    /// # Errors
    /// The plugin has refused one of the functions.
    pub fn collect_compiled(&mut self) -> Result<()> {
        self.programs.collect()
    }

    /// Returns true if a background thread compiles `function`, or will.
    pub fn is_compiling(&self, function: &str) -> bool {
        self.programs.is_compiling(function)
    }

    /// Drops the executable of `function`, which frees its memory once its runs have ended.
    pub fn release(&mut self, function: &str) {
        self.programs.release(function);
    }

    /// Prepares for many calls of the compiled programs: returns memory that compilation left to the system,
    /// and records how much is in use while nothing runs.
    pub fn record_memory_baseline(&mut self) -> Result<()> {
        self.host_memory.record_baseline(self.programs.temporary_bytes()?);
        Ok(())
    }

    /// Waits until earlier runs have freed their temporary memory, at most half a second. Does nothing unless
    /// there is a [`HostAllocator`], [`Session::record_memory_baseline`] was called, and the devices use the
    /// host's memory.
    pub fn wait_for_memory(&mut self) {
        self.host_memory.wait();
    }
}

/// Calls.
impl Session {
    /// Starts `function` with the given logical inputs. State is read from the devices and replaced there.
    ///
    /// # Errors
    /// An input is missing, unknown or of another type; state has no value; the plugin refuses the call. If
    /// the plugin already consumed donated state, the error says that the state is lost.
    pub fn call(&mut self, function: &str, inputs: &BTreeMap<String, HostTensor>) -> Result<Outputs> {
        let begin = Instant::now();
        let mut outputs = self.start_call(function, inputs)?;
        if let Some(calls) = &self.calls {
            outputs.wait_for_run()?;
            let span = CallSpan { function: function.to_owned(), begin, end: Instant::now() };
            calls.lock().unwrap_or_else(PoisonError::into_inner).push(span);
        }
        Ok(outputs)
    }

    fn start_call(&mut self, function: &str, inputs: &BTreeMap<String, HostTensor>) -> Result<Outputs> {
        let f = self.artefact.function(function)?.clone();
        call::check_inputs(&f, inputs, &self.state)?;
        let client = match &self.backend {
            Backend::Plugin(client) => client,
            Backend::Interpreter(interpreter) => {
                let interpreter = interpreter.clone();
                return self.interpret(&*interpreter, &f, inputs);
            }
        };
        let is_shared = self.state.is_shared(&f);
        let executable = self.programs.compile(client, &self.artefact, &self.assignment, function)?;
        let sent = self.send_inputs(&f, inputs)?;
        // If the old state is shared and so cannot be donated, the plugin copies it first.
        let donated = if is_shared { BTreeMap::new() } else { self.state.take_donated(&f)? };
        let order = self.assignment.order(&executable);
        let arguments = call::arguments(&f, &order, &self.state, donated, &sent)?;
        let launch_id = self.programs.begin_run(&executable, &self.assignment)?;
        match executable.try_execute(arguments, &ExecuteOptions { launch_id, ..ExecuteOptions::default() }) {
            Ok(execution) => {
                let mut execution = self.programs.end_run(execution)?;
                execution.outputs = by_local_index(&order, execution.outputs);
                let (state, outputs) = call::results(&f, &self.assignment, execution)?;
                self.put_state(state);
                Ok(outputs)
            }
            Err(failure) => {
                let lost = failure.taken();
                let (returned, source) = (failure.arguments, failure.error);
                let returned = state::returned(&f, by_local_index(&order, returned));
                self.state.put(returned);
                let mut context = format!("running `{function}`");
                if lost > 0 {
                    context.push_str(" (its state is lost: restore a checkpoint)");
                }
                Err(Error::Pjrt { context, source })
            }
        }
    }

    fn interpret(
        &mut self,
        interpreter: &dyn Interpreter,
        f: &Function,
        inputs: &BTreeMap<String, HostTensor>,
    ) -> Result<Outputs> {
        let mut state = BTreeMap::new();
        for input in f.inputs.iter().filter(|input| input.kind() == InputKind::State) {
            state.insert(input.state.clone(), self.state.get(&input.state)?[0].on_host());
        }
        let results = interpreter.call(&f.name, inputs, &state)?;
        let (state, outputs) = call::interpreted(f, &self.assignment, results)?;
        self.put_state(state);
        Ok(outputs)
    }

    /// Returns the indices along the first dim of some inputs that the devices of this process hold parts of.
    ///
    /// # Errors
    /// The artefact has no such function.
    pub(crate) fn rows(&self, function: &str, inputs: &[&str]) -> Result<Rows> {
        let f = self.artefact.function(function)?;
        let inputs = f.inputs.iter().filter(|input| inputs.contains(&input.name.as_str()));
        let regions = inputs.flat_map(|input| self.assignment.regions(call::tensor_of(input)));
        Ok(Rows::of(regions.filter_map(|(region, _)| {
            let first = *region.start.first()?;
            Some(first..first + region.sizes[0])
        })))
    }

    /// Sends the inputs that are not state to the devices of this process.
    fn send_inputs(
        &self,
        f: &Function,
        inputs: &BTreeMap<String, HostTensor>,
    ) -> Result<BTreeMap<String, Vec<Buffer>>> {
        let mut sent = BTreeMap::new();
        for input in f.inputs.iter().filter(|input| input.kind() != InputKind::State) {
            let (tensor, value) = (call::tensor_of(input), &inputs[&input.name]);
            let buffers = self.send_shards(tensor, value)?;
            sent.insert(input.name.clone(), buffers);
        }
        Ok(sent)
    }
}

/// State.
impl Session {
    /// Reads the logical value of a tensor of the state.
    ///
    /// # Errors
    /// The program has no such state, or it has no value yet.
    pub fn state(&self, name: &str) -> Result<HostTensor> {
        let tensor = state::declared(&self.artefact, name)?;
        transfer::start_reads(name, tensor, &self.assignment, self.state.get(name)?)?.wait()
    }

    /// Reads the distinct regions of a tensor of the state that devices of this process hold.
    ///
    /// # Errors
    /// The program has no such state, or it has no value yet.
    pub fn local_state(&self, name: &str) -> Result<Vec<(Region, Vec<u8>)>> {
        let tensor = state::declared(&self.artefact, name)?;
        transfer::local_regions(name, tensor, &self.assignment, self.state.get(name)?)
    }

    /// Replaces a tensor of the state by a logical value.
    ///
    /// # Errors
    /// The program has no such state, or it has another type.
    pub fn set_state(&mut self, name: &str, value: &HostTensor) -> Result<()> {
        let tensor = state::declared(&self.artefact, name)?;
        value.require(&format!("state `{name}`"), tensor)?;
        let buffers = self.send_shards(tensor, value)?;
        self.put_state(BTreeMap::from([(name.to_owned(), buffers)]));
        Ok(())
    }

    /// Returns true if all state has a value.
    pub fn is_initialized(&self) -> bool {
        self.artefact.manifest.state.iter().all(|s| self.state.contains(&s.name))
    }

    /// Returns the assignment of devices to positions in the mesh.
    pub(crate) fn assignment(&self) -> &DeviceAssignment {
        &self.assignment
    }
    /// Returns the shards of a tensor of the state, by local index.
    pub(crate) fn shards(&self, name: &str) -> Result<&[Arc<Buffer>]> {
        self.state.get(name)
    }
    /// Returns the parts of the state that this process saves, by index of the tensor in the manifest.
    pub(crate) fn owned(&self) -> &[OwnedParts] {
        self.owned.get_or_init(|| {
            let states = self.artefact.manifest.state.iter();
            let tensors =
                states.map(|s| s.tensor.as_ref().expect("artefacts are checked when they are read"));
            self.assignment.owned(&tensors.collect::<Vec<_>>())
        })
    }
    /// Replaces tensors of the state by new shards.
    pub(crate) fn put_state(&mut self, new: BTreeMap<String, Vec<Buffer>>) {
        self.host_memory.state_was_replaced();
        self.state.put(new);
    }
    /// Sends a dense tensor to the device with this local index.
    pub(crate) fn send(&self, part: &HostTensor, local: usize) -> Result<Buffer> {
        match &self.backend {
            Backend::Plugin(client) => {
                let device = self.assignment.devices().nth(local);
                transfer::send(client, part, device.expect("a local index is that of a device"))
            }
            Backend::Interpreter(_) => Ok(Buffer::Host(part.clone())),
        }
    }
    /// Sends each device of this process its shard of a logical tensor.
    fn send_shards(&self, tensor: &Tensor, value: &HostTensor) -> Result<Vec<Buffer>> {
        match &self.backend {
            Backend::Plugin(client) => transfer::send_shards(client, &self.assignment, tensor, value),
            Backend::Interpreter(_) => Ok(vec![Buffer::Host(value.clone())]),
        }
    }
    /// Counts the memory of a snapshot. `shares_state` is true if it holds the session's own buffers.
    pub(crate) fn count_snapshot(&self, bytes: usize, shares_state: bool) -> SnapshotBytes {
        self.host_memory.count_snapshot(bytes, shares_state)
    }
}

//! A client with the programs of one artefact and the state they share.
//!
//! State lives on the devices from call to call, shard by shard; no host ever holds a whole model. A call
//! consumes the state it replaces (donation), so device memory holds it once. State that a snapshot still reads is not
//! consumed: the call then makes the new state beside it.

use crate::{
    Artefact, Error, HostTensor, Result,
    executables::{Executables, Made},
    shard,
    tensor::element_type,
};
use pjrt::{
    Argument, Buffer, Client, ClientOptions, Event, ExecuteOptions, HostArray, LoadedExecutable, PendingRead,
    Plugin, Program,
};
use proto::{
    hlo_alias::out_of_place,
    manifest::{Function, Input, InputKind, Mesh, OutputKind, Tensor},
};
use std::{
    borrow::{Borrow, Cow},
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The allocator behind `malloc`, where it counts what is in use. Set by [`Session::set_host_allocator`].
#[derive(Clone, Copy, Debug)]
pub struct HostAllocator {
    /// Returns the bytes that are in use in the large blocks that plugins allocate; `None` if they are not counted.
    pub in_use: fn() -> Option<usize>,
    /// Returns free memory to the operating system.
    pub trim: fn(),
}

/// Programs and state on devices.
pub struct Session {
    client: Client,
    artefact: Artefact,
    mesh: Mesh,
    executables: BTreeMap<String, Arc<LoadedExecutable>>,
    /// The same programs, but with the new state beside the old one.
    beside: BTreeMap<String, Arc<LoadedExecutable>>,
    state: BTreeMap<String, State>,
    allocator: Option<HostAllocator>,
    rest: Option<Rest>,
    /// Bytes of the host's memory that snapshots of state take.
    held: Arc<AtomicUsize>,
    /// How many of them are still the session's state.
    lent: AtomicUsize,
    /// Where compiled programs are kept.
    kept: Option<Executables>,
    made: Vec<Made>,
}

/// How much of the host's memory is taken while nothing runs, and how much a run takes besides on one device.
#[derive(Clone, Copy, Debug)]
struct Rest {
    in_use: usize,
    one_run: usize,
}

/// A piece of state, by devices. Snapshots have a share in it.
pub(crate) type State = Vec<Arc<Buffer>>;

/// Results of a call, on their way to the host.
pub struct Outputs {
    /// One entry for each output that is not state, in order.
    pub values: Vec<Output>,
    done: Vec<Event>,
}

/// One result of a call.
pub struct Output {
    /// Its name.
    pub name: String,
    tensor: Tensor,
    mesh: Mesh,
    /// Each distinct part, with the device that holds it.
    reads: Vec<(usize, PendingRead)>,
}

impl Session {
    /// A client of `plugin` for the artefact's mesh. Nothing is compiled yet.
    pub fn open(plugin: &Plugin, artefact: Artefact, options: ClientOptions) -> Result<Self> {
        let client = Client::create(plugin, &options).map_err(Error::pjrt("creating a client"))?;
        Self::with_client(client, artefact)
    }

    /// The same on a client that is there already; it may have more devices than the mesh.
    pub fn with_client(client: Client, artefact: Artefact) -> Result<Self> {
        let mesh = artefact.manifest.mesh.clone().unwrap_or_default();
        let have = client.addressable_devices().map_err(Error::pjrt("listing devices"))?.len();
        let want = shard::devices(&mesh);
        if have < want {
            return Err(Error::input(
                format!(
                    "the mesh has {want} devices, but `{}` offers {have}",
                    client.plugin().path().display()
                ),
                "use a smaller mesh, or more devices",
            ));
        }
        Ok(Self {
            client,
            artefact,
            mesh,
            executables: BTreeMap::new(),
            beside: BTreeMap::new(),
            state: BTreeMap::new(),
            allocator: None,
            rest: None,
            held: Arc::default(),
            lent: AtomicUsize::new(0),
            kept: None,
            made: Vec::new(),
        })
    }

    /// Takes compiled programs from here from now on, and keeps those there that have to be compiled.
    pub fn keep_executables(&mut self, kept: Executables) {
        self.kept = Some(kept);
    }

    /// Tells the session how much host memory is in use. Without it, [`Session::wait_for_room`] never waits.
    pub fn set_host_allocator(&mut self, allocator: HostAllocator) {
        self.allocator = Some(allocator);
    }

    /// The artefact.
    pub fn artefact(&self) -> &Artefact {
        &self.artefact
    }
    /// The client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Compiles `function` if it is not yet, or takes it from the kept ones, and returns the executable.
    pub fn compile(&mut self, function: &str) -> Result<Arc<LoadedExecutable>> {
        if !self.executables.contains_key(function) {
            let executable = self.make(function, Place::OfTheOld)?;
            self.executables.insert(function.to_owned(), Arc::new(executable));
        }
        Ok(self.executables[function].clone())
    }

    /// Gets ready for snapshots that copy nothing ([`Session::snapshot`]) between calls of `function`: where devices use
    /// the host's memory, compiles it once more, so that the call after a snapshot makes its state beside the old one.
    ///
    /// Devices with memory of their own have no room to spare for that: there is nothing to do, and snapshots copy.
    pub fn prepare_snapshots(&mut self, function: &str) -> Result<()> {
        if self.uses_host_memory()? && !self.beside.contains_key(function) {
            let executable = self.make(function, Place::BesideTheOld)?;
            self.beside.insert(function.to_owned(), Arc::new(executable));
        }
        Ok(())
    }

    /// Whether the devices' memory is the host's.
    pub fn uses_host_memory(&self) -> Result<bool> {
        let platform = self.client.platform_name().map_err(Error::pjrt("asking for the platform"))?;
        Ok(platform == "cpu")
    }

    /// How every executable came to be, in order.
    pub fn made(&self) -> &[Made] {
        &self.made
    }

    fn make(&mut self, function: &str, place: Place) -> Result<LoadedExecutable> {
        let begin = Instant::now();
        let f = self.artefact.function(function)?;
        let (code, options) = (self.artefact.file(&f.module)?, self.artefact.file(&f.compile_options)?);
        let (code, function) = match place {
            Place::OfTheOld => (Cow::Borrowed(code), function.to_owned()),
            Place::BesideTheOld => {
                let wrong =
                    |e| Error::input(format!("the code of `{function}`: {e}"), "compile the program again");
                (Cow::Owned(out_of_place(code).map_err(wrong)?), format!("{function} beside a snapshot"))
            }
        };
        let (code, program) = (&*code, Program::hlo(&code));
        let devices = shard::devices(&self.mesh);
        let (mut note, mut entry) = (None, None);
        let mut loaded = None;
        if let Some(kept) = &self.kept {
            match kept.entry(&self.client, devices, code, options) {
                Ok(path) => {
                    loaded = self.load(kept, &path, &program).unwrap_or_else(|why| {
                        note = Some(why);
                        None
                    });
                    entry = Some(path);
                }
                Err(error) => note = Some(error.to_string()),
            }
        }
        let cached = loaded.is_some();
        let executable = match loaded {
            Some(executable) => executable,
            None => self.client.compile(&program, options).map_err(Error::pjrt(format!(
                "compiling `{function}` of `{}`",
                self.artefact.manifest.program
            )))?,
        };
        let took = begin.elapsed();
        if let (Some(kept), Some(path), false) = (&self.kept, &entry, cached)
            && let Err(why) = keep(kept, path, &executable)
        {
            note = Some(why);
        }
        self.made.push(Made { function, cached, took, entry, note });
        Ok(executable)
    }

    /// A kept executable, if there is one; or why it is of no use.
    fn load(
        &self,
        kept: &Executables,
        entry: &Path,
        program: &Program<'_>,
    ) -> std::result::Result<Option<LoadedExecutable>, String> {
        let Some(bytes) = kept.read(entry).map_err(|e| e.to_string())? else { return Ok(None) };
        let loaded = self.client.load_serialized(&bytes, None).map_err(|error| {
            kept.forget(entry);
            format!("the plugin does not take a kept executable back: {error}")
        })?;
        let devices = shard::devices(&self.mesh);
        if loaded.devices().len() != devices {
            kept.forget(entry);
            return Err(format!(
                "a kept executable came back on {} devices, not {devices}",
                loaded.devices().len()
            ));
        }
        Ok(Some(match program.parameters() {
            Some(parameters) => loaded.with_parameters(parameters),
            None => loaded,
        }))
    }

    /// Gets ready for many runs of what is compiled: gives back what compilation left of the host's memory, and
    /// remembers how much of it is taken.
    pub fn rest(&mut self) -> Result<()> {
        let mut one_run = 0;
        for (name, executable) in self.executables.iter().chain(&self.beside) {
            let stats = executable.executable().memory_stats();
            let stats = stats.map_err(Error::pjrt(format!("asking how much memory `{name}` takes")))?;
            one_run = one_run.max(stats.map_or(0, |s| s.temporaries).try_into().unwrap_or(0));
        }
        if let Some(allocator) = self.allocator {
            (allocator.trim)();
            self.rest = (allocator.in_use)().map(|in_use| Rest { in_use, one_run });
        }
        Ok(())
    }

    /// Waits until earlier runs have given back the host's memory that they took, where [`Session::rest`] looked how
    /// much was taken before and the devices use that memory.
    ///
    /// A CPU plugin says that a run is over a moment before it frees the run's temporary memory, and on a busy
    /// machine the moment is long. A run that began in between would take as much again.
    pub fn wait_for_room(&mut self) {
        const AT_MOST: Duration = Duration::from_millis(500);
        let (Some(Rest { in_use, one_run }), Some(allocator)) = (self.rest, self.allocator) else { return };
        let begin = Instant::now();
        // Less than one device's share may have come since for other reasons. Snapshots are written meanwhile; what
        // they hold of the present state is no more than there was.
        let lent = self.lent.load(Ordering::Relaxed);
        let held = || self.held.load(Ordering::Relaxed).saturating_sub(lent);
        let taken = |now: &usize| *now > in_use + one_run / 2 + held();
        while let Some(now) = (allocator.in_use)().filter(taken) {
            if begin.elapsed() > AT_MOST {
                // Something else has taken memory to stay.
                self.rest = Some(Rest { in_use: now, one_run });
                return;
            }
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Forgets the executable of `function`, which frees its memory once its runs are done.
    pub fn release(&mut self, function: &str) {
        self.executables.remove(function);
        self.beside.remove(function);
    }

    /// Starts `function` with the given logical inputs; state is taken from and left on the devices.
    pub fn call(&mut self, function: &str, inputs: &BTreeMap<String, HostTensor>) -> Result<Outputs> {
        let f = self.artefact.function(function)?.clone();
        self.check_inputs(&f, inputs)?;
        let is_shared = self.is_shared(&f);
        let executable = match self.beside.get(function).filter(|_| is_shared) {
            Some(beside) => beside.clone(),
            // If the old state may not be overwritten, the plugin copies it first.
            None => self.compile(function)?,
        };
        let mut sent = BTreeMap::new();
        for input in &f.inputs {
            if input.kind() != InputKind::State {
                let tensor = input.tensor.as_ref().expect("the artefact was checked");
                sent.insert(input.name.clone(), self.place(tensor, &inputs[&input.name], &executable)?);
            }
        }
        let donated = if is_shared { BTreeMap::new() } else { self.take_donated(&f)? };
        let arguments = self.arguments(&f, donated, &sent);
        let started = executable.try_execute(arguments, &ExecuteOptions::default());
        match started {
            Ok(execution) => self.settle(&f, execution),
            Err(failure) => {
                let (error, lost) = (format!("running `{function}`"), failure.taken());
                let (returned, source) = (failure.arguments, failure.error);
                self.state.extend(keep_donated(&f, returned));
                let context = if lost == 0 {
                    error
                } else {
                    format!("{error} (its state is lost: restore a checkpoint)")
                };
                Err(Error::Pjrt { context, source })
            }
        }
    }

    /// The logical value of a piece of state.
    pub fn state(&self, name: &str) -> Result<HostTensor> {
        let tensor = self.declared(name)?;
        start_reads(name, tensor, &self.mesh, self.state_buffers(name)?)?.wait()
    }

    /// Puts a logical value on the devices.
    pub fn set_state(&mut self, name: &str, value: &HostTensor) -> Result<()> {
        let tensor = self.declared(name)?.clone();
        fits(&format!("state `{name}`"), &tensor, value)?;
        let buffers = self.place_on(&tensor, value, &self.state_devices()?)?;
        self.put_state(BTreeMap::from([(name.to_owned(), buffers)]));
        Ok(())
    }

    /// Whether every piece of state has a value.
    pub fn is_initialized(&self) -> bool {
        self.artefact.manifest.state.iter().all(|s| self.state.contains_key(&s.name))
    }

    /// Bytes of the host's memory that snapshots of state take.
    pub(crate) fn held(&self) -> &Arc<AtomicUsize> {
        &self.held
    }
    /// Whether a snapshot may hold the state instead of copying it.
    pub(crate) fn may_lend(&self) -> bool {
        !self.beside.is_empty()
    }
    /// A snapshot holds so many bytes of the state.
    pub(crate) fn lend(&self, bytes: usize) {
        self.lent.store(bytes, Ordering::Relaxed);
    }
    /// The machine's axes.
    pub(crate) fn mesh(&self) -> &Mesh {
        &self.mesh
    }
    /// The devices that state lies on, in the order of the mesh.
    pub(crate) fn state_devices(&self) -> Result<Vec<pjrt::Device>> {
        let mut devices = self.client.addressable_devices().map_err(Error::pjrt("listing devices"))?;
        devices.truncate(shard::devices(&self.mesh));
        Ok(devices)
    }
    /// A piece of state, by devices.
    pub(crate) fn state_buffers(&self, name: &str) -> Result<&[Arc<Buffer>]> {
        self.state.get(name).map(Vec::as_slice).ok_or_else(|| uninitialized(name))
    }
    /// Replaces pieces of state.
    pub(crate) fn put_state(&mut self, state: BTreeMap<String, Vec<Buffer>>) {
        *self.lent.get_mut() = 0;
        self.state.extend(state.into_iter().map(|(name, buffers)| (name, shared(buffers))));
    }
    /// Sends one device its part of something.
    pub(crate) fn send(&self, part: &HostTensor, device: &pjrt::Device) -> Result<Buffer> {
        let sizes: Vec<i64> = part.dims.iter().map(|s| *s as i64).collect();
        let array = HostArray::dense(part.dtype, &sizes);
        let sent = self.client.buffer_from_slice(&part.bytes, &array, device);
        sent.map_err(Error::pjrt("sending a tensor to a device"))
    }

    fn declared(&self, name: &str) -> Result<&Tensor> {
        let entry = self.artefact.manifest.state.iter().find(|s| s.name == name).ok_or_else(|| {
            Error::input(
                format!("program `{}` has no state `{name}`", self.artefact.manifest.program),
                "see the manifest for its state",
            )
        })?;
        Ok(entry.tensor.as_ref().expect("the artefact was checked"))
    }

    fn check_inputs(&self, f: &Function, inputs: &BTreeMap<String, HostTensor>) -> Result<()> {
        let wanted: Vec<&Input> = f.inputs.iter().filter(|i| i.kind() != InputKind::State).collect();
        for input in &wanted {
            let value = inputs.get(&input.name).ok_or_else(|| {
                let names: Vec<&str> = wanted.iter().map(|i| i.name.as_str()).collect();
                Error::input(
                    format!("`{}` needs input `{}`", f.name, input.name),
                    format!("its inputs are {}", names.join(", ")),
                )
            })?;
            fits(
                &format!("input `{}` of `{}`", input.name, f.name),
                input.tensor.as_ref().expect("the artefact was checked"),
                value,
            )?;
        }
        for name in inputs.keys() {
            if !wanted.iter().any(|i| i.name == *name) {
                let names: Vec<&str> = wanted.iter().map(|i| i.name.as_str()).collect();
                return Err(Error::input(
                    format!("`{}` has no input `{name}`", f.name),
                    format!("its inputs are {}", names.join(", ")),
                ));
            }
        }
        match f.inputs.iter().find(|i| i.kind() == InputKind::State && !self.state.contains_key(&i.state)) {
            Some(input) => Err(uninitialized(&input.state)),
            None => Ok(()),
        }
    }

    fn place(
        &self,
        tensor: &Tensor,
        value: &HostTensor,
        executable: &LoadedExecutable,
    ) -> Result<Vec<Buffer>> {
        self.place_on(tensor, value, executable.devices())
    }

    /// Sends each device its part, straight out of the logical tensor.
    fn place_on(&self, tensor: &Tensor, value: &HostTensor, devices: &[pjrt::Device]) -> Result<Vec<Buffer>> {
        let element = value.dtype.byte_size().expect("checked types have a size");
        let strides = shard::strides(&value.dims, element);
        let byte_strides: Vec<i64> = strides.iter().map(|s| *s as i64).collect();
        let mut buffers = Vec::with_capacity(devices.len());
        for (number, device) in devices.iter().enumerate() {
            let region = shard::region(tensor, &self.mesh, number);
            let sizes: Vec<i64> = region.sizes.iter().map(|s| *s as i64).collect();
            let array = HostArray::dense(value.dtype, &sizes);
            let array = if region.sizes == value.dims {
                array
            } else {
                array.strided(&byte_strides, shard::offset(&region, &strides))
            };
            let buffer = self.client.buffer_from_slice(&value.bytes, &array, device);
            buffers.push(buffer.map_err(Error::pjrt("sending a tensor to a device"))?);
        }
        Ok(buffers)
    }

    /// Whether a snapshot holds any of the state that a call of `f` replaces. Nobody else takes a share in it, so that
    /// what is not shared stays so.
    fn is_shared(&self, f: &Function) -> bool {
        let replaced = f.inputs.iter().filter(|i| i.donated_to.is_some());
        let mut buffers = replaced.filter_map(|i| self.state.get(&i.state)).flatten();
        buffers.any(|buffer| Arc::strong_count(buffer) > 1)
    }

    /// State that this call replaces, which nobody else has a share in.
    fn take_donated(&mut self, f: &Function) -> Result<BTreeMap<String, Vec<Buffer>>> {
        let mut taken = BTreeMap::new();
        for input in f.inputs.iter().filter(|i| i.donated_to.is_some()) {
            let buffers = self.state.remove(&input.state).ok_or_else(|| uninitialized(&input.state))?;
            let own =
                |buffer| Arc::into_inner(buffer).expect("it was just seen that nobody else has a share");
            taken.insert(input.state.clone(), buffers.into_iter().map(own).collect());
        }
        Ok(taken)
    }

    fn arguments<'a>(
        &'a self,
        f: &Function,
        donated: BTreeMap<String, Vec<Buffer>>,
        sent: &'a BTreeMap<String, Vec<Buffer>>,
    ) -> Vec<Vec<Argument<'a>>> {
        let count = shard::devices(&self.mesh);
        let mut donated: BTreeMap<String, Vec<Option<Buffer>>> = donated
            .into_iter()
            .map(|(name, buffers)| (name, buffers.into_iter().map(Some).collect()))
            .collect();
        let mut argument = |input: &Input, device: usize| {
            if input.kind() != InputKind::State {
                return Argument::Borrow(&sent[&input.name][device]);
            }
            match donated.get_mut(&input.state) {
                Some(own) => {
                    Argument::Donate(own[device].take().expect("each device's buffer is taken once"))
                }
                None => Argument::Borrow(&self.state[&input.state][device]),
            }
        };
        (0..count).map(|device| f.inputs.iter().map(|input| argument(input, device)).collect()).collect()
    }

    /// Takes over new state and starts reading everything else.
    fn settle(&mut self, f: &Function, execution: pjrt::Execution) -> Result<Outputs> {
        let pjrt::Execution { outputs, done } = execution;
        let mut columns: Vec<Vec<Buffer>> = f.outputs.iter().map(|_| Vec::new()).collect();
        for device in outputs {
            for (column, buffer) in columns.iter_mut().zip(device) {
                column.push(buffer);
            }
        }
        let (mut values, mut state) = (Vec::new(), BTreeMap::new());
        for (output, buffers) in f.outputs.iter().zip(columns) {
            if output.kind() == OutputKind::State {
                state.insert(output.state.clone(), buffers);
            } else {
                let tensor = output.tensor.as_ref().expect("the artefact was checked");
                values.push(start_reads(&output.name, tensor, &self.mesh, &buffers)?);
            }
        }
        self.put_state(state);
        Ok(Outputs { values, done })
    }
}

impl Outputs {
    /// Waits for the run to end on all devices, and for its results.
    pub fn wait(self) -> Result<BTreeMap<String, HostTensor>> {
        pjrt::wait_all(self.done).map_err(Error::pjrt("running a program"))?;
        self.values.into_iter().map(|v| Ok((v.name.clone(), v.wait()?))).collect()
    }
}

impl Output {
    /// Waits for the parts and puts them together.
    pub fn wait(self) -> Result<HostTensor> {
        let dtype = element_type(&self.tensor.dtype)?;
        let element = dtype.byte_size().expect("checked types have a size");
        let dims = shard::dims(&self.tensor);
        let mut bytes = vec![0; dims.iter().product::<usize>() * element];
        for (device, read) in self.reads {
            let part = read.wait().map_err(Error::pjrt(format!("reading `{}`", self.name)))?;
            let region = shard::region(&self.tensor, &self.mesh, device);
            shard::paste(&mut bytes, &dims, element, &region, &part);
        }
        Ok(HostTensor { dtype, dims, bytes })
    }
}

/// Keeps an executable for the next session; or why not.
fn keep(kept: &Executables, entry: &Path, executable: &LoadedExecutable) -> std::result::Result<(), String> {
    match executable.executable().serialize() {
        Ok(Some(bytes)) => kept.write(entry, &bytes).map_err(|e| e.to_string()),
        Ok(None) => {
            Err("the plugin does not give executables away: the next start compiles again".to_owned())
        }
        Err(error) => Err(format!("the executable is not kept: {error}")),
    }
}

/// Where a program puts the state that it makes.
#[derive(Clone, Copy)]
enum Place {
    OfTheOld,
    BesideTheOld,
}

fn shared(buffers: Vec<Buffer>) -> State {
    buffers.into_iter().map(Arc::new).collect()
}

/// Starts to read one copy of every part.
fn start_reads(name: &str, tensor: &Tensor, mesh: &Mesh, buffers: &[impl Borrow<Buffer>]) -> Result<Output> {
    let mut regions = Vec::new();
    let mut reads = Vec::new();
    for (device, buffer) in buffers.iter().enumerate() {
        let region = shard::region(tensor, mesh, device);
        if !regions.contains(&region) {
            regions.push(region);
            let read = buffer.borrow().start_read();
            reads.push((device, read.map_err(Error::pjrt(format!("reading `{name}`")))?));
        }
    }
    Ok(Output { name: name.to_owned(), tensor: tensor.clone(), mesh: mesh.clone(), reads })
}

/// After a failed start: the donated state that came back whole.
fn keep_donated(f: &Function, arguments: Vec<Vec<Option<Argument<'_>>>>) -> BTreeMap<String, State> {
    let mut kept: BTreeMap<String, State> = BTreeMap::new();
    let count = arguments.len();
    for device in arguments {
        for (input, argument) in f.inputs.iter().zip(device) {
            if let Some(Argument::Donate(buffer)) = argument {
                kept.entry(input.state.clone()).or_default().push(Arc::new(buffer));
            }
        }
    }
    kept.retain(|_, buffers| buffers.len() == count);
    kept
}

fn fits(what: &str, tensor: &Tensor, value: &HostTensor) -> Result<()> {
    let (dims, dtype) = (shard::dims(tensor), element_type(&tensor.dtype)?);
    let size = dtype.byte_size().unwrap_or(0) * dims.iter().product::<usize>();
    if value.dtype == dtype && value.dims == dims && value.bytes.len() == size {
        return Ok(());
    }
    let names: Vec<String> = tensor.dims.iter().map(|d| format!("{}={}", d.name, d.size)).collect();
    Err(Error::input(
        format!("{what} is {}{:?} with {} bytes", value.dtype, value.dims, value.bytes.len()),
        format!("the program wants {}[{}], {size} bytes", tensor.dtype, names.join(", ")),
    ))
}

fn uninitialized(name: &str) -> Error {
    Error::input(format!("state `{name}` has no value yet"), "run `init`, or restore a checkpoint, first")
}

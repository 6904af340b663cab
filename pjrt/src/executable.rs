//! Compiled programs: what they are, what they cost, and their bytes.

use crate::api::{Api, Handle};
use crate::array_type::ArrayType;
use crate::client::Client;
use crate::device::Device;
use crate::element_type::ElementType;
use crate::error::{Error, Result, optional};
use crate::ffi::calls::{
    CLIENT_COMPILE, COMPILE, EXECUTABLE_COST_ANALYSIS, EXECUTABLE_DESERIALIZE_AND_LOAD,
    EXECUTABLE_FINGERPRINT, EXECUTABLE_GENERATED_CODE_SIZE, EXECUTABLE_MEMORY_STATS, EXECUTABLE_NAME,
    EXECUTABLE_NUM_OUTPUTS, EXECUTABLE_NUM_PARTITIONS, EXECUTABLE_NUM_REPLICAS, EXECUTABLE_OPTIMIZED_PROGRAM,
    EXECUTABLE_OUTPUT_DIMENSIONS, EXECUTABLE_OUTPUT_TYPES, EXECUTABLE_SERIALIZE, LOADED_ADDRESSABLE_DEVICES,
    LOADED_GET_EXECUTABLE,
};
use crate::ffi::structs::{
    self, ClientCompile, Compile, CompiledMemoryStats, DeserializeAndLoad, OptimizedProgram,
    OutputDimensions, SerializeExecutable, SpanLenFirst,
};
use crate::ffi::{self, Function, Padded};
use crate::program::Program;
use crate::topology::Topology;
use crate::value::{Named, from_ffi};
use std::fmt;
use std::sync::Arc;

/// Bytes that one device needs to run an executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStats {
    /// The arguments.
    pub arguments: i64,
    /// The outputs, including those that take an argument's place.
    pub outputs: i64,
    /// Outputs that take an argument's place: counted in both of the above.
    pub aliased: i64,
    /// Everything between arguments and outputs.
    pub temporaries: i64,
    /// The code.
    pub generated_code: i64,
    /// The same in the host's memory, where a program uses it.
    pub host: HostMemoryStats,
    /// The largest sum at one time, where the plugin says.
    pub peak: Option<i64>,
}

/// Bytes of host memory that one device's run of an executable needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // As in `MemoryStats`.
pub struct HostMemoryStats {
    pub arguments: i64,
    pub outputs: i64,
    pub aliased: i64,
    pub temporaries: i64,
    pub generated_code: i64,
}

/// A program that a plugin gave back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptimizedCode {
    /// What the bytes are, such as `hlo_with_config` (an `HloModuleProtoWithConfig`).
    pub format: String,
    /// The program's bytes.
    pub code: Vec<u8>,
}

/// A compiled program, on a client's devices ([`LoadedExecutable::executable`]) or for a topology
/// ([`Topology::compile`]).
pub struct Executable {
    handle: Handle<ffi::Executable>,
    name: Arc<str>,
    num_outputs: usize,
    /// What the program was compiled for, if it is not loaded. Dropped after the executable.
    _compiled_for: Option<(Topology, Option<Client>)>,
}

impl fmt::Debug for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Executable({})", self.name)
    }
}

impl Executable {
    /// # Safety
    /// The handle's executable lives on while what is passed here does.
    pub(crate) unsafe fn new(
        handle: Handle<ffi::Executable>,
        compiled_for: Option<(Topology, Option<Client>)>,
    ) -> Result<Self> {
        // SAFETY: the executable is alive.
        let (name, num_outputs) = unsafe {
            let name = optional(handle.api.text_of(EXECUTABLE_NAME, handle.ptr))?;
            (name, handle.api.get(EXECUTABLE_NUM_OUTPUTS, handle.ptr)?)
        };
        let name = name.unwrap_or_else(|| "unnamed".to_owned()).into();
        Ok(Executable { handle, name, num_outputs, _compiled_for: compiled_for })
    }

    /// The program's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// How many arrays each device puts out.
    pub fn num_outputs(&self) -> usize {
        self.num_outputs
    }

    /// How many copies of the program run on different data, not counting partitions.
    ///
    /// # Errors
    /// The plugin's own.
    pub fn num_replicas(&self) -> Result<usize> {
        // SAFETY: the executable is alive.
        self.named(unsafe { self.handle.api.get(EXECUTABLE_NUM_REPLICAS, self.handle.ptr) })
    }

    /// Over how many devices one copy of the program is spread.
    ///
    /// # Errors
    /// The plugin's own.
    pub fn num_partitions(&self) -> Result<usize> {
        // SAFETY: the executable is alive.
        self.named(unsafe { self.handle.api.get(EXECUTABLE_NUM_PARTITIONS, self.handle.ptr) })
    }

    /// The types of what one device puts out; `None` where the plugin does not say.
    ///
    /// # Errors
    /// The plugin's own, other than "unimplemented".
    pub fn outputs(&self) -> Result<Option<Vec<ArrayType>>> {
        let (types, dims) = (self.output_types(), self.output_dims());
        let (Some(types), Some(dims)) = (self.named(optional(types))?, self.named(optional(dims))?) else {
            return Ok(None);
        };
        if types.len() != dims.len() {
            let reason =
                format!("it gave the dims of {} outputs, but the types of {}", dims.len(), types.len());
            return Err(self.handle.api.contract(Function::ExecutableOutputDimensions, reason));
        }
        Ok(Some(
            types
                .into_iter()
                .zip(dims)
                .map(|(element_type, dims)| ArrayType { element_type, dims })
                .collect(),
        ))
    }

    fn output_types(&self) -> Result<Vec<ElementType>> {
        // SAFETY: the executable is alive and owns the types.
        let types = unsafe { self.handle.api.span(EXECUTABLE_OUTPUT_TYPES, self.handle.ptr)? };
        Ok(types.iter().map(|raw| ElementType::from_raw(*raw)).collect())
    }

    fn output_dims(&self) -> Result<Vec<Vec<i64>>> {
        let function = Function::ExecutableOutputDimensions;
        let api = &self.handle.api;
        let mut args = Padded::<OutputDimensions>::new(|args| args.executable = self.handle.ptr.as_ptr());
        // SAFETY: the executable is alive and owns both arrays, of which the second says how long the first is.
        let (mut dims, ranks) = unsafe {
            api.call(EXECUTABLE_OUTPUT_DIMENSIONS, &mut args)?;
            let ranks = api.slice(function, args.ranks, args.num_outputs)?;
            let total = ranks.iter().fold(0usize, |sum, rank| sum.saturating_add(*rank));
            (api.slice(function, args.dims, total)?, ranks)
        };
        Ok(ranks
            .iter()
            .map(|rank| {
                let (own, rest) = dims.split_at(*rank);
                dims = rest;
                own.to_vec()
            })
            .collect())
    }

    /// The memory that one device needs; `None` where the plugin does not say.
    ///
    /// # Errors
    /// The plugin's own, other than "unimplemented".
    pub fn memory_stats(&self) -> Result<Option<MemoryStats>> {
        // A plugin older than the last field leaves it as it finds it.
        const UNTOUCHED: i64 = i64::MIN;
        let mut args = Padded::<CompiledMemoryStats>::new(|args| {
            args.executable = self.handle.ptr.as_ptr();
            args.peak = UNTOUCHED;
        });
        // SAFETY: the executable is alive.
        let answer = unsafe { self.handle.api.call(EXECUTABLE_MEMORY_STATS, &mut args) };
        Ok(self.named(optional(answer))?.map(|()| MemoryStats {
            arguments: args.arguments,
            outputs: args.outputs,
            aliased: args.aliased,
            temporaries: args.temporaries,
            generated_code: args.generated_code,
            host: HostMemoryStats {
                arguments: args.host_arguments,
                outputs: args.host_outputs,
                aliased: args.host_aliased,
                temporaries: args.host_temporaries,
                generated_code: args.host_generated_code,
            },
            peak: (args.peak != UNTOUCHED).then_some(args.peak),
        }))
    }

    /// Bytes of the code, where the plugin does not say it in [`Executable::memory_stats`]; `None` where it does not
    /// say it at all.
    ///
    /// # Errors
    /// The plugin's own, other than "unimplemented".
    pub fn generated_code_size(&self) -> Result<Option<i64>> {
        // SAFETY: the executable is alive.
        self.named(optional(unsafe { self.handle.api.get(EXECUTABLE_GENERATED_CODE_SIZE, self.handle.ptr) }))
    }

    /// The compiler's estimate of what a run costs, such as `flops` and `bytes accessed`; `None` where it makes none.
    ///
    /// # Errors
    /// The plugin's own, other than "unimplemented".
    pub fn cost_analysis(&self) -> Result<Option<Vec<Named>>> {
        let mut args = Padded::<SpanLenFirst<_, _>>::new(|args| args.object = self.handle.ptr.as_ptr());
        // SAFETY: the executable is alive and owns the properties, which are copied.
        unsafe {
            match self.named(optional(self.handle.api.call(EXECUTABLE_COST_ANALYSIS, &mut args)))? {
                Some(()) => {
                    from_ffi(&self.handle.api, Function::ExecutableGetCostAnalysis, args.items, args.len)
                        .map(Some)
                }
                None => Ok(None),
            }
        }
    }

    /// The program after the compiler's passes; `None` where the plugin keeps it to itself.
    ///
    /// # Errors
    /// The plugin's own, other than "unimplemented".
    pub fn optimized_program(&self) -> Result<Option<OptimizedCode>> {
        let function = Function::ExecutableOptimizedProgram;
        let api = &self.handle.api;
        let mut program = Padded::<structs::Program>::new(|_| ());
        let mut args = Padded::<OptimizedProgram>::new(|args| {
            args.executable = self.handle.ptr.as_ptr();
            args.program = program.as_ptr().cast();
        });
        // SAFETY: the executable is alive. Without memory for the code the function only says how much it needs.
        if self.named(optional(unsafe { api.call(EXECUTABLE_OPTIMIZED_PROGRAM, &mut args) }))?.is_none() {
            return Ok(None);
        }
        let mut code = Vec::new();
        if code.try_reserve_exact(program.code_size).is_err() {
            return Err(api.contract(function, format!("the program has {} bytes", program.code_size)));
        }
        code.resize(program.code_size, 0u8);
        program.code = code.as_mut_ptr().cast();
        args.program = program.as_ptr().cast();
        // SAFETY: as above; the code has the size that the function asked for. The format's text is the executable's.
        let format = unsafe {
            self.named(api.call(EXECUTABLE_OPTIMIZED_PROGRAM, &mut args))?;
            api.text(function, program.format.cast(), program.format_size)?
        };
        if program.code_size > code.len() {
            return Err(api.contract(function, "the program grew between two calls"));
        }
        code.truncate(program.code_size);
        Ok(Some(OptimizedCode { format, code }))
    }

    /// A name for the outcome of the compilation: the same for the same program, options and compiler. `None` where
    /// the plugin gives none.
    ///
    /// # Errors
    /// The plugin's own, other than "unimplemented".
    pub fn fingerprint(&self) -> Result<Option<Vec<u8>>> {
        // SAFETY: the executable is alive and owns the bytes, which are copied.
        let bytes = unsafe { self.handle.api.span(EXECUTABLE_FINGERPRINT, self.handle.ptr) };
        Ok(self.named(optional(bytes))?.map(<[u8]>::to_vec))
    }

    /// Bytes that [`Client::load_serialized`] takes on the same platform and version; `None` where the plugin cannot.
    ///
    /// # Errors
    /// The plugin's own, other than "unimplemented".
    pub fn serialize(&self) -> Result<Option<Vec<u8>>> {
        let api = &self.handle.api;
        let mut args = Padded::<SerializeExecutable>::new(|args| args.executable = self.handle.ptr.as_ptr());
        // SAFETY: the executable is alive; the bytes are copied, then freed once by the function that came with them.
        unsafe {
            if self.named(optional(api.call(EXECUTABLE_SERIALIZE, &mut args)))?.is_none() {
                return Ok(None);
            }
            let bytes = api.slice(Function::ExecutableSerialize, args.bytes, args.len).map(<[u8]>::to_vec);
            if let Some(free) = args.free {
                free(args.owner);
            }
            bytes.map(Some)
        }
    }

    /// Makes an error say which executable it is about.
    fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.with_executable(&self.name))
    }
}

/// A compiled program on devices, ready to run. Cheap to clone.
#[derive(Clone)]
pub struct LoadedExecutable {
    pub(crate) inner: Arc<LoadedInner>,
    parameters: Option<Arc<[ArrayType]>>,
}

/// Fields are dropped in this order: an executable must not outlive the loaded one that it came from, nor that one
/// its client.
pub(crate) struct LoadedInner {
    pub executable: Executable,
    pub handle: Handle<ffi::LoadedExecutable>,
    pub devices: Vec<Device>,
    pub client: Client,
}

impl fmt::Debug for LoadedExecutable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoadedExecutable({}, {} devices)", self.name(), self.devices().len())
    }
}

impl LoadedExecutable {
    /// Fails if what [`LoadedExecutable::new`] makes could not be freed.
    pub(crate) fn require(api: &Api) -> Result<()> {
        api.require(&[Function::LoadedExecutableDestroy, Function::ExecutableDestroy])
    }

    /// # Safety
    /// `executable` is what `function` returned for this client, and becomes ours.
    pub(crate) unsafe fn new(
        client: &Client,
        executable: *mut ffi::LoadedExecutable,
        parameters: Option<Vec<ArrayType>>,
        function: Function,
    ) -> Result<Self> {
        let api = client.api();
        // SAFETY: the caller's promise. What `get` returns becomes ours as well, and lives as long as `handle`.
        let (handle, executable) = unsafe {
            let handle = Handle::new(api, function, executable)?;
            let executable = api.get(LOADED_GET_EXECUTABLE, handle.ptr)?;
            (handle, Handle::new(api, Function::LoadedExecutableGetExecutable, executable)?)
        };
        // SAFETY: `LoadedInner` drops the executable before the loaded one, and so does a failure here.
        let executable = unsafe { Executable::new(executable, None)? };
        // SAFETY: the loaded executable is alive and owns the array of its client's devices.
        let devices = unsafe {
            let function = Function::LoadedExecutableAddressableDevices;
            api.span(LOADED_ADDRESSABLE_DEVICES, handle.ptr)?
                .iter()
                .map(|device| Device::new(client, *device, function))
                .collect::<Result<Vec<_>>>()?
        };
        let inner = LoadedInner { executable, handle, devices, client: client.clone() };
        Ok(LoadedExecutable { inner: Arc::new(inner), parameters: parameters.map(Into::into) })
    }

    /// What is known of the compiled program.
    pub fn executable(&self) -> &Executable {
        &self.inner.executable
    }

    /// The program's name.
    pub fn name(&self) -> &str {
        self.executable().name()
    }

    /// What each device must be given, where known: read from a program of format `hlo`, or said by
    /// [`LoadedExecutable::with_parameters`].
    pub fn parameters(&self) -> Option<&[ArrayType]> {
        self.parameters.as_deref()
    }

    /// Says what each device must be given, so that runs refuse other arguments. Plugins do not all check: arguments
    /// that do not fit can crash one.
    #[must_use]
    pub fn with_parameters(self, parameters: Vec<ArrayType>) -> Self {
        LoadedExecutable { parameters: Some(parameters.into()), ..self }
    }

    /// The devices of this process that the program runs on, in the order of arguments and outputs.
    pub fn devices(&self) -> &[Device] {
        &self.inner.devices
    }

    /// The client that the program is loaded into.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }
}

impl Client {
    /// Compiles a program for this client's devices. `options` is a serialized `CompileOptionsProto`.
    ///
    /// # Errors
    /// The plugin's own: a program it refuses, too few devices, options it does not know.
    pub fn compile(&self, program: &Program<'_>, options: &[u8]) -> Result<LoadedExecutable> {
        LoadedExecutable::require(self.api())?;
        let parameters = program.parameters();
        let program = program.to_ffi();
        let mut args = Padded::<ClientCompile>::new(|args| {
            args.client = self.as_ptr();
            args.program = program.as_program();
            args.options = options.as_ptr().cast();
            args.options_size = options.len();
        });
        // SAFETY: client, program and options are alive during the call.
        unsafe {
            self.api().call(CLIENT_COMPILE, &mut args)?;
            LoadedExecutable::new(self, args.executable, parameters, Function::ClientCompile)
        }
    }

    /// Loads what [`crate::Executable::serialize`] gave, on the same platform and version. `options` (a serialized
    /// `CompileOptionsProto`) replaces the options it was compiled with, such as the device assignment. What the
    /// program takes is not known then; say it with [`LoadedExecutable::with_parameters`].
    ///
    /// # Errors
    /// The plugin's own: other bytes, another version, too few devices.
    pub fn load_serialized(&self, bytes: &[u8], options: Option<&[u8]>) -> Result<LoadedExecutable> {
        LoadedExecutable::require(self.api())?;
        let mut args = Padded::<DeserializeAndLoad>::new(|args| {
            args.client = self.as_ptr();
            args.bytes = bytes.as_ptr().cast();
            args.len = bytes.len();
            if let Some(options) = options {
                args.options = options.as_ptr().cast();
                args.options_size = options.len();
            }
        });
        // SAFETY: client, bytes and options are alive during the call.
        unsafe {
            self.api().call(EXECUTABLE_DESERIALIZE_AND_LOAD, &mut args)?;
            LoadedExecutable::new(self, args.executable, None, Function::ExecutableDeserializeAndLoad)
        }
    }
}

impl Topology {
    /// Compiles a program for these devices, whether or not they are present. `options` is a serialized
    /// `CompileOptionsProto`. `client` may give the compiler what it would ask a device for.
    ///
    /// # Errors
    /// The plugin's own: a program it refuses, options it does not know, more memory than a device has.
    pub fn compile(
        &self,
        program: &Program<'_>,
        options: &[u8],
        client: Option<&Client>,
    ) -> Result<Executable> {
        let api = self.api();
        if client.is_some_and(|client| !Arc::ptr_eq(client.api(), api)) {
            let reason = "the client is of another plugin; give one of the plugin that made the topology";
            return Err(Error::invalid("compiling for a topology", reason));
        }
        api.require(&[Function::ExecutableDestroy])?;
        let program = program.to_ffi();
        let mut args = Padded::<Compile>::new(|args| {
            args.topology = self.as_ptr();
            args.program = program.as_program();
            args.options = options.as_ptr().cast();
            args.options_size = options.len();
            args.client = client.map_or(std::ptr::null_mut(), Client::as_ptr);
        });
        // SAFETY: topology, program, options and client are alive during the call; the executable becomes ours.
        unsafe {
            api.call(COMPILE, &mut args)?;
            let handle = Handle::new(api, Function::Compile, args.executable)?;
            Executable::new(handle, Some((self.clone(), client.cloned())))
        }
    }
}

//! Compiled programs: properties, costs, serialization, and loading onto devices.

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
    LOADED_DEVICE_ASSIGNMENT, LOADED_GET_EXECUTABLE,
};
use crate::ffi::structs::{
    self, ClientCompile, Compile, CompiledMemoryStats, DeserializeAndLoad, OptimizedProgram,
    OutputDimensions, SerializeAssignment, SerializeExecutable, SpanLenFirst,
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
    /// Arguments.
    pub arguments: i64,
    /// Outputs, including those that reuse an argument's buffer.
    pub outputs: i64,
    /// Outputs that reuse an argument's buffer. They are counted in both fields above.
    pub aliased: i64,
    /// Temporary memory: all other buffers.
    pub temporaries: i64,
    /// Machine code.
    pub generated_code: i64,
    /// The same values for host memory, if the program uses it.
    pub host: HostMemoryStats,
    /// Peak memory. `None` if the plugin does not report it.
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

/// A program returned by a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptimizedCode {
    /// The format of the bytes, such as `hlo_with_config` (an `HloModuleProtoWithConfig`).
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
    /// The topology and client the program was compiled for, if it is not loaded. Dropped after the
    /// executable.
    _compiled_for: Option<(Topology, Option<Client>)>,
}

impl fmt::Debug for Executable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Executable({})", self.name)
    }
}

impl Executable {
    /// # Safety
    /// The handle's executable stays valid while the arguments are alive.
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

    /// Returns the program's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the number of outputs of each device.
    pub fn num_outputs(&self) -> usize {
        self.num_outputs
    }

    /// Returns the number of replicas: copies of the program that run on different data.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn num_replicas(&self) -> Result<usize> {
        // SAFETY: the executable is alive.
        self.named(unsafe { self.handle.api.get(EXECUTABLE_NUM_REPLICAS, self.handle.ptr) })
    }

    /// Returns the number of partitions: devices that one copy of the program is partitioned over.
    ///
    /// # Errors
    /// The plugin reports an error.
    pub fn num_partitions(&self) -> Result<usize> {
        // SAFETY: the executable is alive.
        self.named(unsafe { self.handle.api.get(EXECUTABLE_NUM_PARTITIONS, self.handle.ptr) })
    }

    /// Returns the types of one device's outputs. `None` if the plugin does not report them.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
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
        // SAFETY: the executable is alive and owns both arrays; the ranks give the length of the dims.
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

    /// Returns the memory that one device needs. `None` if the plugin does not report it.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn memory_stats(&self) -> Result<Option<MemoryStats>> {
        // A plugin that is older than the last field does not write it.
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

    /// Returns the bytes of machine code, for plugins that do not report them in
    /// [`Executable::memory_stats`]. `None` if the plugin does not report them.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn generated_code_size(&self) -> Result<Option<i64>> {
        // SAFETY: the executable is alive.
        self.named(optional(unsafe { self.handle.api.get(EXECUTABLE_GENERATED_CODE_SIZE, self.handle.ptr) }))
    }

    /// Returns the compiler's cost estimates of a run, such as `flops` and `bytes accessed`. `None` if it
    /// makes none.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
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

    /// Returns the program after optimization. `None` if the plugin does not provide it.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn optimized_program(&self) -> Result<Option<OptimizedCode>> {
        let function = Function::ExecutableOptimizedProgram;
        let api = &self.handle.api;
        let mut program = Padded::<structs::Program>::new(|_| ());
        let mut args = Padded::<OptimizedProgram>::new(|args| {
            args.executable = self.handle.ptr.as_ptr();
            args.program = program.as_ptr().cast();
        });
        // SAFETY: the executable is alive. Without a buffer for the code, the function only returns its size.
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
        // SAFETY: as above; the code buffer has the size that the function returned. The format's text
        // belongs to the executable.
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

    /// Returns a fingerprint of the compilation: equal for the same program, options and compiler. `None` if
    /// the plugin has none.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn fingerprint(&self) -> Result<Option<Vec<u8>>> {
        // SAFETY: the executable is alive and owns the bytes, which are copied.
        let bytes = unsafe { self.handle.api.span(EXECUTABLE_FINGERPRINT, self.handle.ptr) };
        Ok(self.named(optional(bytes))?.map(<[u8]>::to_vec))
    }

    /// Serializes the executable for [`Client::load_serialized`] on the same platform and version. `None` if
    /// the plugin cannot.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn serialize(&self) -> Result<Option<Vec<u8>>> {
        let api = &self.handle.api;
        let mut args = Padded::<SerializeExecutable>::new(|args| args.executable = self.handle.ptr.as_ptr());
        // SAFETY: the executable is alive; the bytes are copied, then freed once by the function that was
        // returned with them.
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

    /// Adds the executable's name to an error.
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

/// Fields are dropped in this order: the executable must not outlive the loaded executable, nor that the
/// client.
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
    /// Checks that the plugin has the functions that free what [`LoadedExecutable::new`] creates.
    pub(crate) fn require(api: &Api) -> Result<()> {
        api.require(&[Function::LoadedExecutableDestroy, Function::ExecutableDestroy])
    }

    /// # Safety
    /// `executable` was returned by `function` for this client, and its ownership passes to the new value.
    pub(crate) unsafe fn new(
        client: &Client,
        executable: *mut ffi::LoadedExecutable,
        parameters: Option<Vec<ArrayType>>,
        function: Function,
    ) -> Result<Self> {
        let api = client.api();
        // SAFETY: the caller guarantees it. The result of `get` is owned by us too, and lives as long as
        // `handle`.
        let (handle, executable) = unsafe {
            let handle = Handle::new(api, function, executable)?;
            let executable = api.get(LOADED_GET_EXECUTABLE, handle.ptr)?;
            (handle, Handle::new(api, Function::LoadedExecutableGetExecutable, executable)?)
        };
        // SAFETY: `LoadedInner` drops the executable before the loaded executable, and so does the error
        // path.
        let executable = unsafe { Executable::new(executable, None)? };
        // SAFETY: the loaded executable is alive and owns the array, whose devices belong to its client.
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

    /// Returns the compiled program.
    pub fn executable(&self) -> &Executable {
        &self.inner.executable
    }

    /// Returns the program's name.
    pub fn name(&self) -> &str {
        self.executable().name()
    }

    /// Returns the types of each device's arguments, if known: read from a program of format `hlo`, or set by
    /// [`LoadedExecutable::with_parameters`].
    pub fn parameters(&self) -> Option<&[ArrayType]> {
        self.parameters.as_deref()
    }

    /// Sets the types of each device's arguments, so that runs with other arguments are refused. Not all
    /// plugins check: wrong arguments can crash some.
    #[must_use]
    pub fn with_parameters(self, parameters: Vec<ArrayType>) -> Self {
        LoadedExecutable { parameters: Some(parameters.into()), ..self }
    }

    /// Returns the devices of this process that the program runs on, in the order of arguments and outputs.
    pub fn devices(&self) -> &[Device] {
        &self.inner.devices
    }

    /// Returns the device of every replica and partition, in all processes, as a serialized
    /// `DeviceAssignmentProto`. `None` if the plugin does not report it.
    ///
    /// # Errors
    /// The plugin reports an error other than UNIMPLEMENTED.
    pub fn device_assignment(&self) -> Result<Option<Vec<u8>>> {
        let function = Function::LoadedExecutableGetDeviceAssignment;
        let api = &self.inner.handle.api;
        let mut args =
            Padded::<SerializeAssignment>::new(|args| args.executable = self.inner.handle.ptr.as_ptr());
        // SAFETY: the executable is alive; the bytes are copied, then freed once by the function that was
        // returned with them.
        unsafe {
            let answer = optional(api.call(LOADED_DEVICE_ASSIGNMENT, &mut args));
            if self.executable().named(answer)?.is_none() {
                return Ok(None);
            }
            let bytes = api.slice(function, args.bytes, args.len).map(<[u8]>::to_vec);
            if let Some(free) = args.free {
                free(args.owner);
            }
            bytes.map(Some)
        }
    }

    /// Returns the client that the program is loaded into.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }
}

impl Client {
    /// Compiles a program for this client's devices. `options` is a serialized `CompileOptionsProto`.
    ///
    /// # Errors
    /// The plugin reports an error: an invalid program, too few devices, or unknown options.
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

    /// Loads bytes from [`crate::Executable::serialize`] of the same platform and version. `options` (a
    /// serialized `CompileOptionsProto`) replaces the options it was compiled with, such as the device
    /// assignment. The types of its parameters are not known; set them with
    /// [`LoadedExecutable::with_parameters`].
    ///
    /// # Errors
    /// The plugin reports an error: invalid bytes, another version, or too few devices.
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
    /// Compiles a program for these devices, whether present or not. `options` is a serialized
    /// `CompileOptionsProto`. The compiler may query `client` for properties of the devices.
    ///
    /// # Errors
    /// The plugin reports an error: an invalid program, unknown options, or more memory than a device has.
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
        // SAFETY: topology, program, options and client are alive during the call; ownership of the
        // executable passes to us.
        unsafe {
            api.call(COMPILE, &mut args)?;
            let handle = Handle::new(api, Function::Compile, args.executable)?;
            Executable::new(handle, Some((self.clone(), client.cloned())))
        }
    }
}

//! The argument struct of each function. Functions and structs are paired only here.

use super::structs::*;
use super::{
    Args, Buffer, Client, Device, DeviceDescription, Event, Executable, Function, LoadedExecutable, Topology,
};
use std::marker::PhantomData;

/// A function together with the type of its argument.
pub(crate) struct Call<A> {
    pub function: Function,
    args: PhantomData<fn(A)>,
}

impl<A: Args> Call<A> {
    const fn new(function: Function) -> Self {
        Call { function, args: PhantomData }
    }
}

impl<A> Clone for Call<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Call<A> {}

/// Defines the calls below.
macro_rules! calls {
    ($($name:ident: $function:ident($args:ty);)*) => {
        $(pub(crate) const $name: Call<$args> = Call::new(Function::$function);)*

        /// Every call with the size of its struct before padding, compared with a plugin's sizes in a test.
        #[cfg(test)]
        pub(crate) const SIZES: &[(Function, usize)] = &[$((Function::$function, size_of::<$args>()),)*];
    };
}

calls! {
    PLUGIN_INITIALIZE: PluginInitialize(Nothing);
    PLUGIN_ATTRIBUTES: PluginAttributes(PluginAttributes);

    EVENT_IS_READY: EventIsReady(Get<Event, Bool>);
    EVENT_AWAIT: EventAwait(Object<Event>);
    EVENT_ON_READY: EventOnReady(EventOnReady);

    CLIENT_CREATE: ClientCreate(ClientCreate);
    CLIENT_PLATFORM_NAME: ClientPlatformName(Span<Client, u8>);
    CLIENT_PLATFORM_VERSION: ClientPlatformVersion(Span<Client, u8>);
    CLIENT_PROCESS_INDEX: ClientProcessIndex(Get<Client, Int>);
    CLIENT_DEVICES: ClientDevices(Span<Client, *mut Device>);
    CLIENT_ADDRESSABLE_DEVICES: ClientAddressableDevices(Span<Client, *mut Device>);
    CLIENT_TOPOLOGY: ClientTopologyDescription(Get<Client, *mut Topology>);
    CLIENT_DEFAULT_DEVICE_ASSIGNMENT: ClientDefaultDeviceAssignment(DefaultDeviceAssignment);
    CLIENT_COMPILE: ClientCompile(ClientCompile);
    CLIENT_BUFFER_FROM_HOST: ClientBufferFromHostBuffer(BufferFromHost);

    DEVICE_GET_DESCRIPTION: DeviceGetDescription(Get<Device, *mut DeviceDescription>);
    DEVICE_IS_ADDRESSABLE: DeviceIsAddressable(Get<Device, Bool>);
    DEVICE_LOCAL_HARDWARE_ID: DeviceLocalHardwareId(Get<Device, Int>);
    DEVICE_MEMORY_STATS: DeviceMemoryStats(DeviceMemoryStats);
    DESCRIPTION_ID: DeviceDescriptionId(Get<DeviceDescription, Int>);
    DESCRIPTION_PROCESS_INDEX: DeviceDescriptionProcessIndex(Get<DeviceDescription, Int>);
    DESCRIPTION_KIND: DeviceDescriptionKind(Span<DeviceDescription, u8>);
    DESCRIPTION_TO_STRING: DeviceDescriptionToString(Span<DeviceDescription, u8>);
    DESCRIPTION_ATTRIBUTES: DeviceDescriptionAttributes(SpanLenFirst<DeviceDescription, NamedValue>);

    TOPOLOGY_CREATE: TopologyDescriptionCreate(TopologyCreate);
    TOPOLOGY_PLATFORM_NAME: TopologyDescriptionPlatformName(Span<Topology, u8>);
    TOPOLOGY_PLATFORM_VERSION: TopologyDescriptionPlatformVersion(Span<Topology, u8>);
    TOPOLOGY_DEVICE_DESCRIPTIONS: TopologyDescriptionGetDeviceDescriptions(Span<Topology, *mut DeviceDescription>);
    TOPOLOGY_ATTRIBUTES: TopologyDescriptionAttributes(Span<Topology, NamedValue>);
    TOPOLOGY_SERIALIZE: TopologyDescriptionSerialize(SerializeTopology);
    TOPOLOGY_DESERIALIZE: TopologyDescriptionDeserialize(DeserializeTopology);
    COMPILE: Compile(Compile);

    EXECUTABLE_NAME: ExecutableName(Span<Executable, u8>);
    EXECUTABLE_NUM_REPLICAS: ExecutableNumReplicas(Get<Executable, usize>);
    EXECUTABLE_NUM_PARTITIONS: ExecutableNumPartitions(Get<Executable, usize>);
    EXECUTABLE_NUM_OUTPUTS: ExecutableNumOutputs(Get<Executable, usize>);
    EXECUTABLE_GENERATED_CODE_SIZE: ExecutableSizeOfGeneratedCodeInBytes(Get<Executable, i64>);
    EXECUTABLE_OUTPUT_TYPES: ExecutableOutputElementTypes(Span<Executable, i32>);
    EXECUTABLE_OUTPUT_DIMENSIONS: ExecutableOutputDimensions(OutputDimensions);
    EXECUTABLE_MEMORY_STATS: ExecutableGetCompiledMemoryStats(CompiledMemoryStats);
    EXECUTABLE_COST_ANALYSIS: ExecutableGetCostAnalysis(SpanLenFirst<Executable, NamedValue>);
    EXECUTABLE_OPTIMIZED_PROGRAM: ExecutableOptimizedProgram(OptimizedProgram);
    EXECUTABLE_FINGERPRINT: ExecutableFingerprint(Span<Executable, u8>);
    EXECUTABLE_SERIALIZE: ExecutableSerialize(SerializeExecutable);
    EXECUTABLE_DESERIALIZE_AND_LOAD: ExecutableDeserializeAndLoad(DeserializeAndLoad);

    LOADED_GET_EXECUTABLE: LoadedExecutableGetExecutable(Get<LoadedExecutable, *mut Executable>);
    LOADED_ADDRESSABLE_DEVICES: LoadedExecutableAddressableDevices(Span<LoadedExecutable, *mut Device>);
    LOADED_DEVICE_ASSIGNMENT: LoadedExecutableGetDeviceAssignment(SerializeAssignment);
    LOADED_EXECUTE: LoadedExecutableExecute(Execute);

    BUFFER_ELEMENT_TYPE: BufferElementType(Get<Buffer, Int>);
    BUFFER_DIMENSIONS: BufferDimensions(Span<Buffer, i64>);
    BUFFER_ON_DEVICE_SIZE: BufferOnDeviceSizeInBytes(Get<Buffer, usize>);
    BUFFER_DELETE: BufferDelete(Object<Buffer>);
    BUFFER_IS_DELETED: BufferIsDeleted(Get<Buffer, Bool>);
    BUFFER_COPY_TO_DEVICE: BufferCopyToDevice(CopyToDevice);
    BUFFER_TO_HOST: BufferToHostBuffer(BufferToHost);
    BUFFER_READY_EVENT: BufferReadyEvent(Get<Buffer, *mut Event>);
}

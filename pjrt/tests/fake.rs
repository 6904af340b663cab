//! Tests of every path through the safe layer on a plugin that counts its objects: nothing leaks, and nothing
//! is freed twice or in the wrong order, whichever call fails, whichever object is null, and whichever
//! function is missing.

#[path = "support/c.rs"]
mod c;

use c::TempDir;
use libloading::Library;
use pjrt::{
    AlignedBytes, Argument, ArrayType, Buffer, Client, ClientOptions, Code, Device, ElementType, Error,
    ExecuteOptions, Function, HostArray, HostUse, KeyValueStore, Plugin, Profiler, Program, Result,
    StoreError, Topology, Value, read_all,
};
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// A copy of the fake plugin for each test, because its counters are global variables of the library.
struct Fake {
    library: Library,
    path: std::path::PathBuf,
    _dir: TempDir,
}

/// Returns the compiled fake plugin.
fn compiled() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let mut indices = format!("enum {{ FUNCTIONS = {} }};\nenum {{\n", Function::ALL.len());
        for (index, function) in Function::ALL.iter().enumerate() {
            writeln!(indices, "  {} = {index},", function.name()).expect("text grows");
        }
        indices.push_str("};\n");
        let dir = TempDir::new("fake");
        dir.write("indices.h", indices.as_bytes());
        std::fs::read(dir.library("fake", include_str!("fake/plugin.c"))).expect("the compiler wrote it")
    })
}

impl Fake {
    fn new(name: &str) -> Self {
        let dir = TempDir::new(name);
        let path = dir.write("fake.so", compiled());
        // SAFETY: the library has no constructors.
        let library = unsafe { Library::new(&path) }.expect("the fake plugin loads");
        Fake { library, path, _dir: dir }
    }

    fn plugin(&self) -> Result<Plugin> {
        Plugin::load(&self.path)
    }

    fn get(&self, name: &str) -> i64 {
        // SAFETY: the fake's getters have this type.
        unsafe { self.library.get::<extern "C" fn() -> i64>(name) }.expect("a getter")()
    }

    fn set(&self, name: &str, value: i32) {
        // SAFETY: the fake's setters have this type.
        unsafe { self.library.get::<extern "C" fn(i32)>(name) }.expect("a setter")(value);
    }

    fn fail_at(&self, call: i64, code: i32) {
        // SAFETY: this setter has this type.
        unsafe { self.library.get::<extern "C" fn(i64, i32)>("fake_fail_at") }.expect("a setter")(call, code);
    }

    fn null_at(&self, object: i64) {
        // SAFETY: this setter has this type.
        unsafe { self.library.get::<extern "C" fn(i64)>("fake_null_at") }.expect("a setter")(object);
    }

    fn finish(&self) {
        // SAFETY: this function has this type.
        unsafe { self.library.get::<extern "C" fn()>("fake_finish") }.expect("a function")();
    }

    #[track_caller]
    fn assert_clean(&self, when: &str) {
        assert_eq!(self.get("fake_violations"), 0, "wrong frees {when}");
        assert_eq!(self.get("fake_live"), 0, "leaked objects {when}");
    }
}

fn vector(device: &Device) -> Result<Buffer> {
    device.client().buffer_from_slice(&[0; 16], &HostArray::dense(ElementType::F32, &[4]), device)
}

/// Calls everything that the safe layer offers, once.
fn everything(fake: &Fake) -> Result<()> {
    let plugin = fake.plugin()?;
    plugin.attributes()?;
    plugin.extensions();
    let topology = Topology::create(&plugin, "fake:1x2", &[("twist".to_owned(), Value::from(true))])?;
    topology.platform_name()?;
    topology.platform_version()?;
    topology.attributes()?;
    topology.devices()?;
    if let Some(bytes) = topology.serialize()? {
        Topology::deserialize(&plugin, &bytes)?;
    }
    let client = Client::create(&plugin, &ClientOptions::new().with("count", 2))?;
    let planned = topology.compile(&Program::hlo(b""), b"options", Some(&client))?;
    drop(topology);
    client.platform_name()?;
    client.platform_version()?;
    client.process_index()?;
    client.default_device_assignment(1, 2)?;
    if let Some(topology) = client.topology()? {
        topology.compile(&Program::hlo(b""), b"", None)?;
    }
    let devices = client.devices()?;
    devices[0].description()?;
    devices[0].is_addressable()?;
    devices[0].local_hardware_id()?;
    devices[0].memory_stats()?;

    let program = client.compile(&Program::hlo(b""), b"")?;
    program.device_assignment()?;
    for executable in [&planned, program.executable()] {
        executable.num_replicas()?;
        executable.num_partitions()?;
        executable.outputs()?;
        executable.memory_stats()?;
        executable.generated_code_size()?;
        executable.cost_analysis()?;
        executable.optimized_program()?;
        executable.fingerprint()?;
        if let Some(bytes) = executable.serialize()? {
            client.load_serialized(&bytes, Some(b"options"))?;
        }
    }

    let devices = program.devices();
    let array = HostArray::dense(ElementType::F32, &[4]);
    let lent = |host_use| client.buffer_from_host(AlignedBytes::zeroed(16), &array, &devices[0], host_use);
    lent(HostUse::ZeroCopy)?;
    lent(HostUse::UntilTransferred)?.delete()?;
    let kept = vector(&devices[0])?;
    kept.on_device_size()?;
    let kept_there = kept.copy_to_device(&devices[1])?;
    let arguments = vec![
        vec![Argument::Donate(vector(&devices[0])?), Argument::Borrow(&kept)],
        vec![Argument::Donate(vector(&devices[1])?), Argument::Borrow(&kept_there)],
    ];
    let run = program.execute(arguments, &ExecuteOptions::default())?;
    run.done[0].is_ready()?;
    run.done[0].wait_timeout(Duration::from_secs(10))?;
    let outputs = run.wait()?;
    outputs[0][0].ready()?.wait()?;
    outputs[0][0].to_vec()?;
    outputs[0][1].start_read()?.wait()?;
    drop(outputs[1][0].start_read()?);
    let mut memory = [[0; 16]; 2];
    let [first, second] = &mut memory;
    read_all([(&outputs[1][0], &mut first[..]), (&outputs[1][1], &mut second[..])])?;
    Ok(())
}

#[test]
fn all_goes_well() {
    let fake = Fake::new("well");
    everything(&fake).expect("nothing fails");
    fake.assert_clean("when all goes well");
}

#[test]
fn nothing_leaks_whichever_call_fails() {
    let fake = Fake::new("fails");
    everything(&fake).expect("nothing fails");
    let calls = fake.get("fake_calls");
    assert!(calls > 80, "{calls}");
    let mut failures = 0;
    // The plugin stays initialized, so counting begins after that call.
    for call in 0..calls {
        fake.fail_at(call, 13);
        match everything(&fake) {
            Err(Error::Call(error)) => {
                assert_eq!(error.code, Code::Internal);
                assert!(error.message.ends_with(" refused"), "{error}");
                assert!(error.function.starts_with("PJRT_"), "{error}");
                assert_eq!(error.plugin, fake.path.canonicalize().expect("a path"));
                failures += 1;
            }
            Err(other) => panic!("call {call}: {other}"),
            // Some call numbers are past the last call, and the errors of some calls are not reported.
            Ok(()) => {}
        }
        fake.fail_at(-1, 0);
        fake.assert_clean(&format!("after call {call} failed"));
    }
    assert!(failures > calls - 10, "{failures} of {calls} were noticed");
}

#[test]
fn unimplemented_functions_are_none_or_errors_and_never_leak() {
    let fake = Fake::new("unimplemented");
    everything(&fake).expect("nothing fails");
    let calls = fake.get("fake_calls");
    let mut absent = 0;
    for call in 0..calls {
        fake.fail_at(call, 12);
        match everything(&fake) {
            Err(error) => assert!(error.is_unimplemented(), "{error}"),
            Ok(()) => absent += 1,
        }
        fake.fail_at(-1, 0);
        fake.assert_clean(&format!("after call {call} was not implemented"));
    }
    // Attributes of three kinds of objects, the client's topology, memory statistics, and seven properties of
    // executables.
    assert!(absent > 12, "{absent}");
}

#[test]
fn nothing_leaks_whichever_object_is_null() {
    let fake = Fake::new("null");
    fake.null_at(-1);
    everything(&fake).expect("nothing is null");
    let objects = fake.get("fake_objects");
    assert!(objects > 25, "{objects}");
    for object in 0..objects {
        fake.null_at(object);
        match everything(&fake) {
            Err(Error::Contract { reason, .. }) => assert!(reason.contains("returned null"), "{reason}"),
            Err(other) => panic!("object {object}: {other}"),
            // Serialized bytes may come without an owner.
            Ok(()) => {}
        }
        fake.null_at(-1);
        fake.assert_clean(&format!("after object {object} was null"));
    }
}

#[test]
fn a_missing_function_is_named() {
    let fake = Fake::new("missing");
    everything(&fake).expect("nothing is missing");
    let (mut named, mut absent) = (0, 0);
    for (index, function) in Function::ALL.iter().enumerate() {
        let there = fake.plugin().expect("loads").has(*function);
        fake.set("fake_remove", index as i32);
        match everything(&fake) {
            Err(Error::MissingFunction { function: missing, .. }) => {
                assert_eq!(missing, function.name());
                named += 1;
            }
            Err(other) => panic!("without {}: {other}", function.name()),
            Ok(()) => absent += usize::from(there),
        }
        fake.set("fake_restore", index as i32);
        fake.assert_clean(&format!("without {}", function.name()));
    }
    assert!(named > 40 && absent > 10, "{named} {absent}");
}

#[test]
fn a_profiler_is_used_only_if_it_is_whole() {
    let fake = Fake::new("profiler");
    let plugin = fake.plugin().expect("loads");
    assert_eq!(plugin.extensions(), [99, 1]);
    let profiled = || Profiler::start(&plugin)?.map(Profiler::stop).transpose();
    assert_eq!(profiled().expect("records").as_deref(), Some(&b"ab"[..]));
    fake.assert_clean("after a profile");

    // Sizes of the extension, and of its table, which are one word too short.
    for (name, short, whole) in [("fake_profiler_extension", 24, 32), ("fake_profiler_table", 72, 80)] {
        fake.set(name, short);
        assert!(profiled().expect("there is no profiler").is_none(), "{name}");
        fake.set(name, whole);
        assert!(profiled().expect("records").is_some(), "{name}");
    }
    for function in [2, 3, 5, 6, 7, 8, 9] {
        fake.set("fake_profiler_remove", function);
        assert!(profiled().expect("there is no profiler").is_none(), "without function {function}");
        fake.set("fake_profiler_restore", function);
    }
    fake.set("fake_events_fail", 1);
    let error = profiled().expect_err("the profiler refuses").to_string();
    assert!(error.starts_with("PLUGIN_Profiler_Start failed: no room for a trace (plugin "), "{error}");
    fake.assert_clean("after a profiler that refused");
}

#[test]
fn results_are_read_in_place() {
    let fake = Fake::new("answers");
    let plugin = fake.plugin().expect("loads");
    let expected =
        [("coords".to_owned(), Value::Ints(vec![0, 1, 0])), ("fake_version".to_owned(), Value::Int(7))];
    assert_eq!(plugin.attributes().expect("attributes"), expected);
    assert_eq!(plugin.version().to_string(), "0.90");
    assert!(plugin.missing_functions().contains(&Function::ClientDmaMap));
    let client = Client::create(&plugin, &ClientOptions::new()).expect("a client");
    let devices = client.devices().expect("devices");
    let description = devices[0].description().expect("a description");
    assert_eq!(description.attribute("coords").and_then(Value::as_ints), Some(&[0, 1, 0][..]));
    assert_eq!(description.attribute("other"), None);
    let memory = devices[0].memory_stats().expect("an answer").expect("numbers");
    assert_eq!((memory.bytes_in_use, memory.peak_bytes_in_use, memory.bytes_limit), (1000, Some(2000), None));
    let program = client.compile(&Program::hlo(b""), b"").expect("compiles");
    let outputs = program.executable().outputs().expect("an answer").expect("types");
    assert_eq!(outputs.iter().map(ArrayType::to_string).collect::<Vec<_>>(), ["f32[2,3]", "f32[4]"]);
    let memory = program.executable().memory_stats().expect("an answer").expect("numbers");
    assert_eq!((memory.generated_code, memory.arguments, memory.outputs), (3, 4, 5));
    assert_eq!((memory.aliased, memory.temporaries, memory.host.temporaries), (6, 7, 12));
    assert_eq!(memory.peak, None);
    let optimized = program.executable().optimized_program().expect("an answer").expect("a program");
    assert_eq!((&optimized.format[..], &optimized.code[..]), ("fake", &b"program"[..]));
    assert_eq!(program.executable().serialize().expect("an answer").expect("bytes"), b"bytes");
}

#[test]
fn only_donated_buffers_are_overwritten() {
    let fake = Fake::new("donation");
    let client = Client::create(&fake.plugin().expect("loads"), &ClientOptions::new()).expect("a client");
    let program = client.compile(&Program::hlo(b""), b"").expect("compiles");
    let array = HostArray::dense(ElementType::F32, &[4]);
    let kept = program.devices().iter().map(vector).collect::<Result<Vec<_>>>().expect("buffers");
    let arguments = || {
        let for_device = |(device, kept)| {
            let zero_copy =
                client.buffer_from_host(AlignedBytes::zeroed(16), &array, device, HostUse::ZeroCopy);
            vec![
                Argument::Donate(vector(device).expect("a buffer")),
                Argument::Borrow(kept),
                Argument::Donate(zero_copy.expect("a buffer")),
            ]
        };
        program.devices().iter().zip(&kept).map(for_device).collect::<Vec<_>>()
    };
    let run = program.execute(arguments(), &ExecuteOptions::default()).expect("starts");
    run.wait().expect("runs");
    assert_eq!(fake.get("fake_non_donatable"), 2);

    // Arguments that the plugin consumes although it fails are lost; the others are returned.
    fake.set("fake_take_on_failure", 1);
    let given = arguments();
    fake.fail_at(0, 3);
    // The failing call is the run itself: earlier checks do not call the plugin.
    let failure = program.try_execute(given, &ExecuteOptions::default()).expect_err("must fail");
    assert!(failure.to_string().contains("execute refused"), "{failure}");
    assert_eq!(failure.taken(), 2);
    for own in &failure.arguments {
        assert!(own[0].is_none() && own[1].is_some() && own[2].is_some());
    }
    drop(failure);
    drop((kept, program, client));
    fake.assert_clean("after a run that failed");
}

#[test]
fn errors_in_the_background_arrive() {
    let fake = Fake::new("background");
    let client = Client::create(&fake.plugin().expect("loads"), &ClientOptions::new()).expect("a client");
    let program = client.compile(&Program::hlo(b""), b"").expect("compiles");
    let run = program.execute(vec![vec![], vec![]], &ExecuteOptions::default()).expect("starts");
    let outputs = run.wait().expect("runs");

    fake.set("fake_events_fail", 1);
    let run = program.execute(vec![vec![], vec![]], &ExecuteOptions::default()).expect("starts");
    let error = run.wait().expect_err("fails in the background");
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
    assert!(
        error.to_string().starts_with(
            "PJRT_LoadedExecutable_Execute failed for executable `fake` on device 0: no room on the device \
             (RESOURCE_EXHAUSTED; plugin "
        ),
        "{error}"
    );
    let error = outputs[0][0].to_vec().expect_err("fails in the background");
    assert!(error.to_string().starts_with("PJRT_Buffer_ToHostBuffer failed on device 0: no room"), "{error}");
    assert!(outputs[0][0].start_read().expect("starts").wait().is_err());
    assert!(outputs[0][0].ready().expect("an event").wait_timeout(Duration::from_secs(10)).is_err());
    drop((outputs, program, client));
    fake.assert_clean("after errors in the background");
}

/// Host memory that counts how often it is dropped.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn memory_is_held_until_the_plugin_is_done() {
    let fake = Fake::new("late");
    let client = Client::create(&fake.plugin().expect("loads"), &ClientOptions::new()).expect("a client");
    let device = &client.devices().expect("devices")[0];
    let program = client.compile(&Program::hlo(b""), b"").expect("compiles");
    fake.set("fake_delay", 1);
    let dropped = Arc::new(AtomicUsize::new(0));
    let array = HostArray::dense(ElementType::F32, &[4]);
    let data = Counted(vec![0; 16], Arc::clone(&dropped));
    let buffer = client.buffer_from_host(data, &array, device, HostUse::UntilTransferred).expect("a buffer");
    drop(buffer);
    assert_eq!(dropped.load(Ordering::SeqCst), 0);

    // Nothing waits here: the run is in flight and its outcome unknown.
    let run = program.execute(vec![vec![], vec![]], &ExecuteOptions::default()).expect("starts");
    assert!(!run.done[0].is_ready().expect("an answer"));
    assert_eq!(run.done[0].wait_timeout(Duration::from_millis(20)).expect("no failure"), None);
    let read = run.outputs[0][0].start_read().expect("starts");
    assert!(!read.is_ready().expect("an answer"));
    drop(run.outputs[0][1].start_read().expect("starts"));
    drop(run);

    fake.finish();
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert!(read.is_ready().expect("an answer"));
    assert_eq!(read.wait().expect("contents"), [0; 16]);
    drop((program, client.clone()));

    // If the callback cannot be registered, the memory must not be freed while the plugin reads it; so
    // dropping waits.
    let data = Counted(vec![0; 16], Arc::clone(&dropped));
    fake.fail_at(1, 13);
    let failed = std::thread::scope(|scope| {
        let failed = scope.spawn(|| client.buffer_from_host(data, &array, device, HostUse::UntilTransferred));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        fake.finish();
        failed.join().expect("no panic")
    });
    assert!(failed.is_err());
    assert_eq!(dropped.load(Ordering::SeqCst), 2);
}

#[test]
fn a_client_outlives_its_work() {
    let fake = Fake::new("end");
    let plugin = fake.plugin().expect("loads");
    let make = || {
        let client = Client::create(&plugin, &ClientOptions::new()).expect("a client");
        let program = client.compile(&Program::hlo(b""), b"").expect("compiles");
        let run = program.execute(vec![vec![], vec![]], &ExecuteOptions::default()).expect("starts");
        (client, program, run)
    };
    fake.set("fake_delay", 1);
    let made = make();
    std::thread::scope(|scope| {
        let dropping = scope.spawn(move || drop(made));
        std::thread::sleep(Duration::from_millis(50));
        let seen = (dropping.is_finished(), fake.get("fake_clients"));
        fake.finish();
        assert_eq!(seen, (false, 1));
    });
    fake.assert_clean("after the client has waited");

    // The last reference may be dropped in a callback, where waiting would deadlock.
    let (client, program, mut run) = make();
    let event = run.done.swap_remove(0);
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    event.on_ready(move |_| drop((receiver, client, program, run))).expect("registers");
    drop(event);
    fake.finish();
    while fake.get("fake_live") > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(sender.send(()).is_err(), "the callback has run");
    fake.assert_clean("after the last owner was a callback");
}

/// A store inside this process.
#[derive(Default)]
struct Store {
    values: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    limit: Mutex<Option<Duration>>,
    broken: bool,
}

impl KeyValueStore for Store {
    fn get(&self, key: &[u8], limit: Duration) -> std::result::Result<Vec<u8>, StoreError> {
        *self.limit.lock().expect("no panic") = Some(limit);
        self.try_get(key)
    }

    fn try_get(&self, key: &[u8]) -> std::result::Result<Vec<u8>, StoreError> {
        assert!(!self.broken, "on purpose");
        let missing = || StoreError::new(Code::NotFound, "nobody put it");
        self.values.lock().expect("no panic").get(key).cloned().ok_or_else(missing)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> std::result::Result<(), StoreError> {
        self.values.lock().expect("no panic").insert(key.to_vec(), value.to_vec());
        Ok(())
    }
}

#[test]
fn processes_find_each_other_through_the_store() {
    let fake = Fake::new("store");
    let plugin = fake.plugin().expect("loads");
    let store = Arc::new(Store::default());
    let client = Client::create(&plugin, &ClientOptions::new().store(store.clone())).expect("a client");
    assert_eq!(store.values.lock().expect("no panic")[&b"address"[..]], b"10.0.0.1\0:1234");
    assert_eq!(*store.limit.lock().expect("no panic"), Some(Duration::from_millis(1500)));
    drop(client);
    assert_eq!(Arc::strong_count(&store), 1);

    let broken = Arc::new(Store { broken: true, ..Store::default() });
    let error = Client::create(&plugin, &ClientOptions::new().store(broken)).expect_err("must fail");
    assert!(error.to_string().contains("the key-value store panicked"), "{error}");
    fake.assert_clean("after a store that panicked");
}

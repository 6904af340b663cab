//! End-to-end tests on a real CPU plugin: compile, transfer, run and read, on one device and on several.

mod support;

use pjrt::{
    AlignedBytes, Argument, ArrayType, Client, ClientOptions, Code, ElementType, ExecuteOptions, Function,
    HostArray, HostUse, OLDEST, Plugin, Program, read_all,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::hlo::{self, compile_options};
use support::{cpu_client, cpu_plugin, f32_bytes, f32_values, message, one_device, values, vector};

fn run_options() -> ExecuteOptions {
    ExecuteOptions::default()
}

#[test]
fn a_plugin_tells_about_itself() {
    let Some(plugin) = cpu_plugin() else { return };
    assert!(plugin.version() >= OLDEST);
    assert!(plugin.path().is_absolute());
    assert!(plugin.has(Function::ClientCompile));
    assert!(!plugin.missing_functions().contains(&Function::ClientCompile));
    let attributes = plugin.attributes().expect("attributes");
    let xla = attributes.iter().find(|(name, _)| name == "xla_version").expect("an XLA plugin");
    assert!(xla.1.as_int().is_some(), "{attributes:?}");
    assert!(!plugin.extensions().is_empty());

    let again = Plugin::load(plugin.path()).expect("loaded twice");
    assert_eq!(format!("{again:?}"), format!("{plugin:?}"));
}

#[test]
fn a_client_describes_itself_and_its_devices() {
    let Some(client) = cpu_client(3) else { return };
    assert_eq!(client.platform_name().expect("a name"), "cpu");
    assert!(!client.platform_version().expect("a version").is_empty());
    assert_eq!(client.process_index().expect("an index"), 0);
    let devices = client.addressable_devices().expect("devices");
    assert_eq!(devices, client.devices().expect("devices"));
    assert_eq!(devices.len(), 3);
    assert_eq!(client.default_device_assignment(1, 3).expect("enough devices"), [0, 1, 2]);
    for (index, device) in devices.iter().enumerate() {
        let description = device.description().expect("a description");
        assert_eq!((device.id(), description.id, description.process_index), (index as i32, index as i32, 0));
        assert_eq!(description.kind, "cpu");
        assert!(!description.text.is_empty());
        assert!(device.is_addressable().expect("a flag"));
        device.local_hardware_id().expect("an id");
        // If a CPU plugin reports statistics at all, they are not 0.
        if let Some(memory) = device.memory_stats().expect("an answer") {
            assert!(memory.bytes_in_use >= 0);
        }
    }
    if let Some(topology) = client.topology().expect("an answer") {
        drop(client);
        drop(devices);
        assert_eq!(topology.platform_name().expect("a name"), "cpu");
        assert_eq!(topology.devices().expect("devices").len(), 3);
    }
}

#[test]
fn sums_are_right_in_f32_and_bf16() {
    let Some(client) = cpu_client(1) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    let program = client
        .compile(&Program::hlo(&hlo::add("add_f32", hlo::F32, &[2, 3])), &compile_options(1))
        .expect("compiles");
    assert_eq!(program.name(), "add_f32");
    let array = HostArray::dense(ElementType::F32, &[2, 3]);
    let x = client.buffer_from_slice(&f32_bytes(&[1., 2., 3., 4., 5., 6.]), &array, device).expect("x");
    let y = client.buffer_from_slice(&f32_bytes(&[0.5; 6]), &array, device).expect("y");
    let outputs = program
        .execute(one_device([(&x).into(), (&y).into()]), &run_options())
        .and_then(|run| run.wait())
        .expect("runs");
    let sum = &outputs[0][0];
    assert_eq!(sum.array_type().expect("a type").to_string(), "f32[2,3]");
    assert_eq!((sum.host_size().expect("a size"), sum.on_device_size().expect("a size")), (24, 24));
    assert_eq!(sum.device(), device);
    assert_eq!(values(sum), [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]);
    assert_eq!(values(&x), [1., 2., 3., 4., 5., 6.]);

    let program = client
        .compile(&Program::hlo(&hlo::add("add_bf16", hlo::BF16, &[2])), &compile_options(1))
        .expect("compiles");
    // 1.0, 2.0 and 0.5 as bfloat16, which is the upper half of a float32.
    let bf16 = |values: [f32; 2]| values.map(|v| ((v.to_bits() >> 16) as u16).to_ne_bytes()).concat();
    let array = HostArray::dense(ElementType::Bf16, &[2]);
    let x = client.buffer_from_slice(&bf16([1., 2.]), &array, device).expect("x");
    let y = client.buffer_from_slice(&bf16([0.5, 0.5]), &array, device).expect("y");
    let outputs = program
        .execute(one_device([x.into(), y.into()]), &run_options())
        .and_then(|run| run.wait())
        .expect("runs");
    assert_eq!(outputs[0][0].to_vec().expect("contents"), bf16([1.5, 2.5]));
}

#[test]
fn partitions_sum_over_devices() {
    let Some(client) = cpu_client(8) else { return };
    let program = client
        .compile(&Program::hlo(&hlo::sum_over_partitions(&[4])), &compile_options(8))
        .expect("compiles");
    assert_eq!(program.executable().num_partitions().expect("a number"), 8);
    assert_eq!(program.executable().num_replicas().expect("a number"), 1);
    assert_eq!(program.devices(), client.addressable_devices().expect("devices"));
    // One replica, eight partitions, and the device of each. A plugin may lack the function.
    if let Some(assignment) = program.device_assignment().expect("an answer") {
        let partitions = (0..8).flat_map(|id| [0x1a, 3, 0x0a, 1, id]);
        assert_eq!(assignment, [8, 1, 16, 8].into_iter().chain(partitions).collect::<Vec<u8>>());
    }
    let arguments =
        program.devices().iter().map(|device| vec![vector(device, &[device.id() as f32; 4]).into()]);
    let run = program.execute(arguments.collect(), &run_options()).expect("starts");
    assert_eq!(run.done.len(), 8);
    let outputs = run.wait().expect("runs");
    for (own, device) in outputs.iter().zip(program.devices()) {
        assert_eq!(own[0].device(), device);
        assert_eq!(values(&own[0]), [28.; 4]);
    }
    // All reads at once.
    let mut memory = vec![vec![0; 16]; 8];
    read_all(outputs.iter().map(|own| &own[0]).zip(memory.iter_mut().map(Vec::as_mut_slice))).expect("reads");
    assert!(memory.iter().all(|bytes| f32_values(bytes) == [28.; 4]));
}

#[test]
fn donated_buffers_are_reused_and_borrowed_ones_are_kept() {
    let Some(client) = cpu_client(2) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    let program =
        client.compile(&Program::hlo(&hlo::add_in_place(&[16])), &compile_options(1)).expect("compiles");
    assert_eq!(program.executable().num_outputs(), 2);
    let memory = program.executable().memory_stats().expect("an answer").expect("CPU plugins say");
    assert_eq!((memory.arguments, memory.aliased), (128, 64), "{memory:?}");

    let y = vector(device, &[2.; 16]);
    let mut x = vector(device, &[1.; 16]);
    for step in 1..=3 {
        let arguments = one_device([x.into(), (&y).into()]);
        let mut outputs =
            program.execute(arguments, &run_options()).and_then(|run| run.wait()).expect("runs");
        x = outputs[0].swap_remove(0);
        assert_eq!(values(&x), [1. + 2. * step as f32; 16]);
    }

    // The program must not change buffers that it only borrows.
    let arguments = one_device([(&x).into(), (&y).into()]);
    let outputs = program.execute(arguments, &run_options()).and_then(|run| run.wait()).expect("runs");
    assert_eq!(values(&outputs[0][0]), [9.; 16]);
    assert_eq!(values(&outputs[0][1]), [14.; 16]);
    assert_eq!(values(&x), [7.; 16]);
    let twice = one_device([(&x).into(), (&x).into()]);
    let outputs = program.execute(twice, &run_options()).and_then(|run| run.wait()).expect("runs");
    assert_eq!(values(&outputs[0][0]), [14.; 16]);
    assert_eq!(values(&x), [7.; 16]);
}

/// Host memory that counts how often it is dropped.
struct Counted(AlignedBytes, Arc<AtomicUsize>);

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

/// Callbacks run on other threads.
#[track_caller]
fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what} did not happen within ten seconds");
}

#[test]
fn lent_memory_is_held_as_long_as_needed_and_never_written() {
    let Some(client) = cpu_client(1) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    let program =
        client.compile(&Program::hlo(&hlo::add_in_place(&[1024])), &compile_options(1)).expect("compiles");
    let bytes = f32_bytes(&[1.; 1024]);
    let array = HostArray::dense(ElementType::F32, &[1024]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let count = || dropped.load(Ordering::SeqCst);
    let lend = |host_use| {
        let data = Counted(AlignedBytes::from(&bytes[..]), Arc::clone(&dropped));
        client.buffer_from_host(data, &array, device, host_use).expect("a buffer")
    };

    let x = lend(HostUse::UntilTransferred);
    x.ready().expect("an event").wait().expect("arrives");
    assert_eq!(values(&x), [1.; 1024]);
    drop(x);
    eventually("giving back the memory of a transfer", || count() == 1);

    let x = lend(HostUse::ZeroCopy);
    x.ready().expect("an event").wait().expect("arrives");
    assert_eq!(values(&x), [1.; 1024]);
    // Not dropped: the plugin uses the memory itself.
    assert_eq!(count(), 1);
    drop(x);
    eventually("giving back the memory of a buffer", || count() == 2);

    // Lent memory is not written by the program, even if the buffer is donated.
    static SHARED: std::sync::OnceLock<AlignedBytes> = std::sync::OnceLock::new();
    struct Static;
    impl AsRef<[u8]> for Static {
        fn as_ref(&self) -> &[u8] {
            SHARED.get_or_init(|| AlignedBytes::from(&f32_bytes(&[1.; 1024])[..]))
        }
    }
    let x = client.buffer_from_host(Static, &array, device, HostUse::ZeroCopy).expect("a buffer");
    let y = vector(device, &[2.; 1024]);
    let outputs = program
        .execute(one_device([x.into(), (&y).into()]), &run_options())
        .and_then(|run| run.wait())
        .expect("runs");
    assert_eq!(values(&outputs[0][0]), [3.; 1024]);
    assert_eq!(f32_values(Static.as_ref()), [1.; 1024]);
}

#[test]
fn every_type_and_shape_comes_back_as_it_went() {
    let Some(client) = cpu_client(1) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    use ElementType::*;
    for element_type in [Pred, S8, S16, S32, S64, U8, U16, U32, U64, F16, F32, F64, Bf16] {
        for dims in [&[][..], &[5], &[2, 3], &[3, 0], &[2, 1, 4]] {
            let array = HostArray::dense(element_type, dims);
            // Zeros and ones are valid for every type.
            let bytes: Vec<u8> = (0..array.byte_size().expect("a size")).map(|i| (i % 2) as u8).collect();
            let buffer = client.buffer_from_slice(&bytes, &array, device).expect("a buffer");
            assert_eq!(buffer.element_type().expect("a type"), element_type);
            assert_eq!(buffer.dims().expect("dims"), dims);
            assert_eq!(buffer.to_vec().expect("contents"), bytes, "{buffer:?}");
            assert_eq!(buffer.start_read().and_then(|read| read.wait()).expect("contents"), bytes);
        }
    }
}

#[test]
fn shards_of_a_larger_array_need_no_cutting() {
    let Some(client) = cpu_client(1) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    let whole: Vec<f32> = (0..12).map(|i| i as f32).collect();
    // Columns 1 and 2 of a 4 x 3 array.
    let array = HostArray::dense(ElementType::F32, &[4, 2]).strided(&[12, 4], 4);
    let expected = [1., 2., 4., 5., 7., 8., 10., 11.];
    let borrowed = client.buffer_from_slice(&f32_bytes(&whole), &array, device).expect("a buffer");
    assert_eq!(values(&borrowed), expected);
    for host_use in [HostUse::UntilTransferred, HostUse::ZeroCopy] {
        let data = AlignedBytes::from(&f32_bytes(&whole)[..]);
        let given = client.buffer_from_host(data, &array, device, host_use).expect("a buffer");
        assert_eq!(values(&given), expected);
    }
}

#[test]
fn other_layouts_are_read_row_major() {
    let Some(client) = cpu_client(1) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    let row_major = hlo::array(hlo::F32, &[2, 3]);
    let column_major = hlo::array_with_layout(hlo::F32, &[2, 3], &[0, 1]);
    let mut program = hlo::Program::new("column_major");
    let x = program.parameter(&row_major);
    let copy = program.op("copy", &column_major, &[x]);
    let code = program.outputs(&[(copy, column_major)], &[]);
    let program = client.compile(&Program::hlo(&code), &compile_options(1)).expect("compiles");
    let array = HostArray::dense(ElementType::F32, &[2, 3]);
    let x = client.buffer_from_slice(&f32_bytes(&[1., 2., 3., 4., 5., 6.]), &array, device).expect("x");
    let outputs =
        program.execute(one_device([x.into()]), &run_options()).and_then(|run| run.wait()).expect("runs");
    assert_eq!(values(&outputs[0][0]), [1., 2., 3., 4., 5., 6.]);
}

#[test]
fn an_executable_tells_about_itself_and_can_be_stored() {
    let Some(client) = cpu_client(1) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    let program =
        client.compile(&Program::hlo(&hlo::add_in_place(&[8])), &compile_options(1)).expect("compiles");
    let executable = program.executable();
    let outputs = executable.outputs().expect("an answer").expect("CPU plugins say");
    assert_eq!(outputs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["f32[8]", "f32[8]"]);
    let memory = executable.memory_stats().expect("an answer").expect("CPU plugins say");
    assert_eq!((memory.arguments, memory.aliased), (64, 32));
    if let Some(peak) = memory.peak {
        assert!(peak >= 0);
    }
    executable.generated_code_size().expect("an answer");
    if let Some(costs) = executable.cost_analysis().expect("an answer") {
        let flops = costs.iter().find(|(name, _)| name == "flops").and_then(|(_, value)| value.as_f64());
        assert_eq!(flops, Some(16.), "{costs:?}");
    }
    let optimized = executable.optimized_program().expect("an answer").expect("CPU plugins say");
    assert_eq!(optimized.format, "hlo_with_config");
    assert!(contains(&optimized.code, b"add_in_place"));
    if let Some(fingerprint) = executable.fingerprint().expect("an answer") {
        assert!(!fingerprint.is_empty());
    }

    let stored = executable.serialize().expect("an answer").expect("CPU plugins can");
    drop(program);
    for options in [None, Some(compile_options(1))] {
        let loaded = client.load_serialized(&stored, options.as_deref()).expect("loads");
        let arguments = one_device([vector(device, &[1.; 8]).into(), vector(device, &[2.; 8]).into()]);
        let outputs = loaded.execute(arguments, &run_options()).and_then(|run| run.wait()).expect("runs");
        assert_eq!(values(&outputs[0][0]), [3.; 8]);
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn events_call_back() {
    let Some(client) = cpu_client(1) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    let program = client
        .compile(&Program::hlo(&hlo::add("add", hlo::F32, &[4])), &compile_options(1))
        .expect("compiles");
    let (x, y) = (vector(device, &[1.; 4]), vector(device, &[2.; 4]));
    let run = program.execute(one_device([(&x).into(), (&y).into()]), &run_options()).expect("starts");
    let (sender, receiver) = std::sync::mpsc::channel();
    run.done[0].on_ready(move |outcome| sender.send(outcome).expect("a listener")).expect("registers");
    receiver.recv_timeout(Duration::from_secs(10)).expect("calls back").expect("succeeds");
    // The panic is caught, and the event can still be queried.
    run.done[0].on_ready(|_| panic!("on purpose")).expect("registers");
    assert_eq!(run.done[0].wait_timeout(Duration::from_secs(10)).expect("succeeds"), Some(()));
    assert!(run.done[0].is_ready().expect("an answer"));
    let output = run.wait().expect("runs").swap_remove(0).swap_remove(0);
    let read = output.start_read().expect("starts");
    drop((output, x, y, program));
    assert_eq!(f32_values(&read.wait().expect("contents")), [3.; 4]);
}

#[test]
fn objects_keep_their_owners_alive() {
    let Some(client) = cpu_client(1) else { return };
    let devices = client.addressable_devices().expect("devices");
    let program = client
        .compile(&Program::hlo(&hlo::add("add", hlo::F32, &[4])), &compile_options(1))
        .expect("compiles");
    let (x, y) = (vector(&devices[0], &[1.; 4]), vector(&devices[0], &[2.; 4]));
    drop((client, devices));
    let run = program.execute(one_device([x.into(), y.into()]), &run_options()).expect("starts");
    drop(program);
    let outputs = run.wait().expect("runs");
    assert_eq!(values(&outputs[0][0]), [3.; 4]);
    let pending = outputs[0][0].start_read().expect("starts");
    drop(outputs);
    drop(pending);
}

#[test]
fn buffers_move_between_devices() {
    let Some(client) = cpu_client(2) else { return };
    let devices = client.addressable_devices().expect("devices");
    let x = vector(&devices[0], &[1., 2.]);
    let copy = x.copy_to_device(&devices[1]).expect("a copy");
    assert_eq!(copy.device(), &devices[1]);
    x.delete().expect("deletes");
    assert_eq!(values(&copy), [1., 2.]);
    let other = cpu_client(1).expect("another client").addressable_devices().expect("devices");
    assert!(message(copy.copy_to_device(&other[0])).contains("belongs to another client"));
}

#[test]
fn threads_share_everything() {
    let Some(client) = cpu_client(1) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    let program = client
        .compile(&Program::hlo(&hlo::add("add", hlo::F32, &[4])), &compile_options(1))
        .expect("compiles");
    let y = vector(device, &[0.5; 4]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (program, y) = (program.clone(), &y);
            scope.spawn(move || {
                for round in 0..50 {
                    let x = (thread * 100 + round) as f32;
                    let arguments = one_device([vector(device, &[x; 4]).into(), y.into()]);
                    let outputs =
                        program.execute(arguments, &run_options()).and_then(|run| run.wait()).expect("runs");
                    assert_eq!(values(&outputs[0][0]), [x + 0.5; 4]);
                }
            });
        }
    });
}

#[test]
fn mistakes_are_errors_that_say_what_and_where() {
    let Some(client) = cpu_client(2) else { return };
    let plugin = client.plugin();
    let devices = client.addressable_devices().expect("devices");

    let garbage = client.compile(&Program::hlo(b"not a module"), &compile_options(1));
    let error = garbage.expect_err("must be refused");
    assert!(error.code().is_some_and(|code| code != Code::Ok));
    assert!(error.to_string().starts_with("PJRT_Client_Compile failed: "), "{error}");
    assert!(error.to_string().contains(&plugin.path().display().to_string()), "{error}");
    let unknown = client.compile(&Program { code: b"", format: "punched cards" }, &compile_options(1));
    assert!(message(unknown).contains("PJRT_Client_Compile failed"));
    let code = hlo::sum_over_partitions(&[4]);
    assert!(
        message(client.compile(&Program::hlo(&code), &compile_options(64))).contains("PJRT_Client_Compile")
    );
    assert!(
        message(client.load_serialized(b"not an executable", None)).contains("DeserializeAndLoad failed")
    );
    assert!(message(client.default_device_assignment(1 << 40, 2)).contains("more than any machine"));

    let program = client
        .compile(&Program::hlo(&hlo::add("add", hlo::F32, &[4])), &compile_options(1))
        .expect("compiles");
    let (x, y) = (vector(&devices[0], &[1.; 4]), vector(&devices[0], &[2.; 4]));
    let elsewhere = vector(&devices[1], &[1.; 4]);
    let short = vector(&devices[0], &[1.; 3]);
    let run = |arguments: Vec<Vec<Argument<'_>>>| {
        message(program.execute(arguments, &run_options()).and_then(|run| run.wait()))
    };
    assert!(run(vec![]).contains("running for executable `add`: there are arguments for 0 devices"));
    let wrong = run(one_device([(&x).into(), (&elsewhere).into()]));
    assert!(wrong.contains("argument 1 of device 0 must be on Device(0)"), "{wrong}");
    let few = run(one_device([(&x).into()]));
    assert!(few.contains("executable `add`: device 0 gets 1 arguments, but needs 2"), "{few}");
    let small = run(one_device([(&x).into(), (&short).into()]));
    assert!(small.contains("argument 1 of device 0 is f32[3], but the program takes f32[4]"), "{small}");
    let foreign = cpu_client(1).expect("another client");
    let foreign = vector(&foreign.addressable_devices().expect("devices")[0], &[1.; 4]);
    assert!(run(one_device([(&x).into(), (&foreign).into()])).contains("of another client"));

    assert!(
        message(x.read_into(&mut [0; 15]))
            .contains("an array f32[4] has 16 bytes, but there is memory of 15")
    );
    let unknown = Client::create(&plugin, &ClientOptions::new().with("", 1));
    assert!(message(unknown).contains("empty name"));
    // The client still works after all of these errors.
    let outputs = program
        .execute(one_device([(&x).into(), (&y).into()]), &run_options())
        .and_then(|run| run.wait())
        .expect("runs");
    assert_eq!(values(&outputs[0][0]), [3.; 4]);
}

#[test]
fn a_run_that_does_not_start_gives_its_arguments_back() {
    let Some(client) = cpu_client(2) else { return };
    let program = client
        .compile(&Program::hlo(&hlo::sum_over_partitions(&[4])), &compile_options(2))
        .expect("compiles");
    let [first, second] = program.devices() else { panic!("two devices") };
    // Refused by this crate: the devices disagree about what is donated.
    let kept = vector(second, &[5.; 4]);
    let arguments = vec![vec![vector(first, &[4.; 4]).into()], vec![(&kept).into()]];
    let failure = program.try_execute(arguments, &run_options()).expect_err("must be refused");
    assert!(failure.to_string().contains("donated on some devices and kept on others"), "{failure}");
    assert_eq!(failure.taken(), 0);
    let back = failure.arguments[0][0].as_ref().expect("not taken");
    assert_eq!(values(back.buffer()), [4.; 4]);
    // Refused likewise: the types do not fit.
    let arguments = vec![vec![vector(first, &[4.; 3]).into()], vec![vector(second, &[5.; 3]).into()]];
    let failure = program.try_execute(arguments, &run_options()).expect_err("must be refused");
    assert!(failure.to_string().contains("is f32[3], but the program takes f32[4]"), "{failure}");
    assert_eq!(failure.taken(), 0);
}

#[test]
fn a_run_that_the_plugin_refuses_gives_its_arguments_back() {
    let Some(client) = cpu_client(1) else { return };
    let device = &client.addressable_devices().expect("devices")[0];
    let program =
        client.compile(&Program::hlo(&hlo::add_in_place(&[4])), &compile_options(1)).expect("compiles");
    // A deserialized executable does not know its parameters, so the plugin has to check.
    let stored = program.executable().serialize().expect("an answer").expect("CPU plugins can");
    let program = client.load_serialized(&stored, None).expect("loads");
    assert_eq!(program.parameters(), None);
    let y = vector(device, &[2.; 4]);
    let wrong = one_device([vector(device, &[1.; 3]).into(), (&y).into()]);
    let failure = program.try_execute(wrong, &run_options()).expect_err("must be refused");
    assert!(
        failure.to_string().starts_with("PJRT_LoadedExecutable_Execute failed for executable `add_in_place`"),
        "{failure}"
    );
    assert_eq!(failure.taken(), 0);
    assert_eq!(values(failure.arguments[0][0].as_ref().expect("not taken").buffer()), [1.; 3]);
    assert_eq!(values(failure.arguments[0][1].as_ref().expect("not taken").buffer()), [2.; 4]);

    let vector_of_4 = ArrayType { element_type: ElementType::F32, dims: vec![4] };
    let program = program.with_parameters(vec![vector_of_4.clone(), vector_of_4]);
    let wrong = one_device([vector(device, &[1.; 3]).into(), (&y).into()]);
    assert!(message(program.execute(wrong, &run_options())).contains("the program takes f32[4]"));
}

/// Collectives between processes (`runtime::processes`) add in the same order.
#[test]
fn an_all_reduce_adds_in_the_order_of_the_devices() {
    let Some(client) = cpu_client(4) else { return };
    let parts: [&[f32]; 4] = [&[1e8, 1., 3e7], &[1., -1e8, 1.], &[-1e8, 1e8, 1.], &[1., 1., -3e7]];
    let code = hlo::sum_over_partitions(&[3]);
    let program = client.compile(&Program::hlo(&code), &compile_options(4)).expect("compiles");
    let arguments =
        program.devices().iter().zip(parts).map(|(device, part)| vec![vector(device, part).into()]);
    let execution = program.execute(arguments.collect(), &run_options()).expect("starts");
    let outputs = execution.wait().expect("runs");
    let expected: Vec<f32> =
        (0..3).map(|i| parts.iter().map(|part| part[i]).fold(0., |a, b| a + b)).collect();
    let reverse: Vec<f32> =
        (0..3).map(|i| parts.iter().rev().map(|part| part[i]).fold(0., |a, b| a + b)).collect();
    assert_ne!(expected, reverse, "the values tell orders from each other");
    for device in &outputs {
        assert_eq!(values(&device[0]), expected);
    }
}

#[test]
fn the_other_plugins_pass_too() {
    support::plugin_path::for_other_plugins("");
}

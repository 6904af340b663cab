//! Compilation for TPUs without a TPU, with a libtpu in `MESH_TPU_PLUGIN`. Opt-in, because libtpu is a large
//! download.

mod support;

use pjrt::{Client, ClientOptions, Code, Function, Plugin, Profiler, Program, Topology, Value};
use std::ffi::OsString;
use support::hlo::{self, compile_options};
use support::message;
use support::plugin_path::say_skipped;

/// Runs `test` in a process with the environment that libtpu needs without a TPU. A process cannot safely
/// change its own environment while other threads run.
fn with_libtpu(test: fn(&Plugin)) {
    const INSIDE: &str = "PJRT_TEST_INSIDE";
    let Some(path) = std::env::var_os("MESH_TPU_PLUGIN") else {
        return say_skipped("MESH_TPU_PLUGIN does not name a libtpu.so");
    };
    if std::env::var_os(INSIDE).is_some() {
        return test(&Plugin::load(&path).unwrap_or_else(|error| panic!("{error}")));
    }
    let name = OsString::from(std::thread::current().name().expect("tests have names"));
    let output = std::process::Command::new(std::env::current_exe().expect("a test is a program"))
        .args([&name, &OsString::from("--exact"), &OsString::from("--nocapture")])
        .envs([(INSIDE, "1"), ("TPU_SKIP_MDS_QUERY", "1"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")])
        .output()
        .expect("a program can be started again");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
}

#[test]
fn topologies_have_coordinates() {
    with_libtpu(|plugin| {
        let topology = Topology::create(plugin, "v5e:2x4", &[]).expect("a topology");
        assert_eq!(topology.platform_name().expect("a name"), "tpu");
        assert!(!topology.platform_version().expect("a version").is_empty());
        let devices = topology.devices().expect("devices");
        assert_eq!(devices.len(), 8);
        let mut coords: Vec<_> = devices
            .iter()
            .map(|device| {
                assert!(device.kind.contains("TPU v5"), "{}", device.kind);
                device.attribute("coords").and_then(Value::as_ints).expect("coordinates").to_vec()
            })
            .collect();
        coords.sort();
        coords.dedup();
        assert_eq!(coords.len(), 8, "{coords:?}");

        let option = ("chip_config_name".to_owned(), Value::from("megacore"));
        let megacore = Topology::create(plugin, "v4:2x2x1", &[option]).expect("a topology");
        let split = Topology::create(plugin, "v4:2x2x1", &[]).expect("a topology");
        assert_eq!(megacore.devices().expect("devices").len(), 4);
        assert_eq!(split.devices().expect("devices").len(), 8);

        // Deserialization is newer than the oldest API.
        if plugin.has(Function::TopologyDescriptionDeserialize) {
            let bytes = split.serialize().expect("an answer").expect("TPUs can");
            let again = Topology::deserialize(plugin, &bytes).expect("a topology");
            assert_eq!(again.devices().expect("devices"), split.devices().expect("devices"));
        }
        let unknown = Topology::create(plugin, "v99:1x1", &[]).expect_err("must be refused");
        assert!(unknown.to_string().starts_with("PJRT_TopologyDescription_Create failed: "), "{unknown}");
    });
}

#[test]
fn programs_compile_for_absent_devices() {
    with_libtpu(|plugin| {
        let topology = Topology::create(plugin, "v5e:2x4", &[]).expect("a topology");
        let code = hlo::sum_over_partitions(&[1024]);
        let executable = topology.compile(&Program::hlo(&code), &compile_options(8), None).expect("compiles");
        drop(topology);
        assert_eq!(executable.name(), "sum_over_partitions");
        assert_eq!(executable.num_partitions().expect("a number"), 8);
        assert_eq!(executable.num_outputs(), 1);
        let memory = executable.memory_stats().expect("an answer").expect("TPUs say");
        assert!(memory.arguments >= 4096, "{memory:?}");
        // Peak memory is newer than the oldest API.
        assert!(memory.peak.is_some_and(|peak| peak > 0) || plugin.version().minor < 81, "{memory:?}");
        let costs = executable.cost_analysis().expect("an answer").expect("TPUs say");
        assert!(costs.iter().any(|(name, _)| name == "flops"), "{costs:?}");
        let optimized = executable.optimized_program().expect("an answer").expect("TPUs say");
        assert_eq!(optimized.format, "hlo_with_config");
        assert!(executable.serialize().expect("an answer").is_some_and(|bytes| !bytes.is_empty()));
        assert!(executable.fingerprint().expect("an answer").is_some());
    });
}

#[test]
fn donation_shows_in_the_memory() {
    with_libtpu(|plugin| {
        let topology = Topology::create(plugin, "v5e:2x2", &[]).expect("a topology");
        let code = hlo::add_in_place(&[1 << 20]);
        let executable = topology.compile(&Program::hlo(&code), &compile_options(1), None).expect("compiles");
        let memory = executable.memory_stats().expect("an answer").expect("TPUs say");
        assert_eq!((memory.arguments, memory.aliased), (8 << 20, 4 << 20), "{memory:?}");
        // The outputs, and the table of their addresses.
        assert!((8 << 20..(8 << 20) + 4096).contains(&memory.outputs), "{memory:?}");
    });
}

#[test]
fn mistakes_are_errors() {
    with_libtpu(|plugin| {
        let topology = Topology::create(plugin, "v5e:2x2", &[]).expect("a topology");
        let garbage = topology.compile(&Program::hlo(b"not a module"), &compile_options(1), None);
        assert!(message(garbage).starts_with("PJRT_Compile failed: "));
        // More memory than a chip has.
        let code = hlo::add("too_large", hlo::F32, &[1 << 33]);
        let large =
            topology.compile(&Program::hlo(&code), &compile_options(1), None).expect_err("must be refused");
        assert_eq!(large.code(), Some(Code::ResourceExhausted), "{large}");
        // There is no TPU here.
        let client = Client::create(plugin, &ClientOptions::new()).expect_err("must be refused");
        assert!(client.to_string().starts_with("PJRT_Client_Create failed: "), "{client}");
    });
}

#[test]
fn the_profiler_reports_its_errors() {
    with_libtpu(|plugin| {
        // Without a TPU, there is nothing to record.
        let error = Profiler::start(plugin).expect_err("this machine has no TPU").to_string();
        assert!(error.starts_with("PLUGIN_Profiler_Start failed: ") && error.contains("(plugin "), "{error}");
    });
}

//! The table of TPUs (`compiler/src/cost/tpu.toml`) against the libtpu that `MESH_TPU_PLUGIN` names. Without
//! it, these tests are skipped with a message.

use compiler::{
    artefact::{Settings, build},
    cost::target::{Slice, generations},
    pipeline::{Placement, compile, unobserved},
};
use mesh::{Layout, Mesh};
use pjrt::{Code, Plugin, Program, Topology, Value};
use std::{ffi::OsString, process::Command};

/// Runs `test` in a separate process with the environment that libtpu needs without a TPU, because changing
/// the environment is not safe while other threads run.
fn with_libtpu(test: fn(&Plugin)) {
    const INSIDE: &str = "MESH_TEST_INSIDE";
    let name = std::thread::current().name().expect("tests have names").to_owned();
    let Some(path) = std::env::var_os("MESH_TPU_PLUGIN") else {
        return tests::say_skipped("MESH_TPU_PLUGIN does not name a libtpu.so");
    };
    if std::env::var_os(INSIDE).is_some() {
        return test(&Plugin::load(&path).unwrap_or_else(|error| panic!("{error}")));
    }
    let output = Command::new(std::env::current_exe().expect("a test is a program"))
        .args([OsString::from(name), "--exact".into(), "--nocapture".into()])
        .envs([(INSIDE, "1"), ("TPU_SKIP_MDS_QUERY", "1"), ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")])
        .envs([("TPU_WORKER_HOSTNAMES", "localhost"), ("TPU_ACCELERATOR_TYPE", "v5litepod-8")])
        .output()
        .expect("a program can be started again");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{}\n{out}\n{err}", output.status);
}

/// Returns libtpu's topology of a slice.
fn topology(plugin: &Plugin, slice: &Slice) -> Result<Topology, pjrt::Error> {
    let mut options: Vec<(String, Value)> = Vec::new();
    if let Some(config) = &slice.mode.config {
        options.push(("chip_config_name".into(), Value::Text(config.clone())));
    }
    if slice.slices > 1 {
        options.push(("num_slices".into(), Value::Int(slice.slices as i64)));
    }
    Topology::create(plugin, &slice.topology(), &options)
}

/// Returns slices of every generation and mode with the given shapes.
fn slices(shapes: impl Fn(&compiler::cost::target::Generation) -> Vec<String>) -> Vec<Slice> {
    let mut all = Vec::new();
    for generation in generations() {
        for shape in shapes(&generation) {
            for mode in &generation.modes {
                let name = format!("{}:{shape}:{}", generation.name, mode.name);
                all.push(Slice::parse(&name).unwrap_or_else(|e| panic!("{e}")));
            }
        }
    }
    all
}

#[test]
fn libtpu_has_the_same_slices() {
    with_libtpu(|plugin| {
        for slice in slices(|g| g.shapes.clone()) {
            let devices =
                topology(plugin, &slice).and_then(|t| t.devices()).unwrap_or_else(|e| panic!("{slice}: {e}"));
            assert_eq!(devices.len(), slice.devices(), "{slice}");
            assert!(devices.iter().all(|d| d.kind == slice.generation.kind), "{slice}: {}", devices[0].kind);
            let hosts = devices.iter().map(|d| d.process_index).max().expect("a slice has devices") + 1;
            assert_eq!(hosts as usize, slice.hosts(), "{slice}");
            let attribute = devices[0].attribute("device_memory_bytes_limit").cloned();
            let Some(Value::Int(limit)) = attribute else { panic!("{slice}: {attribute:?}") };
            // Larger slices reserve more memory.
            let expected = slice.mode.reported.unwrap_or(slice.mode.hbm) as f64;
            assert!((limit as f64 / expected - 1.0).abs() < 1e-3, "{slice}: {limit} and not {expected}");
        }
        for name in ["v5e:2x4:slices=2", "v3:2x2:slices=3", "v4:2x2x1:slices=2", "v4:2x2x2:megacore:slices=2"]
        {
            let several = Slice::parse(name).expect("slices");
            let devices = topology(plugin, &several).expect("a topology").devices().expect("devices");
            let ids = devices.iter().map(|d| i64::from(d.id)).collect();
            assert_eq!(several.device_ids(), Some(ids), "{name}");
        }
    });
}

#[test]
fn devices_are_numbered_as_we_think() {
    with_libtpu(|plugin| {
        for name in ["v4:2x4x2", "v5e:4x4", "v3:4x2"] {
            let slice = Slice::parse(name).expect("a slice");
            let devices = topology(plugin, &slice).and_then(|t| t.devices()).expect("devices");
            for (number, device) in devices.iter().enumerate() {
                let mut rest = number / slice.mode.devices;
                let coords =
                    device.attribute("coords").and_then(Value::as_ints).expect("coordinates").to_vec();
                for (n, at) in slice.shape.iter().zip(coords) {
                    assert_eq!(at, (rest % n) as i64, "{name}: device {number}");
                    rest /= n;
                }
            }
        }
    });
}

/// Compares the ids and processes of a slice with libtpu's table. Returns the number of its hosts.
#[track_caller]
fn check_places(plugin: &Plugin, slice: &Slice) -> usize {
    let mut devices =
        topology(plugin, slice).and_then(|t| t.devices()).unwrap_or_else(|e| panic!("{slice}: {e}"));
    devices.sort_by_key(|device| device.id);
    let ids: Vec<i64> = devices.iter().map(|device| i64::from(device.id)).collect();
    let expected = slice.device_ids().unwrap_or_else(|| (0..slice.devices() as i64).collect());
    assert_eq!(ids, expected, "{slice}: ids");
    let processes: Vec<usize> = devices.iter().map(|device| device.process_index as usize).collect();
    assert_eq!(processes, slice.processes(), "{slice}: processes");
    slice.hosts() * slice.slices
}

#[test]
fn devices_have_the_ids_and_processes_that_we_think() {
    with_libtpu(|plugin| {
        let (mut slices_with_hosts, mut devices) = (0, 0);
        for slice in slices(|g| g.shapes.clone()) {
            let hosts = check_places(plugin, &slice);
            slices_with_hosts += usize::from(hosts > 1);
            devices += slice.devices();
        }
        assert!(slices_with_hosts > 50, "{slices_with_hosts}");
        for name in ["v5e:4x8:slices=2", "v4:4x4x4:slices=2", "v4:2x2x4:megacore:slices=3", "v3:4x4:slices=2"]
        {
            check_places(plugin, &Slice::parse(name).expect("slices"));
        }
        eprintln!("{slices_with_hosts} slices of several hosts, {devices} devices in all");
    });
}

#[test]
fn libtpu_refuses_what_we_refuse() {
    with_libtpu(|plugin| {
        for name in ["v9:2x2", "v5e:3x5", "v4:3x3x3", "v2:2x2x2x2"] {
            Slice::parse(name).expect_err("must be refused");
            assert!(Topology::create(plugin, name, &[]).is_err(), "{name}");
        }
    });
}

/// Returns the bytes of three vectors that a program needs at the same time.
const SUM: &str = "
module sum
func f(%x x: f32[a=ROWS, b=4096], %y y: f32[a=ROWS, b=4096]) -> (z: f32[a=ROWS, b=4096]) {
  %z = add %x, %y
  return %z
}
";

/// Returns true if a program that needs `bytes` compiles for a slice.
fn fits(plugin: &Plugin, slice: &Slice, bytes: u64) -> bool {
    let rows = bytes / 3 / 4 / 4096;
    let module =
        mesh::text::parse(&SUM.replace("ROWS", &rows.to_string()), "sum.mesh").expect("it is a program");
    let mesh = Mesh::parse(&format!("data={}", slice.devices())).expect("a mesh");
    let placement = Placement { mesh, layout: Layout::default(), state_layout: Layout::default() };
    let local = compile(module, &placement, &mut unobserved).expect("it compiles");
    let settings = Settings { target: format!("tpu:{slice}"), ..Settings::default() };
    let artefact = build(local.module(), &settings).expect("it is emitted");
    let file = |suffix: &str| {
        &artefact.files.iter().find(|(name, _)| name.ends_with(suffix)).expect("the file is made").1
    };
    let topology = topology(plugin, slice).expect("a topology");
    match topology.compile(&Program::hlo(file(".hlo.pb")), file(".compile_options.pb"), None) {
        Ok(_) => true,
        Err(error) if error.code() == Some(Code::ResourceExhausted) => false,
        Err(error) => panic!("{slice}: {error}"),
    }
}

#[test]
fn programs_may_use_the_memory_that_we_think() {
    with_libtpu(|plugin| {
        let smallest = |g: &compiler::cost::target::Generation| g.shapes.iter().take(1).cloned().collect();
        for slice in slices(smallest) {
            let hbm = slice.hbm();
            assert!(fits(plugin, &slice, hbm - hbm / 50), "{slice}: less than {hbm} does not fit");
            assert!(!fits(plugin, &slice, hbm + hbm / 50), "{slice}: more than {hbm} fits");
        }
    });
}

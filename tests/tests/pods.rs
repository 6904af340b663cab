//! A process of a pod: a plugin with 8 devices of which this process addresses 4, in no order and not
//! neighbours in the mesh.

use pjrt::{Client, ClientOptions, ElementType, Function, Plugin};
use runtime::{HostTensor, Placement, Session};
use std::{collections::BTreeMap, fmt::Write, fs, process::Command, sync::OnceLock};
use tests::training::artefact_of_text;

/// The id of the device at each position, and the positions of the devices of this process.
const IDS: [i64; 8] = [0, 1, 2, 3, 8, 9, 10, 11];
const POSITIONS: [usize; 4] = [2, 3, 4, 5];

/// The plugin adds 1 to the state whatever the program says; this one says so too.
const PROGRAM: &str = "
module counts
state param w: f32[a=16]
func step() -> () {
  %w = read {state=w}
  %one = constant {dtype=f32, value=1}
  %ones = broadcast %one {dims=[a=16]}
  %next = add %w, %ones
  write %next {state=w}
  return
}
";

/// Returns the fake plugin.
fn plugin() -> Plugin {
    static PLUGIN: OnceLock<Plugin> = OnceLock::new();
    let make = || {
        let folder = tempfile::tempdir().unwrap();
        let mut indices = format!("enum {{ FUNCTIONS = {} }};\nenum {{\n", Function::ALL.len());
        for (index, function) in Function::ALL.iter().enumerate() {
            writeln!(indices, "  {} = {index},", function.name()).unwrap();
        }
        indices.push_str("};\n");
        fs::write(folder.path().join("indices.h"), indices).unwrap();
        let (source, library) = (folder.path().join("fake_pod.c"), folder.path().join("fake_pod.so"));
        fs::write(&source, include_str!("fake_pod.c")).unwrap();
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .output()
            .expect("this test needs a C compiler called `cc`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Plugin::load(&library).unwrap_or_else(|error| panic!("{error}"))
    };
    PLUGIN.get_or_init(make).clone()
}

fn session(mesh: &str, layout: &str, options: &ClientOptions) -> runtime::Result<Session> {
    let client = Client::create(&plugin(), options).unwrap();
    Session::with_client(client, artefact_of_text(PROGRAM, mesh, layout))
}

/// Runs steps, and compares the regions of this process with the logical value.
#[track_caller]
fn check(mesh: &str, layout: &str, regions: &[(usize, usize)]) {
    let mut session = session(mesh, layout, &ClientOptions::new()).unwrap_or_else(|e| panic!("{e}"));
    let placement = session.placement().unwrap();
    let expected = Placement { process_index: 7, ids: IDS.to_vec(), positions: POSITIONS.to_vec() };
    assert_eq!(placement, expected);
    let whole: Vec<f32> = (0u8..16).map(f32::from).collect();
    let bytes = whole.iter().flat_map(|x| x.to_ne_bytes()).collect();
    session.set_state("w", &HostTensor { dtype: ElementType::F32, dims: vec![16], bytes }).unwrap();
    let mut launches = Vec::new();
    for _ in 0..3 {
        session.call("step", &BTreeMap::new()).and_then(|run| run.wait()).unwrap_or_else(|e| panic!("{e}"));
        launches.push(session.client().unwrap().platform_version().unwrap().parse::<i64>().unwrap());
    }
    assert!(
        launches[0] > 0 && launches[1] == launches[0] + 1 && launches[2] == launches[0] + 2,
        "{launches:?}"
    );
    let mut found = Vec::new();
    for (region, bytes) in session.local_state("w").unwrap() {
        let values: Vec<f32> =
            bytes.chunks(4).map(|b| f32::from_ne_bytes(b.try_into().expect("four bytes"))).collect();
        let (start, size) = (region.start[0], region.sizes[0]);
        let expected: Vec<f32> = whole[start..start + size].iter().map(|x| x + 3.0).collect();
        assert_eq!(values, expected, "{region}");
        found.push((start, size));
    }
    assert_eq!(found, regions);
    if regions.len() * regions[0].1 < 16 {
        let error = session.state("w").unwrap_err().to_string();
        assert!(error.contains("other processes hold parts of it"), "{error}");
    }
}

#[test]
fn devices_have_their_places_by_id() {
    check("data=8", "a:data", &[(4, 2), (6, 2), (8, 2), (10, 2)]);
    check("data=2,model=4", "a:data", &[(0, 8), (8, 8)]);
    check("data=2,model=4", "a:model", &[(8, 4), (12, 4), (0, 4), (4, 4)]);
}

#[test]
fn a_mesh_that_is_not_the_job_is_refused() {
    #[track_caller]
    fn fails(session: runtime::Result<Session>, parts: &[&str]) {
        let Err(error) = session else { panic!("it is accepted") };
        let error = error.to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "`{part}` is not in: {error}"));
    }
    let options = ClientOptions::new();
    fails(
        session("data=4", "a:data", &options),
        &["the mesh has 4 devices, but the processes of the job have 8, 4 of them here", "of all devices"],
    );
    fails(session("data=16", "a:data", &options), &["the mesh has 16 devices", "have 8, 4 of them here"]);
}

#[test]
fn a_plugin_that_ignores_the_assignment_is_noticed() {
    let options = ClientOptions::new().with("ignore", true);
    let mut session = session("data=8", "a:data", &options).unwrap();
    let error = session.compile("step").unwrap_err().to_string();
    for part in ["`step` was not compiled for the mesh", "0,1,2,3,8,9,11,10, not to 0,1,2,3,8,9,10,11"] {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

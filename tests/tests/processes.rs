//! Training in several processes on the CPU plugin gives the same bits as in one.
//!
//! A test starts this binary once for each rank. The ignored test `rank` is the program of a rank.

use data::{Corpus, Mixture, Tokens};
use job::{Coordinator, Job, Limits};
use models::{Config, Switch};
use pjrt::{Client, ClientOptions};
use runtime::{Contract, HostTensor, Session, checkpoint::Keep, processes::Exchange, shard::Region, train};
use std::{
    collections::BTreeSet,
    env, fs,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};
use tests::{
    plugin,
    training::{Steps, artefact_for_processes, artefact_of_text_for_processes, session, small_switch},
};

const STEPS: u64 = 20;
/// Steps of the model at full size.
const STEPS_AT_FULL_SIZE: u64 = 3;
/// The number of processes that stands for one whose collectives are XLA's own.
const ORDINARY: u32 = 0;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The variable with a rank's place: rank, number of processes, and folder; for training also mesh, state
/// layout, last step, and the folder of checkpoints, which may be empty.
const PLACE: &str = "MESH_TEST_RANK";

fn devices(mesh: &str) -> usize {
    mesh::Mesh::parse(mesh).expect("the tests' meshes are legal").devices()
}

/// Returns the model for a mesh. With four devices: one layer per stack, because it is compiled for every
/// rank; two with `MESH_SLOW=1`. With eight devices: switch_tiny at full size.
fn model(mesh: &str) -> Config {
    if devices(mesh) == 8 {
        return models::zoo::switch_tiny();
    }
    let layers = if is_slow() { 2 } else { 1 };
    let all = small_switch();
    // Every layer has experts if there is only one.
    let switch = all.switch.clone().map(|s| Switch { sparse_step: layers, decoder_sparse_step: layers, ..s });
    Config { encoder_layers: layers, decoder_layers: layers, switch, ..all }
}

fn is_slow() -> bool {
    env::var_os("MESH_SLOW").is_some_and(|v| v == "1")
}

/// Trains, and returns the losses.
fn trained(session: &mut Session, options: train::Options) -> Vec<f64> {
    let spec = Contract::batch_spec(session.artefact()).unwrap();
    let corpus = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        let tokens = Tokens::open(&[path], &data::Reading::default(), None).unwrap();
        Corpus { name: name.to_owned(), rate: None, tokens }
    };
    let corpora = ["LICENSE", "README.md"].map(corpus).into();
    let data = Arc::new(Mixture::new(corpora, spec, &data::Options::default()).unwrap());
    let mut steps = Steps::default();
    let options = train::Options { seed: Some(3), ..options };
    let summary = train::run(session, data, &options, &mut steps, &AtomicBool::new(false));
    summary.unwrap_or_else(|e| panic!("{e}"));
    steps.losses()
}

/// The line that stands for a region of a tensor.
fn line(name: &str, region: &Region, bytes: &[u8]) -> String {
    format!("{name} {region} {}", blake3::hash(bytes))
}

/// Joins the job of the tests in `folder`. Rank 0 serves its coordinator.
fn join(rank: u32, size: u32, folder: &Path) -> Arc<Job> {
    let (limits, token) = (Limits::default(), "test");
    let coordinator = (rank == 0).then(|| {
        let service = Coordinator::serve((LOOPBACK, 0).into(), size as usize, token, limits.clone()).unwrap();
        fs::write(folder.join("new"), service.address().to_string()).unwrap();
        fs::rename(folder.join("new"), folder.join("coordinator")).unwrap();
        service
    });
    let begin = Instant::now();
    let address = loop {
        if let Ok(address) = fs::read_to_string(folder.join("coordinator")) {
            break address;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "rank 0 does not start");
        thread::sleep(Duration::from_millis(10));
    };
    let on_loss = Box::new(job::member::end_process);
    Arc::new(Job::join(&address, (rank, size), token, limits, coordinator, on_loss).unwrap())
}

/// Makes a client with `devices` devices.
fn client(devices: usize) -> Client {
    let options = ClientOptions::new().with("cpu_device_count", devices as i64);
    Client::create(&plugin::client().plugin(), &options).unwrap()
}

#[test]
#[ignore = "the program of a rank, which the other tests start"]
fn rank() {
    let place = env::var(PLACE).expect("the tests that start ranks set their place");
    let parts: Vec<&str> = place.split(' ').collect();
    let [rank, size, folder, mesh, state_layout, steps, checkpoints] = parts[..] else { panic!("{place}") };
    let (rank, size): (u32, u32) = (rank.parse().unwrap(), size.parse().unwrap());
    let (is_ordinary, size, folder) = (size == ORDINARY, size.max(1), Path::new(folder));
    let job = join(rank, size, folder);
    let own = devices(mesh) / size as usize;
    let client = client(own);
    let artefact = artefact_for_processes(&model(mesh), mesh, state_layout);
    let mut session = if is_ordinary {
        Session::with_client(client, artefact).unwrap()
    } else {
        let exchange = Exchange::connect(&job, own, LOOPBACK.into()).unwrap();
        Session::of_process(client, artefact, &exchange).unwrap()
    };
    let saving = (!checkpoints.is_empty()).then(|| train::Saving {
        folder: checkpoints.into(),
        every: None,
        keep: Keep::default(),
        resume: true,
    });
    let metrics = saving.as_ref().map(|_| folder.join("metrics"));
    let steps = steps.parse().unwrap();
    let options = train::Options { steps, saving, metrics, job: job.clone(), ..train::Options::default() };
    let losses = trained(&mut session, options);
    let mut lines = vec![losses.len().to_string()];
    lines.extend(losses.iter().map(|l| l.to_bits().to_string()));
    for state in session.artefact().manifest.state.clone() {
        for (region, bytes) in session.local_state(&state.name).unwrap() {
            lines.push(line(&state.name, &region, &bytes));
        }
    }
    fs::write(folder.join(format!("rank-{rank}")), lines.join("\n")).unwrap();
    job.leave(None);
}

/// A job: its number of processes, mesh and state layout, last step, and folder of checkpoints.
struct Run<'a> {
    size: u32,
    mesh: &'a str,
    state_layout: &'a str,
    steps: u64,
    checkpoints: &'a str,
}

/// The results of a job.
struct Trained {
    /// Those of rank 0, which all ranks have.
    losses: Vec<f64>,
    /// The lines of all regions.
    regions: BTreeSet<String>,
    /// Step, losses and tokens by corpus, from the metrics file.
    texts: Vec<String>,
}

/// Runs the test `program` once for each rank. The place of a rank is rank, `size`, `folder` and `more`.
#[track_caller]
fn run_ranks(program: &str, size: u32, folder: &Path, more: &str) {
    let start = |rank| {
        let output = fs::File::create(folder.join(format!("output-{rank}"))).unwrap();
        Command::new(env::current_exe().unwrap())
            .args([program, "--exact", "--ignored", "--nocapture"])
            .env(PLACE, format!("{rank} {size} {}{more}", folder.display()))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap()
    };
    let ranks: Vec<Child> = (0..size.max(1)).map(start).collect();
    for (rank, mut child) in ranks.into_iter().enumerate() {
        let output = || fs::read_to_string(folder.join(format!("output-{rank}"))).unwrap();
        assert!(child.wait().unwrap().success(), "{size} processes, rank {rank}:\n{}", output());
    }
}

impl Run<'_> {
    /// Runs the job.
    #[track_caller]
    fn run(&self) -> Trained {
        let Self { size, mesh, state_layout, steps, checkpoints } = self;
        let folder = tempfile::tempdir().unwrap();
        let more = format!(" {mesh} {state_layout} {steps} {checkpoints}");
        run_ranks("processes::rank", *size, folder.path(), &more);
        let (mut losses, mut regions) = (Vec::new(), BTreeSet::new());
        for rank in 0..self.size.max(1) {
            let text = fs::read_to_string(folder.path().join(format!("rank-{rank}"))).unwrap();
            let mut lines = text.lines();
            let count: usize = lines.next().unwrap().parse().unwrap();
            let bits = lines.by_ref().take(count).map(|l| l.parse().unwrap());
            let own: Vec<f64> = bits.map(f64::from_bits).collect();
            assert!(losses.is_empty() || own == losses, "rank {rank}: {own:?}, rank 0: {losses:?}");
            losses = own;
            regions.extend(lines.map(str::to_owned));
        }
        let metrics = fs::read_to_string(folder.path().join("metrics")).unwrap_or_default();
        Trained { losses, regions, texts: metrics.lines().map(by_text).collect() }
    }
}

/// Returns the step, and the losses and tokens by corpus, of a line of the metrics file.
fn by_text(line: &str) -> String {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let names = ["step", "LICENSE/loss", "LICENSE/tokens", "README.md/loss", "README.md/tokens"];
    names.map(|name| format!("{name}={}", line[name])).join(" ")
}

/// Compares one process with two and four: the same bits. Compares them with an ordinary process, whose
/// collectives are XLA's own: the same bits without XLA's optimizations, else losses equal to rounding.
/// Compares them with the program for one host, whose row losses stay split: losses equal to rounding
/// (ADR 12).
#[track_caller]
fn check(mesh: &str, state_layout: &str) {
    let run = |size| Run { size, mesh, state_layout, steps: STEPS, checkpoints: "" }.run();
    let one = run(1);
    assert!(one.losses[STEPS as usize - 1] < one.losses[0] - 1.0, "it learns: {:?}", one.losses);
    let mut sizes = vec![2, 4];
    sizes.extend((!is_slow()).then_some(ORDINARY));
    for size in sizes {
        let several = run(size);
        assert_eq!(several.losses, one.losses, "{mesh}, {size} processes: losses");
        assert_eq!(several.regions, one.regions, "{mesh}, {size} processes: state");
        let count = one.regions.len();
        eprintln!("{mesh} {state_layout}: {size} processes give the same bits, in {count} regions");
    }
    let options = train::Options { steps: STEPS, ..train::Options::default() };
    let of_one_host = trained(&mut session(&model(mesh), mesh, state_layout), options);
    near("the program for one host", &of_one_host, &one.losses);
    if is_slow() {
        near("an ordinary process", &run(ORDINARY).losses, &one.losses);
    }
}

/// Checks that losses are equal to rounding.
#[track_caller]
fn near(what: &str, losses: &[f64], of_one: &[f64]) {
    let apart = losses.iter().zip(of_one).map(|(a, b)| (a - b).abs() / a.abs()).fold(0.0, f64::max);
    eprintln!("{what} gives losses at most {apart:.1e} apart");
    assert!(losses.len() == of_one.len() && apart <= 1e-6, "{what}: {losses:?}\n{of_one:?}");
}

/// Copies a folder of checkpoints, and returns the path of the copy.
fn copy(from: &Path, to: &Path) -> String {
    for step in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let to = to.join(step.file_name().unwrap());
        fs::create_dir_all(&to).unwrap();
        for file in fs::read_dir(step).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
    to.display().to_string()
}

#[test]
fn checkpoints_of_two_processes_are_resumed_by_any_number() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let (mesh, state_layout) = ("data=2,expert=2", "*:data");
    let job = |size, steps, checkpoints: &str| Run { size, mesh, state_layout, steps, checkpoints }.run();
    let straight = job(2, 6, &at("straight").display().to_string());
    let first = job(2, 3, &at("first").display().to_string());
    assert_eq!(first.losses, straight.losses[..3]);
    let files = fs::read_dir(at("first").join("step_00000003")).unwrap();
    let files: BTreeSet<String> = files.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let expected = ["00000-00000.safetensors", "00001-00000.safetensors", "COMMIT", "manifest.json"];
    assert_eq!(files, expected.map(str::to_owned).into());
    assert!(straight.texts.iter().any(|line| !line.contains("null")), "{:?}", straight.texts);
    let sizes: &[u32] = if is_slow() { &[1, 4] } else { &[1] };
    for size in sizes.iter().copied() {
        let resumed = job(size, 6, &copy(&at("first"), &at(&format!("by-{size}"))));
        assert_eq!(resumed.losses, straight.losses[3..], "{size} processes: losses");
        assert_eq!(resumed.regions, straight.regions, "{size} processes: state");
        assert_eq!(resumed.texts, straight.texts[3..], "{size} processes: losses by text");
    }
    if !is_slow() {
        return tests::say_skipped("MESH_SLOW=1 also resumes by 4 processes and under another layout");
    }
    let (mesh, state_layout) = ("model=2,expert=2", "*:model");
    let checkpoints = &copy(&at("first"), &at("other-layout"));
    let other = Run { size: 2, mesh, state_layout, steps: 6, checkpoints }.run();
    for (a, b) in other.losses.iter().zip(&straight.losses[3..]) {
        assert!((a - b).abs() <= 1e-4 * b.abs(), "{:?} {:?}", other.losses, straight.losses);
    }
    eprintln!("losses under another layout: {:?}, {:?}", other.losses, &straight.losses[3..]);
}

/// A move by three of four shards has one message, from the first device to the last; the other devices have
/// none.
const SHIFTS: &str = "
module shifts
func f(%x x: f32[a=4]) -> (next: f32[a=4], far: f32[a=4], round: f32[a=4]) {
  %next = shift %x {dim=a, by=1, value=0}
  %far = shift %x {dim=a, by=3, value=0}
  %round = shift %x {dim=a, by=-1, wrap}
  return %next, %far, %round
}
";

#[test]
#[ignore = "the program of a rank, which the other tests start"]
fn shifting_rank() {
    let place = env::var(PLACE).expect("the tests that start ranks set their place");
    let parts: Vec<&str> = place.split(' ').collect();
    let [rank, size, folder] = parts[..] else { panic!("{place}") };
    let (rank, size): (u32, u32) = (rank.parse().unwrap(), size.parse().unwrap());
    let job = join(rank, size, Path::new(folder));
    let own = 4 / size as usize;
    let exchange = Exchange::connect(&job, own, LOOPBACK.into()).unwrap();
    let artefact = artefact_of_text_for_processes(SHIFTS, "data=4", "a:data");
    let mut session = Session::of_process(client(own), artefact, &exchange).unwrap();
    let inputs = [("x".to_owned(), HostTensor::f32(&[4], &[1.0, 2.0, 3.0, 4.0]))].into();
    let outputs = session.call("f", &inputs).and_then(|run| run.wait()).unwrap_or_else(|e| panic!("{e}"));
    let expected =
        [("next", [0.0, 1.0, 2.0, 3.0]), ("far", [0.0, 0.0, 0.0, 1.0]), ("round", [2.0, 3.0, 4.0, 1.0])];
    for (name, values) in expected {
        assert_eq!(outputs[name], HostTensor::f32(&[4], &values), "{name}");
    }
    job.leave(None);
}

#[test]
fn devices_that_receive_no_shard_get_zeros() {
    for size in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        run_ranks("processes::shifting_rank", size, folder.path(), "");
    }
}

#[test]
fn experts_and_data_over_processes() {
    check("data=2,expert=2", "");
}

#[test]
fn model_and_stored_parts_over_processes() {
    check("data=2,model=2", "*:data");
}

#[test]
fn eight_devices_in_two_processes_at_full_size() {
    if !is_slow() {
        return tests::say_skipped("MESH_SLOW=1 trains switch_tiny at full size on 8 devices");
    }
    let (mesh, steps) = ("data=2,expert=4", STEPS_AT_FULL_SIZE);
    let run = |size| Run { size, mesh, state_layout: "*:data", steps, checkpoints: "" }.run();
    let (one, two) = (run(1), run(2));
    assert_eq!(two.losses, one.losses, "losses");
    assert_eq!(two.regions, one.regions, "state");
    eprintln!(
        "8 devices: 2 processes give the same bits as 1, in {} regions: {:?}",
        one.regions.len(),
        one.losses
    );
}

//! Costs of several processes: steps, coordination traffic, the start, and the coordinator of a large job.
//!
//! `step`, `traffic` and `start` run the `meshc` beside this executable on the CPU plugin; they need a folder
//! for a small artefact, which they compile. Processes of one machine share its cores, so `step` measures the
//! exchange of data between processes, and not what hosts of a pod would gain.

use crate::step::cpu_seconds;
use anyhow::{Context, Result, anyhow, bail, ensure};
use job::{
    Coordinator, Job, Limits,
    member::{Contribution, OnLoss},
};
use serde_json::{Value, json};
use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    panic,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const TOKEN: &str = "bench";

/// Runs the measurements named in `words`, all of them if there are none.
pub fn measure(words: &[&str]) -> Result<Value> {
    let is_quick = words.contains(&"--quick");
    let named: Vec<&str> = words.iter().copied().filter(|word| *word != "--quick").collect();
    if let ["clients", address, count, seconds, barriers] = named[..] {
        return clients(address, (count.parse()?, seconds.parse()?, barriers.parse()?));
    }
    let mut result = json!({ "cores": thread::available_parallelism()?.get(), "load_average": load() });
    let all = ["step", "traffic", "start", "coordinator"];
    for name in if named.is_empty() { &all[..] } else { &named } {
        result[*name] = match *name {
            "step" => step(is_quick)?,
            "traffic" => traffic(is_quick)?,
            "start" => start(if is_quick { 4 } else { 16 })?,
            "coordinator" => coordinator(if is_quick { 64 } else { 512 }, if is_quick { 3 } else { 20 })?,
            other => bail!("`bench hosts` measures {}, not `{other}`", all.join(", ")),
        };
        result["load_average_at_the_end"] = load();
    }
    Ok(result)
}

/// Returns the system's load averages over 1, 5 and 15 minutes.
fn load() -> Value {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).filter_map(|n| n.parse::<f64>().ok()).collect()
}

/// A folder with an artefact of a small Switch Transformer, and the `meshc` that runs it.
struct Place {
    dir: tempfile::TempDir,
    meshc: PathBuf,
}

impl Place {
    /// Compiles the model for `mesh` with a batch of `batch` rows.
    fn new(mesh: &str, batch: usize) -> Result<Self> {
        let here = env::current_exe()?;
        let meshc = here.parent().context("an executable is in a folder")?.join("meshc");
        ensure!(meshc.is_file(), "`{}` is missing: run cargo build -p meshc", meshc.display());
        let place = Self { dir: tempfile::tempdir()?, meshc };
        let sizes = ["d_model=32", "d_ff=64", "heads=4", "d_kv=8", "input_length=32", "target_length=16"];
        let batch = format!("batch={batch}");
        let sizes = sizes.into_iter().chain(["layers=1", "experts=16", batch.as_str()]);
        let settings = sizes.flat_map(|size| ["--set", size]);
        let mut command = place.command(&["compile", "switch_tiny", "--mesh", mesh, "--several-hosts"]);
        command.args(["-o", "a"]).args(settings);
        run(&mut command)?;
        Ok(place)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.meshc);
        command.args(words).current_dir(self.dir.path()).stdin(Stdio::null());
        command.env("MESH_JOB_TOKEN", TOKEN).env("MESH_CACHE", self.dir.path().join("cache"));
        // The times of the steps are compared, not their speed.
        command.env("XLA_FLAGS", "--xla_backend_optimization_level=0");
        command
    }

    /// The command that trains and writes the metrics of its steps to `metrics`.
    fn train(&self, steps: usize, metrics: &str, more: &[&str]) -> Command {
        let text = self.dir.path().join("text");
        if !text.exists() {
            // A text that has rows for every step. A failing write is reported by the reader.
            let _ = fs::write(&text, "The quick brown fox jumps over the lazy dog.\n".repeat(20_000));
        }
        let steps = steps.to_string();
        let fixed = ["train", "a", "--data", "text", "--seed", "1", "--steps", &steps, "--metrics", metrics];
        let mut command = self.command(&fixed);
        command.args(more);
        command
    }

    /// Returns the median of `key` over the steps of a metrics file after the first three.
    fn median(&self, metrics: &str, key: &str) -> Result<f64> {
        let text = fs::read_to_string(self.dir.path().join(metrics))?;
        let mut values = Vec::new();
        for line in text.lines().skip(3) {
            let line: Value = serde_json::from_str(line)?;
            values.push(line[key].as_f64().with_context(|| format!("a step has no `{key}`"))?);
        }
        median(&mut values)
    }
}

/// Runs a command to its end; its output is part of the error.
fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Step times of four devices in one process, two and four, over those of an ordinary process. Rounds
/// alternate, because the machine's load changes.
fn step(is_quick: bool) -> Result<Value> {
    let place = Place::new("data=2,expert=2", 8)?;
    let (steps, rounds) = if is_quick { (8, 1) } else { (60, 3) };
    let runs: [(&str, &[&str]); 4] = [
        ("1x4", &[]),
        ("1x4_exchanging", &["--processes", "1"]),
        ("2x2", &["--processes", "2"]),
        ("4x1", &["--processes", "4"]),
    ];
    let mut times = [const { Vec::new() }; 4];
    for round in 0..rounds {
        for ((name, more), times) in runs.iter().zip(&mut times) {
            let metrics = format!("{name}-{round}.jsonl");
            run(&mut place.train(steps, &metrics, more))?;
            times.push(place.median(&metrics, "step_ms")?);
        }
    }
    let mut result = json!({ "model": "switch_tiny, 1 layer, d_model 32", "steps": steps, "rounds": rounds });
    let mut medians = Vec::new();
    for ((name, _), times) in runs.iter().zip(&mut times) {
        medians.push(median(times)?);
        result[*name] = json!({ "step_ms": medians[medians.len() - 1], "all_ms": times,
            "over_1x4": medians[medians.len() - 1] / medians[0] });
    }
    Ok(result)
}

/// Bytes between one host of two and the coordinator: its connection goes through a proxy that counts.
fn traffic(is_quick: bool) -> Result<Value> {
    let place = Place::new("data=2,expert=2", 8)?;
    let steps = if is_quick { 20 } else { 300 };
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let proxy = Proxy::start(&free)?;
    let host = |rank: &str, coordinator: &str| {
        let flags = ["--hosts", "2", "--rank", rank, "--coordinator", coordinator];
        place.train(steps, "m.jsonl", &flags).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    let mut hosts = Running(vec![host("0", &free)?, host("1", &proxy.address)?]);
    let metrics = place.dir.path().join("m.jsonl");
    hosts.wait_for_lines(&metrics, 3)?;
    let (from, begin) = (proxy.bytes(), Instant::now());
    let before = count_lines(&metrics);
    hosts.wait_for_lines(&metrics, steps)?;
    let (to, seconds) = (proxy.bytes(), begin.elapsed().as_secs_f64());
    hosts.wait()?;
    let counted = (steps - before) as f64;
    let (sent, received) = ((to[0] - from[0]) as f64, (to[1] - from[1]) as f64);
    Ok(json!({
        "steps": steps - before, "seconds": seconds, "step_ms": seconds * 1e3 / counted,
        "sent_per_step": sent / counted, "received_per_step": received / counted,
        "sent_per_second": sent / seconds, "received_per_second": received / seconds,
        "at_the_start": { "sent": from[0], "received": from[1] },
    }))
}

/// Time from the start of `meshc train --processes` to the end of step 1, without a cache of executables and
/// with one.
fn start(processes: usize) -> Result<Value> {
    let place = Place::new(&format!("data={processes}"), processes)?;
    let count = processes.to_string();
    let mut times = Vec::new();
    for metrics in ["cold.jsonl", "warm.jsonl"] {
        let begin = Instant::now();
        let mut command = place.train(1, metrics, &["--processes", &count, "--join-within", "600"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut processes = Running(vec![child]);
        processes.wait_for_lines(&place.dir.path().join(metrics), 1)?;
        times.push(begin.elapsed().as_secs_f64());
        processes.wait()?;
    }
    Ok(json!({ "processes": processes, "cold_s": times[0], "warm_s": times[1] }))
}

fn count_lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// Processes that are ended when this is dropped.
struct Running(Vec<Child>);

/// Longest time for the next line of a file of metrics, and for the processes to end after the last one.
const NEXT_LINE: Duration = Duration::from_secs(600);

impl Running {
    /// Waits until a file has `wanted` lines. Fails if a process fails, or if no line is added for long.
    fn wait_for_lines(&mut self, path: &Path, wanted: usize) -> Result<()> {
        let (mut lines, mut since) = (0, Instant::now());
        while lines < wanted {
            self.all_ended()?;
            let found = count_lines(path);
            if found > lines {
                (lines, since) = (found, Instant::now());
            }
            let file = path.display();
            ensure!(since.elapsed() < NEXT_LINE, "`{file}` has {lines} lines, and no more for {NEXT_LINE:?}");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits until all processes have ended.
    fn wait(&mut self) -> Result<()> {
        let begin = Instant::now();
        while !self.all_ended()? {
            ensure!(begin.elapsed() < NEXT_LINE, "a process has not ended {NEXT_LINE:?} after its last step");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Returns true if all processes have ended. Fails if one has failed.
    fn all_ended(&mut self) -> Result<bool> {
        let mut all = true;
        for process in &mut self.0 {
            match process.try_wait()? {
                Some(status) => ensure!(status.success(), "a process failed: {status}"),
                None => all = false,
            }
        }
        Ok(all)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // Those that have ended need no end.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A proxy of one server that counts the bytes of both directions.
struct Proxy {
    address: String,
    /// From clients, and to clients.
    bytes: Arc<[AtomicU64; 2]>,
}

impl Proxy {
    fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let bytes: Arc<[AtomicU64; 2]> = Arc::default();
        let (server, counted) = (server.to_owned(), bytes.clone());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A server that does not listen yet closes the connection, and the client tries again.
                let Ok(upstream) = TcpStream::connect(&server) else { continue };
                let pairs = [(&client, &upstream), (&upstream, &client)];
                for (direction, (from, to)) in pairs.into_iter().enumerate() {
                    if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
                        let counted = counted.clone();
                        thread::spawn(move || copy(from, to, &counted[direction]));
                    }
                }
            }
        });
        Ok(Self { address, bytes })
    }

    fn bytes(&self) -> [u64; 2] {
        [0, 1].map(|direction| self.bytes[direction].load(Ordering::Relaxed))
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, counted: &AtomicU64) {
    let mut buffer = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        counted.fetch_add(n as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // The other direction may have closed both already.
    let _ = to.shutdown(Shutdown::Both);
}

/// Deadlines of the simulated clients: each call of a client ends within two of them.
fn limits_of_clients() -> Limits {
    let limit = Duration::from_secs(60);
    Limits { join: limit, dead_after: limit, ..Limits::default() }
}

/// CPU and latency of the coordinator of a job with `count` clients, all in another process.
fn coordinator(count: usize, seconds: u64) -> Result<Value> {
    let any = "127.0.0.1:0".parse().context("a constant address")?;
    let coordinator = Coordinator::serve(any, count, TOKEN, limits_of_clients())?;
    let barriers = 20;
    let words =
        [coordinator.address().to_string(), count.to_string(), seconds.to_string(), barriers.to_string()];
    let mut command = Command::new(env::current_exe()?);
    let mut child = command.args(["hosts", "clients"]).args(words).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("the output is a pipe")?);
    // The clients write a line when they have joined, after the time of heartbeats, and after the barriers.
    // They end, and with them this output, when one of them fails.
    let mut marks = Vec::new();
    for _ in 0..3 {
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the clients ended early: {}", child.wait()?);
        marks.push((Instant::now(), cpu_seconds()));
    }
    let mut rest = String::new();
    output.read_to_string(&mut rest)?;
    ensure!(child.wait()?.success(), "the clients failed");
    let mut result: Value = serde_json::from_str(&rest)?;
    let percent = |a: usize, b: usize| {
        let wall = marks[b].0.duration_since(marks[a].0).as_secs_f64();
        (marks[b].1 - marks[a].1) / wall * 100.0
    };
    result["clients"] = count.into();
    result["heartbeats_cpu_percent_of_a_core"] = percent(0, 1).into();
    result["barriers_cpu_ms_each"] = ((marks[2].1 - marks[1].1) * 1e3 / f64::from(barriers)).into();
    Ok(result)
}

/// Joins `count` clients, which send heartbeats for some seconds and then meet at barriers.
fn clients(address: &str, (count, seconds, barriers): (u32, u64, u32)) -> Result<Value> {
    let begin = Instant::now();
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        end_clients("a client panicked");
    }));
    let gate = Arc::new(Gate::new(count as usize + 1, Duration::from_secs(seconds + 180)));
    let threads: Vec<_> = (0..count)
        .map(|rank| {
            let (address, gate) = (address.to_owned(), gate.clone());
            let client = move || {
                let times = client(&address, (rank, count), barriers, &gate);
                // The other clients wait for this one.
                times.unwrap_or_else(|error| end_clients(&format!("rank {rank}: {error}")))
            };
            thread::Builder::new().stack_size(256 << 10).spawn(client)
        })
        .collect::<Result<_, _>>()?;
    let main = count as usize;
    gate.wait(main);
    let joined = begin.elapsed().as_secs_f64();
    println!("joined");
    thread::sleep(Duration::from_secs(seconds));
    println!("heartbeats");
    gate.wait(main);
    gate.wait(main);
    println!("barriers");
    let mut times = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| anyhow!("a client panicked"))?);
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    Ok(json!({
        "join_s": joined, "heartbeat_seconds": seconds, "barriers": barriers,
        "barrier_ms": median(&mut times)?, "worst_barrier_ms": worst,
    }))
}

/// One client. It waits at `gate` when it has joined, before the barriers and after them, and returns the
/// time of each barrier in ms.
fn client(address: &str, place: (u32, u32), barriers: u32, gate: &Gate) -> Result<Vec<f64>, job::Error> {
    let lost: OnLoss = Box::new(|loss| end_clients(&format!("rank {} is lost: {}", loss.rank, loss.reason)));
    let job = Job::join(address, place, TOKEN, limits_of_clients(), None, lost)?;
    let rank = place.0 as usize;
    gate.wait(rank);
    gate.wait(rank);
    let mut times = Vec::new();
    for number in 0..barriers {
        let begin = Instant::now();
        let name = format!("barrier {number}");
        job.meet(&name, Contribution::default(), limits_of_clients().join)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    gate.wait(rank);
    job.leave(None);
    Ok(times)
}

/// A point that threads pass together. It ends the process if one does not come in time.
struct Gate {
    /// The number of times that each thread has come.
    times: Mutex<Vec<u32>>,
    come: Condvar,
    limit: Duration,
}

impl Gate {
    fn new(threads: usize, limit: Duration) -> Self {
        Self { times: Mutex::new(vec![0; threads]), come: Condvar::new(), limit }
    }

    fn wait(&self, thread: usize) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        times[thread] += 1;
        let round = times[thread];
        let is_incomplete = |times: &mut Vec<u32>| times.iter().any(|others| *others < round);
        if !is_incomplete(&mut times) {
            self.come.notify_all();
            return;
        }
        let waited = self.come.wait_timeout_while(times, self.limit, is_incomplete);
        let (times, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let absent: Vec<usize> = (0..times.len()).filter(|thread| times[*thread] < round).collect();
            end_clients(&format!("{absent:?} did not come within {:?}, for the {round}. time", self.limit));
        }
    }
}

/// Ends the process of all clients.
fn end_clients(reason: &str) -> ! {
    eprintln!("error: {reason}");
    process::exit(1)
}

fn median(values: &mut [f64]) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().context("there are no values")
}

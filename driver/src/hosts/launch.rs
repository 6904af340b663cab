//! Starts the processes of `--processes`, follows them, and starts them again after a loss.

use super::{member::TOKEN, options::HostOptions};
use crate::failure::failure;
use anyhow::{Context, Result};
use job::{discover::launched, member::RESTART_CODE};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    env,
    fs::{self, File},
    io::{ErrorKind, Read},
    os::{
        fd::OwnedFd,
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Interval at which the processes are observed.
const POLL: Duration = Duration::from_millis(20);
/// Time in addition to `--dead-after` in which the remaining processes end by themselves after a loss.
const GRACE: Duration = Duration::from_secs(5);

/// Returns the number of processes to start. `None` if this process is to train by itself, or was started by
/// another one that counts.
pub fn wanted(options: &HostOptions) -> Option<usize> {
    options.processes.filter(|_| env::var_os(launched::RANK).is_none())
}

/// Ends this process when the one that started it ends, however that happens: standard input is a connection
/// of which only that process has the other end.
pub fn follow_launcher(say: fn(&str)) {
    if env::var_os(launched::RANK).is_none() {
        return;
    }
    thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        let mut buffer = [0; 64];
        while input.read(&mut buffer).is_ok_and(|n| n > 0) {}
        say("error: the process that started this one has ended");
        signal_hook::low_level::exit(1);
    });
}

/// Runs `size` processes with the arguments of this one, and returns the exit code of the job: 0, or that of
/// the first process that failed. Output of ranks above 0 goes to files in `logs`. `stop` requests a stop.
///
/// # Errors
/// The processes cannot be started.
pub fn run(
    options: &HostOptions,
    size: usize,
    resumes: bool,
    logs: &Path,
    stop: &AtomicBool,
    say: fn(&str),
) -> Result<ExitCode> {
    fs::create_dir_all(logs).with_context(|| format!("creating the folder `{}`", logs.display()))?;
    let mut restarts = options.restarts;
    let mut resume = false;
    loop {
        let mut processes = start(size, logs, resume && !resumes, stop)?;
        let failed = follow(&mut processes, options.limits.dead_after + GRACE, stop);
        let Some((rank, status)) = failed else { return Ok(ExitCode::SUCCESS) };
        let code = code_of(status);
        let is_stop = stop.load(Ordering::Relaxed);
        if !is_stop {
            say(&format!("error: {}", told(rank, status, logs)));
        }
        // Cluster managers restart the same codes.
        let is_lost = code >= 128 || i32::from(code) == RESTART_CODE;
        if is_stop || !is_lost || restarts == 0 {
            return Ok(ExitCode::from(code));
        }
        restarts -= 1;
        resume = true;
        say(&format!(
            "starting all {size} processes again from the newest checkpoint; {restarts} restarts remain"
        ));
    }
}

/// Returns the folder of the processes' logs: in the run's folder, else a new temporary one.
///
/// # Errors
/// No folder can be created.
pub fn logs(run: Option<&Path>) -> Result<PathBuf> {
    match run {
        Some(run) => Ok(run.join("logs")),
        None => Ok(tempfile::Builder::new().prefix("meshc-logs-").tempdir()?.keep()),
    }
}

/// A process of the job.
struct Process {
    child: Child,
    status: Option<ExitStatus>,
    /// The other end of the process's standard input.
    link: UnixStream,
}

impl Process {
    /// Returns the address that rank 0 writes to its standard input, on one line. `None` if it ends, or if a
    /// stop is requested, before that.
    fn address(&self, stop: &AtomicBool) -> Result<Option<String>> {
        let mut told = String::new();
        let mut buffer = [0; 64];
        self.link.set_read_timeout(Some(POLL)).context("connecting to rank 0")?;
        while !stop.load(Ordering::Relaxed) {
            match (&self.link).read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(read) => told += &String::from_utf8_lossy(&buffer[..read]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e).context("reading the address of rank 0"),
            }
            if let Some(address) = told.strip_suffix('\n') {
                return Ok(Some(address.to_owned()));
            }
        }
        Ok(None)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Some(pid), None) = (pid, self.status) {
            // It may have ended since it was last observed: its number is not reused before it is waited for.
            let _ = kill_process(pid, signal);
        }
    }
}

/// All processes. Those that remain are ended when this is dropped.
struct Processes(Vec<Process>);

impl Drop for Processes {
    fn drop(&mut self) {
        for process in &mut self.0 {
            if process.status.is_none() {
                let _ = process.child.kill();
                let _ = process.child.wait();
            }
        }
    }
}

/// Starts all processes. Rank 0 binds a free port and says which, and the others are started with it. If rank
/// 0 ends before that, or a stop is requested, it remains the only process.
fn start(size: usize, logs: &Path, resume: bool, stop: &AtomicBool) -> Result<Processes> {
    let mut coordinator = "127.0.0.1:0".to_owned();
    let token = env::var(TOKEN).unwrap_or_else(|_| secret());
    let this = env::current_exe().context("finding the executable of this process")?;
    let mut processes = Processes(Vec::new());
    for rank in 0..size {
        let mut command = Command::new(&this);
        command.args(env::args_os().skip(1)).args(resume.then_some("--resume"));
        command.env(launched::RANK, rank.to_string()).env(launched::SIZE, size.to_string());
        command.env(launched::COORDINATOR, &coordinator).env(TOKEN, &token);
        let (link, other_end) = UnixStream::pair().context("connecting to a process")?;
        command.stdin(OwnedFd::from(other_end));
        if rank > 0 {
            let path = log(logs, rank);
            let open = || File::options().create(true).append(true).open(&path);
            let file = open().with_context(|| format!("opening the log `{}`", path.display()))?;
            command.stdout(file.try_clone()?).stderr(file);
        }
        // A Ctrl-C of the terminal reaches this process only, which passes it on.
        command.process_group(0);
        let child = command.spawn().map_err(|e| {
            failure(format!("process {rank} of {size} cannot be started: {e}"), "use fewer --processes")
        })?;
        // Closes the other end here, so that only the process has it.
        drop(command);
        processes.0.push(Process { child, status: None, link });
        if let [first] = &processes.0[..] {
            let Some(address) = first.address(stop)? else { break };
            coordinator = address;
        }
    }
    Ok(processes)
}

fn log(logs: &Path, rank: usize) -> PathBuf {
    logs.join(format!("rank-{rank}.log"))
}

/// Waits for all processes, and passes signals on to them. Returns the rank and the status of the first one
/// that failed, other than by the loss of another. If some remain longer than `grace` after a failure, they
/// are ended.
fn follow(processes: &mut Processes, grace: Duration, stop: &AtomicBool) -> Option<(usize, ExitStatus)> {
    let mut failed: Option<(usize, ExitStatus)> = None;
    let mut since: Option<Instant> = None;
    let (mut terminated, mut passed_on) = (false, false);
    loop {
        for (rank, process) in processes.0.iter_mut().enumerate() {
            if process.status.is_none()
                && let Ok(Some(status)) = process.child.try_wait()
            {
                process.status = Some(status);
                let is_cause = status.code() != Some(RESTART_CODE);
                let known = failed.is_some_and(|(_, status)| status.code() != Some(RESTART_CODE));
                if !status.success() && (failed.is_none() || is_cause && !known) {
                    failed = Some((rank, status));
                    since.get_or_insert_with(Instant::now);
                }
            }
        }
        if processes.0.iter().all(|process| process.status.is_some()) {
            return failed;
        }
        if stop.load(Ordering::Relaxed) && !passed_on {
            passed_on = true;
            processes.0.iter().for_each(|process| process.signal(Signal::TERM));
        }
        if let Some(late) = since.map(|since| since.elapsed()) {
            if late > grace + GRACE {
                processes.0.iter().for_each(|process| process.signal(Signal::KILL));
            } else if late > grace && !terminated {
                terminated = true;
                processes.0.iter().for_each(|process| process.signal(Signal::TERM));
            }
        }
        thread::sleep(POLL);
    }
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// Says how a process ended, with the last line of its log.
fn told(rank: usize, status: ExitStatus, logs: &Path) -> String {
    let how = match status.signal() {
        Some(signal) => format!("was ended by signal {signal}"),
        None => format!("failed with exit code {}", status.code().unwrap_or(1)),
    };
    if rank == 0 {
        return format!("rank 0 {how}");
    }
    let path = log(logs, rank);
    let text = fs::read_to_string(&path).unwrap_or_default();
    let reason = text.lines().rev().find(|line| line.starts_with("error:")).unwrap_or_default();
    let reason = reason.trim_start_matches("error:").trim();
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("rank {rank} {how}{reason} (its output is in {})", path.display())
}

/// A random token.
fn secret() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // The standard library's hashers are seeded by the system's random numbers.
    let part = || format!("{:016x}", RandomState::new().build_hasher().finish());
    format!("{}{}", part(), part())
}

//! One process of a job: the client of the coordinator, with blocking calls.

use crate::{
    Coordinator, Error, Limits, Result,
    error::describe,
    wire::{TOKEN, coordinator_client::CoordinatorClient},
};
use proto::{
    Message,
    job::{
        Difference, Failure, GetRequest, Heartbeat, JoinRequest, LeaveRequest, Loss, MeetRequest, Member,
        Orders, PutRequest,
    },
};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{runtime::Runtime, sync::Notify};
use tokio_stream::StreamExt;
use tonic::{
    Code, Request, Status,
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// Called once when a rank is lost, on a separate thread, while the rest of the process may be blocked in a
/// plugin. The usual one prints the loss and ends the process.
pub type OnLoss = Box<dyn FnOnce(&Loss) + Send>;

/// A process's place in its job, and its connection to the others. A job of one process needs no connection.
pub struct Job {
    rank: u32,
    size: u32,
    members: Vec<Member>,
    link: Option<Link>,
}

/// Result of a barrier.
#[derive(Clone, PartialEq, Debug)]
pub struct Meeting {
    /// The ranks' bytes, by rank.
    pub payloads: Vec<Vec<u8>>,
    /// Failures and differences that the ranks reported.
    pub verdict: Verdict,
}

/// Failures and differences reported at a barrier.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Verdict {
    /// Failures of single ranks.
    pub failures: Vec<Failure>,
    /// Facts that are not equal on all ranks.
    pub differences: Vec<Difference>,
}

impl Verdict {
    /// True if no rank failed and all facts are equal.
    pub fn is_ok(&self) -> bool {
        self.failures.is_empty() && self.differences.is_empty()
    }
}

impl Verdict {
    /// Returns what the ranks disagree on, with ranks, hosts and values. `None` if no rank failed and all
    /// facts are equal. `help` says what to do about a difference.
    pub fn refusal(&self, members: &[Member], help: &str) -> Option<String> {
        if let Some(Failure { rank, host, message }) = self.failures.first() {
            let others = match self.failures.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            return Some(format!("rank {rank} ({host}) failed{others}: {message}"));
        }
        if self.differences.is_empty() {
            return None;
        }
        let lines: String = self.differences.iter().map(|d| format!("\n  {}", words(members, d))).collect();
        Some(format!("the processes of this job differ:{lines}\n  help: {help}"))
    }
}

/// Returns the values of a fact with their ranks and hosts.
fn words(members: &[Member], difference: &Difference) -> String {
    let host = |rank: &u32| {
        let found = members.iter().find(|member| member.rank == *rank);
        found.map_or(String::new(), |member| format!(" ({})", member.host))
    };
    let values = difference.values.iter().map(|holders| {
        let shown = holders.ranks.iter().take(4).map(|rank| format!("{rank}{}", host(rank)));
        let mut ranks = shown.collect::<Vec<_>>().join(", ");
        if holders.ranks.len() > 4 {
            ranks += &format!(" and {} more", holders.ranks.len() - 4);
        }
        let value = if holders.value.is_empty() { "none" } else { &holders.value };
        let word = if holders.ranks.len() == 1 { "rank" } else { "ranks" };
        format!("{value} on {word} {ranks}")
    });
    format!("{}: {}", difference.key, values.collect::<Vec<_>>().join("; "))
}

/// A rank's contribution to a barrier.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Contribution {
    /// Failure of this rank, as a message.
    pub failure: Option<String>,
    /// Facts that must be equal on all ranks.
    pub equal: BTreeMap<String, String>,
    /// Bytes for the other ranks.
    pub payload: Vec<u8>,
}

impl Job {
    /// A job of one process.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, members: Vec::new(), link: None }
    }

    /// Connects to the coordinator at `address` (`HOST:PORT`), retrying until the join deadline, and waits
    /// for the other ranks. `coordinator` is the running service on rank 0, kept as long as the job.
    ///
    /// # Errors
    /// [`Error::Connection`] if nobody answers, [`Error::Lost`] if rank 0 was there and is gone,
    /// [`Error::Refused`] for a wrong token, a rank that is taken or a size that differs, [`Error::Deadline`]
    /// with the ranks that are missing.
    pub fn join(
        address: &str,
        place: (u32, u32),
        token: &str,
        limits: Limits,
        coordinator: Option<Coordinator>,
        on_loss: OnLoss,
    ) -> Result<Self> {
        let (rank, size) = place;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("job-member")
            .enable_all()
            .build()
            .map_err(|error| Error::Connection(format!("no threads for the job: {error}")))?;
        let token = token
            .parse::<AsciiMetadataValue>()
            .map_err(|_| Error::Place("MESH_JOB_TOKEN must consist of printable ASCII characters".into()))?;
        let client = runtime.block_on(connect(address, rank, token, &limits))?;
        let request = JoinRequest {
            rank,
            size,
            host: host_name(),
            pid: std::process::id(),
            unix_ms: unix_ms(),
            incarnation: incarnation(),
        };
        let mut first = client.clone();
        let wait = limits.join + limits.dead_after;
        let joined = runtime.block_on(async move { with_deadline(wait, first.join(request)).await });
        let members = match joined {
            Ok(reply) => reply.into_inner().members,
            Err(status) => {
                coordinator.iter().for_each(|own| own.wait_for_refusals(limits.dead_after));
                return Err(lost_in_join(error(&status), rank, address));
            }
        };
        let report = Arc::new(Shared::new(rank));
        runtime.spawn(heartbeats(client.clone(), report.clone(), limits.clone(), members.clone(), on_loss));
        let link = Link { client, report, limits, runtime: Some(runtime), coordinator };
        Ok(Self { rank, size, members, link: Some(link) })
    }

    /// The rank, below [`Job::size`].
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// The number of processes.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// True for the process that writes what exists once: metrics, pages, the checkpoint's commit.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// All members by rank; empty for a job of one process.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The deadlines and sizes.
    pub fn limits(&self) -> Limits {
        self.link.as_ref().map_or_else(Limits::default, |link| link.limits.clone())
    }

    /// Says which phase the process enters, such as `compile`, `step`, `save` or `evaluate`, and at which
    /// step. The coordinator hears of another phase at once, and of another step with the next heartbeat.
    pub fn enter(&self, phase: &str, step: u64) {
        let Some(link) = &self.link else { return };
        if link.report().enter(phase, step) {
            link.report.beat_now.notify_one();
        }
    }

    /// Notes the wall time of a finished step, and the part of it in which this process waited for others.
    pub fn step_took(&self, wall: Duration, waited: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        if let Some(link) = &self.link {
            let mut report = link.report();
            report.beat.step_micros = micros(wall);
            report.beat.own_micros = micros(wall.saturating_sub(waited));
        }
    }

    /// Asks all ranks to stop: after a signal.
    pub fn request_stop(&self) {
        if let Some(link) = &self.link {
            link.report().beat.stop = true;
            link.report.beat_now.notify_one();
        }
    }

    /// A point at which all ranks can stop together, such as the end of a step. Every rank passes the same
    /// boundaries in the same order. Returns true from the agreed boundary on.
    ///
    /// Returns at once until a rank was asked to stop. Then every rank waits here until all have reported how
    /// many boundaries they have passed; the next one after the largest of these numbers is the agreed one.
    /// A rank reports from a separate thread while its work goes on, so that no rank waits for work of
    /// another one.
    ///
    /// # Errors
    /// [`Error::Deadline`] if there is no agreement, which only a lost rank can prevent.
    pub fn boundary(&self) -> Result<bool> {
        let Some(link) = &self.link else { return Ok(false) };
        let limit = link.limits.dead_after * 2;
        let undecided = |report: &mut Report| report.beat.held && report.orders.stop_at == 0;
        let waited = link.report.decided.wait_timeout_while(link.report(), limit, undecided);
        let (mut report, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return Err(Error::Deadline(format!(
                "the ranks did not agree within {:.1} s at which step to stop",
                limit.as_secs_f64()
            )));
        }
        report.beat.boundary += 1;
        let stop_at = report.orders.stop_at;
        Ok(stop_at > 0 && report.beat.boundary >= stop_at)
    }

    /// The latest orders: the slowest rank and the median step time.
    pub fn orders(&self) -> Orders {
        self.link.as_ref().map(|link| link.report().orders.clone()).unwrap_or_default()
    }

    /// A barrier: waits at most `limit` for all ranks to call it with the same name, which is used once.
    ///
    /// # Errors
    /// [`Error::Deadline`] with the ranks that did not come, [`Error::Lost`] when a rank is lost.
    pub fn meet(&self, name: &str, here: Contribution, limit: Duration) -> Result<Meeting> {
        let Some(link) = &self.link else {
            let failures =
                here.failure.into_iter().map(|message| Failure { rank: 0, host: host_name(), message });
            let verdict = Verdict { failures: failures.collect(), differences: Vec::new() };
            return Ok(Meeting { payloads: vec![here.payload], verdict });
        };
        let request = MeetRequest {
            rank: self.rank,
            name: name.to_owned(),
            wait_ms: millis(limit),
            failure: here.failure.unwrap_or_default(),
            equal: here.equal,
            payload: here.payload,
        };
        let wait = limit + link.limits.dead_after;
        let reply = link.call(wait, |mut client| async move { client.meet(request).await })?;
        let verdict = Verdict { failures: reply.failures, differences: reply.differences };
        Ok(Meeting { payloads: reply.payloads, verdict })
    }

    /// Stores a value under a key that has none.
    ///
    /// # Errors
    /// [`Error::Refused`] if the key has another value or the store is full.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let Some(link) = &self.link else { return Ok(()) };
        let request = PutRequest { key: key.to_vec(), value: value.to_vec() };
        let wait = link.limits.dead_after;
        link.call(wait, |mut client| async move { client.put(request).await }).map(drop)
    }

    /// The value under a key, waiting for it at most `limit`. `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Lost`] when a rank is lost.
    pub fn get(&self, key: &[u8], limit: Duration) -> Result<Option<Vec<u8>>> {
        let Some(link) = &self.link else { return Ok(None) };
        let request = GetRequest { key: key.to_vec(), wait_ms: millis(limit) };
        let wait = limit + link.limits.dead_after;
        match link.try_call(wait, |mut client| async move { client.get(request).await }) {
            Ok(reply) => Ok(Some(reply.value)),
            Err(status) if matches!(status.code(), Code::NotFound | Code::DeadlineExceeded) => Ok(None),
            Err(status) => Err(error(&status)),
        }
    }

    /// Ends this process's part. With a failure all other ranks end too, and name it.
    /// Later calls have no effect.
    pub fn leave(&self, failure: Option<&str>) {
        let Some(link) = &self.link else { return };
        if std::mem::replace(&mut link.report().leaving, true) {
            return;
        }
        let request = LeaveRequest { rank: self.rank, failure: failure.unwrap_or_default().to_owned() };
        let wait = link.limits.dead_after;
        // A coordinator that is gone needs no goodbye message.
        let _ = link.call(wait, |mut client| async move { client.leave(request).await });
        if let Some(coordinator) = &link.coordinator {
            coordinator.wait_for_all(link.limits.dead_after);
        }
    }
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

/// The connection to the coordinator.
struct Link {
    client: Client,
    report: Arc<Shared>,
    limits: Limits,
    /// Owns the heartbeats: they end with it.
    runtime: Option<Runtime>,
    /// On rank 0.
    coordinator: Option<Coordinator>,
}

impl Link {
    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock()
    }

    fn call<T, F>(&self, wait: Duration, make: impl FnOnce(Client) -> F) -> Result<T>
    where
        F: Future<Output = std::result::Result<tonic::Response<T>, Status>>,
    {
        self.try_call(wait, make).map_err(|status| error(&status))
    }

    fn try_call<T, F>(&self, wait: Duration, make: impl FnOnce(Client) -> F) -> std::result::Result<T, Status>
    where
        F: Future<Output = std::result::Result<tonic::Response<T>, Status>>,
    {
        let runtime = self.runtime.as_ref().expect("the runtime lives until the link is dropped");
        let call = make(self.client.clone());
        runtime.block_on(async move { with_deadline(wait, call).await }).map(tonic::Response::into_inner)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The heartbeats may still see the connection close.
        self.report().leaving = true;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The report, shared by the process and its heartbeats.
struct Shared {
    report: Mutex<Report>,
    /// Notified when the agreed boundary is known.
    decided: Condvar,
    /// Asks for a heartbeat before the next is due.
    beat_now: Notify,
}

impl Shared {
    fn new(rank: u32) -> Self {
        Self { report: Mutex::new(Report::new(rank)), decided: Condvar::new(), beat_now: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes orders. Returns the loss, if they name one.
    fn take(&self, orders: Orders) -> Option<Loss> {
        let mut report = self.lock();
        let loss = orders.loss.clone();
        if orders.stop && !report.beat.held {
            report.beat.held = true;
            self.beat_now.notify_one();
        }
        report.orders = orders;
        if report.orders.stop_at > 0 {
            self.decided.notify_all();
        }
        loss
    }
}

/// The next heartbeat's content and the last orders.
struct Report {
    beat: Heartbeat,
    since: Instant,
    orders: Orders,
    leaving: bool,
}

impl Report {
    fn new(rank: u32) -> Self {
        let beat = Heartbeat { rank, phase: "start".into(), ..Heartbeat::default() };
        Self { beat, since: Instant::now(), orders: Orders::default(), leaving: false }
    }

    /// Returns true if the phase is another one than before.
    fn enter(&mut self, phase: &str, step: u64) -> bool {
        self.since = Instant::now();
        self.beat.step = step;
        let is_new = self.beat.phase != phase;
        if is_new {
            phase.clone_into(&mut self.beat.phase);
        }
        is_new
    }

    fn next(&self) -> Heartbeat {
        Heartbeat { since_ms: millis(self.since.elapsed()), ..self.beat.clone() }
    }
}

type Client = CoordinatorClient<InterceptedService<Channel, WithToken>>;

/// Adds the job's token to every call.
#[derive(Clone)]
struct WithToken(AsciiMetadataValue);

impl Interceptor for WithToken {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        request.metadata_mut().insert(TOKEN, self.0.clone());
        Ok(request)
    }
}

/// Returns the error of a join that ended early. If the coordinator was there and is gone, rank 0 is lost.
fn lost_in_join(error: Error, rank: u32, address: &str) -> Error {
    match error {
        Error::Connection(reason) if rank > 0 => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_owned();
            let reason = reason.trim_start_matches("the job's coordinator: ");
            let reason = format!("its coordinator does not answer: {reason}");
            Error::Lost(Loss { rank: 0, host, phase: "join".into(), step: 0, reason })
        }
        other @ (Error::Connection(_)
        | Error::Place(_)
        | Error::Refused(_)
        | Error::Deadline(_)
        | Error::Lost(_)) => other,
    }
}

/// Connects, retrying until the join deadline: rank 0 may start last.
async fn connect(address: &str, rank: u32, token: AsciiMetadataValue, limits: &Limits) -> Result<Client> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Error::Place(format!("coordinator `{address}` is not HOST:PORT: {error}")))?
        .connect_timeout(limits.dead_after)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(limits.heartbeat * 2)
        .keep_alive_timeout(limits.dead_after)
        .keep_alive_while_idle(true);
    let deadline = Instant::now() + limits.join;
    let mut pause = Duration::from_millis(50);
    let channel = loop {
        match endpoint.connect().await {
            Ok(channel) => break channel,
            Err(error) if Instant::now() + pause >= deadline => {
                let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                return Err(Error::Connection(format!(
                    "rank {rank} cannot reach the coordinator at {address} within {} s: {cause}; rank 0 must be \
                     running there and the port open between the hosts",
                    limits.join.as_secs()
                )));
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_secs(2));
    };
    let bytes = limits.message_bytes.saturating_mul(1024);
    Ok(CoordinatorClient::with_interceptor(channel, WithToken(token)).max_decoding_message_size(bytes))
}

/// Sends heartbeats and takes orders until the job ends. The end of the stream without orders means that
/// rank 0 is lost.
async fn heartbeats(
    mut client: Client,
    shared: Arc<Shared>,
    limits: Limits,
    members: Vec<Member>,
    on_loss: OnLoss,
) {
    let (send, beats) = tokio::sync::mpsc::channel(4);
    tokio::spawn(send_beats(shared.clone(), limits.heartbeat, send));
    let beats = tokio_stream::wrappers::ReceiverStream::new(beats);
    let reason = match with_deadline(limits.dead_after, client.watch(beats)).await {
        Err(status) => format!("its coordinator does not answer: {}", status.message()),
        Ok(orders) => {
            let mut orders = orders.into_inner();
            loop {
                match tokio::time::timeout(limits.dead_after, orders.next()).await {
                    Ok(Some(Ok(orders))) => {
                        if let Some(loss) = shared.take(orders) {
                            if !shared.lock().leaving {
                                lost(loss, on_loss);
                            }
                            return;
                        }
                    }
                    Ok(Some(Err(_)) | None) => break String::from("its connection closed"),
                    Err(_) => break format!("no orders for {:.1} s", limits.dead_after.as_secs_f64()),
                }
            }
        }
    };
    let report = shared.lock();
    if report.leaving {
        return;
    }
    let (phase, step) = (report.orders.first_phase.clone(), report.orders.first_step);
    drop(report);
    let host = members.first().map_or(String::new(), |member| member.host.clone());
    lost(Loss { rank: 0, host, phase, step, reason }, on_loss);
}

/// Sends a heartbeat at every interval, and when one is asked for.
async fn send_beats(shared: Arc<Shared>, interval: Duration, send: tokio::sync::mpsc::Sender<Heartbeat>) {
    let mut every = tokio::time::interval(interval);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = shared.beat_now.notified() => {}
        }
        let beat = shared.lock().next();
        if send.send(beat).await.is_err() {
            return;
        }
    }
}

/// Calls the handler on a separate thread: it may block or end the process.
fn lost(loss: Loss, on_loss: OnLoss) {
    let named = std::thread::Builder::new().name("job-loss".into());
    if let Err(error) = named.spawn(move || on_loss(&loss)) {
        eprintln!("error: a rank is lost, and no thread could be started to end the job: {error}");
        std::process::abort();
    }
}

async fn with_deadline<T>(
    limit: Duration,
    call: impl Future<Output = std::result::Result<T, Status>>,
) -> std::result::Result<T, Status> {
    let late =
        || Status::unavailable(format!("the coordinator did not answer within {:.1} s", limit.as_secs_f64()));
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(late()))
}

fn error(status: &Status) -> Error {
    let message = status.message().to_owned();
    match status.code() {
        Code::Aborted => match Loss::decode(status.details()) {
            Ok(loss) => Error::Lost(loss),
            Err(_) => Error::Connection(message),
        },
        Code::DeadlineExceeded => Error::Deadline(message),
        Code::InvalidArgument | Code::Unauthenticated | Code::ResourceExhausted | Code::OutOfRange => {
            Error::Refused(message)
        }
        _ => Error::Connection(format!("the job's coordinator: {message}")),
    }
}

/// Prints a loss and ends the process with [`RESTART_CODE`].
pub fn end_process(loss: &Loss) {
    eprintln!("error: {}", describe(loss));
    std::process::exit(RESTART_CODE);
}

/// The exit code of a process that ends because another rank is lost: GKE's JobSets and the launcher start
/// the job again for it.
pub const RESTART_CODE: i32 = 42;

/// The address of `HOST:PORT` on this machine, for [`Coordinator::serve`].
///
/// # Errors
/// [`Error::Place`] if the name has no address.
pub fn resolve(address: &str) -> Result<SocketAddr> {
    let found = address.to_socket_addrs().map(|mut all| all.next());
    match found {
        Ok(Some(address)) => Ok(address),
        Ok(None) => Err(Error::Place(format!("coordinator `{address}` has no address"))),
        Err(error) => Err(Error::Place(format!("coordinator `{address}`: {error} (expected HOST:PORT)"))),
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { String::from("unknown host") } else { name.trim().to_owned() }
}

fn unix_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}

/// A number that two processes do not share.
fn incarnation() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // The standard library's hasher is seeded by the system's random numbers.
    RandomState::new().build_hasher().finish()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

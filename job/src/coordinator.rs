//! The service of rank 0: joining, barriers, the key-value store, heartbeats and orders.

use crate::{
    Error, Limits, Result,
    connection::{Number, OnEnd, accept_all, listen},
    state::{Refusal, State},
    wire::{
        TOKEN,
        coordinator_server::{Coordinator as Service, CoordinatorServer},
    },
};
use proto::job::{
    GetReply, GetRequest, Heartbeat, JoinReply, JoinRequest, LeaveReply, LeaveRequest, MeetReply,
    MeetRequest, Orders, PutReply, PutRequest,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    time::timeout_at,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming, service::interceptor::InterceptedService, transport::Server,
};

/// The time in which replies that are ready reach their ranks.
const LAST_REPLIES: Duration = Duration::from_millis(100);

/// A running coordinator. It ends when dropped.
#[derive(Debug)]
pub struct Coordinator {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Owns the tasks: they end with it.
    runtime: Option<Runtime>,
}

impl Coordinator {
    /// Serves a job of `size` processes at `address`, which must be an address of this machine that the other
    /// hosts reach (never the unspecified address: the service is for the job's own network). Port 0 takes a
    /// free port; [`Coordinator::address`] says which.
    ///
    /// # Errors
    /// [`Error::Connection`] if the address is unspecified or cannot be bound.
    pub fn serve(address: SocketAddr, size: usize, token: &str, limits: Limits) -> Result<Self> {
        if address.ip().is_unspecified() {
            return Err(Error::Connection(format!(
                "the coordinator must bind one internal address, not {address}: give the address of rank 0"
            )));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("job-coordinator")
            .enable_all()
            .build()
            .map_err(|error| Error::Connection(format!("no threads for the coordinator: {error}")))?;
        let inside = runtime.enter();
        let bound = listen(address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (address, listener) = bound.map_err(|error| {
            Error::Connection(format!("rank 0 cannot serve the job at {address}: {error}"))
        })?;
        let (changed, ordered) = (watch::channel(()).0, watch::channel(()).0);
        let state = Mutex::new(State::new(size, limits.clone()));
        let watching = watch::channel(0).0;
        let is_closing = AtomicBool::new(false);
        let shared = Arc::new(Shared { state, changed, ordered, limits, watching, is_closing });
        tokio::spawn(watch_members(shared.clone()));
        let (send, connections) = mpsc::channel(1);
        let on_end: OnEnd = {
            let shared = shared.clone();
            Arc::new(move |connection| shared.disconnected(connection))
        };
        let listener = Arc::new(listener);
        let accept = move || {
            let listener = listener.clone();
            async move { listener.accept().await.map(|(stream, _)| stream) }
        };
        tokio::spawn(accept_all(accept, on_end, send));
        let service = CoordinatorServer::new(Handle { shared: shared.clone() })
            .max_decoding_message_size(shared.limits.message_bytes + 4096);
        let expected: Arc<str> = token.into();
        let service = InterceptedService::new(service, move |request| admit(request, &expected));
        tokio::spawn(
            Server::builder().add_service(service).serve_with_incoming(ReceiverStream::new(connections)),
        );
        drop(inside);
        Ok(Self { address, shared, runtime: Some(runtime) })
    }

    /// The address that ranks connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every rank that waited for the others to join knows that rank 0 has given up, for at most
    /// `limit`.
    pub fn wait_for_refusals(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.shared.lock().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        // The replies are sent by other threads: give them a moment.
        std::thread::sleep(LAST_REPLIES);
    }

    /// Waits until every rank has left or one is lost, for at most `limit`, so that the last replies reach
    /// their ranks before rank 0 ends.
    pub fn wait_for_all(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let state = self.shared.lock();
            if state.all_left() || state.loss().is_some() {
                break;
            }
            drop(state);
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // A lost rank's orders are sent by the streams: give them a moment.
        let streams = *self.shared.watching.borrow();
        if streams > 0 {
            std::thread::sleep(LAST_REPLIES);
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::Relaxed);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Sent to after every change that a waiting call may wait for.
    changed: watch::Sender<()>,
    /// Sent to when all ranks are to receive new orders at once.
    ordered: watch::Sender<()>,
    limits: Limits,
    /// Number of open heartbeat streams.
    watching: watch::Sender<usize>,
    /// True once the coordinator closes the connections itself.
    is_closing: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held ended one call; the state is still consistent enough to end the
        // job.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all waiting calls and tells all ranks: a rank is lost.
    fn lost(&self) {
        self.changed.send_replace(());
        self.ordered.send_replace(());
    }

    /// Notes the end of a connection. Its process has ended, or its machine cannot be reached.
    fn disconnected(&self, connection: Number) {
        if !self.is_closing.load(Ordering::Relaxed) && self.lock().disconnected(connection) {
            self.lost();
        }
    }

    /// Calls `look` after every change until it returns a value, for at most `limit`.
    async fn wait<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&mut State) -> Option<T>,
    ) -> std::result::Result<Option<T>, Refusal> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut changed = self.changed.subscribe();
        loop {
            {
                let mut state = self.lock();
                if let Some(found) = look(&mut state) {
                    return Ok(Some(found));
                }
                if let Some(loss) = state.loss() {
                    return Err(Refusal::Lost(loss.clone()));
                }
            }
            match timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(None),
            }
        }
    }
}

/// Looks for silent and stuck ranks four times a heartbeat.
async fn watch_members(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(shared.limits.heartbeat / 4);
    loop {
        every.tick().await;
        let found = shared.lock().watch(Instant::now());
        if found {
            shared.lost();
        }
    }
}

/// Refuses calls without the job's token. All bytes are compared, so the time says nothing about the token.
fn admit(request: Request<()>, expected: &str) -> std::result::Result<Request<()>, Status> {
    let given = request.metadata().get(TOKEN).map_or(&b""[..], |value| value.as_bytes());
    let expected = expected.as_bytes();
    let unequal = given.iter().zip(expected).fold(0u8, |unequal, (a, b)| unequal | (a ^ b));
    if given.len() == expected.len() && unequal == 0 {
        Ok(request)
    } else {
        Err(Status::unauthenticated("this process has another job's token (MESH_JOB_TOKEN)"))
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(message) => Status::invalid_argument(message),
            Refusal::TooLarge(message) => Status::resource_exhausted(message),
            Refusal::Deadline(message) => Status::deadline_exceeded(message),
            Refusal::Lost(loss) => Status::with_details(
                tonic::Code::Aborted,
                crate::error::describe(&loss),
                encoded(&loss).into(),
            ),
        }
    }
}

fn encoded(loss: &proto::job::Loss) -> Vec<u8> {
    proto::Message::encode_to_vec(loss)
}

/// The handlers of the service.
struct Handle {
    shared: Arc<Shared>,
}

/// A call that waits for the other ranks to join. If it ends before they have, its process may be gone, and
/// another one may take its rank.
struct Waiting {
    shared: Arc<Shared>,
    connection: Number,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.lock().withdraw(self.connection);
    }
}

type Reply<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Service for Handle {
    type WatchStream = std::pin::Pin<Box<dyn Stream<Item = std::result::Result<Orders, Status>> + Send>>;

    async fn join(&self, request: Request<JoinRequest>) -> Reply<JoinReply> {
        let connection = *(request.extensions().get())
            .expect("the server is given connections, which put their number there");
        let request = request.into_inner();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        self.shared.lock().join(&request, connection, (Instant::now(), unix_ms))?;
        self.shared.changed.send_replace(());
        let limit = self.shared.limits.join;
        let _waiting = Waiting { shared: self.shared.clone(), connection };
        match self.shared.wait(limit, |state| state.join_ended()).await? {
            Some(ended) => Ok(Response::new(JoinReply { members: ended? })),
            None => {
                let mut state = self.shared.lock();
                let reason = format!("after {:.0} s {}", limit.as_secs_f64(), state.missing());
                if request.rank == 0 {
                    state.give_up(&reason);
                    self.shared.changed.send_replace(());
                }
                drop(state);
                Err(Refusal::Deadline(reason).into())
            }
        }
    }

    async fn watch(&self, request: Request<Streaming<Heartbeat>>) -> Reply<Self::WatchStream> {
        let mut beats = request.into_inner();
        let shared = self.shared.clone();
        let (send, receive) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut ordered = shared.ordered.subscribe();
            shared.watching.send_modify(|streams| *streams += 1);
            loop {
                let orders = tokio::select! {
                    beat = beats.next() => match beat {
                        Some(Ok(beat)) => {
                            let mut state = shared.lock();
                            let is_new = state.beat(beat, Instant::now());
                            let orders = state.orders();
                            drop(state);
                            if is_new {
                                shared.ordered.send_replace(());
                            }
                            orders
                        }
                        Some(Err(_)) | None => break,
                    },
                    _ = ordered.changed() => shared.lock().orders(),
                };
                if send.send(Ok(orders)).await.is_err() {
                    break;
                }
            }
            shared.watching.send_modify(|streams| *streams -= 1);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn meet(&self, request: Request<MeetRequest>) -> Reply<MeetReply> {
        let request = request.into_inner();
        let (name, limit) = (request.name.clone(), Duration::from_millis(request.wait_ms));
        self.shared.lock().arrive(request)?;
        self.shared.changed.send_replace(());
        match self.shared.wait(limit, |state| state.met(&name)).await? {
            Some(reply) => Ok(Response::new(reply)),
            None => {
                let absent = self.shared.lock().absent(&name);
                Err(Refusal::Deadline(format!(
                    "barrier `{name}`: after {:.1} s these are not there: {absent}",
                    limit.as_secs_f64()
                ))
                .into())
            }
        }
    }

    async fn put(&self, request: Request<PutRequest>) -> Reply<PutReply> {
        let PutRequest { key, value } = request.into_inner();
        self.shared.lock().put(key, value)?;
        self.shared.changed.send_replace(());
        Ok(Response::new(PutReply {}))
    }

    async fn get(&self, request: Request<GetRequest>) -> Reply<GetReply> {
        let GetRequest { key, wait_ms } = request.into_inner();
        let limit = Duration::from_millis(wait_ms);
        match self.shared.wait(limit, |state| state.get(&key).cloned()).await? {
            Some(value) => Ok(Response::new(GetReply { value })),
            None if wait_ms == 0 => {
                Err(Status::not_found(format!("no key `{}`", String::from_utf8_lossy(&key))))
            }
            None => Err(Refusal::Deadline(format!(
                "no process stored key `{}` within {:.1} s",
                String::from_utf8_lossy(&key),
                limit.as_secs_f64()
            ))
            .into()),
        }
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Reply<LeaveReply> {
        let LeaveRequest { rank, failure } = request.into_inner();
        self.shared.lock().leave(rank, &failure);
        if failure.is_empty() {
            self.shared.changed.send_replace(());
        } else {
            self.shared.lost();
        }
        Ok(Response::new(LeaveReply {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::coordinator_client::CoordinatorClient;
    use tonic::transport::{Channel, Endpoint};

    const TOKEN_VALUE: &str = "t";

    fn with_token<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(TOKEN, TOKEN_VALUE.parse().unwrap());
        request
    }

    async fn joined(address: String, rank: u32) -> CoordinatorClient<Channel> {
        let mut client =
            CoordinatorClient::new(Endpoint::from_shared(address).unwrap().connect().await.unwrap());
        let request = JoinRequest { rank, size: 2, host: "h".into(), ..JoinRequest::default() };
        client.join(with_token(request)).await.unwrap();
        client
    }

    #[test]
    fn a_process_that_ends_before_its_first_heartbeat_is_lost_at_once() {
        let limits = Limits { dead_after: Duration::from_secs(60), ..Limits::default() };
        let any = "127.0.0.1:0".parse().unwrap();
        let coordinator = Coordinator::serve(any, 2, TOKEN_VALUE, limits).unwrap();
        let address = format!("http://{}", coordinator.address());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = runtime.block_on(async {
            let (mut first, second) = tokio::join!(joined(address.clone(), 0), joined(address, 1));
            drop(second);
            let request = MeetRequest { name: "b".into(), wait_ms: 5_000, ..MeetRequest::default() };
            first.meet(with_token(request)).await.unwrap_err()
        });
        let told = "lost rank 1 (h) before its first heartbeat: its connection closed";
        assert_eq!((status.code(), status.message()), (tonic::Code::Aborted, told));
    }
}

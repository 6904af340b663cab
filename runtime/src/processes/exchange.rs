//! The handler of the custom calls that stand for collectives.

use super::{
    connections::{Connections, Key, Operand, Receiver},
    reduce,
};
use crate::{Error, Result};
use job::{Job, member::Contribution};
use pjrt::{CustomCall, CustomCalls};
use proto::hlo_processes::{self, Kind, PARTITION_ID};
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

/// Time for all ranks to open their ports and to connect.
const MEET: Duration = Duration::from_secs(120);

/// Collectives of the programs of one process. All processes have the same number of devices: process `r` has
/// the positions `r · n` to `r · n + n - 1` of the mesh.
pub struct Exchange {
    rank: usize,
    size: usize,
    devices_per_process: usize,
    connections: OnceLock<Connections>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By call number.
    collectives: Vec<Arc<hlo_processes::Exchange>>,
    run: u64,
    /// Executions so far in this run, by call and device.
    occurrences: HashMap<(i64, usize), u64>,
    waiting: HashMap<Key, Waiting>,
    /// The first process that is gone, and why.
    gone: Option<String>,
    /// The number of executions that wait for operands of other processes only.
    pending: usize,
    /// The time since when there has been one.
    pending_since: Option<Instant>,
    /// The time in which there was one, until now.
    waited: Duration,
}

/// An execution of a collective that is not complete.
#[derive(Default)]
struct Waiting {
    /// Calls of this process, by device.
    calls: Vec<(usize, CustomCall)>,
    /// Operands of other processes, by device.
    operands: HashMap<usize, Vec<u8>>,
    /// True once only operands of other processes are missing.
    is_pending: bool,
}

impl State {
    /// Counts an execution that waits for other processes from now on.
    fn begin_wait(&mut self) {
        self.pending += 1;
        self.pending_since.get_or_insert_with(Instant::now);
    }

    /// Counts the end of such a wait.
    fn end_wait(&mut self) {
        self.pending = self.pending.saturating_sub(1);
        if self.pending == 0
            && let Some(since) = self.pending_since.take()
        {
            self.waited += since.elapsed();
        }
    }
}

impl Exchange {
    /// Connects the processes of a job that have `devices_per_process` devices each. `local` is this
    /// process's address in the job's network.
    ///
    /// # Errors
    /// A rank is lost or does not connect.
    pub fn connect(job: &Job, devices_per_process: usize, local: std::net::IpAddr) -> Result<Arc<Self>> {
        let exchange = Arc::new(Self {
            rank: job.rank() as usize,
            size: job.size() as usize,
            devices_per_process,
            connections: OnceLock::new(),
            state: Mutex::default(),
        });
        let (listener, address) = Connections::listen(local)?;
        // Rank 0's secret is the token of the connections: only members of the job see it.
        let payload = format!("{address} {}", secret().to_hex()).into_bytes();
        let here = Contribution { payload, ..Contribution::default() };
        let meeting = job.meet("exchange", here, MEET).map_err(|e| Error::Job(e.to_string()))?;
        let parsed: Option<Vec<(SocketAddr, blake3::Hash)>> =
            meeting.payloads.iter().map(|p| parse(p)).collect();
        let ranks = parsed.ok_or_else(|| Error::Job("a rank sent an unreadable address".into()))?;
        let token = *ranks[0].1.as_bytes();
        let addresses: Vec<SocketAddr> = ranks.iter().map(|(address, _)| *address).collect();
        let receiver: Arc<dyn Receiver> = exchange.clone();
        let connections = Connections::connect(job.rank(), &addresses, listener, &token, &receiver)?;
        exchange.connections.set(connections).expect("connections are made once, here");
        Ok(exchange)
    }

    /// The rank, and the number of processes.
    pub fn place(&self) -> (usize, usize) {
        (self.rank, self.size)
    }

    /// Rewrites a program and its compile options for devices `device_ids` of this process, and takes over
    /// its collectives. All processes rewrite the same programs in the same order, which gives each
    /// collective the same number everywhere.
    ///
    /// # Errors
    /// The program has a collective that the compiler does not emit.
    pub fn rewrite(&self, code: &[u8], options: &[u8], device_ids: &[i64]) -> Result<(Vec<u8>, Vec<u8>)> {
        let refused =
            |e| Error::input(format!("a program cannot run in several processes: {e}"), "compile it again");
        let mut state = self.lock();
        let first = state.collectives.len() as i64;
        let (code, collectives) = hlo_processes::for_processes(code, first).map_err(refused)?;
        let options = hlo_processes::options_for_processes(options, device_ids).map_err(refused)?;
        state.collectives.extend(collectives.into_iter().map(Arc::new));
        Ok((code, options))
    }

    /// Begins a run of a program. The previous one must have ended: executions of a call are counted by run.
    ///
    /// # Errors
    /// A process is gone.
    pub fn begin_run(&self) -> Result<()> {
        let mut state = self.lock();
        if let Some(gone) = &state.gone {
            return Err(Error::Job(gone.clone()));
        }
        state.run += 1;
        state.occurrences.clear();
        Ok(())
    }

    /// Returns the time in which a collective waited for other processes since the last call of this.
    pub fn take_waited(&self) -> Duration {
        std::mem::take(&mut self.lock().waited)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a collective on one device: keeps the call, and sends its operand to the other processes.
    fn start(&self, mut call: CustomCall, device: usize) {
        let number = call.number();
        let mut state = self.lock();
        if let Some(gone) = &state.gone {
            let gone = gone.clone();
            drop(state);
            return call.fail(&gone);
        }
        let collective = usize::try_from(number).ok().and_then(|n| state.collectives.get(n).cloned());
        let group = collective.as_ref().and_then(|c| c.groups.iter().position(|g| g.contains(&device)));
        let (Some(collective), Some(group)) = (&collective, group) else {
            drop(state);
            if collective.is_some_and(|c| matches!(c.kind, Kind::Permute { .. })) {
                // No message has this device as sender or receiver.
                call.output(0).fill(0);
                return call.finish();
            }
            return call.fail(&format!("device {device} has no part in collective {number}"));
        };
        let count = state.occurrences.entry((number, device)).or_default();
        let occurrence = *count;
        *count += 1;
        let key = Key { run: state.run, call: number, occurrence, group };
        let members = &collective.groups[group];
        let mut ranks: Vec<usize> = members.iter().map(|d| d / self.devices_per_process).collect();
        ranks.sort_unstable();
        ranks.dedup();
        ranks.retain(|rank| *rank != self.rank);
        if !ranks.is_empty()
            && let Some(connections) = self.connections.get()
        {
            let operand = Operand { key, device, bytes: call.input(1).1.to_vec() };
            connections.send(ranks.into_iter(), &operand);
        }
        state.waiting.entry(key).or_default().calls.push((device, call));
        self.finish_if_complete(state, key, collective);
    }

    /// Finishes the calls of this process if all operands of the group are there.
    fn finish_if_complete(
        &self,
        mut state: MutexGuard<'_, State>,
        key: Key,
        collective: &hlo_processes::Exchange,
    ) {
        let members = &collective.groups[key.group];
        let local = members.iter().filter(|device| *device / self.devices_per_process == self.rank).count();
        let Some(waiting) = state.waiting.get_mut(&key).filter(|w| w.calls.len() == local) else { return };
        if waiting.operands.len() + local < members.len() {
            if !std::mem::replace(&mut waiting.is_pending, true) {
                state.begin_wait();
            }
            return;
        }
        let Some(waiting) = state.waiting.remove(&key) else { return };
        if waiting.is_pending {
            state.end_wait();
        }
        drop(state);
        finish(waiting, members, collective);
    }
}

/// Computes the results of a complete execution. They are computed before any call ends, since the operands
/// of a call live only until then.
fn finish(waiting: Waiting, members: &[usize], collective: &hlo_processes::Exchange) {
    let Waiting { calls, operands, .. } = waiting;
    let results: Vec<std::result::Result<Vec<u8>, String>> = {
        let operand = |device: &usize| -> &[u8] {
            match operands.get(device) {
                Some(bytes) => bytes,
                None => calls.iter().find(|(d, _)| d == device).map_or(&[], |(_, call)| call.input(1).1),
            }
        };
        let parts: Vec<&[u8]> = members.iter().map(operand).collect();
        let position = |device: usize| members.iter().position(|d| *d == device).unwrap_or(0);
        let result = |(device, call): &(usize, CustomCall)| {
            let mut out = vec![0; call.output_bytes(0)];
            reduce::result(collective, members, &parts, position(*device), &mut out).map(|()| out)
        };
        calls.iter().map(result).collect()
    };
    for ((_, mut call), result) in calls.into_iter().zip(results) {
        match result {
            Ok(bytes) => {
                call.output(0).copy_from_slice(&bytes);
                call.finish();
            }
            Err(message) => call.fail(&message),
        }
    }
}

impl CustomCalls for Exchange {
    fn call(&self, mut call: CustomCall) {
        let replica = call.input(0).1;
        let Ok(replica) = <[u8; 4]>::try_from(replica) else {
            return call.fail("a collective without its replica");
        };
        let device = self.rank * self.devices_per_process + u32::from_ne_bytes(replica) as usize;
        if call.number() == PARTITION_ID {
            match u32::try_from(device) {
                Ok(device) if call.output_bytes(0) == 4 => {
                    call.output(0).copy_from_slice(&device.to_ne_bytes());
                    call.finish();
                }
                _ => call.fail("a position in the mesh is no 32-bit number"),
            }
        } else {
            self.start(call, device);
        }
    }
}

impl Receiver for Exchange {
    fn receive(&self, operand: Operand) {
        let Operand { key, device, bytes } = operand;
        let mut state = self.lock();
        state.waiting.entry(key).or_default().operands.insert(device, bytes);
        let collective = usize::try_from(key.call).ok().and_then(|n| state.collectives.get(n).cloned());
        if let Some(collective) = collective.filter(|c| key.group < c.groups.len()) {
            self.finish_if_complete(state, key, &collective);
        }
    }

    fn gone(&self, rank: u32, reason: &str) {
        let mut state = self.lock();
        let message = format!("rank {rank} is gone: {reason}");
        state.gone.get_or_insert_with(|| message.clone());
        let waiting: Vec<Waiting> = state.waiting.drain().map(|(_, waiting)| waiting).collect();
        drop(state);
        for (_, call) in waiting.into_iter().flat_map(|w| w.calls) {
            call.fail(&message);
        }
    }
}

/// 32 bytes that others cannot guess: the standard library seeds hashers with the system's random numbers.
fn secret() -> blake3::Hash {
    let bytes: Vec<u8> =
        (0..4).flat_map(|_| RandomState::new().build_hasher().finish().to_le_bytes()).collect();
    blake3::hash(&bytes)
}

/// `ADDRESS SECRET`.
fn parse(payload: &[u8]) -> Option<(SocketAddr, blake3::Hash)> {
    let (address, secret) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    Some((address.parse().ok()?, blake3::Hash::from_hex(secret).ok()?))
}

//! The coordinator's state: members, barriers, stored values, losses. Pure data: times are arguments.

use crate::{Limits, connection::Number};
use proto::job::{
    Difference, Failure, Heartbeat, Holders, JoinRequest, Loss, MeetReply, MeetRequest, Member, Orders,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// A call that the coordinator refuses.
#[derive(Clone, PartialEq, Debug)]
pub enum Refusal {
    /// The request contradicts the job, such as a rank that is taken.
    Invalid(String),
    /// A value or the store would be too large.
    TooLarge(String),
    /// A deadline passed.
    Deadline(String),
    /// A rank is lost.
    Lost(Loss),
}

/// State of a job, as rank 0 sees it.
#[derive(Debug)]
pub struct State {
    size: usize,
    limits: Limits,
    members: Vec<Option<Seat>>,
    /// True once all ranks have joined.
    has_all: bool,
    /// Ranks whose process joined and ended before all had joined.
    gone: BTreeSet<u32>,
    /// The reason why rank 0 no longer waits for the others to join.
    given_up: Option<String>,
    barriers: HashMap<String, Barrier>,
    store: BTreeMap<Vec<u8>, Vec<u8>>,
    stored_bytes: usize,
    loss: Option<Loss>,
    stop: bool,
    /// The boundary at which all ranks stop; 0 until it is known.
    stop_at: u64,
}

/// The reason to give up a rank, the more likely cause of a standstill first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Trouble {
    /// No heartbeats arrive.
    Silent,
    /// Heartbeats arrive, and the phase has reached its limit.
    Stuck,
}

/// A rank that has joined.
#[derive(Debug)]
struct Seat {
    host: String,
    pid: u32,
    incarnation: u64,
    /// The connection of the process.
    connection: Number,
    clock_offset_ms: i64,
    heard: Instant,
    beat: Heartbeat,
    left: bool,
}

/// A barrier that some ranks have reached.
#[derive(Debug)]
struct Barrier {
    arrived: Vec<Option<MeetRequest>>,
    count: usize,
    /// The reply, once all ranks are there.
    reply: Option<MeetReply>,
    /// Ranks that have taken the reply: the barrier is forgotten after the last.
    taken: usize,
}

impl State {
    /// A job of `size` ranks of which none has joined.
    pub fn new(size: usize, limits: Limits) -> Self {
        Self {
            size,
            limits,
            members: (0..size).map(|_| None).collect(),
            has_all: false,
            gone: BTreeSet::new(),
            given_up: None,
            barriers: HashMap::new(),
            store: BTreeMap::new(),
            stored_bytes: 0,
            loss: None,
            stop: false,
            stop_at: 0,
        }
    }

    /// Registers a rank. `unix_ms` is the coordinator's own clock.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the size differs, the rank is outside it, or another process has the rank.
    pub fn join(
        &mut self,
        request: &JoinRequest,
        connection: Number,
        (now, unix_ms): (Instant, u64),
    ) -> Result<(), Refusal> {
        let (rank, size) = (request.rank as usize, request.size as usize);
        if size != self.size {
            return Err(Refusal::Invalid(format!(
                "rank {rank} ({}) was started for {size} processes, the coordinator for {}",
                request.host, self.size
            )));
        }
        let Some(seat) = self.members.get_mut(rank) else {
            return Err(Refusal::Invalid(format!(
                "rank {rank} ({}) does not exist in a job of {size} processes",
                request.host
            )));
        };
        if let Some(seat) = seat {
            if seat.incarnation == request.incarnation {
                seat.connection = connection;
                return Ok(());
            }
            return Err(Refusal::Invalid(format!(
                "rank {rank} was started twice: by process {} on {} and by process {} on {}",
                seat.pid, seat.host, request.pid, request.host
            )));
        }
        let offset = i128::from(request.unix_ms) - i128::from(unix_ms);
        *seat = Some(Seat {
            host: request.host.clone(),
            pid: request.pid,
            incarnation: request.incarnation,
            connection,
            clock_offset_ms: i64::try_from(offset).unwrap_or(i64::MAX),
            heard: now,
            beat: Heartbeat::default(),
            left: false,
        });
        self.gone.remove(&request.rank);
        if self.members.iter().all(Option::is_some) {
            self.has_all = true;
            self.members.iter_mut().flatten().for_each(|seat| seat.heard = now);
        }
        Ok(())
    }

    /// Frees the place of a process that no longer waits for the others to join.
    pub fn withdraw(&mut self, connection: Number) {
        if !self.has_all
            && let Some(rank) = self.rank_of(connection)
        {
            self.members[rank] = None;
            self.gone.insert(number(rank));
        }
    }

    /// Notes that rank 0 no longer waits: the job cannot begin without it.
    pub fn give_up(&mut self, reason: &str) {
        self.given_up.get_or_insert_with(|| reason.to_owned());
    }

    /// The members once all have joined, or the reason why rank 0 no longer waits. `None` before that.
    pub fn join_ended(&self) -> Option<Result<Vec<Member>, Refusal>> {
        let given_up = self.given_up.clone().map(|reason| Err(Refusal::Deadline(reason)));
        self.members().map(Ok).or(given_up)
    }

    /// True if no process waits for the others to join.
    pub fn is_empty(&self) -> bool {
        self.members.iter().all(Option::is_none)
    }

    /// All members once all have joined.
    pub fn members(&self) -> Option<Vec<Member>> {
        if !self.has_all {
            return None;
        }
        let member = |(rank, seat): (usize, &Option<Seat>)| {
            let seat = seat.as_ref()?;
            Some(Member {
                rank: number(rank),
                host: seat.host.clone(),
                pid: seat.pid,
                clock_offset_ms: seat.clock_offset_ms,
            })
        };
        self.members.iter().enumerate().map(member).collect()
    }

    /// Says which ranks have not joined, and which have joined and ended since.
    pub fn missing(&self) -> String {
        let empty = self.members.iter().enumerate().filter(|(_, seat)| seat.is_none());
        let (gone, missing): (Vec<u32>, Vec<u32>) =
            empty.map(|(rank, _)| number(rank)).partition(|rank| self.gone.contains(rank));
        let mut parts = Vec::new();
        if !missing.is_empty() {
            parts.push(format!("these ranks have not joined: {}", ranks(&missing)));
        }
        if !gone.is_empty() {
            parts.push(format!("these ranks joined and ended again: {}", ranks(&gone)));
        }
        parts.join("; ")
    }

    /// Takes a heartbeat. Returns true if all ranks are to receive new orders.
    pub fn beat(&mut self, beat: Heartbeat, now: Instant) -> bool {
        let before = (self.stop, self.stop_at);
        self.stop |= beat.stop;
        let mut is_new_phase = false;
        if let Some(Some(seat)) = self.members.get_mut(beat.rank as usize) {
            // The others name the phase of rank 0 if it is lost.
            is_new_phase = beat.rank == 0 && seat.beat.phase != beat.phase;
            seat.heard = now;
            seat.beat = beat;
        }
        let all = || self.members.iter().map(Option::as_ref);
        let held = |seat: Option<&Seat>| seat.is_some_and(|seat| seat.beat.held || seat.left);
        if self.stop && self.stop_at == 0 && all().all(held) {
            self.stop_at = 1 + all().flatten().map(|seat| seat.beat.boundary).max().unwrap_or(0);
        }
        is_new_phase || before != (self.stop, self.stop_at)
    }

    /// The orders that every rank receives.
    pub fn orders(&self) -> Orders {
        let beats = || self.members.iter().flatten().map(|seat| &seat.beat).filter(|b| b.step_micros > 0);
        let mut steps: Vec<u64> = beats().map(|beat| beat.step_micros).collect();
        let mut own: Vec<(u64, u32)> = beats().map(|beat| (beat.own_micros, beat.rank)).collect();
        steps.sort_unstable();
        own.sort_unstable();
        let (slowest_micros, slowest_rank) = own.last().copied().unwrap_or_default();
        let first = self.members.first().and_then(Option::as_ref).map(|seat| &seat.beat);
        Orders {
            loss: self.loss.clone(),
            stop: self.stop,
            slowest_rank,
            slowest_micros,
            median_micros: steps.get(steps.len() / 2).copied().unwrap_or_default(),
            median_own_micros: own.get(own.len() / 2).map_or(0, |(micros, _)| *micros),
            stop_at: self.stop_at,
            first_phase: first.map_or(String::new(), |beat| beat.phase.clone()),
            first_step: first.map_or(0, |beat| beat.step),
        }
    }

    /// Looks for ranks that are silent or stuck. Returns true if one was found.
    ///
    /// A rank sends heartbeats once all have joined; until then, only the join deadline applies.
    pub fn watch(&mut self, now: Instant) -> bool {
        if self.loss.is_some() || !self.has_all {
            return false;
        }
        let median = match self.orders().median_micros {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        };
        let found = self.troubles(now, median, Duration::ZERO);
        if found.is_empty() {
            return false;
        }
        // Ranks wait for the others: a silent one is more likely the cause than one without progress, and one
        // that is behind more likely than one that is ahead. The heartbeat of the cause may be about to come.
        let mut found = self.troubles(now, median, self.limits.heartbeat * 2);
        found.sort();
        let Some((kind, step, rank, mut reason)) = found.first().cloned() else { return false };
        let equal = found.iter().skip(1).filter(|other| (other.0, other.1) == (kind, step));
        let equal: Vec<u32> = equal.map(|other| number(other.2)).collect();
        if !equal.is_empty() {
            reason += &format!("; the same holds for rank {}", ranks(&equal));
        }
        self.lose(rank, reason)
    }

    /// Returns the ranks that are silent or stuck, or that will be stuck within `margin` (at most a quarter
    /// of the limit) if they do not progress: kind, step, rank and reason.
    fn troubles(
        &self,
        now: Instant,
        median: Option<Duration>,
        margin: Duration,
    ) -> Vec<(Trouble, u64, usize, String)> {
        let limits = &self.limits;
        let trouble = |seat: &Seat| {
            let silent = now.saturating_duration_since(seat.heard);
            if silent >= limits.dead_after {
                let limit = words(limits.dead_after);
                let reason =
                    format!("no heartbeat for {}, the limit is {limit} (--dead-after)", words(silent));
                return Some((Trouble::Silent, seat.beat.step, reason));
            }
            let phase = seat.beat.phase.as_str();
            let limit = limits.of_phase(phase, median)?;
            // The rank may have progressed since its last heartbeat.
            let since = Duration::from_millis(seat.beat.since_ms);
            (since + margin.min(limit / 4) > limit).then(|| {
                let others = if since > limit { "" } else { ", and others have reached it" };
                let (since, limit) = (words(since), words(limit));
                let reason = format!(
                    "no progress for {since}, the limit is {limit} (--limit {phase}=SECONDS){others}"
                );
                (Trouble::Stuck, seat.beat.step, reason)
            })
        };
        (self.members.iter().enumerate())
            .filter_map(|(rank, seat)| Some((rank, seat.as_ref().filter(|seat| !seat.left)?)))
            .filter_map(|(rank, seat)| trouble(seat).map(|(kind, step, reason)| (kind, step, rank, reason)))
            .collect()
    }

    /// Notes the end of a connection: a loss unless its rank had left. Returns true if it is a loss. Before
    /// all ranks have joined, another process may take the place.
    pub fn disconnected(&mut self, connection: Number) -> bool {
        self.withdraw(connection);
        let Some(rank) = self.rank_of(connection) else { return false };
        let has_left = self.members[rank].as_ref().is_some_and(|seat| seat.left);
        !has_left && self.lose(rank, String::from("its connection closed"))
    }

    /// Returns the rank whose process has this connection.
    fn rank_of(&self, connection: Number) -> Option<usize> {
        let mut seats = self.members.iter();
        seats.position(|seat| seat.as_ref().is_some_and(|seat| seat.connection == connection))
    }

    /// Notes that a rank ends. With a failure, all others must end too.
    pub fn leave(&mut self, rank: u32, failure: &str) {
        let rank = rank as usize;
        if !failure.is_empty() {
            self.lose(rank, failure.to_owned());
        }
        if let Some(Some(seat)) = self.members.get_mut(rank) {
            seat.left = true;
        }
    }

    /// True if every rank has left.
    pub fn all_left(&self) -> bool {
        self.members.iter().all(|seat| seat.as_ref().is_some_and(|seat| seat.left))
    }

    /// The first loss.
    pub fn loss(&self) -> Option<&Loss> {
        self.loss.as_ref()
    }

    fn lose(&mut self, rank: usize, reason: String) -> bool {
        let Some(Some(seat)) = self.members.get(rank) else { return false };
        if self.loss.is_some() {
            return false;
        }
        self.loss = Some(Loss {
            rank: number(rank),
            host: seat.host.clone(),
            phase: seat.beat.phase.clone(),
            step: seat.beat.step,
            reason,
        });
        true
    }

    /// A rank arrives at a barrier.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a rank that has not joined or that is there already.
    pub fn arrive(&mut self, request: MeetRequest) -> Result<(), Refusal> {
        let rank = request.rank as usize;
        let size = self.size;
        if self.members.get(rank).is_none_or(Option::is_none) {
            return Err(Refusal::Invalid(format!("rank {rank} has not joined")));
        }
        let barrier = self.barriers.entry(request.name.clone()).or_insert_with(|| Barrier {
            arrived: (0..size).map(|_| None).collect(),
            count: 0,
            reply: None,
            taken: 0,
        });
        let place = &mut barrier.arrived[rank];
        if place.is_some() {
            return Err(Refusal::Invalid(format!("rank {rank} reached barrier `{}` twice", request.name)));
        }
        *place = Some(request);
        barrier.count += 1;
        Ok(())
    }

    /// The reply of a barrier once all ranks are there. Every rank takes it once.
    pub fn met(&mut self, name: &str) -> Option<MeetReply> {
        let barrier = self.barriers.get_mut(name)?;
        if barrier.count < self.size {
            return None;
        }
        barrier.taken += 1;
        if barrier.reply.is_none() {
            barrier.reply = Some(reply(&self.members, barrier));
        }
        let reply = barrier.reply.clone()?;
        if barrier.taken == self.size {
            self.barriers.remove(name);
        }
        Some(reply)
    }

    /// The ranks that have not reached a barrier, with their hosts and phases, as words.
    pub fn absent(&self, name: &str) -> String {
        let absent = |(rank, seat): (usize, &Option<Seat>)| {
            let here = self.barriers.get(name).is_some_and(|b| b.arrived[rank].is_some());
            let place = match seat {
                None => "not joined".to_owned(),
                Some(Seat { host, beat: Heartbeat { phase, .. }, .. }) if phase.is_empty() => host.clone(),
                Some(Seat { host, beat, .. }) => {
                    format!("{host}, phase `{}` at step {}", beat.phase, beat.step)
                }
            };
            (!here).then(|| format!("rank {rank} ({place})"))
        };
        let all: Vec<String> = self.members.iter().enumerate().filter_map(absent).collect();
        let shown = all.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        if all.len() > 8 { format!("{shown} and {} more", all.len() - 8) } else { shown }
    }

    /// Stores a value.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the key has another value, [`Refusal::TooLarge`] if the store would exceed
    /// its limit.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), Refusal> {
        match self.store.get(&key) {
            Some(old) if *old == value => return Ok(()),
            Some(_) => {
                let key = String::from_utf8_lossy(&key).into_owned();
                return Err(Refusal::Invalid(format!("key `{key}` has another value already")));
            }
            None => {}
        }
        let bytes = key.len() + value.len();
        if self.stored_bytes + bytes > self.limits.store_bytes {
            return Err(Refusal::TooLarge(format!(
                "the store holds {} bytes; {bytes} more exceed its limit of {}",
                self.stored_bytes, self.limits.store_bytes
            )));
        }
        self.stored_bytes += bytes;
        self.store.insert(key, value);
        Ok(())
    }

    /// The value under a key.
    pub fn get(&self, key: &[u8]) -> Option<&Vec<u8>> {
        self.store.get(key)
    }
}

fn reply(members: &[Option<Seat>], barrier: &Barrier) -> MeetReply {
    let arrived = || barrier.arrived.iter().flatten();
    let host = |rank: u32| {
        members.get(rank as usize).and_then(Option::as_ref).map_or(String::new(), |seat| seat.host.clone())
    };
    let failures = arrived().filter(|request| !request.failure.is_empty()).map(|request| Failure {
        rank: request.rank,
        host: host(request.rank),
        message: request.failure.clone(),
    });
    MeetReply {
        failures: failures.collect(),
        differences: differences(&arrived().collect::<Vec<_>>()),
        payloads: arrived().map(|request| request.payload.clone()).collect(),
    }
}

/// The facts that are not equal on all ranks. Values are listed by their lowest rank.
fn differences(requests: &[&MeetRequest]) -> Vec<Difference> {
    let mut facts: BTreeMap<&str, Vec<Holders>> = BTreeMap::new();
    for key in requests.iter().flat_map(|request| request.equal.keys()) {
        facts.entry(key).or_default();
    }
    for request in requests {
        for (key, holders) in &mut facts {
            let value = request.equal.get(*key).map_or("", String::as_str);
            match holders.iter_mut().find(|h| h.value == value) {
                Some(same) => same.ranks.push(request.rank),
                None => holders.push(Holders { value: value.to_owned(), ranks: vec![request.rank] }),
            }
        }
    }
    let differing = facts.into_iter().filter(|(_, holders)| holders.len() > 1);
    differing.map(|(key, values)| Difference { key: key.to_owned(), values }).collect()
}

/// Ranks as words, ranges shortened: `0, 4-7`.
pub fn ranks(ranks: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for &rank in ranks {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            _ => parts.push((rank, rank)),
        }
    }
    let part = |(first, last): &(u32, u32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn words(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

fn number(rank: usize) -> u32 {
    u32::try_from(rank).expect("a job has fewer than 2^32 ranks, since sizes arrive as u32")
}

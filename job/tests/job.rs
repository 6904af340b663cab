//! Jobs of several members in one process, over real connections on loopback.

use job::{
    Coordinator, Error, Job, Limits, Loss,
    member::{Contribution, OnLoss},
};
use std::{
    net::SocketAddr,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

const TOKEN: &str = "secret of this job";

fn limits() -> Limits {
    Limits {
        join: Duration::from_secs(5),
        heartbeat: Duration::from_millis(100),
        dead_after: Duration::from_secs(1),
        ..Limits::default()
    }
}

fn serve(size: usize, limits: &Limits) -> Coordinator {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Coordinator::serve(any, size, TOKEN, limits.clone()).unwrap()
}

/// Losses go to a channel instead of ending the process.
fn noting(losses: &Sender<(u32, Loss)>, rank: u32) -> OnLoss {
    let losses = losses.clone();
    Box::new(move |loss| losses.send((rank, loss.clone())).unwrap())
}

/// Runs `act` on all ranks at once, each on a thread, and returns what they return, by rank.
fn run<T: Send>(
    size: u32,
    limits: &Limits,
    losses: &Sender<(u32, Loss)>,
    act: impl Fn(Job) -> T + Sync,
) -> Vec<T> {
    let coordinator = serve(size as usize, limits);
    let address = coordinator.address().to_string();
    let mut coordinator = Some(coordinator);
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let (address, act) = (&address, &act);
                let coordinator = if rank == 0 { coordinator.take() } else { None };
                let on_loss = noting(losses, rank);
                scope.spawn(move || {
                    let place = (rank, size);
                    act(Job::join(address, place, TOKEN, limits.clone(), coordinator, on_loss).unwrap())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn none_lost(losses: &Receiver<(u32, Loss)>) {
    assert!(losses.try_recv().is_err());
}

#[test]
fn ranks_meet_exchange_and_leave() {
    let (send, losses) = channel();
    let heard = run(3, &limits(), &send, |job| {
        assert_eq!(job.members().len(), 3);
        let mut here = Contribution { payload: vec![job.rank() as u8; 2], ..Contribution::default() };
        here.equal.insert("binary".into(), "abc".into());
        here.equal.insert("data".into(), if job.rank() == 1 { "other" } else { "same" }.into());
        if job.rank() == 2 {
            here.failure = Some("no space left".into());
        }
        let meeting = job.meet("programs", here, Duration::from_secs(5)).unwrap();
        assert!(!meeting.verdict.is_ok());
        job.leave(None);
        meeting
    });
    for meeting in heard {
        assert_eq!(meeting.payloads, [[0, 0], [1, 1], [2, 2]]);
        let [difference] = &meeting.verdict.differences[..] else { panic!("{:?}", meeting.verdict) };
        assert_eq!(difference.key, "data");
        let values: Vec<_> = difference.values.iter().map(|v| (v.value.as_str(), &v.ranks[..])).collect();
        assert_eq!(values, [("same", &[0, 2][..]), ("other", &[1])]);
        let [failure] = &meeting.verdict.failures[..] else { panic!("{:?}", meeting.verdict) };
        assert_eq!((failure.rank, failure.message.as_str()), (2, "no space left"));
    }
    none_lost(&losses);
}

#[test]
fn values_are_waited_for_and_written_once() {
    let (send, losses) = channel();
    run(2, &limits(), &send, |job| {
        if job.rank() == 1 {
            thread::sleep(Duration::from_millis(200));
            job.put(b"nccl/0", b"id").unwrap();
            job.put(b"nccl/0", b"id").unwrap();
            let again = job.put(b"nccl/0", b"another").unwrap_err().to_string();
            assert!(again.contains("`nccl/0` has another value"), "{again}");
        } else {
            assert_eq!(job.get(b"nccl/0", Duration::from_secs(5)).unwrap().unwrap(), b"id");
            assert_eq!(job.get(b"absent", Duration::ZERO).unwrap(), None);
            assert_eq!(job.get(b"absent", Duration::from_millis(50)).unwrap(), None);
        }
        job.leave(None);
    });
    none_lost(&losses);
}

#[test]
fn the_store_and_messages_are_bounded() {
    let (send, losses) = channel();
    let small = Limits { message_bytes: 64 << 10, store_bytes: 100 << 10, ..limits() };
    run(1, &small, &send, |job| {
        let too_long = job.put(b"k", &vec![0; 128 << 10]).unwrap_err();
        assert!(matches!(too_long, Error::Refused(_) | Error::Connection(_)), "{too_long}");
        job.put(b"a", &vec![0; 60 << 10]).unwrap();
        let full = job.put(b"b", &vec![0; 60 << 10]).unwrap_err().to_string();
        assert!(full.contains("exceed its limit of 102400"), "{full}");
        job.leave(None);
    });
    none_lost(&losses);
}

#[test]
fn a_stop_is_agreed_on() {
    let (send, losses) = channel();
    let stops = run(4, &limits(), &send, |job| {
        // A step ends only when all ranks have started it, as with collectives: a rank that waits at a
        // boundary for another one that is inside the step would wait forever.
        if job.rank() == 2 {
            job.request_stop();
        }
        let mut end = 0;
        while !job.boundary().unwrap() {
            job.meet(&format!("step {end}"), Contribution::default(), Duration::from_secs(5)).unwrap();
            end += 1;
        }
        assert!(job.boundary().unwrap(), "it stays so");
        job.leave(None);
        end
    });
    assert!(stops.iter().all(|end| *end == stops[0]), "{stops:?}");
    none_lost(&losses);
}

#[test]
fn a_rank_that_ends_is_a_loss_for_all_within_moments() {
    let (send, losses) = channel();
    let waits = run(3, &limits(), &send, |job| {
        job.enter("step", 7);
        if job.rank() == 1 {
            thread::sleep(Duration::from_millis(300));
            drop(job); // As a killed process: its connections close.
            return Duration::ZERO;
        }
        let begin = Instant::now();
        let error = job.meet("never", Contribution::default(), Duration::from_secs(30)).unwrap_err();
        let Error::Lost(loss) = error else { panic!("{error}") };
        assert_eq!((loss.rank, loss.phase.as_str(), loss.step), (1, "step", 7));
        let took = begin.elapsed();
        thread::sleep(Duration::from_millis(200));
        took
    });
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(2)), "{waits:?}");
    let mut told: Vec<_> = losses.try_iter().map(|(rank, loss)| (rank, loss.rank)).collect();
    told.sort_unstable();
    assert_eq!(told, [(0, 1), (2, 1)]);
}

#[test]
fn a_failure_ends_all_ranks_with_its_message() {
    let (send, losses) = channel();
    run(2, &limits(), &send, |job| {
        job.enter("load data", 0);
        if job.rank() == 1 {
            job.leave(Some("data.jsonl: line 7 is no object"));
        } else {
            let error = job.meet("loaded", Contribution::default(), Duration::from_secs(30)).unwrap_err();
            assert!(error.to_string().contains("data.jsonl: line 7 is no object"), "{error}");
            thread::sleep(Duration::from_millis(300));
        }
    });
    assert_eq!(losses.try_iter().map(|(rank, loss)| (rank, loss.rank)).collect::<Vec<_>>(), [(0, 1)]);
}

#[test]
fn a_rank_without_progress_is_named() {
    let (send, losses) = channel();
    let strict = Limits { save: Duration::from_millis(500), ..limits() };
    run(2, &strict, &send, |job| {
        if job.rank() == 1 {
            job.enter("save", 40);
            thread::sleep(Duration::from_millis(1500));
            return;
        }
        job.enter("step", 41);
        let error = job.meet("saved", Contribution::default(), Duration::from_secs(30)).unwrap_err();
        let Error::Lost(loss) = error else { panic!("{error}") };
        assert_eq!((loss.rank, loss.phase.as_str(), loss.step), (1, "save", 40));
        assert!(loss.reason.contains("no progress for"), "{}", loss.reason);
        thread::sleep(Duration::from_millis(300));
    });
    assert_eq!(losses.try_iter().count(), 2);
}

#[test]
fn a_rank_that_stays_in_a_step_for_many_medians_is_named() {
    let (send, losses) = channel();
    let strict = Limits { step_floor: Duration::from_millis(200), step_factor: 20, ..limits() };
    let waits = run(3, &strict, &send, |job| {
        for step in 1..=3 {
            job.enter("step", step);
            job.step_took(Duration::from_millis(50), Duration::ZERO);
        }
        job.meet("step 3", Contribution::default(), Duration::from_secs(5)).unwrap();
        if job.rank() == 1 {
            thread::sleep(Duration::from_secs(4));
            return Duration::ZERO;
        }
        job.enter("step", 4);
        let begin = Instant::now();
        let error = job.meet("step 4", Contribution::default(), Duration::from_secs(30)).unwrap_err();
        let Error::Lost(loss) = error else { panic!("{error}") };
        assert_eq!((loss.rank, loss.phase.as_str(), loss.step), (1, "step", 3));
        assert!(loss.reason.contains("the limit is 1.0 s (--limit step=SECONDS)"), "{}", loss.reason);
        let took = begin.elapsed();
        thread::sleep(Duration::from_millis(300));
        took
    });
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(3)), "{waits:?}");
    assert_eq!(losses.try_iter().count(), 3);
}

#[test]
fn rank_0_is_a_loss_too() {
    let (send, losses) = channel();
    run(2, &limits(), &send, |job| {
        if job.rank() == 0 {
            job.enter("save", 9);
            thread::sleep(Duration::from_millis(500));
            drop(job);
        } else {
            let begin = Instant::now();
            let error = job.meet("never", Contribution::default(), Duration::from_secs(30)).unwrap_err();
            assert!(matches!(error, Error::Connection(_) | Error::Lost(_)), "{error}");
            assert!(begin.elapsed() < Duration::from_secs(3));
            thread::sleep(Duration::from_millis(1200));
        }
    });
    let told: Vec<_> = losses.try_iter().collect();
    let [(1, loss)] = &told[..] else { panic!("{told:?}") };
    // Rank 0's service and heartbeats end together. Either the service still reports that the heartbeats of
    // rank 0 closed, or its own connection closes first.
    let seen = (loss.rank, loss.phase.as_str(), loss.step, loss.reason.as_str());
    assert_eq!(seen, (0, "save", 9, "its connection closed"));
}

#[test]
fn wrong_starts_are_refused_with_the_reason() {
    let (send, _losses) = channel();
    let strict = Limits { join: Duration::from_millis(600), ..limits() };
    let join = |address: &str, place, token: &str| {
        let on_loss = noting(&send, 0);
        Job::join(address, place, token, strict.clone(), None, on_loss).unwrap_err().to_string()
    };
    let coordinator = serve(3, &strict);
    let address = coordinator.address().to_string();
    let wrong_token = join(&address, (0, 3), "another");
    assert!(wrong_token.contains("another job's token (MESH_JOB_TOKEN)"), "{wrong_token}");
    let wrong_size = join(&address, (0, 4), TOKEN);
    assert!(wrong_size.contains("was started for 4 processes, the coordinator for 3"), "{wrong_size}");
    let wrong_rank = join(&address, (3, 3), TOKEN);
    assert!(wrong_rank.contains("rank 3") && wrong_rank.contains("a job of 3 processes"), "{wrong_rank}");
    thread::scope(|scope| {
        let alone = scope.spawn(|| join(&address, (1, 3), TOKEN));
        thread::sleep(Duration::from_millis(200));
        let twice = join(&address, (1, 3), TOKEN);
        assert!(twice.contains("rank 1 was started twice"), "{twice}");
        let alone = alone.join().unwrap();
        assert!(alone.contains("these ranks have not joined: 0, 2"), "{alone}");
    });
    // The process that gave up has left its rank to another one, and is no longer there.
    let other = join(&address, (2, 3), TOKEN);
    assert!(other.contains("not joined: 0; these ranks joined and ended again: 1"), "{other}");
    let again = join(&address, (1, 3), TOKEN);
    assert!(again.contains("not joined: 0; these ranks joined and ended again: 2"), "{again}");
    drop(coordinator);
    let nobody = join("127.0.0.1:1", (1, 3), TOKEN);
    assert!(nobody.contains("rank 1 cannot reach the coordinator at 127.0.0.1:1"), "{nobody}");
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let bound = Coordinator::serve(everywhere, 2, TOKEN, strict.clone()).unwrap_err().to_string();
    assert!(bound.contains("one internal address"), "{bound}");
}

#[test]
fn all_that_joined_hear_which_ranks_are_missing() {
    let (send, _losses) = channel();
    let strict = Limits { join: Duration::from_millis(600), ..limits() };
    let coordinator = serve(4, &strict);
    let address = coordinator.address().to_string();
    let mut coordinator = Some(coordinator);
    let errors: Vec<Error> = thread::scope(|scope| {
        let ranks: Vec<_> = (0..3)
            .map(|rank| {
                let (address, coordinator) = (&address, coordinator.take());
                // The others would wait longer than rank 0 does.
                let join = strict.join * (1 + 5 * rank);
                let (limits, on_loss) = (Limits { join, ..strict.clone() }, noting(&send, rank));
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(100) * rank);
                    Job::join(address, (rank, 4), TOKEN, limits, coordinator, on_loss).unwrap_err()
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    for error in errors {
        assert!(matches!(error, Error::Deadline(_)), "{error:?}");
        assert_eq!(error.to_string(), "after 1 s these ranks have not joined: 3");
    }
}

#[test]
fn a_coordinator_that_ends_while_ranks_join_is_a_loss_of_rank_0() {
    let (send, _losses) = channel();
    let coordinator = serve(2, &limits());
    let address = coordinator.address().to_string();
    thread::scope(|scope| {
        let rank = scope.spawn(|| {
            Job::join(&address, (1, 2), TOKEN, limits(), None, noting(&send, 1)).unwrap_err().to_string()
        });
        thread::sleep(Duration::from_millis(300));
        drop(coordinator);
        let error = rank.join().unwrap();
        assert!(error.starts_with("lost rank 0 (127.0.0.1) in phase `join` at step 0: its coord"), "{error}");
    });
}

#[test]
fn a_rank_may_wait_for_the_others_longer_than_a_silence() {
    let (send, losses) = channel();
    let limits = limits();
    let coordinator = serve(2, &limits);
    let address = coordinator.address().to_string();
    let mut coordinator = Some(coordinator);
    thread::scope(|scope| {
        for rank in 0..2 {
            let (address, limits, coordinator) = (&address, limits.clone(), coordinator.take());
            let on_loss = noting(&send, rank);
            scope.spawn(move || {
                thread::sleep(limits.dead_after * 2 * rank);
                let job = Job::join(address, (rank, 2), TOKEN, limits, coordinator, on_loss).unwrap();
                job.meet("all", Contribution::default(), Duration::from_secs(5)).unwrap();
                job.leave(None);
            });
        }
    });
    none_lost(&losses);
}

#[test]
fn a_barrier_names_those_who_do_not_come() {
    let (send, losses) = channel();
    run(3, &limits(), &send, |job| {
        if job.rank() == 0 {
            let error =
                job.meet("compiled", Contribution::default(), Duration::from_millis(300)).unwrap_err();
            assert!(matches!(error, Error::Deadline(_)), "{error}");
            let message = error.to_string();
            assert!(message.contains("barrier `compiled`") && message.contains("rank 1 ("), "{message}");
            assert!(message.contains("rank 2 ("), "{message}");
        } else {
            thread::sleep(Duration::from_millis(600));
        }
        job.leave(None);
    });
    none_lost(&losses);
}

#[test]
fn a_job_of_one_needs_no_connection() {
    let job = Job::alone();
    assert_eq!((job.rank(), job.size(), job.is_first()), (0, 1, true));
    let here = Contribution { payload: vec![1], ..Contribution::default() };
    let meeting = job.meet("any", here, Duration::ZERO).unwrap();
    assert_eq!(meeting.payloads, [[1]]);
    assert!(meeting.verdict.is_ok());
    assert!(!job.boundary().unwrap());
    job.leave(None);
}

//! Losses and messages of the coordinator, with times as data.

use crate::{
    Limits,
    connection::Number,
    state::{Refusal, State},
};
use proto::job::{Heartbeat, JoinRequest, MeetRequest};
use std::time::{Duration, Instant};

fn request(rank: u32, size: u32) -> JoinRequest {
    let incarnation = u64::from(rank) + 1;
    JoinRequest { rank, size, host: format!("h{rank}"), pid: 7, unix_ms: 50_000, incarnation }
}

/// A job whose ranks have all joined, at the returned time.
fn joined(size: u32, limits: Limits) -> (State, Instant) {
    let now = Instant::now();
    let mut state = State::new(size as usize, limits);
    for rank in 0..size {
        state.join(&request(rank, size), Number(rank.into()), (now, 20_000)).unwrap();
    }
    (state, now)
}

fn beat(rank: u32, phase: &str, step: u64, since_ms: u64) -> Heartbeat {
    Heartbeat { rank, phase: phase.into(), step, since_ms, ..Heartbeat::default() }
}

/// A heartbeat: rank, phase, step, and milliseconds in the phase and since the heartbeat.
type Beat = (u32, &'static str, u64, u64, u64);

#[test]
fn a_phase_has_a_limit_and_the_message_names_its_option() {
    #[track_caller]
    fn check(beats: &[Beat], median_ms: u64, expected: Option<&str>) {
        let (mut state, begin) = joined(3, Limits::default());
        let now = begin + Duration::from_secs(100_000);
        for (rank, phase, step, since, ago) in beats {
            let beat = Heartbeat { step_micros: median_ms * 1000, ..beat(*rank, phase, *step, *since) };
            state.beat(beat, now - Duration::from_millis(*ago));
        }
        assert_eq!(state.watch(now), expected.is_some());
        assert_eq!(state.loss().map(crate::error::describe).as_deref(), expected);
    }
    let others: [Beat; 2] = [(0, "load", 0, 0, 0), (2, "load", 0, 0, 0)];
    let with = |beat: Beat| [others[0], beat, others[1]];
    check(&with((1, "load", 0, 90_000_000, 9_000)), 0, None);
    check(
        &with((1, "step", 7, 0, 10_000)),
        0,
        Some("lost rank 1 (h1) in step 7: no heartbeat for 10 s, the limit is 10 s (--dead-after)"),
    );
    for (phase, limit) in [("compile", 3_600), ("save", 3_600), ("evaluate", 3_600)] {
        check(&with((1, phase, 7, limit * 1_000, 0)), 0, None);
        let expected = format!(
            "lost rank 1 (h1) in phase `{phase}` at step 7: no progress for {} s, the limit is {limit} s (--limit \
             {phase}=SECONDS)",
            limit + 5
        );
        check(&with((1, phase, 7, (limit + 5) * 1_000, 0)), 0, Some(&expected));
    }
    // The limit of a step is 20 medians.
    check(&with((1, "step", 7, 200_000, 0)), 10_000, None);
    check(
        &with((1, "step", 7, 201_000, 0)),
        10_000,
        Some("lost rank 1 (h1) in step 7: no progress for 201 s, the limit is 200 s (--limit step=SECONDS)"),
    );
    // The time since the last heartbeat does not count: the rank may have gone on.
    check(&with((1, "step", 7, 199_000, 5_000)), 10_000, None);
}

#[test]
fn the_most_likely_cause_is_named_first() {
    #[track_caller]
    fn check(beats: [Beat; 3], expected: &str) {
        let (mut state, begin) = joined(3, Limits { save: Duration::from_secs(60), ..Limits::default() });
        let now = begin + Duration::from_secs(100_000);
        for (rank, phase, step, since, ago) in beats {
            state.beat(beat(rank, phase, step, since), now - Duration::from_millis(ago));
        }
        assert!(state.watch(now));
        let told = crate::error::describe(state.loss().unwrap());
        assert!(told == expected, "{told}");
        assert!(!state.watch(now), "there is one loss");
    }
    let stuck = |rank, step| (rank, "save", step, 61_000, 0);
    check(
        [stuck(0, 5), stuck(1, 4), stuck(2, 5)],
        "lost rank 1 (h1) in phase `save` at step 4: no progress for 61 s, the limit is 60 s (--limit save=SECONDS)",
    );
    check(
        [stuck(0, 5), stuck(1, 5), (2, "save", 5, 0, 11_000)],
        "lost rank 2 (h2) in phase `save` at step 5: no heartbeat for 11 s, the limit is 10 s (--dead-after)",
    );
    // The next heartbeat of the rank that is behind would say that it is stuck.
    check(
        [stuck(0, 5), (1, "save", 4, 58_400, 900), stuck(2, 5)],
        "lost rank 1 (h1) in phase `save` at step 4: no progress for 58 s, the limit is 60 s (--limit \
         save=SECONDS), and others have reached it",
    );
    check(
        [stuck(0, 5), (1, "save", 4, 57_500, 900), stuck(2, 5)],
        "lost rank 0 (h0) in phase `save` at step 5: no progress for 61 s, the limit is 60 s (--limit \
         save=SECONDS); the same holds for rank 2",
    );
    let all = "lost rank 0 (h0) in phase `save` at step 5: no progress for 61 s, the limit is 60 s (--limit \
               save=SECONDS); the same holds for rank 1, 2";
    check([stuck(0, 5), stuck(1, 5), stuck(2, 5)], all);
}

#[test]
fn missing_ranks_are_named_with_what_they_did() {
    let now = Instant::now();
    let mut state = State::new(4, Limits::default());
    for rank in [0, 2] {
        state.join(&request(rank, 4), Number(rank.into()), (now, 0)).unwrap();
    }
    assert_eq!(state.missing(), "these ranks have not joined: 1, 3");
    state.withdraw(Number(2));
    assert_eq!(state.missing(), "these ranks have not joined: 1, 3; these ranks joined and ended again: 2");
    state.join(&request(2, 4), Number(2), (now, 0)).unwrap();
    assert_eq!(state.missing(), "these ranks have not joined: 1, 3");
    state.join(&request(1, 4), Number(1), (now, 0)).unwrap();
    state.join(&request(3, 4), Number(3), (now, 0)).unwrap();
    state.beat(beat(3, "compile", 0, 10), now);
    let here = MeetRequest { rank: 0, name: "b".into(), ..MeetRequest::default() };
    state.arrive(here).unwrap();
    assert_eq!(state.absent("b"), "rank 1 (h1), rank 2 (h2), rank 3 (h3, phase `compile` at step 0)");
}

#[test]
fn clocks_are_compared_with_that_of_rank_0() {
    let (state, _) = joined(2, Limits::default());
    let offsets: Vec<i64> = state.members().unwrap().iter().map(|member| member.clock_offset_ms).collect();
    assert_eq!(offsets, [30_000, 30_000]);
}

#[test]
fn places_that_contradict_the_job_are_refused() {
    let now = Instant::now();
    let mut state = State::new(2, Limits::default());
    state.join(&request(1, 2), Number(1), (now, 0)).unwrap();
    state.join(&request(1, 2), Number(1), (now, 0)).expect("a repeated call of the same process");
    let mut check = |request: JoinRequest, expected: &str| {
        assert_eq!(state.join(&request, Number(9), (now, 0)), Err(Refusal::Invalid(expected.into())));
    };
    check(
        JoinRequest { incarnation: 9, pid: 8, host: "h9".into(), ..request(1, 2) },
        "rank 1 was started twice: by process 7 on h1 and by process 8 on h9",
    );
    check(request(2, 2), "rank 2 (h2) does not exist in a job of 2 processes");
    check(request(0, 3), "rank 0 (h0) was started for 3 processes, the coordinator for 2");
}

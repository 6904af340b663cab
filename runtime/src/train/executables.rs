//! A comparison of the executables of all processes of a run.

use crate::{Compilation, Error, Result};
use job::{Job, member::Contribution};
use serde::{Deserialize, Serialize};

/// An executable, as the processes tell each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Seen {
    function: String,
    /// Executables from a cache are not compared: a plugin need not give them the same fingerprint.
    cached: bool,
    fingerprint: Option<String>,
}

/// Compares what this process has just compiled, called `what`, with the other processes. Programs and
/// plugins are equal by then, so a difference comes from something that no one compares: a compiler that
/// depends on the machine.
///
/// # Errors
/// Executables differ, or another process is lost.
pub fn compare(job: &Job, what: &str, compilations: &[Compilation]) -> Result<()> {
    if job.size() == 1 {
        return Ok(());
    }
    let seen = |compilation: &Compilation| Seen {
        function: compilation.function.clone(),
        cached: compilation.cached,
        fingerprint: compilation.fingerprint.clone(),
    };
    let own: Vec<Seen> = compilations.iter().map(seen).collect();
    let failed = |why: String| Error::Job(format!("comparing the executables of {what}: {why}"));
    let payload = serde_json::to_vec(&own).map_err(|e| failed(e.to_string()))?;
    let here = Contribution { payload, ..Contribution::default() };
    let meeting = job.meet(&format!("compiled {what}"), here, job.limits().compile);
    let payloads = meeting.map_err(|e| Error::Job(e.to_string()))?.payloads;
    for (rank, payload) in payloads.iter().enumerate() {
        let other: Vec<Seen> = serde_json::from_slice(payload).map_err(|e| failed(e.to_string()))?;
        for (a, b) in own.iter().zip(&other) {
            let compared = !a.cached && !b.cached && a.fingerprint.is_some() && b.fingerprint.is_some();
            if compared && a.fingerprint != b.fingerprint {
                let text = |seen: &Seen| seen.fingerprint.clone().unwrap_or_default();
                return Err(Error::Disagreement(format!(
                    "`{}` became another executable on rank {rank} than on rank {}: {} and {}\n  help: all hosts \
                     need the same kind of machine, and the same variables that plugins read",
                    a.function,
                    job.rank(),
                    text(b),
                    text(a)
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use job::{Coordinator, Limits};
    use std::{sync::Mutex, thread, time::Duration};

    /// Compares the compilations of two processes, and returns what each of them says.
    fn compared(own: [Compilation; 2]) -> Vec<Option<String>> {
        let limits = Limits { dead_after: Duration::from_secs(5), ..Limits::default() };
        let any = "127.0.0.1:0".parse().unwrap();
        let coordinator = Coordinator::serve(any, 2, "token", limits.clone()).unwrap();
        let address = coordinator.address().to_string();
        let first = Mutex::new(Some(coordinator));
        thread::scope(|scope| {
            let processes: Vec<_> = (0..2)
                .map(|rank| {
                    let (address, limits, first, own) = (&address, limits.clone(), &first, &own);
                    scope.spawn(move || {
                        let coordinator = if rank == 0 { first.lock().unwrap().take() } else { None };
                        let on_loss = Box::new(|_: &job::Loss| ());
                        let place = (rank, 2);
                        let job = Job::join(address, place, "token", limits, coordinator, on_loss).unwrap();
                        let own = std::slice::from_ref(&own[rank as usize]);
                        let result = compare(&job, "step", own).err().map(|e| e.to_string());
                        job.leave(None);
                        result
                    })
                })
                .collect();
            processes.into_iter().map(|process| process.join().unwrap()).collect()
        })
    }

    fn compilation(fingerprint: &str, cached: bool) -> Compilation {
        let fingerprint = Some(fingerprint.to_owned());
        let elapsed = Duration::ZERO;
        Compilation { function: "step".into(), cached, elapsed, entry: None, note: None, fingerprint }
    }

    #[test]
    fn executables_are_equal_on_all_ranks() {
        assert_eq!(compared([compilation("a", false), compilation("a", false)]), [None, None]);
        assert_eq!(compared([compilation("a", true), compilation("b", false)]), [None, None]);
        for error in compared([compilation("a", false), compilation("b", false)]) {
            let error = error.expect("they differ");
            assert!(error.contains("`step` became another executable on rank"), "{error}");
        }
    }
}

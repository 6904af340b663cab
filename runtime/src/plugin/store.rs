//! The store of a job, as plugins use it to exchange addresses while they create their clients.

use job::{Error, Job};
use pjrt::{Code, KeyValueStore, StoreError};
use std::{sync::Arc, time::Duration};

/// Keys of plugins begin with this, so that they cannot collide with those of the job itself.
const PREFIX: &[u8] = b"plugin/";

/// The store of a job.
#[derive(Debug)]
pub struct JobStore {
    job: Arc<Job>,
}

impl JobStore {
    /// Returns the store of `job`, for [`pjrt::ClientOptions::store`].
    pub fn shared(job: &Arc<Job>) -> Arc<dyn KeyValueStore> {
        Arc::new(Self { job: job.clone() })
    }

    fn get_within(&self, key: &[u8], limit: Duration) -> Result<Option<Vec<u8>>, StoreError> {
        self.job.get(&own(key), limit).map_err(|error| failed(&error))
    }
}

impl KeyValueStore for JobStore {
    fn get(&self, key: &[u8], limit: Duration) -> Result<Vec<u8>, StoreError> {
        let late = || {
            let key = String::from_utf8_lossy(key);
            let limit = limit.as_secs_f64();
            StoreError::new(Code::DeadlineExceeded, format!("no process has put `{key}` within {limit:.1} s"))
        };
        self.get_within(key, limit)?.ok_or_else(late)
    }

    fn try_get(&self, key: &[u8]) -> Result<Vec<u8>, StoreError> {
        let absent =
            || StoreError::new(Code::NotFound, format!("there is no `{}`", String::from_utf8_lossy(key)));
        self.get_within(key, Duration::ZERO)?.ok_or_else(absent)
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.job.put(&own(key), value).map_err(|error| failed(&error))
    }
}

fn own(key: &[u8]) -> Vec<u8> {
    [PREFIX, key].concat()
}

fn failed(error: &Error) -> StoreError {
    let code = match error {
        Error::Lost(_) => Code::Aborted,
        Error::Refused(_) => Code::AlreadyExists,
        Error::Deadline(_) => Code::DeadlineExceeded,
        Error::Place(_) | Error::Connection(_) => Code::Unavailable,
    };
    StoreError::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use job::{Coordinator, Limits};
    use std::thread;

    fn join(rank: u32, address: &str, coordinator: Option<Coordinator>) -> Arc<Job> {
        let limits = Limits { dead_after: Duration::from_secs(5), ..Limits::default() };
        let on_loss = Box::new(|_: &job::Loss| ());
        Arc::new(Job::join(address, (rank, 2), "token", limits, coordinator, on_loss).unwrap())
    }

    #[test]
    fn what_one_process_puts_another_gets() {
        let any = "127.0.0.1:0".parse().unwrap();
        let coordinator = Coordinator::serve(any, 2, "token", Limits::default()).unwrap();
        let address = coordinator.address().to_string();
        let second = thread::spawn({
            let address = address.clone();
            move || join(1, &address, None)
        });
        let first = join(0, &address, Some(coordinator));
        let second = second.join().unwrap();
        let (here, there) = (JobStore::shared(&first), JobStore::shared(&second));
        let key = b"local_topology/gpu/1";
        assert_eq!(here.try_get(key).unwrap_err().code, Code::NotFound);
        let late = here.get(key, Duration::from_millis(50)).unwrap_err();
        assert_eq!(late.code, Code::DeadlineExceeded);
        assert!(late.message.contains("no process has put `local_topology/gpu/1` within 0.1 s"), "{late}");
        let waits = thread::spawn({
            let here = here.clone();
            move || here.get(key, Duration::from_secs(10))
        });
        there.put(key, b"10.0.0.2:1234\0more").unwrap();
        assert_eq!(waits.join().unwrap().unwrap(), b"10.0.0.2:1234\0more");
        assert_eq!(here.try_get(key).unwrap(), b"10.0.0.2:1234\0more");
        let refused = here.put(key, b"another").unwrap_err();
        assert_eq!(refused.code, Code::AlreadyExists, "{refused}");
        thread::scope(|scope| {
            scope.spawn(|| second.leave(None));
            first.leave(None);
        });
    }
}

//! A process of a job: it joins, and ends so that the others know why.

use super::options::HostOptions;
use crate::failure::failure;
use anyhow::{Context, Result};
use job::{
    Coordinator, Found, Job, Loss, Place,
    discover::discover,
    member::{self, OnLoss},
};
use signal_hook::low_level::exit;
use std::{
    env,
    io::Write,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

/// The variable with the job's secret.
pub const TOKEN: &str = "MESH_JOB_TOKEN";
/// The time in which the last orders of rank 0 reach the other ranks, after which it may end.
const LAST_ORDERS: Duration = Duration::from_millis(300);

/// This process and its job.
#[derive(Debug)]
pub struct Member {
    /// The job.
    pub job: Arc<Job>,
    /// The place in it. `None` means that this process runs alone.
    place: Option<Place>,
}

/// An error that all processes of the job know.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Agreed(pub String);

impl Member {
    /// Joins the job that `options` or the environment describe. `tpu` is true if this is a host of a TPU
    /// slice.
    ///
    /// # Errors
    /// The description is contradictory, the coordinator cannot be reached or refuses this process, or a rank
    /// does not come.
    pub fn join(options: &HostOptions, tpu: bool, say: fn(&str)) -> Result<Self> {
        let variable = |name: &str| env::var(name).ok();
        let limits = options.limits.clone();
        let found = discover(&options.flags, &variable, tpu).map_err(|e| {
            failure(e.to_string(), "give --hosts, --rank and --coordinator, or correct the environment")
        })?;
        let Some(Found { mut place, source }) = found else {
            return Ok(Self { job: Arc::new(Job::alone()), place: None });
        };
        let token = variable(TOKEN).unwrap_or_else(|| {
            if place.rank == 0 {
                say(&format!(
                    "warning: {TOKEN} is not set: every process that reaches the coordinator may join"
                ));
            }
            "none".to_owned()
        });
        let (size, within) = (place.size, limits.join.as_secs_f64());
        let wrong = move |e: job::Error| {
            let help = format!(
                "all {size} hosts must start within {within:.0} s (--join-within), with the same --coordinator and {TOKEN}"
            );
            failure(e.to_string(), help)
        };
        let is_first = place.rank == 0;
        let coordinator = is_first.then(|| {
            let address = member::resolve(&place.coordinator)?;
            Coordinator::serve(address, place.size as usize, &token, limits.clone())
        });
        let coordinator = coordinator.transpose().map_err(wrong)?;
        if let Some(coordinator) = coordinator.as_ref().filter(|_| place.coordinator.ends_with(":0")) {
            place.coordinator = coordinator.address().to_string();
            tell_launcher(&place.coordinator)?;
        }
        say(&format!("waiting for {} processes at {} ({source})", place.size, place.coordinator));
        let on_loss: OnLoss = Box::new(move |loss| end_after_loss(loss, is_first, say));
        let joined = Job::join(
            &place.coordinator,
            (place.rank, place.size),
            &token,
            limits.clone(),
            coordinator,
            on_loss,
        );
        let job = match joined {
            Err(job::Error::Lost(loss)) => end_after_loss(&loss, is_first, say),
            joined => joined.map_err(wrong)?,
        };
        say(&format!("rank {} of {} by {source}, process {}", place.rank, place.size, std::process::id()));
        let member = Self { job: Arc::new(job), place: Some(place) };
        if member.job.is_first() {
            warnings_of_clocks(member.job.members()).iter().for_each(|warning| say(warning));
        }
        Ok(member)
    }

    /// Returns true if the job has a coordinator, even if it has only one process.
    pub fn is_in_job(&self) -> bool {
        self.place.is_some()
    }

    /// Returns the place in the job. `None` means that this process runs alone.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// Returns the address at which the other processes reach this one.
    ///
    /// # Errors
    /// The coordinator has no address.
    pub fn address(&self) -> Result<IpAddr> {
        let Some(place) = &self.place else { return Ok(IpAddr::from([127, 0, 0, 1])) };
        let coordinator: SocketAddr = member::resolve(&place.coordinator)?;
        let any: SocketAddr = if coordinator.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        // Connecting a datagram socket sends nothing. It selects the address of the route.
        let address = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(coordinator)?;
            socket.local_addr()
        });
        Ok(address.map_or(coordinator.ip(), |address| address.ip()))
    }

    /// Ends the part of this process with the result of its work, and returns its exit code.
    ///
    /// # Errors
    /// The work failed: the other processes are told and end too.
    pub fn end(&self, result: Result<ExitCode>) -> Result<ExitCode> {
        match result {
            Ok(code) => {
                // A process that ends closes the connections on which others may still wait for its part of
                // the last step.
                let limit = self.job.limits().save;
                self.job.meet("end", member::Contribution::default(), limit)?;
                self.job.leave(None);
                Ok(code)
            }
            Err(error) => {
                let is_agreed = error.downcast_ref::<Agreed>().is_some() || is_disagreement(&error);
                if self.is_in_job() && !is_agreed {
                    self.fail(&error);
                } else {
                    self.job.leave(None);
                }
                Err(error)
            }
        }
    }

    /// Tells the other processes that this one failed.
    ///
    /// If a process is lost, the calls of the others fail too, before or after they hear of the loss. An
    /// error that may be such a consequence is reported only if no loss becomes known.
    fn fail(&self, error: &anyhow::Error) {
        let of_runtime = error.chain().find_map(|cause| cause.downcast_ref::<runtime::Error>());
        let is_job = error.chain().any(|cause| cause.is::<job::Error>());
        let is_consequence = is_job
            || of_runtime.is_some_and(|e| matches!(e, runtime::Error::Job(_) | runtime::Error::Pjrt { .. }));
        if is_consequence {
            thread::sleep(self.job.limits().dead_after + Duration::from_secs(1));
        }
        let text = format!("{error:#}");
        self.job.leave(Some(text.lines().next().unwrap_or("it failed")));
    }
}

/// Tells the process that started this one, which is rank 0, the address at which rank 0 serves the others.
/// Standard input is a connection to that process.
fn tell_launcher(address: &str) -> Result<()> {
    let launcher = std::io::stdin().as_fd().try_clone_to_owned();
    let told = launcher.and_then(|fd| UnixStream::from(fd).write_all(format!("{address}\n").as_bytes()));
    told.context("telling the process that started this one the address of rank 0")
}

/// Returns a warning for each clock that differs from that of rank 0: times in logs and files do not match.
fn warnings_of_clocks(members: &[job::Member]) -> Vec<String> {
    let warning = |member: &job::Member| {
        let seconds = member.clock_offset_ms as f64 / 1e3;
        (seconds.abs() > 5.0).then(|| {
            format!(
                "warning: the clock of rank {} ({}) differs by {seconds:+.0} s from that of rank 0",
                member.rank, member.host
            )
        })
    };
    members.iter().filter_map(warning).collect()
}

/// True if all processes have this error.
fn is_disagreement(error: &anyhow::Error) -> bool {
    let found = error.chain().find_map(|cause| cause.downcast_ref::<runtime::Error>());
    found.is_some_and(|error| matches!(error, runtime::Error::Disagreement(_)))
}

/// Shows the loss of another rank and ends the process with the code for which a cluster starts it again.
/// The main thread may be inside a call of the plugin that never returns.
fn end_after_loss(loss: &Loss, is_first: bool, say: fn(&str)) -> ! {
    say(&format!("error: {}", job::Error::Lost(loss.clone())));
    if is_first {
        thread::sleep(LAST_ORDERS);
    }
    // Skips the destructors of plugin libraries, which may still be running.
    exit(member::RESTART_CODE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_warned_of() {
        let member = |rank, clock_offset_ms| job::Member { rank, host: "h".into(), pid: 1, clock_offset_ms };
        let warnings =
            warnings_of_clocks(&[member(0, 0), member(1, 4_000), member(2, -61_000), member(3, 7_200_000)]);
        let told = |rank: u32, by: &str| {
            format!("warning: the clock of rank {rank} (h) differs by {by} s from that of rank 0")
        };
        assert_eq!(warnings, [told(2, "-61"), told(3, "+7200")]);
    }
}

//! The processes that run a command together.

use super::ranges::{at_least_one, positive, whole_32};
use driver::hosts::HostOptions;
use job::{Limits, discover::Flags, limits::PhaseLimit};
use std::time::Duration;

/// The place of this process among those that run a command together, or the number of processes to start.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct HostArgs {
    /// Number of hosts, each of which runs this command with its own --rank. Default: found on GKE, on TPU
    /// VMs, under SLURM and Open MPI
    #[arg(long, value_name = "N", requires = "rank", requires = "coordinator", value_parser = at_least_one,
        allow_negative_numbers = true)]
    hosts: Option<usize>,
    /// Rank of this host, from 0
    #[arg(long, value_name = "I", requires = "hosts", value_parser = whole_32,
        allow_negative_numbers = true)]
    rank: Option<u32>,
    /// Address at which rank 0 serves the others. MESH_JOB_TOKEN must have the same value on all hosts
    #[arg(long, value_name = "HOST:PORT", requires = "hosts")]
    coordinator: Option<String>,
    /// Start N processes on this machine that run the command together on the CPU plugin: for tests, and to
    /// try a layout over several hosts
    #[arg(long, value_name = "N", conflicts_with = "hosts", value_parser = at_least_one,
        allow_negative_numbers = true)]
    processes: Option<usize>,
    /// Seconds without a sign of life after which a host counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive,
        allow_negative_numbers = true)]
    dead_after: f64,
    /// Seconds to wait for all hosts at the start
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = positive,
        allow_negative_numbers = true)]
    join_within: f64,
    /// Longest time of a phase (compile, step, save or evaluate), after which a host counts as lost;
    /// repeatable. Default: 3600 seconds; for a step 1800 seconds at first, then 20 times the median, at
    /// least 60 seconds
    #[arg(long, value_name = "PHASE=SECONDS")]
    limit: Vec<PhaseLimit>,
}

impl HostArgs {
    /// Returns the place, the deadlines and the local processes.
    pub fn options(&self) -> HostOptions {
        // A year, to which larger values are reduced, is a duration on every platform.
        let seconds = |seconds: f64| Duration::from_secs_f64(seconds.min(31e6));
        let dead_after = seconds(self.dead_after);
        let defaults = Limits::default();
        let hosts = self.hosts.map(|hosts| u32::try_from(hosts).unwrap_or(u32::MAX));
        let mut limits = Limits {
            join: seconds(self.join_within),
            heartbeat: defaults.heartbeat.min(dead_after / 4),
            dead_after,
            ..defaults
        };
        self.limit.iter().for_each(|limit| limits.set(*limit));
        HostOptions {
            flags: Flags { hosts, rank: self.rank, coordinator: self.coordinator.clone() },
            limits,
            processes: self.processes,
            restarts: 0,
        }
    }
}

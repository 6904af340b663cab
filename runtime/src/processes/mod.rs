//! Collectives between processes on CPU plugins, which only have collectives within a process.
//!
//! Programs are rewritten so that their collectives are custom calls (`proto::hlo_processes`). Every process
//! runs the program on its own devices; [`exchange`] answers the calls, with data of the other processes from
//! [`connections`]. This is for tests and for trying layouts: it copies through TCP, one operand at a time.
//!
//! Results are the same bits as those of one process: sums are formed in the order of the devices in their
//! group, as XLA's own collectives on CPUs form them.

mod connections;
mod exchange;
mod reduce;

pub use exchange::Exchange;

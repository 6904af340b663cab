//! Collectives between processes on CPU plugins, which only have collectives within a process.
//!
//! Programs are rewritten so that their collectives are custom calls (`proto::hlo_processes`). Every process
//! runs the program on its own devices; `exchange` answers the calls, with data of the other processes from
//! `connections`. This is for tests and for trying layouts: it copies through TCP, one operand at a time.
//!
//! Results do not depend on the number of processes, to the bit: sums are formed in the order of the devices
//! in their group, which is also the order of XLA's all-reduce on CPUs. A process without the rewrite agrees
//! to rounding only (ADR 12).

mod connections;
mod exchange;
mod reduce;

pub use exchange::Exchange;

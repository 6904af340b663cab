//! The commands, one file each. A command never uses another command.

pub mod check;
pub mod checkpoint;
pub mod compile;
pub mod convert;
pub mod data;
pub mod eval;
pub mod explain;
pub mod generate;
pub mod models;
pub mod new;
pub mod plan;
pub mod plugin;
pub mod report;
pub mod routes;
pub mod run;
pub mod runs;
pub mod score;
pub mod selftest;
pub mod shell;
pub mod slice;
pub mod tasks;
pub mod train;

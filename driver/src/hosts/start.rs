//! The start of a command that can run in several processes.

use super::{HostOptions, launch, member::Member};
use crate::{Request, failure::failure};
use anyhow::Result;
use job::discover::{Found, discover};
use runtime::plugin::tpu;
use std::{env, fs, path::Path, process::ExitCode, sync::atomic::AtomicBool};

/// Runs `work` alone, as a member of the job that `options` or the environment describe, or in all the local
/// processes of `--processes`. `input` is a file that every process reads.
///
/// # Errors
/// Among others, if `input` is standard input, which only one process can read.
pub fn run(
    options: &HostOptions,
    mut request: Request,
    input: Option<&Path>,
    work: impl FnOnce(&Member, &Request) -> Result<()>,
) -> Result<ExitCode> {
    let size = launch::wanted(options);
    if size.is_some() {
        refuse_standard_input(input)?;
    }
    if let Some(size) = size {
        let logs = launch::logs(None)?;
        let code = launch::run(options, size, true, &logs, &AtomicBool::new(false), request.host.say)?;
        if code == ExitCode::SUCCESS {
            // Logs of processes that succeeded are of no use. A folder that cannot be removed is no failure.
            let _ = fs::remove_dir_all(&logs);
        }
        return Ok(code);
    }
    let member = join(options, &request)?;
    request.several_hosts = member.is_in_job();
    let done = match member.is_in_job() {
        true => refuse_standard_input(input).and_then(|()| work(&member, &request)),
        false => work(&member, &request),
    };
    member.end(done.map(|()| ExitCode::SUCCESS))
}

/// Joins the job that `options` or the environment describe; alone if there is none.
///
/// # Errors
/// See [`Member::join`].
pub fn join(options: &HostOptions, request: &Request) -> Result<Member> {
    launch::follow_launcher(request.host.say);
    let is_tpu = request.is_for_tpus() && tpu::is_google_machine(Path::new("/"));
    Member::join(options, is_tpu, request.host.say)
}

/// Refuses a command that runs in one process in all processes of a job but the first. A command that only
/// the first process can be asked for, as in the script of a batch job, is not refused.
///
/// # Errors
/// The environment says that this is another process of a job.
pub fn stay_on_one(command: &str) -> Result<()> {
    let found = discover(&job::discover::Flags::default(), &|name| env::var(name).ok(), false);
    // A description that is contradictory is of no interest to a command that does not use it.
    let Ok(Some(Found { place, source })) = found else { return Ok(()) };
    if place.rank == 0 {
        return Ok(());
    }
    Err(failure(
        format!(
            "`meshc {command}` runs in one process, and this is rank {} of {} by {source}: rank 0 runs it",
            place.rank, place.size
        ),
        "start it once, for example outside of the job; `meshc train`, `generate`, `eval` and `score` run in \
         several processes",
    ))
}

fn refuse_standard_input(input: Option<&Path>) -> Result<()> {
    if input.is_none_or(|input| input != Path::new("-")) {
        return Ok(());
    }
    Err(failure(
        "`--input -`: only one process can read standard input, and all processes of a job need the inputs",
        "write them to a file that all processes can read, and name it with --input",
    ))
}

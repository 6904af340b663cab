//! Sessions of processes that address some devices of the mesh.

use super::member::Member;
use crate::{
    Request,
    device::{self, Chosen},
};
use anyhow::Result;
use job::{Job, member::Contribution};
use pjrt::{Client, ClientOptions};
use runtime::{
    Artefact, Error, Session,
    plugin::{JobStore, Platform, gpu},
    processes::Exchange,
    session::Placement,
};
use std::{env, time::Duration};

/// The time in which all processes create their clients. On a pod this waits for the slowest host.
const CLIENTS: Duration = Duration::from_secs(1800);

/// Opens a session for `artefact` in the job of `member`, and checks that every device of the mesh belongs to
/// one process.
///
/// # Errors
/// The client cannot be created, or the processes do not have the devices of the mesh.
pub fn session(request: &Request, chosen: &Chosen, artefact: Artefact, member: &Member) -> Result<Session> {
    if chosen.platform == Platform::Cpu {
        return cpu_session(request, chosen, artefact, member);
    }
    let devices = proto::manifest_check::devices(&artefact.manifest).unwrap_or(1);
    let options = client_options(request, chosen.platform, devices, member);
    let session = device::with_options(chosen, request, artefact, options)?;
    compare(&member.job, &session.placement()?)?;
    Ok(session)
}

/// Returns the options of a client that knows the devices of all processes. Options that the user gave take
/// precedence.
fn client_options(request: &Request, platform: Platform, devices: u64, member: &Member) -> ClientOptions {
    let mut options = request.plugin.client_options(platform, devices).store(JobStore::shared(&member.job));
    if let (Platform::Gpu, Some(place)) = (platform, member.place()) {
        let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
        for (name, value) in gpu::options(place, visible.as_deref()) {
            if !options.options.iter().any(|(given, _)| *given == name) {
                options = options.with(name, value);
            }
        }
    }
    options
}

/// Opens a session of CPU processes, each of which has an equal part of the mesh.
fn cpu_session(request: &Request, chosen: &Chosen, artefact: Artefact, member: &Member) -> Result<Session> {
    let devices = proto::manifest_check::devices(&artefact.manifest).unwrap_or(1);
    let size = u64::from(member.job.size());
    if !devices.is_multiple_of(size) {
        return Err(Error::Disagreement(format!(
            "the mesh has {devices} devices, which {size} processes cannot share equally\n  help: choose --mesh so \
             that its number of devices is a multiple of the number of processes"
        ))
        .into());
    }
    let own = devices / size;
    let client = Client::create(&chosen.plugin, &request.plugin.client_options(chosen.platform, own))
        .map_err(Error::pjrt("creating a client"))?;
    let exchange = Exchange::connect(&member.job, usize::try_from(own)?, member.address()?)?;
    device::equipped(Session::of_process(client, artefact, &exchange)?, chosen, request)
}

/// Compares the devices that each process sees.
fn compare(job: &Job, own: &Placement) -> Result<()> {
    let here = Contribution { payload: serde_json::to_vec(own)?, ..Contribution::default() };
    let all = job.meet("devices", here, CLIENTS)?.payloads;
    let all: Vec<Placement> =
        all.iter().map(|bytes| serde_json::from_slice(bytes)).collect::<Result<_, _>>()?;
    // All processes compare the same values.
    Placement::compare(&all).map_err(|error| Error::Disagreement(error.to_string()).into())
}

//! A plugin's numbers about one function, cached on disk.

use crate::{
    ahead::Ahead,
    device,
    files::{cache, write_file},
    lower::{Watch, emit, lower},
    program::Program,
    request::Request,
    target::Target,
};
use anyhow::{Context, Result};
use compiler::{
    artefact::{Artefact, digest},
    pipeline::{Placement, Stage},
};
use report::compiled::Compiled;
use std::{
    fs,
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// Compiles the only function of a program and returns its numbers; from the cache, if `is_cached`.
///
/// `None` means that `stop` was set; the inner error is the plugin's message for a program that does not fit.
pub fn measure(
    request: &Request,
    target: &Target,
    program: &Program,
    placement: &Placement,
    is_cached: bool,
    stop: &AtomicBool,
) -> Result<Option<Result<Compiled, String>>> {
    let mut watch = Watch::default();
    let lowered = lower(program, placement, Stage::Hlo, &mut watch)?.context("all stages ran")?;
    let artefact = emit(program, placement, target, &request.flags.of(target)?, &lowered, &mut watch)?;
    let file = if is_cached { cache_file(request, target, &artefact) } else { None };
    let known = file.as_ref().and_then(|file| serde_json::from_slice(&fs::read(file).ok()?).ok());
    if let Some(known) = known {
        return Ok(Some(Ok(known)));
    }
    let outcome = interruptible(request, target, placement, artefact, stop)?;
    if let (Some(Ok(compiled)), Some(file)) = (&outcome, &file)
        && let Ok(bytes) = serde_json::to_vec(compiled)
    {
        // A cache that cannot be written only costs time.
        let _ = write_file(file, &bytes);
    }
    Ok(outcome)
}

/// Compiles in a separate thread, so that a stop need not wait for libtpu, which cannot be interrupted.
fn interruptible(
    request: &Request,
    target: &Target,
    placement: &Placement,
    artefact: Artefact,
    stop: &AtomicBool,
) -> Result<Option<Result<Compiled, String>>> {
    let (send, receive) = mpsc::channel();
    let (request, target, mesh) = (request.clone(), target.clone(), placement.mesh.clone());
    thread::spawn(move || {
        let compiled = || -> Result<Result<Compiled, String>> {
            let ahead = Ahead::new(&request, &target, &mesh)?;
            let function = artefact.manifest.functions.first().context("the artefact has the function")?;
            Ok(ahead.compile(&artefact, function)?.map(|o| o.compiled).map_err(|e| e.0))
        };
        // After a stop nobody receives the result.
        let _ = send.send(compiled());
    });
    loop {
        match receive.recv_timeout(Duration::from_millis(100)) {
            Ok(result) => return result.map(Some),
            Err(mpsc::RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => return Ok(None),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                anyhow::bail!("the compiler's thread ended without a result")
            }
        }
    }
}

/// Returns the cache file for the plugin's numbers about exactly this program. `None` if there is no plugin
/// or no cache.
fn cache_file(request: &Request, target: &Target, artefact: &Artefact) -> Option<PathBuf> {
    let found = device::load(request, target.platform()).ok()?.found.path;
    let size = fs::metadata(&found).map(|m| m.len()).unwrap_or_default();
    let mut key = format!("{} {} {size} ", artefact.manifest.target, found.display()).into_bytes();
    artefact.files.iter().for_each(|(_, bytes)| key.extend(digest(bytes).bytes()));
    let name = format!("compiled-{}.json", &digest(&key)[..32]);
    Some(cache().ok()?.join("plans").join(name))
}

//! Defaults for TPU slices: selective precision, and a placement from a quick plan.

use crate::{failure::failure, program, request::Request};
use anyhow::Result;
use compiler::cost::target::Slice;
use mesh::Module;
use plan::{Candidate, Evaluator, Fixed, Model, Ranked, Space, search};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// The model of a request under different schedules.
pub struct Variants<'a> {
    /// The request.
    pub request: &'a Request,
}

impl Model for Variants<'_> {
    fn program(&self, schedule: &[String]) -> Option<Module> {
        program::load_variant(&self.request.scheduled(schedule)).ok().map(|program| program.module)
    }
}

/// The longest time of a quick plan. Candidates are estimated in the order of the search until then.
const WITHIN: Duration = Duration::from_secs(60);

/// Completes a request for a slice: if no precision is given and the model has one, it becomes selective; on
/// several devices, if neither a mesh nor a layout is given, a quick plan chooses them and the schedule.
/// Shows what was chosen, as options that pin it.
///
/// # Errors
/// The model cannot be loaded, no mesh is valid for it, or none was found in time.
pub fn completed(request: Request, function: Option<&str>) -> Result<Request> {
    let Some(slice) = request.target.target.as_ref().and_then(|target| target.slice()).cloned() else {
        return Ok(request);
    };
    let request = selective(request);
    let is_partitioned = |module: &Module| !module.env.mesh.axes().is_empty();
    if slice.devices() == 1 || !request.placement.is_empty() {
        return Ok(request);
    }
    let module = program::load_variant(&request)?.module;
    if is_partitioned(&module) {
        return Ok(request);
    }
    let function = function.map_or_else(|| main_function(&module), str::to_owned);
    let candidate = chosen(&request, &module, &slice, &function)?;
    let mut planned = request.scheduled(&candidate.schedule);
    let placement = candidate.placement()?;
    planned.placement.mesh = Some(placement.mesh);
    planned.placement.layout = Some(placement.layout);
    planned.placement.state_layout = Some(placement.state_layout);
    Ok(planned)
}

/// Selects selective precision if the model can have it and none is given.
fn selective(mut request: Request) -> Request {
    if request.settings.dtype.is_some() {
        return request;
    }
    request.settings.dtype = Some("selective".to_owned());
    if program::load_variant(&request).is_ok() {
        (request.host.say)("--dtype selective: the default for TPU slices");
    } else {
        // The model does not read the option, or has another mistake, which loading it reports.
        request.settings.dtype = None;
    }
    request
}

/// The function that a step calls: `train_step`, else `eval_step`, else the first.
fn main_function(module: &Module) -> String {
    let has = |name: &&str| module.functions.iter().any(|f| *f.name == **name);
    let named = ["train_step", "eval_step"].into_iter().find(has).map(str::to_owned);
    named.or_else(|| module.functions.first().map(|f| f.name.to_string())).unwrap_or_default()
}

fn chosen(request: &Request, module: &Module, slice: &Slice, function: &str) -> Result<Candidate> {
    let since = Instant::now();
    let model = Variants { request };
    let evaluator = Evaluator::new(&model, function, slice, None);
    let mut space = Space::new(module, slice.devices(), &Fixed::default());
    space.entries = evaluator.entries(&|key| request.settings.sets(key));
    let stop = AtomicBool::new(false);
    let in_time = |_: usize, _: usize, _: Option<&Ranked>| {
        stop.fetch_or(since.elapsed() > WITHIN, Ordering::Relaxed);
    };
    let found = search(&evaluator, &space, slice.hbm(), &stop, &in_time);
    let Some(best) = found.ranked.first() else {
        return Err(none_found(request, slice, stop.into_inner()));
    };
    (request.host.say)(&format!(
        "planned in {:.0} s, {} candidates estimated: {}",
        since.elapsed().as_secs_f64(),
        found.ranked.len(),
        best.candidate.options()
    ));
    Ok(best.candidate.clone())
}

/// Returns the error of a search without a valid candidate. `is_late` is true if the time ended it.
fn none_found(request: &Request, slice: &Slice, is_late: bool) -> anyhow::Error {
    let name = request.subject.display();
    if is_late {
        return failure(
            format!("no valid mesh for `{name}` was found within {} s", WITHIN.as_secs()),
            "choose one with --mesh, or search longer with `meshc plan`",
        );
    }
    let target = request.target.target.as_ref().map(ToString::to_string).unwrap_or_default();
    failure(
        format!("no mesh over the {} devices of {target} is valid for `{name}`", slice.devices()),
        "choose one with --mesh, and run `meshc check --mesh` to see the reason",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::Host,
        target::{Target, TargetOptions},
    };
    use runtime::HostAllocator;
    use std::path::Path;

    #[test]
    fn a_search_that_was_cut_off_does_not_say_that_no_mesh_is_valid() {
        let allocator = HostAllocator { in_use: || None, trim: || () };
        let host = Host { say: |_| (), keep_freed_memory: || (), allocator };
        let target: Target = "tpu:v5e:2x4".parse().expect("it is a target");
        let slice = target.slice().expect("it is a slice").clone();
        let target = TargetOptions { target: Some(target), ..TargetOptions::default() };
        let request = Request { target, ..Request::new(Path::new("m.rs"), host) };
        let text = |is_late| none_found(&request, &slice, is_late).to_string();
        assert_eq!(
            text(true),
            "no valid mesh for `m.rs` was found within 60 s\n  help: choose one with --mesh, or search longer \
             with `meshc plan`"
        );
        assert!(text(false).starts_with("no mesh over the 8 devices of tpu:v5e:2x4 is valid for `m.rs`\n"));
    }
}

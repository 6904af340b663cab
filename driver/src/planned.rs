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

/// Completes a request for a slice of several devices: if no precision is given and the model has one, it
/// becomes selective; if neither a mesh nor a layout is given, a quick plan chooses them and the schedule.
/// Shows what was chosen, as options that pin it.
///
/// # Errors
/// The model cannot be loaded, or no mesh is valid for it.
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
    let target = request.target.target.as_ref().map(ToString::to_string).unwrap_or_default();
    let Some(best) = found.ranked.first() else {
        let name = request.subject.display();
        return Err(failure(
            format!("no mesh over the {} devices of {target} is valid for `{name}`", slice.devices()),
            "choose one with --mesh, and run `meshc check --mesh` to see the reason",
        ));
    };
    (request.host.say)(&format!(
        "planned in {:.0} s, {} candidates estimated: {}",
        since.elapsed().as_secs_f64(),
        found.ranked.len(),
        best.candidate.options()
    ));
    Ok(best.candidate.clone())
}

//! Defaults for TPU slices: selective precision, and a placement from a quick plan.

use crate::{
    failure::failure, parts, placement::place, program, request::Request, settings::key, target::Target,
};
use anyhow::Result;
use compiler::{cost::target::Slice, pipeline::Placement};
use mesh::Module;
use plan::{Candidate, Evaluator, Fixed, Limits, Model, Ranked, moves, search, tuned};
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

    fn needed(&self, module: &Module, placement: &Placement) -> Option<String> {
        parts::entry(module, self.request, placement)
    }
}

/// The longest time of a quick plan. Candidates are estimated in the order of the search until then.
const WITHIN: Duration = Duration::from_secs(60);

/// Completes a request for a slice: if no precision is given and the model has one, it becomes selective; on
/// several devices, if neither a mesh nor a layout is given, a tuned configuration of the program or else a
/// quick plan chooses them and the schedule. Shows what was chosen, as options that pin it.
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
    if let Some(tuned) = tuned(&request, &module, &slice) {
        return Ok(tuned);
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

/// Returns the request with the tuned configuration of its program. `None` means that there is none, that the
/// user has given a schedule or flags, or that it does not suit the user's settings.
fn tuned(request: &Request, module: &Module, slice: &Slice) -> Option<Request> {
    if !request.settings.schedule.is_empty() || !request.flags.given.is_empty() {
        return None;
    }
    let tuned = tuned::find(module, slice)?;
    let mut configured = request.scheduled(&tuned.schedule);
    let is_given = |setting: &&String| request.settings.sets(key(setting));
    configured.settings.settings.extend(tuned.settings.iter().filter(|s| !is_given(s)).cloned());
    let pairs = tuned.flags.iter().filter_map(|flag| flag.split_once('='));
    configured.flags.given.extend(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    configured.target.target = Some(Target::Tpu(Box::new(tuned.slice())));
    configured.placement.mesh = Some(tuned.mesh());
    configured.placement.state_layout = Some(tuned.state_layout());
    let program = program::load_variant(&configured).ok()?;
    place(&program.module, &configured.placement).ok()?;
    (request.host.say)(&format!("tuned for {} on this slice: {}", tuned.program, tuned.options()));
    Some(configured)
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
    let is_given = |key: &str| request.settings.sets(key);
    let mut space = plan::space(&evaluator, module, slice.devices(), &Fixed::default(), &is_given);
    if space.states_no_rule() {
        space.dims = moves::dims(module, module.require_function(function)?);
    }
    let stop = AtomicBool::new(false);
    let in_time = |_: usize, _: usize, _: Option<&Ranked>| {
        stop.fetch_or(since.elapsed() > WITHIN, Ordering::Relaxed);
    };
    let limits = Limits { stop: &stop, until: None };
    let found = search(&evaluator, &space, slice.hbm(), limits, &in_time);
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
    use crate::{host::Host, target::TargetOptions};
    use runtime::HostAllocator;
    use std::path::Path;

    fn host() -> Host {
        let allocator = HostAllocator { in_use: || None, trim: || () };
        Host { say: |_| (), keep_freed_memory: || (), allocator }
    }

    fn request(program: &str, target: &str) -> Request {
        let target: Target = target.parse().expect("it is a target");
        let target = TargetOptions { target: Some(target), ..TargetOptions::default() };
        Request { target, ..Request::new(Path::new(program), host()) }
    }

    #[test]
    fn tuned_configurations_are_valid_for_the_built_in_models() {
        for tuned in tuned::all() {
            let slice = tuned.slice();
            let done =
                completed(request(&tuned.program, &format!("tpu:{slice}")), None).expect("it is completed");
            assert_eq!(done.placement.mesh.as_ref().map(ToString::to_string), Some(tuned.mesh.clone()));
            let module =
                program::load_variant(&done).expect("the settings and the schedule are valid").module;
            assert_eq!(tuned::parameters(&module), tuned.parameters, "{}", tuned.program);
            place(&module, &done.placement).expect("the layouts are valid");
        }
    }

    #[test]
    fn a_slice_that_states_no_mode_gets_that_of_the_tuned_configuration() {
        let done = completed(request("switch_xxl", "tpu:v4:8x8x8"), None).expect("it is completed");
        assert_eq!(done.target.target.map(|t| t.to_string()).as_deref(), Some("tpu:v4:8x8x8:megacore"));
        assert_eq!(done.settings.dtype.as_deref(), Some("selective"));
    }

    #[test]
    fn a_tuned_configuration_that_does_not_suit_the_settings_is_not_taken() {
        let chosen = |settings: &[&str]| {
            let mut request = request("switch_base", "tpu:v3:4x4");
            request.settings.settings = settings.iter().map(|s| (*s).to_owned()).collect();
            let module = program::load_variant(&request).expect("the settings are valid").module;
            tuned(&request, &module, &Slice::parse("v3:4x4").expect("it is a slice")).is_some()
        };
        assert!(chosen(&["capacity_factor=1"]));
        assert!(!chosen(&["experts=64"]), "it is another model");
    }

    #[test]
    fn a_search_that_was_cut_off_does_not_say_that_no_mesh_is_valid() {
        let request = request("m.rs", "tpu:v5e:2x4");
        let slice = Slice::parse("v5e:2x4").expect("it is a slice");
        let text = |is_late| none_found(&request, &slice, is_late).to_string();
        assert_eq!(
            text(true),
            "no valid mesh for `m.rs` was found within 60 s\n  help: choose one with --mesh, or search longer \
             with `meshc plan`"
        );
        assert!(text(false).starts_with("no mesh over the 8 devices of tpu:v5e:2x4 is valid for `m.rs`\n"));
    }
}

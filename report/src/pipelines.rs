//! Pipelines of a program: their stages, and the share of ticks in which a stage has no work.
//!
//! A pipeline of s stages through which m microbatches pass has m + s − 1 ticks, and each stage has work in m
//! of them (GPipe, Huang et al. 2019). The share of bubbles is (s − 1) / (m + s − 1), forward and backward.

use super::Pipeline;
use mesh::{
    Body, Function, Op,
    dsl::{STAGE, TICKS},
    ir::{Control, Phase, Scan},
};

/// The pipelines of the forward pass of a function, in program order.
pub(super) fn of(f: &Function) -> Vec<Pipeline> {
    let mut all = Vec::new();
    f.body.walk(&mut |_, inst| {
        if let Op::Control(Control::Scan(scan)) = &inst.op
            && inst.site.phase == Phase::Forward
            && let Some(stages) = stages(scan)
        {
            let microbatches = work(scan, stages);
            let bubbles = (stages - 1) as f64 / scan.dim.size as f64;
            all.push(Pipeline { scope: inst.site.scope.to_string(), stages, microbatches, bubbles });
        }
    });
    all
}

/// The trips of an operation's bodies in which a stage of a pipeline has no work.
pub(super) fn idle_trips(op: &Op) -> u64 {
    let Op::Control(Control::Scan(scan)) = op else { return 0 };
    scan.dim.size as u64 - trips_with_work(scan)
}

/// The trips of a loop in which a stage has work: all of them, unless it is a loop over the ticks of a
/// pipeline.
pub(super) fn trips_with_work(scan: &Scan) -> u64 {
    stages(scan).map_or(scan.dim.size, |stages| work(scan, stages)) as u64
}

/// The ticks in which each of `stages` has work.
fn work(scan: &Scan, stages: usize) -> usize {
    (scan.dim.size + 1).saturating_sub(stages)
}

/// The number of stages of a pipeline, of which `scan` is the loop over ticks; `None` for another loop.
fn stages(scan: &Scan) -> Option<usize> {
    if *scan.dim.name != *TICKS {
        return None;
    }
    let layers = scan.body.insts.iter().find_map(|inst| {
        let Op::Control(Control::Scan(own)) = &inst.op else { return None };
        own.dim.name.strip_prefix(STAGE)
    })?;
    carried(&scan.body, scan.carries, layers).filter(|stages| *stages > 0 && *stages <= scan.dim.size)
}

/// The size of the dim `name` in a carry.
fn carried(body: &Body, carries: usize, name: &str) -> Option<usize> {
    body.param_types().take(carries).find_map(|ty| ty.size(name))
}

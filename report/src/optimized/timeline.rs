//! Seconds of a step on a slice, from an optimized program in the order of its schedule.
//!
//! Arithmetic and memory take the cycles that the compiler estimates. The network is one resource: a
//! collective begins when the one before it has ended. An asynchronous collective runs beside the
//! instructions between its start and its end, and only the part that they do not cover is exposed; any
//! other collective is exposed whole. Loops are taken to begin with an idle network in every iteration.

use super::{
    ById, Sent,
    groups::{self, Groups},
    number_after, trips,
};
use compiler::cost::{target::Slice, time::Pattern};
use proto::xla::{HloComputationProto, HloInstructionProto, HloModuleProto};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// Estimated seconds of one call on a slice. The call takes `compute + exposed`.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StepTime {
    /// The compiler's estimated cycles at the clock of a core.
    pub compute: f64,
    /// All collectives.
    pub network: f64,
    /// The part of `network` that no computation covers.
    pub exposed: f64,
}

impl StepTime {
    /// Seconds of the call.
    pub fn total(&self) -> f64 {
        self.compute + self.exposed
    }
}

/// Estimates the time of `module` on `slice`. `None` if the compiler notes no cycles.
pub(super) fn step_time(
    module: &HloModuleProto,
    entry: &HloComputationProto,
    slice: &Slice,
) -> Option<StepTime> {
    let walk = Timeline {
        computations: module.computations.iter().map(|c| (c.id, c)).collect(),
        module,
        slice,
        hertz: slice.speed().hertz,
    };
    let time = walk.run(entry);
    (time.compute > 0.0).then_some(time)
}

struct Timeline<'m> {
    computations: FxHashMap<i64, &'m HloComputationProto>,
    module: &'m HloModuleProto,
    slice: &'m Slice,
    hertz: f64,
}

/// The state between two instructions of a computation, in seconds from its start.
#[derive(Default)]
struct Clock {
    now: f64,
    /// The time at which the network is idle.
    network_free: f64,
    /// The ends of collectives that were started, by the instruction that started them.
    ends: FxHashMap<i64, f64>,
    sum: StepTime,
}

impl Timeline<'_> {
    fn run(&self, of: &HloComputationProto) -> StepTime {
        let by_id: ById = of.instructions.iter().map(|i| (i.id, i)).collect();
        let mut clock = Clock::default();
        let scheduled = self.module.schedule.as_ref().and_then(|s| s.sequences.get(&of.id));
        match scheduled {
            Some(order) => order
                .instruction_ids
                .iter()
                .filter_map(|id| by_id.get(id))
                .for_each(|inst| self.instruction(of, inst, &by_id, &mut clock)),
            None => of.instructions.iter().for_each(|inst| self.instruction(of, inst, &by_id, &mut clock)),
        }
        StepTime { exposed: (clock.now - clock.sum.compute).max(0.0), ..clock.sum }
    }

    fn instruction(
        &self,
        of: &HloComputationProto,
        inst: &HloInstructionProto,
        by_id: &ById,
        clock: &mut Clock,
    ) {
        if let Some(cycles) = number_after(&inst.backend_config, b"\"estimated_cycles\":") {
            clock.compute(cycles as f64 / self.hertz);
        }
        let called =
            || inst.called_computation_ids.iter().filter_map(|id| self.computations.get(id).copied());
        match inst.opcode.as_str() {
            "while" => {
                let Some(body) = called().next() else { return };
                clock.inner(self.run(body), trips(inst, called().nth(1)) as f64);
            }
            "call" | "conditional" => called().for_each(|c| clock.inner(self.run(c), 1.0)),
            // The cycles of a fusion are on the fusion itself; a collective inside of it is not asynchronous.
            "fusion" => clock.collective(called().map(|c| self.run(c).network).sum()),
            "async-start" => clock.start(inst.id, called().map(|c| self.run(c).network).sum()),
            opcode if opcode.ends_with("-done") => clock.end(inst),
            opcode => {
                let groups = groups::of(inst, self.slice.devices() as u64);
                let Some(sent) = Sent::new(of, inst, by_id, groups.size) else { return };
                let seconds = self.seconds(&groups, &sent);
                if opcode.ends_with("-start") {
                    clock.start(inst.id, seconds);
                } else {
                    clock.collective(seconds);
                }
            }
        }
    }

    /// Seconds of a collective.
    fn seconds(&self, groups: &Groups, sent: &Sent) -> f64 {
        let device = |id: &i64| usize::try_from(*id).ok().filter(|d| *d < self.slice.devices());
        if !groups.pairs.is_empty() {
            let pairs: Vec<_> =
                groups.pairs.iter().filter_map(|(a, b)| Some((device(a)?, device(b)?))).collect();
            return self.slice.permute_time(&pairs, sent.wire_bytes);
        }
        let pattern = match sent.kind {
            "all-to-all" | "ragged-all-to-all" => Pattern::Exchange,
            _ => Pattern::Ring,
        };
        self.slice.transfer_time(pattern, groups.first.iter().filter_map(device), sent.wire_bytes)
    }
}

impl Clock {
    fn compute(&mut self, seconds: f64) {
        self.now += seconds;
        self.sum.compute += seconds;
    }

    /// A computation that runs `times` times, with its own collectives.
    fn inner(&mut self, one: StepTime, times: f64) {
        self.now += one.total() * times;
        self.sum.compute += one.compute * times;
        self.sum.network += one.network * times;
        if one.network > 0.0 {
            self.network_free = self.network_free.max(self.now);
        }
    }

    fn start(&mut self, id: i64, seconds: f64) {
        if seconds == 0.0 {
            return;
        }
        self.network_free = self.network_free.max(self.now) + seconds;
        self.sum.network += seconds;
        self.ends.insert(id, self.network_free);
    }

    fn end(&mut self, done: &HloInstructionProto) {
        let end = done.operand_ids.first().and_then(|start| self.ends.remove(start));
        self.now = self.now.max(end.unwrap_or(0.0));
    }

    fn collective(&mut self, seconds: f64) {
        if seconds > 0.0 {
            self.network_free = self.network_free.max(self.now) + seconds;
            self.sum.network += seconds;
            self.now = self.network_free;
        }
    }
}

//! Many comparisons in a limited time.

use crate::{
    generate::{self, Case},
    law::{Backend, Interpreter, Law, Stage, Tolerance, judge, prepare, reduced},
    layer,
    report::Report,
};
use compiler::interp::Precision;
use mesh::Mesh;
use std::time::{Duration, Instant};

/// Random programs. Functions of a device such as tanh have errors of a few units in the last place.
const PROGRAMS: Tolerance = Tolerance { relative: 1e-5, bf16: 0.02, rounding: 16.0 };
/// Layers. Their choices are exact, and all that follows is smooth.
const LAYERS: Tolerance = Tolerance { relative: 2e-5, bf16: 0.0, rounding: 0.0 };
/// Programs that are compiled together.
const TOGETHER: usize = 10;
/// Instructions of a program, about.
const SIZE: usize = 5;
/// The number of failures after which a campaign ends.
const FAILURES: usize = 5;
/// Time to reduce a failing program.
const REDUCTION: Duration = Duration::from_secs(60);

/// The extent of a campaign.
#[derive(Clone, Debug)]
pub struct Options {
    /// The number of random programs.
    pub programs: usize,
    /// The time after which no further comparison and no further reduction of a failure begins.
    pub limit: Duration,
    /// The seed of the first programs.
    pub seed: u64,
    /// The mesh.
    pub mesh: Mesh,
}

/// Compares the backends with the interpreter: on Switch layers, and on random programs with random legal
/// layouts. `observe` is told the number of finished programs.
pub fn run(options: &Options, backends: &[&dyn Backend], observe: &mut dyn FnMut(usize)) -> Report {
    let start = Instant::now();
    let mut campaign = Campaign {
        backends,
        reference: Interpreter { stage: Stage::Global, precision: Precision::Normal },
        start,
        limit: options.limit,
        report: Report::new(options.programs, options.seed, &options.mesh),
    };
    for case in layer::cases(options.seed, &options.mesh) {
        campaign.report.layers += usize::from(campaign.compare(&case, LAYERS));
    }
    let mut done = 0;
    while done < options.programs && campaign.goes_on() {
        let count = TOGETHER.min(options.programs - done);
        let seed = options.seed.wrapping_add((done / TOGETHER) as u64);
        let case = generate::on_mesh(seed, count, SIZE, &|_| options.mesh.clone());
        campaign.compare(&case, PROGRAMS);
        done += count;
        observe(done);
    }
    Report { programs: done, elapsed: start.elapsed(), ..campaign.report }
}

struct Campaign<'b> {
    backends: &'b [&'b dyn Backend],
    reference: Interpreter,
    start: Instant,
    limit: Duration,
    report: Report,
}

impl Campaign<'_> {
    fn goes_on(&self) -> bool {
        self.start.elapsed() < self.limit && self.report.failures.len() < FAILURES
    }

    /// Compares all backends on a case and records the result. Returns true if it was compared.
    fn compare(&mut self, case: &Case, near: Tolerance) -> bool {
        if !self.goes_on() {
            return false;
        }
        self.count(case);
        let law = |backend| Law { one: &self.reference, other: backend, near };
        let laws: Vec<Law<'_>> = self.backends.iter().map(|backend| law(*backend)).collect();
        match judge(case, &laws) {
            Ok(worst) => self.report.worst = self.report.worst.or(worst),
            Err(first) => {
                let begin = Instant::now();
                let goes_on = || begin.elapsed() < REDUCTION && self.start.elapsed() < self.limit;
                let failure = reduced(case, first, &laws, &goes_on);
                self.report.failures.push(failure);
            }
        }
        true
    }

    /// Counts the instructions that the devices run.
    fn count(&mut self, case: &Case) {
        let mut counts = self.report.families;
        if let Ok(programs) = prepare(case) {
            counts.add(&programs.simple_local);
        }
        self.report.families = counts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::Programs;
    use compiler::interp::Outcome;
    use mesh::{
        Op,
        ir::{Binary, Elementwise},
    };

    /// A device that computes like the interpreter, with one wrong operation if there is a `fault`.
    struct Device {
        fault: Option<fn(&mut Op)>,
    }

    impl Backend for Device {
        fn name(&self) -> String {
            "the test device".into()
        }
        fn run(&self, programs: &Programs<'_>) -> Result<Vec<Outcome>, String> {
            let mut module = programs.simple_local.clone();
            for body in module.functions.iter_mut().map(|f| &mut f.body) {
                if let Some(fault) = self.fault {
                    body.insts.iter_mut().for_each(|inst| fault(&mut inst.op));
                }
            }
            let programs = Programs {
                case: programs.case,
                global: programs.global.clone(),
                simple_global: programs.simple_global.clone(),
                local: programs.local.clone(),
                simple_local: module,
            };
            Interpreter { stage: Stage::SimpleLocal, precision: Precision::Normal }.run(&programs)
        }
    }

    fn report(fault: Option<fn(&mut Op)>, mesh: &str) -> Report {
        let mesh = Mesh::parse(mesh).expect("the test's mesh is legal");
        let options = Options { programs: 60, limit: Duration::from_secs(600), seed: 3, mesh };
        run(&options, &[&Device { fault }], &mut |_| ())
    }

    #[test]
    fn a_correct_device_passes() {
        for mesh in ["", "x=2,y=2"] {
            let report = report(None, mesh);
            assert!(report.passed(), "{report}");
            assert_eq!((report.programs, report.layers), (60, if mesh.is_empty() { 1 } else { 2 }));
            let idle = report.families.named().filter(|(_, count)| *count == 0).map(|(name, _)| name);
            let expected: &[&str] = if mesh.is_empty() { &["collective"] } else { &[] };
            assert_eq!(idle.collect::<Vec<_>>(), expected, "{report}");
        }
    }

    #[test]
    fn a_wrong_operation_is_found_and_reduced() {
        let report = report(
            Some(|op| {
                if let Op::Elementwise(Elementwise::Binary(binary @ Binary::Max)) = op {
                    *binary = Binary::Min;
                }
            }),
            "x=2",
        );
        assert!(!report.passed(), "{report}");
        let text = report.to_string();
        assert!(text.contains(" = max ") && text.contains("the test device"), "{text}");
        let least = report.failures.iter().map(|f| f.case.module.functions[0].body.insts.len()).min();
        assert!(least.is_some_and(|n| n <= 4), "the reproduction is small: {text}");
    }

    #[test]
    fn a_collective_of_one_device_only_is_found() {
        let report = report(
            Some(|op| {
                if let Op::Collective(mesh::ir::Collective::AllReduce { .. }) = op {
                    *op = Op::Elementwise(Elementwise::StopGradient);
                }
            }),
            "x=2",
        );
        assert!(!report.passed(), "{report}");
    }

    #[test]
    fn without_time_nothing_passes() {
        let mesh = Mesh::parse("x=2").expect("the test's mesh is legal");
        let options = Options { programs: 60, limit: Duration::ZERO, seed: 3, mesh };
        let report = run(&options, &[&Device { fault: None }], &mut |_| ());
        assert!(!report.passed() && report.to_string().contains("nothing was compared"), "{report}");
    }
}

//! The law that all backends give the same results, checked on the CPU plugin of the tests.

pub use selftest::law::*;

use crate::plugin;
use compiler::interp::Outcome;
use selftest::generate::Case;

/// Compiler flags. Random programs run once, so compile time dominates.
const QUICK: &[(&str, &str)] =
    &[("xla_backend_optimization_level", "0"), ("xla_llvm_disable_expensive_passes", "true")];

/// The CPU plugin.
pub struct Plugin {
    /// True if it runs on the devices of the case's mesh, false for one device.
    pub partitioned: bool,
}

impl Backend for Plugin {
    fn name(&self) -> String {
        format!("the plugin on {}", if self.partitioned { "all devices" } else { "one device" })
    }
    fn run(&self, programs: &Programs<'_>) -> Result<Vec<Outcome>, String> {
        let all = Merged::new(programs, self.partitioned)?;
        let state = &programs.case.state;
        let outcome = plugin::run_with(&all.module, "all", &all.inputs, state, QUICK)?;
        Ok(all.parts(&outcome, state))
    }
}

/// Checks a case. A failing case is reduced and printed with everything that reproduces it.
#[track_caller]
pub fn check(case: &Case, laws: &[Law<'_>]) {
    if let Err(first) = judge(case, laws) {
        panic!("{}", reduced(case, first, laws, &|| true));
    }
}

//! Reads and writes of state: reads see the state at entry, writes take effect at return.

use super::{Machine, Spread, missing, place};
use mesh::{Diagnostic, ir::StateOp};

impl Machine<'_> {
    pub(super) fn state(&mut self, op: &StateOp, args: &[&Spread]) -> Result<Vec<Spread>, Diagnostic> {
        match op {
            StateOp::Read(id) => {
                let decl = &self.module.env.states[*id];
                let tensor =
                    self.entry.get(&decl.name).ok_or_else(|| missing("state", &decl.name, self.entry))?;
                Ok(vec![place("state", &decl.name, tensor, &decl.ty, self.mesh(), self.precision)?])
            }
            StateOp::Write(id) => {
                self.written.insert(*id, args[0].clone());
                Ok(Vec::new())
            }
        }
    }
}

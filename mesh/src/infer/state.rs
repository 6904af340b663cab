//! Result types of state access.

use super::count;
use crate::{Diagnostic, Env, StateDecl, StateId, Type, ir::StateOp};

pub(super) fn infer(env: &Env, op: &StateOp, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    match op {
        StateOp::Read(id) => {
            count(args, 0, "read")?;
            Ok(vec![declared(env, *id)?.ty.clone()])
        }
        StateOp::Write(id) => {
            count(args, 1, "write")?;
            let state = declared(env, *id)?;
            if !args[0].matches(&state.ty) {
                return Err(Diagnostic::new(
                    "state_a1",
                    format!(
                        "state `{}` has type {}, not {}",
                        state.name,
                        state.ty.display(&env.mesh),
                        args[0].display(&env.mesh)
                    ),
                )
                .help("write a value of the declared type"));
            }
            Ok(Vec::new())
        }
    }
}

fn declared(env: &Env, id: StateId) -> Result<&StateDecl, Diagnostic> {
    env.states.get(id).ok_or_else(|| Diagnostic::new("state_a2", format!("state {id} is not declared")))
}

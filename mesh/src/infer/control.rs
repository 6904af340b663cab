//! Result types of scans, conditionals and gradient requests.

use super::{at_least, check_type, scalar};
use crate::{
    Body, DType, Diagnostic, Env, TensorDim, Type,
    ir::{Control, Scan},
};

pub(super) fn infer(env: &Env, op: &Control, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    match op {
        Control::Scan(op) => scan(env, op, args),
        Control::Cond { then, otherwise } => {
            at_least(args, 1, "cond")?;
            scalar(env, args[0], DType::Pred, "the predicate of cond")?;
            params(env, then, &args[1..], "the first branch of cond")?;
            params(env, otherwise, &args[1..], "the second branch of cond")?;
            let (a, b): (Vec<_>, Vec<_>) =
                (then.result_types().collect(), otherwise.result_types().collect());
            if a.len() != b.len() || a.iter().zip(&b).any(|(a, b)| !a.matches(b)) {
                return Err(Diagnostic::new(
                    "control_k1",
                    "the branches of cond have results of different types",
                )
                .help(format!("first: {}; second: {}", list(env, &a), list(env, &b))));
            }
            Ok(a.into_iter().cloned().collect())
        }
        Control::Grad => {
            at_least(args, 1, "grad")?;
            if !args[0].dims.is_empty() || !args[0].dtype.is_float() {
                return Err(Diagnostic::new(
                    "control_k2",
                    format!("the gradient of {}", args[0].display(&env.mesh)),
                )
                .help("the loss must be one float without dims: sum or average it first"));
            }
            if let Some(x) = args[1..].iter().find(|x| !x.dtype.is_float()) {
                return Err(Diagnostic::new(
                    "control_k3",
                    format!("a gradient with respect to {}", x.display(&env.mesh)),
                )
                .help("only floats have gradients"));
            }
            Ok(args[1..].iter().map(|x| (*x).clone()).collect())
        }
    }
}

fn scan(env: &Env, op: &Scan, args: &[&Type]) -> Result<Vec<Type>, Diagnostic> {
    at_least(args, op.carries.saturating_add(op.xs), "this scan")?;
    check_type(env, &Type::new(DType::Pred, [op.dim.clone()]))?;
    let (carries, rest) = args.split_at(op.carries);
    let (xs, captures) = rest.split_at(op.xs);
    let mut want: Vec<Type> = carries.iter().map(|ty| (*ty).clone()).collect();
    for x in xs {
        let dim = super::find(x, &op.dim.name, "scan")?;
        if dim.dim.size != op.dim.size || !dim.axes.is_empty() {
            return Err(Diagnostic::new(
                "control_k4",
                format!("scan over {} of {}", op.dim, x.display(&env.mesh)),
            )
            .help("every sliced operand must have the scanned dim, unsplit and of the same size"));
        }
        let mut slice = (*x).clone();
        slice.dims.retain(|d| d.dim.name != op.dim.name);
        want.push(slice);
    }
    want.extend(captures.iter().map(|ty| (*ty).clone()));
    params(env, &op.body, &want.iter().collect::<Vec<_>>(), "the body of scan")?;
    let results: Vec<&Type> = op.body.result_types().collect();
    if results.len() < op.carries || results.iter().zip(carries).any(|(r, c)| !r.matches(c)) {
        return Err(Diagnostic::new("control_k5", "the body of scan does not return its carries")
            .help(format!("carries: {}; results: {}", list(env, carries), list(env, &results))));
    }
    let mut types: Vec<Type> = carries.iter().map(|ty| (*ty).clone()).collect();
    for y in &results[op.carries..] {
        let mut stacked = (*y).clone();
        stacked.dims.insert(0, TensorDim { dim: op.dim.clone(), axes: Vec::new() });
        check_type(env, &stacked)?;
        types.push(stacked);
    }
    Ok(types)
}

fn params(env: &Env, body: &Body, want: &[&Type], what: &str) -> Result<(), Diagnostic> {
    let have: Vec<&Type> = body.param_types().collect();
    if have.len() == want.len() && have.iter().zip(want).all(|(h, w)| h.matches(w)) {
        return Ok(());
    }
    Err(Diagnostic::new("control_k6", format!("the parameters of {what} do not match its arguments"))
        .help(format!("parameters: {}; arguments: {}", list(env, &have), list(env, want))))
}

fn list(env: &Env, types: &[&Type]) -> String {
    let words: Vec<_> = types.iter().map(|ty| ty.display(&env.mesh).to_string()).collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

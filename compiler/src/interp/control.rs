//! Scans and conditionals: the bodies run on all devices in lockstep.

use super::{Machine, Spread, Tensor};
use mesh::{
    Diagnostic,
    ir::{Control, Scan},
};
use ndarray::Axis;

impl Machine<'_> {
    pub(super) fn control(&mut self, op: &Control, args: &[&Spread]) -> Result<Vec<Spread>, Diagnostic> {
        match op {
            Control::Scan(op) => self.scan(op, args),
            Control::Cond { then, otherwise } => {
                let given: Vec<Spread> = args[1..].iter().map(|x| (*x).clone()).collect();
                if agreed(args[0])? { self.body(then, given) } else { self.body(otherwise, given) }
            }
            Control::Grad => {
                Err(Diagnostic::new("", "the interpreter cannot run `grad`").help("run autodiff first"))
            }
        }
    }

    fn scan(&mut self, op: &Scan, args: &[&Spread]) -> Result<Vec<Spread>, Diagnostic> {
        let (carries, rest) = args.split_at(op.carries);
        let (xs, captures) = rest.split_at(op.xs);
        let mut carries: Vec<Spread> = carries.iter().map(|x| (*x).clone()).collect();
        let mut ys: Vec<Vec<Spread>> = Vec::new();
        for step in 0..op.dim.size {
            let i = if op.reverse { op.dim.size - 1 - step } else { step };
            let mut given = carries;
            given.extend(xs.iter().map(|x| x.iter().map(|part| slice(part, &op.dim.name, i)).collect()));
            given.extend(captures.iter().map(|x| (*x).clone()));
            let mut results = self.body(&op.body, given)?;
            ys.push(results.split_off(op.carries));
            carries = results;
        }
        if op.reverse {
            ys.reverse();
        }
        let mut results = carries;
        for y in 0..op.body.results.len() - op.carries {
            let part = |device: usize| {
                let slices: Vec<&Tensor> = ys.iter().map(|step| &step[y][device]).collect();
                stack(&slices, &op.dim.name)
            };
            results.push((0..self.mesh().devices()).map(part).collect());
        }
        Ok(results)
    }
}

/// The predicate of a conditional, on which all devices must agree: they run the same collectives.
fn agreed(predicate: &Spread) -> Result<bool, Diagnostic> {
    let values: Vec<bool> = predicate.iter().map(|p| p.number() != 0.0).collect();
    if values.iter().all(|v| *v == values[0]) {
        return Ok(values[0]);
    }
    Err(Diagnostic::new("", format!("devices disagree on the predicate of a conditional: {values:?}"))
        .help("every device must take the same branch: this is a bug in the pass that wrote the program"))
}

fn slice(x: &Tensor, dim: &mesh::Name, i: usize) -> Tensor {
    let axis = x.known(dim);
    let names = x.names_but(std::slice::from_ref(dim));
    Tensor { dtype: x.dtype, names, data: x.data.index_axis(Axis(axis), i).to_owned() }
}

fn stack(slices: &[&Tensor], dim: &mesh::Name) -> Tensor {
    let views: Vec<_> = slices.iter().map(|s| s.data.view()).collect();
    let data = ndarray::stack(Axis(0), &views).expect("every iteration gives the same shape");
    let names = [dim.clone()].into_iter().chain(slices[0].names.clone()).collect();
    Tensor { dtype: slices[0].dtype, names, data }
}

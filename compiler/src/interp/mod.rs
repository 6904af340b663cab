//! The reference interpreter: defines the meaning of programs, and is written to be read.
//!
//! It runs verified modules of both stages. A Local module runs on as many simulated devices as its mesh has,
//! in lockstep: a value is one [`Tensor`] per device, an instruction runs on every device before the next one
//! starts, and a collective sees all devices at once. A Global module runs on one device. [`run`] takes and
//! returns whole (logical) tensors.
//!
//! Reading order: [`tensor`], [`shard`](mod@shard) (whole tensors to shards and back), this file, then one
//! file for each family of operations. A family's function gets the operands' shards on one device and
//! returns the results' shards there; only `state`, `control` and `collective` see all devices.
//!
//! An operation computes in `f64` and rounds its result once. Float sums therefore differ from a device's in
//! the last bits; everything else is the same.

mod collective;
mod contract;
mod control;
mod elementwise;
mod index;
mod random;
mod reduce;
mod shape;
pub mod shard;
mod state;
pub mod tensor;

pub(crate) use elementwise::unary;
pub use shard::{gather, shard};
pub use tensor::{Precision, Tensor};

use mesh::{Body, Diagnostic, Inst, Mesh, Module, Name, Op, StateId, TensorDim, Type, Value};
use std::collections::BTreeMap;

/// Whole tensors by name.
pub type Tensors = BTreeMap<Name, Tensor>;

/// The result of a call.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outcome {
    /// The outputs, by name.
    pub outputs: Tensors,
    /// All state after the call.
    pub state: Tensors,
}

/// Calls `function` of a verified module with `inputs` and `state`, whole tensors by name. State that the
/// function does not read may be missing. Replicated results must agree on all devices, bit for bit.
pub fn run(
    module: &Module,
    function: &str,
    inputs: &Tensors,
    state: &Tensors,
    precision: Precision,
) -> Result<Outcome, Diagnostic> {
    let name = function;
    let function = module.require_function(name)?;
    let mesh = &module.env.mesh;
    let mut params = Vec::new();
    for (input, ty) in function.inputs.iter().zip(function.body.param_types()) {
        let tensor = inputs.get(input).ok_or_else(|| missing("input", input, inputs))?;
        params.push(place("input", input, tensor, ty, mesh, precision)?);
    }
    if let Some(extra) = inputs.keys().find(|n| !function.inputs.contains(n)) {
        let known: Vec<&str> = function.inputs.iter().map(|n| n.as_str()).collect();
        return Err(Diagnostic::new("", format!("function `{name}` has no input `{extra}`"))
            .help(format!("its inputs are: {}", known.join(", "))));
    }
    let mut machine = Machine { module, precision, entry: state, written: BTreeMap::new() };
    let results = machine.body(&function.body, params).map_err(|d| d.in_function(name))?;
    let written = machine.written;

    let mut outcome = Outcome { outputs: Tensors::new(), state: state.clone() };
    for ((output, ty), parts) in function.outputs.iter().zip(function.body.result_types()).zip(&results) {
        outcome.outputs.insert(output.clone(), whole("output", output, parts, ty, mesh)?);
    }
    for (id, parts) in &written {
        let decl = &module.env.states[*id];
        outcome.state.insert(decl.name.clone(), whole("state", &decl.name, parts, &decl.ty, mesh)?);
    }
    Ok(outcome)
}

fn missing(what: &str, name: &Name, have: &Tensors) -> Diagnostic {
    let have: Vec<&str> = have.keys().map(|n| n.as_str()).collect();
    let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
    Diagnostic::new("", format!("there is no value for {what} `{name}`")).help(format!("given: {have}"))
}

/// Checks and rounds a whole tensor and gives every device its shard.
fn place(
    what: &str,
    name: &Name,
    tensor: &Tensor,
    ty: &Type,
    mesh: &Mesh,
    precision: Precision,
) -> Result<Spread, Diagnostic> {
    let in_what = |message| Diagnostic::new("", format!("{what} `{name}`: {message}"));
    let mut tensor = tensor.clone();
    tensor.data.mapv_inplace(|x| precision.store(tensor.dtype, x));
    shard(&tensor, ty, mesh).map_err(in_what)
}

fn whole(what: &str, name: &Name, parts: &Spread, ty: &Type, mesh: &Mesh) -> Result<Tensor, Diagnostic> {
    gather(parts, ty, mesh, 0.0).map_err(|message| {
        Diagnostic::new("", format!("{what} `{name}`: {message}")).help(
            "every device must compute the same value: this is a bug in the pass that wrote the program",
        )
    })
}

/// A value on all devices: one shard per device.
type Spread = Vec<Tensor>;

/// A call in progress.
struct Machine<'m> {
    module: &'m Module,
    precision: Precision,
    /// State at entry.
    entry: &'m Tensors,
    /// State written so far.
    written: BTreeMap<StateId, Spread>,
}

/// One device, as the families see it.
#[derive(Clone, Copy)]
struct Device<'m> {
    mesh: &'m Mesh,
    number: usize,
    precision: Precision,
}

impl Device<'_> {
    /// The number of elements of a dim on this device.
    fn local(&self, d: &TensorDim) -> usize {
        d.dim.size / self.mesh.product(&d.axes)
    }
    /// The logical position of this device's first element along a dim.
    fn offset(&self, d: &TensorDim) -> usize {
        self.local(d) * self.mesh.index_along(self.number, &d.axes)
    }
}

impl<'m> Machine<'m> {
    fn mesh(&self) -> &'m Mesh {
        &self.module.env.mesh
    }

    fn devices(&self) -> impl Iterator<Item = Device<'m>> + use<'m> {
        let (mesh, precision) = (self.mesh(), self.precision);
        (0..mesh.devices()).map(move |number| Device { mesh, number, precision })
    }

    /// Runs a body. Parameters may have any order of dims.
    fn body(&mut self, body: &Body, params: Vec<Spread>) -> Result<Vec<Spread>, Diagnostic> {
        let mut values: Vec<Option<Spread>> = vec![None; body.values.len()];
        for (value, parts) in body.params.iter().zip(params) {
            values[value.0 as usize] = Some(ordered(parts, body.ty(*value)));
        }
        let mut uses = last_uses(body);
        for (i, inst) in body.insts.iter().enumerate() {
            let results = self.inst(body, inst, &values).map_err(|d| d.at(&inst.site))?;
            for (value, parts) in inst.results.iter().zip(results) {
                values[value.0 as usize] = Some(self.checked(parts, inst, body.ty(*value))?);
            }
            for value in uses.remove(&i).unwrap_or_default() {
                values[value.0 as usize] = None;
            }
        }
        let result = |v: &Value| values[v.0 as usize].clone().ok_or_else(|| undefined(*v));
        body.results.iter().map(result).collect()
    }

    /// Runs one instruction on all devices.
    fn inst(
        &mut self,
        body: &Body,
        inst: &Inst,
        values: &[Option<Spread>],
    ) -> Result<Vec<Spread>, Diagnostic> {
        let args: Vec<&Spread> = inst
            .args
            .iter()
            .map(|v| values[v.0 as usize].as_ref().ok_or_else(|| undefined(*v)))
            .collect::<Result<_, _>>()?;
        match &inst.op {
            Op::State(op) => self.state(op, &args),
            Op::Control(op) => self.control(op, &args),
            Op::Collective(op) => Ok(vec![collective::eval(self.mesh(), self.precision, op, args[0])]),
            Op::Elementwise(_)
            | Op::Contract(_)
            | Op::Reduce(_)
            | Op::Shape(_)
            | Op::Index(_)
            | Op::Random(_) => {
                let arg_types: Vec<&Type> = inst.args.iter().map(|v| body.ty(*v)).collect();
                let mut results: Vec<Spread> = vec![Vec::new(); inst.results.len()];
                for device in self.devices() {
                    let parts: Vec<&Tensor> = args.iter().map(|parts| &parts[device.number]).collect();
                    for (parts, part) in results.iter_mut().zip(device.eval(&inst.op, &parts, &arg_types)?) {
                        parts.push(part);
                    }
                }
                Ok(results)
            }
        }
    }

    /// The results of an instruction, in the order of dims of its type. Each shard must have the shape that
    /// the type says.
    fn checked(&self, parts: Spread, inst: &Inst, ty: &Type) -> Result<Spread, Diagnostic> {
        let shape = ty.local_shape(self.mesh());
        let parts = ordered(parts, ty);
        match parts.iter().find(|part| part.data.shape() != shape || part.dtype != ty.dtype) {
            None => Ok(parts),
            Some(part) => Err(Diagnostic::new(
                "",
                format!(
                    "an instruction of type {} made {}{:?}: {:?}",
                    ty.display(self.mesh()),
                    part.dtype,
                    part.data.shape(),
                    inst.op
                ),
            )
            .help("the recorded type is wrong: this is a bug in the pass that wrote the program")
            .at(&inst.site)),
        }
    }
}

impl Device<'_> {
    /// Operations that each device runs by itself.
    fn eval(&self, op: &Op, args: &[&Tensor], types: &[&Type]) -> Result<Vec<Tensor>, Diagnostic> {
        match op {
            Op::Elementwise(op) => Ok(vec![elementwise::eval(self, op, args)]),
            Op::Contract(op) => Ok(vec![contract::eval(self, op, args[0], args[1])]),
            Op::Reduce(op) => Ok(vec![reduce::eval(self, op, args[0])]),
            Op::Shape(op) => Ok(vec![shape::eval(self, op, args)]),
            Op::Index(op) => index::eval(self, op, args, types),
            Op::Random(op) => Ok(vec![random::eval(self, op, args[0], args[1])]),
            Op::State(_) | Op::Control(_) | Op::Collective(_) => {
                unreachable!("the machine runs what needs all devices")
            }
        }
    }
}

fn ordered(parts: Spread, ty: &Type) -> Spread {
    let names: Vec<Name> = ty.names().cloned().collect();
    parts.into_iter().map(|part| if part.names == names { part } else { part.ordered(&names) }).collect()
}

fn undefined(value: Value) -> Diagnostic {
    Diagnostic::new("", format!("value {value} is used before it is defined")).help("verify the module first")
}

/// For each instruction, the values that nothing uses after it, which can be freed.
fn last_uses(body: &Body) -> BTreeMap<usize, Vec<Value>> {
    let mut last: BTreeMap<Value, usize> = BTreeMap::new();
    for (i, inst) in body.insts.iter().enumerate() {
        for value in inst.args.iter().chain(&inst.results) {
            last.insert(*value, i);
        }
    }
    let mut uses: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
    for (value, i) in last.into_iter().filter(|(v, _)| !body.results.contains(v)) {
        uses.entry(i).or_default().push(value);
    }
    uses
}

#[cfg(test)]
mod tests;

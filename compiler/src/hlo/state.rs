//! State, and the parameters and results of a function.

use super::{Builder, Emitter, HloModuleProto, Name, Platform, Shape, Tensor, primitive};
use crate::cost::wire;
use mesh::{Body, Diagnostic, Env, Function, Module, Op, StateId, Type, ir::StateOp};
use proto::xla::{HloInputOutputAliasProto, Kind, hlo_input_output_alias_proto::AliasEntryProto};
use rustc_hash::FxHashMap;
use std::collections::BTreeSet;

/// The contents of a parameter or result.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// A piece of state.
    State(StateId),
    /// The input or output with this number.
    Data(usize),
}

/// One parameter, or one element of the result tuple.
#[derive(Clone, PartialEq, Debug)]
pub struct Port {
    /// Its contents.
    pub kind: PortKind,
    /// The name of the state, input or output.
    pub name: Name,
    /// Its type; memory order is the order of dims.
    pub ty: Type,
    /// For inputs: the result that reuses this buffer.
    pub donated_to: Option<usize>,
}

/// A function in HLO.
#[derive(Clone, PartialEq, Debug)]
pub struct Emitted {
    /// The module.
    pub module: HloModuleProto,
    /// The parameters of the entry computation.
    pub inputs: Vec<Port>,
    /// The elements of its result.
    pub outputs: Vec<Port>,
}

pub(super) fn emit(local: &Module, function: &Function, platform: Platform) -> Result<Emitted, Diagnostic> {
    let env = &local.env;
    let (touched, written) = states(&function.body);
    let mut e = Emitter {
        env,
        platform,
        b: Builder::new(env.mesh.devices()),
        states: FxHashMap::default(),
        written: FxHashMap::default(),
        stacks: 0,
        merged: FxHashMap::default(),
        few_rows: FxHashMap::default(),
        casts_slices: platform == Platform::Accelerator && wire::gathers_once(local),
        widens_products: platform.widens(local.schedule.products),
    };
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for id in &touched {
        inputs.push(state_port(env, *id));
        let tensor = e.parameter(&env.states[*id].ty, &env.states[*id].name);
        e.states.insert(*id, tensor);
    }
    let mut params = Vec::new();
    for (i, (value, name)) in function.body.params.iter().zip(&function.inputs).enumerate() {
        let ty = function.body.ty(*value).clone();
        params.push(e.parameter(&ty, name));
        inputs.push(Port { kind: PortKind::Data(i), name: name.clone(), ty, donated_to: None });
    }
    let results = e.body(&function.body, params);
    e.b.metadata = Default::default();
    let mut parts = Vec::new();
    for id in &written {
        let tensor = e.written.get(id).expect("only states with a write are listed").clone();
        parts.push(e.ordered(&tensor, &order(&env.states[*id].ty)));
        outputs.push(state_port(env, *id));
    }
    for (i, (tensor, name)) in results.iter().zip(&function.outputs).enumerate() {
        let ty = function.body.ty(function.body.results[i]).clone();
        parts.push(e.ordered(tensor, &order(&ty)));
        outputs.push(Port { kind: PortKind::Data(i), name: name.clone(), ty, donated_to: None });
    }
    let root = e.b.tuple(&parts);
    let mut module = e.b.finish(&format!("{}.{}", local.name, function.name), root);
    module.input_output_alias = Some(donate(&mut inputs, &outputs));
    Ok(Emitted { module, inputs, outputs })
}

/// States that are read or both read and written, and states that are written, in order of declaration. A
/// state that is only written needs no input.
fn states(body: &Body) -> (BTreeSet<StateId>, BTreeSet<StateId>) {
    let (mut read, mut written) = (BTreeSet::new(), BTreeSet::new());
    body.walk(&mut |_, inst| {
        if let Op::State(op) = &inst.op {
            match op {
                StateOp::Read(id) => read.insert(*id),
                StateOp::Write(id) => written.insert(*id),
            };
        }
    });
    (read, written)
}

fn state_port(env: &Env, id: StateId) -> Port {
    let state = &env.states[id];
    Port { kind: PortKind::State(id), name: state.name.clone(), ty: state.ty.clone(), donated_to: None }
}

fn order(ty: &Type) -> Vec<Name> {
    ty.names().cloned().collect()
}

/// Donates every state that is both a parameter and a result.
fn donate(inputs: &mut [Port], outputs: &[Port]) -> HloInputOutputAliasProto {
    let mut entries = Vec::new();
    for (number, input) in inputs.iter_mut().enumerate() {
        let PortKind::State(_) = input.kind else { continue };
        let Some(place) = outputs.iter().position(|o| o.kind == input.kind) else { continue };
        input.donated_to = Some(place);
        entries.push(AliasEntryProto {
            output_shape_index: vec![place as i64],
            parameter_number: number as i64,
            parameter_shape_index: Vec::new(),
            kind: Kind::MayAlias as i32,
        });
    }
    HloInputOutputAliasProto { entries }
}

impl Emitter<'_> {
    fn parameter(&mut self, ty: &Type, name: &str) -> Tensor {
        let order = order(ty);
        let shape = Shape::Array(primitive(ty.dtype), self.local_sizes(ty, &order));
        Tensor::new(self.b.parameter(shape, name), order)
    }

    pub(super) fn state(&mut self, op: &StateOp, args: Vec<Tensor>) -> Vec<Tensor> {
        match op {
            StateOp::Read(id) => vec![self.states[id].clone()],
            StateOp::Write(id) => {
                self.written.insert(*id, args.into_iter().next().expect("a write has one operand"));
                Vec::new()
            }
        }
    }
}

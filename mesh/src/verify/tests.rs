//! Tests with invalid modules that text cannot express.

use super::{MAX_DEPTH, Stage, verify};
use crate::{
    Body, BodyBuilder, DType, Dim, Function, Inst, Module, Op, Site, StateDecl, StateId, StateKind,
    TensorDim, Type, Value,
    ir::{Control, Elementwise, Remat, Scan, StateOp, Unary, ValueData},
};

/// `f(x) = -x`.
fn negation() -> Module {
    let mut module = Module { name: "m".into(), ..Module::default() };
    let mut b = BodyBuilder::new(&module.env);
    let x = b.param(Type::scalar(DType::F32), Some("x".into()));
    let op = Op::Elementwise(Elementwise::Unary(Unary::Neg));
    let y = b.emit1(op, &[x], &Site::default()).unwrap();
    let body = b.finish(vec![y]);
    module.functions.push(Function {
        name: "f".into(),
        inputs: vec!["x".into()],
        outputs: vec!["y".into()],
        body,
    });
    module
}

/// Checks the labels that the verifier reports after `change`.
#[track_caller]
fn check(change: impl FnOnce(&mut Module), labels: &[&str]) {
    let mut module = negation();
    change(&mut module);
    let found = verify(&module, Stage::Global).err().unwrap_or_default();
    let found: Vec<&str> = found.0.iter().map(|d| d.label).collect();
    assert_eq!(found, labels);
}

#[test]
fn ids_out_of_range_are_reported() {
    check(|_| {}, &[]);
    check(|m| m.functions[0].body.insts[0].args[0] = Value(9), &["verify_v1"]);
    check(|m| m.functions[0].body.insts[0].results[0] = Value(9), &["verify_v1", "verify_v1", "verify_v2"]);
    check(|m| m.functions[0].body.results[0] = Value(u32::MAX), &["verify_v1"]);
    check(|m| m.functions[0].body.params[0] = Value(9), &["verify_v1", "verify_v1", "verify_v2"]);
}

#[test]
fn values_have_one_definition() {
    check(|m| m.functions[0].body.insts[0].results[0] = Value(0), &["verify_v2", "verify_v1", "verify_v2"]);
    let spare = ValueData { ty: Type::scalar(DType::F32), name: None };
    let add = |m: &mut Module| {
        m.functions[0].body.values.push(spare);
    };
    check(add, &["verify_v2"]);
}

#[test]
fn recorded_types_are_the_inferred_ones() {
    check(|m| m.functions[0].body.values[Value(1)].ty.dtype = DType::Bf16, &["verify_v3"]);
    check(|m| m.functions[0].body.insts[0].results.clear(), &["verify_v3", "verify_v1", "verify_v2"]);
}

#[test]
fn states_are_declared_once() {
    let state = StateDecl {
        name: "s".into(),
        kind: StateKind::Slot,
        ty: Type::scalar(DType::F32),
        site: Site::default(),
    };
    let twice = |m: &mut Module| {
        m.env.states.push(state.clone());
        m.env.states.push(state);
    };
    check(twice, &["verify_v14"]);
    let read = Op::State(StateOp::Read(StateId(3)));
    check(|m| m.functions[0].body.insts[0].op = read, &["op_o1"]);
    let write = Op::State(StateOp::Write(StateId(3)));
    check(|m| m.functions[0].body.insts[0].op = write, &["state_a2"]);
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        (0..depth).fold(Body::default(), |inner, _| {
            let scan = Scan {
                dim: Dim::new("n", 2),
                carries: 0,
                xs: 0,
                reverse: false,
                remat: Remat::SaveAll,
                unroll: false,
                barrier: false,
                body: inner,
            };
            let op = Op::Control(Control::Scan(Box::new(scan)));
            let inst = Inst { op, args: Vec::new(), results: Vec::new(), site: Site::default() };
            Body { insts: vec![inst], ..Body::default() }
        })
    };
    let function = |body| Function { name: "deep".into(), inputs: Vec::new(), outputs: Vec::new(), body };
    check(|m| m.functions.push(function(nested(MAX_DEPTH))), &[]);
    check(|m| m.functions.push(function(nested(MAX_DEPTH + 1))), &["verify_v16"]);
}

#[test]
fn names_have_no_control_characters() {
    let state = |m: &mut Module, name: &str| {
        let (ty, site) = (Type::scalar(DType::F32), Site::default());
        m.env.states.push(StateDecl { name: name.into(), kind: StateKind::Slot, ty, site });
    };
    check(|m| m.name = "a\nb".into(), &["verify_v17"]);
    check(|m| m.functions[0].name = "f\r".into(), &["verify_v17"]);
    check(|m| m.functions[0].inputs[0] = "x\u{85}".into(), &["verify_v17"]);
    check(|m| m.functions[0].outputs[0] = "\u{1b}[2J".into(), &["verify_v17"]);
    check(|m| state(m, "w\0"), &["verify_v17"]);
    check(|m| state(m, &"w".repeat(70_000)), &["verify_v17"]);
    check(|m| state(m, ""), &["verify_v17"]);
    check(|m| state(m, "an accént and a space"), &[]);
    let dim = |m: &mut Module| {
        m.functions[0].body.values[Value(0)]
            .ty
            .dims
            .push(TensorDim { dim: Dim::new("a\tb", 2), axes: Vec::new() })
    };
    check(dim, &["type_t8"]);
}

#[test]
fn functions_name_each_output() {
    check(|m| m.functions[0].outputs.clear(), &["verify_v9"]);
    check(|m| m.functions[0].outputs.push("z".into()), &["verify_v9"]);
}

//! Random damage to text, and to programs in ways that text cannot express.

use crate::generate::Choices;
use mesh::{
    AxisId, AxisSet, Body, Dim, Inst, Module, Name, Op, Site, StateId, TensorDim, Type, Value,
    arena::Id,
    ir::{Collective, Control, Index, Meta, Shape, StateOp, ValueData},
};

/// Texts that damage inserts.
const PIECES: &[&str] = &[
    "",
    " ",
    "\n",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "%",
    "%0",
    ",",
    ":",
    "=",
    "@",
    "+",
    "-",
    "->",
    "!",
    "\"",
    "\\",
    "//",
    "é",
    "func",
    "state",
    "mesh data=2\n",
    "return",
    "yield",
    "else",
    "as",
    "0",
    "18446744073709551615",
    "99999999999999999999",
    "-inf",
    "scan",
    "cond",
    "\n}\n",
    "a=0",
    "f32[a=4294967296, b=4294967296]",
];

/// Returns `text` with changes in a few places.
pub fn text(mut text: String, c: &mut Choices) -> String {
    for _ in 0..1 + c.below(6) {
        let (mut from, mut to) = (c.below(text.len() + 1), c.below(12));
        to = (from + to).min(text.len());
        while !text.is_char_boundary(from) {
            from -= 1;
        }
        while !text.is_char_boundary(to) {
            to += 1;
        }
        match c.below(4) {
            0 => text.replace_range(from..to, ""),
            1 => text.insert_str(from, c.pick(PIECES)),
            2 => text.replace_range(from..to, c.pick(PIECES)),
            _ => {
                let piece = text[from..to].to_owned();
                text.insert_str(to, &piece);
            }
        }
    }
    text
}

/// Damages a program in a few places.
pub fn module(module: &mut Module, c: &mut Choices) {
    for _ in 0..1 + c.below(8) {
        let functions = module.functions.len();
        match c.below(8) {
            0 => {
                let ty = strange_type(c);
                let states = module.env.states.len();
                if states > 0 {
                    module.env.states[StateId::new(c.below(states))].ty = ty;
                }
            }
            1 if functions > 0 => {
                let i = c.below(functions);
                module.functions.push(module.functions[i].clone());
            }
            2 if functions > 0 => {
                let i = c.below(functions);
                module.functions[i].inputs.push("x".into());
                module.functions[i].outputs.pop();
            }
            _ if functions > 0 => {
                let i = c.below(functions);
                body(&mut module.functions[i].body, c);
            }
            _ => module.meta.push(Meta { key: "twice".into(), value: String::new(), site: Site::default() }),
        }
    }
}

fn body(b: &mut Body, c: &mut Choices) {
    let strange = Value(c.pick(&[0, 1, 7, 1000, u32::MAX]));
    let values = b.values.len();
    match c.below(16) {
        0 => b.params.push(strange),
        1 => b.results.push(strange),
        2 => {
            b.values.push(ValueData { ty: strange_type(c), name: None });
        }
        3 if values > 0 => b.values[Value::new(c.below(values))].ty = strange_type(c),
        4 if !b.insts.is_empty() => {
            let i = c.below(b.insts.len());
            b.insts.remove(i);
        }
        _ if !b.insts.is_empty() => {
            let i = c.below(b.insts.len());
            inst(&mut b.insts[i], strange, c);
        }
        _ => b.params.clear(),
    }
}

fn inst(inst: &mut Inst, strange: Value, c: &mut Choices) {
    match c.below(9) {
        0 => inst.args.push(strange),
        1 => inst.results.push(strange),
        2 if !inst.args.is_empty() => {
            let i = c.below(inst.args.len());
            inst.args[i] = strange;
        }
        _ => match &mut inst.op {
            Op::Control(Control::Scan(scan)) if c.one_in(2) => {
                scan.carries = c.pick(&[0, 1, 9, usize::MAX]);
                scan.xs = c.pick(&[0, 1, 9, usize::MAX]);
                scan.dim.size = c.pick(&[0, 3, usize::MAX]);
            }
            Op::Control(Control::Scan(scan)) => body(&mut scan.body, c),
            Op::Control(Control::Cond { then, .. }) => body(then, c),
            op => *op = strange_op(c),
        },
    }
}

fn strange_dim(c: &mut Choices) -> TensorDim {
    let size = c.pick(&[0, 1, 4, 1 << 40, usize::MAX]);
    let axes = [vec![], vec![AxisId(0)], vec![AxisId(0), AxisId(0)], vec![AxisId(31)], vec![AxisId(77)]];
    let many = vec![AxisId(1); 70];
    let axes = c.pick(&[axes.to_vec(), vec![many]].concat());
    TensorDim { dim: Dim::new(c.pick(&["a", "new", "", "d e"]), size), axes }
}

fn strange_type(c: &mut Choices) -> Type {
    let mut ty = Type::scalar(c.pick(&mesh::DType::ALL));
    ty.dims = (0..c.below(4)).map(|_| strange_dim(c)).collect();
    let sets = [AxisSet::EMPTY, AxisSet(1), AxisSet(u32::MAX)];
    (ty.sum, ty.max, ty.min) = (c.pick(&sets), c.pick(&sets), c.pick(&sets));
    ty
}

fn strange_op(c: &mut Choices) -> Op {
    let name: Name = c.pick(&["a", "b", "", "d e"]).into();
    let huge = c.pick(&[0, 1, 4, usize::MAX]);
    let axes = strange_dim(c).axes;
    let dims: Vec<TensorDim> = (0..c.below(4)).map(|_| strange_dim(c)).collect();
    match c.below(16) {
        0 => Op::Shape(Shape::Iota { dim: strange_dim(c), dtype: mesh::DType::F32 }),
        1 => Op::Shape(Shape::Reshape { from: vec![name.clone(), name], to: dims }),
        2 => Op::Shape(Shape::Reshape {
            from: Vec::new(),
            to: vec![TensorDim { dim: Dim::new("new", 1), axes }],
        }),
        3 => Op::Shape(Shape::Broadcast { dims }),
        4 => Op::Shape(Shape::Slice { dim: name, start: huge, limit: huge, stride: huge }),
        5 => Op::Shape(Shape::Pad { dim: name, low: huge, high: huge, value: 0.0 }),
        6 => Op::Index(Index::ScatterAdd { dim: strange_dim(c), over: vec![name] }),
        7 => Op::Index(Index::TopK { dim: name, to: strange_dim(c).dim }),
        8 => Op::Index(Index::DynamicSlice { dim: name, size: huge }),
        9 => Op::Collective(Collective::AllGather { dim: name, axes }),
        10 => Op::Collective(Collective::ReduceScatter { dim: name, axes }),
        11 => Op::Collective(Collective::AllToAll { from: name.clone(), to: name, axes }),
        13 => Op::Shape(Shape::Shift { dim: name, by: isize::MIN, edge: mesh::ir::Edge::Wrap }),
        14 => Op::Collective(Collective::Permute { dim: name, axes, by: isize::MIN, wrap: true }),
        12 => Op::Collective(Collective::AsPending { axes: AxisSet(u32::MAX) }),
        _ => Op::State(StateOp::Write(StateId(c.pick(&[0, 1, 5000])))),
    }
}

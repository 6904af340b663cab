//! Random programs, valid by construction: instructions that inference rejects are not added.

use mesh::{
    AxisId, AxisSet, Body, BodyBuilder, DType, Dim, Env, Function, Mesh, Module, Name, Op, Schedule, Site,
    StateDecl, StateId, StateKind, TensorDim, Type, Value,
    arena::Id,
    infer::check_type,
    ir::{
        Binary, Collective, Compare, Contract, Control, Dist, Edge, Elementwise, Extreme, Index, Meta,
        Outside, Pending, Phase, Random, Reduce, ReduceKind, Remat, Scan, Shape, StateOp, Unary,
        is_value_name,
    },
    schedule::ENTRIES,
    task::{Generation, Objective, Task, TaskKind},
};

/// A list of random numbers, drawn in advance so that a failing program can be shrunk.
pub struct Choices {
    list: Vec<u32>,
    at: usize,
}

impl Choices {
    pub fn new(list: Vec<u32>) -> Self {
        Self { list, at: 0 }
    }
    pub fn raw(&mut self) -> u32 {
        self.at += 1;
        self.list.get(self.at - 1).copied().unwrap_or(0)
    }
    /// Returns a number below `n`, which must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.raw() as usize % n
    }
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
    /// Returns true in one of `n` cases, and false if no choices are left.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }
}

/// Names of values.
const VALUE_NAMES: &[&str] = &["h", "_", "as", "encoder.block_1.ffn.sent", "a/b-c"];

/// Values of meta entries and scopes that are not names.
const TEXTS: &[&str] = &["", "plain", "bell\u{7}", "tab\tnewline\n", "\u{1b}[31m", "\"\\"];

/// Names: words, and strings that are not words.
const STRANGE: &[&str] = &[
    "plain",
    "with space",
    "as",
    "_",
    "return",
    "3d",
    "a//b",
    "->",
    "inf",
    "nan",
    "é\u{1F600}",
    "\"\\",
    "a.b-c/d",
    "%0",
    "// error: no",
];
/// Dims. There are few names and sizes, so that operands often match.
const DIMS: &[(&str, usize)] = &[("a", 4), ("b", 2), ("c", 8), ("d e", 4)];

pub fn program(c: &mut Choices, local: bool) -> Module {
    let mut env = Env::default();
    if local {
        env.mesh = Mesh::parse("data=2,expert=2,model=2").expect("a legal mesh");
    }
    for i in 0..c.below(4) {
        let name = format!("{}{i}", c.pick(STRANGE)).into();
        let ty = settled_type(&env, c);
        let kind = c.pick(&[StateKind::Param, StateKind::Slot, StateKind::Counter]);
        env.states.push(StateDecl { name, kind, ty, site: site(c) });
    }
    let functions = (0..c.below(3)).map(|i| function(&env, c, i)).collect();
    let meta = (0..c.below(3)).map(|i| {
        let key = format!("{i}{}", c.pick(STRANGE)).into();
        Meta { key, value: c.pick(TEXTS).to_owned(), site: site(c) }
    });
    let meta = meta.collect();
    Module { name: c.pick(STRANGE).to_owned(), env, functions, meta, schedule: schedule(c), task: task(c) }
}

fn function(env: &Env, c: &mut Choices, i: usize) -> Function {
    let mut g = Generator { env, b: BodyBuilder::new(env), written: Vec::new(), depth: 0 };
    let mut inputs: Vec<Name> = Vec::new();
    for j in 0..1 + c.below(4) {
        let input: Name = format!("{}{j}", c.pick(STRANGE)).into();
        let name = match c.below(3) {
            0 => Some(input.clone()).filter(|name| is_value_name(name)),
            1 => None,
            _ => Some(format!("{}{j}", c.pick(VALUE_NAMES)).into()),
        };
        g.b.param(settled_type(env, c), name);
        inputs.push(input);
    }
    for _ in 0..c.below(24) {
        g.instruction(c);
    }
    let results: Vec<Value> = (0..c.below(4)).map(|_| g.value(c)).collect();
    let results: Vec<Value> = results.into_iter().filter(|v| g.b.ty(*v).pending().is_empty()).collect();
    let outputs = (0..results.len()).map(|j| format!("{}{j}", c.pick(STRANGE)).into()).collect();
    Function { name: format!("{}{i}", c.pick(STRANGE)).into(), inputs, outputs, body: g.b.finish(results) }
}

fn schedule(c: &mut Choices) -> Schedule {
    let mut schedule = Schedule::default();
    for entry in ENTRIES.iter().filter(|e| e.values.len() > 1) {
        if c.one_in(4) {
            schedule.set(entry.key, c.pick(entry.values)).expect("the table lists legal values");
        }
    }
    schedule
}

fn task(c: &mut Choices) -> Option<Task> {
    let kinds = [
        TaskKind::Train { objective: c.pick(&Objective::ALL), packing: c.one_in(2) },
        TaskKind::Score,
        TaskKind::Generate(Generation { beams: 3, filter: true, ..Generation::default() }),
    ];
    let mut task = Task::new(c.pick(&kinds));
    for key in ["vocab", "batch", "pad", "eos", "first_sentinel", "sentinels"] {
        if c.one_in(2) {
            task.set(key, "7").expect("the entry takes any number");
        }
    }
    for role in ["inputs", "seed", "row_loss"] {
        if c.one_in(4) {
            task.set(role, "a/b-c").expect("the entry takes any word");
        }
    }
    (!c.one_in(3)).then_some(task)
}

fn site(c: &mut Choices) -> Site {
    if c.one_in(2) {
        return Site::default();
    }
    let file = c.pick(&["models/t5.rs", "/abs path/x.rs", ""]);
    let site =
        Site::new(file, c.raw() % 100, c.raw(), c.pick(&["", "encoder/ffn", "a \"b\"", "tab\tnewline\n"]));
    site.in_phase(c.pick(&[Phase::Forward, Phase::Backward]))
}

fn dtype(c: &mut Choices) -> DType {
    c.pick(&[DType::F32, DType::F32, DType::Bf16, DType::S32, DType::U32, DType::Pred])
}

fn axes(env: &Env, c: &mut Choices) -> Vec<AxisId> {
    let axes: Vec<AxisId> = env.mesh.ids().collect();
    let mut some: Vec<AxisId> = axes.into_iter().filter(|_| c.one_in(3)).collect();
    if c.one_in(2) {
        some.reverse();
    }
    some
}

fn dim(env: &Env, c: &mut Choices) -> TensorDim {
    let (name, size) = c.pick(DIMS);
    TensorDim { dim: Dim::new(name, size), axes: axes(env, c) }
}

fn dims(env: &Env, c: &mut Choices) -> Vec<TensorDim> {
    let mut dims: Vec<TensorDim> = Vec::new();
    for _ in 0..c.below(4) {
        let d = dim(env, c);
        let used: AxisSet = dims.iter().flat_map(|d| d.axes.clone()).collect();
        if dims.iter().all(|e| e.dim.name != d.dim.name) && d.axes.iter().all(|a| !used.contains(*a)) {
            dims.push(d);
        }
    }
    dims
}

/// A legal type with nothing pending.
fn settled_type(env: &Env, c: &mut Choices) -> Type {
    let ty = Type { dims: dims(env, c), ..Type::scalar(dtype(c)) };
    if check_type(env, &ty).is_ok() { ty } else { ty.unsharded() }
}

struct Generator<'e> {
    env: &'e Env,
    b: BodyBuilder<'e>,
    written: Vec<StateId>,
    depth: usize,
}

impl Generator<'_> {
    fn value(&mut self, c: &mut Choices) -> Value {
        Value::new(c.below(self.b.body.values.len()))
    }
    /// Returns the name of a dim, usually one of `v`.
    fn name(&mut self, c: &mut Choices, v: Value) -> Name {
        let names: Vec<Name> = self.b.ty(v).names().cloned().collect();
        if names.is_empty() || c.one_in(6) { c.pick(DIMS).0.into() } else { c.pick(&names) }
    }
    fn names(&mut self, c: &mut Choices, v: Value) -> Vec<Name> {
        let names: Vec<Name> = self.b.ty(v).names().cloned().collect();
        names.into_iter().filter(|_| c.one_in(2)).collect()
    }
    /// Adds a value of this element type, for operands that random programs rarely have.
    fn fresh(&mut self, c: &mut Choices, dtype: DType, dims: Vec<TensorDim>) -> Option<Value> {
        let one = Op::Shape(Shape::Constant { dtype, value: 1.0 });
        let one = self.b.emit1(one, &[], &Site::default()).ok()?;
        let broadcast = Op::Shape(Shape::Broadcast { dims });
        self.b.emit1(broadcast, &[one], &site(c)).ok()
    }

    /// Adds an instruction, if a legal one is drawn.
    fn instruction(&mut self, c: &mut Choices) {
        let Some((op, args)) = self.draw(c) else { return };
        let written = match &op {
            Op::State(StateOp::Write(id)) => Some(*id),
            _ => None,
        };
        if let Ok(results) = self.b.emit(op, &args, &site(c)) {
            self.written.extend(written);
            for v in results {
                // The number makes the name unique in the body.
                self.b.body.values[v].name =
                    c.one_in(8).then(|| format!("{}.{}", c.pick(VALUE_NAMES), v.0).into());
            }
        }
    }

    fn draw(&mut self, c: &mut Choices) -> Option<(Op, Vec<Value>)> {
        let x = self.value(c);
        Some(match c.below(9) {
            0 => self.elementwise(c, x),
            1 => {
                let y = self.value(c);
                let mut out = self.names(c, x);
                out.extend(self.names(c, y).into_iter().filter(|n| !self.b.ty(x).has(n)));
                (Op::Contract(Contract { out, dtype: c.pick(&[DType::F32, DType::Bf16]) }), vec![x, y])
            }
            2 => {
                let kind = c.pick(&[
                    ReduceKind::Sum,
                    ReduceKind::Max,
                    ReduceKind::Min,
                    ReduceKind::Mean,
                    ReduceKind::LogSumExp,
                ]);
                let op = match c.one_in(6) {
                    true => Reduce::ArgMax { dim: self.name(c, x) },
                    false => Reduce::Over { kind, dims: self.names(c, x) },
                };
                (Op::Reduce(op), vec![x])
            }
            3 => self.shape(c, x),
            4 => return self.index(c, x),
            5 => {
                let dist = c.pick(&[
                    Dist::Bits,
                    Dist::Uniform,
                    Dist::Normal,
                    Dist::TruncatedNormal,
                    Dist::Bernoulli(0.1),
                ]);
                let seed = self.fresh(c, DType::U32, Vec::new())?;
                let random = Random { dist, dims: dims(self.env, c), dtype: dtype(c), stream: c.raw() };
                (Op::Random(random), vec![seed, seed])
            }
            6 => {
                if self.env.states.is_empty() || self.depth > 0 {
                    return None;
                }
                let id = StateId::new(c.below(self.env.states.len()));
                match c.one_in(2) {
                    true if self.written.contains(&id) => return None,
                    true => {
                        let ty = self.env.states[id].ty.clone();
                        let value = self.fresh(c, ty.dtype, ty.dims)?;
                        (Op::State(StateOp::Write(id)), vec![value])
                    }
                    false => (Op::State(StateOp::Read(id)), vec![]),
                }
            }
            7 => return self.control(c),
            _ if self.env.mesh.axes().is_empty() => {
                let loss = self.fresh(c, DType::F32, Vec::new())?;
                (Op::Control(Control::Grad), vec![loss, x])
            }
            _ => return self.collective(c, x),
        })
    }

    fn elementwise(&mut self, c: &mut Choices, x: Value) -> (Op, Vec<Value>) {
        let y = self.value(c);
        let (op, args) = match c.below(6) {
            0 => (Elementwise::Unary(c.pick(Unary::ALL)), vec![x]),
            1 => (Elementwise::Binary(c.pick(Binary::ALL)), c.pick(&[vec![x, x], vec![x, y]])),
            2 => (Elementwise::Compare(c.pick(Compare::ALL)), c.pick(&[vec![x, x], vec![x, y]])),
            3 => match self.fresh(c, DType::Pred, Vec::new()) {
                Some(p) => (Elementwise::Select, c.pick(&[vec![p, x, x], vec![p, x, y]])),
                None => (Elementwise::StopGradient, vec![x]),
            },
            4 => (Elementwise::Cast(dtype(c)), vec![x]),
            _ => c.pick(&[(Elementwise::StopGradient, vec![x]), (Elementwise::WithGradient, vec![x, x])]),
        };
        (Op::Elementwise(op), args)
    }

    fn shape(&mut self, c: &mut Choices, x: Value) -> (Op, Vec<Value>) {
        let dim_of_x = self.name(c, x);
        let (op, args) = match c.below(9) {
            0 => {
                let bits = f64::from(f32::from_bits(c.raw()));
                let values = [0.0, -0.0, 1.0, 0.1, -1e-30, 1e300, f64::INFINITY, f64::NAN, 7.0, bits];
                (Shape::Constant { dtype: dtype(c), value: c.pick(&values) }, vec![])
            }
            1 => (Shape::Iota { dim: dim(self.env, c), dtype: dtype(c) }, vec![]),
            2 => {
                let pairs = self.names(c, x).into_iter().map(|n| (n, c.pick(STRANGE).into())).collect();
                (Shape::Rename { pairs }, vec![x])
            }
            3 => {
                // Split a dim in two, or rename it.
                let size = self.b.ty(x).size(&dim_of_x).unwrap_or(1);
                let axes = self.b.ty(x).axes_of(&dim_of_x).to_vec();
                let to = match c.one_in(2) && size.is_multiple_of(2) {
                    true => vec![
                        TensorDim { dim: Dim::new("major", size / 2), axes },
                        TensorDim { dim: Dim::new("minor", 2), axes: Vec::new() },
                    ],
                    false => vec![TensorDim { dim: Dim::new("other", size), axes }],
                };
                (Shape::Reshape { from: vec![dim_of_x], to }, vec![x])
            }
            4 => (Shape::Broadcast { dims: dims(self.env, c) }, vec![x]),
            5 => {
                let (start, limit) = (c.below(2), 1 + c.below(4));
                (Shape::Slice { dim: dim_of_x, start, limit, stride: 1 + c.below(2) }, vec![x])
            }
            6 => {
                let value = c.pick(&[0.0, 1.0, -0.5]);
                (Shape::Pad { dim: dim_of_x, low: c.below(3), high: c.below(3), value }, vec![x])
            }
            7 => {
                let edge = c.pick(&[Edge::Wrap, Edge::Fill(0.0), Edge::Fill(-1.0)]);
                (Shape::Shift { dim: dim_of_x, by: c.below(5) as isize - 2, edge }, vec![x])
            }
            _ => (Shape::Concat { dim: dim_of_x }, vec![x; 1 + c.below(3)]),
        };
        (Op::Shape(op), args)
    }

    fn index(&mut self, c: &mut Choices, x: Value) -> Option<(Op, Vec<Value>)> {
        let dim_of_x = self.name(c, x);
        let size = self.b.ty(x).size(&dim_of_x).unwrap_or(1);
        let whole = |name: &str, size| TensorDim { dim: Dim::new(name, size), axes: Vec::new() };
        let (op, args) = match c.below(9) {
            0 => {
                let dims = dims(self.env, c);
                let index = self.fresh(c, DType::S32, dims)?;
                (Index::OneHot { dim: dim(self.env, c), dtype: dtype(c) }, vec![index])
            }
            1 => {
                let index = self.fresh(c, DType::S32, vec![whole("looked up", 3)])?;
                let outside = c.pick(&[Outside::Zero, Outside::Clamp]);
                (Index::Gather { dim: dim_of_x, outside }, vec![x, index])
            }
            2 => {
                let like = self.b.ty(x).dims.iter().filter(|d| d.dim.name == dim_of_x).cloned().collect();
                let index = self.fresh(c, DType::S32, like)?;
                let over = if c.one_in(2) { vec![dim_of_x] } else { Vec::new() };
                let to = dim(self.env, c);
                let name = to.dim.name.clone();
                let add = Index::ScatterAdd { dim: to, over: over.clone() };
                if c.one_in(2) {
                    let kind = c.pick(&[Extreme::Max, Extreme::Min]);
                    let into = self.b.emit1(Op::Index(add), &[index, x], &site(c)).ok()?;
                    (Index::ScatterExtreme { kind, dim: name, over }, vec![into, index, x])
                } else {
                    (add, vec![index, x])
                }
            }
            3 => {
                let forward = self.fresh(c, DType::S32, vec![whole("slots", 3)])?;
                let inverse = self.fresh(c, DType::S32, vec![whole(&dim_of_x, size)])?;
                (Index::Permute { dim: dim_of_x, to: "slots".into() }, vec![x, forward, inverse])
            }
            4 => (Index::TopK { dim: dim_of_x, to: Dim::new("k", 1 + c.below(2)) }, vec![x]),
            5 => (Index::Sort { dim: dim_of_x, descending: c.one_in(2) }, vec![x; 1 + c.below(3)]),
            6 => (Index::CumSum { dim: dim_of_x, exclusive: c.one_in(2), reverse: c.one_in(2) }, vec![x]),
            7 => {
                let start = self.fresh(c, DType::S32, Vec::new())?;
                (Index::DynamicSlice { dim: dim_of_x, size: 1 + c.below(3) }, vec![x, start])
            }
            _ => {
                let start = self.fresh(c, DType::S32, Vec::new())?;
                (Index::DynamicUpdate { dim: dim_of_x }, vec![x, x, start])
            }
        };
        Some((Op::Index(op), args))
    }

    fn control(&mut self, c: &mut Choices) -> Option<(Op, Vec<Value>)> {
        if self.depth >= 2 {
            return None;
        }
        let n = 1 + c.below(3);
        let args: Vec<Value> = (0..n).map(|_| self.value(c)).collect();
        if c.one_in(2) {
            let p = self.fresh(c, DType::Pred, Vec::new())?;
            let types: Vec<Type> = args.iter().map(|v| self.b.ty(*v).clone()).collect();
            let mut body = || Box::new(self.body(c, &types, n));
            let op = Control::Cond { then: body(), otherwise: body() };
            return Some((Op::Control(op), [vec![p], args].concat()));
        }
        let dim = Dim::new("steps", 3);
        let slices = c.below(n);
        let mut types = Vec::new();
        let mut operands = args.clone();
        for (i, v) in args.iter().enumerate() {
            types.push(self.b.ty(*v).clone());
            if i >= n - slices {
                let dims = vec![TensorDim { dim: dim.clone(), axes: Vec::new() }];
                operands[i] = self.b.emit1(Op::Shape(Shape::Broadcast { dims }), &[*v], &site(c)).ok()?;
            }
        }
        let carries = c.below(n - slices + 1);
        // The captures come last, so the sliced operands move before them.
        operands[carries..].rotate_right(slices);
        types[carries..].rotate_right(slices);
        let body = self.body(c, &types, carries);
        let reverse = c.one_in(2);
        let scan = Scan {
            dim,
            carries,
            xs: slices,
            reverse,
            remat: c.pick(&[
                Remat::SaveAll,
                Remat::SaveLong,
                Remat::SaveCompact,
                Remat::SaveContractions,
                Remat::SaveCarries,
            ]),
            unroll: c.one_in(2),
            barrier: reverse,
            body,
        };
        Some((Op::Control(Control::Scan(Box::new(scan))), operands))
    }

    /// Returns a body of random instructions whose first results are its first `same` parameters.
    fn body(&self, c: &mut Choices, params: &[Type], same: usize) -> Body {
        let b = BodyBuilder::new(self.env);
        let mut inner = Generator { env: self.env, b, written: Vec::new(), depth: self.depth + 1 };
        for ty in params {
            let position = inner.b.body.params.len();
            let name = c.one_in(4).then(|| format!("{}.p{position}", c.pick(VALUE_NAMES)).into());
            inner.b.param(ty.clone(), name);
        }
        for _ in 0..c.below(5) {
            inner.instruction(c);
        }
        let results = inner.b.body.params[..same].to_vec();
        inner.b.finish(results)
    }

    fn collective(&mut self, c: &mut Choices, x: Value) -> Option<(Op, Vec<Value>)> {
        let ty = self.b.ty(x).clone();
        let dim = self.name(c, x);
        // Attributes come from the type, so that they often fit: the last axis of a dim, pending or free
        // axes.
        let last: Vec<AxisId> = ty.axes_of(&dim).last().copied().into_iter().collect();
        let used = ty.split().union(ty.pending());
        let free: Vec<AxisId> = self.env.mesh.ids().filter(|a| !used.contains(*a)).take(1).collect();
        let op = match c.below(7) {
            0 => {
                let (kind, axes) =
                    c.pick(&[(Pending::Sum, ty.sum), (Pending::Max, ty.max), (Pending::Min, ty.min)]);
                Collective::AllReduce { kind, axes }
            }
            1 => Collective::AllGather { dim, axes: last },
            2 => Collective::ReduceScatter { dim, axes: ty.sum.iter().take(1).collect() },
            3 => Collective::AllToAll { from: dim, to: self.name(c, x), axes: last },
            4 => Collective::Shard { dim, axes: free },
            5 => {
                let axes = ty.axes_of(&dim).to_vec();
                Collective::Permute { dim, axes, by: c.below(5) as isize - 2, wrap: c.one_in(2) }
            }
            _ => Collective::AsPending { axes: free.into_iter().collect() },
        };
        Some((Op::Collective(op), vec![x]))
    }
}

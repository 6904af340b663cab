//! Random functions: inputs and states, a sequence of random instructions, and results.
//!
//! A family adds an instruction by trial: it picks random operands, and returns `None` if they do not fit.
//! Type inference decides. [`Facts`] contains the information beyond types.

use super::rng::Rng;
use mesh::ir::{Control, StateOp};
use mesh::{BodyBuilder, DType, Dim, Env, Function, Module, Name, Op, Site, StateDecl, StateId, StateKind};
use mesh::{Type, Value};

/// Facts about a value beyond its type.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Facts {
    /// True if the value is bit-equal under every layout and on every backend. Integers always are.
    pub exact: bool,
    /// Bound of the magnitude of all elements.
    pub bound: f64,
    /// Set if the value is one of the two index tensors of a partial permutation.
    pub permutation: Option<Permutation>,
}

/// One of the two index tensors of a partial permutation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permutation {
    /// The number of the pair.
    pub pair: usize,
    /// True for the forward indices.
    pub forward: bool,
}

impl Facts {
    /// Returns facts of exact values up to `bound`.
    pub fn exact(bound: f64) -> Self {
        Self { exact: true, bound, permutation: None }
    }
    /// Returns facts of rounded values up to `bound`.
    pub fn rounded(bound: f64) -> Self {
        Self { exact: false, bound, permutation: None }
    }
    /// Returns the facts of the same values in another order, which are no longer permutation indices.
    pub fn moved(self) -> Self {
        Self { permutation: None, ..self }
    }
    /// Returns facts that are exact if both are.
    pub fn with(self, other: Self, bound: f64) -> Self {
        Self { exact: self.exact && other.exact, bound, permutation: None }
    }
}

/// Constraints on the inputs of a function: its permutations, as `(forward, inverse, dim of x, new dim)`.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Indexed by the position of the inputs.
    pub permutations: Vec<(Name, Name, Name, Name)>,
}

/// The largest magnitude of a generated float.
const LARGEST: f64 = 1e4;
/// Float inputs and constants are multiples of 1/16 up to this bound, so that every float type represents
/// them.
pub const FLOAT_BOUND: f64 = 3.0;
/// Input integers exceed most dims on both sides, so that some indices are out of range.
pub const INDEX_BOUND: i64 = 9;

/// Generates a module of `functions` programs, with hints for the values of each.
pub fn module(rng: &mut Rng, functions: usize, size: usize) -> (Module, Vec<Hints>) {
    let mut module = Module { name: "random".into(), ..Module::default() };
    let pools: Vec<Vec<Dim>> = (0..functions).map(|i| pool(rng, i)).collect();
    // Some programs have bf16 values; the others are compared more strictly.
    let narrow: Vec<bool> = pools.iter().map(|_| rng.chance(35)).collect();
    let mut states = Vec::new();
    for (i, pool) in pools.iter().enumerate() {
        states.push(declare(rng, &mut module.env, i, pool, narrow[i]));
    }
    let mut hints = Vec::new();
    for (i, (pool, states)) in pools.iter().zip(states).enumerate() {
        let (function, hint) = function(rng, &module.env, i, pool, narrow[i], states, size);
        module.functions.push(function);
        hints.push(hint);
    }
    (module, hints)
}

/// Generates the dims of a program. Scans loop over the last one.
fn pool(rng: &mut Rng, function: usize) -> Vec<Dim> {
    let mut pool: Vec<Dim> = ["a", "b", "c", "d", "e", "f"]
        .iter()
        .map(|name| {
            let size = rng.one_of([1, 2, 2, 3, 4, 4, 4, 4, 6, 8, 8, 8]);
            Dim::new(format!("{name}{function}"), size)
        })
        .collect();
    pool.push(Dim::new(format!("loop{function}"), 1 + rng.below(4)));
    pool
}

/// Replaces bf16 by f32 in programs without bf16.
fn widened(dtype: DType, narrow: bool) -> DType {
    if dtype == DType::Bf16 && !narrow { DType::F32 } else { dtype }
}

fn declare(rng: &mut Rng, env: &mut Env, function: usize, pool: &[Dim], narrow: bool) -> Vec<StateId> {
    let kinds = [StateKind::Param, StateKind::Slot, StateKind::Counter];
    let declare = |i: usize| {
        let dtype = widened(rng.one_of([DType::F32, DType::F32, DType::Bf16, DType::S32]), narrow);
        let ty = ty(rng, dtype, pool);
        let name = format!("state{function}/{i}").into();
        env.states.push(StateDecl { name, kind: rng.one_of(kinds), ty, site: Site::default() })
    };
    let count = 2;
    (0..count).map(declare).collect()
}

/// Generates a type over dims of the pool, with at most 512 elements.
fn ty(rng: &mut Rng, dtype: DType, pool: &[Dim]) -> Type {
    let mut dims = rng.shuffled(pool);
    dims.truncate(rng.one_of([0, 1, 2, 2, 3, 3]));
    let mut elements = 1;
    dims.retain(|d| {
        let fits = elements * d.size <= 512;
        elements *= if fits { d.size } else { 1 };
        fits
    });
    Type::new(dtype, dims)
}

fn function(
    rng: &mut Rng,
    env: &Env,
    number: usize,
    pool: &[Dim],
    narrow: bool,
    states: Vec<StateId>,
    size: usize,
) -> (Function, Hints) {
    let smooth = rng.chance(40);
    let mut g = Gen {
        rng,
        b: BodyBuilder::new(env),
        facts: Vec::new(),
        pool,
        number,
        smooth,
        narrow,
        depth: 0,
        fresh: 0,
    };
    let mut hints = Hints::default();
    let inputs = g.inputs(&mut hints);
    for state in &states {
        g.read(*state);
    }
    let count = size / 2 + g.rng.below(size);
    g.instructions(count);
    let mut results = if smooth { g.gradient().unwrap_or_default() } else { Vec::new() };
    for state in &states {
        g.write(*state);
    }
    results.extend(g.results(6));
    let outputs = (0..results.len()).map(|i| format!("y{i}").into()).collect();
    let body = g.b.finish(results);
    (Function { name: format!("f{number}").into(), inputs, outputs, body }, hints)
}

/// A body being generated.
pub(super) struct Gen<'g, 'e> {
    pub rng: &'g mut Rng,
    pub b: BodyBuilder<'e>,
    /// Facts of each value.
    pub facts: Vec<Facts>,
    pub pool: &'g [Dim],
    pub number: usize,
    /// True if the program is differentiated: non-smooth operations then need exact operands.
    pub smooth: bool,
    /// True if the program has bf16 values.
    pub narrow: bool,
    /// The nesting depth of this body.
    pub depth: usize,
    /// The number of generated dim names.
    pub fresh: usize,
}

impl<'e> Gen<'_, 'e> {
    fn inputs(&mut self, hints: &mut Hints) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        let whole = INDEX_BOUND as f64;
        let mut inputs = vec![
            (Type::scalar(DType::U32), Facts::exact(f64::from(u32::MAX))),
            (Type::scalar(DType::S32), Facts::exact(whole)),
        ];
        for dtype in [DType::F32, DType::F32, DType::Bf16, DType::S32, DType::S32, DType::Pred, DType::F32] {
            let pool = if self.rng.chance(70) { &self.pool[..self.pool.len() - 1] } else { self.pool };
            let bound = if dtype.is_float() { FLOAT_BOUND } else { whole };
            let dtype = widened(dtype, self.narrow);
            inputs.push((ty(self.rng, dtype, pool), Facts::exact(bound)));
        }
        // Two values with the looped dim, so that scans can slice them.
        for dtype in [DType::F32, DType::S32] {
            let mut ty = ty(self.rng, dtype, &self.pool[..self.pool.len() - 1]);
            ty.dims.truncate(2);
            let looped = self.pool[self.pool.len() - 1].clone();
            let place = self.rng.below(ty.dims.len() + 1);
            ty.dims.insert(place, mesh::TensorDim { dim: looped, axes: Vec::new() });
            let bound = if dtype.is_float() { FLOAT_BOUND } else { whole };
            inputs.push((ty, Facts::exact(bound)));
        }
        for (ty, facts) in inputs {
            names.push(format!("x{}", names.len()).into());
            self.param(ty, facts);
        }
        for pair in 0..2 {
            self.permutation(pair, &mut names, hints);
        }
        self.b.body.params.iter().zip(&names).for_each(|(v, name)| {
            self.b.body.values[*v].name = Some(name.clone());
        });
        names
    }

    /// Adds two inputs that are a partial permutation.
    fn permutation(&mut self, pair: usize, names: &mut Vec<Name>, hints: &mut Hints) {
        let dims = self.rng.shuffled(&self.pool[..self.pool.len() - 1]);
        let (dim, to) = (dims[0].clone(), dims[1].clone());
        let batch: Vec<Dim> = dims[2..2 + self.rng.below(2)].to_vec();
        let mut halves = Vec::new();
        for (forward, own) in [(true, &to), (false, &dim)] {
            let dims = batch.iter().chain([own]).cloned().collect::<Vec<_>>();
            let facts = Facts {
                permutation: Some(Permutation { pair, forward }),
                ..Facts::exact(dim.size.max(to.size) as f64)
            };
            let name: Name = format!("x{}", names.len()).into();
            let dims = self.rng.shuffled(&dims);
            self.param(Type::new(DType::S32, dims), facts);
            names.push(name.clone());
            halves.push(name);
        }
        hints.permutations.push((halves[0].clone(), halves[1].clone(), dim.name, to.name));
    }

    /// Adds a parameter.
    pub fn param(&mut self, ty: Type, facts: Facts) -> Value {
        let value = self.b.param(ty, None);
        self.facts.push(facts);
        value
    }

    /// Adds about `count` instructions.
    pub fn instructions(&mut self, count: usize) {
        for _ in 0..count {
            // Most trials succeed, so a few are enough.
            for _ in 0..20 {
                let done = match self.rng.below(if self.depth < 2 { 26 } else { 24 }) {
                    0..=6 => self.elementwise(),
                    7..=10 => self.contract(),
                    11..=13 => self.reduce(),
                    14..=17 => self.shape(),
                    18..=21 => self.index(),
                    22 => self.random(),
                    23 => self.state(),
                    24 => self.scan(),
                    _ => self.cond(),
                };
                if done.is_some() {
                    break;
                }
            }
        }
    }

    /// Adds an instruction if it is well-typed, not too large, and tame. `facts` has one entry per result.
    pub fn emit(
        &mut self,
        op: impl Into<Instruction>,
        args: &[Value],
        facts: &[Facts],
    ) -> Option<Vec<Value>> {
        let op = op.into().0;
        let types: Vec<&Type> = args.iter().map(|v| self.b.ty(*v)).collect();
        let results = mesh::infer::infer(self.b.env, &op, &types).ok()?;
        let bearable = |ty: &Type| {
            ty.elements() <= 2048 && ty.dims.len() <= 5 && ty.dtype == widened(ty.dtype, self.narrow)
        };
        if !results.iter().all(bearable) {
            return None;
        }
        let tame = |(ty, facts): (&Type, &Facts)| !ty.dtype.is_float() || facts.bound <= LARGEST;
        if !results.iter().zip(facts).all(tame) {
            return None;
        }
        assert_eq!(results.len(), facts.len(), "a family gives facts for each result");
        let site = Site::new("random.rs", self.b.body.insts.len() as u32 + 1, 1, "");
        let values = self.b.emit(op, args, &site).expect("inference has just accepted it");
        for (ty, facts) in results.iter().zip(facts) {
            self.facts.push(Facts { exact: facts.exact || !ty.dtype.is_float(), ..*facts });
        }
        Some(values)
    }

    /// Adds an instruction with one result.
    pub fn emit1(&mut self, op: impl Into<Instruction>, args: &[Value], facts: Facts) -> Option<Value> {
        self.emit(op, args, &[facts]).map(|values| values[0])
    }

    /// Picks a random value that satisfies `ok`. Recent values are more likely, so that programs are deep.
    pub fn value(&mut self, ok: impl Fn(&Self, Value) -> bool) -> Option<Value> {
        let all: Vec<Value> = self.b.body.values.ids().filter(|v| ok(self, *v)).collect();
        if self.rng.chance(50) {
            let late = &all[all.len() - all.len().min(4)..];
            return self.rng.pick(late).copied();
        }
        self.rng.pick(&all).copied()
    }

    /// Picks a random float.
    pub fn float(&mut self) -> Option<Value> {
        self.value(|g, v| g.ty(v).dtype.is_float())
    }

    /// Picks a random float for a non-smooth or discontinuous operation. Discontinuous operations always need
    /// exact operands; non-smooth ones only if the program is differentiated.
    pub fn kinked(&mut self) -> Option<Value> {
        let any = !self.smooth;
        self.value(|g, v| g.ty(v).dtype.is_float() && (any || g.facts(v).exact))
    }

    /// Picks a random number for a discontinuous operation.
    pub fn exact(&mut self) -> Option<Value> {
        self.value(|g, v| g.facts(v).exact && g.ty(v).dtype != DType::Pred)
    }

    /// Returns the type of a value.
    pub fn ty(&self, value: Value) -> &Type {
        self.b.ty(value)
    }

    /// Returns the facts of a value.
    pub fn facts(&self, value: Value) -> Facts {
        self.facts[value.0 as usize]
    }

    /// Returns the dims of the pool that `value` does not have, in random order.
    pub fn other_dims(&mut self, value: Value) -> Vec<Dim> {
        let others: Vec<Dim> = self.pool[..self.pool.len() - 1]
            .iter()
            .filter(|d| !self.ty(value).has(&d.name))
            .cloned()
            .collect();
        self.rng.shuffled(&others)
    }

    /// Picks a dim of `value`.
    pub fn dim_of(&mut self, value: Value) -> Option<Dim> {
        let dims: Vec<Dim> = self.ty(value).logical().cloned().collect();
        self.rng.pick(&dims).cloned()
    }

    /// Returns an unused dim name.
    pub fn fresh_name(&mut self) -> Name {
        self.fresh += 1;
        format!("n{}_{}_{}", self.number, self.depth, self.fresh).into()
    }

    /// Adds a scalar constant.
    pub fn constant(&mut self, dtype: DType, value: f64) -> Option<Value> {
        self.emit1(mesh::ir::Shape::Constant { dtype, value }, &[], Facts::exact(value.abs()))
    }

    /// Adds a read of a state. Inner bodies have no access to state.
    fn state(&mut self) -> Option<()> {
        if self.depth > 0 {
            return None;
        }
        let own = format!("state{}/", self.number);
        let states: Vec<StateId> =
            self.b.env.states.iter().filter(|(_, s)| s.name.starts_with(&own)).map(|(id, _)| id).collect();
        let state = *self.rng.pick(&states)?;
        self.read(state)
    }

    fn read(&mut self, state: StateId) -> Option<()> {
        let float = self.b.env.states[state].ty.dtype.is_float();
        let bound = if float { FLOAT_BOUND } else { INDEX_BOUND as f64 };
        self.emit1(StateOp::Read(state), &[], Facts::exact(bound)).map(drop)
    }

    fn write(&mut self, state: StateId) {
        let ty = self.b.env.states[state].ty.clone();
        if let Some(value) = self.fitted(&ty) {
            self.emit(StateOp::Write(state), &[value], &[]).expect("the value was made for this state");
        }
    }

    /// Picks up to `count` results. Unused values come first, because the rest of the program leads to them.
    pub fn results(&mut self, count: usize) -> Vec<Value> {
        let used: Vec<Value> = self.b.body.insts.iter().flat_map(|inst| inst.args.clone()).collect();
        let made = self.b.body.insts.iter().flat_map(|inst| inst.results.clone());
        let (ends, middle): (Vec<Value>, Vec<Value>) = made.partition(|v| !used.contains(v));
        let mut results = self.rng.shuffled(&ends);
        results.extend(self.rng.shuffled(&middle).into_iter().take(1));
        results.truncate(count);
        results
    }
}

/// Adds an operation of a random family.
pub(super) struct Instruction(pub Op);

macro_rules! instructions {
    ($($family:ident($ty:ty)),*) => { $(
        impl From<$ty> for Instruction {
            fn from(op: $ty) -> Self {
                Self(Op::$family(op))
            }
        }
    )* };
}

instructions!(
    Elementwise(mesh::ir::Elementwise),
    Contract(mesh::ir::Contract),
    Reduce(mesh::ir::Reduce),
    Shape(mesh::ir::Shape),
    Index(mesh::ir::Index),
    Random(mesh::ir::Random),
    State(StateOp),
    Control(Control)
);

//! The tape: the forward body, the backward instructions made so far, and the cotangents between them.
//!
//! Backward instructions are built in a separate body. A forward value that they use is *imported*: it
//! becomes a parameter there. The owner of the tape decides what the parameter is: the value itself, a value
//! that a scan saved, or a recomputed value.

use super::{Body, Diagnostic, Env, Inst, Op, Phase, Site, Value, pull};
use indexmap::IndexMap;
use mesh::{
    BodyBuilder, DType, Name, TensorDim, Type,
    arena::Id,
    ir::{Binary, Compare, Contract, Elementwise, Reduce, ReduceKind, Shape, Unary},
};
use rustc_hash::{FxBuildHasher, FxHashMap};

/// A value of the backward body. Forward values are plain [`Value`]s, so that the two never mix.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Bwd(pub(super) Value);

/// The result of rules. Only a bug in the compiler makes a rule fail.
pub(super) type Outcome<T = ()> = Result<T, Diagnostic>;

/// The state of one sweep.
pub(super) struct Tape<'e> {
    /// The forward body. Its scans gain results while the sweep passes them.
    pub(super) fwd: Body,
    /// Backward instructions.
    pub(super) out: BodyBuilder<'e>,
    /// Forward values used by backward instructions, in order of first use.
    pub(super) imports: IndexMap<Value, Bwd, FxBuildHasher>,
    /// The site of the next instruction.
    pub(super) site: Site,
    varied: Vec<bool>,
    cotangents: Vec<Option<Bwd>>,
    softmax: FxHashMap<(Value, Value), Value>,
    /// For values whose only use is a cast to a narrower float, that cast.
    narrow: Vec<Option<Value>>,
    constants: FxHashMap<(DType, u64), Bwd>,
}

impl<'e> Tape<'e> {
    /// A tape of `fwd`, of which the values `varied` (by index) need cotangents.
    pub(super) fn new(env: &'e Env, fwd: Body, varied: Vec<bool>, site: &Site) -> Self {
        Self {
            cotangents: vec![None; fwd.values.len()],
            softmax: softmax(&fwd),
            narrow: narrow(&fwd),
            fwd,
            out: BodyBuilder::new(env),
            imports: IndexMap::default(),
            site: site.in_phase(Phase::Backward),
            varied,
            constants: FxHashMap::default(),
        }
    }

    /// Applies the rules of all forward instructions, from the last to the first.
    pub(super) fn sweep(&mut self) -> Outcome {
        let mut insts = std::mem::take(&mut self.fwd.insts);
        let outcome = insts.iter_mut().rev().try_for_each(|inst| self.visit(inst));
        self.fwd.insts = insts;
        outcome
    }

    fn visit(&mut self, inst: &mut Inst) -> Outcome {
        let cts: Vec<Option<Bwd>> = inst.results.iter().map(|r| self.cotangent(*r)).collect();
        if cts.iter().all(Option::is_none) || !inst.args.iter().any(|a| self.wants(*a)) {
            return Ok(());
        }
        self.site = inst.site.in_phase(Phase::Backward);
        pull(self, inst, &cts)
    }

    // Cotangents.

    /// True if the forward value needs a cotangent.
    pub(super) fn wants(&self, value: Value) -> bool {
        self.varied[value.index()]
    }

    /// The cotangent of a forward value so far.
    pub(super) fn cotangent(&self, value: Value) -> Option<Bwd> {
        self.cotangents[value.index()]
    }

    /// Adds to the cotangent of a forward value. `ct` has the value's element type and no dims that the value
    /// lacks. Contributions are summed in the order of the sweep.
    pub(super) fn give(&mut self, value: Value, ct: Bwd) -> Outcome {
        if !self.wants(value) {
            return Ok(());
        }
        let (have, want) = (self.ty(ct), self.forward_ty(value));
        debug_assert_eq!(have.dtype, want.dtype, "a cotangent has the element type of its value");
        debug_assert!(have.names().all(|n| want.has(n)), "a cotangent has only dims of its value");
        self.cotangents[value.index()] = Some(match self.cotangent(value) {
            Some(sum) => self.larger_first(Binary::Add, sum, ct)?,
            None => ct,
        });
        Ok(())
    }

    /// Like [`Self::give`] for an operand that was broadcast by name to the dims of `result`: sums over the
    /// dims that the operand lacks.
    pub(super) fn give_summed(&mut self, value: Value, ct: Bwd, result: Value) -> Outcome {
        if !self.wants(value) {
            return Ok(());
        }
        let operand = self.forward_ty(value);
        let extra: Vec<_> =
            self.forward_ty(result).dims.iter().filter(|d| !operand.has(&d.dim.name)).cloned().collect();
        let ct = self.sum_over(ct, &extra)?;
        self.give(value, ct)
    }

    /// Adds a forward value that needs no cotangent: a value that a scan now saves.
    pub(super) fn new_forward(&mut self, ty: Type) -> Value {
        self.varied.push(false);
        self.narrow.push(None);
        self.cotangents.push(None);
        self.fwd.values.push(mesh::ir::ValueData { ty, name: None })
    }

    /// The forward value `e^(x - y)`, if the program computes it.
    pub(super) fn softmax(&self, x: Value, y: Value) -> Option<Value> {
        self.softmax.get(&(x, y)).copied()
    }

    // Values of the backward body.

    /// The forward value as a backward value.
    pub(super) fn primal(&mut self, value: Value) -> Bwd {
        if let Some(import) = self.imports.get(&value) {
            return *import;
        }
        let import = self.param(self.forward_ty(value).clone());
        self.imports.insert(value, import);
        import
    }

    /// Like [`Self::primal`], but rounded if the program uses the value rounded only. Then only the narrow
    /// value has to be saved, and the cotangent is no more precise than it.
    pub(super) fn as_used(&mut self, value: Value) -> Outcome<Bwd> {
        let (dtype, narrow) = (self.forward_ty(value).dtype, self.narrow[value.index()]);
        match narrow {
            Some(narrow) => {
                let narrow = self.primal(narrow);
                self.cast(narrow, dtype)
            }
            None => Ok(self.primal(value)),
        }
    }

    /// Rounds a cotangent that follows from [`Self::as_used`] of `value` to the same precision. All its users
    /// read the narrow value, which is stored once instead of being recomputed for each of them.
    pub(super) fn rounded_as(&mut self, value: Value, ct: Bwd) -> Outcome<Bwd> {
        let Some(narrow) = self.narrow[value.index()] else { return Ok(ct) };
        let (dtype, to) = (self.ty(ct).dtype, self.forward_ty(narrow).dtype);
        let ct = self.cast(ct, to)?;
        self.cast(ct, dtype)
    }

    /// A new parameter of the backward body.
    pub(super) fn param(&mut self, ty: Type) -> Bwd {
        Bwd(self.out.param(ty, None))
    }

    /// The type of a forward value.
    pub(super) fn forward_ty(&self, value: Value) -> &Type {
        self.fwd.ty(value)
    }

    /// The type of a backward value.
    pub(super) fn ty(&self, value: Bwd) -> &Type {
        self.out.ty(value.0)
    }

    /// Adds an instruction.
    pub(super) fn emit(&mut self, op: Op, args: &[Bwd]) -> Outcome<Vec<Bwd>> {
        let args: Vec<Value> = args.iter().map(|a| a.0).collect();
        Ok(self.out.emit(op, &args, &self.site)?.into_iter().map(Bwd).collect())
    }

    /// Adds an instruction with one result.
    pub(super) fn emit1(&mut self, op: impl Into<Emit>, args: &[Bwd]) -> Outcome<Bwd> {
        let args: Vec<Value> = args.iter().map(|a| a.0).collect();
        Ok(Bwd(self.out.emit1(op.into().0, &args, &self.site)?))
    }

    /// A constant.
    pub(super) fn constant(&mut self, dtype: DType, value: f64) -> Outcome<Bwd> {
        if let Some(known) = self.constants.get(&(dtype, value.to_bits())) {
            return Ok(*known);
        }
        let fresh = self.emit1(Shape::Constant { dtype, value }, &[])?;
        self.constants.insert((dtype, value.to_bits()), fresh);
        Ok(fresh)
    }

    /// Zeros.
    pub(super) fn zeros(&mut self, ty: &Type) -> Outcome<Bwd> {
        let zero = self.constant(ty.dtype, 0.0)?;
        self.with_dims(zero, &ty.dims)
    }

    /// `f(x)`.
    pub(super) fn unary(&mut self, op: Unary, x: Bwd) -> Outcome<Bwd> {
        self.emit1(Elementwise::Unary(op), &[x])
    }

    /// `f(a, b)`, broadcast by name.
    pub(super) fn binary(&mut self, op: Binary, a: Bwd, b: Bwd) -> Outcome<Bwd> {
        self.emit1(Elementwise::Binary(op), &[a, b])
    }

    /// `a · b`.
    pub(super) fn mul(&mut self, a: Bwd, b: Bwd) -> Outcome<Bwd> {
        self.larger_first(Binary::Mul, a, b)
    }

    /// `a + b` or `a · b`. The order of dims follows from the operands: the larger operand is more likely to
    /// have the order of the model.
    fn larger_first(&mut self, op: Binary, a: Bwd, b: Bwd) -> Outcome<Bwd> {
        let swap = self.ty(b).dims.len() > self.ty(a).dims.len();
        if swap { self.binary(op, b, a) } else { self.binary(op, a, b) }
    }

    /// `x · factor`.
    pub(super) fn scale(&mut self, x: Bwd, factor: f64) -> Outcome<Bwd> {
        let factor = self.constant(self.ty(x).dtype, factor)?;
        self.mul(x, factor)
    }

    /// `x + term`.
    pub(super) fn shift(&mut self, x: Bwd, term: f64) -> Outcome<Bwd> {
        let term = self.constant(self.ty(x).dtype, term)?;
        self.binary(Binary::Add, x, term)
    }

    /// A comparison.
    pub(super) fn compare(&mut self, op: Compare, a: Bwd, b: Bwd) -> Outcome<Bwd> {
        self.emit1(Elementwise::Compare(op), &[a, b])
    }

    /// `x` where `p` is `holds`, else 0.
    pub(super) fn keep(&mut self, p: Bwd, x: Bwd, holds: bool) -> Outcome<Bwd> {
        let zero = self.constant(self.ty(x).dtype, 0.0)?;
        let args = if holds { [p, x, zero] } else { [p, zero, x] };
        self.emit1(Elementwise::Select, &args)
    }

    /// `x` cast to an element type.
    pub(super) fn cast(&mut self, x: Bwd, dtype: DType) -> Outcome<Bwd> {
        if self.ty(x).dtype == dtype {
            return Ok(x);
        }
        self.emit1(Elementwise::Cast(dtype), &[x])
    }

    /// `Σ a · b` over all dims that the forward value `like` lacks, in the order of its dims, without dims
    /// that neither has. This is the cotangent of a factor, given that of the product and the other factor.
    /// If there are dims to sum it is an einsum, which never holds the product over all dims and sums in
    /// float32. The element type is that of the operands.
    pub(super) fn product(&mut self, like: Value, a: Bwd, b: Bwd) -> Outcome<Bwd> {
        let (target, x, y) = (self.forward_ty(like), self.ty(a), self.ty(b));
        let within = |a: &Type, b: &Type| a.names().all(|n| b.has(n));
        let one_has_all = within(x, y) || within(y, x);
        if one_has_all && within(x, target) && within(y, target) {
            return self.mul(a, b);
        }
        let out = target.names().filter(|n| x.has(n) || y.has(n)).cloned().collect();
        let dtype = x.dtype;
        self.emit1(Op::Contract(Contract { out, dtype }), &[a, b])
    }

    /// `x` summed over `dims`. `x` is constant along a dim it lacks, so that the sum is a product with the
    /// size.
    pub(super) fn sum_over(&mut self, x: Bwd, dims: &[TensorDim]) -> Outcome<Bwd> {
        let (there, lacking): (Vec<_>, Vec<_>) = dims.iter().partition(|d| self.ty(x).has(&d.dim.name));
        let mut x = x;
        if !there.is_empty() {
            let dims: Vec<Name> = there.iter().map(|d| d.dim.name.clone()).collect();
            x = self.emit1(Reduce::Over { kind: ReduceKind::Sum, dims }, &[x])?;
        }
        let count: f64 = lacking.iter().map(|d| d.dim.size as f64).product();
        if count == 1.0 { Ok(x) } else { self.scale(x, count) }
    }

    /// `x`, broadcast along those of `dims` that it lacks.
    pub(super) fn with_dims<'d>(
        &mut self,
        x: Bwd,
        dims: impl IntoIterator<Item = &'d TensorDim>,
    ) -> Outcome<Bwd> {
        let ty = self.ty(x);
        let dims: Vec<_> = dims.into_iter().filter(|d| !ty.has(&d.dim.name)).cloned().collect();
        if dims.is_empty() { Ok(x) } else { self.emit1(Shape::Broadcast { dims }, &[x]) }
    }

    /// `x` with exactly the type `ty`, including the order of dims, which a function's caller can see.
    pub(super) fn exactly(&mut self, x: Bwd, ty: &Type) -> Outcome<Bwd> {
        let have: Vec<_> = self.ty(x).names().cloned().collect();
        let lacking = ty.dims.len() - have.len();
        if ty.names().skip(lacking).eq(&have) {
            return self.with_dims(x, &ty.dims);
        }
        // A product takes the order of its first operand; there is no transpose before HLO.
        let one = self.constant(ty.dtype, 1.0)?;
        let ones = self.with_dims(one, &ty.dims)?;
        self.mul(ones, x)
    }
}

/// An [`Op`] given as one of its families.
pub(super) struct Emit(pub(super) Op);

macro_rules! emit_from {
    ($($family:ident),*) => {
        $(impl From<mesh::ir::$family> for Emit {
            fn from(op: mesh::ir::$family) -> Self {
                Self(Op::$family(op))
            }
        })*
    };
}
emit_from!(Elementwise, Reduce, Shape, Index);

impl From<Op> for Emit {
    fn from(op: Op) -> Self {
        Self(op)
    }
}

/// Values `e^(x - y)` by `(x, y)`: for `y = logsumexp(x)`, the rule of logsumexp needs this.
fn softmax(body: &Body) -> FxHashMap<(Value, Value), Value> {
    let mut differences: FxHashMap<Value, (Value, Value)> = FxHashMap::default();
    let mut found = FxHashMap::default();
    for inst in &body.insts {
        if inst.op == Op::Elementwise(Elementwise::Binary(Binary::Sub)) {
            differences.insert(inst.results[0], (inst.args[0], inst.args[1]));
        } else if inst.op == Op::Elementwise(Elementwise::Unary(Unary::Exp))
            && let Some(pair) = differences.get(&inst.args[0])
        {
            found.entry(*pair).or_insert(inst.results[0]);
        }
    }
    found
}

/// For each value whose only use in a body is one cast to a narrower float, that cast.
fn narrow(body: &Body) -> Vec<Option<Value>> {
    let mut uses = vec![0; body.values.len()];
    body.results.iter().for_each(|r| uses[r.index()] += 1);
    let mut narrow = vec![None; body.values.len()];
    for inst in &body.insts {
        inst.args.iter().for_each(|a| uses[a.index()] += 1);
        if let Op::Elementwise(Elementwise::Cast(to)) = &inst.op {
            let from = body.ty(inst.args[0]).dtype;
            if from.is_float() && to.is_float() && to.bytes() < from.bytes() {
                narrow[inst.args[0].index()] = Some(inst.results[0]);
            }
        }
    }
    narrow.iter_mut().zip(uses).filter(|(_, uses)| *uses != 1).for_each(|(narrow, _)| *narrow = None);
    narrow
}

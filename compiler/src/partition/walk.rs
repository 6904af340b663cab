//! Shared state of the op families while one body is partitioned: the Local values that represent each Global
//! value, how a value gets the sharding that an operation needs, and what is still pending.

use super::{Context, hints, reshard};
use crate::cost::wire;
use mesh::{
    AxisId, AxisSet, Body, BodyBuilder, DType, Diagnostic, Inst, Name, Site, TensorDim, Type, Value,
    arena::Id,
    ir::{Binary, Collective, Elementwise, Index, Op, Pending, Reduce, ReduceKind, Shape, Unary},
};

/// One body, in progress from Global to Local.
pub(super) struct Walk<'w> {
    pub(super) cx: &'w Context<'w>,
    pub(super) global: &'w Body,
    pub(super) b: BodyBuilder<'w>,
    /// The site of the current instruction.
    pub(super) site: Site,
    /// For each Global value, the Local values that represent it: the same numbers under different shardings.
    forms: Vec<Vec<Value>>,
    /// For each Global value, its sharding between operations.
    homes: Vec<Type>,
    /// For each Global value, the number of operations that use it.
    uses: Vec<usize>,
    /// For each Global value, true if all its elements are known to be 0.
    zero: Vec<bool>,
    /// Parameters that may be taken as pending at no cost, because their sharding is about to be decided.
    pub(super) flexible: Vec<Value>,
    /// Values that are only added to an accumulating carry. A wider type does not increase traffic there.
    pub(super) added: Vec<Value>,
    /// For each Global value, the instruction that makes it.
    makers: Vec<Option<usize>>,
    /// For each pending Global value, the site at which the sum was split.
    origins: Vec<Option<Site>>,
}

impl<'w> Walk<'w> {
    /// Starts a body whose parameters have the types `params`; `given` are results whose sharding is decided.
    pub(super) fn new(
        cx: &'w Context<'w>,
        global: &'w Body,
        params: &[Type],
        given: Vec<(Value, Type)>,
    ) -> Self {
        let mut seeds: Vec<(Value, Type)> =
            global.params.iter().copied().zip(params.iter().cloned()).collect();
        seeds.extend(given);
        // Loop carries with a pending sum keep the compute layout.
        seeds.retain(|(_, ty)| ty.sum.is_empty());
        let mut uses = vec![0; global.values.len()];
        let mut makers = vec![None; global.values.len()];
        for (i, inst) in global.insts.iter().enumerate() {
            for (j, a) in inst.args.iter().enumerate() {
                uses[a.index()] += usize::from(!inst.args[..j].contains(a));
            }
            inst.results.iter().for_each(|r| makers[r.index()] = Some(i));
        }
        for r in &global.results {
            uses[r.index()] += 1;
        }
        let mut walk = Self {
            cx,
            global,
            b: BodyBuilder::new(cx.env),
            site: Site::default(),
            forms: vec![Vec::new(); global.values.len()],
            homes: hints::homes(cx, global, &seeds),
            uses,
            zero: vec![false; global.values.len()],
            flexible: Vec::new(),
            added: Vec::new(),
            makers,
            origins: vec![None; global.values.len()],
        };
        for (value, ty) in global.params.iter().zip(params) {
            let local = walk.b.param(ty.clone(), global.values[*value].name.clone());
            walk.forms[value.index()].push(local);
        }
        walk
    }

    /// The type of a Global value.
    pub(super) fn of(&self, v: Value) -> &'w Type {
        self.global.ty(v)
    }
    /// The sharding of a Global value by the compute layout, not pending.
    pub(super) fn layout(&self, v: Value) -> Type {
        self.cx.layout(self.of(v))
    }
    /// The sharding of a Global value between operations, not pending.
    pub(super) fn home(&self, v: Value) -> Type {
        self.homes[v.index()].clone()
    }
    /// The number of operations that use a Global value.
    pub(super) fn uses(&self, v: Value) -> usize {
        self.uses[v.index()]
    }
    /// Records that a Global value is 0 throughout.
    pub(super) fn mark_zero(&mut self, v: Value) {
        self.zero[v.index()] = true;
    }
    /// True if a Global value is known to be 0 throughout.
    pub(super) fn is_zero(&self, v: Value) -> bool {
        self.zero[v.index()]
    }
    /// True if a Global value can be made pending at no cost.
    pub(super) fn can_owe(&self, v: Value) -> bool {
        self.is_zero(v) || self.flexible.contains(&v)
    }
    /// Records that a Local value represents a Global one.
    pub(super) fn set(&mut self, v: Value, local: Value) {
        let name = &mut self.b.body.values[local].name;
        if name.is_none() {
            name.clone_from(&self.global.values[v].name);
        }
        self.forms[v.index()].push(local);
    }
    /// The types of all Local values that represent a Global one.
    pub(super) fn forms(&self, v: Value) -> impl Iterator<Item = &Type> {
        self.forms[v.index()].iter().map(|f| self.b.ty(*f))
    }
    /// The axes over which a Global value is pending; empty once it has been reduced for any use.
    pub(super) fn pending_axes(&self, v: Value) -> AxisSet {
        let sums = self.forms(v).map(|ty| ty.sum);
        sums.min_by_key(|sum| sum.0.count_ones()).unwrap_or_default()
    }
    /// The axes over which a linear operation may leave a value pending. A value with several uses is reduced
    /// once for all of them.
    pub(super) fn lazy(&self, v: Value) -> AxisSet {
        if self.uses(v) > 1 { AxisSet::EMPTY } else { self.pending_axes(v) }
    }

    /// The type in which an operation that works on `form` needs a Global value: dims that both have are
    /// split as in `form`, the others by the compute layout; the value stays pending over `sum`.
    pub(super) fn want(&self, v: Value, form: &Type, sum: AxisSet) -> Type {
        let mut ty = self.layout(v);
        for d in &mut ty.dims {
            if let Some(f) = form.dim(&d.dim.name) {
                d.axes.clone_from(&f.axes);
            }
        }
        ty.sum = sum;
        ty
    }

    /// Returns the Local value that represents `v` with the type `want`, made from the nearest existing one.
    pub(super) fn get(&mut self, v: Value, want: &Type) -> Result<Value, Diagnostic> {
        if let Some(local) = self.forms[v.index()].iter().find(|f| self.b.ty(**f).matches(want)) {
            return Ok(*local);
        }
        let plans =
            self.forms[v.index()].iter().map(|f| (*f, reshard::plan(&self.cx.env.mesh, self.b.ty(*f), want)));
        let best = plans.min_by_key(|(f, steps)| reshard::cost(&self.cx.env.mesh, self.b.ty(*f), steps));
        let Some((mut local, steps)) = best else {
            return Err(Diagnostic::new("", format!("{v} is used before it is defined")));
        };
        if reshard::cost(&self.cx.env.mesh, self.b.ty(local), &steps).0 > 0
            && let Some(local) = self.remake(v, want)?
        {
            self.forms[v.index()].push(local);
            return Ok(local);
        }
        for step in steps {
            // A reduction belongs to the site that split the sum, any other collective to the site that needs
            // it.
            let reduction = !wire::axes(&step).intersect(self.b.ty(local).sum).is_empty();
            let site = self.origins[v.index()].as_ref().filter(|_| reduction).unwrap_or(&self.site);
            local = self.b.emit1(Op::Collective(step), &[local], site)?;
            self.forms[v.index()].push(local);
        }
        Ok(local)
    }
    /// The site at which the pending sum of a Global value was split.
    pub(super) fn origin(&self, v: Value) -> Option<&Site> {
        self.origins[v.index()].as_ref()
    }
    /// Records the site at which the pending sum of a Global value was split.
    pub(super) fn set_origin(&mut self, v: Value, site: Site) {
        self.origins[v.index()].get_or_insert(site);
    }
    /// Records, after an instruction, where its pending results were split: at this instruction, or where a
    /// pending operand was.
    pub(super) fn trace(&mut self, inst: &Inst) {
        for r in &inst.results {
            if !self.pending_axes(*r).is_empty() {
                let mut pending = inst.args.iter().filter(|a| !self.pending_axes(**a).is_empty());
                let before = pending.find_map(|a| self.origin(*a)).cloned();
                self.set_origin(*r, before.unwrap_or_else(|| inst.site.clone()));
            }
        }
    }
    /// The cost of [`get`](Self::get) of `v` as `want`, in bytes sent.
    pub(super) fn cost(&self, v: Value, want: &Type) -> u64 {
        let mesh = &self.cx.env.mesh;
        let costs = self.forms(v).map(|ty| reshard::cost(mesh, ty, &reshard::plan(mesh, ty, want)).0);
        costs.min().unwrap_or(0)
    }
    /// [`get`](Self::get) for a result of the body. Collectives belong to the site of its producer.
    pub(super) fn result(&mut self, v: Value, want: &Type) -> Result<Value, Diagnostic> {
        if let Some(maker) = self.makers[v.index()] {
            self.site = self.global.insts[maker].site.clone();
        }
        let site = self.site.clone();
        self.get(v, want).map_err(|d| d.at(&site))
    }
    /// [`get`](Self::get) with the compute layout, not pending.
    pub(super) fn get_layout(&mut self, v: Value) -> Result<Value, Diagnostic> {
        let want = self.layout(v);
        self.get(v, &want)
    }

    /// Recomputes values that cost less to compute than to send: iotas, random numbers, one number repeated.
    fn remake(&mut self, v: Value, want: &Type) -> Result<Option<Value>, Diagnostic> {
        let Some(maker) = self.makers[v.index()] else { return Ok(None) };
        let inst = &self.global.insts[maker];
        if !want.sum.is_empty() {
            return Ok(None);
        }
        let lies = |d: &TensorDim| TensorDim { dim: d.dim.clone(), axes: want.axes_of(&d.dim.name).to_vec() };
        let op = match &inst.op {
            Op::Shape(Shape::Iota { dim, dtype }) => Op::Shape(Shape::Iota { dim: lies(dim), dtype: *dtype }),
            Op::Shape(Shape::Broadcast { dims }) if self.of(inst.args[0]).dims.is_empty() => {
                Op::Shape(Shape::Broadcast { dims: dims.iter().map(lies).collect() })
            }
            Op::Random(random) => {
                let mut random = random.clone();
                random.dims = random.dims.iter().map(lies).collect();
                Op::Random(random)
            }
            Op::Shape(_)
            | Op::Elementwise(_)
            | Op::Contract(_)
            | Op::Reduce(_)
            | Op::Index(_)
            | Op::State(_)
            | Op::Control(_)
            | Op::Collective(_) => return Ok(None),
        };
        let get = |a: &Value| {
            let want = self.want(*a, want, AxisSet::EMPTY);
            self.get(*a, &want)
        };
        let args = inst.args.iter().map(get).collect::<Result<Vec<_>, _>>()?;
        let site = std::mem::replace(&mut self.site, inst.site.clone());
        let made = self.emit(op, &args);
        self.site = site;
        made.map(Some)
    }

    /// All operands of an instruction, each as an operation on `form` needs it, not pending.
    pub(super) fn reduced_operands(&mut self, inst: &Inst, form: &Type) -> Result<Vec<Value>, Diagnostic> {
        let get = |v: &Value| {
            let want = self.want(*v, form, AxisSet::EMPTY);
            self.get(*v, &want)
        };
        inst.args.iter().map(get).collect()
    }

    // Emission of Local instructions at the current site.

    /// Emits an instruction with one result.
    pub(super) fn emit(&mut self, op: Op, args: &[Value]) -> Result<Value, Diagnostic> {
        self.b.emit1(op, args, &self.site)
    }
    /// Emits an instruction whose result represents the result of `inst`.
    pub(super) fn done(&mut self, inst: &Inst, op: Op, args: &[Value]) -> Result<(), Diagnostic> {
        let results = self.b.emit(op, args, &self.site)?;
        inst.results.iter().zip(results).for_each(|(r, local)| self.set(*r, local));
        Ok(())
    }
    pub(super) fn unary(&mut self, op: Unary, x: Value) -> Result<Value, Diagnostic> {
        self.emit(Op::Elementwise(Elementwise::Unary(op)), &[x])
    }
    pub(super) fn binary(&mut self, op: Binary, a: Value, b: Value) -> Result<Value, Diagnostic> {
        self.emit(Op::Elementwise(Elementwise::Binary(op)), &[a, b])
    }
    pub(super) fn select(&mut self, p: Value, a: Value, b: Value) -> Result<Value, Diagnostic> {
        self.emit(Op::Elementwise(Elementwise::Select), &[p, a, b])
    }
    /// Casts `x`, unless it has the element type already.
    pub(super) fn cast(&mut self, to: DType, x: Value) -> Result<Value, Diagnostic> {
        if self.b.ty(x).dtype == to {
            return Ok(x);
        }
        self.emit(Op::Elementwise(Elementwise::Cast(to)), &[x])
    }
    pub(super) fn constant(&mut self, dtype: DType, value: f64) -> Result<Value, Diagnostic> {
        self.emit(Op::Shape(Shape::Constant { dtype, value }), &[])
    }
    pub(super) fn iota(&mut self, dim: TensorDim) -> Result<Value, Diagnostic> {
        self.emit(Op::Shape(Shape::Iota { dim, dtype: DType::S32 }), &[])
    }
    pub(super) fn reshape(
        &mut self,
        x: Value,
        from: Vec<Name>,
        to: Vec<TensorDim>,
    ) -> Result<Value, Diagnostic> {
        self.emit(Op::Shape(Shape::Reshape { from, to }), &[x])
    }
    pub(super) fn gather(&mut self, x: Value, dim: &Name, axes: &[AxisId]) -> Result<Value, Diagnostic> {
        if axes.is_empty() {
            return Ok(x);
        }
        self.emit(Op::Collective(Collective::AllGather { dim: dim.clone(), axes: axes.to_vec() }), &[x])
    }
    pub(super) fn cumsum(
        &mut self,
        x: Value,
        dim: &Name,
        exclusive: bool,
        reverse: bool,
    ) -> Result<Value, Diagnostic> {
        self.emit(Op::Index(Index::CumSum { dim: dim.clone(), exclusive, reverse }), &[x])
    }
    pub(super) fn fold(&mut self, kind: ReduceKind, dims: &[Name], x: Value) -> Result<Value, Diagnostic> {
        self.emit(Op::Reduce(Reduce::Over { kind, dims: dims.to_vec() }), &[x])
    }
    /// All-reduces a Local value over all axes over which it is pending.
    pub(super) fn reduce_pending(&mut self, mut x: Value) -> Result<Value, Diagnostic> {
        let ty = self.b.ty(x);
        for (kind, axes) in [(Pending::Sum, ty.sum), (Pending::Max, ty.max), (Pending::Min, ty.min)] {
            if !axes.is_empty() {
                x = self.emit(Op::Collective(Collective::AllReduce { kind, axes }), &[x])?;
            }
        }
        Ok(x)
    }
}

/// `form` with one dim not split.
pub(super) fn whole(form: &Type, dim: &Name) -> Type {
    let mut form = form.clone();
    form.dims.iter_mut().filter(|d| d.dim.name == *dim).for_each(|d| d.axes.clear());
    form
}

/// `axes` as a set.
pub(super) fn set(axes: &[AxisId]) -> AxisSet {
    axes.iter().copied().collect()
}

/// A name derived from `base` that `ty` does not have.
pub(super) fn fresh(ty: &Type, base: &Name, what: &str) -> Name {
    let mut name: Name = format!("{base}.{what}").into();
    while ty.has(&name) {
        name = format!("{name}_").into();
    }
    name
}

//! What the op families share while one body is partitioned: which Local values stand for each Global
//! value, how one is brought into the form that an operation needs, and what is still owed.

use super::{Context, hints, reshard};
use crate::cost::wire;
use mesh::{
    AxisId, AxisSet, Body, BodyBuilder, DType, Diagnostic, Inst, Name, Site, TensorDim, Type, Value,
    arena::Id,
    ir::{Binary, Collective, Elementwise, Index, Op, Pending, Reduce, ReduceKind, Shape, Unary},
};

/// One body under way from Global to Local.
pub(super) struct Walk<'w> {
    pub(super) cx: &'w Context<'w>,
    pub(super) global: &'w Body,
    pub(super) b: BodyBuilder<'w>,
    /// Where the instruction at hand comes from.
    pub(super) site: Site,
    /// For each Global value the Local values that stand for it: the same numbers, lying differently.
    forms: Vec<Vec<Value>>,
    /// For each Global value how it is to lie between operations.
    homes: Vec<Type>,
    /// For each Global value how many operations use it.
    uses: Vec<usize>,
    /// For each Global value whether all its elements are known to be 0.
    zero: Vec<bool>,
    /// Parameters that may be taken as a pending sum at no cost, because that is about to be decided.
    pub(super) flexible: Vec<Value>,
    /// Values that are only added to an accumulating carry: there a wider type does not mean more to send.
    pub(super) added: Vec<Value>,
    /// For each Global value the instruction that makes it.
    makers: Vec<Option<usize>>,
    /// For each Global value that owes a sum, the place at which the sum was split.
    origins: Vec<Option<Site>>,
}

impl<'w> Walk<'w> {
    /// Starts a body whose parameters lie as `params` say; `given` are results whose lay is decided.
    pub(super) fn new(
        cx: &'w Context<'w>,
        global: &'w Body,
        params: &[Type],
        given: Vec<(Value, Type)>,
    ) -> Self {
        let mut seeds: Vec<(Value, Type)> =
            global.params.iter().copied().zip(params.iter().cloned()).collect();
        seeds.extend(given);
        // What goes round pending is not work on stored parts.
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
    /// How a Global value lies by the compute layout, settled.
    pub(super) fn layout(&self, v: Value) -> Type {
        self.cx.layout(self.of(v))
    }
    /// How a Global value lies between operations, settled.
    pub(super) fn home(&self, v: Value) -> Type {
        self.homes[v.index()].clone()
    }
    /// How many operations use a Global value.
    pub(super) fn uses(&self, v: Value) -> usize {
        self.uses[v.index()]
    }
    /// Notes that a Global value is 0 throughout.
    pub(super) fn mark_zero(&mut self, v: Value) {
        self.zero[v.index()] = true;
    }
    /// Whether a Global value is known to be 0 throughout.
    pub(super) fn is_zero(&self, v: Value) -> bool {
        self.zero[v.index()]
    }
    /// Whether a Global value can be taken as a pending sum for nothing.
    pub(super) fn can_owe(&self, v: Value) -> bool {
        self.is_zero(v) || self.flexible.contains(&v)
    }
    /// Notes that a Local value stands for a Global one.
    pub(super) fn set(&mut self, v: Value, local: Value) {
        let name = &mut self.b.body.values[local].name;
        if name.is_none() {
            name.clone_from(&self.global.values[v].name);
        }
        self.forms[v.index()].push(local);
    }
    /// The types of all Local values that stand for a Global one.
    pub(super) fn forms(&self, v: Value) -> impl Iterator<Item = &Type> {
        self.forms[v.index()].iter().map(|f| self.b.ty(*f))
    }
    /// The sum that is owed by a Global value; none once it has been settled for any purpose.
    pub(super) fn owed(&self, v: Value) -> AxisSet {
        let sums = self.forms(v).map(|ty| ty.sum);
        sums.min_by_key(|sum| sum.0.count_ones()).unwrap_or_default()
    }
    /// The sum that a linear operation may leave owed: a value that several operations use is settled once
    /// for all of them.
    pub(super) fn lazy(&self, v: Value) -> AxisSet {
        if self.uses(v) > 1 { AxisSet::EMPTY } else { self.owed(v) }
    }

    /// A Global value as an operation needs it that works on `form`: dims that both have lie as in
    /// `form`, the others as the compute layout says; `sum` is left owed.
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

    /// The Local value that stands for `v` and lies as `want`, made from the nearest there is.
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
            // A sum is sent because of what split it, everything else because of what needs it.
            let settles = !wire::axes(&step).intersect(self.b.ty(local).sum).is_empty();
            let site = self.origins[v.index()].as_ref().filter(|_| settles).unwrap_or(&self.site);
            local = self.b.emit1(Op::Collective(step), &[local], site)?;
            self.forms[v.index()].push(local);
        }
        Ok(local)
    }
    /// Where the sum that a Global value owes was split.
    pub(super) fn origin(&self, v: Value) -> Option<&Site> {
        self.origins[v.index()].as_ref()
    }
    /// Notes where the sum that a Global value owes was split.
    pub(super) fn set_origin(&mut self, v: Value, site: Site) {
        self.origins[v.index()].get_or_insert(site);
    }
    /// After an instruction: what its results owe was split there, or before, if an operand owes it still.
    pub(super) fn trace(&mut self, inst: &Inst) {
        for r in &inst.results {
            if !self.owed(*r).is_empty() {
                let mut pending = inst.args.iter().filter(|a| !self.owed(**a).is_empty());
                let before = pending.find_map(|a| self.origin(*a)).cloned();
                self.set_origin(*r, before.unwrap_or_else(|| inst.site.clone()));
            }
        }
    }
    /// What it costs to [`get`](Self::get) `v` as `want`, in bytes sent.
    pub(super) fn cost(&self, v: Value, want: &Type) -> u64 {
        let mesh = &self.cx.env.mesh;
        let costs = self.forms(v).map(|ty| reshard::cost(mesh, ty, &reshard::plan(mesh, ty, want)).0);
        costs.min().unwrap_or(0)
    }
    /// [`get`](Self::get) for a result of the body; what has to be sent is sent on behalf of its maker.
    pub(super) fn result(&mut self, v: Value, want: &Type) -> Result<Value, Diagnostic> {
        if let Some(maker) = self.makers[v.index()] {
            self.site = self.global.insts[maker].site.clone();
        }
        let site = self.site.clone();
        self.get(v, want).map_err(|d| d.at(&site))
    }
    /// [`get`](Self::get) as the compute layout says, settled.
    pub(super) fn get_layout(&mut self, v: Value) -> Result<Value, Diagnostic> {
        let want = self.layout(v);
        self.get(v, &want)
    }

    /// What costs less to make again than to send: iotas, random numbers, one number repeated.
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
        let args = inst.args.iter().map(|a| self.get_layout(*a)).collect::<Result<Vec<_>, _>>()?;
        let site = std::mem::replace(&mut self.site, inst.site.clone());
        let made = self.emit(op, &args);
        self.site = site;
        made.map(Some)
    }

    /// All operands of an instruction, each as an operation on `form` needs it, settled.
    pub(super) fn settled(&mut self, inst: &Inst, form: &Type) -> Result<Vec<Value>, Diagnostic> {
        let get = |v: &Value| {
            let want = self.want(*v, form, AxisSet::EMPTY);
            self.get(*v, &want)
        };
        inst.args.iter().map(get).collect()
    }

    // Emission of Local instructions at the current site.

    /// An instruction with one result.
    pub(super) fn emit(&mut self, op: Op, args: &[Value]) -> Result<Value, Diagnostic> {
        self.b.emit1(op, args, &self.site)
    }
    /// An instruction whose result stands for the result of `inst`.
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
    /// A cast, unless `x` has the element type already.
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
    /// All-reduces whatever a Local value owes.
    pub(super) fn settle(&mut self, mut x: Value) -> Result<Value, Diagnostic> {
        let ty = self.b.ty(x);
        for (kind, axes) in [(Pending::Sum, ty.sum), (Pending::Max, ty.max), (Pending::Min, ty.min)] {
            if !axes.is_empty() {
                x = self.emit(Op::Collective(Collective::AllReduce { kind, axes }), &[x])?;
            }
        }
        Ok(x)
    }
}

/// `form` with one dim whole.
pub(super) fn whole(form: &Type, dim: &Name) -> Type {
    let mut form = form.clone();
    form.dims.iter_mut().filter(|d| d.dim.name == *dim).for_each(|d| d.axes.clear());
    form
}

/// `axes` as a set.
pub(super) fn set(axes: &[AxisId]) -> AxisSet {
    axes.iter().copied().collect()
}

/// A name like `base` that `ty` does not have.
pub(super) fn fresh(ty: &Type, base: &Name, what: &str) -> Name {
    let mut name: Name = format!("{base}.{what}").into();
    while ty.has(&name) {
        name = format!("{name}_").into();
    }
    name
}

//! Bodies with one more dim: every value that depends on a slice along the dim gets the dim, and all slices
//! are computed at once.
//!
//! Dims have names, so that most operations apply to tensors with a further dim as they are. The exceptions
//! are einsums, which list the dims of their result, and operations whose operands must have the same dims.

use crate::{
    Body, BodyBuilder, Diagnostic, Dim, Env, Inst, Op, Site, TensorDim, Type, Value,
    ir::{Contract, Control, Elementwise, Index, Scan, Shape},
};
use std::collections::BTreeMap;

/// Adds the instructions of a body to another one, with a further dim.
pub(super) struct Vectorizer<'v, 'e> {
    pub(super) b: &'v mut BodyBuilder<'e>,
    pub(super) dim: &'v Dim,
    /// For each value of the old body so far, that of the new one.
    there: BTreeMap<Value, Value>,
}

/// Returns `body` with the further dim `dim`: parameters get it where `params` says so, results where they
/// depend on such a parameter or `wide` says so. Also returns which results have it without `wide`.
pub(super) fn body(
    env: &Env,
    body: &Body,
    dim: &Dim,
    params: &[bool],
    wide: &[bool],
) -> Result<(Body, Vec<bool>), Diagnostic> {
    let mut b = BodyBuilder::new(env);
    let mut there = BTreeMap::new();
    for (param, has) in body.params.iter().zip(params) {
        let data = &body.values[*param];
        let ty = if *has { widened(&data.ty, dim) } else { data.ty.clone() };
        there.insert(*param, b.param(ty, data.name.clone()));
    }
    let mut v = Vectorizer::new(&mut b, dim, there);
    body.insts.iter().try_for_each(|inst| v.inst(body, inst))?;
    let site = body.insts.last().map(|inst| inst.site.clone()).unwrap_or_default();
    let (mut results, mut has) = (Vec::new(), Vec::new());
    for (i, r) in body.results.iter().enumerate() {
        let x = v.at(*r);
        has.push(v.has(x));
        results.push(if wide.get(i) == Some(&true) { v.widen(x, &site)? } else { x });
    }
    Ok((b.finish(results), has))
}

/// Returns `ty` with a further dim, which comes first.
pub(super) fn widened(ty: &Type, dim: &Dim) -> Type {
    let mut ty = ty.clone();
    ty.dims.insert(0, TensorDim { dim: dim.clone(), axes: Vec::new() });
    ty
}

impl<'v, 'e> Vectorizer<'v, 'e> {
    /// `there` has the values that exist already: those of parameters.
    pub(super) fn new(b: &'v mut BodyBuilder<'e>, dim: &'v Dim, there: BTreeMap<Value, Value>) -> Self {
        Self { b, dim, there }
    }

    /// Returns the new value of `v`.
    pub(super) fn at(&self, v: Value) -> Value {
        self.there[&v]
    }

    /// True if a new value has the dim.
    pub(super) fn has(&self, x: Value) -> bool {
        self.b.ty(x).has(&self.dim.name)
    }

    /// Returns a new value repeated along the dim, unless it has it.
    pub(super) fn widen(&mut self, x: Value, site: &Site) -> Result<Value, Diagnostic> {
        if self.has(x) {
            return Ok(x);
        }
        let dims = vec![TensorDim { dim: self.dim.clone(), axes: Vec::new() }];
        self.b.emit1(Op::Shape(Shape::Broadcast { dims }), &[x], site)
    }

    /// Records the new values of the results of `inst`, an instruction of `body`.
    pub(super) fn set(&mut self, body: &Body, inst: &Inst, results: impl IntoIterator<Item = Value>) {
        for (old, new) in inst.results.iter().zip(results) {
            self.b.body.values[new].name.clone_from(&body.values[*old].name);
            self.there.insert(*old, new);
        }
    }

    /// Adds an instruction of `body`.
    pub(super) fn inst(&mut self, body: &Body, inst: &Inst) -> Result<(), Diagnostic> {
        let mut args: Vec<Value> = inst.args.iter().map(|a| self.at(*a)).collect();
        let has: Vec<bool> = args.iter().map(|x| self.has(*x)).collect();
        let site = &inst.site;
        let any = has.contains(&true);
        match &inst.op {
            Op::Contract(op) if any => {
                let out = [self.dim.name.clone()].into_iter().chain(op.out.iter().cloned()).collect();
                let op = Op::Contract(Contract { out, dtype: op.dtype });
                let results = self.b.emit(op, &args, site)?;
                self.set(body, inst, results);
                return Ok(());
            }
            Op::Control(op) if any => {
                let results = match op {
                    Control::Scan(scan) => self.scan(scan, args, has, site),
                    Control::Cond { then, otherwise } => self.cond([then, otherwise], args, has, site),
                    Control::Grad => Err(self.depends("a request for a gradient")),
                };
                let results = results.map_err(|d| d.at(site))?;
                self.set(body, inst, results);
                return Ok(());
            }
            Op::Elementwise(_)
            | Op::Contract(_)
            | Op::Reduce(_)
            | Op::Shape(_)
            | Op::Index(_)
            | Op::Random(_)
            | Op::State(_)
            | Op::Control(_)
            | Op::Collective(_) => {}
        }
        if any {
            for i in self.together(&inst.op, &has).map_err(|d| d.at(site))? {
                args[i] = self.widen(args[i], site)?;
            }
        }
        let results = self.b.emit(inst.op.clone(), &args, site)?;
        self.set(body, inst, results);
        Ok(())
    }

    /// The positions of the operands of `op` that get the dim because others have it: those with the same
    /// dims, or with the dims of the others. `has` says for each operand if it has the dim.
    fn together(&self, op: &Op, has: &[bool]) -> Result<Vec<usize>, Diagnostic> {
        Ok(match op {
            Op::Elementwise(Elementwise::WithGradient)
            | Op::Shape(Shape::Concat { dim: _ })
            | Op::Index(Index::Sort { dim: _, descending: _ }) => (0..has.len()).collect(),
            Op::Index(Index::ScatterAdd { dim: _, over: _ }) if has[0] => vec![1],
            Op::Index(Index::ScatterExtreme { kind: _, dim: _, over: _ }) => vec![0, 2],
            Op::Index(Index::Permute { dim: _, to: _ }) if has[1] || has[2] => vec![0, 1, 2],
            Op::Index(Index::DynamicSlice { dim: _, size: _ }) if has[1] => {
                return Err(self.depends("the start of a slice"));
            }
            Op::Index(Index::DynamicUpdate { dim: _ }) if has[2] => {
                return Err(self.depends("the start of an update"));
            }
            Op::Index(Index::DynamicUpdate { dim: _ }) => vec![0, 1],
            Op::Elementwise(
                Elementwise::Unary(_)
                | Elementwise::Binary(_)
                | Elementwise::Compare(_)
                | Elementwise::Select
                | Elementwise::Cast(_)
                | Elementwise::StopGradient,
            )
            | Op::Contract(_)
            | Op::Reduce(_)
            | Op::Shape(_)
            | Op::Index(_)
            | Op::Random(_)
            | Op::State(_)
            | Op::Control(_)
            | Op::Collective(_) => Vec::new(),
        })
    }

    /// A scan whose carries have the dim where an iteration gives it to them.
    fn scan(
        &mut self,
        scan: &Scan,
        mut args: Vec<Value>,
        mut has: Vec<bool>,
        site: &Site,
    ) -> Result<Vec<Value>, Diagnostic> {
        let body = loop {
            let (body, results) = body(self.b.env, &scan.body, self.dim, &has, &has[..scan.carries])?;
            let more = (0..scan.carries).filter(|i| results[*i] && !has[*i]).collect::<Vec<_>>();
            if more.is_empty() {
                break body;
            }
            more.into_iter().for_each(|i| has[i] = true);
        };
        for i in (0..scan.carries).filter(|i| has[*i]) {
            args[i] = self.widen(args[i], site)?;
        }
        let scan = Scan { body, dim: scan.dim.clone(), ..*scan };
        self.b.emit(Op::Control(Control::Scan(Box::new(scan))), &args, site)
    }

    /// A conditional whose condition does not have the dim.
    fn cond(
        &mut self,
        branches: [&Body; 2],
        args: Vec<Value>,
        has: Vec<bool>,
        site: &Site,
    ) -> Result<Vec<Value>, Diagnostic> {
        if has[0] {
            return Err(self.depends("the condition of a conditional"));
        }
        let of = |branch: &Body, wide: &[bool]| body(self.b.env, branch, self.dim, &has[1..], wide);
        let [(_, a), (_, b)] = [of(branches[0], &[])?, of(branches[1], &[])?];
        let wide: Vec<bool> = a.iter().zip(b).map(|(a, b)| *a || b).collect();
        let [(then, _), (otherwise, _)] = [of(branches[0], &wide)?, of(branches[1], &wide)?];
        let op = Control::Cond { then: Box::new(then), otherwise: Box::new(otherwise) };
        self.b.emit(Op::Control(op), &args, site)
    }

    fn depends(&self, what: &str) -> Diagnostic {
        let dim = &self.dim.name;
        Diagnostic::new("", format!("{what} depends on the slice along `{dim}`, which is computed at once"))
            .help(format!("in a map, and in the layers of a pipeline, it must be the same for all `{dim}`"))
    }
}

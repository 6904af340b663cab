//! Functions that are applied to all elements of a dim at once.

use super::{Graph, Tensor, Tree, control::leaves, frame::Frame, graph::Ref, stages, vectorize::Vectorizer};
use crate::{Body, BodyBuilder, Diagnostic, Dim, Op, Site, Value, arena::Id, ir::Control};
use std::collections::BTreeMap;

impl Graph {
    /// Applies `f` to all slices of `xs` along `dim` at once (`vmap` in JAX). `f` is called with one slice,
    /// without `dim`; its operations are then added with `dim` as a further dim of every tensor that
    /// depends on the slice. The result has the tensors that `f` returns, stacked along `dim`.
    ///
    /// A scan in `f` whose options have `stages` becomes a pipeline: see [`super::ScanOptions::stages`].
    /// Requests for gradients and conditionals whose condition depends on the slice are mistakes in `f`.
    #[track_caller]
    pub fn map<'g, X: Tree<'g>, Y: Tree<'g>>(&'g self, dim: &Dim, xs: X, f: impl FnOnce(X) -> Y) -> Y {
        let site = self.site();
        let (xs, slices) = leaves(xs);
        self.open(Some(dim.clone()));
        let mut params = Vec::new();
        let inner = xs.map(&mut |x| {
            let x = self.sliceable(x, dim, &site);
            self.inner_param(x, Some(dim), &mut params)
        });
        let (ys, results) = leaves(f(inner));
        let values = self.resolve_all(&results, &site);
        let mut frame = self.close();
        let watches = std::mem::take(&mut frame.watches);
        let outputs = values.filter(|_| params.len() == slices.len()).and_then(|values| {
            frame.body.results = values;
            frame.body.results.extend(watches.iter().map(|w| w.value));
            self.inline(dim, &slices, &params, &frame, &site)
        });
        let mut outputs = outputs.unwrap_or_default();
        let watched = outputs.split_off(outputs.len().min(results.len()));
        self.pass_on(watches.into_iter().map(|w| w.name).collect(), watched, &site);
        let mut outputs = outputs.into_iter();
        ys.map(&mut |_| outputs.next().unwrap_or(self.poison()))
    }

    /// Adds the instructions of `frame` to the innermost body, with `dim`. `params` are its parameters for
    /// `slices`.
    fn inline<'g>(
        &'g self,
        dim: &Dim,
        slices: &[Tensor<'g>],
        params: &[Value],
        frame: &Frame,
        site: &Site,
    ) -> Option<Vec<Tensor<'g>>> {
        let mut there: BTreeMap<Value, Value> = BTreeMap::new();
        there.extend(params.iter().copied().zip(self.resolve_all(slices, site)?));
        there.extend(frame.xs.iter().chain(&frame.captures).map(|(outer, inner)| (*inner, *outer)));
        let mut inner = self.inner.borrow_mut();
        let outer = inner.frames.last_mut().expect("the outermost body is open until `finish`");
        let env = self.env();
        let mut builder = BodyBuilder { env: &env, body: std::mem::take(&mut outer.body) };
        let made = stacked(Vectorizer::new(&mut builder, dim, there), frame, site);
        outer.body = builder.body;
        let body = outer.id;
        drop((env, inner));
        match made {
            Ok(values) => {
                let tensor = |value| Tensor { graph: self, id: Some(Ref { body, value }) };
                Some(values.into_iter().map(tensor).collect())
            }
            Err(diagnostic) => {
                self.note(diagnostic, site);
                None
            }
        }
    }
}

/// Adds the instructions of `frame` that its results need. Returns the results, which all have the dim.
fn stacked(mut v: Vectorizer<'_, '_>, frame: &Frame, site: &Site) -> Result<Vec<Value>, Diagnostic> {
    let body = &frame.body;
    let live = live(body);
    for inst in body.insts.iter().filter(|inst| inst.results.iter().any(|r| live[r.index()])) {
        let stages = inst.results.first().and_then(|r| frame.staged.get(r));
        match (&inst.op, stages) {
            (Op::Control(Control::Scan(scan)), Some(stages)) if scan.carries > 0 => {
                let used: Vec<bool> = inst.results.iter().map(|r| live[r.index()]).collect();
                let results = stages::pipeline(&mut v, inst, scan, *stages, &used);
                v.set(body, inst, results.map_err(|d| d.at(&inst.site))?);
            }
            (_, Some(_) | None) => v.inst(body, inst)?,
        }
    }
    body.results.iter().map(|r| v.widen(v.at(*r), site)).collect()
}

/// For each value of a body, true if a result depends on it.
fn live(body: &Body) -> Vec<bool> {
    let mut live = vec![false; body.values.len()];
    body.results.iter().for_each(|r| live[r.index()] = true);
    for inst in body.insts.iter().rev() {
        if inst.results.iter().any(|r| live[r.index()]) {
            inst.args.iter().for_each(|a| live[a.index()] = true);
        }
    }
    live
}

//! Scans and conditionals with closures, and gradient requests.

use super::{
    Graph, Tensor,
    frame::{Frame, Watch},
    graph::Ref,
};
use crate::{
    Diagnostic, Dim, Name, Op, Site, Value,
    ir::{Control, Remat, Scan},
    layout::suggest,
};
use std::borrow::Borrow;

/// A structure of tensors (a pytree in JAX), which a scan carries, slices or stacks. Tuples, `Vec`s, arrays
/// and `Option`s of trees are trees. A struct of trees becomes one by implementing this trait.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a tree of tensors",
    label = "tensors, or tuples, arrays, `Vec`s and `Option`s of them, are expected here",
    note = "write `()` for no tensors; implement `Tree` for a struct of tensors"
)]
pub trait Tree<'g>: Sized {
    /// Applies `f` to every tensor, in a fixed order.
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self;
}

impl<'g> Tree<'g> for Tensor<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        f(self)
    }
}
impl<'g> Tree<'g> for () {
    fn map(self, _: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {}
}
impl<'g, T: Tree<'g>> Tree<'g> for Vec<T> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        self.into_iter().map(|x| x.map(f)).collect()
    }
}
impl<'g, T: Tree<'g>> Tree<'g> for Option<T> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        self.map(|x| x.map(f))
    }
}
impl<'g, T: Tree<'g>, const N: usize> Tree<'g> for [T; N] {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        self.map(|x| x.map(f))
    }
}
macro_rules! tuples {
    ($($($name:ident)*;)*) => {$(
        impl<'g, $($name: Tree<'g>),*> Tree<'g> for ($($name,)*) {
            #[allow(non_snake_case, reason = "the variables are named as their types")]
            fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
                let ($($name,)*) = self;
                ($($name.map(f),)*)
            }
        }
    )*};
}
tuples!(A; A B; A B C; A B C D; A B C D E; A B C D E F; A B C D E F G; A B C D E F G H;);

pub(super) fn leaves<'g, T: Tree<'g>>(tree: T) -> (T, Vec<Tensor<'g>>) {
    let mut all = Vec::new();
    let tree = tree.map(&mut |x| {
        all.push(x);
        x
    });
    (tree, all)
}

/// Options of a scan. The default runs forward as a loop and saves all values for the backward pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScanOptions {
    /// True if the scan runs from the last slice to the first.
    pub reverse: bool,
    /// The remat policy: the values that the forward pass saves for the backward pass.
    pub remat: Remat,
    /// True if the iterations are emitted one after the other instead of as a loop.
    pub unroll: bool,
    /// Stages of a pipeline, into which [`Graph::map`] divides the iterations of a scan that its function
    /// contains at its top level. The stages work at once, each on another slice of the map. 0 or 1 means
    /// that all slices run through the loop together.
    ///
    /// The dim of the scan is then the dim of stages, which a layout may split. It must be a multiple of
    /// `stages`, and the scan must have carries and run forward.
    pub stages: usize,
}

/// The dim of the scan of one iteration that a region is.
const REGION: &str = "checkpoint";

impl Graph {
    /// Loops over `dim`. `f(carry, slices)` is one iteration, where `slices` are `xs` without `dim`. It
    /// returns the next carry and the tensors to stack along `dim`. The result is the last carry and the
    /// stacked tensors. Tensors of outer bodies that `f` uses are captured. State with the dim `dim` that `f`
    /// reads is sliced.
    #[track_caller]
    pub fn scan<'g, C: Tree<'g>, X: Tree<'g>, Y: Tree<'g>>(
        &'g self,
        dim: impl Borrow<Dim>,
        carry: C,
        xs: X,
        f: impl FnOnce(C, X) -> (C, Y),
    ) -> (C, Y) {
        self.scan_at(dim.borrow(), ScanOptions::default(), carry, xs, f, &self.site())
    }

    /// [`Graph::scan`] with options.
    #[track_caller]
    pub fn scan_with<'g, C: Tree<'g>, X: Tree<'g>, Y: Tree<'g>>(
        &'g self,
        dim: impl Borrow<Dim>,
        options: ScanOptions,
        carry: C,
        xs: X,
        f: impl FnOnce(C, X) -> (C, Y),
    ) -> (C, Y) {
        self.scan_at(dim.borrow(), options, carry, xs, f, &self.site())
    }

    fn scan_at<'g, C: Tree<'g>, X: Tree<'g>, Y: Tree<'g>>(
        &'g self,
        dim: &Dim,
        options: ScanOptions,
        carry: C,
        xs: X,
        f: impl FnOnce(C, X) -> (C, Y),
        site: &Site,
    ) -> (C, Y) {
        // Operands come first, as values of the outer body: poison among them poisons the results.
        let (carry, carries) = leaves(carry);
        let (xs, slices) = leaves(xs);
        self.open(Some(dim.clone()));
        let mut params = Vec::new();
        let inner_carry = carry.map(&mut |x| self.inner_param(x, None, &mut params));
        let inner_xs = xs.map(&mut |x| {
            let x = self.sliceable(x, dim, site);
            self.inner_param(x, Some(dim), &mut params)
        });
        let (next, ys) = f(inner_carry, inner_xs);
        let (next, mut results) = leaves(next);
        let count = results.len();
        let (ys, stacked) = leaves(ys);
        results.extend(stacked);
        let values = self.resolve_all(&results, site);
        let frame = self.close();
        let watched: Vec<Name> = frame.watches.iter().map(|w| w.name.clone()).collect();

        let mut diagnosis = None;
        if count != carries.len() {
            let message =
                format!("the scan over `{}` takes {} carries and returns {count}", dim.name, carries.len());
            diagnosis =
                Some(Diagnostic::new("control_k5", message).help("return the same number of carries"));
        }
        let good = params.len() == carries.len() + slices.len();
        let outputs = match (values, diagnosis) {
            (_, Some(diagnostic)) => {
                self.note(diagnostic, site);
                None
            }
            (Some(mut values), None) if good => {
                values.extend(frame.watches.iter().map(|w| w.value));
                let outer: Vec<Tensor<'g>> = carries.iter().chain(&slices).copied().collect();
                self.finish_scan(dim, options, carries.len(), &outer, params, frame, values, site)
            }
            (Some(_) | None, None) => None,
        };
        let mut outputs = outputs.unwrap_or_default();
        self.pass_on(watched, outputs.split_off(outputs.len().min(results.len())), site);
        let mut outputs = outputs.into_iter();
        let mut next_output = |_| outputs.next().unwrap_or(self.poison());
        (next.map(&mut next_output), ys.map(&mut next_output))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one scan, put together in one place")]
    fn finish_scan<'g>(
        &'g self,
        dim: &Dim,
        options: ScanOptions,
        carries: usize,
        explicit: &[Tensor<'g>],
        mut params: Vec<Value>,
        frame: Frame,
        results: Vec<Value>,
        site: &Site,
    ) -> Option<Vec<Tensor<'g>>> {
        let body_id = self.inner.borrow().frames.last().map(|f| f.id)?;
        let outside = |value: &Value| Tensor { graph: self, id: Some(Ref { body: body_id, value: *value }) };
        let mut args = explicit.to_vec();
        for (outer, inner) in frame.xs.iter().chain(&frame.captures) {
            args.push(outside(outer));
            params.push(*inner);
        }
        let Frame { mut body, xs, .. } = frame;
        body.params = params;
        body.results = results;
        let scan = Scan {
            dim: dim.clone(),
            carries,
            xs: explicit.len() - carries + xs.len(),
            reverse: options.reverse,
            remat: options.remat,
            unroll: options.unroll,
            barrier: false,
            body,
        };
        let outputs = self.emit(Op::Control(Control::Scan(Box::new(scan))), &args, site)?;
        if options.stages > 1
            && let Some(Tensor { graph: _, id: Some(first) }) = outputs.first()
            && let Some(frame) = self.inner.borrow_mut().frames.last_mut()
        {
            frame.staged.insert(first.value, options.stages);
        }
        Some(outputs)
    }

    /// Adds a parameter to the innermost body for `x` of an outer one, without `dim`.
    pub(super) fn inner_param<'g>(
        &'g self,
        x: Tensor<'g>,
        dim: Option<&Dim>,
        params: &mut Vec<Value>,
    ) -> Tensor<'g> {
        let Some(mut ty) = x.ty() else { return self.poison() };
        if let Some(dim) = dim {
            ty.dims.retain(|d| d.dim.name != dim.name);
        }
        let mut inner = self.inner.borrow_mut();
        let frame = inner.frames.last_mut().expect("the outermost body is open until `finish`");
        let value = frame.param(ty, None);
        params.push(value);
        Tensor { graph: self, id: Some(Ref { body: frame.id, value }) }
    }

    /// Returns `x`, or poison if it cannot be sliced along `dim`.
    pub(super) fn sliceable<'g>(&'g self, x: Tensor<'g>, dim: &Dim, site: &Site) -> Tensor<'g> {
        let Some(ty) = x.ty() else { return x };
        let names: Vec<&str> = ty.names().map(|n| n.as_str()).collect();
        let text = ty.display(&crate::Mesh::default()).to_string();
        let diagnostic = match ty.size(&dim.name) {
            Some(size) if size == dim.size => return x,
            Some(size) => {
                let message = format!("scan over {dim} of {text}, whose `{}` is {size}", dim.name);
                Diagnostic::new("control_k4", message)
                    .help("the dim looped over has one size in all operands")
            }
            None => {
                let message = format!("scan over `{}` of {text}, which has no such dim", dim.name);
                let hint = suggest(&dim.name, names).map(|n| format!("did you mean `{n}`? "));
                let hint = hint.unwrap_or_default();
                let help =
                    format!("{hint}use a tensor that is the same in all iterations directly in the closure");
                Diagnostic::new("control_k4", message).help(help)
            }
        };
        x.wrong(diagnostic, site)
    }

    /// Returns the values of `tensors` in the innermost body; `None` if one is poison or of a closed body.
    pub(super) fn resolve_all(&self, tensors: &[Tensor<'_>], site: &Site) -> Option<Vec<Value>> {
        let mut values = Vec::with_capacity(tensors.len());
        for x in tensors {
            match self.resolve(*x) {
                Ok(value) => values.push(value?),
                Err(diagnostic) => {
                    self.note(diagnostic, site);
                    return None;
                }
            }
        }
        Some(values)
    }

    /// Returns `then()` if `p`, a `pred` without dims, is true, else `otherwise()`. Both must return tensors
    /// of the same types. Only the chosen branch is computed.
    #[track_caller]
    pub fn cond<'g, T: Tree<'g>>(
        &'g self,
        p: Tensor<'g>,
        then: impl FnOnce() -> T,
        otherwise: impl FnOnce() -> T,
    ) -> T {
        let site = self.site();
        let (tree, then) = self.branch(then, &site);
        let (other, otherwise) = self.branch(otherwise, &site);
        let (_, count) = leaves(other);
        let (tree, expected) = leaves(tree);
        if count.len() != expected.len() {
            let message =
                format!("the branches of cond return {} and {} tensors", expected.len(), count.len());
            self.note(
                Diagnostic::new("control_k1", message).help("return the same number of tensors"),
                &site,
            );
            return tree.map(&mut |_| self.poison());
        }
        let (outputs, watched) = match (then, otherwise) {
            (Some(mut then), Some(mut otherwise)) => {
                let watched = self.join_watches([&mut then, &mut otherwise], &site);
                (self.finish_cond(p, then, otherwise, &site), watched)
            }
            (Some(_) | None, Some(_) | None) => (None, Vec::new()),
        };
        let mut outputs = outputs.unwrap_or_default();
        self.pass_on(watched, outputs.split_off(outputs.len().min(expected.len())), &site);
        let mut outputs = outputs.into_iter();
        tree.map(&mut |_| outputs.next().unwrap_or(self.poison()))
    }

    /// Returns `f()`, whose inner values the backward pass recomputes from what `f` uses instead of saving
    /// them.
    #[track_caller]
    pub fn checkpoint<'g, T: Tree<'g>>(&'g self, f: impl FnOnce() -> T) -> T {
        let (site, dim) = (self.site(), Dim::new(REGION, 1));
        let (tree, frame) = self.branch(f, &site);
        let (tree, results) = leaves(tree);
        let mut watched = Vec::new();
        let outputs = frame.and_then(|mut frame| {
            let mut values = std::mem::take(&mut frame.body.results);
            for Watch { name, value } in std::mem::take(&mut frame.watches) {
                watched.push(name);
                values.push(value);
            }
            let options = ScanOptions { remat: Remat::SaveCarries, ..ScanOptions::default() };
            self.finish_scan(&dim, options, 0, &[], Vec::new(), frame, values, &site)
        });
        let flat = |x: Tensor<'g>| x.reshape_at(vec![REGION.into()], Vec::new(), &site);
        let mut outputs: Vec<Tensor<'g>> = outputs.into_iter().flatten().map(flat).collect();
        self.pass_on(watched, outputs.split_off(outputs.len().min(results.len())), &site);
        let mut outputs = outputs.into_iter();
        tree.map(&mut |_| outputs.next().unwrap_or(self.poison()))
    }

    fn branch<'g, T: Tree<'g>>(&'g self, f: impl FnOnce() -> T, site: &Site) -> (T, Option<Frame>) {
        self.open(None);
        let (tree, results) = leaves(f());
        let values = self.resolve_all(&results, site);
        let mut frame = self.close();
        let frame = values.map(|values| {
            frame.body.results = values;
            frame
        });
        (tree, frame)
    }

    fn finish_cond<'g>(
        &'g self,
        p: Tensor<'g>,
        mut then: Frame,
        mut otherwise: Frame,
        site: &Site,
    ) -> Option<Vec<Tensor<'g>>> {
        // Both branches take the captures of either.
        let mut outer: Vec<Value> = then.captures.iter().map(|(o, _)| *o).collect();
        outer.extend(
            otherwise.captures.iter().map(|(o, _)| *o).filter(|o| !outer.contains(o)).collect::<Vec<_>>(),
        );
        let body_id = self.inner.borrow().frames.last().map(|f| f.id)?;
        let mut args = vec![p];
        for value in &outer {
            let x = Tensor { graph: self, id: Some(Ref { body: body_id, value: *value }) };
            let ty = x.ty()?;
            for frame in [&mut then, &mut otherwise] {
                let known = frame.captures.iter().find(|(o, _)| o == value).map(|(_, i)| *i);
                let inner = known.unwrap_or_else(|| frame.param(ty.clone(), None));
                frame.body.params.push(inner);
            }
            args.push(x);
        }
        let (then, otherwise) = (Box::new(then.body), Box::new(otherwise.body));
        self.emit(Op::Control(Control::Cond { then, otherwise }), &args, site)
    }

    /// Returns the gradients of `loss`, a float without dims, with respect to each of `xs`. All are tensors
    /// of the innermost body.
    #[track_caller]
    pub fn grad<'g>(&'g self, loss: Tensor<'g>, xs: &[Tensor<'g>]) -> Vec<Tensor<'g>> {
        let mut args = vec![loss];
        args.extend(xs);
        let site = self.site();
        let results = self.emit(Op::Control(Control::Grad), &args, &site);
        results.unwrap_or_else(|| vec![self.poison(); xs.len()])
    }
}

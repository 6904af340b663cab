//! Values that the host sees by name: prints and assertions.
//!
//! They are outputs of the function ([`crate::task::PRINT`], [`crate::task::ASSERT_FINITE`]). A value in the
//! body of a scan is stacked along its dim; one in a branch of a conditional is 0 if the other branch runs.

use super::{
    Graph, Tensor,
    frame::{Frame, Watch, append},
    shared::WORD,
};
use crate::{
    DType, Diagnostic, Dim, Env, Name, Op, Site, TensorDim, Type, Value,
    ir::Shape,
    task::{ASSERT_FINITE, NAN_INF, PRINT},
};

impl<'g> Tensor<'g> {
    /// Shows the value under a name whenever the function runs, and returns the tensor. The scope is part of
    /// the name. In a scan it is stacked along the dim of the scan.
    #[track_caller]
    pub fn print(self, name: &str) -> Self {
        self.graph.watch(PRINT, name, self, &self.graph.site());
        self
    }

    /// Stops the program with an error that names the value if an element is NaN or infinite, and returns the
    /// tensor. The scope is part of the name. In a scan every iteration is examined.
    #[track_caller]
    pub fn assert_finite(self, name: &str) -> Self {
        let count = |p: Self| p.cast(DType::S32).sum_all();
        let nan = count(self.ne(self));
        let infinite = count(!self.is_finite()) - nan;
        let alone = Dim::new(NAN_INF, 1);
        let parts = [nan, infinite].map(|n| n.broadcast(&alone));
        self.graph.watch(ASSERT_FINITE, name, self.graph.concat(&parts, NAN_INF), &self.graph.site());
        self
    }
}

impl Graph {
    fn watch(&self, prefix: &'static str, name: &str, x: Tensor<'_>, site: &Site) {
        if !Name::is_word(name) {
            let diagnostic = Diagnostic::new("", format!("`{name}` is not a valid name of a value"));
            return self.note(diagnostic.help(WORD), site);
        }
        let scope = if site.scope.is_empty() { String::new() } else { format!("{}/", site.scope) };
        self.add_watch(format!("{prefix}{scope}{name}").into(), x, site);
    }

    /// Adds a watch of the innermost body, unless `x` is poison.
    fn add_watch(&self, name: Name, x: Tensor<'_>, site: &Site) {
        match self.resolve(x) {
            Ok(None) => {}
            Ok(Some(value)) => {
                let mut inner = self.inner.borrow_mut();
                let frame = inner.frames.last_mut().expect("the outermost body is open until `finish`");
                frame.watches.push(Watch { name, value });
            }
            Err(diagnostic) => self.note(diagnostic, site),
        }
    }

    /// Adds the results `watched` of a scan or conditional as watches of the innermost body.
    pub(super) fn pass_on(&self, names: Vec<Name>, watched: Vec<Tensor<'_>>, site: &Site) {
        names.into_iter().zip(watched).for_each(|(name, x)| self.add_watch(name, x, site));
    }

    /// Makes the watches of both branches of a conditional their last results, in one order. A branch that
    /// lacks one returns zeros.
    pub(super) fn join_watches(&self, branches: [&mut Frame; 2], site: &Site) -> Vec<Name> {
        let [then, otherwise] = branches;
        let mut names = Vec::new();
        let mut others = std::mem::take(&mut otherwise.watches);
        for Watch { name, value } in std::mem::take(&mut then.watches) {
            let ty = then.body.ty(value).clone();
            let same = |w: &Watch| w.name == name && *otherwise.body.ty(w.value) == ty;
            let other = match others.iter().position(same) {
                Some(at) => others.remove(at).value,
                None => zeros(&self.env(), otherwise, &ty, site),
            };
            then.body.results.push(value);
            otherwise.body.results.push(other);
            names.push(name);
        }
        for Watch { name, value } in others {
            let ty = otherwise.body.ty(value).clone();
            let other = zeros(&self.env(), then, &ty, site);
            then.body.results.push(other);
            otherwise.body.results.push(value);
            names.push(name);
        }
        names
    }
}

/// Adds zeros of a type to the body of `frame`.
fn zeros(env: &Env, frame: &mut Frame, ty: &Type, site: &Site) -> Value {
    let constant = Shape::Constant { dtype: ty.dtype, value: 0.0 };
    let dims: Vec<TensorDim> = ty.dims.clone();
    let known = "0 is a number of every type, and the dims are those of a legal type";
    let zero = append(env, frame, Op::Shape(constant), &[], site).expect(known)[0];
    if dims.is_empty() {
        return zero;
    }
    append(env, frame, Op::Shape(Shape::Broadcast { dims }), &[zero], site).expect(known)[0]
}

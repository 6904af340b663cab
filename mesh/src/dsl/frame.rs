//! Bodies under construction.

use crate::{Body, BodyBuilder, Diagnostic, Dim, Env, Name, Op, Site, Type, Value, ir::ValueData};

/// A body that is not finished.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) id: u32,
    pub(super) body: Body,
    /// The dim looped over, in a scan.
    pub(super) dim: Option<Dim>,
    /// Parameters made for values of the body outside: what is sliced in a scan, and captures.
    pub(super) xs: Vec<(Value, Value)>,
    pub(super) captures: Vec<(Value, Value)>,
    /// The number of this iteration, outside and inside, if it was asked for.
    pub(super) iteration: Option<Value>,
}

impl Frame {
    pub(super) fn param(&mut self, ty: Type, name: Option<Name>) -> Value {
        self.body.values.push(ValueData { ty, name })
    }

    /// The parameter for `outer` of type `ty`, captured whole.
    pub(super) fn capture(&mut self, outer: Value, ty: &Type) -> Value {
        if let Some((_, inner)) = self.captures.iter().find(|(o, _)| *o == outer) {
            return *inner;
        }
        let inner = self.param(ty.clone(), None);
        self.captures.push((outer, inner));
        inner
    }

    /// The parameter for this iteration's slice of `outer`.
    pub(super) fn slice(&mut self, outer: Value, ty: &Type, dim: &Name) -> Value {
        if let Some((_, inner)) = self.xs.iter().find(|(o, _)| *o == outer) {
            return *inner;
        }
        let mut ty = ty.clone();
        ty.dims.retain(|d| d.dim.name != *dim);
        let inner = self.param(ty, None);
        self.xs.push((outer, inner));
        inner
    }
}

/// Adds an instruction to a body that is not the innermost one, perhaps.
pub(super) fn append(
    env: &Env,
    frame: &mut Frame,
    op: Op,
    args: &[Value],
    site: &Site,
) -> Result<Vec<Value>, Diagnostic> {
    let mut builder = BodyBuilder { env, body: std::mem::take(&mut frame.body) };
    let results = builder.emit(op, args, site);
    frame.body = builder.body;
    results
}

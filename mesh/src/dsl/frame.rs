//! Bodies under construction.

use crate::{
    Body, BodyBuilder, Diagnostic, Dim, Env, Name, Op, Site, Type, Value,
    ir::{ValueData, unique},
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

/// A body under construction.
#[derive(Debug, Default)]
pub(super) struct Frame {
    pub(super) id: u32,
    pub(super) body: Body,
    /// The dim looped over, in a scan.
    pub(super) dim: Option<Dim>,
    /// Parameters for values of the outer body, as pairs (outer, inner): slices of a scan, and captures.
    pub(super) xs: Vec<(Value, Value)>,
    pub(super) captures: Vec<(Value, Value)>,
    /// The number of the iteration, if it was requested.
    pub(super) iteration: Option<Value>,
    /// The stages of scans that have some, by the first result of the scan.
    pub(super) staged: BTreeMap<Value, usize>,
    /// Values that the host sees, in order.
    pub(super) watches: Vec<Watch>,
    /// Names of values of the body.
    pub(super) names: HashSet<Cow<'static, str>>,
}

/// A value that the host sees by name.
#[derive(Debug)]
pub(super) struct Watch {
    /// The name of the output, which need not be unique.
    pub(super) name: Name,
    pub(super) value: Value,
}

impl Frame {
    pub(super) fn param(&mut self, ty: Type, name: Option<Name>) -> Value {
        let value = self.body.values.push(ValueData { ty, name: None });
        if let Some(name) = name {
            self.name(value, &name);
        }
        value
    }

    /// Names a value of this body, with a suffix if another value has the name.
    pub(super) fn name(&mut self, value: Value, name: &str) {
        let name = unique(name, &self.names).into_owned();
        self.names.insert(name.clone().into());
        self.body.values[value].name = Some(name.into());
    }

    /// Returns the parameter for the capture `outer`.
    pub(super) fn capture(&mut self, outer: Value, data: &ValueData) -> Value {
        if let Some((_, inner)) = self.captures.iter().find(|(o, _)| *o == outer) {
            return *inner;
        }
        let inner = self.param(data.ty.clone(), data.name.clone());
        self.captures.push((outer, inner));
        inner
    }

    /// Returns the parameter for the iteration's slice of `outer`.
    pub(super) fn slice(&mut self, outer: Value, data: &ValueData, dim: &Name) -> Value {
        if let Some((_, inner)) = self.xs.iter().find(|(o, _)| *o == outer) {
            return *inner;
        }
        let mut ty = data.ty.clone();
        ty.dims.retain(|d| d.dim.name != *dim);
        let inner = self.param(ty, data.name.clone());
        self.xs.push((outer, inner));
        inner
    }
}

/// The name of a value that belongs to the scope or state `path`.
pub(super) fn dotted(path: &str) -> String {
    path.replace('/', ".")
}

/// Adds an instruction to the body of `frame`, which need not be the innermost one.
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

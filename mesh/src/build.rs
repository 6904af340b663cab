//! The builder of bodies. The DSL, the parser and the passes add instructions only with it, so that result
//! types always come from [`crate::infer`].

use crate::{Body, Diagnostic, Env, Inst, Name, Op, Site, Type, Value, infer::infer, ir::ValueData};

/// A body under construction.
#[derive(Debug)]
pub struct BodyBuilder<'e> {
    /// Mesh and state that types depend on.
    pub env: &'e Env,
    /// The body so far.
    pub body: Body,
}

impl<'e> BodyBuilder<'e> {
    /// Starts an empty body.
    pub fn new(env: &'e Env) -> Self {
        Self { env, body: Body::default() }
    }
    /// Adds a parameter.
    pub fn param(&mut self, ty: Type, name: Option<Name>) -> Value {
        let value = self.body.values.push(ValueData { ty, name });
        self.body.params.push(value);
        value
    }
    /// Adds an instruction and infers its result types. The error carries `site`.
    pub fn emit(&mut self, op: Op, args: &[Value], site: &Site) -> Result<Vec<Value>, Diagnostic> {
        let types: Vec<&Type> = args.iter().map(|v| self.body.ty(*v)).collect();
        let types = infer(self.env, &op, &types).map_err(|d| d.at(site))?;
        let results: Vec<Value> =
            types.into_iter().map(|ty| self.body.values.push(ValueData { ty, name: None })).collect();
        self.body.insts.push(Inst { op, args: args.to_vec(), results: results.clone(), site: site.clone() });
        Ok(results)
    }
    /// Adds an instruction that has exactly one result.
    pub fn emit1(&mut self, op: Op, args: &[Value], site: &Site) -> Result<Value, Diagnostic> {
        let results = self.emit(op, args, site)?;
        assert_eq!(results.len(), 1, "emit1 is called for operations with one result");
        Ok(results[0])
    }
    /// The type of a value.
    pub fn ty(&self, value: Value) -> &Type {
        self.body.ty(value)
    }
    /// Finishes the body with its results.
    pub fn finish(mut self, results: Vec<Value>) -> Body {
        self.body.results = results;
        self.body
    }
}

//! A function under construction: a stack of open bodies, and the tensors in them.
//!
//! Operations are added to the innermost open body. A tensor of an outer body that is used in an inner one
//! becomes a *capture* of each body in between: an argument of the scan or conditional.

use super::{
    Dims,
    frame::{Frame, Watch, append, dotted},
    shared::{Shared, WORD},
    stream::Streams,
};
use crate::{
    DType, Diagnostic, Dim, Env, Function, Name, Op, Site, StateId, Type, Value,
    ir::{Shape, StateOp, is_value_name, unique},
};
use std::{
    borrow::{Borrow, Cow},
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    panic::Location,
    rc::Rc,
};

/// A function under construction.
#[derive(Debug)]
pub struct Graph {
    pub(super) name: Name,
    shared: Rc<Shared>,
    pub(super) inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    /// Open bodies, the outermost first.
    pub(super) frames: Vec<Frame>,
    bodies: u32,
    inputs: Vec<Name>,
    outputs: Vec<(Name, Value)>,
    reads: BTreeMap<StateId, Value>,
    /// Unrolled loops: the dim, and the number of the iteration under construction.
    rows: Vec<(Name, usize)>,
    /// Slices of unrolled loops so far, in the outermost body.
    sliced: BTreeMap<(Value, Name, usize), Value>,
    writes: BTreeMap<StateId, Site>,
    /// The random streams in use.
    pub(super) streams: Streams,
}

impl Graph {
    pub(super) fn new(name: Name, shared: Rc<Shared>) -> Self {
        let graph = Self { name, shared, inner: RefCell::default() };
        graph.open(None);
        graph
    }

    /// Declares an input of the function.
    #[track_caller]
    pub fn input(&self, name: impl Into<Name>, dtype: DType, dims: impl Dims) -> Tensor<'_> {
        let (name, site) = (name.into(), self.site());
        let ty = Type::new(dtype, dims.dims());
        if let Err(diagnostic) = self.legal_input(&name, &ty) {
            self.note(diagnostic, &site);
            return self.poison();
        }
        let mut inner = self.inner.borrow_mut();
        inner.inputs.push(name.clone());
        let frame = &mut inner.frames[0];
        let value = frame.param(ty, Some(name));
        frame.body.params.push(value);
        Tensor { graph: self, id: Some(Ref { body: frame.id, value }) }
    }

    fn legal_input(&self, name: &Name, ty: &Type) -> Result<(), Diagnostic> {
        let bad = ty.names().chain([name]).find(|n| !Name::is_word(n));
        if let Some(bad) = bad {
            return Err(
                Diagnostic::new("", format!("`{bad}` is not a valid name of an input or a dim")).help(WORD)
            );
        }
        let inner = self.inner.borrow();
        if inner.inputs.contains(name) {
            return Err(Diagnostic::new("", format!("input `{name}` is declared twice")));
        }
        if inner.frames.len() > 1 {
            return Err(Diagnostic::new(
                "",
                format!("input `{name}` is declared inside a scan or a conditional"),
            )
            .help("declare inputs at the top level of the function"));
        }
        crate::infer::check_type(&self.env(), ty)
    }

    /// Declares an output of the function.
    #[track_caller]
    pub fn output(&self, name: impl Into<Name>, x: Tensor<'_>) {
        let (name, site) = (name.into(), self.site());
        let known = self.inner.borrow().outputs.iter().any(|(n, _)| *n == name);
        let diagnostic = if known {
            Diagnostic::new("", format!("output `{name}` is declared twice"))
        } else if !Name::is_word(&name) {
            Diagnostic::new("", format!("`{name}` is not a valid name of an output")).help(WORD)
        } else if self.nested() {
            Diagnostic::new("", format!("output `{name}` is declared inside a scan or a conditional"))
                .help("return the tensor from the scan or conditional and declare the output outside")
        } else {
            match self.resolve(x) {
                Ok(Some(value)) => return self.inner.borrow_mut().outputs.push((name, value)),
                Ok(None) => return,
                Err(diagnostic) => diagnostic,
            }
        };
        self.note(diagnostic, &site);
    }

    /// Runs `f` in a scope. The sites of its instructions carry the scope path.
    pub fn scope<T>(&self, name: impl Into<Name>, f: impl FnOnce() -> T) -> T {
        self.shared.scoped(name.into(), f)
    }

    /// Runs `f` as iteration `i` of an unrolled loop over `dim`. State with the dim `dim` that `f` reads is
    /// sliced, as in a scan. The slices are created in the outermost body, so that an enclosing scan does not
    /// repeat them; they occupy memory while that scan runs.
    pub fn at<T>(&self, dim: impl Borrow<Dim>, i: usize, f: impl FnOnce() -> T) -> T {
        self.inner.borrow_mut().rows.push((dim.borrow().name.clone(), i));
        let result = f();
        self.inner.borrow_mut().rows.pop();
        result
    }

    /// Creates a number without dims.
    #[track_caller]
    pub fn constant(&self, value: impl Into<f64>, dtype: DType) -> Tensor<'_> {
        self.constant_at(value.into(), dtype, &self.site())
    }

    /// Creates 0, 1, 2, … along `dim`.
    #[track_caller]
    pub fn iota(&self, dim: impl Borrow<Dim>, dtype: DType) -> Tensor<'_> {
        let dim = crate::TensorDim { dim: dim.borrow().clone(), axes: Vec::new() };
        self.emit1(Op::Shape(Shape::Iota { dim, dtype }), &[], &self.site())
    }

    /// Creates a number, repeated along dims.
    #[track_caller]
    pub fn full(&self, value: impl Into<f64>, dtype: DType, dims: impl Dims) -> Tensor<'_> {
        self.constant(value, dtype).broadcast(dims)
    }

    /// Records a mistake that the caller found, and returns poison.
    #[track_caller]
    pub fn mistake(&self, diagnostic: Diagnostic) -> Tensor<'_> {
        self.note(diagnostic, &self.site());
        self.poison()
    }

    // Helpers of the op families.

    pub(super) fn constant_at(&self, value: f64, dtype: DType, site: &Site) -> Tensor<'_> {
        self.emit1(Op::Shape(Shape::Constant { dtype, value }), &[], site)
    }

    pub(super) fn poison(&self) -> Tensor<'_> {
        Tensor { graph: self, id: None }
    }

    /// Returns the site of the line that called the caller, in the open scopes.
    #[track_caller]
    pub(super) fn site(&self) -> Site {
        self.shared.site(Location::caller())
    }

    pub(super) fn note(&self, diagnostic: Diagnostic, site: &Site) {
        self.shared.note(diagnostic.at(site).in_function(&self.name));
    }

    pub(super) fn env(&self) -> std::cell::Ref<'_, Env> {
        self.shared.env.borrow()
    }

    pub(super) fn belongs_to(&self, program: &Rc<Shared>) -> bool {
        Rc::ptr_eq(&self.shared, program)
    }

    pub(super) fn scope_path(&self) -> String {
        self.shared.scope()
    }

    /// True if a scan or conditional is open.
    pub(super) fn nested(&self) -> bool {
        self.inner.borrow().frames.len() > 1
    }

    pub(super) fn type_of(&self, id: Ref) -> Option<Type> {
        let inner = self.inner.borrow();
        inner.frames.iter().find(|f| f.id == id.body).map(|f| f.body.ty(id.value).clone())
    }

    /// Opens an inner body.
    pub(super) fn open(&self, dim: Option<Dim>) {
        let mut inner = self.inner.borrow_mut();
        let id = inner.bodies;
        inner.bodies += 1;
        inner.frames.push(Frame { id, dim, ..Frame::default() });
    }

    /// Closes the innermost body.
    pub(super) fn close(&self) -> Frame {
        self.inner.borrow_mut().frames.pop().expect("every `close` has its `open`")
    }

    /// Returns the value of `x` in the innermost body, with captures where needed; `None` if `x` is poison.
    pub(super) fn resolve(&self, x: Tensor<'_>) -> Result<Option<Value>, Diagnostic> {
        let Some(id) = x.id else { return Ok(None) };
        if !std::ptr::eq(x.graph, self) {
            return Err(Diagnostic::new(
                "",
                format!("a tensor of function `{}` is used in function `{}`", x.graph.name, self.name),
            )
            .help("functions share only state: assign it to state, or pass it as an output and an input"));
        }
        let mut inner = self.inner.borrow_mut();
        let Some(start) = inner.frames.iter().position(|f| f.id == id.body) else {
            return Err(Diagnostic::new("", "a tensor of a scan or conditional is used outside of it")
                .help("return it from the closure: a scan returns carries and stacked results"));
        };
        let mut value = id.value;
        for j in start + 1..inner.frames.len() {
            let data = inner.frames[j - 1].body.values[value].clone();
            value = inner.frames[j].capture(value, &data);
        }
        Ok(Some(value))
    }

    /// Adds an instruction to the innermost body. Returns `None` if an operand is poison or a rule is broken.
    pub(super) fn emit(&self, op: Op, args: &[Tensor<'_>], site: &Site) -> Option<Vec<Tensor<'_>>> {
        let mut values = Vec::with_capacity(args.len());
        for x in args {
            match self.resolve(*x) {
                Ok(Some(value)) => values.push(value),
                Ok(None) => return None,
                Err(diagnostic) => {
                    self.note(diagnostic, site);
                    return None;
                }
            }
        }
        let results = {
            let mut inner = self.inner.borrow_mut();
            let frame = inner.frames.last_mut().expect("the outermost body is open until `finish`");
            let env = self.env();
            append(&env, frame, op, &values, site).map(|results| (frame.id, results))
        };
        match results {
            Ok((body, results)) => {
                let tensor = |value| Tensor { graph: self, id: Some(Ref { body, value }) };
                Some(results.into_iter().map(tensor).collect())
            }
            Err(diagnostic) => {
                self.note(diagnostic, site);
                None
            }
        }
    }

    /// [`Graph::emit`] for operations with one result.
    pub(super) fn emit1(&self, op: Op, args: &[Tensor<'_>], site: &Site) -> Tensor<'_> {
        self.emit(op, args, site).and_then(|results| results.first().copied()).unwrap_or(self.poison())
    }

    /// Returns the value of a state, which is read once, in the outermost body. Inside a scan over one of its
    /// dims this is the slice of the iteration.
    pub(super) fn read(&self, id: StateId, site: &Site) -> Tensor<'_> {
        let mut inner = self.inner.borrow_mut();
        let known = inner.reads.get(&id).copied();
        let mut value = match known {
            Some(value) => value,
            None => {
                let env = self.env();
                let read = append(&env, &mut inner.frames[0], Op::State(StateOp::Read(id)), &[], site)
                    .expect("a handle of a state holds the id of a declared one");
                inner.frames[0].name(read[0], &dotted(&env.states[id].name));
                inner.reads.insert(id, read[0]);
                read[0]
            }
        };
        match self.row(&mut inner, value, site) {
            Ok(row) => value = row,
            Err(diagnostic) => {
                drop(inner);
                self.note(diagnostic, site);
                return self.poison();
            }
        }
        for j in 1..inner.frames.len() {
            let data = inner.frames[j - 1].body.values[value].clone();
            let frame = &mut inner.frames[j];
            value = match frame.dim.clone() {
                Some(dim) if data.ty.has(&dim.name) => frame.slice(value, &data, &dim.name),
                Some(_) | None => frame.capture(value, &data),
            };
        }
        let body = inner.frames.last().expect("the outermost body is open until `finish`").id;
        Tensor { graph: self, id: Some(Ref { body, value }) }
    }

    /// Returns the slice of `value`, a value of the outermost body, for the open unrolled iterations.
    fn row(&self, inner: &mut Inner, value: Value, site: &Site) -> Result<Value, Diagnostic> {
        let mut value = value;
        for (dim, i) in inner.rows.clone() {
            if !inner.frames[0].body.ty(value).has(&dim) {
                continue;
            }
            let key = (value, dim.clone(), i);
            value = match inner.sliced.get(&key) {
                Some(row) => *row,
                None => {
                    let env = self.env();
                    let slice = Shape::Slice { dim: dim.clone(), start: i, limit: i + 1, stride: 1 };
                    let frame = &mut inner.frames[0];
                    let slice = append(&env, frame, Op::Shape(slice), &[value], site)?[0];
                    let flat = Shape::Reshape { from: vec![dim], to: Vec::new() };
                    let row = append(&env, frame, Op::Shape(flat), &[slice], site)?[0];
                    if let Some(name) = frame.body.values[value].name.clone() {
                        frame.name(row, &format!("{name}.{i}"));
                    }
                    inner.sliced.insert(key, row);
                    row
                }
            };
        }
        Ok(value)
    }

    /// Writes a state. A function writes a state at most once, in the outermost body.
    pub(super) fn write(&self, id: StateId, x: Tensor<'_>, site: &Site) {
        let name = self.env().states[id].name.clone();
        if self.nested() {
            let message = format!("state `{name}` is assigned inside a scan or a conditional");
            let help = "return the value from the scan or conditional and assign it outside";
            return self.note(Diagnostic::new("", message).help(help), site);
        }
        let first = self.inner.borrow().writes.get(&id).cloned();
        if let Some(first) = first {
            let place = format!("{}:{}:{}", first.file, first.line, first.column);
            let message = format!("state `{name}` is assigned twice in one function; first at {place}");
            return self.note(Diagnostic::new("", message).help("assign only the last value"), site);
        }
        self.inner.borrow_mut().writes.insert(id, site.clone());
        self.emit(Op::State(StateOp::Write(id)), &[x], site);
    }

    /// Returns the iteration number of the innermost scan, an `s32` without dims.
    #[track_caller]
    pub fn iteration(&self) -> Tensor<'_> {
        let site = self.site();
        let mut inner = self.inner.borrow_mut();
        let Some(j) = inner.frames.iter().rposition(|f| f.dim.is_some()) else {
            drop(inner);
            let diagnostic = Diagnostic::new("", "`iteration` is called outside of a scan");
            self.note(diagnostic.help("call it in the closure of a scan"), &site);
            return self.poison();
        };
        let value = match inner.frames[j].iteration {
            Some(value) => value,
            None => {
                let dim = inner.frames[j].dim.clone().expect("the line above found a scan");
                let dim = crate::TensorDim { dim, axes: Vec::new() };
                let op = Op::Shape(Shape::Iota { dim: dim.clone(), dtype: DType::S32 });
                let env = self.env();
                let iota = match append(&env, &mut inner.frames[j - 1], op, &[], &site) {
                    Ok(results) => results[0],
                    Err(diagnostic) => {
                        self.note(diagnostic, &site);
                        return self.poison();
                    }
                };
                let data = inner.frames[j - 1].body.values[iota].clone();
                let value = inner.frames[j].slice(iota, &data, &dim.dim.name);
                inner.frames[j].iteration = Some(value);
                value
            }
        };
        Tensor { graph: self, id: Some(Ref { body: inner.frames[j].id, value }) }
    }

    /// Returns the finished function. Mistakes are already recorded.
    pub(super) fn finish(self) -> Function {
        let Frame { mut body, watches, .. } = self.close();
        let inner = self.inner.into_inner();
        let (mut outputs, mut results): (Vec<Name>, Vec<Value>) = inner.outputs.into_iter().unzip();
        let mut taken: HashSet<_> = outputs.iter().map(|name| Cow::Owned(name.to_string())).collect();
        for Watch { name, value } in watches {
            let name = unique(&name, &taken).into_owned();
            outputs.push(name.clone().into());
            results.push(value);
            taken.insert(name.into());
        }
        body.results = results;
        Function { name: self.name, inputs: inner.inputs, outputs, body }
    }
}

/// A tensor: a handle that is cheap to copy. Its methods are the operations, in the files of the op families.
#[derive(Clone, Copy)]
pub struct Tensor<'g> {
    pub(super) graph: &'g Graph,
    /// `None` for a poison tensor, the result of a mistake that is already recorded.
    pub(super) id: Option<Ref>,
}

/// A value and its body.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Ref {
    pub(super) body: u32,
    pub(super) value: Value,
}

impl<'g> Tensor<'g> {
    /// The function this tensor belongs to.
    pub fn graph(self) -> &'g Graph {
        self.graph
    }

    /// The type; `None` for a poison tensor or one whose body is closed.
    pub fn ty(self) -> Option<Type> {
        self.id.and_then(|id| self.graph.type_of(id))
    }

    /// The element type; `f32` for a poison tensor.
    pub fn dtype(self) -> DType {
        self.ty().map_or(DType::F32, |ty| ty.dtype)
    }

    /// The dims; empty for a poison tensor.
    pub fn dims(self) -> Vec<Dim> {
        self.ty().map_or_else(Vec::new, |ty| ty.logical().cloned().collect())
    }

    /// True if it has a dim of this name.
    pub fn has(self, dim: impl Into<Name>) -> bool {
        self.ty().is_some_and(|ty| ty.has(&dim.into()))
    }

    /// True if it is the result of a mistake.
    pub fn is_poison(self) -> bool {
        self.id.is_none()
    }

    /// Names the value for people who read the program. In text it is `%SCOPE.NAME`, as in
    /// `%encoder.block_1.ffn.sent`, in all stages. If another value of the body has the name, it gets a
    /// suffix.
    #[track_caller]
    pub fn named(self, name: &str) -> Self {
        let site = self.graph.site();
        if !is_value_name(name) {
            let diagnostic = Diagnostic::new("", format!("`{name}` is not a valid name of a value"));
            return self.wrong(diagnostic.help(WORD), &site);
        }
        let name =
            if site.scope.is_empty() { name.to_owned() } else { format!("{}.{name}", dotted(&site.scope)) };
        let mut inner = self.graph.inner.borrow_mut();
        if let Some(id) = self.id
            && let Some(frame) = inner.frames.iter_mut().find(|f| f.id == id.body)
        {
            frame.name(id.value, &name);
        }
        self
    }

    /// Applies an operation with one result to this tensor and `more`.
    pub(super) fn apply(self, op: Op, more: &[Self], site: &Site) -> Self {
        let mut args = vec![self];
        args.extend(more);
        self.graph.emit1(op, &args, site)
    }

    /// Records a mistake and returns poison.
    pub(super) fn wrong(self, diagnostic: Diagnostic, site: &Site) -> Self {
        self.graph.note(diagnostic, site);
        self.graph.poison()
    }
}

impl std::fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ty() {
            Some(ty) => write!(f, "{}", ty.display(&crate::Mesh::default())),
            None => f.write_str("poison"),
        }
    }
}

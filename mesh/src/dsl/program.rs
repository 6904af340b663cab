//! A program under construction: state, functions, meta entries, and mistakes so far.

use super::{
    Dims, Graph, Init, Rng, State, Tensor,
    shared::{Shared, WORD},
    stream::streams,
};
use crate::{
    DType, Diagnostic, Diagnostics, Dim, Function, Module, Name, Schedule, StateDecl, StateId, StateKind,
    Task, Type,
    ir::{Dist, Meta},
    task::check::values,
    verify::{Stage, verify},
};
use std::{
    cell::{Cell, RefCell},
    panic::Location,
    rc::Rc,
};

/// A program under construction. All methods take `&self`, so that layers can declare parameters and
/// functions can use them in any order.
#[derive(Debug)]
pub struct Program {
    name: String,
    meta: RefCell<Vec<Meta>>,
    schedule: Cell<Schedule>,
    task: RefCell<Option<Task>>,
    functions: RefCell<Vec<Function>>,
    pub(super) shared: Rc<Shared>,
}

impl Program {
    /// Creates an empty program.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            meta: RefCell::default(),
            schedule: Cell::default(),
            task: RefCell::default(),
            functions: RefCell::default(),
            shared: Rc::default(),
        }
    }

    /// States a string about the program, for tools and the runtime. A later one of the same key replaces it.
    #[track_caller]
    pub fn meta(&self, key: impl Into<Name>, value: impl ToString) {
        let site = self.shared.site(Location::caller());
        let entry = Meta { key: key.into(), value: value.to_string(), site };
        let mut meta = self.meta.borrow_mut();
        match meta.iter_mut().find(|old| old.key == entry.key) {
            Some(old) => *old = entry,
            None => meta.push(entry),
        }
    }

    /// States the program's schedule; a later one replaces it.
    pub fn schedule(&self, schedule: Schedule) {
        self.schedule.set(schedule);
    }

    /// Declares the program's task: the contract with the runtime ([`crate::task`]). A later one replaces it.
    #[track_caller]
    pub fn task(&self, task: Task) {
        for problem in values(&task) {
            self.mistake(Diagnostic::new("", problem));
        }
        self.task.replace(Some(task));
    }

    /// Runs `f` in a scope. Names of state declared in it begin with `name/`, as do the scope paths of
    /// diagnostics.
    pub fn scope<T>(&self, name: impl Into<Name>, f: impl FnOnce() -> T) -> T {
        self.shared.scoped(name.into(), f)
    }

    /// Declares a trained `f32` parameter.
    #[track_caller]
    pub fn param(&self, name: impl Into<Name>, dims: impl Dims, init: Init) -> State {
        self.declare(&name.into(), StateKind::Param, DType::F32, dims.dims(), init, Location::caller())
    }

    /// Declares a trained parameter of another float type. Its gradient and its new value have this type too:
    /// an optimizer that computes in `f32` casts both.
    #[track_caller]
    pub fn param_as(&self, dtype: DType, name: impl Into<Name>, dims: impl Dims, init: Init) -> State {
        self.declare(&name.into(), StateKind::Param, dtype, dims.dims(), init, Location::caller())
    }

    /// Declares an optimizer slot: the optimizer's memory for a parameter.
    #[track_caller]
    pub fn slot(&self, name: impl Into<Name>, dtype: DType, dims: impl Dims, init: Init) -> State {
        self.declare(&name.into(), StateKind::Slot, dtype, dims.dims(), init, Location::caller())
    }

    /// Declares other state without dims, such as the step number.
    #[track_caller]
    pub fn counter(&self, name: impl Into<Name>, dtype: DType, init: Init) -> State {
        self.declare(&name.into(), StateKind::Counter, dtype, Vec::new(), init, Location::caller())
    }

    /// Declares other state, such as the KV cache of a decoder. Like all state it is split by its dims, and a
    /// function that replaces it reuses its buffer.
    #[track_caller]
    pub fn store(&self, name: impl Into<Name>, dtype: DType, dims: impl Dims, init: Init) -> State {
        self.declare(&name.into(), StateKind::Counter, dtype, dims.dims(), init, Location::caller())
    }

    fn declare(
        &self,
        name: &Name,
        kind: StateKind,
        dtype: DType,
        dims: Vec<Dim>,
        init: Init,
        location: &Location<'_>,
    ) -> State {
        let site = self.shared.site(location);
        let scope = self.shared.scope();
        let name: Name = if scope.is_empty() { name.clone() } else { format!("{scope}/{name}").into() };
        let ty = Type::new(dtype, dims);
        let legal = self.legal_state(&name, &ty, kind, init);
        if let Err(diagnostic) = legal {
            self.shared.note(diagnostic.at(&site));
            return State::poison(name, ty, &self.shared);
        }
        let decl = StateDecl { name: name.clone(), kind, ty: ty.clone(), site };
        let id: StateId = self.shared.env.borrow_mut().states.push(decl);
        self.shared.inits.borrow_mut().push(init);
        State::new(name, ty, id, &self.shared)
    }

    fn legal_state(&self, name: &Name, ty: &Type, kind: StateKind, init: Init) -> Result<(), Diagnostic> {
        if !Name::is_word(name) {
            return Err(Diagnostic::new("", format!("`{name}` is not a valid name of a state")).help(WORD));
        }
        let env = self.shared.env.borrow();
        if let Some(id) = env.find_state(name) {
            let first = &env.states[id].site;
            let place = format!("{}:{}:{}", first.file, first.line, first.column);
            return Err(Diagnostic::new("", format!("state `{name}` is declared twice; first at {place}"))
                .help("declare it once and use the handle, or put one of the two in a scope"));
        }
        if let Some(d) = ty.dims.iter().find(|d| !Name::is_word(&d.dim.name)) {
            return Err(
                Diagnostic::new("", format!("`{}` is not a valid name of a dim", d.dim.name)).help(WORD)
            );
        }
        if kind == StateKind::Param && !ty.dtype.is_float() {
            return Err(Diagnostic::new("", format!("parameter `{name}` must be a float, got {}", ty.dtype)));
        }
        init.legal(ty)?;
        crate::infer::check_type(&env, ty)
    }

    /// Defines a function. `f` declares its inputs, computes, and declares its outputs.
    #[track_caller]
    pub fn function(&self, name: impl Into<Name>, f: impl for<'g> FnOnce(&'g Graph)) {
        let name = name.into();
        let site = self.shared.site(Location::caller());
        let graph = Graph::new(name.clone(), Rc::clone(&self.shared));
        f(&graph);
        let function = graph.finish();
        if !Name::is_word(&name) {
            let diagnostic = Diagnostic::new("", format!("`{name}` is not a valid name of a function"));
            self.shared.note(diagnostic.help(WORD).at(&site));
        } else if self.functions.borrow().iter().any(|f| f.name == name) {
            let diagnostic = Diagnostic::new("", format!("function `{name}` is defined twice"));
            self.shared.note(diagnostic.help("give one of the two another name").at(&site));
        }
        self.functions.borrow_mut().push(function);
    }

    /// Records a mistake that the caller found, such as a contradictory configuration. Its place is the line
    /// of the model that called the caller, if the caller is `#[track_caller]`.
    #[track_caller]
    pub fn mistake(&self, diagnostic: Diagnostic) {
        let site = self.shared.site(Location::caller());
        self.shared.note(diagnostic.at(&site));
    }

    /// Returns the program, or all its mistakes. Adds a function `init` from the initializers, unless the
    /// program defines one.
    pub fn finish(self) -> Result<Module, Diagnostics> {
        let own_init = self.functions.borrow().iter().any(|f| f.name == *"init");
        if !own_init && !self.shared.env.borrow().states.is_empty() {
            self.function("init", |g| self.init(g));
            self.functions.borrow_mut().rotate_right(1);
        }
        let diagnostics = self.shared.diagnostics.take();
        if !diagnostics.is_empty() {
            return Err(Diagnostics(diagnostics));
        }
        let module = Module {
            name: self.name,
            env: self.shared.env.take(),
            functions: self.functions.take(),
            meta: self.meta.take(),
            schedule: self.schedule.get(),
            task: self.task.take(),
        };
        // The verifier repeats the checks of the DSL and adds the rules for modules.
        verify(&module, Stage::Global)?;
        Ok(module)
    }

    /// Writes the initial value of every state. The random numbers of a state depend only on the seed and on
    /// its name, not on the order of declarations or on other state.
    fn init(&self, g: &Graph) {
        let seed = g.input("seed", DType::U32, []);
        let states: Vec<(StateId, StateDecl)> =
            self.shared.env.borrow().states.iter().map(|(id, s)| (id, s.clone())).collect();
        let names: Vec<&Name> = states.iter().map(|(_, s)| &s.name).collect();
        let streams = streams(&names);
        for ((id, decl), stream) in states.iter().zip(streams) {
            let init = self.shared.inits.borrow()[id.0 as usize];
            g.write(*id, initial(init, seed, decl, stream), &decl.site);
        }
    }
}

/// Returns the initial value of `state` in the body of `init`.
fn initial<'g>(init: Init, seed: Tensor<'g>, state: &StateDecl, stream: u32) -> Tensor<'g> {
    let (g, site, dtype) = (seed.graph, &state.site, state.ty.dtype);
    let dims: Vec<Dim> = state.ty.logical().cloned().collect();
    let full = |value: f64| g.number(value, dtype, site).broadcast_at(&dims, site);
    let random = |dist, deviation: f64| {
        let rng = Rng::new(seed, g.number(0.0, DType::U32, site));
        let x = rng.draw(dist, &dims, dtype, stream, site);
        x.times(g.number(deviation, dtype, site), site)
    };
    match init {
        Init::Zeros => full(0.0),
        Init::Ones => full(1.0),
        Init::Constant(value) => full(value),
        Init::Normal(deviation) => random(Dist::Normal, deviation),
        Init::TruncatedNormal(deviation) => random(Dist::TruncatedNormal, deviation),
    }
}

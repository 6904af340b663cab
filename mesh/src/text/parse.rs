//! The parser.
//!
//! It reports all errors of a file: after an error it resumes with the next statement or item. Results of a
//! statement with an error have an unknown type; instructions that use them are parsed but not checked.

use super::{
    attrs::{AttrList, Attrs},
    cursor::{Cursor, Parsed},
    lexer::Kind,
    op::{Family, build, families},
};
use crate::{
    Axis, Body, BodyBuilder, Diagnostic, Diagnostics, Env, Function, Inst, Mesh, Module, Name, Op, Schedule,
    Site, StateDecl, StateId, StateKind, Task, Type, Value,
    infer::check_type,
    ir::{Meta, StateOp, ValueData, is_value_name},
    layout::suggest,
    task::TaskKind,
    verify::{MAX_DEPTH, body::recorded_types},
};
use std::collections::HashMap;

/// Parses a module. Errors name `file`. The parser checks given result types against the inferred ones;
/// [`crate::verify`] checks the rest.
pub fn parse(text: &str, file: &str) -> Result<Module, Diagnostics> {
    Parser::new(text, file, false).module()
}

/// Parses a module that people wrote. Meta entries, state and instructions without a site get their place in
/// this text, so that later errors point at it.
pub fn parse_source(text: &str, file: &str) -> Result<Module, Diagnostics> {
    Parser::new(text, file, true).module()
}

struct Parser<'t> {
    c: Cursor<'t>,
    families: HashMap<&'static str, Family>,
    /// True if entries without a site get their place in the text.
    own_sites: bool,
    /// State with an illegal declared type. Accesses to it are not checked.
    illegal: Vec<StateId>,
}

/// A body that is being parsed.
struct Scope<'e, 't> {
    builder: BodyBuilder<'e>,
    /// Values by name. `None` means that the type is unknown after an error.
    values: HashMap<&'t str, Option<Value>>,
    depth: usize,
}

/// `%3` or `%logits`, before the value exists.
struct Definition<'t> {
    text: &'t str,
    at: usize,
    name: Option<Name>,
}

const ITEMS: &str = "`mesh`, `meta`, `schedule`, `task`, `state` or `func`";

// Items.

impl<'t> Parser<'t> {
    fn new(text: &'t str, file: &str, own_sites: bool) -> Self {
        Self { c: Cursor::new(text, file), families: families(), own_sites, illegal: Vec::new() }
    }

    fn module(mut self) -> Result<Module, Diagnostics> {
        let mut module = Module::default();
        if self.c.eat_word("module") {
            match self.c.name("the program's name") {
                Ok(name) => module.name = name.to_string(),
                Err(d) => self.c.errors.push(d),
            }
        } else {
            let error = self.c.expected("`module NAME` at the start");
            self.c.errors.push(error);
        }
        while self.c.peek().kind != Kind::End {
            if let Err(d) = self.item(&mut module) {
                self.c.errors.push(d);
                self.c.skip_item();
            }
        }
        let errors = self.c.finish();
        if errors.is_empty() { Ok(module) } else { Err(Diagnostics(errors)) }
    }

    fn item(&mut self, module: &mut Module) -> Parsed<()> {
        let at = self.c.offset();
        let word = self.c.word(ITEMS)?;
        match word {
            "mesh" => {
                if !module.env.states.is_empty() || !module.functions.is_empty() {
                    let late = self.c.error(at, "the mesh comes after state or functions");
                    return Err(late.help("put it in the line after `module`"));
                }
                if !module.env.mesh.axes().is_empty() {
                    return Err(self.c.error(at, "the mesh is given twice"));
                }
                module.env.mesh = self.mesh()?;
            }
            "meta" => {
                let key = self.c.name("the key of a meta entry")?;
                self.c.expect(b'=', "`=` and a string")?;
                let value = self.c.string("a string")?;
                let site = self.site(at)?;
                module.meta.push(Meta { key, value, site });
            }
            "schedule" => {
                if module.schedule != Schedule::default() {
                    return Err(self.c.error(at, "the schedule is there twice"));
                }
                module.schedule = self.schedule()?;
            }
            "task" => {
                if module.task.is_some() {
                    return Err(self.c.error(at, "the task is given twice"));
                }
                module.task = Some(self.task()?);
            }
            "state" => {
                let state = self.state(&module.env)?;
                let legal = self.legal(at, &module.env, &state.ty);
                let id = module.env.states.push(state);
                if !legal {
                    self.illegal.push(id);
                }
            }
            "func" => {
                let function = self.function(&module.env)?;
                module.functions.push(function);
            }
            _ => {
                let error = self.c.error(at, format!("expected {ITEMS}, found `{word}`"));
                return Err(match suggest(word, ["mesh", "meta", "schedule", "task", "state", "func"]) {
                    Some(hint) => error.help(format!("did you mean `{hint}`?")),
                    None => error,
                });
            }
        }
        Ok(())
    }

    /// `data=2, expert=4`.
    fn mesh(&mut self) -> Parsed<Mesh> {
        let at = self.c.offset();
        let mut axes = Vec::new();
        loop {
            let name = self.c.name("the name of a mesh axis")?;
            self.c.expect(b'=', "`=` and the size of the axis")?;
            axes.push(Axis { name, size: self.c.size("the size of the axis, a whole number")? });
            if !self.c.eat(b',') {
                return Mesh::new(axes).map_err(|message| self.c.error(at, message));
            }
        }
    }

    /// `remat=carries microbatches=4`, up to the end of the line.
    fn schedule(&mut self) -> Parsed<Schedule> {
        let mut schedule = Schedule::default();
        self.entries("an entry of the schedule, such as `remat=carries`", |key, value| {
            schedule.set(key, value)
        })?;
        Ok(schedule)
    }

    /// `train objective=lm vocab=384`, up to the end of the line.
    fn task(&mut self) -> Parsed<Task> {
        let at = self.c.offset();
        let kind = self.c.word("the kind of task: train, score or generate")?;
        let mut task = Task::new(TaskKind::parse(kind).map_err(|error| error.at(&self.c.site(at)))?);
        self.entries("an entry of the task, such as `vocab=384`", |key, value| task.set(key, value))?;
        Ok(task)
    }

    /// `key=value` entries up to the end of the line.
    fn entries(
        &mut self,
        what: &str,
        mut set: impl FnMut(&str, &str) -> Result<(), Diagnostic>,
    ) -> Parsed<()> {
        while !self.c.peek().first && self.c.peek().kind != Kind::End {
            let at = self.c.offset();
            let key = self.c.word(what)?;
            self.c.expect(b'=', "`=` and the value of the entry")?;
            let value = self.c.next();
            let value = self.c.slice(value);
            set(key, value).map_err(|error| error.at(&self.c.site(at)))?;
        }
        Ok(())
    }

    /// `param encoder/wi: f32[d_model=8]`.
    fn state(&mut self, env: &Env) -> Parsed<StateDecl> {
        let at = self.c.offset();
        let word = self.c.word("`param`, `slot` or `counter`")?;
        let kinds = [StateKind::Param, StateKind::Slot, StateKind::Counter];
        let Some(kind) = kinds.into_iter().find(|kind| kind.name() == word) else {
            return Err(self.c.error(at, format!("state is `param`, `slot` or `counter`, not `{word}`")));
        };
        let name_at = self.c.offset();
        let name = self.c.name("the name of the state")?;
        self.c.expect(b':', "`:` and the type of the state")?;
        let ty = self.c.ty(&env.mesh)?;
        let site = self.site(at)?;
        if env.find_state(&name).is_some() {
            let mut error = self.c.error(name_at, format!("state `{name}` is declared twice"));
            error.label = "verify_v14";
            return Err(error.help("give one of the two another name"));
        }
        Ok(StateDecl { name, kind, ty, site })
    }

    /// Parses a site, or returns the one for an entry at `offset` without a site.
    fn site(&mut self, offset: usize) -> Parsed<Site> {
        Ok(match self.c.optional_site()? {
            Some(site) => site,
            None if self.own_sites => self.c.site(offset),
            None => Site::default(),
        })
    }

    /// `train_step(%0 seed: u32[]) -> (loss: f32[]) { … return %9 }`.
    fn function(&mut self, env: &Env) -> Parsed<Function> {
        let name = self.c.name("the name of the function")?;
        let mut scope = Scope::new(env, 0);
        let mut inputs = Vec::new();
        self.c.expect(b'(', "`(` and the inputs of the function")?;
        while !self.c.eat(b')') {
            if !inputs.is_empty() {
                self.c.expect(b',', "`,` or `)` after an input")?;
            }
            let (definition, input) = self.input()?;
            let ty = self.ty_after_colon(env)?;
            self.param(&mut scope, definition, ty);
            inputs.push(input);
        }
        let outputs_at = self.c.offset();
        let outputs = if self.c.eat_arrow() { self.outputs(env)? } else { Vec::new() };
        let errors = self.c.errors.len();
        let body = self.braces(scope, "return")?;
        let outputs_known = errors == self.c.errors.len();
        for ((name, ty, at), have) in outputs.iter().zip(body.result_types()) {
            if ty != have && outputs_known {
                let (want, have) = (ty.display(&env.mesh), have.display(&env.mesh));
                let error = self.c.error(*at, format!("output `{name}` is {want}, but {have} is returned"));
                self.c.errors.push(error);
            }
        }
        let (names, values) = (outputs.len(), body.results.len());
        if names != values && outputs_known {
            let message = format!("outputs of function `{name}`: {names}; values returned: {values}");
            let error = self.c.error(outputs_at, message).help("give each returned value one output");
            self.c.errors.push(error);
        }
        let outputs = outputs.into_iter().map(|(name, _, _)| name).collect();
        Ok(Function { name, inputs, outputs, body })
    }

    /// `%0 seed`, or `%seed` where the value has the name of the input.
    fn input(&mut self) -> Parsed<(Definition<'t>, Name)> {
        let (text, at) = self.value_name("a value and the name of the input, `%0 seed`")?;
        let name = self.name_of(text);
        let input = match &name {
            Some(name) if self.c.is(b':') => name.clone(),
            Some(_) | None => self.c.name("the name of the input")?,
        };
        Ok((Definition { text, at, name }, input))
    }

    fn outputs(&mut self, env: &Env) -> Parsed<Vec<(Name, Type, usize)>> {
        let mut outputs = Vec::new();
        self.c.expect(b'(', "`(` and the outputs of the function")?;
        while !self.c.eat(b')') {
            if !outputs.is_empty() {
                self.c.expect(b',', "`,` or `)` after an output")?;
            }
            let at = self.c.offset();
            let name = self.c.name("the name of an output")?;
            outputs.push((name, self.ty_after_colon(env)?, at));
        }
        Ok(outputs)
    }

    /// Returns true if a type is legal by itself; otherwise reports it at `offset`.
    fn legal(&mut self, offset: usize, env: &Env, ty: &Type) -> bool {
        let error = check_type(env, ty).err().map(|d| d.at(&self.c.site(offset)));
        let legal = error.is_none();
        self.c.errors.extend(error);
        legal
    }

    fn ty_after_colon(&mut self, env: &Env) -> Parsed<Type> {
        self.c.expect(b':', "`:` and a type")?;
        self.c.ty(&env.mesh)
    }
}

// Bodies.

impl<'e, 't> Scope<'e, 't> {
    fn new(env: &'e Env, depth: usize) -> Self {
        Self { builder: BodyBuilder::new(env), values: HashMap::new(), depth }
    }
}

impl<'t> Parser<'t> {
    /// `(%0: f32[], %1: s32[]) { … yield %2 }`, a body inside an instruction.
    fn body(&mut self, env: &Env, depth: usize) -> Parsed<Body> {
        let at = self.c.offset();
        if depth > MAX_DEPTH {
            let mut error = self.c.error(at, format!("bodies are nested more than {MAX_DEPTH} deep"));
            error.label = "verify_v16";
            return Err(error.help("split the program"));
        }
        let mut scope = Scope::new(env, depth);
        self.c.expect(b'(', "`(` and the parameters of the body")?;
        while !self.c.eat(b')') {
            if !scope.values.is_empty() {
                self.c.expect(b',', "`,` or `)` after a parameter")?;
            }
            let definition = self.definition()?;
            let ty = self.ty_after_colon(env)?;
            self.param(&mut scope, definition, ty);
        }
        self.braces(scope, "yield")
    }

    fn param(&mut self, scope: &mut Scope<'_, 't>, definition: Definition<'t>, ty: Type) {
        let legal = self.legal(definition.at, scope.builder.env, &ty);
        let value = scope.builder.param(ty, definition.name);
        self.define(scope, definition.text, definition.at, legal.then_some(value));
    }

    fn braces(&mut self, mut scope: Scope<'_, 't>, end: &str) -> Parsed<Body> {
        self.c.expect(b'{', "`{` and the instructions of the body")?;
        loop {
            if self.c.is(b'}') || self.c.at_item() {
                let error = self.c.expected(&format!("`{end}` and the results, at the end of the body"));
                // A missing end is one error; the text after the brace is parsed as usual.
                if !self.c.eat(b'}') {
                    return Err(error);
                }
                self.c.errors.push(error);
                return Ok(scope.builder.finish(Vec::new()));
            }
            let start = self.c.position();
            if self.c.is_word("return") || self.c.is_word("yield") {
                match self.results(&scope, end) {
                    Ok(results) => return Ok(scope.builder.finish(results)),
                    Err(d) => self.c.errors.push(d),
                }
                self.c.skip_statement(start);
                self.c.eat(b'}');
                return Ok(scope.builder.finish(Vec::new()));
            }
            if let Err(d) = self.statement(&mut scope) {
                self.c.errors.push(d);
                self.c.skip_statement(start);
            }
        }
    }

    /// `return %1, %2 }`.
    fn results(&mut self, scope: &Scope<'_, 't>, end: &str) -> Parsed<Vec<Value>> {
        if !self.c.is_word(end) {
            let message = format!("this body ends with `{end}`, not `{}`", self.c.slice(self.c.peek()));
            let error = self.c.error(self.c.offset(), message);
            return Err(error.help("functions `return`, other bodies `yield`"));
        }
        self.c.next();
        let results = self.operands(scope)?;
        self.c.expect(b'}', "`}` after the results of a body")?;
        // Unknown values were reported at their definition.
        Ok(results.into_iter().flatten().collect())
    }

    /// `%3, %positions = top_k %1 {…} : …`.
    fn statement(&mut self, scope: &mut Scope<'_, 't>) -> Parsed<()> {
        let at = self.c.offset();
        let mut definitions = Vec::new();
        if self.c.peek().kind == Kind::Value {
            loop {
                definitions.push(self.definition()?);
                if !self.c.eat(b',') {
                    break;
                }
            }
            self.c.expect(b'=', "`=` and an operation")?;
        }
        let values = self.operation(scope, &definitions, at);
        let known = values.as_deref().unwrap_or_default();
        for (i, d) in definitions.into_iter().enumerate() {
            let value = known.get(i).copied().flatten();
            if let Some(value) = value {
                scope.builder.body.values[value].name = d.name;
            }
            self.define(scope, d.text, d.at, value);
        }
        values.map(|_| ())
    }

    /// `top_k %1 {dim=a, to=k=2} : f32[k=2], s32[k=2] @ m.rs:1:2`. Returns the results as values of the body,
    /// `None` where the type is unknown.
    fn operation(
        &mut self,
        scope: &mut Scope<'_, 't>,
        definitions: &[Definition<'t>],
        at: usize,
    ) -> Parsed<Vec<Option<Value>>> {
        let env = scope.builder.env;
        let op_at = self.c.offset();
        let name = self.c.word("an operation, such as `add`")?;
        let Some(&family) = self.families.get(name) else {
            let error = self.c.error(op_at, format!("there is no operation `{name}`"));
            return Err(match suggest(name, super::op::names().map(|(name, _)| name)) {
                Some(hint) => error.help(format!("did you mean `{hint}`?")),
                None => error.help("docs/ir.md lists all operations"),
            });
        };
        let args = self.operands(scope)?;
        let list = AttrList::parse(&mut self.c, env)?;
        let mut bodies = Vec::new();
        let errors = self.c.errors.len();
        while self.c.is(b'(') || self.c.eat_word("else") {
            bodies.push(self.body(env, scope.depth + 1)?);
        }
        let sound = errors == self.c.errors.len();
        let op = build(family, name, Attrs::new(&self.c, env, (name, op_at), list, bodies))?;
        let types = self.result_types(env)?;
        let site = self.site(at)?;
        if !self.c.peek().first && !self.c.is(b'}') {
            return Err(self.c.expected("the end of the line after an instruction"));
        }
        let names = definitions.len();
        if types.as_ref().is_some_and(|types| types.len() != names) {
            let types = types.map_or(0, |types| types.len());
            let message = format!("names of results before `{name}`: {names}; types after it: {types}");
            let help = "each result has a name before `=`, a type after `:`; or leave out all types";
            return Err(self.c.error(op_at, message).help(help));
        }
        let Some(args) = args.into_iter().collect::<Option<Vec<Value>>>() else {
            return Ok(recorded(scope, types));
        };
        if !sound || self.touches_illegal(&op) {
            return Ok(recorded(scope, types));
        }
        let inferred = types.is_none();
        let errors = self.c.errors.len();
        let values = self.emit(scope, op, &args, types, (op_at, &site));
        if inferred && values.len() != names && errors == self.c.errors.len() {
            let message = format!("results of `{name}`: {}; names before it: {names}", values.len());
            return Err(self.c.error(op_at, message).help("each result has a name before `=`"));
        }
        Ok(values)
    }

    /// `: f32[k=2], s32[k=2]`. Types may be left out; then they are inferred.
    fn result_types(&mut self, env: &Env) -> Parsed<Option<Vec<Type>>> {
        if !self.c.eat(b':') {
            return Ok(None);
        }
        let mut types = vec![self.c.ty(&env.mesh)?];
        while self.c.eat(b',') {
            types.push(self.c.ty(&env.mesh)?);
        }
        Ok(Some(types))
    }

    /// Adds an instruction and compares its result types with `types`, those in the text.
    fn emit(
        &mut self,
        scope: &mut Scope<'_, 't>,
        op: Op,
        args: &[Value],
        types: Option<Vec<Type>>,
        (at, site): (usize, &Site),
    ) -> Vec<Option<Value>> {
        let env = scope.builder.env;
        let (error, values) = match scope.builder.emit(op, args, site) {
            Err(d) => (Some(d), recorded(scope, types)),
            Ok(values) => {
                let body = &scope.builder.body;
                let have: Vec<&Type> = values.iter().map(|v| body.ty(*v)).collect();
                let check = |(inst, types): (&Inst, Vec<Type>)| {
                    recorded_types(env, &inst.op, &types.iter().collect::<Vec<_>>(), &have).err()
                };
                (body.insts.last().zip(types).and_then(check), values.into_iter().map(Some).collect())
            }
        };
        if let Some(d) = error {
            // The error is at the place in this text, not at the line of the model.
            self.c.errors.push(Diagnostic { site: Some(self.c.site(at)), ..d });
        }
        values
    }

    fn touches_illegal(&self, op: &Op) -> bool {
        match op {
            Op::State(StateOp::Read(id) | StateOp::Write(id)) => self.illegal.contains(id),
            Op::Elementwise(_) | Op::Contract(_) | Op::Reduce(_) | Op::Shape(_) | Op::Index(_) => false,
            Op::Random(_) | Op::Control(_) | Op::Collective(_) => false,
        }
    }

    fn definition(&mut self) -> Parsed<Definition<'t>> {
        let (text, at) = self.value_name("the name of a value, such as `%3`")?;
        Ok(Definition { text, at, name: self.name_of(text) })
    }

    /// Returns the name in `%NAME`; `None` for a number.
    fn name_of(&mut self, text: &'t str) -> Option<Name> {
        let name = &text[1..];
        is_value_name(name).then(|| self.c.intern(name))
    }

    fn value_name(&mut self, what: &str) -> Parsed<(&'t str, usize)> {
        let token = self.c.peek();
        if token.kind != Kind::Value {
            return Err(self.c.expected(what));
        }
        self.c.next();
        Ok((self.c.slice(token), token.start as usize))
    }

    fn define(&mut self, scope: &mut Scope<'_, 't>, text: &'t str, at: usize, value: Option<Value>) {
        if scope.values.insert(text, value).is_some() {
            let mut error = self.c.error(at, format!("value {text} is defined twice"));
            error.label = "verify_v2";
            self.c.errors.push(error.help("every value has one definition"));
        }
    }

    /// `%1, %2`, starting on this line, or the empty list. `None` is a value whose type is unknown after an
    /// error.
    fn operands(&mut self, scope: &Scope<'_, 't>) -> Parsed<Vec<Option<Value>>> {
        let mut values = Vec::new();
        if self.c.peek().kind != Kind::Value || self.c.peek().first {
            return Ok(values);
        }
        loop {
            let (text, at) = self.value_name("an operand, such as `%3`, after `,`")?;
            values.push(scope.values.get(text).copied().unwrap_or_else(|| {
                let mut error = self.c.error(at, format!("{text} is not defined before"));
                error.label = "verify_v1";
                let help = "a body sees only its parameters and the results of its earlier instructions";
                self.c.errors.push(error.help(help));
                None
            }));
            if !self.c.eat(b',') {
                return Ok(values);
            }
        }
    }
}

/// Returns values of the types in the text, for an operation that could not be checked. `None` is an illegal
/// type.
fn recorded(scope: &mut Scope<'_, '_>, types: Option<Vec<Type>>) -> Vec<Option<Value>> {
    let BodyBuilder { env, body } = &mut scope.builder;
    let value = |ty| check_type(env, &ty).is_ok().then(|| body.values.push(ValueData { ty, name: None }));
    types.unwrap_or_default().into_iter().map(value).collect()
}

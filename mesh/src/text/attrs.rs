//! Attributes of operations, `{dim=batch=32@data, over=[a, b], reverse}`: a writer, and a reader by key.

use super::{
    cursor::{Cursor, Parsed},
    write::{push, write_axes, write_dim, write_name},
};
use crate::{
    AxisId, AxisSet, Body, DType, Diagnostic, Dim, Env, Mesh, Name, StateId, TensorDim, layout::suggest,
};

/// Writes the attributes of one operation.
pub(super) struct AttrWriter<'a> {
    out: &'a mut String,
    mesh: &'a Mesh,
    open: bool,
}

impl<'a> AttrWriter<'a> {
    pub(super) fn new(out: &'a mut String, mesh: &'a Mesh) -> Self {
        Self { out, mesh, open: false }
    }
    pub(super) fn close(self) {
        if self.open {
            self.out.push('}');
        }
    }
    fn key(&mut self, key: &str) {
        self.out.push_str(if self.open { ", " } else { " {" });
        self.open = true;
        self.out.push_str(key);
    }
    fn list<T>(&mut self, key: &str, items: &[T], mut write: impl FnMut(&mut String, &Mesh, &T)) {
        self.key(key);
        self.out.push_str("=[");
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(", ");
            }
            write(self.out, self.mesh, item);
        }
        self.out.push(']');
    }
    /// Writes the bare key if `on` is true.
    pub(super) fn flag(&mut self, key: &str, on: bool) {
        if on {
            self.key(key);
        }
    }
    pub(super) fn name(&mut self, key: &str, name: &str) {
        self.key(key);
        self.out.push('=');
        write_name(self.out, name);
    }
    pub(super) fn names(&mut self, key: &str, names: &[Name]) {
        self.list(key, names, |out, _, name| write_name(out, name));
    }
    pub(super) fn pairs(&mut self, key: &str, pairs: &[(Name, Name)]) {
        self.list(key, pairs, |out, _, (from, to)| {
            write_name(out, from);
            out.push_str(" -> ");
            write_name(out, to);
        });
    }
    pub(super) fn dim(&mut self, key: &str, dim: &TensorDim) {
        self.key(key);
        self.out.push('=');
        write_dim(self.out, dim, self.mesh);
    }
    pub(super) fn whole_dim(&mut self, key: &str, dim: &Dim) {
        self.key(key);
        self.out.push('=');
        write_name(self.out, &dim.name);
        push(self.out, format_args!("={}", dim.size));
    }
    pub(super) fn dims(&mut self, key: &str, dims: &[TensorDim]) {
        self.list(key, dims, |out, mesh, d| write_dim(out, d, mesh));
    }
    pub(super) fn size(&mut self, key: &str, size: usize) {
        self.key(key);
        push(self.out, format_args!("={size}"));
    }
    pub(super) fn offset(&mut self, key: &str, offset: isize) {
        self.key(key);
        push(self.out, format_args!("={offset}"));
    }
    /// Writes the shortest number that parses to exactly `value`.
    pub(super) fn float(&mut self, key: &str, value: f64) {
        self.key(key);
        if value.is_nan() {
            self.out.push_str("=nan");
        } else if value.fract() == 0.0 && value.abs() < 1e15 {
            push(self.out, format_args!("={value}"));
        } else {
            push(self.out, format_args!("={value:?}"));
        }
    }
    pub(super) fn axes(&mut self, key: &str, axes: impl Iterator<Item = AxisId>) {
        self.key(key);
        self.out.push_str("=[");
        write_axes(self.out, axes, self.mesh, ", ");
        self.out.push(']');
    }
    pub(super) fn state(&mut self, key: &str, env: &Env, id: StateId) {
        match env.states.get(id) {
            Some(state) => self.name(key, &state.name),
            None => {
                self.key(key);
                push(self.out, format_args!("=?{}", id.0));
            }
        }
    }
}

/// The value of an attribute.
enum Raw<'t> {
    Flag,
    One(Item<'t>),
    List(Vec<Item<'t>>),
}

/// One name, number, dim or pair, with its place in the text.
struct Item<'t> {
    at: usize,
    data: ItemData<'t>,
}

enum ItemData<'t> {
    Number(&'t str),
    Name(Name),
    Dim(TensorDim),
    Pair(Name, Name),
}

struct Attr<'t> {
    key: &'t str,
    at: usize,
    raw: Raw<'t>,
}

/// The attributes and bodies of one operation in the text. A family takes them one by one.
pub(super) struct Attrs<'c, 't> {
    cursor: &'c Cursor<'t>,
    env: &'c Env,
    /// The operation's name and its place, for messages.
    op: (&'t str, usize),
    list: Vec<Attr<'t>>,
    bodies: std::vec::IntoIter<Body>,
    asked: Vec<&'static str>,
}

/// Attributes that are parsed but not yet interpreted.
pub(super) struct AttrList<'t>(Vec<Attr<'t>>);

impl<'t> AttrList<'t> {
    /// Parses `{…}` if it is present.
    pub(super) fn parse(cursor: &mut Cursor<'t>, env: &Env) -> Parsed<Self> {
        let mut list: Vec<Attr> = Vec::new();
        if !cursor.eat(b'{') {
            return Ok(Self(list));
        }
        while !cursor.eat(b'}') {
            if !list.is_empty() {
                cursor.expect(b',', "`,` or `}` after an attribute")?;
            }
            let at = cursor.offset();
            let key = cursor.word("the key of an attribute, such as `dim=`")?;
            if list.iter().any(|a| a.key == key) {
                return Err(cursor.error(at, format!("attribute `{key}` is given twice")));
            }
            let raw = if cursor.eat(b'=') { Raw::parse(cursor, env)? } else { Raw::Flag };
            list.push(Attr { key, at, raw });
        }
        Ok(Self(list))
    }
}

impl<'t> Raw<'t> {
    fn parse(cursor: &mut Cursor<'t>, env: &Env) -> Parsed<Self> {
        if !cursor.eat(b'[') {
            return Ok(Self::One(Item::parse(cursor, env)?));
        }
        let mut items = Vec::new();
        while !cursor.eat(b']') {
            if !items.is_empty() {
                cursor.expect(b',', "`,` or `]` in a list")?;
            }
            items.push(Item::parse(cursor, env)?);
        }
        Ok(Self::List(items))
    }
}

impl<'t> Item<'t> {
    fn parse(cursor: &mut Cursor<'t>, env: &Env) -> Parsed<Self> {
        let at = cursor.offset();
        if let Some(number) = cursor.number() {
            return Ok(Self { at, data: ItemData::Number(number) });
        }
        let name = cursor.name("a name or a number")?;
        let data = if cursor.eat_arrow() {
            ItemData::Pair(name, cursor.name("the new name of the dim")?)
        } else if cursor.eat(b'=') {
            ItemData::Dim(cursor.dim_after(name, &env.mesh)?)
        } else {
            ItemData::Name(name)
        };
        Ok(Self { at, data })
    }
}

impl<'c, 't> Attrs<'c, 't> {
    pub(super) fn new(
        cursor: &'c Cursor<'t>,
        env: &'c Env,
        op: (&'t str, usize),
        list: AttrList<'t>,
        bodies: Vec<Body>,
    ) -> Self {
        Self { cursor, env, op, list: list.0, bodies: bodies.into_iter(), asked: Vec::new() }
    }

    /// Checks that all attributes and bodies were taken.
    pub(super) fn finish(mut self) -> Parsed<()> {
        if let Some(attr) = self.list.first() {
            let error =
                self.cursor.error(attr.at, format!("`{}` has no attribute `{}`", self.op.0, attr.key));
            return Err(match suggest(attr.key, self.asked.iter().copied()) {
                Some(hint) => error.help(format!("did you mean `{hint}`?")),
                None if self.asked.is_empty() => error.help("it has no attributes"),
                None => error.help(format!("its attributes are {}", self.asked.join(", "))),
            });
        }
        match self.bodies.next() {
            Some(_) => Err(self.cursor.error(self.op.1, format!("too many bodies for `{}`", self.op.0))),
            None => Ok(()),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Attr<'t>> {
        self.asked.push(key);
        let i = self.list.iter().position(|a| a.key == key)?;
        Some(self.list.remove(i))
    }

    fn require(&mut self, key: &'static str) -> Parsed<Attr<'t>> {
        if let Some(attr) = self.take(key) {
            return Ok(attr);
        }
        let error = self.cursor.error(self.op.1, format!("`{}` needs the attribute `{key}`", self.op.0));
        Err(match self.list.iter().find(|a| suggest(a.key, [key]).is_some()) {
            Some(slip) => error.help(format!("did you mean `{key}` where it says `{}`?", slip.key)),
            None => error,
        })
    }

    /// The offset of an attribute that is not yet taken.
    fn place(&self, key: &str) -> usize {
        self.list.iter().find(|a| a.key == key).map_or(self.op.1, |a| a.at)
    }

    fn wrong<T>(&self, at: usize, key: &str, want: &str) -> Parsed<T> {
        Err(self.cursor.error(at, format!("`{key}` of `{}` is {want}", self.op.0)))
    }

    fn one(&mut self, key: &'static str, want: &str) -> Parsed<Item<'t>> {
        let attr = self.require(key)?;
        match attr.raw {
            Raw::One(item) => Ok(item),
            Raw::Flag | Raw::List(_) => self.wrong(attr.at, key, want),
        }
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        want: &str,
        read: impl Fn(ItemData<'t>) -> Option<T>,
    ) -> Parsed<Vec<T>> {
        let attr = self.require(key)?;
        let Raw::List(items) = attr.raw else { return self.wrong(attr.at, key, want) };
        let read = |item: Item<'t>| match read(item.data) {
            Some(data) => Ok(data),
            None => self.wrong(item.at, key, want),
        };
        items.into_iter().map(read).collect()
    }

    pub(super) fn body(&mut self) -> Parsed<Body> {
        self.bodies.next().ok_or_else(|| {
            self.cursor
                .error(self.op.1, format!("`{}` needs another body", self.op.0))
                .help("write it as `(%0: f32[]) { … yield … }`; the second body of `cond` comes after `else`")
        })
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Parsed<bool> {
        match self.take(key) {
            None => Ok(false),
            Some(Attr { raw: Raw::Flag, .. }) => Ok(true),
            Some(attr) => self.wrong(attr.at, key, "a bare word without `=`"),
        }
    }

    pub(super) fn name(&mut self, key: &'static str) -> Parsed<Name> {
        let item = self.one(key, "a name")?;
        match item.data {
            ItemData::Name(name) => Ok(name),
            ItemData::Number(_) | ItemData::Dim(_) | ItemData::Pair(..) => self.wrong(item.at, key, "a name"),
        }
    }

    /// Takes a name of a table.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, table: &[(&str, T)]) -> Parsed<T> {
        let at = self.place(key);
        let name = self.name(key)?;
        if let Some((_, value)) = table.iter().find(|(word, _)| name == *word) {
            return Ok(*value);
        }
        let words: Vec<&str> = table.iter().map(|(word, _)| *word).collect();
        let error = self.cursor.error(at, format!("`{key}` of `{}` cannot be `{name}`", self.op.0));
        Err(match suggest(&name, words.iter().copied()) {
            Some(hint) => error.help(format!("did you mean `{hint}`?")),
            None => error.help(format!("use one of {}", words.join(", "))),
        })
    }

    pub(super) fn dtype(&mut self, key: &'static str) -> Parsed<DType> {
        self.choice(key, &DType::ALL.map(|d| (d.name(), d)))
    }

    pub(super) fn names(&mut self, key: &'static str) -> Parsed<Vec<Name>> {
        self.list(key, "a list of names, `[a, b]`", |item| match item {
            ItemData::Name(name) => Some(name),
            ItemData::Number(_) | ItemData::Dim(_) | ItemData::Pair(..) => None,
        })
    }

    pub(super) fn pairs(&mut self, key: &'static str) -> Parsed<Vec<(Name, Name)>> {
        self.list(key, "a list of pairs, `[old -> new]`", |item| match item {
            ItemData::Pair(from, to) => Some((from, to)),
            ItemData::Number(_) | ItemData::Dim(_) | ItemData::Name(_) => None,
        })
    }

    pub(super) fn dim(&mut self, key: &'static str) -> Parsed<TensorDim> {
        let item = self.one(key, "a dim with its size, `batch=32`")?;
        match item.data {
            ItemData::Dim(dim) => Ok(dim),
            ItemData::Number(_) | ItemData::Name(_) | ItemData::Pair(..) => {
                self.wrong(item.at, key, "a dim with its size, `batch=32`")
            }
        }
    }

    /// Takes a dim that is not split.
    pub(super) fn whole_dim(&mut self, key: &'static str) -> Parsed<Dim> {
        let at = self.place(key);
        let dim = self.dim(key)?;
        if dim.axes.is_empty() {
            return Ok(dim.dim);
        }
        self.wrong(at, key, "a dim that is not split over any axis")
    }

    pub(super) fn dims(&mut self, key: &'static str) -> Parsed<Vec<TensorDim>> {
        self.list(key, "a list of dims with their sizes, `[batch=32]`", |item| match item {
            ItemData::Dim(dim) => Some(dim),
            ItemData::Number(_) | ItemData::Name(_) | ItemData::Pair(..) => None,
        })
    }

    pub(super) fn size(&mut self, key: &'static str) -> Parsed<usize> {
        let item = self.one(key, "a whole number")?;
        match item.data {
            ItemData::Number(text) if text.parse::<usize>().is_ok() => Ok(text.parse().unwrap_or(0)),
            ItemData::Number(_) | ItemData::Name(_) | ItemData::Dim(_) | ItemData::Pair(..) => {
                self.wrong(item.at, key, "a whole number")
            }
        }
    }

    /// Takes a whole number, which may be negative.
    pub(super) fn offset(&mut self, key: &'static str) -> Parsed<isize> {
        let item = self.one(key, "a whole number, with or without `-`")?;
        let value = match &item.data {
            ItemData::Number(text) => text.parse().ok(),
            ItemData::Name(_) | ItemData::Dim(_) | ItemData::Pair(..) => None,
        };
        match value {
            Some(value) => Ok(value),
            None => self.wrong(item.at, key, "a whole number, with or without `-`"),
        }
    }

    pub(super) fn u32(&mut self, key: &'static str) -> Parsed<u32> {
        let at = self.place(key);
        u32::try_from(self.size(key)?).or_else(|_| self.wrong(at, key, "a whole number below 2^32"))
    }

    pub(super) fn float(&mut self, key: &'static str) -> Parsed<f64> {
        let item = self.one(key, "a number")?;
        let value = match &item.data {
            ItemData::Number(text) => text.parse().ok(),
            ItemData::Name(name) if *name == "inf" => Some(f64::INFINITY),
            ItemData::Name(name) if *name == "nan" => Some(f64::NAN),
            ItemData::Name(_) | ItemData::Dim(_) | ItemData::Pair(..) => None,
        };
        match value {
            Some(value) => Ok(value),
            None => self.wrong(item.at, key, "a number"),
        }
    }

    /// Takes mesh axes, in the given order.
    pub(super) fn axes(&mut self, key: &'static str) -> Parsed<Vec<AxisId>> {
        let at = self.place(key);
        let names = self.names(key)?;
        names.iter().map(|name| self.cursor.axis(name, at, &self.env.mesh)).collect()
    }

    pub(super) fn axis_set(&mut self, key: &'static str) -> Parsed<AxisSet> {
        Ok(self.axes(key)?.into_iter().collect())
    }

    pub(super) fn state(&mut self, key: &'static str) -> Parsed<StateId> {
        let at = self.place(key);
        let name = self.name(key)?;
        self.env.find_state(&name).ok_or_else(|| {
            let mut error: Diagnostic = self.cursor.error(at, format!("state `{name}` is not declared"));
            error.label = "state_a2";
            match suggest(&name, self.env.states.iter().map(|(_, s)| s.name.as_str())) {
                Some(hint) => error.help(format!("did you mean `{hint}`?")),
                None => error.help("declare it before the functions: `state param NAME: TYPE`"),
            }
        })
    }
}

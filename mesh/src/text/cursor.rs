//! A position in the text, and parsers for the common parts of the grammar: names, sizes, axes, types, sites.
//! Errors are diagnostics with line and column. The caller decides where to resume after an error.

use super::lexer::{Kind, Token, lex};
use crate::{
    AxisId, AxisSet, DType, Diagnostic, Dim, Mesh, Name, Site, TensorDim, Type, ir::Phase, layout::suggest,
};
use std::collections::{HashMap, HashSet};

/// A parsed part of the text, or an error.
pub(super) type Parsed<T> = Result<T, Diagnostic>;

pub(super) struct Cursor<'t> {
    text: &'t str,
    file: Name,
    /// Start offsets of lines.
    lines: Vec<usize>,
    tokens: Vec<Token>,
    at: usize,
    names: HashMap<&'t str, Name>,
    /// Sites by their text, because instructions of a scope often share one.
    sites: HashMap<&'t str, Site>,
    /// Errors of the lexer, at most one per line.
    lexical: Vec<Diagnostic>,
    pub(super) errors: Vec<Diagnostic>,
}

impl<'t> Cursor<'t> {
    /// Creates a cursor at the start of `text`. Errors name `file`. Text of more than 4 GiB is an error.
    pub(super) fn new(text: &'t str, file: &str) -> Self {
        let too_long = u32::try_from(text.len()).is_err();
        let text = if too_long { "" } else { text };
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        let (tokens, mistakes) = lex(text);
        let mut cursor = Self {
            text,
            file: file.into(),
            lines,
            tokens,
            at: 0,
            names: HashMap::new(),
            sites: HashMap::new(),
            lexical: Vec::new(),
            errors: Vec::new(),
        };
        cursor.lexical = mistakes.into_iter().map(|(at, message)| cursor.error(at, message)).collect();
        cursor.lexical.dedup_by_key(|d| line(d));
        if too_long {
            cursor.errors.push(cursor.error(0, "the text is longer than 4 GiB"));
        }
        cursor
    }

    /// Returns all errors in the order of the text. In a line with a lexer error, other syntax errors are
    /// dropped, because they only follow from it.
    pub(super) fn finish(mut self) -> Vec<Diagnostic> {
        let bad: HashSet<u32> = self.lexical.iter().map(line).collect();
        self.errors.retain(|d| !d.label.is_empty() || !bad.contains(&line(d)));
        self.errors.append(&mut self.lexical);
        self.errors.sort_by_key(|d| d.site.as_ref().map_or((0, 0), |site| (site.line, site.column)));
        self.errors
    }

    /// The site of a byte offset.
    pub(super) fn site(&self, offset: usize) -> Site {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        let column = 1 + self.text.get(start..offset).map_or(0, |s| s.chars().count());
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Site::new(&self.file, number(line), number(column), "")
    }

    /// A syntax error. It has no label: labels are for mistakes in the program that the text describes.
    pub(super) fn error(&self, offset: usize, message: impl Into<String>) -> Diagnostic {
        Diagnostic::new("", message).at(&self.site(offset))
    }

    /// "expected …, found …" at the next token. If a line ends too early, the error is at its end.
    pub(super) fn expected(&self, what: &str) -> Diagnostic {
        let token = self.peek();
        if token.first && self.at > 0 {
            let end = self.tokens[self.at - 1].end as usize;
            return self.error(end, format!("expected {what}, found the end of the line"));
        }
        let found = match token.kind {
            Kind::End => "the end of the text".to_owned(),
            Kind::Text => format!("the string {}", self.slice(token)),
            Kind::Word | Kind::Number | Kind::Value | Kind::Arrow | Kind::Mark(_) => {
                format!("`{}`", self.slice(token))
            }
        };
        self.error(token.start as usize, format!("expected {what}, found {found}"))
    }

    // Tokens.

    pub(super) fn peek(&self) -> Token {
        self.tokens[self.at]
    }
    pub(super) fn slice(&self, token: Token) -> &'t str {
        &self.text[token.start as usize..token.end as usize]
    }
    /// The offset of the next token.
    pub(super) fn offset(&self) -> usize {
        self.peek().start as usize
    }
    /// The number of the next token, for [`Cursor::skip_statement`].
    pub(super) fn position(&self) -> usize {
        self.at
    }
    pub(super) fn next(&mut self) -> Token {
        let token = self.tokens[self.at];
        // The cursor stays at the last token, the end of the text.
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }
    pub(super) fn is(&self, mark: u8) -> bool {
        self.peek().kind == Kind::Mark(mark)
    }
    pub(super) fn eat(&mut self, mark: u8) -> bool {
        let there = self.is(mark);
        if there {
            self.next();
        }
        there
    }
    pub(super) fn eat_arrow(&mut self) -> bool {
        let there = self.peek().kind == Kind::Arrow;
        if there {
            self.next();
        }
        there
    }
    pub(super) fn expect(&mut self, mark: u8, what: &str) -> Parsed<()> {
        if self.eat(mark) { Ok(()) } else { Err(self.expected(what)) }
    }
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.peek().kind == Kind::Word && self.slice(self.peek()) == word
    }
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let there = self.is_word(word);
        if there {
            self.next();
        }
        there
    }
    pub(super) fn word(&mut self, what: &str) -> Parsed<&'t str> {
        match self.peek().kind {
            Kind::Word => {
                let token = self.next();
                Ok(self.slice(token))
            }
            Kind::Text | Kind::Number | Kind::Value | Kind::Arrow | Kind::Mark(_) | Kind::End => {
                Err(self.expected(what))
            }
        }
    }
    pub(super) fn number(&mut self) -> Option<&'t str> {
        let token = self.peek();
        (token.kind == Kind::Number).then(|| {
            self.next();
            self.slice(token)
        })
    }
    /// True if the next token is a keyword that starts an item, at the start of a line.
    pub(super) fn at_item(&self) -> bool {
        let token = self.peek();
        let start = token.start as usize;
        token.kind == Kind::End
            || token.kind == Kind::Word
                && (start == 0 || self.text.as_bytes()[start - 1] == b'\n')
                && matches!(
                    self.slice(token),
                    "module" | "mesh" | "meta" | "schedule" | "task" | "state" | "func"
                )
    }

    // Resuming after an error.

    /// Skips to the next item.
    pub(super) fn skip_item(&mut self) {
        while !self.at_item() {
            self.next();
        }
    }
    /// Skips the statement that started at token `start`, with its bodies, to the start of the next line, but
    /// not into the next item. Only a `{` at the end of a line opens a body and only a `}` at the start of a
    /// line closes one, so a missing brace among attributes does not hide later statements.
    pub(super) fn skip_statement(&mut self, start: usize) {
        self.at = start;
        let mut depth = 0;
        loop {
            let token = self.next();
            depth += i64::from(token.kind == Kind::Mark(b'{') && self.peek().first);
            depth -= i64::from(token.kind == Kind::Mark(b'}') && token.first);
            if self.at_item() || self.peek().first && depth <= 0 {
                return;
            }
        }
    }

    // Names, sizes, axes.

    /// Parses a word or a string.
    pub(super) fn name(&mut self, what: &str) -> Parsed<Name> {
        let token = self.peek();
        match token.kind {
            Kind::Word => {
                self.next();
                let text = self.slice(token);
                Ok(self.intern(text))
            }
            Kind::Text => Ok(self.string(what)?.into()),
            Kind::Number | Kind::Value | Kind::Arrow | Kind::Mark(_) | Kind::End => Err(self.expected(what)),
        }
    }
    /// Returns the name `text`, shared by all its uses.
    pub(super) fn intern(&mut self, text: &'t str) -> Name {
        self.names.entry(text).or_insert_with(|| text.into()).clone()
    }
    /// Parses a string and resolves its escapes.
    pub(super) fn string(&mut self, what: &str) -> Parsed<String> {
        let token = self.peek();
        if token.kind != Kind::Text {
            return Err(self.expected(what));
        }
        self.next();
        let text = self.slice(token);
        unescape(&text[1..text.len() - 1])
            .map_err(|(i, message)| self.error(token.start as usize + 1 + i, message))
    }
    pub(super) fn size(&mut self, what: &str) -> Parsed<usize> {
        let token = self.peek();
        match self.slice(token).parse() {
            Ok(size) if token.kind == Kind::Number => {
                self.next();
                Ok(size)
            }
            Ok(_) | Err(_) => Err(self.expected(what)),
        }
    }
    /// Looks up the axis called `name`, which is at `offset`.
    pub(super) fn axis(&self, name: &Name, offset: usize, mesh: &Mesh) -> Parsed<AxisId> {
        mesh.find(name).ok_or_else(|| {
            let mut error = self.error(offset, format!("the mesh has no axis `{name}`"));
            error.label = "type_t3";
            let known: Vec<&str> = mesh.axes().iter().map(|a| a.name.as_str()).collect();
            error.help(match suggest(name, known.iter().copied()) {
                Some(hint) => format!("did you mean `{hint}`?"),
                None if known.is_empty() => {
                    "the program has no mesh: add a line such as `mesh data=2`".into()
                }
                None => format!("its axes are {}", known.join(", ")),
            })
        })
    }
    /// `data+expert`.
    fn axes(&mut self, mesh: &Mesh) -> Parsed<Vec<AxisId>> {
        let mut axes = Vec::new();
        loop {
            let at = self.offset();
            let name = self.name("the name of a mesh axis")?;
            let axis = self.axis(&name, at, mesh)?;
            if axes.contains(&axis) {
                let mut error = self.error(at, format!("axis `{name}` is named twice in one list"));
                error.label = "type_t5";
                return Err(error.help("name each axis once"));
            }
            axes.push(axis);
            if !self.eat(b'+') {
                return Ok(axes);
            }
        }
    }

    // Dims and types.

    /// Parses the part of a dim after `batch=`: `32@data+expert`.
    pub(super) fn dim_after(&mut self, name: Name, mesh: &Mesh) -> Parsed<TensorDim> {
        let size = self.size("the size of the dim, a whole number")?;
        let axes = if self.eat(b'@') { self.axes(mesh)? } else { Vec::new() };
        Ok(TensorDim { dim: Dim { name, size }, axes })
    }
    /// `f32[batch=32@data, d_model=64]{sum: model}`.
    pub(super) fn ty(&mut self, mesh: &Mesh) -> Parsed<Type> {
        let at = self.offset();
        let word = self.word("a type, such as `f32[batch=32]`")?;
        let dtype = DType::parse(word).ok_or_else(|| {
            let known = DType::ALL.map(DType::name);
            let error = self.error(at, format!("`{word}` is not an element type"));
            match suggest(word, known) {
                Some(hint) => error.help(format!("did you mean `{hint}`?")),
                None => error.help(format!("element types are {}", known.join(", "))),
            }
        })?;
        self.expect(b'[', "`[` and the dims of the type; a single number is `f32[]`")?;
        let mut ty = Type::scalar(dtype);
        while !self.eat(b']') {
            if !ty.dims.is_empty() {
                self.expect(b',', "`,` or `]` after a dim")?;
            }
            let name = self.name("the name of a dim")?;
            self.expect(b'=', "`=` and the size of the dim")?;
            let dim = self.dim_after(name, mesh)?;
            ty.dims.push(dim);
        }
        while self.is(b'{') {
            self.pending(&mut ty, mesh)?;
        }
        Ok(ty)
    }
    /// `{sum: data+expert}`.
    fn pending(&mut self, ty: &mut Type, mesh: &Mesh) -> Parsed<()> {
        self.next();
        let at = self.offset();
        let word = self.word("`sum`, `max` or `min`")?;
        self.expect(b':', "`:` and the axes over which it is pending")?;
        let axes: AxisSet = self.axes(mesh)?.into_iter().collect();
        self.expect(b'}', "`}` or `+` and another axis")?;
        let set = match word {
            "sum" => &mut ty.sum,
            "max" => &mut ty.max,
            "min" => &mut ty.min,
            _ => return Err(self.error(at, format!("`{word}` is not `sum`, `max` or `min`"))),
        };
        if !set.is_empty() {
            return Err(self.error(at, format!("`{word}` is given twice")));
        }
        *set = axes;
        Ok(())
    }

    // Sites.

    /// `@ models/t5_tiny.rs:12:5 "encoder/ffn" !`, if it is present.
    pub(super) fn optional_site(&mut self) -> Parsed<Option<Site>> {
        if !self.is(b'@') {
            return Ok(None);
        }
        let start = self.next().start as usize;
        let file = self.name("the file of a site, `@ model.rs:12:5`")?;
        self.expect(b':', "`:` and the line")?;
        let line = self.u32("the line, a whole number")?;
        self.expect(b':', "`:` and the column")?;
        let column = self.u32("the column, a whole number")?;
        let scope = if self.peek().kind == Kind::Text { self.name("a scope")? } else { "".into() };
        let phase = if self.eat(b'!') { Phase::Backward } else { Phase::Forward };
        let end = self.tokens[self.at - 1].end as usize;
        let site = self.sites.entry(&self.text[start..end]);
        Ok(Some(site.or_insert_with(|| Site::new(file, line, column, scope).in_phase(phase)).clone()))
    }
    fn u32(&mut self, what: &str) -> Parsed<u32> {
        let at = self.offset();
        u32::try_from(self.size(what)?).map_err(|_| self.error(at, format!("expected {what} below 2^32")))
    }
}

fn line(error: &Diagnostic) -> u32 {
    error.site.as_ref().map_or(0, |site| site.line)
}

/// Resolves `\"`, `\\`, `\n`, `\t`, `\r` and `\u{…}`. The error is an offset and a message.
fn unescape(text: &str) -> Result<String, (usize, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        let at = text.len() - rest.len() + i;
        let escape = &rest[i + 1..];
        let (c, length) = match escape.bytes().next() {
            Some(b'"') => ('"', 1),
            Some(b'\\') => ('\\', 1),
            Some(b'n') => ('\n', 1),
            Some(b't') => ('\t', 1),
            Some(b'r') => ('\r', 1),
            _ => unicode(escape).ok_or_else(|| {
                let what = "`\\` in a string stands before one of `\"`, `\\`, `n`, `t`, `r`, `u{hex}`";
                (at, what.to_owned())
            })?,
        };
        out.push(c);
        rest = &escape[length..];
    }
    out.push_str(rest);
    Ok(out)
}

fn unicode(escape: &str) -> Option<(char, usize)> {
    let hex = escape.strip_prefix("u{")?;
    let end = hex.find('}')?;
    let code = u32::from_str_radix(&hex[..end], 16).ok()?;
    Some((char::from_u32(code)?, "u{}".len() + end))
}

//! Mistakes in programs, shown at their lines of the model.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use mesh::{Diagnostic, Diagnostics, Site, ir::Phase};
use page::visible::visible;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt, fs,
    ops::Range,
    path::{Path, PathBuf},
};

/// A place in a source file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file, as sites name it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl Place {
    fn of(site: &Site) -> Option<Self> {
        let place =
            Self { file: site.file.to_string(), line: site.line as usize, column: site.column as usize };
        (place.line > 0).then_some(place)
    }

    /// Reads the keys `file`, `line` and `column`.
    fn from_json(value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
        let file = value.get("file").and_then(Value::as_str)?;
        let place = Self { file: file.to_owned(), line: number("line"), column: number("column") };
        (place.line > 0).then_some(place)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One mistake. Like [`Diagnostic`], but it may come from another process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// The label of the broken rule, or an empty string.
    pub label: String,
    /// The message.
    pub message: String,
    /// The place in the source: of the model, as far as it is known.
    pub place: Option<Place>,
    /// The place in library code that `place` has called.
    pub library: Option<Place>,
    /// Function, scope and direction of the place.
    pub context: Option<String>,
    /// The remedy.
    pub help: Option<String>,
}

impl Mistake {
    /// Parses a line that a model program printed with `mesh::dsl::diagnostic_json`. `None` for any other
    /// line.
    pub fn from_json(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        let (label, message) = (text("label")?, text("message")?);
        let site = Place::from_json(&value);
        let caller = value.get("caller").and_then(Place::from_json);
        let (place, library) = if caller.is_some() { (caller, site) } else { (site, None) };
        Some(Self {
            label: label.to_owned(),
            message: message.to_owned(),
            place,
            library,
            context: context(text("function"), text("scope").unwrap_or_default(), Phase::Forward),
            help: text("help").map(str::to_owned),
        })
    }

    fn json(&self) -> Value {
        json!({
            "label": self.label,
            "message": self.message,
            "file": self.place.as_ref().map(|p| &p.file),
            "line": self.place.as_ref().map(|p| p.line),
            "column": self.place.as_ref().map(|p| p.column),
            "library": self.library.as_ref().map(Place::to_string),
            "context": self.context,
            "help": self.help,
        })
    }
}

impl From<&Diagnostic> for Mistake {
    fn from(d: &Diagnostic) -> Self {
        let site = d.site.as_ref();
        let (caller, own) = (d.caller.as_ref().and_then(Place::of), site.and_then(Place::of));
        let (place, library) = if caller.is_some() { (caller, own) } else { (own, None) };
        let (scope, phase) = site.map_or(("", Phase::Forward), |s| (s.scope.as_str(), s.phase));
        Self {
            label: d.label.to_owned(),
            message: d.message.clone(),
            place,
            library,
            context: context(d.function.as_deref(), scope, phase),
            help: d.help.clone(),
        }
    }
}

fn context(function: Option<&str>, scope: &str, phase: Phase) -> Option<String> {
    let mut words = Vec::new();
    words.extend(function.map(|f| format!("in function `{f}`")));
    if !scope.is_empty() {
        words.push(format!("in scope `{scope}`"));
    }
    if phase == Phase::Backward {
        words.push("in the gradient of this line".to_owned());
    }
    (!words.is_empty()).then(|| words.join(", "))
}

/// The places of source files: sites use shorter paths than the disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    /// Directories as sites name them, and their actual paths.
    pub folders: Vec<(PathBuf, PathBuf)>,
}

impl Sources {
    fn read(&self, file: &str) -> Option<String> {
        let file = Path::new(file);
        let places =
            self.folders.iter().filter_map(|(named, real)| Some(real.join(file.strip_prefix(named).ok()?)));
        places.chain([file.to_owned()]).find_map(|path| fs::read_to_string(path).ok())
    }
}

/// The severity of mistakes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The program is refused.
    Error,
    /// The program is legal, but probably not what its author meant.
    Warning,
}

impl Severity {
    fn level(self) -> Level<'static> {
        match self {
            Self::Error => Level::ERROR,
            Self::Warning => Level::WARNING,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Error => "mistake",
            Self::Warning => "warning",
        }
    }
}

/// All mistakes of one program, and the places of its sources.
#[derive(Debug)]
pub struct Mistakes {
    /// Their severity.
    pub severity: Severity,
    /// The subject of the last line: the program or its layout.
    pub subject: String,
    /// The mistakes.
    pub mistakes: Vec<Mistake>,
    /// The places of the sources.
    pub sources: Sources,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(false))
    }
}

impl std::error::Error for Mistakes {}

impl Mistakes {
    /// Converts `diagnostics`.
    pub fn new(subject: impl Into<String>, diagnostics: &Diagnostics, sources: &Sources) -> Self {
        let mistakes = diagnostics.0.iter().map(Mistake::from).collect();
        Self { severity: Severity::Error, subject: subject.into(), mistakes, sources: sources.clone() }
    }

    /// Returns them as warnings.
    pub fn as_warnings(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    /// Splits off the mistakes with one of these labels.
    pub fn split(self, labels: &[&str]) -> (Self, Self) {
        let Self { severity, subject, mistakes, sources } = self;
        let (these, others) = mistakes.into_iter().partition(|m| labels.contains(&m.label.as_str()));
        let of = |mistakes| Self { severity, subject: subject.clone(), mistakes, sources: sources.clone() };
        (of(these), of(others))
    }

    /// Returns a list of objects with the keys `label`, `message`, `file`, `line`, `column`, `library`,
    /// `context` and `help`.
    pub fn json(&self) -> Value {
        self.mistakes.iter().map(Mistake::json).collect()
    }

    /// Returns the mistakes as text, with the colours of a terminal if `colour` is set.
    pub fn text(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut files: BTreeMap<&str, Option<String>> = BTreeMap::new();
        for place in self.mistakes.iter().filter_map(|m| m.place.as_ref()) {
            files.entry(&place.file).or_insert_with(|| self.sources.read(&place.file));
        }
        let mut out = String::new();
        for mistake in &self.mistakes {
            let source = mistake.place.as_ref().and_then(|p| files.get(p.file.as_str())?.as_deref());
            out += &renderer.render(&[group(self.severity, mistake, source)]);
            out += "\n\n";
        }
        let noun = self.severity.noun();
        let count = match self.mistakes.len() {
            1 => format!("1 {noun}"),
            n => format!("{n} {noun}s"),
        };
        let title = self.severity.level().primary_title(format!("{count} in {}", self.subject));
        // Rules of the specification have numbers, and labels of warnings have none.
        let is_rule = |label: &&str| label.ends_with(|c: char| c.is_ascii_digit());
        let label = self.mistakes.iter().map(|m| m.label.as_str()).find(is_rule);
        let more = label.map(|label| format!("`meshc explain {label}` has an example and the way out"));
        let last =
            Group::with_title(title).elements(more.iter().map(|more| Level::NOTE.message(more.as_str())));
        out + &renderer.render(&[last])
    }
}

/// The renderer makes control characters of titles and of source lines visible, but not those of the other
/// texts, which are already visible here.
fn group<'a>(severity: Severity, mistake: &'a Mistake, source: Option<&'a str>) -> Group<'a> {
    let mut title = severity.level().primary_title(mistake.message.as_str());
    if !mistake.label.is_empty() {
        title = title.id(mistake.label.as_str());
    }
    let mut group = Group::with_title(title);
    if let Some(place) = &mistake.place {
        group = match source.and_then(|text| Some((text, span(text, place)?))) {
            Some((text, span)) => group.element(
                Snippet::source(text)
                    .path(visible(&place.file))
                    .annotation(AnnotationKind::Primary.span(span)),
            ),
            None => {
                group.element(Origin::path(visible(&place.file)).line(place.line).char_column(place.column))
            }
        };
    }
    let library = mistake.library.as_ref().map(|place| format!("in library code at {place}"));
    group = group.elements(library.iter().map(|l| Level::NOTE.message(visible(l).into_owned())));
    group = group.elements(mistake.context.iter().map(|c| Level::NOTE.message(visible(c))));
    group.elements(mistake.help.iter().map(|h| Level::HELP.message(visible(h))))
}

/// Returns the byte range of the word at a place. `None` if the file no longer has such a place.
fn span(text: &str, place: &Place) -> Option<Range<usize>> {
    let mut start = 0;
    for _ in 1..place.line {
        start += text[start..].find('\n')? + 1;
    }
    let line = text[start..].lines().next().unwrap_or("");
    let column = place.column.max(1) - 1;
    let at = match line.char_indices().nth(column) {
        Some((at, _)) => at,
        // An error about truncated text points one past its end.
        None if line.chars().count() == column => return Some(start + line.len()..start + line.len()),
        None => return None,
    };
    let rest = &line[at..];
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let first = rest.chars().next().map_or(0, char::len_utf8);
    Some(start + at..start + at + word.max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize) -> Place {
        Place { file: "m.rs".into(), line, column }
    }

    #[test]
    fn a_span_is_the_word_at_the_place() {
        let text = "fn main() {\n    let ä = x.relu();\n}";
        let word = |line, column| span(text, &at(line, column)).map(|s| &text[s]);
        assert_eq!(word(2, 15), Some("relu"));
        assert_eq!(word(2, 9), Some("ä"));
        assert_eq!(word(2, 11), Some("="));
        assert_eq!(word(2, 22), Some(""));
        assert_eq!(word(2, 23), None);
        assert_eq!(word(4, 1), None);
        assert_eq!(word(3, 1), Some("}"));
    }

    #[test]
    fn mistakes_cross_processes_and_show_their_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("m.rs"), "let y = x.relu();\n").unwrap();
        let diagnostic = Diagnostic::new("op_o1", "wrong dims").help("swap them").in_function("f");
        let diagnostic = diagnostic.at(&Site::new("here/m.rs", 1, 11, "ffn"));
        let mistake = Mistake::from_json(&mesh::dsl::diagnostic_json(&diagnostic)).unwrap();
        assert_eq!(mistake, Mistake::from(&diagnostic));
        let caller = Some(Site::new("here/m.rs", 7, 3, "ffn"));
        let called = Diagnostic { caller, ..diagnostic.clone() };
        let of_model = Mistake::from_json(&mesh::dsl::diagnostic_json(&called)).unwrap();
        assert_eq!(of_model, Mistake::from(&called));
        let place = |line, column| Some(Place { file: "here/m.rs".into(), line, column });
        assert_eq!((of_model.place, of_model.library), (place(7, 3), place(1, 11)));
        let sources = Sources { folders: vec![("here".into(), dir.path().to_owned())] };
        let severity = Severity::Error;
        let text =
            Mistakes { severity, subject: "m.rs".into(), mistakes: vec![mistake], sources }.to_string();
        for part in [
            "error[op_o1]: wrong dims",
            "here/m.rs:1:11",
            "x.relu();",
            "^^^^",
            "in function `f`",
            "swap them",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert_eq!(Mistake::from_json("hello"), None);
        assert_eq!(Mistake::from_json("{\"a\": 1}"), None);
    }
}

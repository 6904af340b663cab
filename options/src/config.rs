//! Option files of `meshc train` (`--config FILE.toml`), and the origin of every value of a run.
//!
//! A key of the file is the name of any option without its dashes; no list of options is needed here. Values
//! of the file are inserted into the command line before those that were typed, unless the option was typed
//! too. So the same code parses and checks both. `KEY=VALUE` options are tables: `[set]`, `[client-option]`.

use anyhow::{Context, Result};
use clap::{
    Arg, ArgAction, ArgMatches, Command,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
};
use driver::failure::failure;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};
use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

/// The key of the positional argument: a model, an artefact or a checkpoint.
const SUBJECT: &str = "model";
/// Options that cannot be keys.
const NO_KEYS: [&str; 3] = ["config", "help", "rank"];

/// The origin of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The command line.
    Flag,
    /// A line of the file, from 1.
    File(PathBuf, usize),
    /// The default of the option.
    Default,
    /// Derived from other values.
    Derived,
    /// A meta entry of the model.
    Model,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default | Self::Derived => f.write_str("default"),
            Self::Model => f.write_str("model"),
        }
    }
}

/// Every option of a run with its value and origin.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resolved {
    /// Table (empty for top-level keys), key, value as TOML, origin.
    entries: Vec<(String, String, String, Origin)>,
}

impl Resolved {
    /// Adds a value that is derived from others, unless it was given.
    pub fn derive(&mut self, key: &str, value: &str, origin: Origin) {
        if !self.entries.iter().any(|(table, k, ..)| table.is_empty() && k == key) {
            self.entries.push((String::new(), key.to_owned(), literal(value), origin));
        }
    }

    /// Adds a meta entry of the program, which is not an option. An entry that an option resolves, such as a
    /// layout, is left out. Entries of several `KEY=VALUE` become one line each.
    pub fn meta(&mut self, key: &str, value: &str) {
        let option = key.replace('_', "-");
        if self.entries.iter().any(|(table, k, ..)| table.is_empty() && (k == key || *k == option)) {
            return;
        }
        let pairs: Option<Vec<(&str, &str)>> = value.split(' ').map(|word| word.split_once('=')).collect();
        match pairs.filter(|pairs| pairs.len() > 1) {
            Some(pairs) => {
                for (name, value) in pairs {
                    let given = self.entries.iter().any(|(table, k, ..)| table == "set" && k == name);
                    if !given {
                        let name = format!("{key}.{name}");
                        self.entries.push((String::new(), name, literal(value), Origin::Model));
                    }
                }
            }
            None => self.entries.push((String::new(), key.to_owned(), literal(value), Origin::Model)),
        }
    }

    /// Returns all keys, with the table before the key, and their values.
    pub fn values(&self) -> impl Iterator<Item = (String, String)> {
        self.entries.iter().map(|(table, key, value, _)| match table.as_str() {
            "" => (key.clone(), value.clone()),
            table => (format!("{table}.{key}"), value.clone()),
        })
    }

    /// Returns the options as a file for `--config`. Meta entries and derived values are comments.
    pub fn toml(&self) -> String {
        let mut text = String::new();
        let tables: Vec<&str> = self.entries.iter().map(|(table, ..)| table.as_str()).collect();
        let mut seen = Vec::new();
        // Top-level keys come first: after the head of a table they would belong to it.
        for table in std::iter::once("").chain(tables) {
            if seen.contains(&table) {
                continue;
            }
            seen.push(table);
            if !table.is_empty() {
                text += &format!("\n[{table}]\n");
            }
            for (_, key, value, origin) in self.entries.iter().filter(|(t, ..)| t == table) {
                let mark = if matches!(origin, Origin::Model | Origin::Derived) { "# " } else { "" };
                text += &format!("{:40} # {origin}\n", format!("{mark}{} = {value}", bare(key)));
            }
        }
        text
    }
}

/// The words of a command line `meshc train …`, including those of its option file.
pub struct Words {
    /// The words in the form that clap parses.
    pub all: Vec<OsString>,
    file: Vec<Entry>,
}

impl Words {
    /// Adds the words of the option file to the words that were typed. `cli` defines the whole command line.
    pub fn new(cli: &Command, mut typed: Vec<OsString>) -> Result<Self> {
        // Required options may be in the file, so that the typed words alone may be incomplete.
        let known = cli.clone().ignore_errors(true).try_get_matches_from(&typed);
        let mut file = Vec::new();
        if let Some(known) = known.ok().as_ref().and_then(|m| m.subcommand_matches("train"))
            && let Ok(Some(path)) = known.try_get_one::<PathBuf>("config")
        {
            file = read(cli, path)?;
            file.retain_mut(|entry| entry.remains(known));
        }
        let at = 2.min(typed.len());
        typed.splice(at..at, file.iter().flat_map(Entry::words));
        Ok(Self { all: typed, file })
    }

    /// Adds the line of the file to an error about a value of the file.
    pub fn located(&self, error: clap::Error) -> anyhow::Error {
        located(error, &self.file)
    }

    /// Returns the value and the origin of every option of `meshc train`.
    pub fn resolved(&self, cli: &Command, matches: &ArgMatches) -> Resolved {
        resolved(cli, matches, &self.file)
    }
}

/// A key of the file and its option.
struct Entry {
    /// The long name of the option, or [`SUBJECT`].
    key: String,
    id: String,
    /// Values with their lines.
    values: Vec<(usize, String)>,
    kind: Kind,
    path: PathBuf,
    line: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Subject,
    /// An option without a value. It is given if the entry has a value.
    Switch,
    Value,
    /// A repeatable `KEY=VALUE`.
    Pairs,
}

impl Entry {
    /// Removes values that were typed as well. Returns true if a value remains.
    fn remains(&mut self, typed: &ArgMatches) -> bool {
        let given = typed.try_get_raw(&self.id).ok().flatten();
        if typed.value_source(&self.id) != Some(ValueSource::CommandLine) {
            return true;
        }
        if self.kind != Kind::Pairs {
            return false;
        }
        let given: Vec<String> =
            given.into_iter().flatten().map(|v| pair(&v.to_string_lossy()).0.to_owned()).collect();
        self.values.retain(|(_, value)| !given.iter().any(|key| key == pair(value).0));
        !self.values.is_empty()
    }

    fn words(&self) -> Vec<OsString> {
        let word = |(_, value): &(usize, String)| match self.kind {
            Kind::Subject => value.into(),
            Kind::Switch => format!("--{}", self.key).into(),
            Kind::Value | Kind::Pairs => format!("--{}={value}", self.key).into(),
        };
        self.values.iter().map(word).collect()
    }
}

/// Splits `KEY=VALUE` and trims both parts.
fn pair(text: &str) -> (&str, &str) {
    text.split_once('=').map_or((text.trim(), ""), |(key, value)| (key.trim(), value.trim()))
}

/// Reads all keys of a file.
fn read(cli: &Command, path: &Path) -> Result<Vec<Entry>> {
    let text = proto::regular::read_to_string(path)
        .with_context(|| format!("reading the configuration `{}`", path.display()))?;
    let line = |at: usize| 1 + text.bytes().take(at).filter(|b| *b == b'\n').count();
    let table = DeTable::parse(&text).map_err(|error| {
        let at = error.span().map_or(1, |span| line(span.start));
        failure(
            format!("{}:{at}: {}", path.display(), error.message()),
            "write one KEY = VALUE per line, with strings in quotation marks",
        )
    })?;
    let train = cli.find_subcommand("train").context("finding the command `train`")?;
    let mut entries: Vec<Entry> = Vec::new();
    for (key, value) in table.get_ref() {
        let entry = entry(path, &line, key, value, train.get_arguments())?;
        if let Some(other) = entries.iter().find(|e| e.key == entry.key) {
            return Err(failure(
                format!(
                    "{}:{}: `{}` is already set in line {}",
                    path.display(),
                    entry.line,
                    entry.key,
                    other.line
                ),
                "remove one of them",
            ));
        }
        entries.push(entry);
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn entry<'a>(
    path: &Path,
    line_of: &dyn Fn(usize) -> usize,
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
    options: impl Iterator<Item = &'a Arg>,
) -> Result<Entry> {
    let named: BTreeMap<String, &Arg> = options
        .map(|arg| (arg.get_long().unwrap_or(SUBJECT).to_owned(), arg))
        .filter(|(name, _)| !NO_KEYS.contains(&name.as_str()))
        .collect();
    let line = line_of(key.span().start);
    let here = format!("{}:{line}", path.display());
    let name = key.get_ref().replace('_', "-");
    let Some(arg) = named.get(&name) else {
        let near = mesh::layout::suggest(&name, named.keys().map(String::as_str));
        return Err(failure(
            format!("{here}: unknown option `{}`", key.get_ref()),
            match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    "keys are the options of `meshc train --help` without their leading dashes".to_owned()
                }
            },
        ));
    };
    let is_pairs = arg.get_value_names().is_some_and(|names| names.iter().any(|n| n == "KEY=VALUE"));
    let kind = match arg.get_action() {
        _ if name == SUBJECT => Kind::Subject,
        ArgAction::SetTrue => Kind::Switch,
        _ if is_pairs => Kind::Pairs,
        _ => Kind::Value,
    };
    let many = matches!(arg.get_action(), ArgAction::Append);
    let values = values(value, kind, many)
        .map(|all| all.into_iter().map(|(at, value)| (line_of(at), value)).collect())
        .map_err(|wanted| {
            failure(format!("{here}: invalid value of `{name}`: {}", value.get_ref().type_str()), wanted)
        })?;
    Ok(Entry { key: name, id: arg.get_id().to_string(), values, kind, path: path.to_owned(), line })
}

/// Converts a TOML value to words with their positions in the file. The error says what the option takes.
fn values(
    value: &Spanned<DeValue<'_>>,
    kind: Kind,
    many: bool,
) -> Result<Vec<(usize, String)>, &'static str> {
    let one = |value: &Spanned<DeValue<'_>>| Ok((value.span().start, scalar(value.get_ref())?));
    match (value.get_ref(), kind) {
        (DeValue::Boolean(true), Kind::Switch) => Ok(vec![(value.span().start, String::new())]),
        (DeValue::Boolean(false), Kind::Switch) => Ok(Vec::new()),
        (_, Kind::Switch) => Err("write true or false"),
        (DeValue::Table(table), Kind::Pairs) => table
            .iter()
            .map(|(key, value)| {
                let (at, text) = one(value)?;
                Ok((at, format!("{}={text}", key.get_ref())))
            })
            .collect(),
        (DeValue::Array(all), Kind::Pairs | Kind::Value) if many => all.iter().map(one).collect(),
        (_, Kind::Pairs) => Err("write a table of keys and values"),
        (_, Kind::Subject | Kind::Value) => Ok(vec![one(value)?]),
    }
}

fn scalar(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(flag) => Ok(flag.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(&number.as_str().replace('_', ""), number.radix())
            .map(|n| n.to_string())
            .map_err(|_| "write a smaller number"),
        DeValue::Float(number) => Ok(number.as_str().replace('_', "")),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => Err("write one string or number"),
    }
}

fn located(error: clap::Error, file: &[Entry]) -> anyhow::Error {
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => name.clone(),
        Some(_) | None => return error.into(),
    };
    let option = named.split([' ', '=']).next().unwrap_or_default().trim_start_matches('-');
    let Some(entry) = file.iter().find(|e| e.key == option) else { return error.into() };
    let said = error.to_string();
    let what = said.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
    failure(
        format!("{}:{}: {what}", entry.path.display(), entry.line),
        format!("see `--{}` in `meshc train --help`", entry.key),
    )
}

fn resolved(cli: &Command, matches: &ArgMatches, file: &[Entry]) -> Resolved {
    let mut all = Resolved::default();
    let options = cli.find_subcommand("train").into_iter().flat_map(Command::get_arguments);
    for arg in options {
        let (id, key) = (arg.get_id().as_str(), arg.get_long().unwrap_or(SUBJECT));
        let values: Vec<String> = matches
            .try_get_raw(id)
            .ok()
            .flatten()
            .into_iter()
            .flatten()
            .map(|v| v.to_string_lossy().into_owned())
            .collect();
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        if NO_KEYS.contains(&key) || values.is_empty() || is_switch && !matches.get_flag(id) {
            continue;
        }
        let written = file.iter().find(|e| e.id == id);
        let origin = |value: &str| {
            // Each key of a table has its own line.
            let pairs = written.filter(|e| e.kind == Kind::Pairs);
            let line = match pairs {
                Some(e) => e.values.iter().find(|(_, v)| v == value).map(|(line, _)| *line),
                None => written.map(|e| e.line),
            };
            match (written.zip(line), matches.value_source(id)) {
                (Some((e, line)), _) => Origin::File(e.path.clone(), line),
                (None, Some(ValueSource::DefaultValue)) => Origin::Default,
                (None, _) => Origin::Flag,
            }
        };
        let is_pairs = arg.get_value_names().is_some_and(|names| names.iter().any(|n| n == "KEY=VALUE"));
        if is_pairs {
            for value in &values {
                let (name, text) = pair(value);
                all.entries.push((key.to_owned(), name.to_owned(), literal(text), origin(value)));
            }
            continue;
        }
        let text = match (is_switch, arg.get_action()) {
            (true, _) => "true".to_owned(),
            (false, ArgAction::Append) => {
                format!("[{}]", values.iter().map(|v| literal(v)).collect::<Vec<_>>().join(", "))
            }
            (false, _) => literal(&values[0]),
        };
        all.entries.push((String::new(), key.to_owned(), text, origin(&values[0])));
    }
    // The positional argument comes first in the file.
    all.entries.sort_by_key(|(_, key, ..)| key != SUBJECT);
    all
}

/// Formats a value as TOML: truth values, and numbers that TOML would print identically; everything else in
/// quotation marks. An option that takes a string reads both forms.
fn literal(text: &str) -> String {
    if text == "true" || text == "false" {
        return text.to_owned();
    }
    let is_number = text.parse::<i64>().is_ok_and(|n| n.to_string() == text)
        || text.parse::<f64>().is_ok_and(|n| n.is_finite() && n.to_string() == text && text.contains('.'));
    if is_number { text.to_owned() } else { quoted(text) }
}

/// Formats a string: JSON strings are valid TOML strings.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn bare(key: &str) -> String {
    // The dot is in names of comments, such as `settings.d_model`.
    let is_bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if is_bare { key.to_owned() } else { quoted(key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_model_take_a_line_each_and_do_not_contradict_options() {
        let mut all = Resolved::default();
        all.entries.push(("set".into(), "d_model".into(), "16".into(), Origin::Flag));
        all.derive("state-layout", "", Origin::Model);
        all.meta("settings", "batch=4 d_model=16 pack=true name=a");
        all.meta("state_layout", "*:data");
        all.meta("model", "switch");
        let text: Vec<String> =
            all.toml().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            text,
            [
                "# state-layout = \"\" # model",
                "# settings.batch = 4 # model",
                "# settings.pack = true # model",
                "# settings.name = \"a\" # model",
                "# model = \"switch\" # model",
                "",
                "[set]",
                "d_model = 16 # flag",
            ]
        );
    }
}

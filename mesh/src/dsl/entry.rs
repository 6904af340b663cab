//! The entry of model programs: arguments in, `.mesh` text or diagnostics out. Of the crate,
//! only this file and `caller.rs` use the process.

use super::{Program, caller};
use crate::{Diagnostic, Diagnostics, Module, Schedule, Site, layout::suggest, schedule::entry};
use std::{
    cell::{Cell, RefCell},
    fmt::Display,
    fmt::Write as _,
    io::Write as _,
    panic::Location,
    process::ExitCode,
    str::FromStr,
};

/// A setting that the program has read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// The key, as in `--set key=value`.
    pub key: String,
    /// The value if it is not given.
    pub default: String,
}

/// Arguments of a model program: `--dtype f32|selective|bf16`, `--set key=value` and `--schedule key=value`.
/// A key is known once the program reads it. Keys that no one has read at the end are mistakes.
#[derive(Debug, Default)]
pub struct Args {
    dtype: Option<String>,
    /// True once the program has read `--dtype`.
    typed: Cell<bool>,
    given: Vec<(String, String)>,
    schedule: Vec<(String, String)>,
    /// True once the program has read its schedule.
    scheduled: Cell<bool>,
    known: RefCell<Vec<Setting>>,
    /// The beginning of the keys that are read.
    prefix: RefCell<String>,
    wrong: RefCell<Vec<Diagnostic>>,
}

impl Args {
    /// Parses arguments (without the program's name).
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, Diagnostic> {
        let mut parsed = Self::default();
        let mut args = args.into_iter();
        while let Some(word) = args.next() {
            let (flag, inline) = match word.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
                Some(_) | None => (word.clone(), None),
            };
            let mut value = || {
                inline.clone().or_else(|| args.next()).ok_or_else(|| {
                    Diagnostic::new("", format!("`{flag}` is the last argument, but it takes a value"))
                })
            };
            match flag.as_str() {
                "--dtype" => parsed.dtype = Some(value()?),
                "--set" => add(&mut parsed.given, "--set", &value()?)?,
                "--schedule" => add(&mut parsed.schedule, "--schedule", &value()?)?,
                _ => {
                    return Err(Diagnostic::new("", format!("unknown argument `{word}` of a model program"))
                        .help(
                            "it takes --dtype f32|selective|bf16, --set key=value and --schedule key=value",
                        ));
                }
            }
        }
        Ok(parsed)
    }

    /// Calls `read` for the settings whose keys begin with `prefix`, which reads them without it: those of a
    /// second model in the program. `dtype` is then a setting as well, and there is no schedule.
    pub fn within<T>(&self, prefix: &str, read: impl FnOnce(&Self) -> T) -> T {
        let outer = self.prefix.replace(prefix.to_owned());
        let value = read(self);
        self.prefix.replace(outer);
        value
    }

    /// Returns the schedule `default` with the entries given on the command line. A `--set` with the key of
    /// an entry counts as one, unless the program has a setting of that name and reads it first.
    pub fn schedule(&self, default: Schedule) -> Schedule {
        if !self.prefix.borrow().is_empty() {
            return default;
        }
        self.scheduled.set(true);
        let mut schedule = default;
        let known = self.known.borrow();
        let set = self.given.iter().filter(|(key, _)| {
            entry(key).is_some() && known.iter().all(|s| s.key != *key) && !has(&self.schedule, key)
        });
        for (key, value) in set.chain(&self.schedule) {
            if let Err(error) = schedule.set(key, value) {
                self.wrong.borrow_mut().push(error);
            }
        }
        schedule
    }

    /// Returns the value of `--dtype`, one of `choices`. The first of them is the default.
    pub fn dtype<'a>(&self, choices: &[&'a str]) -> &'a str {
        let first = choices.first().copied().unwrap_or("");
        if !self.prefix.borrow().is_empty() {
            return self.choice("dtype", choices, first);
        }
        self.typed.set(true);
        self.choose("`--dtype`", self.dtype.as_deref(), choices, first)
    }

    /// Returns the value set for `key`, or `default`. A size (`usize`) is at most [`MAX_SIZE`], and numbers
    /// are finite: anything else is a mistake.
    pub fn get<T: FromStr + Display>(&self, key: &str, default: T) -> T {
        let key = &self.know(key, &default);
        let Some((_, text)) = self.given.iter().find(|(k, _)| k == key) else { return default };
        text.parse().ok().filter(|_| kind::<T>().contains(text)).unwrap_or_else(|| {
            let words = kind::<T>().words;
            let diagnostic = Diagnostic::new("", format!("setting `{key}` must be {words}, got `{text}`"));
            self.wrong.borrow_mut().push(diagnostic.help(format!("its default is {default}")));
            default
        })
    }

    /// Returns the value set for `key`, one of `choices`, or `default`.
    pub fn choice<'a>(&self, key: &str, choices: &[&'a str], default: &'a str) -> &'a str {
        let key = &self.know(key, &default);
        let given = self.given.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        self.choose(&format!("setting `{key}`"), given, choices, default)
    }

    /// Returns the words set for `key`, joined by `*`, each one of `choices`; or those of `default`.
    pub fn product<'a>(&self, key: &str, choices: &[&'a str], default: &str) -> Vec<&'a str> {
        let key = &self.know(key, &default);
        let given = self.given.iter().find(|(k, _)| k == key).map_or(default, |(_, v)| v.as_str());
        let first = choices.first().copied().unwrap_or("");
        let words = given.split('*').map(str::trim);
        words.map(|word| self.choose(&format!("setting `{key}`"), Some(word), choices, first)).collect()
    }

    fn choose<'a>(&self, what: &str, given: Option<&str>, choices: &[&'a str], default: &'a str) -> &'a str {
        let Some(text) = given else { return default };
        choices.iter().copied().find(|c| *c == text).unwrap_or_else(|| {
            let message = format!("{what} must be one of {}, got `{text}`", choices.join(", "));
            let mut diagnostic = Diagnostic::new("", message);
            if let Some(hint) = suggest(text, choices.iter().copied()) {
                diagnostic = diagnostic.help(format!("did you mean `{hint}`?"));
            }
            self.wrong.borrow_mut().push(diagnostic);
            default
        })
    }

    /// Records a setting, and returns its whole key.
    fn know(&self, key: &str, default: &dyn Display) -> String {
        let key = format!("{}{key}", self.prefix.borrow());
        let mut known = self.known.borrow_mut();
        if !known.iter().any(|s| s.key == key) {
            known.push(Setting { key: key.clone(), default: default.to_string() });
        }
        key
    }

    /// Returns all settings that the program has read so far.
    pub fn settings(&self) -> Vec<Setting> {
        self.known.borrow().clone()
    }

    /// Returns the mistakes in the arguments. Call it after the program has read all its settings.
    pub fn mistakes(&self) -> Vec<Diagnostic> {
        let mut wrong = self.wrong.borrow().clone();
        let known = self.known.borrow();
        if let Some((key, value)) = self.schedule.first().filter(|_| !self.scheduled.get()) {
            let message = format!("`--schedule {key}={value}`: this program does not read a schedule");
            wrong.push(Diagnostic::new("", message).help("remove it, or read it with `args.schedule(…)`"));
        }
        if let Some(dtype) = self.dtype.as_ref().filter(|_| !self.typed.get()) {
            let message = format!("`--dtype {dtype}`: this program does not read a precision");
            wrong.push(Diagnostic::new("", message).help("remove it, or read it with `args.dtype(…)`"));
        }
        for (key, _) in &self.given {
            let in_schedule = self.scheduled.get() && entry(key).is_some();
            if in_schedule || known.iter().any(|s| s.key == *key) {
                continue;
            }
            if key == HELP {
                let list: Vec<String> = known.iter().map(|s| format!("{}={}", s.key, s.default)).collect();
                let list = format!("settings of this program and their defaults:\n  {}", list.join("\n  "));
                wrong.push(Diagnostic::new("", list).help("give one with --set KEY=VALUE"));
                continue;
            }
            let help = near(key, &known);
            wrong.push(Diagnostic::new("", format!("this program has no setting `{key}`")).help(help));
        }
        wrong
    }
}

/// The word of `--set help`, which lists all settings.
const HELP: &str = "help";
/// The most settings that an error lists.
const FEW: usize = 8;

/// Returns the remedy for the unknown setting `key`: settings with a similar name, or the way to all of them.
fn near(key: &str, known: &[Setting]) -> String {
    if known.is_empty() {
        return "this program has no settings".to_owned();
    }
    let hint = suggest(key, known.iter().map(|s| s.key.as_str()));
    let hint = hint.map_or_else(String::new, |hint| format!("did you mean `{hint}`? "));
    let is_alike = |s: &&Setting| {
        let mut words = s.key.split('_');
        known.len() <= FEW || words.any(|word| word.len() > 1 && key.split('_').any(|w| w == word))
    };
    let alike: Vec<String> =
        known.iter().filter(is_alike).take(FEW).map(|s| format!("{}={}", s.key, s.default)).collect();
    match (known.len() <= FEW, alike.is_empty()) {
        (true, _) => format!("{hint}settings: {}", alike.join(", ")),
        (false, true) => format!("{hint}`--set help` lists all {} settings", known.len()),
        (false, false) => {
            let all = format!("`--set help` lists all {}", known.len());
            format!("{hint}settings with a similar name: {}; {all}", alike.join(", "))
        }
    }
}

/// Adds `text`, which is `key=value`, to the values of `option`.
fn add(given: &mut Vec<(String, String)>, option: &str, text: &str) -> Result<(), Diagnostic> {
    let text = if option == "--set" && text == HELP { "help=" } else { text };
    let Some((key, value)) = text.split_once('=') else {
        return Err(Diagnostic::new("", format!("`{option} {text}` has no value"))
            .help(format!("write it as {option} {text}=VALUE")));
    };
    let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
    if has(given, &key) {
        return Err(Diagnostic::new("", format!("`{option} {key}` is given twice")));
    }
    given.push((key, value));
    Ok(())
}

fn has(given: &[(String, String)], key: &str) -> bool {
    given.iter().any(|(k, _)| k == key)
}

/// The largest size that a setting may have. It fits into `s32`, the type of positions, and the product of
/// two sizes fits into 64 bits.
pub const MAX_SIZE: usize = i32::MAX as usize;

/// The type of a setting.
struct Kind {
    /// The words for its values.
    words: &'static str,
    /// True for sizes.
    is_size: bool,
    /// True for floating-point numbers.
    is_float: bool,
}

impl Kind {
    /// True if a text that parses is a legal value.
    fn contains(&self, text: &str) -> bool {
        let is_small = || text.parse::<usize>().is_ok_and(|size| size <= MAX_SIZE);
        let is_finite = || text.parse::<f64>().is_ok_and(f64::is_finite);
        (!self.is_size || is_small()) && (!self.is_float || is_finite())
    }
}

/// Returns the type of a setting.
fn kind<T>() -> Kind {
    let (words, is_size, is_float) = match std::any::type_name::<T>() {
        "usize" => ("a whole number from 0 to 2147483647", true, false),
        "u32" | "u64" => ("a whole number from 0", false, false),
        "i32" | "i64" => ("a whole number", false, false),
        "f32" | "f64" => ("a number", false, true),
        "bool" => ("true or false", false, false),
        _ => ("a value of this setting", false, false),
    };
    Kind { words, is_size, is_float }
}

/// Runs a model program: parses the arguments, builds the program, and prints it as `.mesh` text. If there
/// are mistakes, prints each as one line of JSON on standard error and returns exit code 1.
#[track_caller]
pub fn main(build: impl FnOnce(&Args) -> Program) -> ExitCode {
    caller::begin(Location::caller().file());
    match run(std::env::args().skip(1), build) {
        Ok(module) => print(&crate::text::print(&module)),
        Err(diagnostics) => {
            diagnostics.0.iter().for_each(|d| eprintln!("{}", diagnostic_json(d)));
            ExitCode::FAILURE
        }
    }
}

/// Builds a program with the arguments `args`. The error has all mistakes.
pub fn run(
    args: impl IntoIterator<Item = String>,
    build: impl FnOnce(&Args) -> Program,
) -> Result<Module, Diagnostics> {
    let args = Args::parse(args)?;
    let program = build(&args);
    // Wrong settings come first, because they may cause the other mistakes.
    let mut mistakes = args.mistakes();
    match program.finish() {
        Ok(module) if mistakes.is_empty() => Ok(module),
        Ok(_) => Err(Diagnostics(mistakes)),
        Err(more) => {
            mistakes.extend(more.0);
            Err(Diagnostics(mistakes))
        }
    }
}

fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let diagnostic = Diagnostic::new("", format!("the program could not be written: {error}"));
            eprintln!("{}", diagnostic_json(&diagnostic));
            ExitCode::FAILURE
        }
    }
}

/// Returns a diagnostic as one line of JSON with the keys `label`, `message`, `file`, `line`, `column`,
/// `scope`, `function`, `help` and `caller`, an object with a `file`, `line` and `column`. Unknown values are
/// `null`.
pub fn diagnostic_json(diagnostic: &Diagnostic) -> String {
    let text = |text: Option<&str>| text.map_or_else(|| "null".to_owned(), quoted);
    let number = |n: Option<u32>| n.map_or_else(|| "null".to_owned(), |n| n.to_string());
    let site = diagnostic.site.as_ref();
    let fields = [
        ("label", text(Some(diagnostic.label))),
        ("message", text(Some(&diagnostic.message))),
        ("file", text(site.map(|s| s.file.as_str()))),
        ("line", number(site.map(|s| s.line))),
        ("column", number(site.map(|s| s.column))),
        ("scope", text(site.map(|s| s.scope.as_str()))),
        ("function", text(diagnostic.function.as_deref())),
        ("help", text(diagnostic.help.as_deref())),
        ("caller", diagnostic.caller.as_ref().map_or_else(|| "null".to_owned(), place)),
    ];
    let fields: Vec<String> = fields.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn place(site: &Site) -> String {
    format!("{{\"file\":{},\"line\":{},\"column\":{}}}", quoted(&site.file), site.line, site.column)
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String does not fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn of_many_settings_only_similar_ones_are_named() {
        let setting = |key: &str| Setting { key: key.to_owned(), default: "1".to_owned() };
        let mut known: Vec<Setting> = (0..40).map(|i| setting(&format!("other{i}"))).collect();
        known.extend(["d_model", "d_ff", "router_z_loss", "router_bias"].map(setting));
        assert_eq!(near("d_modl", &known), "did you mean `d_model`? `--set help` lists all 44 settings",);
        assert_eq!(
            near("router_jitter_noise", &known),
            "settings with a similar name: router_z_loss=1, router_bias=1; `--set help` lists all 44",
        );
        assert_eq!(near("x", &known), "`--set help` lists all 44 settings");
        assert_eq!(near("x", &[]), "this program has no settings");
    }

    #[track_caller]
    fn check(args: &str, expect: &str) {
        let build = |args: &Args| {
            args.dtype(&["f32", "bf16"]);
            args.get("batch", 32usize);
            args.get("dropout", 0.1);
            args.choice("dispatch", &["sort", "einsum"], "sort");
            Program::new("test")
        };
        let text = match run(words(args), build) {
            Ok(_) => "no mistakes".to_owned(),
            Err(diagnostics) => diagnostics.to_string(),
        };
        assert_eq!(text, expect);
    }

    #[test]
    fn settings_are_checked_once_all_are_known() {
        check("--dtype bf16 --set batch=4 --set dropout=0", "no mistakes");
        check(
            "--set bach=4 --set dropout=much",
            "error: setting `dropout` must be a number, got `much`\n  help: its default is 0.1\n\
             error: this program has no setting `bach`\n  help: did you mean `batch`? settings: batch=32, \
             dropout=0.1, dispatch=sort",
        );
        check(
            "--dtype=f16 --set dispatch=einsun",
            "error: `--dtype` must be one of f32, bf16, got `f16`\n  help: did you mean `bf16`?\n\
             error: setting `dispatch` must be one of sort, einsum, got `einsun`\n  help: did you mean \
             `einsum`?",
        );
        check(
            "--set help",
            "error: settings of this program and their defaults:\n  batch=32\n  dropout=0.1\n  dispatch=sort\n  help: give \
             one with --set KEY=VALUE",
        );
        check(
            "--set batch=2147483648 --set dropout=nan",
            "error: setting `batch` must be a whole number from 0 to 2147483647, got `2147483648`\n  help: its default \
             is 32\nerror: setting `dropout` must be a number, got `nan`\n  help: its default is 0.1",
        );
        check("--set batch", "error: `--set batch` has no value\n  help: write it as --set batch=VALUE");
        check("--set", "error: `--set` is the last argument, but it takes a value");
        check("--set batch=1 --set batch=2", "error: `--set batch` is given twice");
        check(
            "--steps 3",
            "error: unknown argument `--steps` of a model program\n  help: it takes --dtype \
             f32|selective|bf16, --set key=value and --schedule key=value",
        );
        check(
            "--schedule remat=all",
            "error: `--schedule remat=all`: this program does not read a schedule\n  help: remove it, or read it with \
             `args.schedule(…)`",
        );
    }

    /// Checks the schedule that a program reads, or its mistakes. The program has its own setting `unroll`.
    #[track_caller]
    fn check_schedule(args: &str, expect: &str) {
        let args = Args::parse(words(args)).expect("the arguments are well-formed");
        args.get("unroll", 2usize);
        let schedule = args.schedule(Schedule::default()).to_string();
        let mistakes = args.mistakes();
        let text = if mistakes.is_empty() { schedule } else { Diagnostics(mistakes).to_string() };
        assert_eq!(text, expect);
    }

    #[test]
    fn a_schedule_is_read_from_its_own_arguments_and_from_settings() {
        check_schedule("--schedule remat=carries --set gather=step", "remat=carries gather=step");
        check_schedule("--schedule remat=carries --set remat=long", "remat=carries");
        check_schedule("--set unroll=3", "");
        check_schedule(
            "--schedule remat=everything",
            "error: schedule entry `remat` must be one of all, long, compact, contractions, carries, got `everything`",
        );
    }

    #[test]
    fn json_is_escaped() {
        let diagnostic = Diagnostic::new("op_o1", "a \"b\"\n\\ \u{1}").in_function("f");
        assert_eq!(
            diagnostic_json(&diagnostic),
            "{\"label\":\"op_o1\",\"message\":\"a \\\"b\\\"\\n\\\\ \\u0001\",\"file\":null,\"line\":null,\
             \"column\":null,\"scope\":null,\"function\":\"f\",\"help\":null,\"caller\":null}"
        );
    }
}

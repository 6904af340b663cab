//! Filetests: the input and the output of a stage in one `.mesh` file.
//!
//! The first line names the kind of test, `// test: errors`; further `// key: value` lines are options. The
//! expected output is in the file itself, in one of three places (see [`Expect`]), and errors are marked at
//! the line where they are reported: `// error: MESSAGE [LABEL]`. The expected file can therefore be computed
//! from the output: a test compares it with the actual file, and with `MESH_BLESS=1` writes it.
//! `docs/testing.md` explains the usage; a new kind of test is an entry in [`KINDS`].

use crate::diff::diff;
use compiler::{
    artefact::Settings,
    autodiff,
    pipeline::{self, Axes, Placement, unobserved},
    simplify,
};
use mesh::{
    Diagnostic, Diagnostics, Layout, Mesh, Module,
    text::{parse, parse_source, print},
    verify::{Stage, verify},
};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// All kinds of filetests.
pub const KINDS: &[Kind] = &[
    Kind { name: "roundtrip", options: &["stage"], expect: Expect::Same, run: roundtrip },
    Kind { name: "print", options: &["stage"], expect: Expect::Below, run: canonical },
    Kind { name: "errors", options: &["stage"], expect: Expect::Nothing, run: errors },
    Kind { name: "autodiff", options: &["simplify"], expect: Expect::Below, run: gradients },
    Kind { name: "simplify", options: &["stage", "passes"], expect: Expect::Below, run: simplified },
    Kind {
        name: "partition",
        options: &["mesh", "layout", "state_layout"],
        expect: Expect::Below,
        run: partitioned,
    },
    Kind { name: "hlo", options: &["mesh", "layout", "state_layout"], expect: Expect::Below, run: emitted },
];

/// A kind of filetest.
pub struct Kind {
    /// The name after `// test:`.
    pub name: &'static str,
    /// Keys of the accepted options.
    pub options: &'static [&'static str],
    /// The place of the expected output.
    pub expect: Expect,
    /// Computes the output as text, or the errors to be marked.
    pub run: fn(&Case) -> Result<String, Diagnostics>,
}

/// The place of a filetest's expected output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// The program itself.
    Same,
    /// Below the line `// output:`, after the program.
    Below,
    /// None: the test expects errors only.
    Nothing,
}

/// One filetest.
pub struct Case {
    /// The file's name, which its program's sites contain.
    pub name: String,
    /// The header and the program, without marks and output.
    pub text: String,
    options: Vec<(String, String)>,
}

impl Case {
    /// Returns the value of `// key: value` in the header.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    /// Returns the stage of the program: the option `stage`, or else local if it has a mesh.
    pub fn stage(&self, module: &Module) -> Stage {
        match self.option("stage") {
            Some("local") => Stage::Local,
            Some("global") => Stage::Global,
            Some(other) => panic!("`// stage:` is `local` or `global`, not `{other}`"),
            None if module.env.mesh.axes().is_empty() => Stage::Global,
            None => Stage::Local,
        }
    }
    /// Returns the verified program. Instructions without a site get one in this file.
    pub fn module(&self) -> Result<Module, Diagnostics> {
        let module = parse_source(&self.text, &self.name)?;
        verify(&module, self.stage(&module))?;
        Ok(module)
    }
}

// Kinds.

fn roundtrip(case: &Case) -> Result<String, Diagnostics> {
    let module = parse(&case.text, &case.name)?;
    verify(&module, case.stage(&module))?;
    let text = print(&module);
    let again = parse(&text, "printed")?;
    // The debug text is compared, because NaN is not equal to itself.
    assert_eq!(format!("{module:?}"), format!("{again:?}"), "the printed program is another one");
    Ok(text)
}

fn canonical(case: &Case) -> Result<String, Diagnostics> {
    let module = parse(&case.text, &case.name)?;
    verify(&module, case.stage(&module))?;
    Ok(print(&module))
}

fn errors(case: &Case) -> Result<String, Diagnostics> {
    case.module().map(|_| String::new())
}

/// Returns the program after autodiff and dead code elimination; with `// simplify: yes`, after all passes
/// that follow autodiff.
fn gradients(case: &Case) -> Result<String, Diagnostics> {
    let module = parse(&case.text, &case.name)?;
    verify(&module, Stage::Global)?;
    let mut module = autodiff::expand(&module)?;
    verify(&module, Stage::Global)?;
    match case.option("simplify") {
        Some("yes") => module = pipeline::simplify(&module)?,
        Some(other) => panic!("`// simplify:` is `yes` or not there, not `{other}`"),
        None => {
            simplify::dce::run(&mut module);
        }
    }
    verify(&module, Stage::Global)?;
    Ok(print(&module))
}

/// Returns the program after the passes of the option, such as `// passes: cse dce`, in this order.
fn simplified(case: &Case) -> Result<String, Diagnostics> {
    let mut module = parse(&case.text, &case.name)?;
    let stage = case.stage(&module);
    verify(&module, stage)?;
    for name in case.option("passes").expect("a test of passes names them").split_whitespace() {
        match name {
            "cse" => simplify::cse::run(&mut module),
            "dce" => simplify::dce::run(&mut module),
            "fold" => simplify::fold::run(&mut module),
            "hoist" => simplify::hoist::run(&mut module),
            "accumulate" => simplify::accumulate::run(&mut module),
            "narrow" => simplify::narrow::run(&mut module),
            "row_sums" => simplify::row_sums::run(&mut module),
            other => {
                panic!(
                    "there is no pass `{other}`: write accumulate, cse, dce, fold, hoist, narrow or row_sums"
                )
            }
        };
        verify(&module, stage)?;
    }
    Ok(print(&module))
}

fn partitioned(case: &Case) -> Result<String, Diagnostics> {
    let mesh = Mesh::parse(case.option("mesh").unwrap_or("")).unwrap_or_else(|e| panic!("{e}"));
    let layout = |key: &str| {
        let layout = Layout::parse(case.option(key).unwrap_or("")).unwrap_or_else(|e| panic!("{e}"));
        layout.resolve(&mesh).unwrap_or_else(|e| panic!("{e}"))
    };
    let (compute, state) = (layout("layout"), layout("state_layout"));
    let axes = Axes { mesh, compute, state };
    // Errors need sites in the file; the output is easier to read without them.
    pipeline::partition(&case.module()?, &axes)?;
    let local = pipeline::partition(&parse(&case.text, &case.name)?, &axes)?;
    verify(&local, Stage::Local)?;
    Ok(print(&local))
}

/// Returns the HLO text of a program: of a Global program after all stages, of a Local program directly.
fn emitted(case: &Case) -> Result<String, Diagnostics> {
    let module = parse(&case.text, &case.name)?;
    let layout = |key: &str| Layout::parse(case.option(key).unwrap_or("")).unwrap_or_else(|e| panic!("{e}"));
    let local = if module.env.mesh.axes().is_empty() {
        let mesh = Mesh::parse(case.option("mesh").unwrap_or("")).unwrap_or_else(|e| panic!("{e}"));
        let placement = Placement { mesh, layout: layout("layout"), state_layout: layout("state_layout") };
        pipeline::compile(module, &placement, &mut unobserved)?
    } else {
        pipeline::verify_local(module, &mut unobserved)?
    };
    let mut texts = Vec::new();
    let settings = Settings { target: "cpu".into(), ..Settings::default() };
    pipeline::emit(&local, &settings, &mut |step| {
        texts.extend(step.dump().into_iter().map(|(_, text)| text))
    })?;
    Ok(texts.join("\n"))
}

// Running.

/// Runs all filetests in `tests/filetests/NAME` and its subfolders, and panics with the differences. With
/// `MESH_BLESS=1` in the environment, it rewrites the files instead.
#[track_caller]
pub fn folder(name: &str) {
    let root = root().join(name);
    let bless = std::env::var_os("MESH_BLESS").is_some_and(|v| v == "1");
    let files = mesh_files(&root);
    assert!(!files.is_empty(), "no filetests in {}", root.display());
    let mut failed = String::new();
    for path in &files {
        let place = path.strip_prefix(&root).unwrap_or(path).display();
        let old = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match catch_unwind(AssertUnwindSafe(|| outcome(&file, &old))) {
            Ok(Ok(new)) if new == old => {}
            Ok(Ok(new)) if bless => {
                fs::write(path, new).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
            Ok(Ok(new)) => failed.push_str(&format!("\n{name}/{place}:\n{}", diff(&old, &new))),
            Ok(Err(message)) => failed.push_str(&format!("\n{name}/{place}: {message}\n")),
            Err(cause) => failed.push_str(&format!("\n{name}/{place}: panicked: {}\n", message(&*cause))),
        }
    }
    assert!(
        failed.is_empty(),
        "filetests differ (- the file, + the outcome):\n{failed}\nIf the outcomes are right, run again with \
         MESH_BLESS=1 and read the difference as you would code.\n"
    );
}

/// Returns the folders of filetests, sorted.
pub fn folders() -> Vec<String> {
    let entries = fs::read_dir(root()).unwrap_or_else(|e| panic!("{}: {e}", root().display()));
    let folders = entries.filter_map(|e| e.ok()).filter(|e| e.path().is_dir());
    let mut names: Vec<String> = folders.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests")
}

fn mesh_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files = Vec::new();
    for path in entries.filter_map(|e| e.ok()).map(|e| e.path()) {
        if path.is_dir() {
            files.extend(mesh_files(&path));
        } else if path.extension().is_some_and(|e| e == "mesh") {
            files.push(path);
        } else {
            panic!("{} is not a filetest: its name does not end in .mesh", path.display());
        }
    }
    files.sort();
    files
}

fn message(cause: &(dyn std::any::Any + Send)) -> &str {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

const OUTPUT: &str = "// output:";
const ERROR: &str = "// error: ";

/// Returns the expected content of a file.
pub fn outcome(file: &str, old: &str) -> Result<String, String> {
    let input = match old.split_once(&format!("\n{OUTPUT}\n")) {
        Some((input, _)) => format!("{input}\n"),
        None => old.to_owned(),
    };
    let lines = input.lines().map(|line| line.split(ERROR).next().unwrap_or(line).trim_end());
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    let header: Vec<String> =
        text.lines().take_while(|line| line.starts_with("//")).map(str::to_owned).collect();
    let (kind, options) = read_header(&header)?;
    let case = Case { name: file.to_owned(), text, options };
    match ((kind.run)(&case), kind.expect) {
        (Err(errors), _) => marked(&case, &errors),
        (Ok(program), Expect::Same) => Ok(format!("{}\n\n{program}", header.join("\n"))),
        (Ok(output), Expect::Below) => Ok(format!("{}\n{OUTPUT}\n{output}", case.text.trim_end())),
        (Ok(_), Expect::Nothing) => Ok(case.text),
    }
}

type Options = Vec<(String, String)>;

fn read_header(header: &[String]) -> Result<(&'static Kind, Options), String> {
    let option = |line: &String| {
        let (key, value) = line.strip_prefix("// ")?.split_once(": ")?;
        let word = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        word.then(|| (key.to_owned(), value.trim().to_owned()))
    };
    let mut options: Options = header.iter().filter_map(option).collect();
    if options.first().is_none_or(|(key, _)| key != "test") {
        return Err("the first line of a filetest is `// test: KIND`".into());
    }
    let (_, name) = options.remove(0);
    let known = || KINDS.iter().map(|k| k.name).collect::<Vec<_>>().join(", ");
    let kind = KINDS.iter().find(|k| k.name == name);
    let kind = kind.ok_or_else(|| format!("there is no kind of test `{name}`: there are {}", known()))?;
    match options.iter().find(|(key, _)| !kind.options.contains(&key.as_str())) {
        Some((key, _)) => Err(format!("`// test: {name}` has no option `{key}`")),
        None => Ok((kind, options)),
    }
}

/// Returns the program with each error marked at its line. An error without a site in this file is marked at
/// its function, or else at the program's name.
fn marked(case: &Case, errors: &Diagnostics) -> Result<String, String> {
    let mut lines: Vec<String> = case.text.lines().map(str::to_owned).collect();
    for error in &errors.0 {
        let line = line_of(case, error).ok_or_else(|| format!("no line to mark this at: {error}"))?;
        lines[line].push_str(&format!("  {ERROR}{}", error.message));
        if !error.label.is_empty() {
            lines[line].push_str(&format!(" [{}]", error.label));
        }
    }
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

fn line_of(case: &Case, error: &Diagnostic) -> Option<usize> {
    let lines: Vec<&str> = case.text.lines().collect();
    if let Some(site) = error.site.as_ref().filter(|site| site.file == *case.name) {
        // An error at the end of the text is marked after the last line.
        return Some((site.line as usize).clamp(1, lines.len().max(1)) - 1)
            .filter(|line| *line < lines.len());
    }
    let starts = |head: &str| lines.iter().rposition(|line| line.starts_with(head));
    let function = error.function.as_ref().and_then(|name| starts(&format!("func {name}(")));
    function.or_else(|| starts("module "))
}

#[cfg(test)]
mod tests {
    use super::outcome;

    #[test]
    fn marks_and_output_follow_from_the_program() {
        let wrong =
            "// test: errors\n\nmodule m\nfunc f() {\n  write %1 {state=x}  // error: old\n  return\n}\n";
        let marked = outcome("f.mesh", wrong).unwrap();
        assert!(marked.contains("{state=x}  // error: %1 is not defined before [verify_v1]"), "{marked}");
        assert!(!marked.contains("old"), "{marked}");
        assert_eq!(outcome("f.mesh", &marked).as_ref(), Ok(&marked));
        let loose = "// test: print\nmodule  m\n// output:\nwhat it was\n";
        assert_eq!(outcome("f.mesh", loose).unwrap(), "// test: print\nmodule  m\n// output:\nmodule m\n");
    }

    #[test]
    fn a_bad_header_says_what_it_should_be() {
        for (text, part) in [
            ("module m\n", "`// test: KIND`"),
            ("// test: nothing\n", "there are roundtrip"),
            ("// test: print\n// mesh: data=2\n", "no option `mesh`"),
        ] {
            assert!(outcome("f.mesh", text).unwrap_err().contains(part), "{text}");
        }
    }
}

//! Runs of the built `meshc` in a temporary directory.

pub mod job;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};
use tempfile::TempDir;

/// The source tree.
pub fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// A model of the source tree.
pub fn model(name: &str) -> String {
    home().join("models").join(name).display().to_string()
}

/// Returns a case of the reference directory: `../shared/oracle` beside the source tree, or `MESH_ORACLE`. If
/// it does not exist, prints a line and returns `None`.
pub fn oracle(case: &str) -> Option<PathBuf> {
    let named = std::env::var_os("MESH_ORACLE").map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| home().join("../shared/oracle")).join("public").join(case);
    if path.is_dir() {
        return Some(path);
    }
    assert!(named.is_none(), "MESH_ORACLE: there is no {}", path.display());
    say_skipped(&format!("there is no {}; set MESH_ORACLE to the reference folder", path.display()));
    None
}

/// Prints the reason of a skipped test.
pub fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    say(&format!("skipped {test}: {why}"));
}

/// Prints a line, bypassing the test harness, which captures the output of passing tests.
pub fn say(line: &str) {
    // A closed standard error is ignored.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Returns true if the slow suites run.
pub fn is_slow() -> bool {
    std::env::var_os("MESH_SLOW").is_some_and(|v| v == "1")
}

/// Settings of a model that trains in milliseconds.
pub const TINY: [&str; 16] = [
    "--set",
    "batch=4",
    "--set",
    "d_model=16",
    "--set",
    "d_ff=16",
    "--set",
    "heads=2",
    "--set",
    "d_kv=8",
    "--set",
    "input_length=32",
    "--set",
    "target_length=16",
    "--set",
    "layers=1",
];

/// Returns the arguments with `more` settings and those of [`TINY`]. A setting of the arguments takes
/// precedence over one of `more`, and both over one of `TINY`.
pub fn sized<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    let key = |setting: &'a str| setting.split_once('=').map(|(key, _)| key);
    let mut all = args.to_vec();
    for setting in more.iter().chain(TINY.iter().filter(|word| **word != "--set")) {
        if all.iter().all(|given| key(given) != key(setting)) {
            all.extend(["--set", *setting]);
        }
    }
    all
}

/// The settings of a small model with experts.
pub fn tiny_switch() -> Vec<&'static str> {
    [&TINY[..], &["--set", "experts=8"]].concat()
}

/// Returns a tokenizer of a few words, like T5's.
pub fn words() -> String {
    let words = ["<pad>", "</s>", "<unk>", "a", "b", "c", "d", "<extra_id_1>", "<extra_id_0>"];
    let vocab: serde_json::Map<String, serde_json::Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" }
    })
    .to_string()
}

/// Text of the source tree to train on.
pub fn text() -> String {
    home().join("mesh/src").display().to_string()
}

/// Returns the CPU plugin, installed on first use.
pub fn cpu_plugin() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        use runtime::plugin::{Platform, SearchPaths, find};
        let around = SearchPaths::from_environment().expect("tests run where there is a home folder");
        find(Platform::Cpu, None, &around, &mut |line| eprintln!("{line}"))
            .expect("pip installs the CPU plugin")
            .path
    })
}

/// A temporary working directory.
pub struct Workplace {
    dir: TempDir,
}

/// The result of a command.
pub struct Ran {
    /// The exit code. `None` if a signal ended the process.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Workplace {
    /// Creates an empty directory.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Returns a path in the directory.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file in the directory.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("folders can be made");
        fs::write(&path, contents).expect("files can be written");
        path
    }

    /// Returns the sorted names of all entries, including hidden files.
    pub fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("the folder can be read");
        let mut names: Vec<String> = entries
            .map(|e| e.expect("entries can be read").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Returns the command `meshc` in this directory, with a cache that all tests share.
    pub fn meshc(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshc"));
        command.args(args).current_dir(self.path());
        for name in ["MESH_HOME", "MESH_PJRT_PLUGIN", "TPU_LIBRARY_PATH", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command.env("MESH_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
        // Models run for a few steps, so compile time dominates. The slow suites run programs as users do.
        if !is_slow() {
            command.env("XLA_FLAGS", "--xla_backend_optimization_level=0");
        }
        command
    }

    /// Runs `meshc`.
    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::new(self.meshc(args).output().expect("meshc starts"))
    }

    /// Runs `meshc` on the CPU plugin.
    pub fn run_on_cpu(&self, args: &[&str]) -> Ran {
        let output = self.meshc(args).env("MESH_PJRT_PLUGIN", cpu_plugin()).output();
        Ran::new(output.expect("meshc starts"))
    }

    /// Returns the names of the directories in a subdirectory.
    pub fn folders(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(name)).expect("the folder can be read").flatten();
        let mut names: Vec<String> = entries
            .filter(|e| e.path().is_dir())
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Returns the lines of a metrics file.
    pub fn metrics(&self, name: &str) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.at(name)).expect("there is a file of metrics");
        text.lines().map(|line| serde_json::from_str(line).expect("lines are JSON")).collect()
    }

    /// Compiles the smallest model for a mesh, and returns the artefact's name.
    pub fn matmul(&self, mesh: &str) -> &'static str {
        self.run(&["compile", &model("matmul.rs"), "--mesh", mesh, "-o", "matmul"]).succeeds();
        "matmul"
    }
}

impl Ran {
    /// Converts the output of a process.
    pub fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("meshc prints text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Asserts that the command succeeded.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }

    /// Asserts that the command failed with exit code 1, and that its message contains all `parts`.
    #[track_caller]
    pub fn fails(self, parts: &[&str]) -> Self {
        self.fails_with(1, parts)
    }

    /// Asserts that the command failed with this exit code, and that its message contains all `parts`.
    #[track_caller]
    pub fn fails_with(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "`{part}` is not in:\n{}", self.err);
        }
        self
    }
}

//! Running the built `meshc` in a folder of its own.
#![allow(dead_code)] // Every test file is a crate of its own and uses a part of this.

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

/// A case of the reference folder, which is `../shared/oracle` beside the source tree or where `MESH_ORACLE`
/// says; nothing, and a line that says so, where there is none.
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

/// Says so past the test harness, which keeps what passing tests print to itself.
pub fn say_skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Where standard error is closed nobody wants to know.
    let _ = std::io::stderr().write_all(format!("skipped {test}: {why}\n").as_bytes());
}

/// Settings of a model of a size that trains in milliseconds.
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

/// The same with experts.
pub fn tiny_switch() -> Vec<&'static str> {
    [&TINY[..], &["--set", "experts=8"]].concat()
}

/// Text of the source tree to train on.
pub fn text() -> String {
    home().join("mesh/src").display().to_string()
}

/// The CPU plugin, installed on first use like a user's.
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

/// A folder to work in.
pub struct Workplace {
    dir: TempDir,
}

/// What a command did.
pub struct Ran {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it printed on standard error.
    pub err: String,
}

impl Workplace {
    /// An empty one.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("folders can be made");
        fs::write(&path, contents).expect("files can be written");
        path
    }

    /// Names of everything in it, hidden files included, in order.
    pub fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("the folder can be read");
        let mut names: Vec<String> = entries
            .map(|e| e.expect("entries can be read").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// `meshc`, in this folder, with a cache that all tests share.
    pub fn meshc(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshc"));
        command.args(args).current_dir(self.path());
        for name in ["MESH_HOME", "MESH_PJRT_PLUGIN", "TPU_LIBRARY_PATH", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command.env("MESH_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache"));
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

    /// Names of the folders in one of its folders.
    pub fn folders(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(name)).expect("the folder can be read").flatten();
        let mut names: Vec<String> = entries
            .filter(|e| e.path().is_dir())
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// The lines of a file of metrics.
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
    /// From what it left.
    pub fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("meshc prints text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// It must have gone well.
    #[track_caller]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }

    /// It must have failed as a mistake of the user, with all of `parts` in its message.
    #[track_caller]
    pub fn fails(self, parts: &[&str]) -> Self {
        self.fails_with(1, parts)
    }

    /// It must have failed with this exit code, and all of `parts` in its message.
    #[track_caller]
    pub fn fails_with(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        for part in parts {
            assert!(self.err.contains(part), "`{part}` is not in:\n{}", self.err);
        }
        self
    }
}

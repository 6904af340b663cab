//! Shared libraries compiled by the tests with the C compiler.

#![allow(dead_code)] // Every test file is a crate of its own and uses a part of this.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that is removed when this is dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pjrt-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory can be made");
        TempDir(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file.
    pub fn write(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, contents).expect("a file can be written");
        path
    }

    /// Compiles C source to a shared library.
    pub fn library(&self, name: &str, source: &str) -> PathBuf {
        let c = self.write(&format!("{name}.c"), source.as_bytes());
        let library = self.0.join(format!("{name}.so"));
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-g", "-Wall", "-Werror", "-pthread", "-o"])
            .arg(&library)
            .arg(&c)
            .output()
            .expect("these tests need a C compiler called `cc`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        library
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // If it cannot be removed, it stays in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

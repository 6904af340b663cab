//! Files that are not usable plugins: each is refused with a message that says what is wrong, where, and what
//! to do.

#[path = "support/c.rs"]
mod c;

use c::TempDir;
use pjrt::{Error, Plugin};
use std::path::Path;

#[track_caller]
fn refusal(path: &Path) -> Error {
    Plugin::load(path).expect_err("must be refused")
}

/// Compiles a plugin with a table of `words` pointers that holds `functions`, and null elsewhere.
fn with_table(size: &str, major: i32, minor: i32, functions: &str) -> String {
    format!(
        "#include <stddef.h>
        static void *nothing(void *args) {{ return 0; }}
        static struct {{ size_t size; void *ext; size_t version_size; void *version_ext; int major, minor;
            void *functions[118]; }} api = {{ {size}, 0, 24, 0, {major}, {minor}, {{ {functions} }} }};
        void *use = (void *)nothing;
        void *GetPjrtApi(void) {{ return &api; }}"
    )
}

/// All entries filled with a function that does nothing.
const ALL: &str = "[0 ... 117] = (void *)nothing";

#[test]
fn no_file_at_all() {
    let error = refusal(Path::new("/no/such/plugin.so"));
    assert_eq!(
        error.to_string(),
        "cannot load the PJRT plugin /no/such/plugin.so: No such file or directory (os error 2); give the path of a \
         plugin's shared library (.so) for this machine"
    );
    let dir = TempDir::new("dir");
    assert!(refusal(dir.path()).to_string().contains("it is a directory"));
}

#[test]
fn not_a_library() {
    let dir = TempDir::new("text");
    for contents in [&b"This is not a library."[..], b"", b"\x7fELF but no more"] {
        let path = dir.write("plugin.so", contents);
        let error = refusal(&path);
        assert!(matches!(&error, Error::Load { .. }), "{error:?}");
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn no_entry_point() {
    let dir = TempDir::new("entry");
    let path = dir.library("other", "int GetSomethingElse(void) { return 1; }");
    let error = refusal(&path);
    assert!(matches!(&error, Error::NotAPlugin { .. }), "{error:?}");
    assert!(error.to_string().contains("is not a PJRT plugin: it does not export GetPjrtApi"), "{error}");
    let path = dir.library("null", "void *GetPjrtApi(void) { return 0; }");
    assert!(refusal(&path).to_string().contains("returned no function table"));
}

#[test]
fn a_table_too_small_for_its_header() {
    let dir = TempDir::new("header");
    let path = dir.library("small", &with_table("32", 0, 90, ALL));
    let error = refusal(&path);
    assert!(error.to_string().contains("its function table has 32 bytes, less than the 40"), "{error}");
}

#[test]
fn versions_we_cannot_speak() {
    let dir = TempDir::new("version");
    for (major, minor) in [(1, 0), (0, 56), (-1, 90)] {
        let name = format!("v{}_{minor}", major + 1);
        let path = dir.library(&name, &with_table("sizeof api", major, minor, ALL));
        let error = refusal(&path);
        assert!(matches!(&error, Error::Version { .. }), "{error:?}");
        let expected = format!("has API version {major}.{minor}, but this program needs 0.57 or newer");
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(error.to_string().contains("install a plugin"), "{error}");
    }
}

#[test]
fn functions_that_nothing_works_without() {
    let dir = TempDir::new("functions");
    // The first three handle errors, 5, 8 and 9 are about events.
    for (index, name) in [
        (0, "PJRT_Error_Destroy"),
        (1, "PJRT_Error_Message"),
        (2, "PJRT_Error_GetCode"),
        (5, "PJRT_Event_Destroy"),
        (8, "PJRT_Event_Await"),
        (9, "PJRT_Event_OnReady"),
    ] {
        let library = |case: &str, size: &str, functions: &str| {
            dir.library(&format!("{case}{index}"), &with_table(size, 0, 90, functions))
        };
        let null = library("null", "sizeof api", &format!("{ALL}, [{index}] = 0"));
        let cut = library("cut", &format!("40 + 8 * {index} + 7"), ALL);
        for path in [null, cut] {
            let error = refusal(&path);
            assert!(
                matches!(&error, Error::MissingFunction { function, .. } if *function == name),
                "{error:?}"
            );
            assert!(error.to_string().contains(&format!("(API 0.90) has no function {name}")), "{error}");
        }
    }
}

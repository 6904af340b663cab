//! New model packages (`meshc new`): a Cargo.toml that editors understand, a model, and a test.

use crate::{failure::failure, files::write_file, sources::home};
use anyhow::Result;
use std::path::{Path, PathBuf};

const MANIFEST: &str = include_str!("../new/Cargo.toml.in");
const MODEL: &str = include_str!("../new/src/main.rs");

/// Writes a new package to the folder `path`, which must not exist, and returns its files.
///
/// # Errors
/// The folder exists, its name is no name of a package, or it cannot be written.
pub fn create(path: &Path) -> Result<Vec<PathBuf>> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !is_valid || ["mesh", "models", "test", "core", "std"].contains(&name) {
        return Err(failure(
            format!("`{}` cannot be the name of a package", path.display()),
            "choose a name of ASCII letters, digits, `_` and `-` that begins with a letter, such as my_model",
        ));
    }
    if path.symlink_metadata().is_ok() {
        return Err(failure(format!("`{}` already exists", path.display()), "choose another name"));
    }
    let home = home()?;
    let home = home.to_str().ok_or_else(|| {
        failure(format!("the path `{}` is not Unicode", home.display()), "set MESH_HOME to another path")
    })?;
    // JSON strings are valid TOML strings; the template has the quotation marks.
    let home = serde_json::to_string(home)?;
    let files = [
        ("src/main.rs", MODEL.replace("NAME", name)),
        (".gitignore", "/target\n".to_owned()),
        // The manifest comes last: with it, the folder is a package.
        ("Cargo.toml", MANIFEST.replace("NAME", name).replace("HOME", home.trim_matches('"'))),
    ];
    files
        .into_iter()
        .map(|(file, text)| {
            let file = path.join(file);
            write_file(&file, text.as_bytes())?;
            Ok(file)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_package_has_a_manifest_a_model_and_a_test() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my_model");
        assert_eq!(create(&path).unwrap().len(), 3);
        let read = |file: &str| fs::read_to_string(path.join(file)).unwrap();
        let manifest = read("Cargo.toml");
        assert!(manifest.contains("name = \"my_model\"") && !manifest.contains("HOME"), "{manifest}");
        let model = read("src/main.rs");
        assert!(model.contains("name: \"my_model\".into()") && model.contains("#[test]"), "{model}");
        assert!(create(&path).unwrap_err().to_string().contains("already exists"));
        for wrong in ["1x", "a b", "mesh", "..", ""] {
            assert!(create(&dir.path().join(wrong)).is_err(), "{wrong}");
        }
    }
}

//! Embeds the sources of the crates that model programs need: `mesh` and `models`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = here.parent().expect("the crate is in a folder of the repository");
    let mut files = vec![root.join("Cargo.toml"), root.join("Cargo.lock"), root.join("LICENSE")];
    for name in ["mesh", "models"] {
        files.push(root.join(name).join("Cargo.toml"));
        add(&root.join(name).join("src"), &mut files)?;
    }
    // Cargo checks that the examples of `models` exist.
    let examples = fs::read_dir(root.join("models"))?.collect::<io::Result<Vec<_>>>()?;
    files.extend(examples.into_iter().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "rs")));
    files.sort();
    let mut text = "&[\n".to_owned();
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        let name = file.strip_prefix(root).expect("they are below the root");
        text +=
            &format!("({:?}, include_str!({:?})),\n", name.display().to_string(), file.display().to_string());
    }
    text += "]\n";
    for folder in ["mesh/src", "models/src"] {
        println!("cargo::rerun-if-changed={}", root.join(folder).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::write(out.join("sources.rs"), text)
}

/// Adds the files below a folder.
fn add(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { add(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

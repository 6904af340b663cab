//! Changes of the files of a model, for `meshc check --watch`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

/// Time between two looks at the files.
const INTERVAL: Duration = Duration::from_millis(200);
/// The deepest folder that is watched.
const DEPTH: usize = 8;

/// The files of a model: the file itself, and the Rust files and manifests beside it.
#[derive(Debug)]
pub struct Watched {
    root: PathBuf,
    seen: BTreeMap<PathBuf, Option<SystemTime>>,
}

impl Watched {
    /// Watches the files of the model `path` from now on.
    pub fn new(path: &Path) -> Self {
        let root = path.to_owned();
        let seen = files(&root);
        Self { root, seen }
    }

    /// Waits until a file is changed, added or removed, and then until nothing changes for a moment.
    pub fn wait(&mut self) {
        while !self.has_changed() {
            thread::sleep(INTERVAL);
        }
        // An editor may write several files.
        while self.has_changed() {
            thread::sleep(INTERVAL);
        }
    }

    /// True if a file was changed, added or removed since the last call.
    fn has_changed(&mut self) -> bool {
        let now = files(&self.root);
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}

fn files(root: &Path) -> BTreeMap<PathBuf, Option<SystemTime>> {
    let mut found = BTreeMap::new();
    let time = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    found.insert(root.to_owned(), time(root));
    // Modules of a model in Rust are beside it.
    let is_rust = root.extension().is_some_and(|e| e == "rs");
    let folder = if root.is_dir() { Some(root) } else { root.parent().filter(|_| is_rust) };
    let mut folders: Vec<(PathBuf, usize)> = folder.map(|dir| (dir.to_owned(), 0)).into_iter().collect();
    while let Some((folder, depth)) = folders.pop() {
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder && depth < DEPTH && name != "target" && !name.to_string_lossy().starts_with('.') {
                folders.push((path, depth + 1));
            } else if path.extension().is_some_and(|e| e == "rs" || e == "toml") {
                found.insert(path.clone(), time(&path));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_a_model_and_of_its_modules_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("m.rs"), "1").unwrap();
        let mut watched = Watched::new(&at("m.rs"));
        assert!(!watched.has_changed());
        fs::create_dir(at("layers")).unwrap();
        fs::write(at("layers/mod.rs"), "1").unwrap();
        assert!(watched.has_changed() && !watched.has_changed());
        fs::write(at("notes.txt"), "1").unwrap();
        assert!(!watched.has_changed());
        fs::remove_file(at("m.rs")).unwrap();
        assert!(watched.has_changed());
    }
}

//! Cache of the programs that model files print, valid until a source, the compiler or an argument changes.
//!
//! Each program has two files: `KEY.mesh` with the text, and `KEY.json` with the digests of the text and of
//! every source file it depends on. Both are written atomically; if they are damaged or stale, the model is
//! rebuilt.

use crate::{
    diagnostics::Sources,
    execute,
    files::write_file,
    package::{Built, Model},
};
use anyhow::{Context, Result};
use compiler::artefact::digest;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

/// Number of cached programs. The oldest are removed first.
const KEPT: usize = 64;

/// Digests of a cached program and of its dependencies.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Digest of the text.
    text: String,
    /// Digests of the sources.
    sources: BTreeMap<PathBuf, String>,
}

/// Returns the output of `model` for `args`, from the cache or from a run. Messages are passed to `say`.
pub fn program(model: &Model, args: &[String], sources: &Sources, say: fn(&str)) -> Result<String> {
    let folder = model.cache.join("programs");
    let key = folder.join(key(model, args));
    if let Some(text) = kept(&key) {
        return Ok(text);
    }
    // One process builds at a time; the others wait and find its result.
    let lock = model.cache.join("lock");
    let lock = File::create(&lock).with_context(|| format!("creating `{}`", lock.display()))?;
    lock.lock().context("locking the cache")?;
    if let Some(text) = kept(&key) {
        return Ok(text);
    }
    say(&format!("building {}", model.name));
    let prepared = model.prepared()?;
    let before = SystemTime::now();
    let built = model.build(&prepared)?;
    let text = execute::run(&built, &model.name, args, sources, say)?;
    // `None` if a source changed during the build: the text may come from either version.
    if let Some(record) = record(&built, &text, before) {
        let record = serde_json::to_vec(&record)?;
        let written = write_file(&key.with_extension("mesh"), text.as_bytes())
            .and_then(|()| write_file(&key.with_extension("json"), &record));
        match written {
            Ok(()) => prune(&folder),
            // The program is complete; only the next start builds it again.
            Err(error) => say(&format!("warning: the program of {} is not cached: {error:#}", model.name)),
        }
    }
    Ok(text)
}

/// Returns the key of a program: a digest of everything it depends on except the sources.
fn key(model: &Model, args: &[String]) -> String {
    let rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV").output();
    let rustc = rustc.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let parts = (env!("CARGO_PKG_VERSION"), &model.path, &model.name, &model.home, rustc, args);
    digest(format!("{parts:?}").as_bytes())
}

fn kept(key: &Path) -> Option<String> {
    let record: Record = serde_json::from_slice(&fs::read(key.with_extension("json")).ok()?).ok()?;
    let text = fs::read_to_string(key.with_extension("mesh")).ok()?;
    let same =
        |(path, known): (&PathBuf, &String)| fs::read(path).is_ok_and(|bytes| digest(&bytes) == *known);
    (digest(text.as_bytes()) == record.text && record.sources.iter().all(same)).then_some(text)
}

fn record(built: &Built, text: &str, before: SystemTime) -> Option<Record> {
    let mut sources = BTreeMap::new();
    for path in &built.sources {
        let changed = fs::metadata(path).and_then(|m| m.modified()).ok()?;
        if changed >= before {
            return None;
        }
        sources.insert(path.clone(), digest(&fs::read(path).ok()?));
    }
    Some(Record { text: digest(text.as_bytes()), sources })
}

/// Removes the oldest programs, best effort.
fn prune(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let age = |path: &PathBuf| fs::metadata(path).and_then(|m| m.modified()).ok();
    let mut records: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    records.retain(|path| path.extension().is_some_and(|e| e == "json"));
    records.sort_by_key(age);
    for old in records.iter().rev().skip(KEPT) {
        let _ = fs::remove_file(old);
        let _ = fs::remove_file(old.with_extension("mesh"));
    }
}

//! From a model file to a program.
//!
//! A model in Rust is built ([`package`]) and run ([`program`]) once for given sources and arguments; what it
//! printed is kept ([`store`]). A `.mesh` file is read as it is. The model of an imported checkpoint is made here
//! ([`origin`]); [`experts`] makes checkpoints with more or fewer experts.

pub mod experts;
pub mod origin;
mod package;
mod program;
mod store;

pub use origin::{Origin, settled};

use crate::{
    diagnostics::{Mistakes, Sources},
    failure::failure,
};
use anyhow::{Context, Result};
use mesh::{Diagnostics, Module};
use runtime::checkpoint::Checkpoint;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A model and its settings.
#[derive(clap::Args, Clone, Debug)]
pub struct ModelArgs {
    /// Precision of the model: f32, selective (bf16 but for routers and sums) or bf16
    #[arg(long)]
    pub dtype: Option<String>,
    /// A setting of the model; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

impl ModelArgs {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        self.dtype.is_none() && self.settings.is_empty()
    }

    /// As the arguments of a model program.
    fn words(&self) -> Vec<String> {
        let dtype = self.dtype.iter().flat_map(|d| ["--dtype".to_owned(), d.clone()]);
        dtype.chain(self.settings.iter().flat_map(|s| ["--set".to_owned(), s.clone()])).collect()
    }
}

/// A program as its author wrote it.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program; not verified yet.
    pub module: Module,
    /// SHA-256 of its canonical text.
    pub sha256: String,
    /// The model file as the user named it.
    pub name: String,
    /// Where its lines are.
    pub sources: Sources,
}

impl Program {
    /// Mistakes found in it.
    pub fn mistakes(&self, diagnostics: &Diagnostics) -> anyhow::Error {
        Mistakes::new(&self.name, diagnostics, &self.sources).into()
    }
}

/// Makes the program of a model file.
pub fn load(path: &Path, args: &ModelArgs) -> Result<Program> {
    let name = path.display().to_string();
    if is_checkpoint(path) {
        return Origin::of(&Checkpoint::open(path)?, None, args)?.program(path);
    }
    if !path.is_file() {
        let what = match path.is_dir() {
            true => format!("`{name}` is a folder, not a model"),
            false => format!("there is no model file `{name}`"),
        };
        return Err(failure(
            what,
            "name a model program (.rs), a program as text (.mesh), or the checkpoint of an imported model",
        ));
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("rs") => rust(path, name, args),
        Some("mesh") => text(path, name, args),
        Some(_) | None => Err(failure(
            format!("`{name}` is neither a model program nor a program as text"),
            "give the file the ending .rs or .mesh",
        )),
    }
}

/// Whether this is a folder with a checkpoint, or the URL of one, whose facts may say which model it is of.
pub fn is_checkpoint(path: &Path) -> bool {
    runtime::checkpoint::is_checkpoint(path)
}

fn rust(path: &Path, name: String, args: &ModelArgs) -> Result<Program> {
    let model = package::Model::new(path, &name)?;
    let sources = model.sources();
    let printed = store::program(&model, &args.words(), &sources)?;
    let module = mesh::text::parse(&printed, &name)
        .map_err(|diagnostics| not_a_program(&name, &printed, &diagnostics))?;
    Ok(finish(module, name, sources))
}

fn text(path: &Path, name: String, args: &ModelArgs) -> Result<Program> {
    if !args.is_empty() {
        return Err(failure(
            format!("`{name}` is a finished program, which has no settings"),
            "leave --dtype and --set out, or give the model program (.rs) it came from",
        ));
    }
    let bytes = fs::read(path).with_context(|| format!("reading `{name}`"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        failure(format!("`{name}` is not text: byte {at} is not UTF-8"), "name a program in .mesh text")
    })?;
    let sources = Sources::default();
    let module = mesh::text::parse_source(&text, &name)
        .map_err(|diagnostics| Mistakes::new(&name, &diagnostics, &sources))?;
    Ok(finish(module, name, sources))
}

fn finish(module: Module, name: String, sources: Sources) -> Program {
    let sha256 = compiler::artefact::digest(mesh::text::print(&module).as_bytes());
    Program { module, sha256, name, sources }
}

/// The error for a model that printed something that is no program.
fn not_a_program(name: &str, printed: &str, diagnostics: &Diagnostics) -> anyhow::Error {
    let place = diagnostics.0.first();
    let line = place.and_then(|d| d.site.as_ref()).map_or(0, |s| s.line as usize);
    let shown =
        printed.lines().nth(line.saturating_sub(1)).unwrap_or("").chars().take(120).collect::<String>();
    let why = place.map_or_else(String::new, |d| d.message.clone());
    let what = match printed.trim().is_empty() {
        true => format!("model `{name}` printed nothing"),
        false => format!("what model `{name}` printed is no program: line {line}, `{shown}`: {why}"),
    };
    failure(
        what,
        "a model program prints its program and nothing else: end `main` with `models::main(…)` or \
         `mesh::dsl::main(…)`, and print your own words with eprintln!",
    )
}

/// Where meshc keeps what it can make again.
pub fn cache() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let found = folder("MESH_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|p| p.join("mesh")))
        .or_else(|| folder("HOME").map(|p| p.join(".cache/mesh")));
    let cache =
        found.ok_or_else(|| failure("there is no place for the cache", "set MESH_CACHE to a folder"))?;
    std::path::absolute(&cache).with_context(|| format!("finding the cache `{}`", cache.display()))
}

//! Programs from model files, built-in models and checkpoints.
//!
//! A model in Rust is built (`package`) and run (`execute`) once for given sources and arguments, and its
//! output is cached (`store`). A `.mesh` file is parsed. The model of a checkpoint is described by the
//! checkpoint's facts ([`interchange::Origin`]).

use crate::{
    builtin,
    diagnostics::{Mistakes, Sources},
    failure::failure,
    package, padding, parts,
    request::Request,
    settings::Settings,
    store,
    subject::{has_checkpoints, is_package, newest},
};
use anyhow::{Context, Result};
use compiler::pipeline::Placement;
use interchange::Origin;
use mesh::{
    Diagnostics, Module, Site,
    task::{self, check::Purpose},
};
use std::path::Path;

/// A program before compilation.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program, not verified.
    pub module: Module,
    /// SHA-256 of its canonical text.
    pub sha256: String,
    /// The path of the model as the user gave it.
    pub name: String,
    /// The places of its source files.
    pub sources: Sources,
}

impl Program {
    /// Finishes a program that was built in this process. `name` is for messages.
    pub fn built(program: mesh::dsl::Program, name: &str) -> Result<Self> {
        let sources = Sources::default();
        let module = program.finish().map_err(|diagnostics| Mistakes::new(name, &diagnostics, &sources))?;
        Ok(finish(module, name.to_owned(), sources))
    }

    /// Refuses a program that lacks something for `purpose`.
    ///
    /// # Errors
    /// Lists everything that is missing.
    pub fn require(&self, purpose: Purpose) -> Result<()> {
        let missing = task::check::missing(&self.module, purpose);
        if missing.is_empty() {
            return Ok(());
        }
        Err(failure(
            format!("`{}` cannot {}:\n  - {}", self.name, purpose.verb(), missing.join("\n  - ")),
            "docs/train-contract.md describes what a program needs",
        ))
    }

    /// Returns the error for mistakes in the program.
    pub fn mistakes(&self, diagnostics: &Diagnostics) -> anyhow::Error {
        Mistakes::new(&self.name, diagnostics, &self.sources).into()
    }
}

/// Loads the program of a model file, of a built-in model, or of the model that a checkpoint describes, for
/// the mesh of the request, and shows notes about the request. One device needs no padding.
pub fn load(request: &Request) -> Result<Program> {
    let program = load_for_search(request)?;
    let unpadded = padding::dropped(&program.module, request);
    let other = parts::needed(&program.module, unpadded.as_ref().unwrap_or(request)).or(unpadded);
    other.map_or(Ok(program), |request| load_variant(&request))
}

/// [`load`] where the mesh is not known yet: the program has the padding that its settings say.
pub fn load_for_search(request: &Request) -> Result<Program> {
    let program = load_variant(request)?;
    let notes = builtin::shadowed(&request.subject).into_iter();
    notes.chain(request.settings.renamed(&program.module)).for_each(|note| (request.host.say)(&note));
    Ok(program)
}

/// [`load`] without notes, for searches that load a model many times.
pub fn load_variant(request: &Request) -> Result<Program> {
    let (path, settings) = (&*request.subject, &request.settings);
    let name = path.display().to_string();
    if let Some(preset) = builtin::named(path) {
        return Ok(finish(builtin::module(preset, settings)?, name, Sources::default()));
    }
    if is_package(path) {
        return rust(path, name, request);
    }
    if has_checkpoints(path) {
        let origin = Origin::of(&newest(path, request.host.say)?, None, &settings.overrides()?)?;
        let site = Site::new(name, 0, 0, "");
        return Program::built(models::program(&origin.config()?, &site), &origin.name);
    }
    if !path.is_file() {
        let what = if path.is_dir() {
            format!("`{name}` is a directory, not a model")
        } else {
            format!("there is no model file and no built-in model `{name}`")
        };
        return Err(failure(what, builtin::advice(&name)));
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("rs") => rust(path, name, request),
        Some("mesh") => text(path, name, settings),
        Some(_) | None => Err(failure(
            format!("`{name}` is neither a model program nor program text"),
            "name a file that ends in .rs or .mesh",
        )),
    }
}

/// [`load_variant`] for a placement that a search found.
pub fn load_placed(request: &Request, placement: &Placement) -> Result<Program> {
    let program = load_variant(request)?;
    match parts::entry(&program.module, request, placement) {
        Some(entry) => load_variant(&request.scheduled(&[entry])),
        None => Ok(program),
    }
}

/// Removes the functions that are not in `names`, unless `names` is empty.
///
/// # Errors
/// A name that is not that of a function.
pub fn keep_functions(module: &mut Module, names: &[String]) -> Result<()> {
    let has = |name: &&String| module.functions.iter().any(|f| *f.name == **name);
    if let Some(unknown) = names.iter().find(|name| !has(name)) {
        let known: Vec<&str> = module.functions.iter().map(|f| &*f.name).collect();
        return Err(failure(
            format!("`--function {unknown}`: the program has no function `{unknown}`"),
            format!("its functions are {}", known.join(", ")),
        ));
    }
    module.functions.retain(|f| names.is_empty() || names.iter().any(|name| **name == *f.name));
    Ok(())
}

fn rust(path: &Path, name: String, request: &Request) -> Result<Program> {
    let model = package::Model::new(path, &name)?;
    let sources = model.sources();
    let printed = store::program(&model, &request.settings.words()?, &sources, request.host.say)?;
    let module = mesh::text::parse(&printed, &name)
        .map_err(|diagnostics| not_a_program(&name, &printed, &diagnostics))?;
    Ok(finish(module, name, sources))
}

fn text(path: &Path, name: String, settings: &Settings) -> Result<Program> {
    if !settings.is_empty() {
        return Err(failure(
            format!("`{name}` is program text, which has no settings"),
            "leave out --dtype, --set and --schedule, or give the model program (.rs) that it came from",
        ));
    }
    let bytes = proto::regular::read(path).with_context(|| format!("reading `{name}`"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        failure(format!("`{name}` is not text: byte {at} is not UTF-8"), "name a program in .mesh text")
    })?;
    let sources = Sources::default();
    let module = mesh::text::parse_source(&text, &name)
        .map_err(|diagnostics| Mistakes::new(&name, &diagnostics, &sources))?;
    Ok(finish(module, name, sources))
}

/// A program with its digest.
fn finish(module: Module, name: String, sources: Sources) -> Program {
    let sha256 = compiler::artefact::digest(mesh::text::print(&module).as_bytes());
    Program { module, sha256, name, sources }
}

/// Returns the error for a model whose output is not a program.
fn not_a_program(name: &str, printed: &str, diagnostics: &Diagnostics) -> anyhow::Error {
    let place = diagnostics.0.first();
    let line = place.and_then(|d| d.site.as_ref()).map_or(0, |s| s.line as usize);
    let shown =
        printed.lines().nth(line.saturating_sub(1)).unwrap_or("").chars().take(120).collect::<String>();
    let why = place.map_or_else(String::new, |d| d.message.clone());
    let what = if printed.trim().is_empty() {
        format!("model `{name}` printed nothing")
    } else {
        format!("the output of model `{name}` is not a program: line {line}, `{shown}`: {why}")
    };
    failure(
        what,
        "a model program prints its program and nothing else: end `main` with `models::main(…)` or \
         `mesh::dsl::main(…)`, and print your own words with eprintln!",
    )
}

//! Training on the CPU plugin: compiles models and opens sessions.

use crate::plugin;
use compiler::{
    artefact::Settings,
    pipeline::{self, Placement},
};
use data::{Corpus, Mixture, Reading, Tokens};
use mesh::{Function, Layout, Mesh, Module, Site};
use models::{Config, LrSchedule, Optimizer, Switch};
use prost::Message;
use runtime::{
    Artefact, Contract, Session,
    train::{Observer, Step},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Returns a small byte-level Switch Transformer with all noise, whose dims can be split over eight devices.
pub fn small_switch() -> Config {
    Config {
        name: "small_switch".into(),
        batch: 8,
        input_length: 32,
        target_length: 16,
        d_model: 32,
        d_ff: 64,
        heads: 8,
        d_kv: 8,
        encoder_layers: 2,
        decoder_layers: 2,
        switch: Some(Switch::default()),
        optimizer: Optimizer {
            schedule: LrSchedule { rate: 5e-3, warmup: 5, ..LrSchedule::default() },
            ..models::config::small_model_optimizer()
        },
        ..Config::default()
    }
}

/// Opens a session on the test client with the model's layout and the given state layout.
#[track_caller]
pub fn session(config: &Config, mesh: &str, state_layout: &str) -> Session {
    let module = models::program(config, &Site::default()).finish();
    let module = module.unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"));
    session_of(module, mesh, &config.layout(), state_layout)
}

/// Opens a session on the test client for any program. Rules of `layout` for axes that are not in `mesh` are
/// ignored.
#[track_caller]
pub fn session_of(module: Module, mesh: &str, layout: &str, state_layout: &str) -> Session {
    let artefact = artefact_of(module, (mesh, layout, state_layout), false);
    let session = Session::with_client(plugin::client(), artefact);
    let mut session = session.expect("eight devices are enough");
    session.set_executable_cache(plugin::executable_cache());
    session
}

/// An artefact of the model with its own layout, whose outputs are whole on every device.
#[track_caller]
pub fn artefact_for_processes(config: &Config, mesh: &str, state_layout: &str) -> Artefact {
    let module = models::program(config, &Site::default()).finish();
    let module = module.unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"));
    artefact_of(module, (mesh, &config.layout(), state_layout), true)
}

/// An artefact of a program in `.mesh` text.
#[track_caller]
pub fn artefact_of_text(text: &str, mesh: &str, layout: &str) -> Artefact {
    let module = mesh::text::parse(text, "test.mesh").unwrap_or_else(|d| panic!("{d}"));
    artefact_of(module, (mesh, layout, ""), false)
}

/// An artefact of a program in `.mesh` text, whose outputs are whole on every device.
#[track_caller]
pub fn artefact_of_text_for_processes(text: &str, mesh: &str, layout: &str) -> Artefact {
    let module = mesh::text::parse(text, "test.mesh").unwrap_or_else(|d| panic!("{d}"));
    artefact_of(module, (mesh, layout, ""), true)
}

/// The files of an artefact of a program in `.mesh` text, by name, without that of their digests.
#[track_caller]
pub fn files_of_text(text: &str, mesh: &str, layout: &str) -> Vec<(String, Vec<u8>)> {
    let module = mesh::text::parse(text, "test.mesh").unwrap_or_else(|d| panic!("{d}"));
    let built = built(module, (mesh, layout, ""), false);
    let manifest = ("manifest.pb".to_owned(), built.manifest.encode_to_vec());
    built.files.into_iter().chain([manifest]).collect()
}

/// An artefact for a mesh, a layout and a state layout.
#[track_caller]
fn artefact_of(module: Module, placement: (&str, &str, &str), whole_outputs: bool) -> Artefact {
    let built = built(module, placement, whole_outputs);
    let artefact = Artefact::new("test".into(), built.manifest, built.files.into_iter().collect());
    artefact.expect("what the compiler writes is an artefact")
}

#[track_caller]
fn built(module: Module, placement: (&str, &str, &str), whole_outputs: bool) -> compiler::artefact::Artefact {
    let (mesh, layout, state_layout) = placement;
    let mesh = Mesh::parse(mesh).expect("the test's mesh is legal");
    let parse = |text: &str| Layout::parse(text).expect("the test's layouts are legal");
    let layout = parse(layout).restricted_to(&mesh);
    let state_layout = parse(state_layout);
    let placement = Placement { mesh, layout: layout.clone(), state_layout: state_layout.clone() };
    let observe = &mut pipeline::unobserved;
    let mut local = pipeline::compile(module, &placement, observe).unwrap_or_else(|d| panic!("{d}"));
    if whole_outputs {
        local = pipeline::replicate_outputs(local).unwrap_or_else(|d| panic!("{d}"));
    }
    let cost = |f: &Function| {
        let report = report::report(local.module(), Some(&f.name)).unwrap_or_else(|d| panic!("{d}"));
        (f.name.to_string(), report.cost())
    };
    let costs = local.module().functions.iter().map(cost).collect();
    let flags = plugin::flags();
    let settings =
        Settings { target: "cpu".into(), layout, state_layout, costs, flags, ..Settings::default() };
    pipeline::emit(&local, &settings, observe).unwrap_or_else(|d| panic!("{d}"))
}

/// Makes batches for `session` from a file or folder of the repository.
#[track_caller]
pub fn source(session: &Session, paths: &[&str], held_out: f64) -> Arc<Mixture> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path)).collect();
    let tokens = Tokens::open(&paths, &Reading::default(), None).unwrap_or_else(|e| panic!("{e}"));
    let spec = Contract::batch_spec(session.artefact()).unwrap_or_else(|e| panic!("{e}"));
    let options = data::Options { held_out, ..data::Options::default() };
    let corpus = Corpus { name: String::new(), rate: None, tokens };
    Arc::new(Mixture::new(vec![corpus], spec, &options).unwrap_or_else(|e| panic!("{e}")))
}

/// An observer that records all steps.
#[derive(Debug, Default)]
pub struct Steps(pub Vec<Step>);

impl Observer for Steps {
    fn on_step(&mut self, step: &Step) {
        self.0.push(step.clone());
    }
}

impl Steps {
    /// Returns the losses of all steps.
    pub fn losses(&self) -> Vec<f64> {
        self.0.iter().map(|step| step.loss).collect()
    }
}

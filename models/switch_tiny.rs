//! A small Switch Transformer over bytes: encoder and decoder of two layers each, all of them sparse.
//!
//! `meshc train models/switch_tiny.rs --data FILES… --mesh data=2,expert=2,model=2 --steps 300`
//!
//! A model file needs only the numbers that differ from T5's. `meshc train switch_tiny` runs the built-in
//! model of the same numbers.

use mesh::ir::Remat;
use models::{Config, Schedule, Switch, config::small_model_optimizer};
use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(config())
}

/// The model.
pub fn config() -> Config {
    Config {
        name: "switch_tiny".into(),
        batch: 32,
        input_length: 128,
        // Span corruption of 128 tokens has targets of 29.
        target_length: 32,
        vocab: 384,
        d_model: 256,
        d_ff: 1024,
        heads: 8,
        d_kv: 32,
        encoder_layers: 2,
        decoder_layers: 2,
        switch: Some(Switch { experts: 8, sparse_step: 1, ..Switch::default() }),
        optimizer: small_model_optimizer(),
        // On eight virtual devices of one laptop, attention weights take a tenth of a step's memory.
        schedule: Schedule { remat: Remat::SaveLong, ..Schedule::default() },
        ..Config::default()
    }
}

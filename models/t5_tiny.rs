//! The dense twin of `switch_tiny`: the same FLOPs per token, without experts.
//!
//! `meshc train models/t5_tiny.rs --data FILES… --mesh data=4,model=2 --steps 300`

use models::{Config, config::small_model_optimizer};
use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(config())
}

/// The model.
pub fn config() -> Config {
    Config {
        name: "t5_tiny".into(),
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
        switch: None,
        optimizer: small_model_optimizer(),
        ..Config::default()
    }
}

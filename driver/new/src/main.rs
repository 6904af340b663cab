//! A small Switch Transformer over bytes.
//!
//! `meshc check .` reports mistakes, `meshc train . --data FILES…` trains, and `--set KEY=VALUE` overrides
//! any number below.

use models::{Config, Switch};
use std::process::ExitCode;

fn main() -> ExitCode {
    models::main(config())
}

/// Returns the model. Numbers that are not given are those of T5.
pub fn config() -> Config {
    Config {
        name: "NAME".into(),
        batch: 16,
        input_length: 64,
        target_length: 64,
        vocab: 384,
        d_model: 64,
        d_ff: 128,
        heads: 4,
        d_kv: 16,
        encoder_layers: 2,
        decoder_layers: 2,
        switch: Some(Switch { experts: 4, sparse_step: 2, ..Switch::default() }),
        optimizer: models::config::small_model_optimizer(),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::Site;

    #[test]
    fn the_program_is_valid() {
        let program = models::program(&config(), &Site::new("test", 0, 0, ""));
        let module = program.finish().unwrap_or_else(|mistakes| panic!("{mistakes}"));
        for function in ["init", "train_step", "eval_step"] {
            assert!(module.function(function).is_some(), "there is no {function}");
        }
    }
}

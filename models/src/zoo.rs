//! Published models: T5 (Raffel et al. 2020), the Switch Transformers (Fedus et al. 2022, Table 9) and
//! their multilingual versions, each a [`Config`] of a few lines.
//!
//! The paper's Table 9 and the released checkpoints differ in places. A plain name is the released model,
//! `_table9` the model of the table. Parameter counts and FLOPs that the paper states match the released
//! sizes unless a preset says otherwise. Batches have 2^20 tokens, as in the paper. Tokens compete for
//! expert slots within one sequence, so that a layout that shards the batch shards the groups; the released
//! code has groups of 2048 to 8192 tokens (`--set group_size=8192`).

use crate::{
    Activation, Config, LrSchedule, Method, Optimizer, Schedule, Switch,
    config::{Positions, small_model_optimizer},
};
use mesh::{ir::Remat, task::Objective};

/// Settings of pre-training: inputs of 512 and targets of 114 tokens, Adafactor, no dropout.
fn pretraining(name: &str) -> Config {
    Config {
        name: name.into(),
        batch: 2048,
        input_length: 512,
        target_length: 114,
        vocab: 32128,
        d_kv: 64,
        dropout: 0.0,
        schedule: saving(Remat::SaveContractions),
        optimizer: Optimizer {
            method: Method::adafactor(),
            schedule: LrSchedule::t5(1.0, 10_000),
            clip: 0.0,
            ..Optimizer::default()
        },
        ..Config::default()
    }
}

/// A schedule with this remat policy.
fn saving(remat: Remat) -> Schedule {
    Schedule { remat, ..Schedule::default() }
}

/// A model whose encoder and decoder have these sizes.
fn sized(name: &str, d_model: usize, d_ff: usize, heads: usize, layers: usize) -> Config {
    Config { d_model, d_ff, heads, encoder_layers: layers, decoder_layers: layers, ..pretraining(name) }
}

/// T5 1.1: gated GELU and a separate output projection.
fn gated(config: Config) -> Config {
    Config { activation: Activation::GatedGelu, tied: false, ..config }
}

/// The multilingual vocabulary and lengths of mT5.
fn multilingual(config: Config) -> Config {
    Config { vocab: 250_112, batch: 1024, input_length: 1024, target_length: 229, ..config }
}

/// Experts in every `sparse_step`-th layer, with the capacities of the released code.
fn sparse(config: Config, experts: usize, sparse_step: usize) -> Config {
    Config { switch: Some(Switch { experts, sparse_step, ..Switch::default() }), ..config }
}

/// Other capacities: the factors in training and evaluation, and the minimum number of expert slots.
fn capacities(
    config: Config,
    capacity_factor: f64,
    eval_capacity_factor: f64,
    min_capacity: usize,
) -> Config {
    let with = |s| Switch { capacity_factor, eval_capacity_factor, min_capacity, ..s };
    Config { switch: config.switch.map(with), ..config }
}

/// T5 1.0 Small: 60 million parameters.
pub fn t5_small() -> Config {
    sized("t5_small", 512, 2048, 8, 6)
}

/// T5 1.0 Base: 223 million parameters, 124 billion FLOPs per sequence.
pub fn t5_base() -> Config {
    sized("t5_base", 768, 3072, 12, 12)
}

/// T5 1.0 Large: 738 million parameters, 425 billion FLOPs per sequence.
pub fn t5_large() -> Config {
    sized("t5_large", 1024, 4096, 16, 24)
}

/// T5 1.0 11B: narrow residual stream, wide layers.
pub fn t5_11b() -> Config {
    Config { d_kv: 128, ..sized("t5_11b", 1024, 65_536, 128, 24) }
}

/// T5 1.1 Small.
pub fn t5_v1_1_small() -> Config {
    gated(sized("t5_v1_1_small", 512, 1024, 6, 8))
}

/// T5 1.1 Base: the T5-Base of Table 9, with a separate output projection.
pub fn t5_v1_1_base() -> Config {
    gated(sized("t5_v1_1_base", 768, 2048, 12, 12))
}

/// T5 1.1 Large.
pub fn t5_v1_1_large() -> Config {
    gated(sized("t5_v1_1_large", 1024, 2816, 16, 24))
}

/// T5 1.1 XXL, the paper's T5-XXL: 11 billion parameters, 6.3 trillion FLOPs per sequence.
pub fn t5_v1_1_xxl() -> Config {
    gated(sized("t5_v1_1_xxl", 4096, 10_240, 64, 24))
}

/// Switch-Base with this many experts (8 to 256 were released) in every other layer. With 128 it has 7.4
/// billion parameters and the FLOPs of T5-Base.
pub fn switch_base(experts: usize) -> Config {
    sparse(Config { name: "switch_base".into(), ..t5_base() }, experts, 2)
}

/// Switch-Base of Table 9: gated layers, two thirds as wide; the same parameters and FLOPs.
pub fn switch_base_table9() -> Config {
    let dense = Config { d_ff: 2048, activation: Activation::GatedGelu, ..t5_base() };
    sparse(Config { name: "switch_base_table9".into(), ..dense }, 128, 2)
}

/// MoE-Base, the paper's baseline for Switch-Base: every token uses two experts.
pub fn moe_base() -> Config {
    let switch = Switch { sparse_step: 2, ..Switch::top_2(128) };
    Config { name: "moe_base".into(), switch: Some(switch), ..t5_base() }
}

/// Switch-Large: 26.3 billion parameters, 425 billion FLOPs per sequence.
pub fn switch_large() -> Config {
    sparse(Config { name: "switch_large".into(), ..t5_large() }, 128, 2)
}

/// Switch-Large of Table 9, gated: 27.1 billion parameters and 433 billion FLOPs, which differs from the
/// counts in the table.
pub fn switch_large_table9() -> Config {
    let dense = Config { d_ff: 2816, activation: Activation::GatedGelu, ..t5_large() };
    sparse(Config { name: "switch_large_table9".into(), ..dense }, 128, 2)
}

/// Switch-XXL: 394.5 billion parameters, 6.3 trillion FLOPs per sequence. The paper's count assumes an
/// output projection tied to the embedding; the released model has its own (`--set tied=false`), 0.13
/// billion more.
pub fn switch_xxl() -> Config {
    let dense = Config {
        name: "switch_xxl".into(),
        tied: true,
        schedule: saving(Remat::SaveCarries),
        ..t5_v1_1_xxl()
    };
    capacities(sparse(dense, 128, 2), 1.25, 4.0, 2)
}

/// Switch-XXL of Table 9: 64 experts, which gives 201.3 billion parameters and not the table's 395.
pub fn switch_xxl_table9() -> Config {
    let dense = Config { name: "switch_xxl_table9".into(), ..switch_xxl() };
    capacities(sparse(dense, 64, 2), 1.25, 4.0, 2)
}

/// Switch-C, experts in every layer: 1.571 trillion parameters, 869 billion FLOPs per sequence.
pub fn switch_c() -> Config {
    let dense =
        Config { tied: false, schedule: saving(Remat::SaveCarries), ..sized("switch_c", 2080, 6144, 30, 15) };
    capacities(sparse(dense, 2048, 1), 1.0, 2.0, 2)
}

/// Switch-C of Table 9, with 32 heads: within half a percent of the 890 billion FLOPs that the paper states.
pub fn switch_c_table9() -> Config {
    Config { name: "switch_c_table9".into(), heads: 32, ..switch_c() }
}

/// mT5-Base: T5 1.1 Base over 101 languages.
pub fn mt5_base() -> Config {
    multilingual(Config { name: "mt5_base".into(), ..t5_v1_1_base() })
}

/// mSwitch-Base: mT5-Base with 128 experts in every other layer.
pub fn mswitch_base() -> Config {
    sparse(Config { name: "mswitch_base".into(), ..mt5_base() }, 128, 2)
}

/// A T5 with default sizes; settings, such as those of an imported checkpoint, change them. Imported
/// checkpoints state no lengths, and generate up to as many tokens as they read.
pub fn t5() -> Config {
    Config { name: "t5".into(), target_length: 128, ..Config::default() }
}

/// [`t5`] with Switch layers.
pub fn switch() -> Config {
    Config { name: "switch".into(), switch: Some(Switch::default()), ..t5() }
}

/// A small Switch Transformer over bytes, for trials: two layers in each stack, all of them sparse.
pub fn switch_tiny() -> Config {
    Config {
        name: "switch_tiny".into(),
        switch: Some(Switch { experts: 8, sparse_step: 1, ..Switch::default() }),
        // On eight virtual devices of one laptop, attention weights take a tenth of a step's memory.
        schedule: saving(Remat::SaveLong),
        ..t5_tiny()
    }
}

/// A decoder-only model with the sizes of an encoder-decoder, and as many layers as both stacks: rotary
/// positions, rows of 1024 tokens, batches of 2^20 tokens.
fn decoder_only(name: &str, config: Config) -> Config {
    Config {
        name: name.into(),
        batch: 1024,
        input_length: 0,
        target_length: 1024,
        objective: Objective::Lm,
        decoder_layers: config.encoder_layers + config.decoder_layers,
        encoder_layers: 0,
        positions: Positions::Rope,
        ..config
    }
}

/// A decoder-only model with the sizes of Switch-Base and 24 layers.
pub fn switch_gpt_base() -> Config {
    decoder_only("switch_gpt_base", switch_base(128))
}

/// A decoder-only model with the sizes of Switch-Large and 48 layers.
pub fn switch_gpt_large() -> Config {
    decoder_only("switch_gpt_large", switch_large())
}

/// A decoder-only model with the sizes of Switch-XXL and 48 layers.
pub fn switch_gpt_xxl() -> Config {
    decoder_only("switch_gpt_xxl", switch_xxl())
}

/// A small decoder-only model over bytes, for trials: two sparse layers with gated experts, and heads of keys
/// and values that two query heads share.
pub fn switch_gpt_tiny() -> Config {
    let sizes = Config { encoder_layers: 0, activation: Activation::GatedSilu, kv_heads: 4, ..switch_tiny() };
    Config { batch: 32, target_length: 128, ..decoder_only("switch_gpt_tiny", sizes) }
}

/// The dense twin of [`switch_tiny`]: the same FLOPs per token, without experts.
pub fn t5_tiny() -> Config {
    Config {
        name: "t5_tiny".into(),
        batch: 32,
        input_length: 128,
        target_length: 32,
        vocab: 384,
        d_model: 256,
        d_ff: 1024,
        heads: 8,
        d_kv: 32,
        encoder_layers: 2,
        decoder_layers: 2,
        optimizer: small_model_optimizer(),
        ..Config::default()
    }
}

/// A built-in model.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Its description, in one line.
    pub summary: &'static str,
    /// Makes its configuration.
    pub config: fn() -> Config,
}

const fn preset(name: &'static str, summary: &'static str, config: fn() -> Config) -> Preset {
    Preset { name, summary, config }
}

/// All built-in models.
pub const ALL: [Preset; 27] = [
    preset("switch_tiny", "a small Switch Transformer over bytes, for trials", switch_tiny),
    preset("t5_tiny", "the dense twin of switch_tiny", t5_tiny),
    preset("switch_base", "Switch-Base with 128 experts (--set experts=8 … 256), 7.4B parameters", || {
        switch_base(128)
    }),
    preset("switch_base_table9", "Switch-Base of Table 9, gated", switch_base_table9),
    preset("moe_base", "MoE-Base: Switch-Base with top-2 routing", moe_base),
    preset("switch_large", "Switch-Large, 26.3B parameters", switch_large),
    preset("switch_large_table9", "Switch-Large of Table 9, gated, 27.1B parameters", switch_large_table9),
    preset("switch_xxl", "Switch-XXL, 394.5B parameters", switch_xxl),
    preset("switch_xxl_table9", "Switch-XXL of Table 9, 64 experts, 201.3B parameters", switch_xxl_table9),
    preset("switch_c", "Switch-C, 2048 experts in every layer, 1.571T parameters", switch_c),
    preset("switch_c_table9", "Switch-C of Table 9, 32 heads", switch_c_table9),
    preset("mswitch_base", "mSwitch-Base: mT5-Base with 128 experts", mswitch_base),
    preset("switch_gpt_tiny", "a small decoder-only Switch model over bytes, for trials", switch_gpt_tiny),
    preset("switch_gpt_base", "decoder-only, with the sizes of Switch-Base", switch_gpt_base),
    preset("switch_gpt_large", "decoder-only, with the sizes of Switch-Large", switch_gpt_large),
    preset("switch_gpt_xxl", "decoder-only, with the sizes of Switch-XXL", switch_gpt_xxl),
    preset("t5_small", "T5 1.0 Small, 60M parameters", t5_small),
    preset("t5_base", "T5 1.0 Base, 223M parameters", t5_base),
    preset("t5_large", "T5 1.0 Large, 738M parameters", t5_large),
    preset("t5_11b", "T5 1.0 11B", t5_11b),
    preset("t5_v1_1_small", "T5 1.1 Small", t5_v1_1_small),
    preset("t5_v1_1_base", "T5 1.1 Base", t5_v1_1_base),
    preset("t5_v1_1_large", "T5 1.1 Large", t5_v1_1_large),
    preset("t5_v1_1_xxl", "T5 1.1 XXL, 11B parameters", t5_v1_1_xxl),
    preset("mt5_base", "mT5-Base: T5 1.1 Base over 101 languages", mt5_base),
    preset("t5", "a T5 with default sizes, to be described by settings", t5),
    preset("switch", "a Switch Transformer with default sizes, to be described by settings", switch),
];

/// Returns the built-in model called `name`.
pub fn named(name: &str) -> Option<Config> {
    ALL.iter().find(|preset| preset.name == name).map(|preset| (preset.config)())
}

/// A named schedule: entries that suit a model on a target, for `--schedule preset=NAME`.
#[derive(Clone, Copy, Debug)]
pub struct SchedulePreset {
    /// Its name: the model and the generation of the target.
    pub name: &'static str,
    /// Its entries, `key=value` with spaces between.
    pub entries: &'static str,
    /// Its reason, in one line.
    pub summary: &'static str,
}

/// All named schedules. Those for TPUs were chosen with libtpu's counts for one slice each: see docs/pods.md.
pub const SCHEDULES: [SchedulePreset; 3] = [
    SchedulePreset {
        name: "switch_base-v3",
        entries: "remat=all microbatches=16 gather=step attention_minor=query",
        summary: "32 cores of TPU v3: saves attention weights and pays with microbatches",
    },
    SchedulePreset {
        name: "switch_xxl-v4",
        entries: "remat=compact gather=step residual=stream attention_minor=query",
        summary: "512 chips of TPU v4: recomputes attention and shards the residual stream",
    },
    SchedulePreset {
        name: "switch_c-v3",
        entries: "remat=all gather=step attention_minor=query",
        summary: "2048 cores of TPU v3: gathers parameters once a step",
    },
];

/// Returns the named schedule called `name`.
pub fn schedule(name: &str) -> Option<&'static SchedulePreset> {
    SCHEDULES.iter().find(|preset| preset.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_legal_models_of_their_names() {
        for preset in ALL {
            let config = (preset.config)();
            assert_eq!(config.name, preset.name);
            assert_eq!(config.mistakes(), [], "{}", preset.name);
        }
    }

    #[test]
    fn named_schedules_are_legal() {
        for preset in SCHEDULES {
            assert!(Schedule::parse(preset.entries).is_ok(), "{}", preset.name);
        }
    }
}

//! Published models: T5 (Raffel et al. 2020), the Switch Transformers (Fedus et al. 2022, Table 9) and their
//! multilingual relatives. Each is a [`Config`] of a few lines; `models/NAME.rs` is a program of each.
//!
//! The paper's Table 9 and the released checkpoints differ in places. A plain name is what was released,
//! `_table9` what the table says; parameters and arithmetic that the paper states are those of the released
//! sizes but where a preset says otherwise. Batches have 2^20 tokens, as in the paper; a group of tokens that
//! compete for slots is one sequence, so that whatever splits a batch splits the groups (the released code has
//! groups of 2048 to 8192 tokens: `--set group_size=8192`).

use crate::{Activation, Config, LrSchedule, Method, Optimizer, Schedule, Switch};
use mesh::ir::Remat;

/// What all of them share: C4 cut into inputs of 512 and targets of 114 tokens, Adafactor, no dropout.
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

/// Sizes of a stack, the same for encoder and decoder.
fn sized(name: &str, d_model: usize, d_ff: usize, heads: usize, layers: usize) -> Config {
    Config { d_model, d_ff, heads, encoder_layers: layers, decoder_layers: layers, ..pretraining(name) }
}

/// With gated GELU and an output projection of its own: T5 1.1.
fn gated(config: Config) -> Config {
    Config { activation: Activation::GatedGelu, tied: false, ..config }
}

/// With the multilingual vocabulary and lengths of mT5.
fn multilingual(config: Config) -> Config {
    Config { vocab: 250_112, batch: 1024, input_length: 1024, target_length: 229, ..config }
}

/// With experts in every `sparse_step`-th layer, and the slots of the released code.
fn sparse(config: Config, experts: usize, sparse_step: usize) -> Config {
    Config { switch: Some(Switch { experts, sparse_step, ..Switch::default() }), ..config }
}

/// With these numbers of slots: capacity factors in training and evaluation, fewest slots.
fn slots(config: Config, capacity_factor: f64, eval_capacity_factor: f64, min_capacity: usize) -> Config {
    let with = |s| Switch { capacity_factor, eval_capacity_factor, min_capacity, ..s };
    Config { switch: config.switch.map(with), ..config }
}

/// T5 1.0 Small: 60 million parameters.
pub fn t5_small() -> Config {
    sized("t5_small", 512, 2048, 8, 6)
}

/// T5 1.0 Base: 223 million parameters, 124 billion operations a sequence.
pub fn t5_base() -> Config {
    sized("t5_base", 768, 3072, 12, 12)
}

/// T5 1.0 Large: 738 million parameters, 425 billion operations a sequence.
pub fn t5_large() -> Config {
    sized("t5_large", 1024, 4096, 16, 24)
}

/// T5 1.0 11B: few dimensions, wide layers.
pub fn t5_11b() -> Config {
    Config { d_kv: 128, ..sized("t5_11b", 1024, 65_536, 128, 24) }
}

/// T5 1.1 Small.
pub fn t5_v1_1_small() -> Config {
    gated(sized("t5_v1_1_small", 512, 1024, 6, 8))
}

/// T5 1.1 Base: the T5-Base of Table 9 but for its output projection.
pub fn t5_v1_1_base() -> Config {
    gated(sized("t5_v1_1_base", 768, 2048, 12, 12))
}

/// T5 1.1 Large.
pub fn t5_v1_1_large() -> Config {
    gated(sized("t5_v1_1_large", 1024, 2816, 16, 24))
}

/// T5 1.1 XXL, the paper's T5-XXL: 11 billion parameters, 6.3 trillion operations a sequence.
pub fn t5_v1_1_xxl() -> Config {
    gated(sized("t5_v1_1_xxl", 4096, 10_240, 64, 24))
}

/// Switch-Base with this many experts (8 to 256 were released) in every other layer; with 128 it has 7.4
/// billion parameters and the arithmetic of T5-Base.
pub fn switch_base(experts: usize) -> Config {
    sparse(Config { name: "switch_base".into(), ..t5_base() }, experts, 2)
}

/// Switch-Base as in Table 9: gated layers two thirds as wide. As many parameters, as much arithmetic.
pub fn switch_base_table9() -> Config {
    let dense = Config { d_ff: 2048, activation: Activation::GatedGelu, ..t5_base() };
    sparse(Config { name: "switch_base_table9".into(), ..dense }, 128, 2)
}

/// MoE-Base, what the paper compares Switch-Base with: the same, but every token uses two experts.
pub fn moe_base() -> Config {
    let switch = Switch { sparse_step: 2, ..Switch::top_2(128) };
    Config { name: "moe_base".into(), switch: Some(switch), ..t5_base() }
}

/// Switch-Large: 26.3 billion parameters, 425 billion operations a sequence.
pub fn switch_large() -> Config {
    sparse(Config { name: "switch_large".into(), ..t5_large() }, 128, 2)
}

/// Switch-Large as in Table 9, gated: 27.1 billion parameters and 433 billion operations, which is not what the
/// table counts.
pub fn switch_large_table9() -> Config {
    let dense = Config { d_ff: 2816, activation: Activation::GatedGelu, ..t5_large() };
    sparse(Config { name: "switch_large_table9".into(), ..dense }, 128, 2)
}

/// Switch-XXL: 394.5 billion parameters, 6.3 trillion operations a sequence. That number is of a model whose
/// output projection is the embedding; the released one has its own (`--set tied=false`), 0.13 billion more.
pub fn switch_xxl() -> Config {
    let dense = Config {
        name: "switch_xxl".into(),
        tied: true,
        schedule: saving(Remat::SaveCarries),
        ..t5_v1_1_xxl()
    };
    slots(sparse(dense, 128, 2), 1.25, 4.0, 2)
}

/// Switch-XXL as in Table 9: 64 experts, which is 201.3 billion parameters and not the table's 395.
pub fn switch_xxl_table9() -> Config {
    let dense = Config { name: "switch_xxl_table9".into(), ..switch_xxl() };
    slots(sparse(dense, 64, 2), 1.25, 4.0, 2)
}

/// Switch-C, experts in every layer: 1.571 trillion parameters, 869 billion operations a sequence.
pub fn switch_c() -> Config {
    let dense =
        Config { tied: false, schedule: saving(Remat::SaveCarries), ..sized("switch_c", 2080, 6144, 30, 15) };
    slots(sparse(dense, 2048, 1), 1.0, 2.0, 2)
}

/// Switch-C as in Table 9, with 32 heads: the 890 billion operations that the paper states, within half a
/// percent.
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

/// A T5 to be described by settings, such as those of an imported checkpoint.
pub fn t5() -> Config {
    Config { name: "t5".into(), ..Config::default() }
}

/// The same with Switch layers.
pub fn switch() -> Config {
    Config { name: "switch".into(), switch: Some(Switch::default()), ..t5() }
}

/// Makes a configuration.
pub type Preset = fn() -> Config;

/// All presets by name.
pub const ALL: [(&str, Preset); 21] = [
    ("t5", t5),
    ("t5_small", t5_small),
    ("t5_base", t5_base),
    ("t5_large", t5_large),
    ("t5_11b", t5_11b),
    ("t5_v1_1_small", t5_v1_1_small),
    ("t5_v1_1_base", t5_v1_1_base),
    ("t5_v1_1_large", t5_v1_1_large),
    ("t5_v1_1_xxl", t5_v1_1_xxl),
    ("switch", switch),
    ("switch_base", || switch_base(128)),
    ("switch_base_table9", switch_base_table9),
    ("moe_base", moe_base),
    ("switch_large", switch_large),
    ("switch_large_table9", switch_large_table9),
    ("switch_xxl", switch_xxl),
    ("switch_xxl_table9", switch_xxl_table9),
    ("switch_c", switch_c),
    ("switch_c_table9", switch_c_table9),
    ("mt5_base", mt5_base),
    ("mswitch_base", mswitch_base),
];

/// The preset called `name`.
pub fn named(name: &str) -> Option<Config> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, preset)| preset())
}

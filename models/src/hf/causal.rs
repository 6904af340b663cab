//! Decoder-only models of Hugging Face: their classes, and the names of their tensors.

use super::{List, Tensor};
use crate::{
    Activation, Config, Objective, Switch,
    config::Positions,
    stack::{BlockLocation, Stack},
    switch::{
        options::{RoutingMethod, Scores, SecondExpertPolicy},
        router::BALANCE_BIAS,
    },
};

/// Hugging Face's classes of decoder-only models that ours can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Causal {
    /// Dense: Mistral.
    Mistral,
    /// Experts chosen by softmax: Mixtral.
    Mixtral,
    /// Experts chosen by sigmoid scores with biases, and shared experts, as in DeepSeek-V3: GLM-4-MoE.
    Glm4Moe,
}

impl Causal {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Mistral, Self::Mixtral, Self::Glm4Moe];

    /// Returns `model_type` in `config.json`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Mistral => "mistral",
            Self::Mixtral => "mixtral",
            Self::Glm4Moe => "glm4_moe",
        }
    }

    /// Returns the name of the class.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mistral => "MistralForCausalLM",
            Self::Mixtral => "MixtralForCausalLM",
            Self::Glm4Moe => "Glm4MoeForCausalLM",
        }
    }

    /// Returns the class of a decoder-only model.
    ///
    /// # Errors
    /// Names the setting of the model that no class has.
    pub fn of(config: &Config) -> Result<Self, String> {
        let needs = |ok: bool, what: &str| match ok {
            true => Ok(()),
            false => Err(format!("decoder-only models of Hugging Face have `{what}`")),
        };
        needs(config.objective == Objective::Lm, "objective=lm")?;
        needs(config.positions == Positions::Rope, "positions=rope")?;
        needs(config.activation == Activation::GatedSilu, "activation=gated-silu")?;
        needs(!config.scales_output(), "scaled_output=false")?;
        let Some(switch) = &config.switch else { return Ok(Self::Mistral) };
        let class = match switch.scores {
            Scores::Softmax => Self::Mixtral,
            Scores::Sigmoid => Self::Glm4Moe,
        };
        class.experts(config, switch)?;
        match class {
            Self::Glm4Moe => needs(config.window == 0, "window=0")?,
            Self::Mistral | Self::Mixtral => {}
        }
        Ok(class)
    }

    /// Checks options of sparse layers.
    fn experts(self, config: &Config, switch: &Switch) -> Result<(), String> {
        let all = SecondExpertPolicy::All;
        let both = [
            ("sparse_step=1", config.sparse_step(true) == Some(1)),
            ("experts_in=ffn", !switch.sparse_parts.attention()),
            ("routing=top_k", switch.routing == RoutingMethod::TopK),
            ("eval_second_policy=all", switch.eval_second_policy == all),
            ("router_bias=false", !switch.router_bias),
        ];
        let own: &[(&str, bool)] = match self {
            Self::Mistral => &[],
            Self::Mixtral => &[
                ("renormalize=true", switch.renormalizes()),
                ("gate_scale=1", switch.gate_scale == 1.0),
                ("balance_bias=0", switch.balance_bias == 0.0),
                ("shared_experts=0", switch.shared_experts == 0),
            ],
            Self::Glm4Moe => &[
                ("balance_bias above 0", switch.balance_bias > 0.0),
                ("shared_experts of at least 1", switch.shared_experts > 0),
            ],
        };
        match both.iter().chain(own).find(|(_, fits)| !fits) {
            None => Ok(()),
            Some((what, _)) => Err(format!("{} has {what}", self.name())),
        }
    }
}

/// Returns all tensors of a decoder-only model, in the order of its layers.
///
/// # Errors
/// Names the setting of the model that no class has.
pub(super) fn tensors(config: &Config) -> Result<Vec<Tensor>, String> {
    let class = Causal::of(config)?;
    let mut list = List { config, all: Vec::new() };
    list.table("model.embed_tokens.weight", "embedding");
    for i in 0..config.decoder_layers {
        block(&mut list, class, i);
    }
    list.whole("model.norm.weight", "decoder/norm", &[("d_model", config.d_model)]);
    if !config.tied {
        list.table("lm_head.weight", "head");
    }
    Ok(list.all)
}

fn block(list: &mut List<'_>, class: Causal, i: usize) {
    let config = list.config;
    let (at, layer) = (Stack::location(config, true, i), format!("model.layers.{i}"));
    let group = config.query_group();
    let (d_model, heads) = (("d_model", config.d_model), ("heads", config.heads / group));
    let d_kv = ("d_kv", config.d_kv);
    let queries: Vec<(&str, usize)> =
        [heads].into_iter().chain((group > 1).then_some(("queries", group))).chain([d_kv]).collect();
    for (theirs, columns) in [("q", &queries[..]), ("k", &[heads, d_kv]), ("v", &[heads, d_kv])] {
        let (name, param) =
            (format!("{layer}.self_attn.{theirs}_proj.weight"), format!("attention/{theirs}"));
        list.matrix(name, &at, &param, &[], &[d_model], columns, true);
    }
    list.matrix(
        format!("{layer}.self_attn.o_proj.weight"),
        &at,
        "attention/o",
        &[],
        &queries,
        &[d_model],
        true,
    );
    for (theirs, ours) in [("input_layernorm", "attention/norm"), ("post_attention_layernorm", "ffn/norm")] {
        let dims = [("layers", at.count), d_model];
        let (name, param) = (format!("{layer}.{theirs}.weight"), format!("{}/{ours}", at.scope));
        list.part(name, vec![d_model.1], param, &dims, &[at.layer, 0], &[1, d_model.1]);
    }
    match (class, &config.switch) {
        (_, None) | (Causal::Mistral, Some(_)) => {
            let size = config.d_ff;
            feed_forward(list, &at, &format!("{layer}.mlp"), "ffn", GLU, size, &[]);
        }
        (Causal::Mixtral, Some(switch)) => {
            let moe = format!("{layer}.block_sparse_moe");
            experts(list, &at, &moe, ["w1", "w3", "w2"], switch);
        }
        (Causal::Glm4Moe, Some(switch)) => {
            let moe = format!("{layer}.mlp");
            experts(list, &at, &moe, GLU, switch);
            let (all, param) = (switch.experts, format!("{}/ffn/{BALANCE_BIAS}", at.scope));
            let dims = [("layers", at.count), ("experts_all", all)];
            let name = format!("{moe}.gate.e_score_correction_bias");
            list.part(name, vec![all], param, &dims, &[at.layer, 0], &[1, all]);
            let size = switch.shared_experts * switch.d_ff(config.d_ff);
            feed_forward(list, &at, &format!("{moe}.shared_experts"), "ffn/shared", GLU, size, &[]);
        }
    }
}

/// The matrices of a gated layer, those of the activation, of the factor and of the output: Llama's names.
const GLU: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// Adds a router and its experts.
fn experts(list: &mut List<'_>, at: &BlockLocation, moe: &str, names: [&str; 3], switch: &Switch) {
    let (d_model, all) = (("d_model", list.config.d_model), ("experts_all", switch.experts));
    list.matrix(format!("{moe}.gate.weight"), at, "ffn/router", &[], &[d_model], &[all], true);
    let size = switch.d_ff(list.config.d_ff);
    for e in 0..switch.experts {
        let expert = [("experts", switch.experts, e)];
        feed_forward(list, at, &format!("{moe}.experts.{e}"), "ffn", names, size, &expert);
    }
}

/// Adds a gated layer with `size` hidden elements, of one expert if `expert` names its dim, size and index.
fn feed_forward(
    list: &mut List<'_>,
    at: &BlockLocation,
    theirs: &str,
    ours: &str,
    [gate, up, down]: [&str; 3],
    size: usize,
    expert: &[(&str, usize, usize)],
) {
    let (d_model, d_ff) = ([("d_model", list.config.d_model)], [("d_ff", size)]);
    for (name, param, transposed) in [(gate, "wi_0", true), (up, "wi_1", true), (down, "wo", false)] {
        let (name, param) = (format!("{theirs}.{name}.weight"), format!("{ours}/{param}"));
        // Our matrices store d_model first, which is the Hugging Face order for the last one.
        list.matrix(name, at, &param, expert, &d_model, &d_ff, transposed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::{self, Part, small};

    fn causal(switch: Option<Switch>) -> Config {
        Config {
            encoder_layers: 0,
            input_length: 0,
            objective: Objective::Lm,
            positions: Positions::Rope,
            d_kv: 4,
            activation: Activation::GatedSilu,
            tied: false,
            switch,
            ..small()
        }
    }

    fn glm() -> Switch {
        let (scores, balance_bias) = (Scores::Sigmoid, 1e-3);
        Switch { scores, balance_bias, shared_experts: 2, expert_d_ff: 3, top_k: 2, ..Switch::top_2(3) }
    }

    /// Checks the class of `config`, and that every element of every parameter is in exactly one tensor.
    #[track_caller]
    fn check(config: &Config, class: Causal) {
        assert_eq!(Causal::of(config), Ok(class));
        let part =
            |t: Tensor| Part { name: t.name, param: t.param, dims: t.dims, start: t.start, part: t.part };
        let all = tensors(config).expect("Hugging Face has such models");
        parts::covers(config, all.into_iter().map(part).collect());
    }

    #[test]
    fn all_parameters_are_parts_of_their_tensors() {
        check(&causal(None), Causal::Mistral);
        check(
            &Config { kv_heads: 1, tied: true, scaled_output: Some(false), ..causal(None) },
            Causal::Mistral,
        );
        check(&Config { kv_heads: 1, ..causal(Some(Switch::top_2(3))) }, Causal::Mixtral);
        check(&causal(Some(glm())), Causal::Glm4Moe);
    }

    #[test]
    fn settings_without_a_class_are_named() {
        let said = |config: &Config, expect: &str| {
            let why = Causal::of(config).expect_err("no class has it");
            assert!(why.ends_with(expect), "{why}");
        };
        said(&Config { positions: Positions::Relative, ..causal(None) }, "`positions=rope`");
        said(&Config { tied: true, ..causal(None) }, "`scaled_output=false`");
        said(
            &causal(Some(Switch { sparse_step: 2, ..Switch::top_2(3) })),
            "MixtralForCausalLM has sparse_step=1",
        );
        said(&causal(Some(Switch::default())), "MixtralForCausalLM has routing=top_k");
        said(&causal(Some(Switch { shared_experts: 1, ..Switch::top_2(3) })), "has shared_experts=0");
        said(
            &causal(Some(Switch { balance_bias: 0.0, ..glm() })),
            "Glm4MoeForCausalLM has balance_bias above 0",
        );
        said(&Config { window: 3, ..causal(Some(glm())) }, "`window=0`");
    }
}

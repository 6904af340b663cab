//! The program that records routing: which experts every token chooses, in every sparse layer.
//!
//! It takes the batches of evaluation, so that groups of tokens are those of `meshc eval`, and has no
//! training step.

use crate::{
    Config,
    evaluation::of_evaluation,
    microbatch::{named_routers, router_name},
    objective::Feeds,
    stack::Stack,
    switch::{Routes, Switch},
};
use mesh::{
    Diagnostic, Site,
    dsl::{Graph, Program, Tensor},
};

/// The prefix of the names of outputs.
pub const PREFIX: &str = "routes/";

/// The routers of a model that have one output: one for every iteration of the scan over a stack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Router {
    /// The name in outputs and metrics, such as `encoder` or `decoder_attention`.
    pub name: String,
    /// The part of its layers that has experts: `ffn` or `attention`.
    pub part: &'static str,
    /// True if the router is in the decoder.
    pub decoder: bool,
    /// The layers of the stack, from 0, in the order of the output's dim `layers`.
    pub layers: Vec<usize>,
}

/// Returns the routers of a model, in the order of its metrics.
pub fn routers(config: &Config) -> Vec<Router> {
    let Some(switch) = &config.switch else { return Vec::new() };
    let parts = switch.sparse_parts;
    let places: Vec<&'static str> = [(parts.attention(), "attention"), (parts.ffn(), "ffn")]
        .into_iter()
        .filter(|p| p.0)
        .map(|p| p.1)
        .collect();
    let mut all = Vec::new();
    for (stack, decoder) in [("encoder", false), ("decoder", true)] {
        let sparse = || (0..config.layers(decoder)).filter(|i| config.is_sparse(decoder, *i));
        let block = |i: usize| Stack::location(config, decoder, i).block;
        let mut blocks: Vec<usize> = sparse().map(block).collect();
        blocks.sort_unstable();
        blocks.dedup();
        // The routers of an iteration, in the order of its metrics.
        let of_blocks = places.repeat(blocks.len());
        for (n, part) in of_blocks.iter().copied().enumerate() {
            let at = blocks[n / places.len()];
            all.push(Router {
                name: router_name(stack, &of_blocks, n),
                part,
                decoder,
                layers: sparse().filter(|i| block(*i) == at).collect(),
            });
        }
    }
    all
}

/// Builds the program, `--set task=routes`: the parameters of the model and `eval_step` with additional
/// outputs for each of [`routers`], with the dim `layers` first: `routes/ROUTER/chosen`, `gate`, `state` and
/// `priority`, which [`Routes`] describes.
///
/// A batch is one microbatch.
pub fn program(config: &Config, place: &Site) -> Program {
    if config.is_decoder_only() && config.input_length > 0 {
        let p = Program::new(config.name.clone());
        let what = "`task` = routes does not support decoder-only models whose rows have inputs";
        let help = "set `objective` to lm, and `input_length` to 0";
        p.mistake(Diagnostic::new("", what).help(help).at(place));
        return p;
    }
    of_evaluation(config.clone(), place, |g, model, config| {
        let losses = model.recorded(g, Feeds::input(g, config));
        g.output("loss", losses.cross_entropy);
        for (name, metrics) in named_routers(&losses) {
            if let Some(routes) = metrics.routes {
                output(g, &name, &routes);
            }
        }
    })
}

/// Returns the number of groups of tokens that compete for expert slots, the tokens of each, and the capacity
/// of an expert in evaluation, for a batch of `batch` sequences of `length` tokens.
pub fn groups(switch: &Switch, batch: usize, length: usize) -> [usize; 3] {
    let (groups, tokens) = switch.groups(batch, length);
    [groups, tokens, switch.capacity(tokens, false)]
}

fn output<'g>(g: &'g Graph, name: &str, routes: &Routes<'g>) {
    let optional = [("state", routes.state), ("priority", routes.priority)];
    let all = [("chosen", routes.chosen), ("gate", routes.gate)];
    let all = all.into_iter().chain(optional.into_iter().filter_map(|(what, x)| Some((what, x?))));
    all.for_each(|(what, x): (&str, Tensor<'g>)| g.output(format!("{PREFIX}{name}/{what}"), x));
}

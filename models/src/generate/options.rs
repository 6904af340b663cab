//! Options of generation programs.

use super::repetition::Repetition;
use crate::{Config, Dispatch, Schedule, Switch, mistakes::Mistakes, stack::DecoderLayers, tokens::PAD};
use mesh::{dsl::Args, task::DecodingMethod};
use std::{
    fmt::{self, Display},
    str::FromStr,
};

/// Decoders with at most this many bytes of parameters are unrolled by default.
const MAX_UNROLLED_BYTES: usize = 1 << 30;

/// Decoders with at most this many experts, over all layers, unstack them by default: each expert adds code
/// to the program.
const MAX_UNSTACKED_EXPERTS: usize = 256;

/// Options of generation.
#[derive(Clone, PartialEq, Debug)]
pub struct Generation {
    /// Choice of the next token.
    pub method: DecodingMethod,
    /// Beams of a search, or sequences sampled for each input.
    pub beams: usize,
    /// Positions that one call of `decode` generates.
    pub steps: usize,
    /// True to use a KV cache and route every position alone; false to recompute the whole prefix for every
    /// token.
    pub cached: bool,
    /// True if the decoder's layers run as a loop; `None` means only if they are large.
    pub looped: Option<bool>,
    /// True if unrolled layers store experts in separate states; `None` means only if they are few.
    pub unstacked: Option<bool>,
    /// True if sampling applies `top_k` and `top_p`, which needs a sort.
    pub filter: bool,
    /// Stopping rule of beam search.
    pub early: EarlyStopping,
    /// Penalty and block of repeated tokens.
    pub repetition: Repetition,
    /// The tokens that every target begins with, after the start token.
    pub decoder_prompt: Vec<u32>,
    /// Inputs that start at once while other rows continue; 0 means a whole batch. A layout that splits the
    /// batch must divide it.
    pub admit: usize,
}

/// Stopping rule of beam search, for an input that has as many finished sequences as beams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EarlyStopping {
    /// Stop at once.
    First,
    /// Stop when the best open sequence, if it ended now, would not beat the worst finished one.
    Likely,
    /// Stop when no open sequence can beat the worst finished one.
    Certain,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            method: DecodingMethod::Greedy,
            beams: 1,
            steps: 16,
            cached: true,
            looped: None,
            unstacked: None,
            filter: true,
            early: EarlyStopping::Likely,
            repetition: Repetition::default(),
            decoder_prompt: Vec::new(),
            admit: 0,
        }
    }
}

impl Generation {
    /// Returns the options with the settings of the command line applied.
    pub fn with(mut self, args: &Args) -> Self {
        let method = args.choice("method", &DecodingMethod::ALL.map(DecodingMethod::name), "greedy");
        let named = DecodingMethod::ALL.into_iter().find(|m| m.name() == method);
        self.method = named.unwrap_or(DecodingMethod::Greedy);
        self.beams = args.get("beams", self.beams);
        self.steps = args.get("steps", self.steps);
        self.cached = args.choice("decode", &["cached", "uncached"], "cached") == "cached";
        self.looped = match args.choice("decoder_layers_as", &["auto", "loop", "code"], "auto") {
            "loop" => Some(true),
            "code" => Some(false),
            _ => None,
        };
        // `apart` and `together` are the words of earlier releases.
        let words = ["auto", "unstacked", "stacked", "apart", "together"];
        self.unstacked = match args.choice("decoder_experts", &words, "auto") {
            "unstacked" | "apart" => Some(true),
            "stacked" | "together" => Some(false),
            _ => None,
        };
        self.filter = args.get("filter", self.filter);
        self.early = match args.choice("early_stopping", &["likely", "first", "certain"], "likely") {
            "first" => EarlyStopping::First,
            "certain" => EarlyStopping::Certain,
            _ => EarlyStopping::Likely,
        };
        let Repetition { penalty, ngram } = self.repetition;
        self.repetition = Repetition {
            penalty: args.get("repetition_penalty", penalty),
            ngram: args.get("no_repeat_ngram_size", ngram),
        };
        self.admit = args.get("admit", self.admit);
        self.decoder_prompt = args.get("decoder_prompt", TokenList(self.decoder_prompt)).0;
        self
    }

    pub(super) fn mistakes(&self, config: &Config, wrong: &mut Mistakes) {
        if let Some(switch) = &config.switch {
            wrong.unless(
                !switch.routing.by_experts(),
                || "generation does not support routing in which experts choose tokens: the decoder's later tokens \
                    are not known yet"
                    .into(),
                "set `routing` to switch, top_k or ntlb",
            );
        }
        wrong.require(self.beams > 0, "beams", "at least 1", self.beams);
        wrong.require(self.steps > 0, "steps", "at least 1", self.steps);
        wrong.unless(
            self.beams == 1 || self.method != DecodingMethod::Greedy,
            || format!("`beams` must be 1 with `method` = greedy, got {}", self.beams),
            "all beams would be the same; `method` = beam searches, `method` = sample draws several sequences",
        );
        let penalty = self.repetition.penalty;
        let is_positive = penalty > 0.0 && penalty.is_finite();
        wrong.require(is_positive, "repetition_penalty", "a finite number above 0", penalty);
        self.prompt_mistakes(config, wrong);
    }

    /// Returns the number of inputs that start at once while other rows continue. `None` means that none can,
    /// because the decoder reads whole prefixes.
    pub(super) fn admitted(&self, config: &Config) -> Option<usize> {
        let rows = if self.admit == 0 { config.batch } else { self.admit.min(config.batch) };
        self.cached.then_some(rows)
    }

    fn prompt_mistakes(&self, config: &Config, wrong: &mut Mistakes) {
        let prompt = &self.decoder_prompt;
        wrong.unless(
            prompt.is_empty() || !super::reads_text(config),
            || "`decoder_prompt` has no effect in a language model: its input is the prompt".into(),
            "leave it out, and begin the inputs with it",
        );
        wrong.unless(
            prompt.len() < config.target_length,
            || {
                format!(
                    "`decoder_prompt` has {} tokens, and `target_length` = {}",
                    prompt.len(),
                    config.target_length
                )
            },
            "it must be shorter than the target: raise `target_length`",
        );
        let legal = |token: u32| (token as usize) < config.vocab && token != PAD && token != config.eos_token;
        let other = prompt.iter().find(|token| !legal(**token));
        wrong.unless(
            other.is_none(),
            || format!("`decoder_prompt` has the invalid token {}", other.copied().unwrap_or(PAD)),
            "its tokens are in the vocabulary, and neither padding nor the end",
        );
    }

    /// Returns the decoder's configuration. With a cache, every position is routed alone and no token is
    /// dropped.
    pub(super) fn decoder(&self, config: &Config) -> Config {
        if self.cached {
            let schedule = Schedule { dispatch: Dispatch::Einsum, ..config.schedule };
            let own = |switch: &Switch| {
                let ignore_padding = switch.ignore_padding || config.is_decoder_only();
                Switch { ignore_padding, ..super::never_dropping(switch) }
            };
            Config { switch: config.switch.as_ref().map(own), schedule, ..config.clone() }
        } else {
            Config { batch: config.batch * self.beams, ..config.clone() }
        }
    }

    pub(super) fn blocks(&self, config: &Config) -> DecoderLayers {
        let experts = config.switch.as_ref().map_or(1, |s| s.experts);
        let block = 8 * config.heads * config.d_kv + 3 * config.d_ff * experts;
        if self.looped.unwrap_or(4 * config.decoder_layers * config.d_model * block > MAX_UNROLLED_BYTES) {
            return DecoderLayers::Scan;
        }
        // A layout may name the dims of dispatched tokens, which unstacked experts lack; some layer must
        // have them.
        let reads = config.is_decoder_only();
        let slots = (0..config.layers(reads)).any(|i| config.is_sparse(reads, i));
        let grouped = config.switch.as_ref().is_some_and(|s| s.expert_groups > 0);
        let few = experts * config.decoder_layers <= MAX_UNSTACKED_EXPERTS;
        DecoderLayers::Unrolled { unstacked: slots && !grouped && self.unstacked.unwrap_or(few) }
    }
}

/// Token ids separated by `+`, such as `12+7`; empty means none.
#[derive(Clone, PartialEq, Eq, Debug)]
struct TokenList(Vec<u32>);

impl FromStr for TokenList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let token = |part: &str| part.parse().map_err(|_| format!("`{part}` is no token id"));
        let parts = text.split('+').filter(|_| !text.is_empty());
        parts.map(token).collect::<Result<_, _>>().map(Self)
    }
}

impl Display for TokenList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&all.join("+"))
    }
}

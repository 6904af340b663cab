//! Programs that generate: the encoder once, then the decoder position by position.
//!
//! A program of its own, so that programs that train do not grow: `--set task=generate`. It has the
//! parameters of the model, by the same names, and what decoding keeps. Functions:
//!
//! - `prepare()`, where there is one, is called once, when the parameters have their values.
//! - `encode(inputs)` starts over: it runs the encoder and computes what all positions of the decoder need of
//!   it.
//! - `decode(…)` goes on by `steps` positions. Tokens are chosen on the devices and stay there; the one output,
//!   `open`, says how many sequences have not ended. Many steps a call, because a call costs the host some
//!   time, and a host that reads `open` late need not wait for the devices.
//! - `results()` gives the tokens and their scores.
//!
//! Every decoder position is routed by itself, as it is in generation with a cache elsewhere: a sparse layer
//! never sees two positions that would compete, and no token of the decoder is dropped. With
//! `--set decode=uncached` the whole prefix is run again for every token, and tokens compete as in training.
//!
//! Reading order: here, [`sampling`], [`beams`].

pub mod beams;
pub mod sampling;

use crate::{
    Config, Context, Dispatch, Schedule, Switch, Weights,
    attention::{MASKED, padding_mask},
    config::Mistakes,
    embedding::Embedding,
    stack::{DecoderLayers, KvCache, Stack, StepDecoder},
};
use beams::{Beams, FinishedBeams};
use mesh::{
    DType, Dim, Site,
    dsl::{Args, Graph, Init, Program, State, Tensor, Tree},
};
use sampling::Sampling;

/// The token that stands for nothing, and before the first one.
pub const PAD: u32 = 0;
/// The token after which there is nothing.
pub const EOS: u32 = 1;

/// Up to how many bytes of parameters the decoder's layers are written out one after the other.
const MAX_UNROLLED_BYTES: usize = 1 << 30;

/// Up to how many experts are kept unstacked, over all layers: each stands in the program by itself.
const MAX_UNSTACKED_EXPERTS: usize = 256;

/// How to generate.
#[derive(Clone, PartialEq, Debug)]
pub struct Generation {
    /// How the next token is chosen.
    pub method: Method,
    /// Beams of a search, or sequences that are sampled for each input.
    pub beams: usize,
    /// Positions that one call of `decode` goes on by.
    pub steps: usize,
    /// Keep keys and values, and route every position by itself; or run the whole prefix again.
    pub cached: bool,
    /// Whether the decoder's layers run as a loop; nothing: if they are large.
    pub looped: Option<bool>,
    /// Whether experts are kept unstacked, where the decoder's layers are no loop; nothing: unless they are many.
    pub unstacked: Option<bool>,
    /// Whether sampling looks at `top_k` and `top_p`, for which it has to sort.
    pub filter: bool,
    /// When a search is over.
    pub early: EarlyStopping,
}

/// How the next token is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// The most likely one.
    Greedy,
    /// By chance.
    Sample,
    /// The sequences of highest score, by a search that keeps several.
    Beam,
}

/// When a search is over for an input that has as many ended sequences as there are beams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EarlyStopping {
    /// At once.
    First,
    /// When the best open sequence, if it ended now, would be no better than the worst that has ended.
    Likely,
    /// When no open sequence can become better than the worst that has ended.
    Certain,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            method: Method::Greedy,
            beams: 1,
            steps: 16,
            cached: true,
            looped: None,
            unstacked: None,
            filter: true,
            early: EarlyStopping::Likely,
        }
    }
}

impl Generation {
    /// With the settings of the command line.
    pub fn with(mut self, args: &Args) -> Self {
        self.method = match args.choice("method", &["greedy", "sample", "beam"], "greedy") {
            "sample" => Method::Sample,
            "beam" => Method::Beam,
            _ => Method::Greedy,
        };
        self.beams = args.get("beams", self.beams);
        self.steps = args.get("steps", self.steps);
        self.cached = args.choice("decode", &["cached", "uncached"], "cached") == "cached";
        self.looped = match args.choice("decoder_layers_as", &["auto", "loop", "code"], "auto") {
            "loop" => Some(true),
            "code" => Some(false),
            _ => None,
        };
        self.unstacked = match args.choice("decoder_experts", &["auto", "apart", "together"], "auto") {
            "apart" => Some(true),
            "together" => Some(false),
            _ => None,
        };
        self.filter = args.get("filter", self.filter);
        self.early = match args.choice("early_stopping", &["likely", "first", "certain"], "likely") {
            "first" => EarlyStopping::First,
            "certain" => EarlyStopping::Certain,
            _ => EarlyStopping::Likely,
        };
        self
    }

    fn mistakes(&self, config: &Config, wrong: &mut Mistakes) {
        if let Some(switch) = &config.switch {
            wrong.unless(
                !switch.routing.by_experts(),
                || "experts choose tokens in the decoder, also tokens that are not generated yet".into(),
                "routing=switch, top_k or ntlb",
            );
        }
        wrong.unless(self.beams > 0, || "`beams` is 0".into(), "at least 1");
        wrong.unless(self.steps > 0, || "`steps` is 0".into(), "at least 1");
        wrong.unless(
            self.beams == 1 || self.method != Method::Greedy,
            || format!("`beams` is {} with method=greedy", self.beams),
            "1: all would be the same; method=beam searches, method=sample draws several sequences",
        );
    }

    /// The decoder's configuration: where every position is routed by itself, no token is without a slot.
    fn decoder(&self, config: &Config) -> Config {
        match self.cached {
            true => {
                let schedule = Schedule { dispatch: Dispatch::Einsum, ..config.schedule };
                Config { switch: config.switch.as_ref().map(never_dropping), schedule, ..config.clone() }
            }
            false => Config { batch: config.batch * self.beams, ..config.clone() },
        }
    }

    fn blocks(&self, config: &Config) -> DecoderLayers {
        let experts = config.switch.as_ref().map_or(1, |s| s.experts);
        let block = 8 * config.heads * config.d_kv + 3 * config.d_ff * experts;
        if self.looped.unwrap_or(4 * config.decoder_layers * config.d_model * block > MAX_UNROLLED_BYTES) {
            return DecoderLayers::Scan;
        }
        // The layout may name dims of slots: a program has to have them.
        let slots = (0..config.encoder_layers).any(|i| config.is_sparse(false, i));
        let grouped = config.switch.as_ref().is_some_and(|s| s.expert_groups > 0);
        let few = experts * config.decoder_layers <= MAX_UNSTACKED_EXPERTS;
        DecoderLayers::Unrolled { unstacked: slots && !grouped && self.unstacked.unwrap_or(few) }
    }
}

/// The encoder's configuration. Where no token can be without a slot, padding need not have one: nothing looks at
/// what becomes of it.
fn encoder(config: &Config) -> Config {
    let own = |switch: &Switch| {
        let (_, tokens) = switch.groups(config.batch, config.input_length);
        let roomy = switch.capacity(tokens, false) >= tokens;
        Switch { ignore_padding: switch.ignore_padding || roomy, ..switch.clone() }
    };
    let schedule = Schedule { skip_empty: true, ..config.schedule };
    Config { switch: config.switch.as_ref().map(own), schedule, ..config.clone() }
}

/// The same with a slot in each expert for every token of a group, which is one sequence.
fn never_dropping(options: &Switch) -> Switch {
    // No more slots are made than there are tokens. With a slot for every token, groups of experts save none.
    let all = usize::MAX;
    Switch { fixed_capacity: all, group_size: 0, expert_groups: 0, ..options.clone() }
}

/// The program. Mistakes in the numbers are reported at `place`, and nothing is built then.
pub fn program(config: &Config, options: &Generation, place: &Site) -> Program {
    let p = Program::new(config.name.clone());
    let mut wrong = Mistakes::default();
    options.mistakes(config, &mut wrong);
    let mistakes: Vec<_> = config.mistakes().into_iter().chain(wrong.found()).collect();
    if !mistakes.is_empty() {
        mistakes.into_iter().for_each(|m| p.mistake(m.at(place)));
        return p;
    }
    meta(&p, config, options);
    let generator = Generator::new(&p, config, options);
    if matches!(generator.decoder, Decoder::Cached(_, Some(_))) {
        p.function("prepare", |g| generator.prepare(g));
    }
    p.function("encode", |g| generator.encode(g));
    p.function("decode", |g| generator.decode(g));
    p.function("results", |g| generator.results(g));
    p
}

fn meta(p: &Program, config: &Config, options: &Generation) {
    p.meta("task", "generate");
    p.meta("vocab", config.vocab);
    p.meta("batch", config.batch);
    p.meta("input_length", config.input_length);
    p.meta("target_length", config.target_length);
    p.meta("beams", options.beams);
    p.meta("steps", options.steps);
    let method = match options.method {
        Method::Greedy => "greedy",
        Method::Sample => "sample",
        Method::Beam => "beam",
    };
    p.meta("method", method);
    p.meta("filter", options.filter);
    p.meta("layout", config.layout());
    p.meta("state_layout", "");
    p.meta("dtype", config.precision.name());
    p.schedule(config.schedule);
}

/// The parts of a model, and what is kept between calls.
#[derive(Debug)]
struct Generator {
    config: Config,
    options: Generation,
    embedding: Embedding,
    encoder: Stack,
    decoder: Decoder,
    batch: Dim,
    beams: Dim,
    /// The positions of what is generated, a whole number of calls.
    length: Dim,
    position: State,
    running: [State; 4],
    padding: State,
    ended: Option<[State; 3]>,
}

#[derive(Debug)]
enum Decoder {
    /// Where its blocks are no loop, with the matrix that makes logits, transposed around.
    Cached(Box<StepDecoder>, Option<State>),
    /// The decoder, and the encoder's output.
    Uncached(Box<Stack>, State),
}

/// What a step begins with and ends with.
#[derive(Clone, Debug)]
pub struct DecodeState<'g> {
    /// The number of the next position.
    pub position: Tensor<'g>,
    /// All tokens so far: `s32[batch, beams, target_length]`.
    pub tokens: Tensor<'g>,
    /// The token before this position: `s32[batch, beams]`.
    pub last: Tensor<'g>,
    /// 1 for a sequence that has not ended: `s32[batch, beams]`.
    pub open: Tensor<'g>,
    /// The sum of the logarithms of the tokens' probabilities: `f32[batch, beams]`.
    pub scores: Tensor<'g>,
    /// Keys and values of the decoder's earlier positions.
    pub kept: KvCache<'g>,
    /// In a search, sequences that have ended.
    pub ended: Option<FinishedBeams<'g>>,
}

impl<'g> Tree<'g> for DecodeState<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            position: f(self.position),
            tokens: f(self.tokens),
            last: f(self.last),
            open: f(self.open),
            scores: f(self.scores),
            kept: self.kept.map(f),
            ended: Tree::map(self.ended, f),
        }
    }
}

/// Limits of a call.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'g> {
    /// No sequence ends before it has this many tokens.
    pub min_length: Tensor<'g>,
    /// All sequences end when they have this many tokens.
    pub max_length: Tensor<'g>,
}

impl Generator {
    fn new(p: &Program, config: &Config, options: &Generation) -> Self {
        let w = Weights::new(p);
        let embedding = Embedding::new(&w, config);
        let encoder = Stack::encoder(&w, &encoder(config));
        let decoder = Stack::decoder(&w, &options.decoder(config));
        let (batch, beams) = (Dim::new("batch", config.batch), Dim::new("beams", options.beams));
        let length = Dim::new("target_length", config.target_length.next_multiple_of(options.steps));
        let memory_length = Dim::new("memory_length", config.input_length);
        let dtype = config.precision.activations();
        let decoder = match options.cached {
            true => {
                let blocks = options.blocks(config);
                let (own, memory) = (length.size, memory_length.size);
                let decoder = StepDecoder::new(p, decoder, dtype, &beams, own, memory, blocks);
                let head =
                    (blocks != DecoderLayers::Scan).then(|| embedding.transposed(p, "kept/head", dtype));
                Decoder::Cached(Box::new(decoder), head)
            }
            false => {
                let d_model = Dim::new("d_model", config.d_model);
                let memory = p.store("kept/memory", dtype, [&batch, &memory_length, &d_model], Init::Zeros);
                Decoder::Uncached(Box::new(decoder), memory)
            }
        };
        let store =
            |name, dtype, dims: &[&Dim]| p.store(format!("kept/{name}"), dtype, dims.to_vec(), Init::Zeros);
        let (all, one) = ([&batch, &beams, &length], [&batch, &beams]);
        let running = [
            store("tokens", DType::S32, &all),
            store("last", DType::S32, &one),
            store("open", DType::S32, &one),
            store("scores", DType::F32, &one),
        ];
        let ended = (options.method == Method::Beam).then(|| {
            let tokens = store("ended_tokens", DType::S32, &all);
            [tokens, store("ended_scores", DType::F32, &one), store("complete", DType::S32, &[&batch])]
        });
        Self {
            config: config.clone(),
            options: options.clone(),
            embedding,
            encoder,
            decoder,
            position: p.counter("kept/position", DType::S32, Init::Zeros),
            running,
            padding: store("padding", DType::F32, &[&batch, &memory_length]),
            ended,
            batch,
            beams,
            length,
        }
    }

    fn prepare(&self, g: &Graph) {
        if let Decoder::Cached(decoder, Some(head)) = &self.decoder {
            let cx = &Context::new(g, &self.config, None);
            decoder.prepare(cx);
            self.embedding.set_transposed(cx, head);
        }
    }

    fn encode(&self, g: &Graph) {
        let cx = &Context::new(g, &encoder(&self.config), None);
        let length = Dim::new("length", self.config.input_length);
        let inputs = g.input("inputs", DType::S32, [&self.batch, &length]);
        let padding = padding_mask(inputs, &length);
        let x = g.scope("embedding", || self.embedding.lookup(cx, inputs));
        let memory = self
            .encoder
            .forward(&cx.with_tokens(inputs), x, &length, None, padding)
            .x
            .rename(&length, "memory_length");
        match &self.decoder {
            Decoder::Cached(decoder, _) => decoder.start(cx, memory),
            Decoder::Uncached(_, state) => state.assign(memory),
        }
        self.padding.assign(padding);
        self.position.assign(g.constant(0, DType::S32));
        // A row without a token is no input: what fills up a batch.
        let real = inputs.ne(PAD).any(&length).cast(DType::S32);
        let zeros = |state: &State| g.full(0, state.ty().dtype, state.dims());
        let [tokens, last, open, scores] = &self.running;
        tokens.assign(zeros(tokens));
        last.assign(zeros(last));
        open.assign(real.broadcast(&self.beams));
        match &self.ended {
            None => scores.assign(zeros(scores)),
            Some([tokens, ended, complete]) => {
                // All beams are the same at first, so that only one of them counts.
                scores.assign(beams::first(g, &self.batch, &self.beams));
                tokens.assign(zeros(tokens));
                ended.assign(g.full(MASKED, DType::F32, ended.dims()));
                complete.assign(1i32 - real);
            }
        }
    }

    fn decode(&self, g: &Graph) {
        let cx = &Context::new(g, &self.options.decoder(&self.config), None);
        let number = |name| g.input(name, DType::S32, []);
        let limits = Limits { min_length: number("min_length"), max_length: number("max_length") };
        let sampling =
            (self.options.method == Method::Sample).then(|| Sampling::inputs(g, self.options.filter));
        let penalty = self.ended.as_ref().map(|_| g.input("length_penalty", DType::F32, []));
        // The same for all positions: computed before the loop.
        let causal = match &self.decoder {
            Decoder::Cached(decoder, _) => Some(decoder.causal(cx)),
            Decoder::Uncached(..) => None,
        };
        let padding = self.padding.read(g);
        let steps = Dim::new("steps", self.options.steps);
        let (done, ()) = g.scan(&steps, self.read(g), (), |mut now: DecodeState<'_>, ()| {
            let x = match (&self.decoder, &causal) {
                (Decoder::Cached(decoder, _), Some(causal)) => {
                    let x = g.scope("embedding", || self.embedding.lookup(cx, now.last));
                    let (x, kept) = decoder.step(cx, x, now.position, causal, padding, now.kept);
                    now.kept = kept;
                    x
                }
                (Decoder::Uncached(decoder, memory), _) => self.again(cx, decoder, memory, padding, &now),
                (Decoder::Cached(..), None) => unreachable!("a cached decoder has its biases"),
            };
            let logits = g.scope("logits", || match &self.decoder {
                Decoder::Cached(_, Some(head)) => {
                    self.embedding.logits_transposed(cx, x, (&self.batch, &self.beams), head)
                }
                Decoder::Cached(_, None) | Decoder::Uncached(..) => {
                    self.embedding.logits(cx, x, &self.batch, &self.beams)
                }
            });
            let allowed = || mask_early_eos(logits, now.position, limits.min_length);
            let token = match (&sampling, penalty) {
                (Some(sampling), _) => g.scope("sample", || {
                    sampling.choose(allowed(), sampling.sequence(&self.batch, &self.beams), now.position)
                }),
                (None, Some(penalty)) => {
                    let search = Beams { batch: &self.batch, beams: &self.beams, early: self.options.early };
                    return (g.scope("beams", || search.step(now, logits, limits, penalty)), ());
                }
                (None, None) => allowed().argmax("vocab"),
            };
            let next = (token, logits.gather("vocab", token) - logits.logsumexp("vocab"));
            (advance(now, next, limits), ())
        });
        let open = match &done.ended {
            None => done.open.sum(["batch", "beams"]),
            Some(ended) => (1i32 - ended.complete).sum("batch"),
        };
        g.output("open", open);
        self.write(done);
    }

    fn results(&self, g: &Graph) {
        let now = self.read(g);
        let (tokens, scores) = match now.ended {
            None => (now.tokens, now.scores),
            Some(ended) => {
                let max_length = g.input("max_length", DType::S32, []);
                let penalty = g.input("length_penalty", DType::F32, []);
                let length = now.position.minimum(max_length);
                beams::best(ended, now.tokens, now.scores, length, penalty, &self.beams)
            }
        };
        g.output("tokens", tokens);
        g.output("scores", scores);
    }

    /// The decoder's output at the current position, by running all positions again.
    fn again<'g>(
        &self,
        cx: &Context<'g>,
        decoder: &Stack,
        memory: &State,
        padding: Tensor<'g>,
        now: &DecodeState<'g>,
    ) -> Tensor<'g> {
        let g = cx.g;
        // Every beam is a sequence of its own.
        let rows = self.batch.sized(self.batch.size * self.beams.size);
        let flat = |x: Tensor<'g>| x.reshape([&self.batch, &self.beams], &rows);
        let each = |x: Tensor<'g>| flat(x.broadcast(&self.beams));
        let before = flat(now.tokens).shift_right(&self.length, 1);
        let x = g.scope("embedding", || self.embedding.lookup(cx, before));
        let passed = decoder.forward(cx, x, &self.length, Some(each(memory.read(g))), each(padding));
        let x = passed.x.dynamic_slice(&self.length.name, now.position, 1).squeeze(&self.length.name);
        x.reshape(&rows, [&self.batch, &self.beams])
    }

    fn read<'g>(&self, g: &'g Graph) -> DecodeState<'g> {
        let [tokens, last, open, scores] = self.running.each_ref().map(|state| state.read(g));
        let kept = match &self.decoder {
            Decoder::Cached(decoder, _) => decoder.kept(g),
            Decoder::Uncached(..) => Vec::new(),
        };
        let ended = self.ended.as_ref().map(|ended| {
            let [tokens, scores, complete] = ended.each_ref().map(|state| state.read(g));
            FinishedBeams { tokens, scores, complete }
        });
        DecodeState { position: self.position.read(g), tokens, last, open, scores, kept, ended }
    }

    fn write(&self, now: DecodeState<'_>) {
        self.position.assign(now.position);
        let running = [now.tokens, now.last, now.open, now.scores];
        self.running.iter().zip(running).for_each(|(state, value)| state.assign(value));
        if let Decoder::Cached(decoder, _) = &self.decoder {
            decoder.keep(&now.kept);
        }
        if let (Some(states), Some(ended)) = (&self.ended, now.ended) {
            let values = [ended.tokens, ended.scores, ended.complete];
            states.iter().zip(values).for_each(|(state, value)| state.assign(value));
        }
    }
}

/// Logits in which a sequence cannot end before it has `min_length` tokens.
pub fn mask_early_eos<'g>(logits: Tensor<'g>, position: Tensor<'g>, min_length: Tensor<'g>) -> Tensor<'g> {
    let g = logits.graph();
    let vocab = logits.dims().into_iter().find(|d| d.name == *"vocab");
    let Some(vocab) = vocab else { return logits };
    let end = g.iota(&vocab, DType::S32).eq(EOS) & position.lt(min_length);
    end.select(g.constant(MASKED, DType::F32), logits)
}

/// One token more for every sequence that has not ended.
fn advance<'g>(
    now: DecodeState<'g>,
    (token, log): (Tensor<'g>, Tensor<'g>),
    limits: Limits<'g>,
) -> DecodeState<'g> {
    // A call may go on beyond the last position that is wanted.
    let open = now.open.ne(0) & now.position.lt(limits.max_length);
    let token = open.select(token, PAD);
    let scores = open.select(now.scores + log, now.scores);
    let row = token.broadcast(&Dim::new("target_length", 1));
    let tokens = now.tokens.dynamic_update("target_length", row, now.position);
    let open = (open & token.ne(EOS)).cast(DType::S32);
    DecodeState { position: now.position + 1, tokens, last: token, open, scores, ..now }
}

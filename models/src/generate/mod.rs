//! Generation programs: the inputs are read once, then the decoder runs position by position.
//!
//! `--set task=generate` builds a separate program, so that training programs do not grow. It declares the
//! parameters of the model, by the same names, and the state of decoding. Functions:
//!
//! - `prepare()`, if the program has it, must be called once after the parameters are loaded.
//! - `encode(inputs)` starts a new batch: it runs the encoder and caches keys and values for cross-attention.
//!   A decoder without encoder reads the inputs itself, and caches their keys and values for self-attention.
//! - `admit(inputs, from)` starts other inputs in some rows of a batch, while the others continue.
//! - `decode(…)` generates `steps` positions. Tokens are chosen on the devices and stay there; the only
//!   output, `open`, is the number of unfinished sequences. A call generates several positions because each
//!   call costs host time, and a host that reads `open` some calls late never stalls the devices.
//! - `results()` returns the tokens and their scores.
//!
//! With the KV cache, every decoder position is routed alone, as in other systems: positions do not compete
//! for expert slots, and no token of the decoder is dropped. With `--set decode=uncached` the whole prefix
//! is recomputed for every token, and tokens compete as in training.
//!
//! Reading order: `options`, this file, `rows` and `start` (the first step of rows), `prefix` (decoder-only
//! models), [`repetition`], [`sampling`], [`beams`].

pub mod beams;
mod options;
mod prefix;
pub mod repetition;
mod rows;
pub mod sampling;
mod start;

pub use options::{EarlyStopping, Generation};

use crate::{
    Config, Context, Schedule, Switch, Weights,
    attention::MASKED,
    embedding::Embedding,
    mistakes::Mistakes,
    position::RingBias,
    stack::{DecoderLayers, KvCache, Place, Stack, StepDecoder},
    tokens::PAD,
};
use beams::{Beams, FinishedBeams};
use mesh::{
    DType, Dim, Site,
    dsl::{Graph, Init, Program, State, Tensor, Tree},
    task::{self, DecodingMethod, Objective, TaskKind},
};
use repetition::HISTORY;
use sampling::Sampling;

/// True if the decoder reads the beginning of a text, which its targets continue.
fn reads_text(config: &Config) -> bool {
    config.is_decoder_only() && config.objective == Objective::Lm
}

/// Returns the encoder's configuration. If no token can be dropped, padding is not routed: nothing reads
/// its output.
fn encoder(config: &Config) -> Config {
    let own = |switch: &Switch| {
        let (_, tokens) = switch.groups(config.batch, config.input_length);
        let roomy = switch.capacity(tokens, false) >= tokens;
        Switch { ignore_padding: switch.ignore_padding || roomy, ..switch.without_sorting() }
    };
    let schedule = Schedule { skip_empty: true, ..config.schedule };
    Config { switch: config.switch.as_ref().map(own), schedule, ..config.clone() }
}

/// Returns the same options with an expert slot for every token of a group, which is one sequence.
fn never_dropping(options: &Switch) -> Switch {
    // Capacity is capped by the number of tokens. At full capacity, groups of experts save nothing.
    let all = usize::MAX;
    Switch { fixed_capacity: all, group_size: 0, expert_groups: 0, dropless: false, ..options.clone() }
}

/// Builds the generation program. Mistakes of the configuration are reported at `place`; nothing is built
/// then.
pub fn program(config: &Config, options: &Generation, place: &Site) -> Program {
    let p = Program::new(config.name.clone());
    let mut wrong = Mistakes::default();
    options.mistakes(config, &mut wrong);
    let mistakes: Vec<_> = config.mistakes_with_inputs().into_iter().chain(wrong.found()).collect();
    let config = &config.with_inputs();
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
    if let Some(rows) = options.admitted(config) {
        p.function("admit", |g| generator.admit(g, rows));
    }
    p.function("decode", |g| generator.decode(g));
    p.function("results", |g| generator.results(g));
    p
}

fn meta(p: &Program, config: &Config, options: &Generation) {
    let Generation { method, beams, steps, filter, .. } = *options;
    p.task(config.task(TaskKind::Generate(task::Generation { method, beams, steps, filter })));
    p.meta("layout", config.layout());
    p.meta("state_layout", "");
    p.meta("dtype", config.precision.name());
    p.meta("padded", config.padded());
    p.schedule(config.schedule);
}

/// The layers of a model, and the state between calls.
#[derive(Debug)]
struct Generator {
    config: Config,
    options: Generation,
    embedding: Embedding,
    /// `None` means that the decoder reads the inputs.
    encoder: Option<Stack>,
    decoder: Decoder,
    batch: Dim,
    beams: Dim,
    /// Generated positions, a multiple of `steps`.
    length: Dim,
    clock: State,
    position: State,
    /// The place of the ring where each row begins; `None` means that all begin at 0.
    start: Option<State>,
    /// The number of each row's input, from that of the batch's first one; `None` means that nothing reads
    /// it.
    number: Option<State>,
    running: [State; 4],
    padding: State,
    /// The tokens of all sequences so far; `None` means that nothing reads them.
    history: Option<State>,
    finished: Option<[State; 3]>,
}

#[derive(Debug)]
enum Decoder {
    /// A decoder with a KV cache; unrolled, with a transposed copy of the output projection.
    Cached(Box<StepDecoder>, Option<State>),
    /// A decoder that recomputes the prefix, and the stored output of the encoder, or the stored inputs.
    Uncached(Box<Stack>, State),
}

/// State of decoding between steps.
#[derive(Clone, Debug)]
pub struct DecodeState<'g> {
    /// The place that this step writes in the ring of positions, `s32[]`.
    pub clock: Tensor<'g>,
    /// The number of tokens that each row has: `s32[batch]`.
    pub position: Tensor<'g>,
    /// All tokens so far, in the ring of positions: `s32[batch, beams, target_length]`.
    pub tokens: Tensor<'g>,
    /// The token before this position: `s32[batch, beams]`.
    pub last: Tensor<'g>,
    /// 1 for a sequence that has not finished: `s32[batch, beams]`.
    pub open: Tensor<'g>,
    /// Sum of the tokens' log-probabilities: `f32[batch, beams]`.
    pub scores: Tensor<'g>,
    /// The tokens so far with those that the decoder has read before: `s32[batch, beams, history]`, as
    /// `Repetition::apply` reads them. `None` means that nothing reads them.
    pub history: Option<Tensor<'g>>,
    /// Keys and values of the decoder's earlier positions.
    pub cache: KvCache<'g>,
    /// Finished sequences of a beam search; `None` for other methods.
    pub finished: Option<FinishedBeams<'g>>,
}

impl<'g> Tree<'g> for DecodeState<'g> {
    fn map(self, f: &mut dyn FnMut(Tensor<'g>) -> Tensor<'g>) -> Self {
        Self {
            clock: f(self.clock),
            position: f(self.position),
            tokens: f(self.tokens),
            last: f(self.last),
            open: f(self.open),
            scores: f(self.scores),
            history: self.history.map(&mut *f),
            cache: self.cache.map(f),
            finished: Tree::map(self.finished, f),
        }
    }
}

/// Length limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'g> {
    /// Minimum number of tokens before a sequence may end.
    pub min_length: Tensor<'g>,
    /// Maximum number of tokens of a sequence.
    pub max_length: Tensor<'g>,
}

impl Generator {
    fn new(p: &Program, config: &Config, options: &Generation) -> Self {
        let w = Weights::new(p).with_adapters(config.lora.as_ref());
        let embedding = Embedding::new(&w, config);
        let encoder = (!config.is_decoder_only()).then(|| Stack::encoder(&w, &encoder(config)));
        let decoder = Stack::decoder(&w, &options.decoder(config));
        let (batch, beams) = (Dim::new("batch", config.batch), Dim::new("beams", options.beams));
        let length = Dim::new("target_length", config.target_length.next_multiple_of(options.steps));
        let memory_length = Dim::new("memory_length", config.input_length);
        let dtype = config.precision.activations();
        let decoder = if options.cached {
            let blocks = options.blocks(config);
            let (own, memory) = (length.size, memory_length.size);
            let decoder = StepDecoder::new(p, decoder, dtype, &beams, own, memory, blocks);
            let head = (blocks != DecoderLayers::Scan).then(|| embedding.transposed(p, "kept/head", dtype));
            Decoder::Cached(Box::new(decoder), head)
        } else if config.is_decoder_only() {
            let inputs = p.store("kept/inputs", DType::S32, [&batch, &memory_length], Init::Zeros);
            Decoder::Uncached(Box::new(decoder), inputs)
        } else {
            let d_model = Dim::new("d_model", config.d_model);
            let memory = p.store("kept/memory", dtype, [&batch, &memory_length, &d_model], Init::Zeros);
            Decoder::Uncached(Box::new(decoder), memory)
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
        let finished = (options.method == DecodingMethod::Beam).then(|| {
            let tokens = store("ended_tokens", DType::S32, &all);
            [tokens, store("ended_scores", DType::F32, &one), store("complete", DType::S32, &[&batch])]
        });
        let history = (!options.repetition.is_off()).then(|| {
            let read = if reads_text(config) { config.input_length + 1 } else { 1 };
            store("history", DType::S32, &[&batch, &beams, &Dim::new(HISTORY, length.size + read)])
        });
        Self {
            config: config.clone(),
            options: options.clone(),
            embedding,
            encoder,
            decoder,
            clock: p.counter("kept/clock", DType::S32, Init::Zeros),
            position: store("positions", DType::S32, &[&batch]),
            start: options.cached.then(|| store("start", DType::S32, &[&batch])),
            number: (options.method == DecodingMethod::Sample)
                .then(|| store("number", DType::S32, &[&batch])),
            running,
            padding: store("padding", DType::F32, &[&batch, &memory_length]),
            history,
            finished,
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

    fn decode(&self, g: &Graph) {
        let cx = &Context::new(g, &self.options.decoder(&self.config), None);
        let number = |name| g.input(name, DType::S32, []);
        let limits = Limits { min_length: number("min_length"), max_length: number("max_length") };
        let sampling = self.number.as_ref();
        let sampling = sampling.map(|number| (Sampling::inputs(g, self.options.filter), number.read(g)));
        let penalty = self.finished.as_ref().map(|_| g.input("length_penalty", DType::F32, []));
        let biases = self.biases(cx);
        let padding = self.padding.read(g);
        let first = self.first_place(padding);
        let steps = Dim::new("steps", self.options.steps);
        let (mut done, ()) = g.scan(&steps, self.read(g), (), |mut now: DecodeState<'_>, ()| {
            let x = match &self.decoder {
                Decoder::Cached(decoder, _) => {
                    let x = g.scope("embedding", || self.embedding.lookup(cx, now.last));
                    let positions = first.map(|first| first + now.position);
                    let cx = &Context { positions, ..cx.reading(now.last) };
                    let place = Place { clock: now.clock, position: now.position };
                    let (x, cache) = decoder.step(cx, x, place, biases.as_ref(), padding, now.cache);
                    now.cache = cache;
                    x
                }
                Decoder::Uncached(decoder, inputs) if self.encoder.is_none() => {
                    self.reread(cx, decoder, inputs, &now)
                }
                Decoder::Uncached(decoder, memory) => self.recompute(cx, decoder, memory, padding, &now),
            };
            let logits = g.scope("logits", || self.logits(cx, x));
            let allowed = || {
                let logits = self.unrepeated(logits, &now);
                mask_early_eos(logits, self.config.eos_token, now.position, limits.min_length)
            };
            let token = match (&sampling, penalty) {
                (Some((sampling, number)), _) => g.scope("sample", || {
                    sampling.choose(allowed(), sampling.sequence(*number, &self.beams), now.position)
                }),
                (None, Some(penalty)) => {
                    return (g.scope("beams", || self.search().step(now, logits, limits, penalty)), ());
                }
                (None, None) => allowed().argmax("vocab"),
            };
            let next = (token, logits.gather("vocab", token) - logits.logsumexp("vocab"));
            let next = self.prompted(next, now.position);
            (advance(now, next, self.config.eos_token, limits), ())
        });
        let rows = match &done.finished {
            None => done.open.max("beams"),
            Some(finished) => 1i32 - finished.complete,
        };
        let open = match &done.finished {
            None => done.open.sum(["batch", "beams"]),
            Some(_) => rows.sum("batch"),
        };
        g.output("open", open);
        g.output("open_rows", rows * done.position.lt(limits.max_length).cast(DType::S32));
        // A call ends at a multiple of `steps`, as the ring does.
        done.clock = done.clock.ge(self.length.size as u32).select(g.constant(0, DType::S32), done.clock);
        self.write(done);
    }

    /// Returns the logits of the decoder's output, `f32[batch, beams, vocab]`.
    fn logits<'g>(&self, cx: &Context<'g>, x: Tensor<'g>) -> Tensor<'g> {
        match &self.decoder {
            Decoder::Cached(_, Some(head)) => {
                self.embedding.logits_transposed(cx, x, (&self.batch, &self.beams), head)
            }
            Decoder::Cached(_, None) | Decoder::Uncached(..) => {
                self.embedding.logits(cx, x, &self.batch, &self.beams)
            }
        }
    }

    /// Returns the biases of all positions. They are loop-invariant: computed once before the loop over
    /// positions.
    fn biases<'g>(&self, cx: &Context<'g>) -> Option<RingBias<'g>> {
        match &self.decoder {
            Decoder::Cached(decoder, _) => decoder.biases(cx),
            Decoder::Uncached(..) => None,
        }
    }

    /// Applies the options of repetition to logits or log-probabilities, `f32[batch, beams, vocab]`.
    fn unrepeated<'g>(&self, logits: Tensor<'g>, now: &DecodeState<'g>) -> Tensor<'g> {
        match now.history {
            Some(history) => {
                logits.graph().scope("repetition", || self.options.repetition.apply(logits, history))
            }
            None => logits,
        }
    }

    /// Returns the next tokens and their log-probabilities, or those of the decoder's prompt at its
    /// positions.
    fn prompted<'g>(
        &self,
        (token, log): (Tensor<'g>, Tensor<'g>),
        position: Tensor<'g>,
    ) -> (Tensor<'g>, Tensor<'g>) {
        let prompt = &self.options.decoder_prompt;
        let Some(forced) = forced(prompt, position) else { return (token, log) };
        let inside = position.lt(prompt.len() as u32);
        let zeros = log.graph().constant(0.0, DType::F32);
        (inside.select(forced, token), inside.select(zeros, log))
    }

    fn search(&self) -> Beams<'_> {
        let Config { vocab, eos_token, .. } = self.config;
        let Generation { early, repetition, decoder_prompt, .. } = &self.options;
        Beams {
            batch: &self.batch,
            beams: &self.beams,
            early: *early,
            vocab,
            eos: eos_token,
            repetition: *repetition,
            prompt: decoder_prompt,
        }
    }

    fn results(&self, g: &Graph) {
        let now = self.read(g);
        let (tokens, scores) = match now.finished {
            None => (now.tokens, now.scores),
            Some(finished) => {
                let max_length = g.input("max_length", DType::S32, []);
                let penalty = g.input("length_penalty", DType::F32, []);
                let prompt = self.options.decoder_prompt.len() as u32;
                let length = (now.position.minimum(max_length) - prompt).maximum(1);
                beams::best(finished, now.tokens, now.scores, length, penalty, &self.beams)
            }
        };
        let start = self.start.as_ref().map(|start| start.read(g));
        g.output("tokens", start.map_or(tokens, |start| self.in_order(tokens, start)));
        g.output("scores", scores);
    }

    /// Returns the tokens of each row from its first one on.
    fn in_order<'g>(&self, tokens: Tensor<'g>, start: Tensor<'g>) -> Tensor<'g> {
        let (g, size) = (tokens.graph(), self.length.size as u32);
        // The order of the result's dims is that of the index.
        let start = g.full(0, DType::S32, [&self.batch, &self.beams]) + start;
        let place = start + g.iota(self.length.renamed("place"), DType::S32);
        let place = place.ge(size).select(place - size, place);
        tokens.gather(&self.length, place).rename("place", &self.length.name)
    }

    /// Returns the decoder's output at the current position, recomputing all earlier positions.
    fn recompute<'g>(
        &self,
        cx: &Context<'g>,
        decoder: &Stack,
        memory: &State,
        padding: Tensor<'g>,
        now: &DecodeState<'g>,
    ) -> Tensor<'g> {
        let g = cx.g;
        // Every beam is a separate sequence.
        let rows = self.batch.sized(self.batch.size * self.beams.size);
        let flat = |x: Tensor<'g>| x.reshape([&self.batch, &self.beams], &rows);
        let each = |x: Tensor<'g>| flat(x.broadcast(&self.beams));
        let before = flat(now.tokens).shift_right(&self.length, 1);
        let x = g.scope("embedding", || self.embedding.lookup(cx, before));
        // The state is `[batch, memory_length, d_model]`.
        let memory_length = &memory.dims()[1];
        let memory = Some((each(memory.read(g)), memory_length));
        let passed = decoder.forward(&cx.reading(before), x, &self.length, memory, Some(each(padding)));
        let x = passed.x.dynamic_slice(&self.length.name, now.clock, 1).squeeze(&self.length.name);
        x.reshape(&rows, [&self.batch, &self.beams])
    }

    fn read<'g>(&self, g: &'g Graph) -> DecodeState<'g> {
        let [tokens, last, open, scores] = self.running.each_ref().map(|state| state.read(g));
        let cache = match &self.decoder {
            Decoder::Cached(decoder, _) => decoder.read_cache(g),
            Decoder::Uncached(..) => Vec::new(),
        };
        let finished = self.finished.as_ref().map(|finished| {
            let [tokens, scores, complete] = finished.each_ref().map(|state| state.read(g));
            FinishedBeams { tokens, scores, complete }
        });
        let history = self.history.as_ref().map(|history| history.read(g));
        let [clock, position] = [&self.clock, &self.position].map(|state| state.read(g));
        DecodeState { clock, position, tokens, last, open, scores, history, cache, finished }
    }

    fn write(&self, now: DecodeState<'_>) {
        self.clock.assign(now.clock);
        self.position.assign(now.position);
        let running = [now.tokens, now.last, now.open, now.scores];
        self.running.iter().zip(running).for_each(|(state, value)| state.assign(value));
        if let (Some(state), Some(history)) = (&self.history, now.history) {
            state.assign(history);
        }
        if let Decoder::Cached(decoder, _) = &self.decoder {
            decoder.write_cache(&now.cache);
        }
        if let (Some(states), Some(finished)) = (&self.finished, now.finished) {
            let values = [finished.tokens, finished.scores, finished.complete];
            states.iter().zip(values).for_each(|(state, value)| state.assign(value));
        }
    }
}

/// Masks the end-of-sequence token in `logits` while a sequence has fewer than `min_length` tokens.
pub fn mask_early_eos<'g>(
    logits: Tensor<'g>,
    eos: u32,
    position: Tensor<'g>,
    min_length: Tensor<'g>,
) -> Tensor<'g> {
    let g = logits.graph();
    let vocab = logits.dims().into_iter().find(|d| d.name == *"vocab");
    let Some(vocab) = vocab else { return logits };
    let end = g.iota(&vocab, DType::S32).eq(eos) & position.lt(min_length);
    end.select(g.constant(MASKED, DType::F32), logits)
}

/// Appends one token to every open sequence.
fn advance<'g>(
    now: DecodeState<'g>,
    (token, log): (Tensor<'g>, Tensor<'g>),
    eos: u32,
    limits: Limits<'g>,
) -> DecodeState<'g> {
    // A call may run past `max_length`.
    let open = now.open.ne(0) & now.position.lt(limits.max_length);
    let token = open.select(token, PAD);
    let scores = open.select(now.scores + log, now.scores);
    // A sequence that has ended stays in the ring until its row begins another one.
    let held = now.tokens.dynamic_slice("target_length", now.clock, 1);
    let row = open.select(token, held.squeeze("target_length")).broadcast(Dim::new("target_length", 1));
    let tokens = now.tokens.dynamic_update("target_length", row, now.clock);
    let open = (open & token.ne(eos)).cast(DType::S32);
    let history = now.history.map(|history| repetition::extended(history, token));
    let (clock, position) = (now.clock + 1, now.position + 1);
    DecodeState { clock, position, tokens, last: token, open, scores, history, ..now }
}

/// Returns the token of the decoder's prompt at `position`, `s32[batch]`, or its last one behind it. `None`
/// means that there is no prompt.
pub fn forced<'g>(prompt: &[u32], position: Tensor<'g>) -> Option<Tensor<'g>> {
    let (last, before) = prompt.split_last()?;
    let g = position.graph();
    let token = |token: u32| g.constant(token, DType::S32);
    let numbered = before.iter().enumerate();
    Some(numbered.fold(token(*last), |rest, (i, this)| position.eq(i as u32).select(token(*this), rest)))
}

//! A decoder-only language model from the primitives of the language, with its own optimizer.
//!
//! `meshc train models/decoder.rs --data FILES… --mesh data=2,model=2 --steps 300`
//!
//! It uses nothing of the crate `models`. Reading order: [`Decoder::new`] (parameters), [`Decoder::loss`]
//! (the forward pass), [`program`] (the functions that the runtime calls), [`AdamW`].

use mesh::{
    DType, Dim, Schedule, Task,
    dsl::{self, Args, Graph, Init, Program, ScanOptions, State, Tensor, einsum},
    task::Objective,
};
use std::process::ExitCode;

fn main() -> ExitCode {
    dsl::main(program)
}

/// Token of padding, which is also the start token.
const PAD: u32 = 0;
/// Added to a logit to mask it.
const MASKED: f64 = -1e30;

/// The program: `train_step` and `eval_step` over rows of tokens.
pub fn program(args: &Args) -> Program {
    let p = Program::new("decoder");
    let size = |name: &str, default: usize| Dim::new(name, args.get(name, default));
    let schedule = args.schedule(Schedule::default());
    let model = Decoder::new(
        &p,
        [size("batch", 16), size("length", 128), size("vocab", 384)],
        [size("layers", 4), size("d_model", 128), size("heads", 4), size("d_kv", 32), size("d_ff", 512)],
        schedule,
    );
    let optimizer = AdamW::new(&p, args, &model.weights);
    let step = p.counter("step", DType::S32, Init::Zeros);

    p.task(Task {
        vocab: model.vocab.size,
        batch: model.batch.size,
        target_length: model.length.size,
        ..Task::train(Objective::Lm)
    });
    p.meta("layout", "batch:data,heads:model,d_ff:model,vocab:model");
    p.meta("state_layout", "*:data");
    p.schedule(schedule);

    p.function("train_step", |g| {
        let targets = g.input("targets", DType::S32, [&model.batch, &model.length]);
        let loss = model.loss(g, targets);
        let now = step.read(g);
        optimizer.update(g, loss, (now + 1).cast(DType::F32));
        step.assign(now + 1);
        g.output("loss", loss);
    });
    p.function("eval_step", |g| {
        let targets = g.input("targets", DType::S32, [&model.batch, &model.length]);
        g.output("loss", model.loss(g, targets));
    });
    p
}

/// The parameters. Those of the layers are stacked over the dim `layers`, so that one scan runs all layers.
struct Decoder {
    batch: Dim,
    length: Dim,
    vocab: Dim,
    layers: Dim,
    d_model: Dim,
    heads: Dim,
    d_kv: Dim,
    d_ff: Dim,
    schedule: Schedule,
    embedding: State,
    positions: State,
    norms: [State; 3],
    q: State,
    k: State,
    v: State,
    o: State,
    wi: State,
    wo: State,
    weights: Vec<State>,
}

impl Decoder {
    fn new(
        p: &Program,
        [batch, length, vocab]: [Dim; 3],
        [layers, d_model, heads, d_kv, d_ff]: [Dim; 5],
        schedule: Schedule,
    ) -> Self {
        let matrix = |name: &str, dims: [&Dim; 4], fan_in: &[&Dim]| {
            p.param(name, dims, Init::truncated_normal(1.0, fan_in))
        };
        let project = |name| matrix(name, [&layers, &d_model, &heads, &d_kv], &[&d_model]);
        let [q, k, v] = ["q", "k", "v"].map(project);
        let o = matrix("o", [&layers, &heads, &d_kv, &d_model], &[&heads, &d_kv]);
        let wi = p.param("wi", [&layers, &d_model, &d_ff], Init::truncated_normal(1.0, &[&d_model]));
        let wo = p.param("wo", [&layers, &d_ff, &d_model], Init::truncated_normal(1.0, &[&d_ff]));
        let embedding = p.param("embedding", [&vocab, &d_model], Init::Normal(0.02));
        let positions = p.param("positions", [&length, &d_model], Init::Normal(0.02));
        let norms = [
            p.param("attention_norm", [&layers, &d_model], Init::Ones),
            p.param("ffn_norm", [&layers, &d_model], Init::Ones),
            p.param("norm", [&d_model], Init::Ones),
        ];
        let all = [&q, &k, &v, &o, &wi, &wo, &embedding, &positions].into_iter().chain(&norms);
        let weights = all.cloned().collect();
        Self {
            batch,
            length,
            vocab,
            layers,
            d_model,
            heads,
            d_kv,
            d_ff,
            schedule,
            embedding,
            positions,
            norms,
            q,
            k,
            v,
            o,
            wi,
            wo,
            weights,
        }
    }

    /// Mean cross-entropy of `targets` (`s32[batch, length]`) in nats, each predicted from those before it.
    fn loss<'g>(&self, g: &'g Graph, targets: Tensor<'g>) -> Tensor<'g> {
        let before = targets.shift_right(&self.length, 1);
        let mut x = self.embedding.read(g).gather(&self.vocab, before) + self.positions.read(g);
        let options = ScanOptions {
            remat: self.schedule.remat,
            unroll: self.schedule.unroll,
            ..ScanOptions::default()
        };
        // Inside the scan, reading a parameter with the dim `layers` gives the slice of the current layer.
        x = g.scan_with(&self.layers, options, x, (), |x, ()| (self.block(g, x), ())).0;
        let x = self.norm(x) * self.norms[2].read(g);
        let logits = einsum([x, self.embedding.read(g)], [&self.batch, &self.length, &self.vocab]);
        let wanted = (logits * targets.one_hot(&self.vocab, DType::F32)).sum(&self.vocab);
        let counts = targets.ne(PAD).cast(DType::F32);
        ((logits.logsumexp(&self.vocab) - wanted) * counts).sum_all() / counts.sum_all().maximum(1.0)
    }

    fn block<'g>(&self, g: &'g Graph, x: Tensor<'g>) -> Tensor<'g> {
        let x = x + g.scope("attention", || self.attention(g, self.norm(x) * self.norms[0].read(g)));
        x + g.scope("ffn", || {
            let h = self.norm(x) * self.norms[1].read(g);
            let hidden = einsum([h, self.wi.read(g)], [&self.batch, &self.length, &self.d_ff]).relu();
            einsum([hidden, self.wo.read(g)], [&self.batch, &self.length, &self.d_model])
        })
    }

    fn attention<'g>(&self, g: &'g Graph, x: Tensor<'g>) -> Tensor<'g> {
        let Self { batch, length, heads, d_kv, .. } = self;
        // A tensor has each dim once: the positions attended to need another name than the querying ones.
        let memory = &length.renamed("memory_length");
        let from = x.rename(length, memory);
        let q = einsum([x, self.q.read(g)], [batch, length, heads, d_kv]);
        let k = einsum([from, self.k.read(g)], [batch, memory, heads, d_kv]);
        let v = einsum([from, self.v.read(g)], [batch, memory, heads, d_kv]);
        let logits = einsum([q, k], [batch, heads, length, memory]) / (d_kv.size as f64).sqrt();
        let later = g.iota(memory, DType::S32).gt(g.iota(length, DType::S32));
        let weights = (logits + later.cast(DType::F32) * MASKED).softmax(memory);
        let mixed = einsum([weights, v], [batch, length, heads, d_kv]);
        einsum([mixed, self.o.read(g)], [batch, length, &self.d_model])
    }

    /// RMS norm without its scale.
    fn norm<'g>(&self, x: Tensor<'g>) -> Tensor<'g> {
        x * (x.square().mean(&self.d_model) + 1e-6).rsqrt()
    }
}

/// AdamW. Its moments are optimizer slots: state that is stored and checkpointed with the parameters.
struct AdamW {
    rate: f64,
    decay: f64,
    slots: Vec<(State, State, State)>,
}

impl AdamW {
    const BETA1: f64 = 0.9;
    const BETA2: f64 = 0.98;

    fn new(p: &Program, args: &Args, weights: &[State]) -> Self {
        let slot =
            |w: &State, kind| p.slot(format!("{}/{kind}", w.name()), DType::F32, w.dims(), Init::Zeros);
        let slots = weights.iter().map(|w| (w.clone(), slot(w, "m"), slot(w, "v"))).collect();
        Self { rate: args.get("lr", 2e-3), decay: args.get("weight_decay", 0.01), slots }
    }

    /// Assigns the next value of every parameter in step `t`, an `f32` that counts from 1.
    fn update<'g>(&self, g: &'g Graph, loss: Tensor<'g>, t: Tensor<'g>) {
        let values: Vec<Tensor<'g>> = self.slots.iter().map(|(w, ..)| w.read(g)).collect();
        let correction = |beta: f64| 1.0 - g.constant(beta, DType::F32).pow(t);
        let (first, second) = (correction(Self::BETA1), correction(Self::BETA2));
        for (((w, m, v), value), gradient) in self.slots.iter().zip(&values).zip(g.grad(loss, &values)) {
            let mean = m.read(g) * Self::BETA1 + gradient * (1.0 - Self::BETA1);
            let square = v.read(g) * Self::BETA2 + gradient.square() * (1.0 - Self::BETA2);
            m.assign(mean);
            v.assign(square);
            let change = mean / first / ((square / second).sqrt() + 1e-8);
            w.assign(*value - (change + *value * self.decay) * self.rate);
        }
    }
}

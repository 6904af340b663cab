//! Heterogeneous experts: a sparse layer whose experts have two sizes, few large ones and many small ones
//! (the paper's section 8 names this as future work).
//!
//! `meshc train models/heterogeneous.rs --data FILES… --mesh data=2,expert=2 --steps 300`
//!
//! The model around the layer is as small as it can be: it predicts each token from the one before. One
//! router serves all experts; after dispatch the expert slots are divided between the two sizes, each with
//! its own dim of experts and its own `d_ff`, so that a layout can shard them separately.

use mesh::{
    DType, Dim, Task,
    dsl::{self, Args, Graph, Init, Program, State, Tensor, einsum},
    task::Objective,
};
use std::{ops::Range, process::ExitCode};

fn main() -> ExitCode {
    dsl::main(program)
}

/// The program: `train_step` and `eval_step` over rows of tokens.
pub fn program(args: &Args) -> Program {
    let p = Program::new("heterogeneous");
    let size = |name: &str, default: usize| Dim::new(name, args.get(name, default));
    let (batch, length, vocab) = (&size("batch", 16), &size("length", 128), &size("vocab", 384));
    let d_model = &size("d_model", 64);
    let small = [size("small_experts", 12), size("small_d_ff", 64)];
    let large = [size("large_experts", 4), size("large_d_ff", 256)];
    let factor = args.get("capacity_factor", 1.25);
    let layer = Layer::new(&p, [batch, length, d_model], [small, large], factor);
    let embedding = p.param("embedding", [vocab, d_model], Init::Normal(1.0));
    let head = p.param("head", [vocab, d_model], Init::truncated_normal(1.0, &[d_model]));
    let rate = args.get("lr", 0.5);

    p.task(Task {
        vocab: vocab.size,
        batch: batch.size,
        target_length: length.size,
        ..Task::train(Objective::Lm)
    });
    p.meta("layout", "batch:data+expert,expert_batch:data,small_experts:expert,large_experts:expert");

    let model = Model { vocab: vocab.clone(), layer, embedding, head };
    p.function("train_step", |g| {
        let losses = model.losses(g, g.input("targets", DType::S32, [batch, length]));
        let weights = model.weights();
        let values: Vec<Tensor<'_>> = weights.iter().map(|w| w.read(g)).collect();
        let gradients = g.grad(losses.cross_entropy + losses.aux * 0.01, &values);
        // Plain gradient descent.
        for ((weight, value), gradient) in weights.iter().zip(&values).zip(gradients) {
            weight.assign(*value - gradient * rate);
        }
        losses.output(g);
    });
    p.function("eval_step", |g| {
        model.losses(g, g.input("targets", DType::S32, [batch, length])).output(g);
    });
    p
}

/// An embedding, the sparse layer, and the output projection.
struct Model {
    vocab: Dim,
    layer: Layer,
    embedding: State,
    head: State,
}

/// Losses and metrics of a step.
struct Losses<'g> {
    cross_entropy: Tensor<'g>,
    aux: Tensor<'g>,
    dropped: Tensor<'g>,
}

impl Losses<'_> {
    fn output(&self, g: &Graph) {
        g.output("loss", self.cross_entropy);
        g.output("aux_loss", self.aux);
        g.output("dropped", self.dropped);
    }
}

impl Model {
    fn weights(&self) -> Vec<State> {
        let Layer { router, small, large, .. } = &self.layer;
        let experts = [small, large].into_iter().flat_map(|e| [&e.wi, &e.wo]);
        [&self.embedding, &self.head, router].into_iter().chain(experts).cloned().collect()
    }

    /// The losses of `targets` (`s32[batch, length]`), each predicted from the token before it.
    fn losses<'g>(&self, g: &'g Graph, targets: Tensor<'g>) -> Losses<'g> {
        let Layer { batch, length, .. } = &self.layer;
        let before = targets.shift_right(length, 1);
        let x = self.embedding.read(g).gather(&self.vocab, before);
        let (y, aux, dropped) = self.layer.forward(g, x);
        let logits = einsum([x + y, self.head.read(g)], [batch, length, &self.vocab]);
        let wanted = (logits * targets.one_hot(&self.vocab, DType::F32)).sum(&self.vocab);
        Losses { cross_entropy: (logits.logsumexp(&self.vocab) - wanted).mean_all(), aux, dropped }
    }
}

/// A router and experts of two sizes.
struct Layer {
    batch: Dim,
    length: Dim,
    d_model: Dim,
    experts: Dim,
    capacity: Dim,
    router: State,
    small: Experts,
    large: Experts,
}

/// Experts of one size.
struct Experts {
    experts: Dim,
    d_ff: Dim,
    wi: State,
    wo: State,
}

impl Experts {
    fn new(p: &Program, name: &str, d_model: &Dim, [experts, d_ff]: [Dim; 2]) -> Self {
        p.scope(name, || {
            let wi = p.param("wi", [&experts, d_model, &d_ff], Init::truncated_normal(1.0, &[d_model]));
            let wo = p.param("wo", [&experts, d_model, &d_ff], Init::truncated_normal(1.0, &[&d_ff]));
            Self { wi, wo, experts, d_ff }
        })
    }

    /// Applies the experts to `sent` of `[batch, experts_all, capacity, d_model]`, in which they are `range`.
    fn forward<'g>(&self, g: &'g Graph, layer: &Layer, sent: Tensor<'g>, range: Range<usize>) -> Tensor<'g> {
        let Layer { batch, d_model, experts: all, capacity, .. } = layer;
        let expert_batch = &batch.renamed("expert_batch");
        // The two renames are the all-to-all: before, a device has its sequences and all experts; after, all
        // sequences and its experts.
        let x = sent.slice(all, range).rename_all([(batch, expert_batch), (all, &self.experts)]);
        let hidden = einsum([x, self.wi.read(g)], [expert_batch, &self.experts, capacity, &self.d_ff]).relu();
        let y = einsum([hidden, self.wo.read(g)], [expert_batch, &self.experts, capacity, d_model]);
        y.rename_all([(expert_batch, batch), (&self.experts, all)])
    }
}

impl Layer {
    fn new(
        p: &Program,
        [batch, length, d_model]: [&Dim; 3],
        [small, large]: [[Dim; 2]; 2],
        factor: f64,
    ) -> Self {
        let experts = Dim::new("experts_all", small[0].size + large[0].size);
        // Every expert has the same number of expert slots in a sequence; capacity could differ by size, too.
        let capacity = (length.size as f64 * factor / experts.size as f64).ceil() as usize;
        Self {
            router: p.param("router", [d_model, &experts], Init::truncated_normal(0.1, &[d_model])),
            small: Experts::new(p, "small", d_model, small),
            large: Experts::new(p, "large", d_model, large),
            batch: batch.clone(),
            length: length.clone(),
            d_model: d_model.clone(),
            capacity: Dim::new("capacity", capacity.min(length.size)),
            experts,
        }
    }

    /// The layer's output for `x` of `[batch, length, d_model]`, the load-balancing loss (1 if balanced), and
    /// the share of dropped tokens. Each token goes to the expert of its highest router probability.
    fn forward<'g>(&self, g: &'g Graph, x: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>, Tensor<'g>) {
        let Self { batch, length, d_model, experts, capacity, .. } = self;
        let logits = einsum([x, self.router.read(g)], [batch, length, experts]);
        let probabilities = logits.softmax(experts);
        let expert = probabilities.argmax(experts);
        let chosen = expert.one_hot(experts, DType::S32);
        // Expert slots are taken in the order of tokens; a token beyond the capacity is dropped (slot -1).
        let position = (chosen.cumsum_exclusive(length) * chosen).sum(experts);
        let fits = position.lt(capacity.size as u32);
        let slot = fits.select(expert * capacity.size as u32 + position, -1);
        let slots = Dim::new("slots", experts.size * capacity.size);
        let mask = slot.one_hot(&slots, DType::F32);

        let sent = einsum([x, mask], [batch, &slots, d_model]).split(&slots, [experts, capacity]);
        let split = self.small.experts.size;
        let small = g.scope("small", || self.small.forward(g, self, sent, 0..split));
        let large = g.scope("large", || self.large.forward(g, self, sent, split..experts.size));
        let done = g.concat(&[small, large], experts).merge([experts, capacity], &slots);
        let y = einsum([done, mask], [batch, length, d_model]) * probabilities.max(experts);

        let load = chosen.cast(DType::F32).mean([batch, length]);
        let aux = (load * probabilities.mean([batch, length])).sum(experts) * experts.size as f64;
        (y, aux, 1.0 - fits.cast(DType::F32).mean_all())
    }
}

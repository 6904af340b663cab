//! A byte-level language model that predicts each byte from the four bytes before it, trained with Adam.

use mesh::{
    DType, Dim, Task,
    dsl::{self, Graph, Init, Program, State, Tensor, einsum},
    task::Objective,
};
use std::process::ExitCode;

const CONTEXT: usize = 4;

struct Model {
    embedding: State,
    wi: State,
    wo: State,
}

impl Model {
    fn new(p: &Program, vocab: &Dim, d_model: &Dim, d_ff: &Dim) -> Self {
        let context = Dim::new("context", CONTEXT);
        Model {
            embedding: p.param("embedding", [vocab, d_model], Init::Normal(1.0)),
            wi: p.param("wi", [&context, d_model, d_ff], Init::truncated_normal(1.0, &[&context, d_model])),
            wo: p.param("wo", [d_ff, vocab], Init::truncated_normal(0.1, &[d_ff])),
        }
    }

    /// Returns the mean cross-entropy in nats of the `s32[batch, target_length]` targets; 0 is padding.
    fn loss<'g>(&self, g: &'g Graph, targets: Tensor<'g>) -> Tensor<'g> {
        let before = |by| targets.shift_right("target_length", by).broadcast(&Dim::new("context", 1));
        let tokens = g.concat(&(1..=CONTEXT).map(before).collect::<Vec<_>>(), "context");
        let x = self.embedding.read(g).gather("vocab", tokens);
        let hidden = einsum([x, self.wi.read(g)], ["batch", "target_length", "d_ff"]).relu();
        let logits = einsum([hidden, self.wo.read(g)], ["batch", "target_length", "vocab"]);
        let correct = (logits * targets.one_hot(&self.embedding.dims()[0], DType::F32)).sum("vocab");
        let counted = targets.ne(0).cast(DType::F32);
        ((logits.logsumexp("vocab") - correct) * counted).sum_all() / counted.sum_all().maximum(1.0)
    }
}

/// Declares the input that `meshc train` gives to every step of a language model.
fn targets<'g>(g: &'g Graph, batch: &Dim, target_length: &Dim) -> Tensor<'g> {
    g.input("targets", DType::S32, [batch, target_length])
}

fn main() -> ExitCode {
    dsl::main(|args| {
        let p = Program::new("bytes");
        let batch = Dim::new("batch", args.get("batch", 16));
        let target_length = Dim::new("target_length", args.get("target_length", 64));
        let (vocab, d_model, d_ff) = (Dim::new("vocab", 384), Dim::new("d_model", 32), Dim::new("d_ff", 128));
        p.meta("layout", "batch:data,d_ff:model");
        p.task(Task {
            vocab: vocab.size,
            batch: batch.size,
            target_length: target_length.size,
            ..Task::train(Objective::Lm)
        });

        let model = Model::new(&p, &vocab, &d_model, &d_ff);
        let step = p.counter("step", DType::S32, Init::Zeros);
        let params = [&model.embedding, &model.wi, &model.wo];
        // Two optimizer slots per parameter: the means of gradients and of their squares.
        let slots = params.map(|w| {
            ["m", "v"].map(|slot| p.slot(format!("{}/{slot}", w.name()), DType::F32, w.dims(), Init::Zeros))
        });

        p.function("train_step", |g| {
            let loss = model.loss(g, targets(g, &batch, &target_length));
            let gradients = g.grad(loss, &params.map(|w| w.read(g)));
            let t = step.read(g).cast(DType::F32) + 1.0;
            step.assign(step.read(g) + 1);
            for ((w, [m, v]), gradient) in params.iter().zip(&slots).zip(gradients) {
                let (beta1, beta2) = (0.9, 0.99);
                let mean = m.read(g) * beta1 + gradient * (1.0 - beta1);
                let square = v.read(g) * beta2 + gradient.square() * (1.0 - beta2);
                let bias = |beta: f64| 1.0 - (t * beta.ln()).exp();
                w.assign(w.read(g) - mean / bias(beta1) / ((square / bias(beta2)).sqrt() + 1e-8) * 3e-3);
                m.assign(mean);
                v.assign(square);
            }
            g.output("loss", loss);
        });
        p.function("eval_step", |g| g.output("loss", model.loss(g, targets(g, &batch, &target_length))));
        p
    })
}

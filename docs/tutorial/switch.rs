//! A Switch layer: top-1 routing, capacity, dispatch, experts, combine.

use mesh::{
    DType, Dim,
    dsl::{self, Graph, Init, Program, State, Tensor, einsum},
};
use std::process::ExitCode;

/// The parameters and sizes of a Switch layer.
struct Switch {
    router: State,
    wi: State,
    wo: State,
    experts: Dim,
    capacity: Dim,
}

impl Switch {
    fn new(p: &Program, d_model: &Dim, d_ff: &Dim, experts: usize, capacity: usize) -> Self {
        let experts = Dim::new("experts", experts);
        let init = Init::truncated_normal(0.1, &[d_model]);
        let all = Dim::new("experts_all", experts.size);
        Switch {
            router: p.param("router", [d_model, &all], init),
            wi: p.param("wi", [&experts, d_model, d_ff], init),
            wo: p.param("wo", [&experts, d_ff, d_model], Init::truncated_normal(0.1, &[d_ff])),
            experts,
            capacity: Dim::new("capacity", capacity),
        }
    }

    /// Returns the output and the load-balancing loss for `x` of `[batch, length, d_model]`.
    fn forward<'g>(&self, g: &'g Graph, x: Tensor<'g>) -> (Tensor<'g>, Tensor<'g>) {
        let all = Dim::new("experts_all", self.experts.size);
        // The router: a probability for every token and expert.
        let probabilities =
            einsum([x, self.router.read(g)], ["batch", "length", "experts_all"]).softmax(&all);
        let expert = probabilities.argmax(&all);
        let chosen = expert.one_hot(&all, DType::F32);
        let gate = (probabilities * chosen).sum(&all);

        // Tokens occupy the expert slots in order; a position beyond the capacity has none.
        let position = (chosen.cumsum_exclusive("length") * chosen).sum(&all).cast(DType::S32);
        let expert_slot = position.one_hot(&self.capacity, DType::F32);
        let dispatch = chosen * expert_slot; // [batch, length, experts_all, capacity]

        // Renaming the dims exchanges the axes of the mesh: an all-to-all if the layout splits `experts`.
        let sent = einsum([dispatch, x], ["batch", "experts_all", "capacity", "d_model"])
            .rename_all([("batch", "expert_batch"), ("experts_all", "experts")]);
        let hidden = einsum([sent, self.wi.read(g)], ["experts", "expert_batch", "capacity", "d_ff"]).relu();
        let done = einsum([hidden, self.wo.read(g)], ["experts", "expert_batch", "capacity", "d_model"])
            .rename_all([("expert_batch", "batch"), ("experts", "experts_all")]);
        let y = einsum([dispatch * gate, done], ["batch", "length", "d_model"]);

        // Equations 4 to 6 of the Switch Transformer paper.
        let (load, share) = (chosen.mean(["batch", "length"]), probabilities.mean(["batch", "length"]));
        (y, (load * share).sum(&all) * self.experts.size as f64)
    }
}

fn main() -> ExitCode {
    dsl::main(|args| {
        let p = Program::new("switch");
        let batch = Dim::new("batch", args.get("batch", 8));
        let length = Dim::new("length", args.get("length", 64));
        let (d_model, d_ff) = (Dim::new("d_model", 32), Dim::new("d_ff", 128));
        p.meta("layout", "batch:data+expert,experts:expert,expert_batch:data");
        let layer = Switch::new(&p, &d_model, &d_ff, args.get("experts", 8), args.get("capacity", 10));
        p.function("forward", |g| {
            let (y, balance) = layer.forward(g, g.input("x", DType::F32, [&batch, &length, &d_model]));
            g.output("y", y);
            g.output("balance", balance);
        });
        p
    })
}

//! Causal multi-head self-attention.

use mesh::{
    DType, Dim,
    dsl::{self, Init, Program, State, einsum},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    dsl::main(|args| {
        let p = Program::new("attention");
        let batch = Dim::new("batch", args.get("batch", 8));
        let length = Dim::new("length", args.get("length", 128));
        let memory = Dim::new("memory_length", length.size);
        let d_model = Dim::new("d_model", args.get("d_model", 64));
        let heads = Dim::new("heads", args.get("heads", 4));
        let d_kv = Dim::new("d_kv", args.get("d_kv", 16));
        p.meta("layout", "batch:data,heads:model");

        let init = Init::truncated_normal(1.0, &[&d_model]);
        let [wq, wk, wv] = ["q", "k", "v"].map(|name| p.param(name, [&d_model, &heads, &d_kv], init));
        let init = Init::truncated_normal(1.0, &[&heads, &d_kv]);
        let wo = p.param("o", [&heads, &d_kv, &d_model], init);

        p.function("forward", |g| {
            let x = g.input("x", DType::F32, [&batch, &length, &d_model]);
            let project = |w: &State| einsum([x, w.read(g)], [&batch, &length, &heads, &d_kv]);
            let q = project(&wq);
            let [k, v] = [&wk, &wv].map(|w| project(w).rename(&length, &memory));

            let logits = einsum([q, k], [&batch, &heads, &length, &memory]) / (d_kv.size as f64).sqrt();
            let causal = g.iota(&memory, DType::S32).le(g.iota(&length, DType::S32));
            let weights = causal.select(logits, -1e30).softmax(&memory);

            let mixed = einsum([weights, v], [&batch, &length, &heads, &d_kv]);
            g.output("y", einsum([mixed, wo.read(g)], [&batch, &length, &d_model]));
        });
        p
    })
}

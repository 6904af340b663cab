//! The smallest program worth partitioning: one product.
//!
//! `meshc report models/matmul.rs --mesh data=4,model=2 --layout batch:data,d_ff:model`

use mesh::{
    DType, Dim,
    dsl::{self, Init, Program, einsum},
};
use std::process::ExitCode;

fn main() -> ExitCode {
    dsl::main(|args| {
        let p = Program::new("matmul");
        let batch = Dim::new("batch", args.get("batch", 64));
        let d_model = Dim::new("d_model", args.get("d_model", 128));
        let d_ff = Dim::new("d_ff", args.get("d_ff", 256));
        p.meta("layout", "batch:data,d_ff:model");
        let w = p.param("w", [&d_model, &d_ff], Init::truncated_normal(1.0, &[&d_model]));
        p.function("forward", |g| {
            let x = g.input("x", DType::F32, [&batch, &d_model]);
            g.output("y", einsum([x, w.read(g)], [&batch, &d_ff]).relu());
        });
        p
    })
}

//! Gradients of programs of the DSL.

use crate::{
    autodiff::expand,
    interp::{self, Precision, Tensor, Tensors},
};
use mesh::{DType, Dim, dsl::Program};

/// A model that gives `permute` no inverse gets the gradient of the permutation: of the elements that are
/// moved it is their weight in the loss, of the others 0.
#[test]
fn the_gradient_of_permute_uses_the_computed_inverse() {
    let (rows, d, to) = (Dim::new("rows", 2), Dim::new("d", 4), Dim::new("to", 3));
    let program = Program::new("permuted");
    program.function("f", |g| {
        let x = g.input("x", DType::F32, [&rows, &d]);
        let forward = g.input("forward", DType::S32, [&rows, &to]);
        let weight = g.iota(&to, DType::F32) + 1.0;
        let loss = (x.permute(&d, &to, forward) * weight).sum_all();
        g.output("loss", loss);
        g.output("gradient", g.grad(loss, &[x])[0]);
    });
    let module = program.finish().unwrap_or_else(|d| panic!("{d}"));
    let module = expand(&module).unwrap_or_else(|d| panic!("{d}"));
    let inputs = Tensors::from([
        (
            "x".into(),
            Tensor::new(DType::F32, &[rows.clone(), d.clone()], (1..=8).map(f64::from).collect()).unwrap(),
        ),
        (
            "forward".into(),
            Tensor::new(DType::S32, &[rows.clone(), to.clone()], vec![2.0, 0.0, -1.0, 3.0, 1.0, 0.0])
                .unwrap(),
        ),
    ]);
    let outputs = interp::run(&module, "f", &inputs, &Tensors::new(), Precision::Normal).unwrap().outputs;
    assert_eq!(outputs["loss"].number(), 3.0 + 2.0 + 8.0 + 2.0 * 6.0 + 3.0 * 5.0);
    let by = ["rows".into(), "d".into()];
    let gradient = outputs["gradient"].ordered(&by).elements();
    assert_eq!(gradient, [2.0, 0.0, 1.0, 0.0, 3.0, 2.0, 0.0, 1.0]);
}

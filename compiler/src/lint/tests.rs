//! Programs with one fault each, and programs without any.

use super::*;
use mesh::{
    DType, Dim,
    dsl::{Graph, Init, Program, State, Tensor, einsum},
    verify::Global,
};

/// The warnings about a program with parameters `w` `[d, o]` and `v` `[o]` and a training function with the
/// loss `loss`: their labels, and the texts of the lines they point to.
fn warnings(
    loss: impl for<'g> Fn(&'g Graph, Tensor<'g>, &[State; 2]) -> Tensor<'g>,
) -> Vec<(&'static str, String)> {
    let [batch, d, o] = [("batch", 2), ("d", 3), ("o", 4)].map(|(name, size)| Dim::new(name, size));
    let p = Program::new("m");
    let params = [p.param("w", [&d, &o], Init::Constant(1.0)), p.param("v", [&o], Init::Constant(1.0))];
    p.function("step", |g| {
        let x = g.input("x", DType::F32, [&batch, &d]);
        let loss = loss(g, x, &params);
        let reads: Vec<_> = params.iter().map(|p| p.read(g)).collect();
        for (gradient, (p, w)) in g.grad(loss, &reads).into_iter().zip(params.iter().zip(&reads)) {
            p.assign(*w - gradient);
        }
        g.output("loss", loss);
    });
    let module = p.finish().unwrap_or_else(|d| panic!("{d}"));
    let global = Global::new(module).unwrap_or_else(|d| panic!("{d}"));
    let line = |lint: &Diagnostic| {
        let line = lint.site.as_ref().expect("the warning has a place").line as usize;
        include_str!("tests.rs").lines().nth(line - 1).expect("the line is in this file").trim().to_owned()
    };
    lints(global.module()).iter().map(|lint| (lint.label, line(lint))).collect()
}

#[test]
fn a_program_without_fault_has_no_warning() {
    let good = warnings(|g, x, [w, v]| {
        (einsum([x, w.read(g)], ["batch", "o"]) + v.read(g)).square().mean(["batch", "o"])
    });
    assert_eq!(good, []);
}

#[test]
fn a_dim_that_the_results_lack_is_named() {
    let found = warnings(|g, x, [w, v]| {
        let y = einsum([x, w.read(g)], ["o"]); // forgets `batch`
        (y + v.read(g)).square().mean(["o"])
    });
    assert_eq!(
        found,
        [("one_sided_sum", "let y = einsum([x, w.read(g)], [\"o\"]); // forgets `batch`".to_owned())]
    );
}

#[test]
fn a_value_without_a_use_is_shown() {
    let found = warnings(|g, x, [w, v]| {
        let y = einsum([x, w.read(g)], ["batch", "o"]) + v.read(g);
        let _unused = y.relu();
        y.square().mean(["batch", "o"])
    });
    assert_eq!(found, [("unused_value", "let _unused = y.relu();".to_owned())]);
}

#[test]
fn a_parameter_outside_of_the_loss_has_no_gradient() {
    let found = warnings(|g, x, [w, _]| einsum([x, w.read(g)], ["batch", "o"]).square().mean(["batch", "o"]));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "no_gradient");
    let found = warnings(|g, x, [w, v]| {
        let y = einsum([x, w.read(g)], ["batch", "o"]) + v.read(g).stop_gradient();
        y.square().mean(["batch", "o"])
    });
    assert_eq!(found.iter().map(|(label, _)| *label).collect::<Vec<_>>(), ["no_gradient"]);
    let found = warnings(|g, x, [w, v]| {
        let y = einsum([x, w.read(g)], ["batch", "o"]);
        (y + v.read(g)).with_gradient_of(y).square().mean(["batch", "o"])
    });
    assert_eq!(found.iter().map(|(label, _)| *label).collect::<Vec<_>>(), ["no_gradient"]);
}

#[test]
fn a_parameter_that_no_function_reads_is_named() {
    let d = Dim::new("d", 3);
    let p = Program::new("m");
    let w = p.param("w", [&d], Init::Constant(1.0));
    p.param("never", [&d], Init::Constant(1.0));
    p.function("f", |g| g.output("y", w.read(g)));
    let module = p.finish().unwrap_or_else(|d| panic!("{d}"));
    let found = lints(&module);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].label == "unused_parameter" && found[0].message.contains("`never`"), "{found:?}");
}

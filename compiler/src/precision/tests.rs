//! Routers that keep f32, and routers that round.

use super::*;
use mesh::{
    Dim,
    dsl::{Program, Tensor, einsum},
};

/// Computes scores `[batch, length, experts]` from bf16 tokens `[batch, length, d]` and f32 weights
/// `[d, experts]`.
type Route = for<'g> fn(Tensor<'g>, Tensor<'g>) -> Tensor<'g>;

const DIMS: [&str; 3] = ["batch", "length", "experts"];

fn product<'g>(x: Tensor<'g>, w: Tensor<'g>) -> Tensor<'g> {
    einsum([x.cast(DType::F32), w], DIMS)
}

/// A program that sends each token to the expert with the largest score, in a loop over two layers.
fn program(route: Route) -> Module {
    let [batch, length, d, experts, layers] =
        [("batch", 2), ("length", 4), ("d", 8), ("experts", 3), ("layers", 2)].map(|(n, s)| Dim::new(n, s));
    let program = Program::new("routed");
    program.function("f", |g| {
        let x = g.input("x", DType::Bf16, [&batch, &length, &d]);
        let w = g.input("w", DType::F32, [&layers, &d, &experts]);
        let (x, ()) = g.scan(&layers, x, w, |x, w| {
            let expert = route(x, w).argmax("experts");
            let sent = expert.scatter_add(&experts, &length, x);
            (x + sent.gather("experts", expert), ())
        });
        g.output("y", x.cast(DType::F32));
    });
    program.finish().unwrap_or_else(|d| panic!("{d}"))
}

#[test]
fn routers_are_found_without_a_name() {
    let found = |route| routers(&program(route)).unwrap_or_else(|d| panic!("{d}"));
    let good = found(|x, w| product(x, w).softmax("experts"));
    assert_eq!((good.products.len(), good.rounded.len()), (1, 0));
    let jitter = found(|x, w| product(x.cast(DType::F32) * 1.5, w).softmax("experts"));
    assert_eq!(jitter.products.len(), 1);
    let on_purpose = found(|x, w| product(x, w).softmax("experts").round_bf16());
    assert_eq!((on_purpose.products.len(), on_purpose.rounded.len()), (1, 1));
    let none = found(|x, w| w.sum("d").broadcast(x.dims().into_iter().take(2).collect::<Vec<_>>()));
    assert_eq!(none, Routers::default(), "no product of tokens decides");
}

#[track_caller]
fn refuses(route: Route, what: &str, line: &str) {
    let mistakes = routers(&program(route)).expect_err("the router is rounded");
    let first = mistakes.to_string();
    assert!(first.contains(what), "{what}: {first}");
    let site = mistakes.0[0].site.as_ref().expect("a mistake has a place");
    let source =
        include_str!("tests.rs").lines().nth(site.line as usize - 1).expect("the line is in this file");
    assert!(source.contains(line), "{what}: {source}");
}

#[test]
fn rounding_inside_of_a_router_is_found_at_its_line() {
    refuses(
        |x, w| {
            let rounded = product(x, w).cast(DType::Bf16); // A
            rounded.cast(DType::F32).softmax("experts")
        },
        "computes in bf16",
        "// A",
    );
    refuses(|x, w| product(x, w).softmax("experts").cast(DType::Bf16 /* B */), "computes in bf16", "/* B */");
    refuses(
        |x, w| einsum([x, w.cast(DType::Bf16)], DIMS).cast(DType::F32), // C
        "bf16",
        "// C",
    );
    refuses(
        |x, w| {
            let noisy = x * 1.5; // D
            product(noisy, w)
        },
        "rounds its input to bf16",
        "// D",
    );
    refuses(
        |x, w| {
            let noisy = (x.cast(DType::F32) * 1.5).cast(DType::Bf16); // E
            product(noisy, w)
        },
        "rounds its input to bf16",
        "// E",
    );
}

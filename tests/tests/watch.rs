//! Prints and assertions in functions, scans and conditionals, under layouts, in the interpreter and on the
//! plugin.

use compiler::interp::{Tensor, Tensors};
use compiler::pipeline::{self, Placement};
use mesh::dsl::{Graph, Program};
use mesh::{DType, Dim, Layout, Mesh};
use tests::backends::check_outputs;

fn f(g: &Graph) {
    let (batch, d, layers) = (Dim::new("batch", 8), Dim::new("d", 2), Dim::new("layers", 3));
    let x = g.input("x", DType::F32, [&batch, &d]);
    let (last, ()) = g.scan(&layers, x, (), |h, ()| {
        g.scope("block", || {
            // −∞ at 0, and NaN below.
            let logs = h.log().assert_finite("logs");
            let sum = h.sum([&batch, &d]).print("sum");
            let large = g.cond(
                sum.gt(10),
                || h.print("large"),
                || {
                    // The same name in the other branch is another value, as it has another type.
                    (sum * 2.0).print("large");
                    h * 0.5
                },
            );
            (h + large.sum("d") * 0.0 + logs.stop_gradient() * 0.0 + 1.0 - logs.stop_gradient() * 0.0, ())
        })
    });
    let last = last.is_finite().select(last, 0.0);
    let loss = last.square().sum_all().assert_finite("loss").print("loss");
    let gradient = g.grad(loss, &[x]);
    g.output("gradient", gradient[0].print("gradient").is_finite().cast(DType::F32).sum_all());
    // A second value of one name.
    x.print("loss");
}

#[test]
fn values_are_seen_from_every_body() {
    let p = Program::new("watch");
    p.function("f", f);
    let module = p.finish().unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(
        module.functions[0].outputs,
        [
            "gradient",
            "assert_finite/block/logs",
            "print/block/sum",
            "print/block/large",
            "print/block/large_2",
            "assert_finite/loss",
            "print/loss",
            "print/gradient",
            "print/loss_2",
        ]
    );
    let x: Vec<f64> = (0..16).map(|i| f64::from(i - 2)).collect();
    let given = Tensor::new(DType::F32, &[Dim::new("batch", 8), Dim::new("d", 2)], x.clone());
    let given = Tensors::from([("x".into(), given.expect("16 numbers"))]);
    // The elements that are −2, −1 and 0 are not finite from the first layer on.
    let sums = x.iter().sum::<f64>();
    let first = |count: usize| x.iter().copied().chain(vec![0.0; 32]).take(count).collect::<Vec<_>>();
    for (mesh, rules) in [("", ""), ("a=2", "batch:a"), ("a=4,b=2", "batch:a,d:b")] {
        let mesh = Mesh::parse(mesh).expect("the mesh is well-formed");
        let layout = Layout::parse(rules).expect("the layout is well-formed");
        let placement = Placement { mesh, layout, state_layout: Layout::default() };
        let local = pipeline::compile(module.clone(), &placement, &mut pipeline::unobserved);
        let local = local.unwrap_or_else(|d| panic!("{rules}: {d}")).into_module();
        let text = mesh::text::print(&local);
        assert!(text.contains("assert_finite/block/logs"), "{text}");
        let expected = [("print/loss_2", x.clone()), ("assert_finite/loss", vec![0.0, 0.0])];
        check_outputs(&local, &given, &expected, 1e-4, rules);
        let results =
            compiler::interp::run(&local, "f", &given, &Tensors::new(), compiler::interp::Precision::Normal);
        let results = results.unwrap_or_else(|d| panic!("{d}")).outputs;
        let counts = results["assert_finite/block/logs"].elements().to_vec();
        assert_eq!(counts[..2], [2.0, 1.0], "{rules}: {counts:?}");
        assert_eq!(counts.len(), 6);
        assert_eq!(results["print/block/sum"].elements()[0], sums, "{rules}");
        assert_eq!(results["print/block/large"].elements()[..16], first(16)[..], "{rules}");
        assert_eq!(results["print/block/large_2"].elements()[0], 0.0, "{rules}");
    }
}

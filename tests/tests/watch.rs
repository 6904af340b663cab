//! Prints and assertions in functions, scans and conditionals, under layouts, in the interpreter and on the
//! plugin.

use compiler::interp::{self, Precision, Tensor, Tensors};
use compiler::pipeline::{self, Placement};
use mesh::dsl::{Graph, Program};
use mesh::{DType, Dim, Layout, Mesh};
use tests::{backends::check_outputs, plugin};

fn f(g: &Graph) {
    let (batch, d, layers) = (Dim::new("batch", 8), Dim::new("d", 2), Dim::new("layers", 3));
    let x = g.input("x", DType::F32, [&batch, &d]);
    let (last, ()) = g.scan(&layers, x, (), |h, ()| {
        g.scope("block", || {
            // −∞ at 0, and NaN below.
            h.log().assert_finite("logs");
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
            (h + large.sum("d") * 0.0 + 1.0, ())
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
    let places = [("", ""), ("a=2", "batch:a"), ("a=4,b=2", "batch:a,d:b")];
    let numbers = |first: i32| -> Vec<f64> { (0..16).map(|i| f64::from(first + i)).collect() };
    for (mesh, rules) in places {
        let mesh = Mesh::parse(mesh).expect("the mesh is well-formed");
        let layout = Layout::parse(rules).expect("the layout is well-formed");
        let placement = Placement { mesh, layout, state_layout: Layout::default() };
        let local = pipeline::compile(module.clone(), &placement, &mut pipeline::unobserved);
        let local = local.unwrap_or_else(|d| panic!("{rules}: {d}")).into_module();
        let given = |x: &[f64]| {
            let x = Tensor::new(DType::F32, &[Dim::new("batch", 8), Dim::new("d", 2)], x.to_vec());
            Tensors::from([("x".into(), x.expect("16 numbers"))])
        };
        // All logarithms are finite, and every sum is above 10.
        let x = numbers(1);
        let large = (0..3).flat_map(|layer| numbers(1 + layer)).collect();
        let expected = [
            ("print/loss_2", x.clone()),
            ("print/block/large", large),
            ("print/block/large_2", vec![0.0; 3]),
        ];
        check_outputs(&local, &given(&x), &expected, 1e-4, rules);
        // −2 and −1 have no logarithm, and that of 0 is infinite; every layer adds 1.
        let x = given(&numbers(-2));
        let results = interp::run(&local, "f", &x, &Tensors::new(), Precision::Normal);
        let results = results.unwrap_or_else(|d| panic!("{d}")).outputs;
        let counts = results["assert_finite/block/logs"].elements();
        assert_eq!(counts, [2.0, 1.0, 1.0, 1.0, 0.0, 1.0], "{rules}");
        assert_eq!(results["assert_finite/loss"].elements(), [0.0, 0.0], "{rules}");
        let error = plugin::run(&local, "f", &x, &Tensors::new()).expect_err("an assertion fails");
        let text = "`block/logs` has 3 NaN and 3 infinite elements, first in iteration 0 of `layers`";
        assert!(error.to_string().contains(text), "{error}");
    }
}

/// The body of a map is inlined with a further dim, along which its values are stacked.
#[test]
fn values_in_maps_are_stacked() {
    let p = Program::new("map");
    p.function("f", |g| {
        let (rows, d) = (Dim::new("rows", 3), Dim::new("d", 2));
        let x = g.input("x", DType::F32, [&rows, &d]);
        g.output("y", g.map(&rows, x, |x| (x * 2.0).print("twice").sum("d").assert_finite("sum")));
    });
    let module = p.finish().unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(module.functions[0].outputs, ["y", "print/twice", "assert_finite/sum"]);
    let local = pipeline::compile(module, &Placement::default(), &mut pipeline::unobserved);
    let local = local.unwrap_or_else(|d| panic!("{d}")).into_module();
    let x = vec![1.0, 2.0, 3.0, f64::INFINITY, 5.0, f64::NAN];
    let x = Tensor::new(DType::F32, &[Dim::new("rows", 3), Dim::new("d", 2)], x).expect("6 numbers");
    let given = Tensors::from([("x".into(), x)]);
    let results = interp::run(&local, "f", &given, &Tensors::new(), Precision::Normal);
    let results = results.unwrap_or_else(|d| panic!("{d}")).outputs;
    // Here the dim of the map comes last.
    assert_eq!(results["assert_finite/sum"].elements(), [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    assert_eq!(results["print/twice"].elements()[..3], [2.0, 4.0, 6.0]);
}

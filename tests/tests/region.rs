//! Regions that the backward pass recomputes: equal gradients, and less memory.

use compiler::interp::{self, Precision, Tensor, Tensors};
use compiler::pipeline::{self, Placement};
use mesh::dsl::{Graph, Program, Tensor as Value, einsum};
use mesh::{DType, Dim, Layout, Mesh, Module, text};
use tests::backends::check_outputs;

const BATCH: usize = 8;
const D: usize = 4;
const WIDE: usize = 64;
const REGIONS: usize = 4;

/// The inner values of a region are 16 times as large as its result.
fn region<'g>(x: Value<'g>, wide: Value<'g>, narrow: Value<'g>) -> Value<'g> {
    let hidden = einsum([x, wide], ["batch", "wide"]).tanh();
    x + einsum([(hidden.exp() * hidden).sin(), narrow], ["batch", "d"])
}

/// A loss and its gradients; `is_recomputed` decides whether regions are checkpoints.
fn program(is_recomputed: bool) -> Module {
    let p = Program::new("region");
    p.function("f", |g: &Graph| {
        let (batch, d, wide) = (Dim::new("batch", BATCH), Dim::new("d", D), Dim::new("wide", WIDE));
        let x = g.input("x", DType::F32, [&batch, &d]);
        let into = g.input("into", DType::F32, [&d, &wide]);
        let out = g.input("out", DType::F32, [&wide, &d]);
        let mut y = x;
        for _ in 0..REGIONS {
            y = if is_recomputed { g.checkpoint(|| region(y, into, out)) } else { region(y, into, out) };
        }
        let loss = y.square().sum_all();
        g.output("loss", loss);
        let names = ["x", "into", "out"];
        for (name, gradient) in names.into_iter().zip(g.grad(loss, &[x, into, out])) {
            g.output(format!("gradient.{name}"), gradient);
        }
    });
    p.finish().unwrap_or_else(|d| panic!("{d}"))
}

fn given() -> Tensors {
    let tensor = |names: [(&str, usize); 2], seed: usize| {
        let dims = names.map(|(name, size)| Dim::new(name, size));
        let count = dims.iter().map(|d| d.size).product();
        let numbers = (0..count).map(|i| ((i * 37 + seed) % 101) as f64 / 256.0 - 0.2).collect();
        Tensor::new(DType::F32, &dims, numbers).expect("the numbers fit the dims")
    };
    Tensors::from([
        ("x".into(), tensor([("batch", BATCH), ("d", D)], 1)),
        ("into".into(), tensor([("d", D), ("wide", WIDE)], 2)),
        ("out".into(), tensor([("wide", WIDE), ("d", D)], 3)),
    ])
}

fn local(module: &Module, mesh: &str, rules: &str) -> Module {
    let mesh = Mesh::parse(mesh).expect("the mesh is well-formed");
    let layout = Layout::parse(rules).expect("the layout is well-formed");
    let placement = Placement { mesh, layout, state_layout: Layout::default() };
    let local = pipeline::compile(module.clone(), &placement, &mut pipeline::unobserved);
    local.unwrap_or_else(|d| panic!("{rules}: {d}")).into_module()
}

#[test]
fn regions_have_the_gradients_of_plain_code_and_hold_less() {
    let (plain, recomputed) = (program(false), program(true));
    let given = given();
    let run = interp::run(&local(&plain, "", ""), "f", &given, &Tensors::new(), Precision::Normal);
    let outputs = run.unwrap_or_else(|d| panic!("{d}")).outputs;
    let expected: Vec<(&str, Vec<f64>)> =
        outputs.iter().map(|(name, value)| (name.as_str(), value.elements().to_vec())).collect();
    assert_eq!(expected.len(), 4);
    for (mesh, rules) in [("", ""), ("a=2", "batch:a"), ("a=2,b=4", "d:a,wide:b"), ("a=8", "wide:a")] {
        let local = local(&recomputed, mesh, rules);
        let scans = text::print(&local).matches("barrier").count();
        assert_eq!(scans, REGIONS, "{rules}");
        check_outputs(&local, &given, &expected, 1e-3, rules);
    }
    let held = |module: &Module| {
        let report = report::report(&local(module, "", ""), None).unwrap_or_else(|e| panic!("{e}"));
        report.peak_bytes_per_device.total - report.peak_bytes_per_device.inputs
    };
    let (plain, recomputed) = (held(&plain), held(&recomputed));
    // Plain code holds one wide value of each region, recomputed code those of one region.
    assert!(3 * recomputed < 2 * plain, "{recomputed} bytes, {plain} without regions");
}

#[test]
fn regions_nest_and_see_the_loop_around_them() {
    let p = Program::new("nested");
    let (d, layers) = (Dim::new("d", 3), Dim::new("layers", 4));
    p.function("f", |g| {
        let x = g.input("x", DType::F32, &d);
        let (y, ()) = g.scan(&layers, x, (), |h, ()| {
            let inner = || h * (g.iteration().cast(DType::F32) + 1.0);
            (g.checkpoint(|| g.checkpoint(inner).print("inner")), ())
        });
        g.output("y", y);
        g.output("x", g.grad(y.sum_all(), &[x])[0]);
    });
    let module = p.finish().unwrap_or_else(|d| panic!("{d}"));
    let x = Tensor::new(DType::F32, &[Dim::new("d", 3)], vec![1.0, 2.0, 3.0]).expect("3 numbers");
    let given = Tensors::from([("x".into(), x)]);
    let inner = [1.0, 2.0, 6.0, 24.0].into_iter().flat_map(|f| [f, 2.0 * f, 3.0 * f]).collect();
    let expected = [("y", vec![24.0, 48.0, 72.0]), ("x", vec![24.0; 3]), ("print/inner", inner)];
    check_outputs(&local(&module, "", ""), &given, &expected, 1e-4, "nested");
}

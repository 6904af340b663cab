//! Functions that the DSL composes of operations, against plain loops: in the interpreter and on the plugin,
//! under several layouts, with gradients.

use compiler::interp::{Tensor, Tensors};
use compiler::pipeline::{self, Placement};
use mesh::dsl::{Graph, Program, associative_scan, einsum};
use mesh::{DType, Dim, Layout, Mesh};
use tests::backends::check_outputs;

const ROWS: usize = 2;
const STEPS: usize = 8;
const SLOTS: usize = 4;

fn dims() -> [Dim; 3] {
    [Dim::new("row", ROWS), Dim::new("step", STEPS), Dim::new("slot", SLOTS)]
}

/// Numbers of both signs, with a zero in the first row and equal neighbours in the second.
fn x() -> Vec<f64> {
    let row = [1.5, -0.5, 2.0, 0.75, 0.0, -1.25, 2.0, 0.5, 0.25, -2.0, -2.0, 1.0, 3.0, 3.0, -0.5, 1.25];
    row.to_vec()
}

fn weights() -> Vec<f64> {
    (0..ROWS * STEPS).map(|i| ((i * 5) % 7) as f64 / 4.0 - 0.5).collect()
}

/// Positions, some of them outside, and several updates for one position.
const INDEX: [f64; ROWS * STEPS] =
    [0.0, 2.0, 0.0, -1.0, 3.0, 2.0, 2.0, 4.0, 1.0, 1.0, 3.0, 9.0, 1.0, 3.0, -5.0, 3.0];

/// Checks outputs of `build`, a function of `x`, `weights` and `index` over rows and steps.
#[track_caller]
fn check(build: impl Fn(&Graph), expected: &[(&str, Vec<f64>)]) {
    for (mesh, layout) in [
        ("", ""),
        ("a=4", "step:a"),
        ("a=2,b=2", "step:a+b"),
        ("a=2,b=4", "row:a,step:b"),
        ("a=2,b=2", "row:b,slot:a"),
        ("a=2,b=2", "step:a,slot:b"),
        ("a=2", "step:a,slot:a"),
    ] {
        let p = Program::new("composed");
        p.function("f", &build);
        let module = p.finish().unwrap_or_else(|d| panic!("{d}"));
        let mesh = Mesh::parse(mesh).unwrap();
        let known = |name: &str| expected.iter().any(|(_, v)| v.len() == ROWS * SLOTS) || name != "slot";
        let rules = layout.split(',').filter(|rule| known(rule.split(':').next().unwrap_or("")));
        let rules = rules.collect::<Vec<_>>().join(",");
        let layout = Layout::parse(&rules).unwrap();
        let placement = Placement { mesh, layout, state_layout: Layout::default() };
        let local = pipeline::compile(module, &placement, &mut pipeline::unobserved);
        let local = local.unwrap_or_else(|d| panic!("{rules}: {d}")).into_module();
        let [row, step, _] = dims();
        let tensor =
            |dtype, values: Vec<f64>| Tensor::new(dtype, &[row.clone(), step.clone()], values).unwrap();
        let all = [
            ("x", tensor(DType::F32, x())),
            ("weights", tensor(DType::F32, weights())),
            ("index", tensor(DType::S32, INDEX.to_vec())),
        ];
        let takes = &local.functions[0].inputs;
        let given: Tensors = all
            .into_iter()
            .filter(|(n, _)| takes.iter().any(|t| t == n))
            .map(|(n, t)| (n.into(), t))
            .collect();
        check_outputs(&local, &given, expected, 1e-5, &rules);
    }
}

/// The running combination of each row by `f`.
fn running(values: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    let row = |row: &[f64]| {
        let mut all = vec![row[0]];
        row[1..].iter().for_each(|x| all.push(f(all[all.len() - 1], *x)));
        all
    };
    values.chunks(STEPS).flat_map(row).collect()
}

#[test]
fn running_products_and_extremes() {
    let [row, step, _] = dims();
    let (x_of, w) = (x(), weights());
    // The derivative of each product leaves out one factor, which may be 0.
    let derivative = |at: usize| -> f64 {
        let (start, end) = (at / STEPS * STEPS, at / STEPS * STEPS + STEPS);
        let product = |end| (start..=end).filter(|k| *k != at).map(|k| x_of[k]).product::<f64>();
        (at..end).map(|j| w[j] * product(j)).sum()
    };
    check(
        |g| {
            let x = g.input("x", DType::F32, [&row, &step]);
            let w = g.input("weights", DType::F32, [&row, &step]);
            let product = x.cumprod("step");
            g.output("product", product);
            g.output("gradient", g.grad((product * w).sum_all(), &[x])[0]);
            g.output("max", x.cummax(&step));
            g.output("min", x.cummin(&step));
            let index = g.input("index", DType::S32, [&row, &step]);
            g.output("whole", index.cummax("step").cast(DType::F32));
            g.output("squares", einsum([index, index], &row).cast(DType::F32));
        },
        &[
            ("product", running(&x_of, |a, b| a * b)),
            ("gradient", (0..ROWS * STEPS).map(derivative).collect()),
            ("max", running(&x_of, f64::max)),
            ("min", running(&x_of, f64::min)),
            ("whole", running(&INDEX, f64::max)),
            ("squares", INDEX.chunks(STEPS).map(|row| row.iter().map(|i| i * i).sum()).collect()),
        ],
    );
}

#[test]
fn a_recurrence_is_an_associative_scan() {
    let [row, step, _] = dims();
    let (a, b) = (weights(), x());
    let mut want = Vec::new();
    for i in 0..ROWS * STEPS {
        let before = if i % STEPS == 0 { 0.0 } else { want[i - 1] };
        want.push(a[i] * before + b[i]);
    }
    check(
        |g| {
            let b = g.input("x", DType::F32, [&row, &step]);
            let a = g.input("weights", DType::F32, [&row, &step]);
            let [_, h] = associative_scan([(a, 1.0), (b, 0.0)], "step", |[a, b], [next_a, next_b]| {
                [a * next_a, next_a * b + next_b]
            });
            g.output("h", h);
        },
        &[("h", want)],
    );
}

#[test]
fn scatters_of_extremes_and_of_the_last() {
    let [row, step, slot] = dims();
    let u = x();
    let start: Vec<f64> = (0..ROWS * SLOTS).map(|i| i as f64 / 4.0 - 0.5).collect();
    let scatter = |f: &dyn Fn(f64, f64) -> f64| {
        let mut all = start.clone();
        for (i, index) in INDEX.iter().enumerate().filter(|(_, index)| (0.0..SLOTS as f64).contains(*index)) {
            let place = i / STEPS * SLOTS + *index as usize;
            all[place] = f(all[place], u[i]);
        }
        all
    };
    // The last update of a place has the gradient.
    let is_last = |i: usize| {
        let later = (i + 1..(i / STEPS + 1) * STEPS).any(|j| INDEX[j] == INDEX[i]);
        f64::from(!later && (0.0..SLOTS as f64).contains(&INDEX[i]))
    };
    check(
        |g| {
            let updates = g.input("x", DType::F32, [&row, &step]);
            let index = g.input("index", DType::S32, [&row, &step]);
            let number = g.iota(&row, DType::F32) * SLOTS as f64 + g.iota(&slot, DType::F32);
            let x = number * 0.25 - 0.5;
            g.output("max", x.scatter_max("slot", index, "step", updates));
            g.output("min", x.scatter_min(&slot, index, [&step], updates));
            let set = x.scatter_set("slot", index, "step", updates);
            g.output("set", set);
            g.output("gradient", g.grad(set.sum_all(), &[updates])[0]);
        },
        &[
            ("max", scatter(&f64::max)),
            ("min", scatter(&f64::min)),
            ("set", scatter(&|_, update| update)),
            ("gradient", (0..ROWS * STEPS).map(is_last).collect()),
        ],
    );
}

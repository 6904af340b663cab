//! Convolutions and pooling against plain loops: in the interpreter and on the plugin, under layouts that
//! split the dims of windows, with gradients by finite differences.

use compiler::interp::{Tensor, Tensors};
use compiler::pipeline::{self, Placement};
use mesh::dsl::{Edges, Graph, Program, Tensor as Value, Window};
use mesh::{DType, Dim, Layout, Mesh};
use tests::backends::check_outputs;

/// Sizes of an image: rows, columns, channels.
const IMAGE: [usize; 3] = [4, 16, 2];
/// Sizes of a kernel: taps of rows and of columns, channels, features.
const KERNEL: [usize; 4] = [2, 3, 2, 2];

fn image_dims() -> [Dim; 3] {
    [Dim::new("height", IMAGE[0]), Dim::new("width", IMAGE[1]), Dim::new("channels", IMAGE[2])]
}

fn kernel_dims() -> [Dim; 4] {
    let names = ["rows", "columns", "channels", "features"];
    std::array::from_fn(|i| Dim::new(names[i], KERNEL[i]))
}

/// Different numbers of both signs.
fn numbers(count: usize, seed: usize) -> Vec<f64> {
    (0..count).map(|i| ((i * 37 + seed * 11) % 101) as f64 / 32.0 - 1.5).collect()
}

/// The windows along one dim, for the plain loops.
#[derive(Clone, Copy)]
struct Plan {
    taps: usize,
    stride: usize,
    dilation: usize,
    edges: Edges,
}

const PLAIN: Plan = Plan { taps: 3, stride: 1, dilation: 1, edges: Edges::Same };

impl Plan {
    fn window(self, dim: &str, taps: &str) -> Window {
        let window = Window::new(dim, Dim::new(taps, self.taps));
        window.stride(self.stride).dilation(self.dilation).edges(self.edges)
    }

    /// For each window, the position of each tap; `None` is outside.
    fn places(self, size: usize) -> Vec<Vec<Option<usize>>> {
        let reach = (self.taps - 1) * self.dilation + 1;
        let windows = match self.edges {
            Edges::Same | Edges::Causal => size.div_ceil(self.stride),
            Edges::Inside => (size - reach) / self.stride + 1,
        };
        let outside = ((windows - 1) * self.stride + reach).saturating_sub(size);
        let before = match self.edges {
            Edges::Same => outside / 2,
            Edges::Causal => reach - 1,
            Edges::Inside => 0,
        };
        let place = |i: usize, tap: usize| (i * self.stride + tap * self.dilation).checked_sub(before);
        let row = |i: usize| (0..self.taps).map(|tap| place(i, tap).filter(|p| *p < size)).collect();
        (0..windows).map(row).collect()
    }
}

/// The convolution in plain loops: rows, columns, features.
fn conv(x: &[f64], kernel: &[f64], [rows, columns]: [Plan; 2]) -> Vec<f64> {
    let mut all = Vec::new();
    for row in rows.places(IMAGE[0]) {
        for column in columns.places(IMAGE[1]) {
            for feature in 0..KERNEL[3] {
                let mut sum = 0.0;
                for (r, at_r) in row.iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?))) {
                    for (c, at_c) in column.iter().enumerate().filter_map(|(i, p)| Some((i, (*p)?))) {
                        for channel in 0..IMAGE[2] {
                            let weight = ((r * columns.taps + c) * KERNEL[2] + channel) * KERNEL[3] + feature;
                            sum += x[(at_r * IMAGE[1] + at_c) * IMAGE[2] + channel] * kernel[weight];
                        }
                    }
                }
                all.push(sum);
            }
        }
    }
    all
}

/// Pooling in plain loops: rows, columns, channels. `f` gets the elements of a window.
fn pool(x: &[f64], [rows, columns]: [Plan; 2], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut all = Vec::new();
    for row in rows.places(IMAGE[0]) {
        for column in columns.places(IMAGE[1]) {
            for channel in 0..IMAGE[2] {
                let inside =
                    row.iter().flatten().flat_map(|r| column.iter().flatten().map(move |c| (*r, *c)));
                let elements: Vec<f64> =
                    inside.map(|(r, c)| x[(r * IMAGE[1] + c) * IMAGE[2] + channel]).collect();
                all.push(f(&elements));
            }
        }
    }
    all
}

/// The gradient of the sum of the squares of `f` with respect to `x`, by central differences.
fn slope(x: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let loss = |x: &[f64]| f(x).iter().map(|y| y * y).sum::<f64>();
    let moved = |i: usize, by: f64| {
        let mut x = x.to_vec();
        x[i] += by;
        loss(&x)
    };
    let step = 1.0 / 1024.0;
    (0..x.len()).map(|i| (moved(i, step) - moved(i, -step)) / (2.0 * step)).collect()
}

/// Checks the outputs of `build`, a function of an image and a kernel.
#[track_caller]
fn check(build: impl Fn(&Graph), layouts: &[(&str, &str)], expected: &[(&str, Vec<f64>)]) {
    let p = Program::new("windows");
    p.function("f", &build);
    let module = p.finish().unwrap_or_else(|d| panic!("{d}"));
    let tensor = |dims: &[Dim], seed| {
        let count = dims.iter().map(|d| d.size).product();
        Tensor::new(DType::F32, dims, numbers(count, seed)).expect("the numbers fit the dims")
    };
    let all = [("x", tensor(&image_dims(), 1)), ("kernel", tensor(&kernel_dims(), 2))];
    let takes = |name: &str| module.functions[0].inputs.iter().any(|i| i == name);
    let given: Tensors = all.into_iter().filter(|(n, _)| takes(n)).map(|(n, t)| (n.into(), t)).collect();
    for (mesh, rules) in [("", "")].iter().chain(layouts) {
        let mesh = Mesh::parse(mesh).expect("the mesh is well-formed");
        let layout = Layout::parse(rules).expect("the layout is well-formed");
        let placement = Placement { mesh, layout, state_layout: Layout::default() };
        let local = pipeline::compile(module.clone(), &placement, &mut pipeline::unobserved);
        let local = local.unwrap_or_else(|d| panic!("{rules}: {d}")).into_module();
        let text = mesh::text::print(&local);
        assert!(!text.contains("all_gather"), "{rules}: shards exchange their edges only:\n{text}");
        check_outputs(&local, &given, expected, 1e-4, rules);
    }
}

/// Layouts that split the dims of windows.
const SPLIT: [(&str, &str); 3] =
    [("a=8", "width:a"), ("a=2,b=4", "height:a,width:b"), ("a=4,b=2", "width:a,channels:b")];

/// Declares an output, and the gradients of the sum of its squares.
fn output(g: &Graph, name: &str, y: Value<'_>, of: &[(&str, Value<'_>)]) {
    g.output(name, y);
    let gradients = g.grad(y.square().sum_all(), &of.iter().map(|(_, x)| *x).collect::<Vec<_>>());
    of.iter().zip(gradients).for_each(|((of, _), gradient)| g.output(format!("{name}.{of}"), gradient));
}

#[track_caller]
fn check_conv(layouts: &[(&str, &str)], rows: Plan, columns: Plan) {
    let (rows, columns) = (Plan { taps: KERNEL[0], ..rows }, Plan { taps: KERNEL[1], ..columns });
    let plans = [rows, columns];
    let (x, kernel) = (numbers(IMAGE.iter().product(), 1), numbers(KERNEL.iter().product(), 2));
    check(
        |g| {
            let x = g.input("x", DType::F32, &image_dims()[..]);
            let kernel = g.input("kernel", DType::F32, &kernel_dims()[..]);
            let windows = [rows.window("height", "rows"), columns.window("width", "columns")];
            let y = x.conv(kernel, &windows, ["height", "width", "features"]);
            output(g, "y", y, &[("x", x), ("kernel", kernel)]);
        },
        layouts,
        &[
            ("y", conv(&x, &kernel, plans)),
            ("y.x", slope(&x, |x| conv(x, &kernel, plans))),
            ("y.kernel", slope(&kernel, |kernel| conv(&x, kernel, plans))),
        ],
    );
}

#[test]
fn convolutions() {
    check_conv(&SPLIT, PLAIN, PLAIN);
    let strided = Plan { stride: 2, ..PLAIN };
    check_conv(&SPLIT, strided, strided);
    let causal = Plan { edges: Edges::Causal, dilation: 2, ..PLAIN };
    check_conv(&SPLIT, PLAIN, causal);
    // These windows do not begin at the shards of a split dim.
    let inside = Plan { edges: Edges::Inside, stride: 2, ..PLAIN };
    check_conv(&[], inside, Plan { dilation: 2, ..inside });
    check_conv(&[], Plan { stride: 3, ..PLAIN }, Plan { stride: 5, dilation: 9, ..PLAIN });
}

#[track_caller]
fn check_pool(layouts: &[(&str, &str)], rows: Plan, columns: Plan) {
    let x = numbers(IMAGE.iter().product(), 1);
    let plans = [rows, columns];
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    let largest = |all: &[f64]| all.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    check(
        |g| {
            let x = g.input("x", DType::F32, &image_dims()[..]);
            let windows = [rows.window("height", "rows"), columns.window("width", "columns")];
            output(g, "mean", x.mean_pool(&windows), &[("x", x)]);
            output(g, "max", x.max_pool(&windows), &[("x", x)]);
        },
        layouts,
        &[
            ("mean", pool(&x, plans, mean)),
            ("mean.x", slope(&x, |x| pool(x, plans, mean))),
            ("max", pool(&x, plans, largest)),
            ("max.x", slope(&x, |x| pool(x, plans, largest))),
        ],
    );
}

#[test]
fn pooling() {
    let pair = Plan { taps: 2, stride: 2, ..PLAIN };
    check_pool(&SPLIT, pair, pair);
    check_pool(&SPLIT, PLAIN, Plan { taps: 4, edges: Edges::Causal, ..PLAIN });
    check_pool(&[], Plan { edges: Edges::Inside, ..PLAIN }, Plan { stride: 3, ..PLAIN });
}

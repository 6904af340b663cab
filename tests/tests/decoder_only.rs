//! The decoder-only model against a reference in plain loops: rotary positions, grouped-query attention,
//! sliding windows, and prefixes with padding.

use compiler::interp::{self, Precision, Tensor, Tensors};
use mesh::{DType, Dim, Site};
use models::{Activation, Config, Objective, config::Positions};

fn config() -> Config {
    Config {
        batch: 2,
        input_length: 0,
        target_length: 8,
        objective: Objective::Lm,
        vocab: 40,
        d_model: 8,
        d_ff: 12,
        heads: 4,
        d_kv: 4,
        kv_heads: 2,
        encoder_layers: 0,
        decoder_layers: 2,
        positions: Positions::Rope,
        activation: Activation::GatedSilu,
        dropout: 0.0,
        switch: None,
        ..Config::default()
    }
}

/// The parameters of a layer, and sizes.
struct Loops<'a> {
    config: &'a Config,
    state: &'a Tensors,
}

impl Loops<'_> {
    /// Returns the elements of a parameter of layer `i`.
    fn of_layer(&self, name: &str, i: usize) -> Vec<f64> {
        let all = self.state[&mesh::Name::from(format!("decoder/{name}"))].elements();
        let each = all.len() / self.config.decoder_layers;
        all[i * each..(i + 1) * each].to_vec()
    }

    fn norm(&self, x: &[f64], scale: &[f64]) -> Vec<f64> {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        x.iter().zip(scale).map(|(x, s)| x * s / (mean + self.config.epsilon).sqrt()).collect()
    }

    /// Returns `x` times a matrix of `[x.len(), columns]`.
    fn product(x: &[f64], matrix: &[f64]) -> Vec<f64> {
        let columns = matrix.len() / x.len();
        (0..columns).map(|j| x.iter().enumerate().map(|(i, x)| x * matrix[i * columns + j]).sum()).collect()
    }

    /// Rotates every head of `x`.
    fn rotated(&self, x: &[f64], position: f64) -> Vec<f64> {
        let half = self.config.d_kv / 2;
        let head = |head: &[f64]| -> Vec<f64> {
            let angle = |i: usize| position * self.config.rope_theta.powf(-(i as f64) / half as f64);
            let turned = |i: usize| match i < half {
                true => head[i] * angle(i).cos() - head[i + half] * angle(i).sin(),
                false => head[i] * angle(i - half).cos() + head[i - half] * angle(i - half).sin(),
            };
            (0..2 * half).map(turned).collect()
        };
        x.chunks(2 * half).flat_map(head).collect()
    }

    /// Returns the output of attention in layer `i`; `sees(q, k)` is true if position `q` sees `k`.
    fn attention(
        &self,
        i: usize,
        h: &[Vec<f64>],
        positions: &[f64],
        sees: &dyn Fn(usize, usize) -> bool,
    ) -> Vec<Vec<f64>> {
        let Config { heads, kv_heads, d_kv, .. } = *self.config;
        let kv_heads = if kv_heads == 0 { heads } else { kv_heads };
        let by = |name: &str| -> Vec<Vec<f64>> {
            let matrix = self.of_layer(&format!("attention/{name}"), i);
            h.iter().map(|h| Self::product(h, &matrix)).collect()
        };
        let turn = |x: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
            x.iter().zip(positions).map(|(x, p)| self.rotated(x, *p)).collect()
        };
        let (q, k, v, o) = (turn(by("q")), turn(by("k")), by("v"), self.of_layer("attention/o", i));
        let of_position = |at: usize| -> Vec<f64> {
            let of_head = |head: usize| -> Vec<f64> {
                let own = head / (heads / kv_heads) * d_kv;
                let logit = |to: usize| -> f64 {
                    let dot = (0..d_kv).map(|e| q[at][head * d_kv + e] * k[to][own + e]).sum::<f64>();
                    dot / (d_kv as f64).sqrt()
                };
                let weights: Vec<f64> =
                    (0..h.len()).map(|to| if sees(at, to) { logit(to).exp() } else { 0.0 }).collect();
                let sum: f64 = weights.iter().sum();
                (0..d_kv)
                    .map(|e| weights.iter().zip(&v).map(|(w, v)| w * v[own + e]).sum::<f64>() / sum)
                    .collect()
            };
            Self::product(&(0..heads).flat_map(of_head).collect::<Vec<_>>(), &o)
        };
        (0..h.len()).map(of_position).collect()
    }

    fn feed_forward(&self, i: usize, h: &[f64]) -> Vec<f64> {
        let by = |name: &str| self.of_layer(&format!("ffn/{name}"), i);
        let (gate, linear, wo) = (Self::product(h, &by("wi_0")), Self::product(h, &by("wi_1")), by("wo"));
        let hidden: Vec<f64> = gate.iter().zip(&linear).map(|(g, l)| g / (1.0 + (-g).exp()) * l).collect();
        // The matrix is stored with d_model first.
        let f = hidden.len();
        (0..h.len()).map(|d| hidden.iter().enumerate().map(|(j, x)| x * wo[d * f + j]).sum()).collect()
    }

    /// Returns the sum of the losses of a row's targets, and their number.
    fn row(&self, inputs: &[f64], targets: &[f64]) -> (f64, f64) {
        let (prefix, d) = (inputs.len(), self.config.d_model);
        let before = [0.0].into_iter().chain(targets.iter().copied()).take(targets.len());
        let read: Vec<f64> = inputs.iter().copied().chain(before).collect();
        let real = |at: usize| at >= prefix || inputs[at] != 0.0;
        let positions: Vec<f64> =
            (0..read.len()).map(|at| (0..at).filter(|k| real(*k)).count() as f64).collect();
        let window = self.config.window;
        let sees = |q: usize, k: usize| {
            real(k) && (k <= q || k < prefix) && (window == 0 || q < window || k > q - window)
        };
        let embedding = self.state["embedding"].elements();
        let mut x: Vec<Vec<f64>> =
            read.iter().map(|t| embedding[*t as usize * d..(*t as usize + 1) * d].to_vec()).collect();
        for i in 0..self.config.decoder_layers {
            let add = |x: &mut Vec<Vec<f64>>, y: Vec<Vec<f64>>| {
                x.iter_mut().flatten().zip(y.into_iter().flatten()).for_each(|(x, y)| *x += y);
            };
            let normed = |x: &[Vec<f64>], name: &str| -> Vec<Vec<f64>> {
                let scale = self.of_layer(name, i);
                x.iter().map(|x| self.norm(x, &scale)).collect()
            };
            let y = self.attention(i, &normed(&x, "attention/norm"), &positions, &sees);
            add(&mut x, y);
            let y = normed(&x, "ffn/norm").iter().map(|h| self.feed_forward(i, h)).collect();
            add(&mut x, y);
        }
        let scale = self.state["decoder/norm"].elements();
        let loss = |at: usize, target: usize| -> f64 {
            let x = self.norm(&x[prefix + at], &scale);
            let logit =
                |t: usize| (0..d).map(|e| x[e] * embedding[t * d + e]).sum::<f64>() / (d as f64).sqrt();
            let sum: f64 = (0..self.config.vocab).map(|t| logit(t).exp()).sum();
            sum.ln() - logit(target)
        };
        let counted = targets.iter().enumerate().filter(|(_, t)| **t != 0.0);
        counted.fold((0.0, 0.0), |(sum, n), (at, t)| (sum + loss(at, *t as usize), n + 1.0))
    }
}

#[track_caller]
fn check(config: &Config) {
    let module = models::program(config, &Site::default()).finish().unwrap_or_else(|d| panic!("{d}"));
    let run = |function: &str, given: &Tensors, state: &Tensors| {
        let outcome = interp::run(&module, function, given, state, Precision::Normal);
        outcome.unwrap_or_else(|d| panic!("{function}: {d}"))
    };
    let seed = Tensors::from([("seed".into(), Tensor::scalar(DType::U32, 4.0))]);
    let mut state = run("init", &seed, &Tensors::new()).state;
    // Scales of norms are 1 at first.
    for (name, tensor) in &mut state {
        if name.ends_with("norm") {
            let dims = tensor.dims();
            let values = (0..tensor.data.len()).map(|i| 0.75 + 0.0625 * (i % 7) as f64).collect();
            *tensor = Tensor::new(DType::F32, &dims, values).expect("the dims stay");
        }
    }
    // Rows of different lengths, padded at the end.
    let rows = |length: usize, salt: usize| -> Vec<Vec<f64>> {
        let token = |row: usize, at: usize| {
            if at + 3 * row < length { (3 + (row * 11 + at * 7 + salt) % 37) as f64 } else { 0.0 }
        };
        (0..config.batch).map(|row| (0..length).map(|at| token(row, at)).collect()).collect()
    };
    let (inputs, targets) = (rows(config.input_length, 5), rows(config.target_length, 0));
    let tensor = |dim: &str, length: usize, rows: &[Vec<f64>]| {
        let dims = [Dim::new("batch", config.batch), Dim::new(dim, length)];
        Tensor::new(DType::S32, &dims, rows.concat()).expect("one for each place")
    };
    let mut given =
        Tensors::from([("targets".into(), tensor("target_length", config.target_length, &targets))]);
    if config.input_length > 0 {
        given.insert("inputs".into(), tensor("length", config.input_length, &inputs));
    }
    let have = run("eval_step", &given, &state).outputs["loss"].elements()[0];
    let loops = Loops { config, state: &state };
    let each = inputs.iter().zip(&targets).map(|(inputs, targets)| loops.row(inputs, targets));
    let (sum, count) = each.fold((0.0, 0.0), |(a, b), (sum, count)| (a + sum, b + count));
    let want = sum / count;
    assert!((have - want).abs() < 2e-5 * want, "{have} is not {want}: {config:?}");
}

#[test]
fn losses_are_those_of_plain_loops() {
    check(&config());
    check(&Config { kv_heads: 0, rope_theta: 50.0, ..config() });
    check(&Config { window: 3, ..config() });
    for window in [0, 5] {
        check(&Config { objective: Objective::PrefixLm, input_length: 6, window, ..config() });
    }
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let relative = || Config { positions: Positions::Relative, kv_heads: 0, ..config() };
    let wrong = |config: Config, expect: &[&str]| {
        let found: Vec<String> = config.mistakes().iter().map(|m| m.message.clone()).collect();
        assert_eq!(found, expect);
    };
    wrong(
        Config { input_length: 4, kv_heads: 3, ..config() },
        &[
            "`input_length` must be 0 for a decoder-only model with `objective` = lm, which has no inputs, got 4",
            "`kv_heads` must be 0 or a divisor of `heads` = 4, got 3",
        ],
    );
    wrong(
        Config { encoder_layers: 1, window: 4, ..config() },
        &[
            "`input_length` must be at least 1, got 0",
            "`positions=rope` needs a decoder-only model (`encoder_layers` = 0)",
            "`window` needs a decoder-only model (`encoder_layers` = 0)",
        ],
    );
    wrong(
        Config { encoder_layers: 1, input_length: 4, start_token: 3, eos_token: 0, ..relative() },
        &[
            "`eos_token` must be other than 0, padding, got 0",
            "`start_token` needs a decoder-only model (`encoder_layers` = 0)",
        ],
    );
}

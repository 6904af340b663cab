//! Initial values of models on the plugin: every kind of weight has the distribution of Mesh TensorFlow,
//! tested by moments, bounds and shape, and the same bits under every layout.

use models::{Activation, Config, Switch};
use runtime::{HostTensor, Session};
use std::collections::BTreeMap;
use tests::training::session;

/// Sizes that are all different, so that standard deviations identify them.
fn config() -> Config {
    Config {
        name: "initial".into(),
        vocab: 512,
        batch: 8,
        input_length: 32,
        target_length: 16,
        d_model: 64,
        d_ff: 160,
        heads: 8,
        d_kv: 16,
        encoder_layers: 4,
        decoder_layers: 2,
        tied: false,
        activation: Activation::GatedGelu,
        switch: Some(Switch {
            experts: 4,
            sparse_step: 2,
            router_bias: true,
            init_scale: Some(0.1),
            ..Switch::default()
        }),
        ..Config::default()
    }
}

/// The distribution of a weight.
#[derive(Clone, Copy, PartialEq, Debug)]
enum From {
    Normal(f64),
    /// A normal distribution with this standard deviation, truncated at two standard deviations.
    Truncated(f64),
    All(f64),
}

/// The distribution of each weight by the suffix of its name.
fn expected(name: &str, experts: bool) -> From {
    let (d_model, d_ff, heads, d_kv) = (64.0f64, 160.0f64, 8.0f64, 16.0f64);
    let last = name.rsplit('/').next().expect("a name has a part");
    let scale = if experts { 0.1f64 } else { 1.0 };
    match last {
        "embedding" | "head" => From::Normal(1.0),
        "q" => From::Normal((d_model * d_kv).powf(-0.5)),
        "k" | "v" => From::Normal(d_model.powf(-0.5)),
        "o" => From::Normal((heads * d_kv).powf(-0.5)),
        "relative_bias" => From::Normal(d_model.powf(-0.5)),
        "router" => From::Truncated((0.1 / d_model).sqrt()),
        "wi" | "wi_0" | "wi_1" => From::Truncated((scale / d_model).sqrt()),
        "wo" => From::Truncated((scale / d_ff).sqrt()),
        "norm" => From::All(1.0),
        "router_bias" => From::All(0.0),
        other => panic!("`{name}`: what `{other}` begins with is not said"),
    }
}

fn initialized(mesh: &str, state_layout: &str) -> (Session, BTreeMap<String, HostTensor>) {
    let mut session = session(&config(), mesh, state_layout);
    let values = again(&mut session, 11);
    (session, values)
}

/// Returns all state after `init` with this seed.
fn again(session: &mut Session, seed: u32) -> BTreeMap<String, HostTensor> {
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(seed))]);
    session.call("init", &seed).and_then(|o| o.wait()).unwrap_or_else(|e| panic!("{e}"));
    let names = session.artefact().manifest.state.iter().map(|s| &s.name);
    names.map(|n| (n.clone(), session.state(n).unwrap_or_else(|e| panic!("{e}")))).collect()
}

/// Returns the error function with an error of 1.2e-7 (Abramowitz and Stegun 7.1.26).
fn erf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let series = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let sum = series.iter().fold(0.0, |sum, c| sum * t + c) * t;
    (1.0 - sum * (-x * x).exp()).copysign(x)
}

/// Returns the standard normal distribution function.
fn below(x: f64) -> f64 {
    0.5 * (1.0 + erf(x / 2f64.sqrt()))
}

/// Returns the Kolmogorov–Smirnov statistic of `values`, times the square root of their number. It exceeds
/// 2.0 with a probability of 1/1500.
fn kolmogorov(values: &mut [f64], share: impl Fn(f64) -> f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let apart = |(i, x): (usize, &f64)| {
        let share = share(*x);
        ((i as f64 + 1.0) / n - share).abs().max((share - i as f64 / n).abs())
    };
    values.iter().enumerate().map(apart).fold(0.0, f64::max) * n.sqrt()
}

/// Asserts that values, in units of the standard deviation, have the distribution.
#[track_caller]
fn drawn(name: &str, mut values: Vec<f64>, truncated: bool) {
    let n = values.len() as f64;
    let moment = |k: i32| values.iter().map(|x| x.powi(k)).sum::<f64>() / n;
    let (mean, square, fourth) = (moment(1), moment(2), moment(4));
    let largest = values.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    // Moments of the truncated normal distribution: 1 - 4φ(2)/p and 3 - 28φ(2)/p, where p is the probability
    // of the interval.
    let (p, density) = (erf(2f64.sqrt()), (-2f64).exp() / (2.0 * std::f64::consts::PI).sqrt());
    let (m2, m4, m8) =
        if truncated { (1.0 - 4.0 * density / p, 3.0 - 28.0 * density / p, 16.0) } else { (1.0, 3.0, 105.0) };
    // The tolerance is five standard deviations of each mean.
    let near = |x: f64, want: f64, variance: f64| (x - want).abs() <= 5.0 * (variance / n).sqrt();
    assert!(near(mean, 0.0, m2), "{name}: mean {mean}");
    assert!(near(square, m2, m4 - m2 * m2), "{name}: mean square {square}, not {m2}");
    assert!(near(fourth, m4, m8), "{name}: mean fourth power {fourth}, not {m4}");
    if truncated {
        assert!(largest <= 2.0 + 1e-6, "{name}: {largest} deviations");
    }
    // Small tensors have no outliers.
    if n > 2000.0 {
        let least = if truncated { 1.9 } else { 2.5 };
        assert!(largest > least, "{name}: nothing comes near the bound, {largest}");
    }
    let share = |x: f64| if truncated { (below(x) - below(-2.0)) / p } else { below(x) };
    let apart = kolmogorov(&mut values, share);
    assert!(apart < 2.0, "{name}: {apart}");
}

#[test]
fn every_weight_is_drawn_from_its_distribution() {
    let (session, values) = initialized("", "");
    let mut kinds = BTreeMap::<String, usize>::new();
    for entry in &session.artefact().manifest.state {
        let (name, value) = (&entry.name, &values[&entry.name]);
        let numbers = value.to_f64().expect("floats and whole numbers");
        if entry.kind() != proto::manifest::StateKind::Param {
            assert!(numbers.iter().all(|x| *x == 0.0), "{name} begins with 0");
            continue;
        }
        let dims = &entry.tensor.as_ref().expect("the manifest is whole").dims;
        let experts = dims.iter().any(|d| d.name == "experts");
        let from = expected(name, experts);
        let last = name.rsplit('/').next().expect("a name has a part");
        *kinds.entry(format!("{last}{}", if experts { " of experts" } else { "" })).or_default() += 1;
        match from {
            From::All(x) => assert!(numbers.iter().all(|n| *n == x), "{name} is {x}"),
            From::Normal(d) => drawn(name, numbers.iter().map(|x| x / d).collect(), false),
            From::Truncated(d) => drawn(name, numbers.iter().map(|x| x / d).collect(), true),
        }
        // Layers and experts have different values.
        let stacked =
            dims.first().is_some_and(|d| ["layers", "experts"].contains(&d.name.as_str()) && d.size > 1);
        if stacked && !matches!(from, From::All(_)) {
            let size = numbers.len() / dims[0].size as usize;
            assert_ne!(numbers[..size], numbers[size..2 * size], "{name}");
        }
    }
    let seen: Vec<&str> = kinds.keys().map(String::as_str).collect();
    let all = [
        "embedding",
        "head",
        "k",
        "norm",
        "o",
        "q",
        "relative_bias",
        "router",
        "router_bias",
        "v",
        "wi_0",
        "wi_0 of experts",
        "wi_1",
        "wi_1 of experts",
        "wo",
        "wo of experts",
    ];
    assert_eq!(seen, all, "all kinds of weights are there");
    // No two weights use the same random numbers.
    let random: Vec<&HostTensor> =
        values.values().filter(|v| v.to_f64().is_ok_and(|n| n.len() > 1 && n[0] != n[1])).collect();
    for (i, a) in random.iter().enumerate() {
        assert!(random[..i].iter().all(|b| a.bytes != b.bytes));
    }
}

#[test]
fn initial_values_are_the_same_bits_under_every_layout_and_others_for_another_seed() {
    let (_, whole) = initialized("", "");
    let (mut split, parts) = initialized("data=2,expert=2,model=2", "*:data");
    for (name, value) in &whole {
        assert!(value == &parts[name], "{name}");
    }
    let other = again(&mut split, 12);
    assert_ne!(whole["embedding"], other["embedding"]);
}

#[test]
fn the_scale_of_a_model_with_adamw_is_one_unless_it_is_set() {
    let config = Config { switch: config().switch.map(|s| Switch { init_scale: None, ..s }), ..config() };
    let mut session = session(&config, "", "");
    let seed = BTreeMap::from([("seed".to_owned(), HostTensor::u32_scalar(1))]);
    session.call("init", &seed).and_then(|o| o.wait()).unwrap();
    let names = session.artefact().manifest.state.iter().map(|s| s.name.clone());
    let router = names.into_iter().find(|n| n.ends_with("/router")).expect("there is a router");
    let values = session.state(&router).unwrap().to_f64().unwrap();
    drawn(&router, values.iter().map(|x| x / (1.0f64 / 64.0).sqrt()).collect(), true);
}

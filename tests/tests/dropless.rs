//! Routing without capacity against unlimited capacity: outputs, losses, metrics and gradients of random
//! layers, in the interpreter and on the plugin, under several layouts.

use compiler::{
    interp::{Tensor, Tensors},
    pipeline::{self, Placement},
};
use mesh::{DType, Dim, Site};
use models::{
    Config, Precision, Schedule, Switch,
    switch::options::{Balance, Priority, RoutingMethod, Scores, SecondExpertPolicy, SparseParts},
};
use report::report;
use tests::moe::{Device, Layer, error};

/// Difference that other orders of float32 sums make, relative to the largest element.
const NEAR: f64 = 1e-6;

/// Numbers in [0, 1) that depend only on the seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f64) / f64::from(1u32 << 24)
    }
    fn below(&mut self, bound: usize) -> usize {
        (self.next() * bound as f64) as usize
    }
    fn list(&mut self, count: usize, scale: f64) -> Vec<f64> {
        (0..count).map(|_| f64::from(((self.next() - 0.5) * scale) as f32)).collect()
    }
}

fn layer(options: Switch, batch: usize, length: usize) -> Layer {
    let (d_model, precision, schedule) = (8, Precision::F32, Schedule::default());
    Layer { options, batch, length, d_model, d_ff: 8, train: true, precision, schedule }
}

/// Inputs of which `padding` is the fraction that is padding, and parameters. With a large `skew`, most
/// tokens choose the same expert.
fn given(layer: &Layer, numbers: &mut Numbers, padding: f64, skew: f64) -> (Tensors, Tensors) {
    let [batch, length, d_model] = layer.dims();
    let count = batch.size * length.size;
    let mut x = numbers.list(count * d_model.size, 4.0);
    x.iter_mut().step_by(d_model.size).for_each(|x| *x += skew);
    let tokens =
        (0..count).map(|i| if numbers.next() < padding { 0.0 } else { (i % 61 + 1) as f64 }).collect();
    let inputs = Tensors::from([
        ("seed".into(), Tensor::scalar(DType::U32, 5.0)),
        ("cotangent".into(), layer.activations(numbers.list(x.len(), 2.0))),
        ("x".into(), layer.activations(x)),
        ("tokens".into(), Tensor::new(DType::S32, &[batch, length], tokens).expect("one each")),
    ]);
    let state = layer.parameters().into_iter().map(|(name, dims)| {
        let count = dims.iter().map(|d: &Dim| d.size).product();
        (name.into(), Tensor::new(DType::F32, &dims, numbers.list(count, 2.0)).expect("the sizes agree"))
    });
    (inputs, state.collect())
}

/// Checks the layer without capacity against unlimited capacity on one device of the same kind.
#[track_caller]
fn check(layer: &Layer, seed: u64, padding: f64, skew: f64, places: &[(Device, &str, &str, usize)]) {
    let unlimited = Switch { fixed_capacity: usize::MAX, ..layer.options.clone() };
    let unlimited = Layer { options: unlimited, ..layer.clone() };
    let (inputs, state) = given(layer, &mut Numbers(seed), padding, skew);
    for (on, mesh, layout, sorted_parts) in places {
        let want = unlimited.run(*on, "", "", &inputs, &state);
        assert_eq!(want["dropped"].elements(), [0.0]);
        let options = Switch { dropless: true, ..layer.options.clone() };
        let schedule = Schedule { sorted_parts: *sorted_parts, ..layer.schedule };
        let dropless = Layer { options, schedule, ..layer.clone() };
        let have = dropless.run(*on, mesh, layout, &inputs, &state);
        for (name, a) in &want {
            let apart = error(&have[name].ordered(&a.names), &[], &a.elements());
            assert!(apart <= NEAR, "{name} on {mesh} ({on:?}) is {apart:e} off: {dropless:?}");
        }
    }
}

/// Meshes and layouts, with the number of parts of the batch that each needs.
const SPLITS: [(&str, &str, usize); 4] = [
    ("data=8", "batch:data", 8),
    ("expert=8", "batch:expert,experts:expert", 8),
    ("data=2,expert=2,model=2", "batch:data+expert,experts:expert,d_ff:model", 4),
    ("expert=2,model=4", "experts:expert,d_model:model", 1),
];

/// A random choice among the options that matter without capacity.
fn options(numbers: &mut Numbers) -> Switch {
    let routing = [RoutingMethod::Switch, RoutingMethod::TopK, RoutingMethod::TopK, RoutingMethod::Hash];
    let routing = routing[numbers.below(4)];
    let learned = routing != RoutingMethod::Hash;
    let many = routing == RoutingMethod::TopK;
    let mut flag = || numbers.next() < 0.5;
    Switch {
        experts: 8,
        routing,
        top_k: if !many {
            0
        } else if flag() {
            2
        } else {
            3
        },
        scores: if learned && flag() { Scores::Sigmoid } else { Scores::Softmax },
        balance: if learned && flag() { Balance::Batch } else { Balance::Group },
        second_policy: if flag() { SecondExpertPolicy::Threshold } else { SecondExpertPolicy::All },
        shared_experts: usize::from(flag()),
        ignore_padding: flag(),
        group_size: if flag() { 32 } else { 0 },
        router_z_loss: 1e-3,
        ..Switch::default()
    }
}

#[test]
fn no_capacity_is_unlimited_capacity() {
    for seed in 0..8 {
        let mut numbers = Numbers(seed);
        let layer = layer(options(&mut numbers), 16, 16);
        let split = SPLITS[seed as usize % SPLITS.len()];
        let (padding, skew) = ([0.0, 0.3, 0.9][numbers.below(3)], [0.0, 2.0][numbers.below(2)]);
        let all = [
            (Device::Interpreter, "", "", 2),
            (Device::Interpreter, split.0, split.1, split.2),
            (Device::Plugin, "", "", 1),
            (Device::Plugin, split.0, split.1, split.2),
        ];
        // The interpreter is slow, and plugins compile slowly: each seed runs one of them on several devices.
        let places = if seed % 3 == 0 { &all[2..] } else { &all[..2] };
        check(&layer, seed + 100, padding, skew, places);
    }
}

#[test]
fn a_step_without_capacity_computes_little_more_than_one_of_capacity_1() {
    let step = |switch: Switch| {
        let switch = Some(Switch { experts: 8, ..switch });
        let config = Config { batch: 16, input_length: 128, target_length: 128, switch, ..Config::default() };
        let mut module = models::program(&config, &Site::default()).finish().expect("the model is legal");
        module.functions.retain(|f| f.name == *"train_step");
        let local = pipeline::compile(module, &Placement::default(), &mut pipeline::unobserved);
        let local = local.unwrap_or_else(|d| panic!("{d}"));
        report(local.module(), Some("train_step")).expect("the program has the function")
    };
    let one = step(Switch { capacity_factor: 1.0, ..Switch::default() });
    let none = step(Switch { dropless: true, ..Switch::default() });
    let all = step(Switch { capacity_factor: 8.0, ..Switch::default() });
    let (one_flops, flops) = (one.flops_per_device as f64, none.flops_per_device as f64);
    assert!(flops > one_flops && flops < 1.1 * one_flops, "{flops:e} are not near {one_flops:e}");
    assert!(all.flops_per_device as f64 > 1.5 * flops, "{}", all.flops_per_device);
    // The blocks in use hold as many tokens as the expert slots of capacity 1; the rest is padding.
    let apart = none.flops_per_sequence as f64 / one.flops_per_sequence as f64;
    assert!((apart - 1.0).abs() < 1e-6, "{apart}");
    assert!(none.flops_per_device_by_purpose.empty_slots > 0);
}

#[test]
fn options_that_do_not_suit_are_named() {
    let check = |switch: Switch, expect: &[&str]| {
        let config = Config { switch: Some(switch), ..Config::default() };
        let wrong = models::program(&config, &Site::default()).finish().expect_err("the options are wrong");
        assert_eq!(wrong.0.iter().map(|d| d.message.as_str()).collect::<Vec<_>>(), expect);
    };
    let dropless = || Switch { dropless: true, ..Switch::default() };
    check(
        Switch { routing: RoutingMethod::ExpertChoice, ..dropless() },
        &["`dropless` does not work if experts choose tokens: each would choose all"],
    );
    check(
        Switch { routing: RoutingMethod::Ntlb, priority: Priority::Gate, ..dropless() },
        &[
            "`dropless` drops no token, so `routing` = ntlb has no effect",
            "`dropless` drops no token, so `priority` = gate has no effect",
        ],
    );
    check(
        Switch { sparse_parts: SparseParts::Both, ..dropless() },
        &["`dropless` does not support experts in attention"],
    );
}

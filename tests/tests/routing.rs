//! Every routing method against a reference implementation in plain loops, with random inputs and edge cases;
//! both dispatch methods; all layouts against one device; noise; and invalid options.
//!
//! The router's matrix is the identity, so that a token is equal to its logits.

use compiler::interp::{self, Precision as Rounding, Tensor, Tensors};
use mesh::{DType, Dim, Layout, Mesh, Site, dsl::Program};
use models::{
    Config, Context, Dispatch, Precision, Schedule, Switch, Weights,
    attention::{Attention, AttentionDims},
    switch::options::{
        Balance, EvalCapacity, Exploration, Priority, RoutingMethod, Scores, SecondExpertPolicy, SparseParts,
    },
};
use tests::{
    loops::{output, softmax, want},
    moe::{Device, Layer, error},
};

const NEAR: f64 = 1e-5;

/// Returns numbers in [0, 1) that depend only on `seed`.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f64) / f64::from(1u32 << 24)
    }
    fn list(&mut self, count: usize, scale: f64) -> Vec<f64> {
        (0..count).map(|_| f64::from(((self.next() - 0.5) * scale) as f32)).collect()
    }
}

/// The inputs of a layer: tokens that are equal to their logits, the padding mask, and parameters.
struct Given {
    x: Vec<f64>,
    padding: Vec<f64>,
    inputs: Tensors,
    state: Tensors,
}

fn layer(options: Switch, batch: usize, length: usize) -> Layer {
    let d_model = options.experts;
    Layer {
        options,
        batch,
        length,
        d_model,
        d_ff: 4,
        train: false,
        precision: Precision::F32,
        schedule: Schedule::default(),
    }
}

fn given(layer: &Layer, seed: u64, scale: f64) -> Given {
    let mut numbers = Numbers(seed.wrapping_mul(77) + 1);
    let count = layer.batch * layer.length;
    let x = numbers.list(count * layer.d_model, scale);
    let padding = (0..count).map(|_| f64::from(numbers.next() > 0.25)).collect();
    given_x(layer, x, padding, &mut numbers)
}

fn given_x(layer: &Layer, x: Vec<f64>, padding: Vec<f64>, numbers: &mut Numbers) -> Given {
    let [batch, length, _] = layer.dims();
    let inputs = Tensors::from([
        ("seed".into(), Tensor::scalar(DType::U32, 5.0)),
        ("x".into(), layer.activations(x.clone())),
        ("tokens".into(), Tensor::new(DType::S32, &[batch, length], padding.clone()).expect("one each")),
        ("cotangent".into(), layer.activations(numbers.list(x.len(), 2.0))),
    ]);
    let state = layer.parameters().into_iter().map(|(name, dims)| {
        let count: usize = dims.iter().map(|d: &Dim| d.size).product();
        let elements = match name {
            "router" => (0..count).map(|i| f64::from(i / layer.d_model == i % layer.d_model)).collect(),
            _ => numbers.list(count, 2.0),
        };
        (name.into(), Tensor::new(DType::F32, &dims, elements).expect("the sizes agree"))
    });
    let state = state.collect();
    Given { x, padding, inputs, state }
}

/// Checks both dispatch methods against the reference, and against each other.
#[track_caller]
fn check(layer: &Layer, given: &Given) {
    let bias = match given.state.get("balance_bias") {
        Some(bias) => bias.elements(),
        None => vec![0.0; layer.options.experts],
    };
    let want = want(layer, &given.x, &given.padding, &bias);
    let y = output(layer, &want, &given.x, &given.state);
    let token = if want.tokens == layer.length && want.groups == layer.batch { "length" } else { "group" };
    let mask = ["batch", token, "experts_all", "capacity"];
    let mut both = Vec::new();
    for dispatch in [Dispatch::Permute, Dispatch::Einsum] {
        let layer = Layer { schedule: Schedule { dispatch, ..layer.schedule }, ..layer.clone() };
        let have = layer.run(Device::Interpreter, "", "", &given.inputs, &given.state);
        let near = |name: &str, names: &[&str], want: &[f64], most: f64| {
            let apart = error(&have[name], names, want);
            assert!(
                apart <= most,
                "{name} is {apart:e} off by {layer:?}:\n{:?}\nis not {want:?}",
                have[name].elements()
            );
        };
        near("dispatch", &mask, &want.dispatch, 0.0);
        near("combine", &mask, &want.combine, NEAR);
        near("y", &["batch", "length", "d_model"], &y, NEAR);
        near("load", &[], &want.load, NEAR);
        for (name, number) in
            [("dropped", want.dropped), ("aux", want.aux), ("z", want.z), ("entropy", want.entropy)]
        {
            near(name, &[], &[number], NEAR);
        }
        both.push(have);
    }
    // With one expert per token, every sum in a product with a mask has one term, so results are bit-equal.
    let most =
        if layer.options.choices() == 1 || layer.options.routing == RoutingMethod::Ntlb { 0.0 } else { 1e-6 };
    for (name, a) in &both[0] {
        let apart = error(a, &[], &both[1][name].ordered(&a.names).elements());
        assert!(apart <= most, "{name} by index and by product are {apart:e} apart by {layer:?}");
    }
}

/// Options that the paper's routers do not have, with four experts.
fn later_ways() -> Vec<Switch> {
    let top = |top_k| Switch {
        experts: 4,
        min_capacity: 1,
        routing: RoutingMethod::TopK,
        top_k,
        exploration: Exploration::Argmax,
        ..Switch::default()
    };
    let one = Switch { routing: RoutingMethod::Switch, top_k: 0, ..top(1) };
    vec![
        Switch { balance: Balance::Batch, ..one.clone() },
        Switch { balance: Balance::Batch, ..top(3) },
        Switch { scores: Scores::Sigmoid, ..one.clone() },
        Switch { scores: Scores::Sigmoid, gate_scale: 2.5, balance_bias: 0.001, ..top(2) },
        Switch { balance_bias: 0.001, priority: Priority::Gate, ..one.clone() },
        Switch { shared_experts: 2, ..one },
        Switch { scores: Scores::Sigmoid, balance: Balance::Batch, shared_experts: 1, ..top(2) },
    ]
}

/// The routing methods, with four experts.
fn ways() -> Vec<Switch> {
    let base = || Switch {
        experts: 4,
        min_capacity: 1,
        eval_capacity_factor: 1.0,
        exploration: Exploration::Argmax,
        ..Switch::default()
    };
    let with = |routing, top_k| Switch { routing, top_k, ..base() };
    let by_gate = |options| Switch { priority: Priority::Gate, ..options };
    let second = |policy| Switch {
        eval_second_policy: policy,
        second_place_loss: true,
        ..with(RoutingMethod::TopK, 2)
    };
    vec![
        base(),
        by_gate(base()),
        with(RoutingMethod::TopK, 2),
        second(SecondExpertPolicy::None),
        Switch { eval_second_threshold: 0.3, ..second(SecondExpertPolicy::Threshold) },
        with(RoutingMethod::TopK, 3),
        with(RoutingMethod::TopK, 4),
        by_gate(with(RoutingMethod::TopK, 2)),
        Switch { renormalize: Some(false), ..with(RoutingMethod::TopK, 2) },
        Switch { capacity_per_choice: true, ..with(RoutingMethod::TopK, 2) },
        with(RoutingMethod::Ntlb, 0),
        with(RoutingMethod::Ntlb, 2),
        by_gate(with(RoutingMethod::Ntlb, 3)),
        with(RoutingMethod::ExpertChoice, 0),
        with(RoutingMethod::ExpertSelection, 0),
    ]
}

#[test]
fn every_way_of_routing_does_what_plain_loops_do() {
    for (i, options) in ways().into_iter().chain(later_ways()).enumerate() {
        for (ignore_padding, factor, group_size) in
            [(false, 1.0, 0), (true, 1.0, 0), (true, 0.5, 12), (false, 4.0, 16)]
        {
            let options =
                Switch { ignore_padding, eval_capacity_factor: factor, group_size, ..options.clone() };
            let layer = layer(options, 3, 8);
            check(&layer, &given(&layer, i as u64, 4.0));
        }
    }
}

#[test]
fn odd_inputs_route_as_in_plain_loops() {
    for options in ways() {
        let padded = Switch { ignore_padding: true, ..options.clone() };
        let layer = layer(padded, 2, 6);
        let numbers = &mut Numbers(3);
        // All tokens choose the same expert, which has one expert slot.
        let one = Layer { options: Switch { fixed_capacity: 1, ..options.clone() }, ..layer.clone() };
        let x = (0..12 * 4).map(|i| {
            f64::from(u8::from(i % 4 == 2)) * 2.0 + (i / 4) as f64 * 0.125 * f64::from(u8::from(i % 4 == 1))
        });
        let all_real = vec![1.0; 12];
        check(&one, &given_x(&one, x.collect(), all_real.clone(), numbers));
        // All logits are equal: the first expert, the first tokens.
        check(&layer, &given_x(&layer, vec![0.5; 12 * 4], all_real, numbers));
        // A group of padding only, and one with a single token.
        let padding = (0..12).map(|i| f64::from(u8::from(i == 8))).collect();
        let x = numbers.list(12 * 4, 4.0);
        check(&layer, &given_x(&layer, x, padding, numbers));
    }
    // One expert.
    let single = layer(Switch { experts: 1, min_capacity: 1, ..Switch::default() }, 2, 5);
    check(&single, &given(&single, 1, 4.0));
}

#[test]
fn layouts_do_not_change_where_tokens_go() {
    for (i, options) in ways().into_iter().chain(later_ways()).enumerate() {
        for dispatch in [Dispatch::Permute, Dispatch::Einsum] {
            let options = Switch { ignore_padding: i % 2 == 0, ..options.clone() };
            let schedule = Schedule { dispatch, ..Schedule::default() };
            let layer = Layer { schedule, ..layer(options, 4, 8) };
            let given = given(&layer, i as u64 + 50, 4.0);
            let one = layer.run(Device::Interpreter, "", "", &given.inputs, &given.state);
            for (mesh, layout) in [
                ("data=2,expert=2,model=2", "batch:data+expert,experts:expert,d_ff:model"),
                ("expert=4,model=2", "experts:expert,d_model:model"),
                ("data=4,expert=2", "batch:data,experts:expert,experts_all:expert"),
            ] {
                let many = layer.run(Device::Interpreter, mesh, layout, &given.inputs, &given.state);
                for (name, a) in &one {
                    let apart = error(&many[name].ordered(&a.names), &[], &a.elements());
                    let most = if &**name == "dispatch" { 0.0 } else { NEAR };
                    assert!(apart <= most, "{name} on {mesh} by {layout} is {apart:e} off: {layer:?}");
                }
            }
        }
    }
}

/// Returns the expert of each token of a row by `dispatch`, and the outputs.
fn experts_of(layer: &Layer, mesh: &str, layout: &str, given: &Given) -> (Vec<usize>, Tensors) {
    let have = layer.run(Device::Interpreter, mesh, layout, &given.inputs, &given.state);
    let names = ["batch", "length", "experts_all", "capacity"].map(mesh::Name::from);
    let mask = have["dispatch"].ordered(&names).elements();
    let each = mask.len() / (layer.batch * layer.length);
    let capacity = each / layer.options.experts;
    let of = |token: &[f64]| token.iter().position(|x| *x > 0.0).map_or(usize::MAX, |at| at / capacity);
    (mask.chunks(each).map(of).collect(), have)
}

#[test]
fn routers_that_learn_nothing_spread_tokens() {
    for (routing, train) in
        [(RoutingMethod::Hash, true), (RoutingMethod::Random, true), (RoutingMethod::Random, false)]
    {
        let options = Switch { experts: 4, routing, fixed_capacity: 64, ..Switch::default() };
        let layer = Layer { train, ..layer(options, 4, 64) };
        let mut given = given(&layer, 7, 4.0);
        let [batch, length, _] = layer.dims();
        let tokens: Vec<f64> = (0..256).map(|i| f64::from(3 + (i * 7) % 61)).collect();
        let input = Tensor::new(DType::S32, &[batch, length], tokens.clone()).expect("one each");
        given.inputs.insert("tokens".into(), input);
        let (experts, have) = experts_of(&layer, "", "", &given);
        for expert in 0..4 {
            let count = experts.iter().filter(|e| **e == expert).count();
            assert!((24..=112).contains(&count), "{routing:?}: expert {expert} has {count} of 256 tokens");
        }
        let same = (0..256).filter(|i| experts[*i] == experts[(i + 61) % 256]).count();
        // Tokens 61 places apart are equal, but for those after the end.
        assert_eq!(routing == RoutingMethod::Hash, same >= 195, "{routing:?}: {same}");
        assert!((have["entropy"].elements()[0] - 4f64.ln()).abs() < 1e-6);
        assert!((have["aux"].elements()[0] - 1.0).abs() < 1e-6);
        assert!(!have.contains_key("grad_router") && have["grad_wi"].elements().iter().any(|x| *x != 0.0));
        let split = "batch:data+expert,experts:expert,d_ff:model";
        assert_eq!(experts_of(&layer, "data=2,expert=2,model=2", split, &given).0, experts, "{routing:?}");
    }
}

#[test]
fn evaluation_with_all_expert_slots_is_that_of_unlimited_capacity() {
    let chosen = ways().into_iter().filter(|options| !options.routing.by_experts()).enumerate();
    for (i, options) in chosen.filter(|(i, _)| [0, 2].contains(i)) {
        let factor = Switch { eval_capacity_factor: 0.5, ..options };
        let unlimited = layer(Switch { fixed_capacity: usize::MAX, ..factor.clone() }, 4, 16);
        let all = layer(Switch { eval_capacity: EvalCapacity::All, ..factor.clone() }, 4, 16);
        // Small logits spread the tokens, large ones need more expert slots than the factor gives.
        for scale in [0.5, 8.0] {
            let given = given(&unlimited, i as u64 + 20, scale);
            let want = unlimited.run(Device::Interpreter, "", "", &given.inputs, &given.state);
            assert_eq!(want["dropped"].elements(), [0.0]);
            let layout = "batch:data+expert,experts:expert,d_ff:model";
            for (on, mesh, layout) in [
                (Device::Interpreter, "", ""),
                (Device::Interpreter, "data=2,expert=2,model=2", layout),
                (Device::Plugin, "data=2,expert=2,model=2", layout),
            ] {
                let have = all.run(on, mesh, layout, &given.inputs, &given.state);
                for (name, a) in &want {
                    let apart = error(&have[name].ordered(&a.names), &[], &a.elements());
                    assert!(apart <= NEAR, "{name} on {mesh} ({on:?}) is {apart:e} off: {all:?}");
                }
            }
        }
        let conditions = mesh::text::print(&all.program()).matches(" cond ").count();
        assert!(conditions >= 2, "the layer is compiled for several capacities: {conditions}");
    }
}

#[test]
fn the_plugin_routes_as_the_interpreter_does() {
    let layout = "batch:data+expert,experts:expert,d_ff:model";
    // Every routing method and priority once, and the last two of the later ones.
    let all = ways().into_iter().chain(later_ways()).enumerate();
    for (i, options) in all.filter(|(i, _)| [1, 5, 7, 12, 13, 14, 18, 21].contains(i)) {
        let layer = layer(Switch { ignore_padding: true, ..options }, 4, 8);
        let given = given(&layer, i as u64 + 90, 4.0);
        let want = layer.run(Device::Interpreter, "", "", &given.inputs, &given.state);
        for (mesh, layout) in [("", ""), ("data=2,expert=2,model=2", layout)] {
            let dispatch = if mesh.is_empty() { Dispatch::Permute } else { layer.schedule.dispatch };
            let layer = Layer { schedule: Schedule { dispatch, ..layer.schedule }, ..layer.clone() };
            let have = layer.run(Device::Plugin, mesh, layout, &given.inputs, &given.state);
            for (name, a) in &want {
                let apart = error(&have[name].ordered(&a.names), &[], &a.elements());
                let most = if &**name == "dispatch" { 0.0 } else { NEAR };
                assert!(apart <= most, "{name} on the plugin by {mesh} is {apart:e} off: {layer:?}");
            }
        }
    }
}

/// Options for experts in `groups`, with the capacity factors of both steps.
fn grouped(options: &Switch, groups: usize, [to_group, to_expert]: [f64; 2]) -> Switch {
    Switch {
        expert_groups: groups,
        group_capacity_factor: to_group,
        capacity_factor: to_expert,
        eval_capacity_factor: to_expert,
        ..options.clone()
    }
}

#[test]
fn two_steps_lead_where_one_does() {
    for ignore_padding in [false, true] {
        let options = Switch { experts: 8, fixed_capacity: 8, ignore_padding, ..Switch::default() };
        let flat = layer(options.clone(), 8, 8);
        let given = given(&flat, 200, 4.0);
        let want = flat.run(Device::Interpreter, "", "", &given.inputs, &given.state);
        assert_eq!(want["dropped"].elements(), [0.0]);
        let layer = Layer { options: grouped(&options, 4, [99.0, 99.0]), ..flat };
        let config = Config { switch: Some(layer.options.clone()), ..Config::default() };
        let places = [
            ("", Device::Interpreter),
            ("expert=4,inner=2", Device::Interpreter),
            ("data=2,expert=4", Device::Interpreter),
            ("expert=2,inner=2,model=2", Device::Interpreter),
            ("", Device::Plugin),
            ("expert=4,inner=2", Device::Plugin),
        ];
        for (mesh, on) in places {
            let axes = Mesh::parse(mesh).expect("the mesh is legal");
            let rules = config.layout().replace("heads:model,", "").replace(",vocab:model", "");
            let layout = Layout::parse(&rules).expect("the layout is legal");
            let layout = layout.restricted_to(&axes).to_string();
            let have = layer.run(on, mesh, &layout, &given.inputs, &given.state);
            // The masks are those of one-step dispatch, which does not run.
            for (name, a) in want.iter().filter(|(name, _)| !["dispatch", "combine"].contains(&&***name)) {
                let apart = error(&have[name].ordered(&a.names), &[], &a.elements());
                assert!(apart <= NEAR, "{name} on {mesh} ({on:?}) is {apart:e} off");
            }
        }
    }
}

#[test]
fn slots_that_travel_in_parts_come_back_as_in_one() {
    let (flat, two_steps) = (
        "batch:expert+inner,experts:expert+inner",
        "batch:expert+inner,outer_batch:expert,inner_batch:inner,experts:expert+inner,expert_groups:expert,\
         group_experts:inner",
    );
    let base = Switch { experts: 8, fixed_capacity: 5, expert_dropout: Some(0.25), ..Switch::default() };
    for (options, split) in [(base.clone(), flat), (grouped(&base, 4, [99.0, 99.0]), two_steps)] {
        let one = Layer { train: true, ..layer(options, 8, 8) };
        let given = given(&one, 300, 4.0);
        let want = one.run(Device::Interpreter, "", "", &given.inputs, &given.state);
        for parts in [2, 3, 99] {
            let schedule = Schedule { exchange_parts: parts, ..one.schedule };
            let layer = Layer { schedule, ..one.clone() };
            for (mesh, on) in [
                ("", Device::Interpreter),
                ("expert=4,inner=2", Device::Interpreter),
                ("expert=4,inner=2", Device::Plugin),
            ] {
                let layout = if mesh.is_empty() { "" } else { split };
                let have = layer.run(on, mesh, layout, &given.inputs, &given.state);
                for (name, a) in &want {
                    let apart = error(&have[name].ordered(&a.names), &[], &a.elements());
                    // Expert slots are processed as in one part; sums over them have another order.
                    let most = if mesh.is_empty() && !name.starts_with("grad_w") { 0.0 } else { NEAR };
                    assert!(
                        apart <= most,
                        "{name} in {parts} parts on {mesh} ({on:?}) is {apart:e} off: {layer:?}"
                    );
                }
            }
        }
        // Each part has its own all-to-alls, and so have the cotangents.
        let exchanges = |parts: usize| {
            let layer = Layer { schedule: Schedule { exchange_parts: parts, ..one.schedule }, ..one.clone() };
            let local = layer.local("expert=4,inner=2", split);
            mesh::text::print(local.module()).matches(" all_to_all ").count()
        };
        // In two-step dispatch, only the second step is in parts.
        let whole = exchanges(1) - 4;
        assert_eq!(exchanges(3), whole + 12, "{:?}", one.options);
    }
}

/// Returns the expected fraction of dropped tokens if experts draw tokens with these weights.
fn dropped(options: Switch, batch: usize, length: usize, weight: impl Fn(usize) -> f64) -> f64 {
    let layer = layer(options, batch, length);
    let mut numbers = Numbers(11);
    // Gumbel-max trick: the largest of the noisy logarithms is a draw.
    let mut noisy = |e: usize| weight(e).ln() - (-numbers.next().max(1e-9).ln()).ln();
    let x =
        (0..batch * length).flat_map(|_| (0..layer.d_model).map(&mut noisy).collect::<Vec<_>>()).collect();
    let given = given_x(&layer, x, vec![1.0; batch * length], &mut Numbers(1));
    layer.run(Device::Interpreter, "", "", &given.inputs, &given.state)["dropped"].elements()[0]
}

#[test]
fn two_steps_drop_no_more_than_one_with_as_many_slots() {
    let (batch, length, experts, groups) = (32, 64, 64, 8);
    let least = Switch { experts, min_capacity: 1, ..Switch::default() };
    for (what, skew) in [("even", 0.0), ("skewed", 0.5)] {
        let weight = |e: usize| (1.0 + e as f64).powf(-skew);
        // One slot for each sequence and expert is one for each token and sequence: as many as the even
        // share.
        let flat = Switch { fixed_capacity: 1, ..least.clone() };
        let flat = dropped(flat, batch, length, weight);
        let two = dropped(grouped(&least, groups, [1.25, 1.0]), batch, length, weight);
        eprintln!("{what}: one step drops {:.1} %, two drop {:.1} %", flat * 100.0, two * 100.0);
        assert!(flat > 0.1 && two > 0.01 && two <= flat + 0.01, "{what}: {flat} {two}");
    }
}

/// Returns the load of a layer whose tokens are all equal to `token`, in training.
fn load(options: Switch, token: &[f64], on: Device, precision: Precision) -> Vec<f64> {
    let layer = Layer { train: true, precision, ..layer(options, 4, 512) };
    let x = token.iter().copied().cycle().take(4 * 512 * token.len()).collect();
    let mut given = given_x(&layer, x, vec![1.0; 4 * 512], &mut Numbers(1));
    if let Some(bias) = given.state.get_mut("router_bias") {
        let elements = (0..token.len()).map(|i| if i == 2 { 3.0 } else { 0.0 }).collect();
        *bias = Tensor::new(DType::F32, &layer.parameters()[3].1, elements).expect("the sizes agree");
    }
    layer.run(on, "", "", &given.inputs, &given.state)["load"].elements()
}

#[track_caller]
fn shares(have: &[f64], want: &[f64]) {
    // Five standard deviations of a fraction of 2048 draws.
    let near =
        have.iter().zip(want).all(|(a, b)| (a - b).abs() <= 5.0 * (b * (1.0 - b) / 2048.0).sqrt() + 1e-6);
    assert!(near, "{have:?} is not near {want:?}");
}

#[test]
fn noise_explores_as_it_says() {
    let with = |exploration| Switch { experts: 4, exploration, ..Switch::default() };
    let plain = |options, token: &[f64]| load(options, token, Device::Interpreter, Precision::F32);
    let token = [0.5, 1.5, -1.0, 0.0];
    shares(&plain(with(Exploration::Argmax), &token), &[0.0, 1.0, 0.0, 0.0]);
    shares(&plain(with(Exploration::Sample), &token), &softmax(&token));
    let half: Vec<f64> = token.iter().map(|x| x / 2.0).collect();
    let warm = Switch { temperature: 2.0, ..with(Exploration::Sample) };
    shares(&plain(warm, &token), &softmax(&half));
    // Without its one large element a token has equal logits.
    let dropout = Switch { router_dropout: 0.4, ..with(Exploration::InputDropout) };
    shares(&plain(dropout, &[0.0, 0.0, 0.0, 2.0]), &[0.4, 0.0, 0.0, 0.6]);
    // The larger of two numbers that are 0.5 % apart, both times even noise of 1 %: 1 - (3/4)² / 2.
    let jitter = Switch { jitter: 0.01, ..with(Exploration::InputJitter) };
    let near = plain(jitter, &[0.0, 0.0, 1.0, 1.005]);
    assert!((near[3] - 0.72).abs() < 0.05 && near[2] + near[3] > 0.999, "{near:?}");
    let biased = Switch { router_bias: true, ..with(Exploration::Argmax) };
    shares(&plain(biased, &token), &[0.0, 0.0, 1.0, 0.0]);
}

/// All tokens prefer the last expert. In a step in which it is dropped they take the one before that is not;
/// if all are dropped, none is.
#[test]
fn dropped_experts_are_not_chosen() {
    let passed_over = |experts: usize, drop_experts: f64| {
        let switch = Switch { experts, drop_experts, exploration: Exploration::Argmax, ..Switch::default() };
        let token: Vec<f64> = (0..experts).map(|e| e as f64).collect();
        let load = load(switch, &token, Device::Interpreter, Precision::F32);
        let chosen = load.iter().rev().position(|share| *share == 1.0);
        chosen.unwrap_or_else(|| panic!("all tokens choose the same expert: {load:?}"))
    };
    assert_eq!([passed_over(4, 0.0), passed_over(4, 0.9999)], [0, 0]);
    let chosen: Vec<usize> = (8..24).map(|experts| passed_over(experts, 0.5)).collect();
    let of_last = chosen.iter().filter(|expert| **expert == 0).count();
    assert!((3..=13).contains(&of_last) && chosen.iter().all(|expert| *expert < 8), "{chosen:?}");
}

#[test]
fn probabilities_that_round_to_the_same_number_are_the_same() {
    let with = |round_probabilities| Switch {
        experts: 2,
        exploration: Exploration::Argmax,
        round_probabilities,
        ..Switch::default()
    };
    for on in [Device::Interpreter, Device::Plugin] {
        // 0.4999 and 0.5001 are 0.5 in bf16.
        let of = |round| load(with(round), &[0.0, 0.0004], on, Precision::Selective);
        assert_eq!((of(false), of(true)), (vec![0.0, 1.0], vec![1.0, 0.0]), "{on:?}");
    }
}

/// Attention over `x` with the matrices `q`, `kv` and `o`: with one expert, or dense with values that are
/// keys.
fn attention(x: &Tensor, matrices: [&[f64]; 3], experts: bool) -> Vec<f64> {
    let config = Config { batch: 2, d_model: 4, heads: 2, d_kv: 3, dropout: 0.0, ..Config::default() };
    let dims = AttentionDims::new(&config);
    let p = Program::new("attention");
    let weights = Weights::new(&p);
    let one = Switch { experts: 1, fixed_capacity: 5, ..Switch::default() };
    let attention = match experts {
        true => Attention::switch(&weights, &dims, &one),
        false => Attention::new(&weights, &dims),
    };
    let length = Dim::new("length", 5);
    p.function("attend", |g| {
        let x = g.input("x", DType::F32, [&dims.batch, &length, &dims.d_model]);
        let cx = Context::new(g, &config, None);
        let own = x.rename(&length, "memory_length");
        g.output("y", attention.forward(&cx, x, &length, own, &[]).0);
    });
    let mut module = p.finish().unwrap_or_else(|d| panic!("{d}"));
    module.functions.retain(|f| f.name == *"attend");
    let [q, kv, o] = matrices;
    let state = module.env.states.iter().map(|(_, s)| {
        let elements = match s.name.as_str() {
            "q" => q.to_vec(),
            "k" | "v" | "kv" => kv.to_vec(),
            "o" => o.to_vec(),
            _ => vec![0.3; 4],
        };
        let dims: Vec<Dim> = s.ty.logical().cloned().collect();
        (s.name.clone(), Tensor::new(DType::F32, &dims, elements).expect("the sizes agree"))
    });
    let inputs = Tensors::from([("x".into(), x.clone())]);
    let outcome = interp::run(&module, "attend", &inputs, &state.collect(), Rounding::Normal);
    outcome.unwrap_or_else(|d| panic!("{d}")).outputs["y"].elements()
}

#[test]
fn attention_with_one_expert_is_attention() {
    let numbers = &mut Numbers(9);
    let dims = [Dim::new("batch", 2), Dim::new("length", 5), Dim::new("d_model", 4)];
    let x = Tensor::new(DType::F32, &dims, numbers.list(40, 2.0)).expect("the sizes agree");
    let matrices = [24, 24, 24].map(|count| numbers.list(count, 2.0));
    let of = |experts| attention(&x, matrices.each_ref().map(|m| &m[..]), experts);
    let [sparse, dense] = [true, false].map(of);
    assert!(dense.iter().any(|y| y.abs() > 0.1));
    // The gate of the only expert is 1.
    let apart = sparse.iter().zip(&dense).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart < 1e-6, "{apart}");
}

#[test]
fn options_that_cannot_be_are_named() {
    let wrong_with = |switch: Switch, schedule: Schedule, expect: &[&str]| {
        let config = Config {
            schedule,
            batch: 2,
            input_length: 16,
            target_length: 8,
            switch: Some(switch),
            ..Config::default()
        };
        let mistakes =
            models::program(&config, &Site::default()).finish().expect_err("the options are wrong");
        let found: Vec<String> = mistakes
            .0
            .iter()
            .map(|m| [m.message.as_str()].into_iter().chain(m.help.as_deref()).collect::<Vec<_>>().join("; "))
            .collect();
        assert_eq!(found, expect);
    };
    let wrong = |switch, expect: &[&str]| wrong_with(switch, Schedule::default(), expect);
    let four = || Switch { experts: 4, ..Switch::default() };
    wrong(
        Switch { routing: RoutingMethod::TopK, top_k: 5, ..four() },
        &["`top_k` must be at most `experts` = 4, got 5"],
    );
    wrong(
        Switch { top_k: 2, ..four() },
        &[
            "`top_k` must be 1 with `routing` = switch, got 2; set `routing` to top_k for several experts per token",
        ],
    );
    wrong(
        Switch { routing: RoutingMethod::ExpertChoice, top_k: 2, exploration: Exploration::Sample, ..four() },
        &[
            "`top_k` must be 0 if experts choose tokens, got 2; `capacity_factor` determines how many tokens an expert \
             takes",
            "`exploration` = sample does not work if experts choose tokens; set it to argmax, input_dropout or \
             input_jitter",
        ],
    );
    wrong(
        Switch { balance_bias: 0.1, routing: RoutingMethod::Hash, top_k: 2, ..four() },
        &[
            "`top_k` must be 1 with `routing` = hash, got 2; set `routing` to top_k for several experts per token",
            "`balance_bias` has no effect if experts choose tokens or nothing is learned; set `routing` to switch, \
             top_k or ntlb",
        ],
    );
    wrong(
        Switch { experts: 32, capacity_factor: 1.0, min_capacity: 0, ..four() },
        &[
            "`capacity_factor` = 1 gives the 32 experts no expert slots in a group of 16 tokens (from `input_length`); \
             set `capacity_factor` to at least 2, or `min_capacity` to 1, or make groups larger",
            "`eval_capacity_factor` = 2 gives the 32 experts no expert slots in a group of 8 tokens (from \
             `target_length`); set `eval_capacity_factor` to at least 4, or `min_capacity` to 1, or make groups larger",
        ],
    );
    wrong_with(
        Switch { sparse_parts: SparseParts::Attention, ..four() },
        Schedule { exchange_parts: 2, ..Schedule::default() },
        &[
            "`exchange_parts` must be 1 with `experts_in` = attention, got 2; or set `experts_in` to ffn or both",
        ],
    );
    wrong(
        Switch {
            eval_second_policy: SecondExpertPolicy::Random,
            temperature: 0.0,
            second_threshold: -1.0,
            ..four()
        },
        &[
            "`eval_second_policy` = random does not work: evaluation draws no random numbers; set it to all, none or \
             threshold",
            "`temperature` must be more than 0, got 0",
            "`second_threshold` must be at least 0, got -1",
        ],
    );
}

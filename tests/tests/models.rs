//! Models through the stages of the compiler: they build, they are differentiated, they learn in the
//! reference interpreter, and they give the same results under every layout.

use compiler::{
    autodiff,
    interp::{self, Precision as Rounding, Tensor, Tensors},
    pipeline::{self, Axes},
};
use mesh::{
    DType, Dim, Layout, Mesh, Module, Site,
    dsl::{Init, Program},
    verify,
};
use models::{
    Config, Dispatch, LrSchedule, Method, Objective, Optimizer, Precision, Schedule, Switch, Weights,
    optimizer::{Adafactor, Decay, Update},
};

/// A Switch Transformer that is small enough for the interpreter, with all noise.
fn tiny() -> Config {
    Config {
        name: "tiny".into(),
        batch: 8,
        input_length: 8,
        target_length: 6,
        vocab: 16,
        d_model: 8,
        d_ff: 16,
        heads: 4,
        d_kv: 4,
        encoder_layers: 2,
        decoder_layers: 2,
        buckets: 8,
        max_distance: 16,
        switch: Some(Switch { experts: 4, min_capacity: 1, ..Switch::default() }),
        optimizer: Optimizer {
            schedule: LrSchedule { rate: 2e-2, warmup: 2, ..LrSchedule::default() },
            ..Optimizer::default()
        },
        ..Config::default()
    }
}

/// Models that settings describe have room for long generated texts.
#[test]
fn targets_of_presets_fit_span_corruption() {
    let presets = models::zoo::ALL.iter().filter(|preset| !["t5", "switch"].contains(&preset.name));
    for preset in presets {
        let Config { input_length, target_length, objective, .. } = (preset.config)();
        if objective != Objective::SpanCorruption {
            continue;
        }
        let need = data::SpanCorruption::default().lengths(input_length).expect("it is long enough").target;
        assert!((need..need + 8).contains(&target_length), "{}: {target_length}, not {need}", preset.name);
    }
}

/// Returns the verified module after autodiff.
#[track_caller]
fn build(config: &Config) -> Module {
    let module = models::program(config, &Site::default()).finish();
    let module = module.unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"));
    let module = autodiff::expand(&module).unwrap_or_else(|d| panic!("autodiff:\n{d}"));
    verify::Global::new(module).unwrap_or_else(|d| panic!("after autodiff:\n{d}")).into_module()
}

/// Returns the Local module for `mesh`.
#[track_caller]
fn split(module: &Module, mesh: &str, layout: &str, state: &str) -> Module {
    let mesh = Mesh::parse(mesh).expect("the test's mesh is legal");
    let map = |text: &str| {
        let layout = Layout::parse(text).expect("the test's layout is legal");
        layout.restricted_to(&mesh).resolve(&mesh).expect("axes the mesh lacks are left out")
    };
    let axes = Axes { compute: map(layout), state: map(state), mesh: mesh.clone() };
    let local = pipeline::partition(module, &axes);
    let local = local.unwrap_or_else(|d| panic!("partition over {mesh} by {layout}:\n{d}"));
    verify::Local::new(local).unwrap_or_else(|d| panic!("after partition:\n{d}")).into_module()
}

/// Returns sequences in which every token determines the next; some end early.
fn batch(config: &Config) -> [(&'static str, Tensor); 2] {
    let tokens = |name, length, shift: usize| {
        let dims = [Dim::new("batch", config.batch), Dim::new(name, length)];
        let token = |i: usize| {
            let (row, place) = (i / length, i % length);
            let pad = place >= length - row % 3;
            if pad { 0.0 } else { (1 + (row + place * 3 + shift) % (config.vocab - 1)) as f64 }
        };
        let elements = (0..config.batch * length).map(token).collect();
        Tensor::new(DType::S32, &dims, elements).expect("as many elements as the dims have")
    };
    [
        ("inputs", tokens("length", config.input_length, 0)),
        ("targets", tokens("target_length", config.target_length, 1)),
    ]
}

/// Returns the outputs of `steps` training steps with seed 7.
#[track_caller]
fn train(config: &Config, module: &Module, steps: usize) -> Vec<Tensors> {
    let call = |function: &str, inputs: &Tensors, state: &Tensors| {
        interp::run(module, function, inputs, state, Rounding::Normal)
            .unwrap_or_else(|d| panic!("{function}: {d}"))
    };
    let seed = ("seed".into(), Tensor::scalar(DType::U32, 7.0));
    let mut state = call("init", &Tensors::from([seed.clone()]), &Tensors::new()).state;
    let mut inputs: Tensors = batch(config).map(|(name, tensor)| (name.into(), tensor)).into();
    inputs.insert(seed.0, seed.1);
    let mut outputs = Vec::new();
    for _ in 0..steps {
        let outcome = call("train_step", &inputs, &state);
        state = outcome.state;
        outputs.push(outcome.outputs);
    }
    inputs.remove("seed");
    let eval = call("eval_step", &inputs, &state);
    assert!(number(&eval.outputs, "loss").is_finite());
    outputs
}

fn number(outputs: &Tensors, name: &str) -> f64 {
    outputs[name].data.iter().copied().sum()
}

/// Returns the largest relative difference of any output in any step.
fn difference(a: &[Tensors], b: &[Tensors]) -> f64 {
    let pairs = a.iter().zip(b).flat_map(|(a, b)| {
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        a.iter().zip(b.values())
    });
    let relative = pairs.flat_map(|((_, x), y)| {
        let pairs = x.data.iter().zip(&y.data).map(|(x, y)| (x - y).abs() / x.abs().max(y.abs()).max(1e-3));
        pairs.collect::<Vec<_>>()
    });
    relative.fold(0.0, f64::max)
}

#[track_caller]
fn learns(config: &Config) {
    let module = build(config);
    let outputs = train(config, &module, 12);
    let losses: Vec<f64> = outputs.iter().map(|o| number(o, "loss")).collect();
    assert!(losses.iter().all(|l| l.is_finite()), "{losses:?}");
    assert!(losses[11] < 0.8 * losses[0], "{losses:?}");
    if config.switch.is_some() {
        let stacks = [("encoder", false, config.encoder_layers), ("decoder", true, config.decoder_layers)];
        for (stack, decoder, layers) in stacks {
            let sparse = (0..layers).filter(|i| config.is_sparse(decoder, *i)).count();
            let load = number(&outputs[0], &format!("{stack}_load"));
            assert!(
                (load - sparse as f64).abs() < 1e-5,
                "loads of all experts sum to 1 in each layer: {load}"
            );
            let aux = number(&outputs[0], &format!("{stack}_aux")) / sparse as f64;
            // If padding is ignored, a group's load-balancing loss is multiplied by its fraction of tokens
            // that are not padding.
            let least = if config.switch.as_ref().is_some_and(|s| s.ignore_padding) { 0.6 } else { 0.9 };
            assert!((least..4.0).contains(&aux), "{aux}: {config:?}");
        }
    }
}

#[test]
fn a_switch_transformer_learns() {
    learns(&tiny());
}

#[test]
fn its_dense_twin_learns() {
    learns(&Config { switch: None, ..tiny() });
}

#[test]
fn every_variant_learns() {
    let switch = || Switch { experts: 4, min_capacity: 1, ..Switch::default() };
    let with = |method| Optimizer { method, ..tiny().optimizer };
    learns(&Config { precision: Precision::Selective, ..tiny() });
    learns(&Config { precision: Precision::Bf16, ..tiny() });
    learns(&Config { optimizer: Optimizer { clip: 0.0, ..with(Method::adafactor()) }, ..tiny() });
    learns(&Config {
        switch: Some(Switch { sparse_step: 2, group_size: 16, router_z_loss: 1e-3, ..switch() }),
        activation: models::Activation::GatedGelu,
        tied: false,
        dropout_broadcast: false,
        schedule: Schedule { remat: mesh::ir::Remat::SaveCarries, ..Schedule::default() },
        ..tiny()
    });
}

#[test]
fn sparse_layers_need_not_come_at_even_distances() {
    let switch = Switch { sparse_step: 3, decoder_sparse_step: 4, ..tiny().switch.expect("tiny is sparse") };
    let config = Config { encoder_layers: 5, decoder_layers: 3, switch: Some(switch), ..tiny() };
    let module = build(&config);
    let outputs = train(&config, &module, 2);
    let sums = ["encoder_load", "decoder_load"].map(|name| number(&outputs[0], name).round());
    assert_eq!(sums, [2.0, 1.0], "blocks 1 and 4 of the encoder, block 1 of the decoder");
    let local = split(&module, "data=2,expert=2,model=2", &config.layout(), "");
    let apart = difference(&outputs, &train(&config, &local, 2));
    assert!(apart < 1e-4, "{apart}");
    let unrolled = Config { schedule: unrolled(), ..config.clone() };
    assert_eq!(difference(&outputs, &train(&unrolled, &build(&unrolled), 2)), 0.0);
}

#[test]
fn every_way_of_routing_learns() {
    use models::switch::options::{AuxReduction, Exploration, Priority, RoutingMethod, SecondExpertPolicy};
    let switch = || Switch { experts: 4, min_capacity: 1, ..Switch::default() };
    let with = |routing| Switch { routing, ..switch() };
    for switch in [
        with(RoutingMethod::TopK),
        Switch {
            second_policy: SecondExpertPolicy::Random,
            second_place_loss: true,
            ..with(RoutingMethod::TopK)
        },
        Switch { priority: Priority::Gate, renormalize: Some(false), top_k: 3, ..with(RoutingMethod::TopK) },
        Switch { ignore_padding: true, aux_layers: AuxReduction::Mean, ..with(RoutingMethod::Ntlb) },
        Switch { exploration: Exploration::InputDropout, ..with(RoutingMethod::ExpertChoice) },
        Switch { ignore_padding: true, group_size: 16, ..with(RoutingMethod::ExpertSelection) },
        Switch { exploration: Exploration::Sample, router_bias: true, ..switch() },
        Switch { fixed_capacity: 3, router_z_loss: 0.1, router_z_scaled: true, ..switch() },
    ] {
        learns(&Config { switch: Some(switch), ..tiny() });
    }
}

#[test]
fn experts_learn_in_attention_too() {
    use models::switch::options::{RoutingMethod, SparseParts};
    let with = |sparse_parts, routing| {
        let switch = tiny().switch.expect("tiny is sparse");
        Config { switch: Some(Switch { sparse_parts, routing, ignore_padding: true, ..switch }), ..tiny() }
    };
    let module = |config: &Config| train(config, &build(config), 1).remove(0);
    learns(&with(SparseParts::Attention, RoutingMethod::Switch));
    // Two sparse parts in each layer, with separate outputs.
    let both = with(SparseParts::Both, RoutingMethod::Switch);
    let outputs = train(&both, &build(&both), 12);
    assert!(number(&outputs[11], "loss") < 0.8 * number(&outputs[0], "loss"));
    for name in ["encoder_attention_load", "encoder_ffn_load", "decoder_attention_load", "decoder_ffn_load"] {
        assert!((number(&outputs[0], name) - 2.0).abs() < 1e-5, "two layers: {}", number(&outputs[0], name));
    }
    assert!(!module(&with(SparseParts::Ffn, RoutingMethod::TopK)).contains_key("encoder_ffn_load"));
    // Eight devices give the same results as one.
    let config = with(SparseParts::Both, RoutingMethod::TopK);
    let whole = build(&config);
    let local = split(&whole, "data=2,expert=2,model=2", &config.layout(), "");
    let difference = difference(&train(&config, &whole, 2), &train(&config, &local, 2));
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn dispatch_by_index_and_by_product_are_the_same() {
    let of = |dispatch, capacity_factor| {
        let switch = Switch { capacity_factor, ..tiny().switch.expect("tiny is sparse") };
        let schedule = Schedule { dispatch, ..Schedule::default() };
        let config = Config { switch: Some(switch), schedule, ..tiny() };
        train(&config, &build(&config), 3)
    };
    for capacity_factor in [0.5, 1.25] {
        let (a, b) = (of(Dispatch::Permute, capacity_factor), of(Dispatch::Einsum, capacity_factor));
        assert!(number(&a[0], "encoder_dropped") > 0.0, "the test is about full experts too");
        assert!(difference(&a, &b) < 1e-6, "{}", difference(&a, &b));
    }
}

fn unrolled() -> Schedule {
    Schedule { unroll: true, ..Schedule::default() }
}

#[test]
fn stacked_layers_are_the_same_as_a_loop_and_one_after_the_other() {
    let unrolled = Config { schedule: unrolled(), ..tiny() };
    let (a, b) = (train(&tiny(), &build(&tiny()), 2), train(&unrolled, &build(&unrolled), 2));
    assert_eq!(difference(&a, &b), 0.0);
}

#[test]
fn losses_are_the_same_under_every_layout() {
    let config = tiny();
    let module = build(&config);
    let whole = train(&config, &module, 3);
    for (mesh, state) in [
        ("data=8", ""),
        ("expert=4", ""),
        ("model=4", ""),
        ("data=2,expert=2,model=2", ""),
        ("data=2,expert=4", "*:data+expert"),
    ] {
        let local = split(&module, mesh, &config.layout(), state);
        let parts = train(&config, &local, 3);
        let difference = difference(&whole, &parts);
        assert!(difference < 1e-4, "{mesh}: {difference}");
    }
}

/// The schedule of large models: a split residual stream, few saved values, and parameters gathered once per
/// step.
#[test]
fn a_residual_stream_in_parts_is_the_same() {
    let whole = train(&tiny(), &build(&tiny()), 3);
    let schedule =
        Schedule::parse("residual=stream remat=compact gather=step").expect("the schedule is legal");
    let config = Config { schedule, ..tiny() };
    let module = build(&config);
    let apart = difference(&whole, &train(&config, &module, 3));
    assert!(apart < 1e-4, "{apart}");
    for (mesh, state) in [("model=4", ""), ("data=2,expert=2,model=2", "*:data+expert")] {
        let local = split(&module, mesh, &config.layout(), state);
        let text = mesh::text::print(&local);
        assert!(text.contains("stream=8@model"), "the stream lies in parts");
        // No all-reduce is as large as the residual stream.
        let all_reduced = |line: &&str| line.contains("all_reduce") && line.contains("length=8, d_model");
        assert_eq!(text.lines().find(all_reduced), None);
        let difference = difference(&whole, &train(&config, &local, 3));
        assert!(difference < 1e-4, "{mesh}: {difference}");
    }
}

/// A layout that splits the positions of both stacks.
const POSITIONS: &str = "batch:data,length:seq,target_length:seq";

#[test]
fn positions_of_both_stacks_can_be_split() {
    let config = Config { target_length: 8, ..tiny() };
    let module = build(&config);
    let whole = train(&config, &module, 2);
    for mesh in ["seq=2", "data=2,seq=4"] {
        let local = split(&module, mesh, POSITIONS, "");
        let difference = difference(&whole, &train(&config, &local, 2));
        assert!(difference < 1e-4, "{mesh}: {difference}");
    }
}

#[test]
fn attention_in_a_ring_is_the_same() {
    let with = |ring, layer_biases| {
        let schedule = Schedule { ring, ..Schedule::default() };
        Config { target_length: 8, dropout: 0.0, layer_biases, schedule, ..tiny() }
    };
    let gathered = train(&with(1, false), &build(&with(1, false)), 2);
    let config = with(4, false);
    let module = build(&config);
    let whole = difference(&gathered, &train(&config, &module, 2));
    assert!(whole < 1e-4, "{whole}");
    for mesh in ["seq=2", "data=2,seq=4"] {
        let local = split(&module, mesh, &format!("{POSITIONS},ring:seq"), "");
        let text = mesh::text::print(&local);
        assert!(text.contains("collective_permute"), "blocks move from device to device");
        let keys = |line: &&str| line.contains("all_gather") && line.contains("d_kv");
        assert_eq!(text.lines().find(keys), None, "no device gathers keys or values");
        let difference = difference(&gathered, &train(&config, &local, 2));
        assert!(difference < 1e-4, "{mesh}: {difference}");
    }
    let (gathered, ring) = (with(1, true), with(2, true));
    let difference = difference(&train(&gathered, &build(&gathered), 1), &train(&ring, &build(&ring), 1));
    assert!(difference < 1e-4, "{difference}");
}

/// The decoder's positions divide into chunks for blocks and into a part of each chunk for each block.
#[test]
fn attention_in_a_ring_without_hidden_products_is_the_same() {
    #[track_caller]
    fn check(ring: usize, target_length: usize, layer_biases: bool, mesh: &[&str]) {
        let with = |ring| {
            let schedule = Schedule { ring, ..Schedule::default() };
            Config { target_length, dropout: 0.0, layer_biases, schedule, ..tiny() }
        };
        let gathered = train(&with(1), &build(&with(1)), 1);
        let config = with(ring);
        let module = build(&config);
        let text = mesh::text::print(&module);
        assert!(text.contains("query_length.chunks"), "the decoder's chunks are ordered");
        let whole = difference(&gathered, &train(&config, &module, 1));
        assert!(whole < 1e-4, "{whole}");
        for mesh in mesh {
            let local = split(&module, mesh, &format!("{POSITIONS},ring:seq"), "");
            let text = mesh::text::print(&local);
            let keys = |line: &&str| line.contains("all_gather") && line.contains("d_kv");
            assert_eq!(text.lines().find(keys), None, "no device gathers keys or values");
            let difference = difference(&gathered, &train(&config, &local, 1));
            assert!(difference < 1e-4, "{mesh}: {difference}");
        }
    }
    check(2, 8, true, &["data=2,seq=2"]);
    check(4, 32, false, &["seq=2"]);
}

/// All logits of a masked row are the same number, whose last digit is larger than the logarithm of a sum.
#[test]
fn a_row_of_padding_has_the_same_gradients_in_a_ring() {
    let step = |ring| {
        let schedule = Schedule { ring, ..Schedule::default() };
        let rate = LrSchedule { rate: 1.0, warmup: 0, ..LrSchedule::default() };
        let optimizer = Optimizer { method: Method::Sgd, schedule: rate, clip: 0.0, ..tiny().optimizer };
        let config = Config { dropout: 0.0, switch: None, schedule, optimizer, ..tiny() };
        let module = build(&config);
        let seed = ("seed".into(), Tensor::scalar(DType::U32, 7.0));
        let call = |function: &str, inputs: &Tensors, state: &Tensors| {
            let done = interp::run(&module, function, inputs, state, Rounding::Normal);
            done.unwrap_or_else(|d| panic!("{function}: {d}")).state
        };
        let before = call("init", &Tensors::from([seed.clone()]), &Tensors::new());
        let mut inputs: Tensors = batch(&config).map(|(name, tensor)| (name.into(), tensor)).into();
        inputs.insert(seed.0, seed.1);
        let row = inputs.get_mut("inputs").expect("`batch` has inputs");
        row.data.iter_mut().take(config.input_length).for_each(|token| *token = 0.0);
        let after = call("train_step", &inputs, &before);
        vec![
            after
                .into_iter()
                .map(|(name, mut tensor)| {
                    tensor.data.iter_mut().zip(&before[&name].data).for_each(|(x, was)| *x -= was);
                    (name, tensor)
                })
                .collect::<Tensors>(),
        ]
    };
    let (gathered, ring) = (step(1), step(2));
    let largest = |name: &str| gathered[0][name].data.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert!(largest("decoder/cross_attention/v") > 1e-3, "parameters change");
    let difference = difference(&gathered, &ring);
    assert!(difference < 1e-3, "{difference}");
}

#[test]
fn a_ring_divides_positions() {
    let wrong = |ring, packing| {
        let schedule = Schedule { ring, ..Schedule::default() };
        let config = Config { packing, schedule, ..tiny() };
        let mistakes =
            models::program(&config, &Site::default()).finish().expect_err("the ring does not fit");
        mistakes.to_string()
    };
    assert!(
        wrong(4, false).contains("`ring` must be a divisor of `input_length` = 8 and `target_length` = 6")
    );
    assert!(wrong(2, true).contains("`ring` must be 1 with `packing`"), "{}", wrong(2, true));
}

/// Returns the change of a parameter with initial value `value` and gradient `gradient` in one step with
/// learning rate 0.1 and no warm-up.
fn first_change(method: Method, value: f64, gradient: &[f64]) -> Vec<f64> {
    let schedule = LrSchedule { rate: 0.1, warmup: 0, ..LrSchedule::default() };
    let optimizer = Optimizer { method, schedule, clip: 0.0, skip_non_finite: true };
    let p = Program::new("test");
    let weights = Weights::new(&p);
    let (rows, columns) = (Dim::new("rows", 2), Dim::new("columns", gradient.len() / 2));
    let w = weights.matrix("w", &[&rows, &columns], &[&rows], &[&columns], Init::Constant(value));
    let step = p.counter("step", DType::S32, Init::Zeros);
    let update = Update::new(&p, &optimizer, weights.all());
    p.function("train", |g| {
        let slope = g.input("slope", DType::F32, [&rows, &columns]);
        let loss = (w.state.read(g) * slope).sum_all();
        update.apply(g, loss, &update.gradients(g, loss), step.read(g));
    });
    let module = autodiff::expand(&p.finish().expect("the program is legal")).expect("it has gradients");
    let call = |function: &str, inputs: Tensors, state: &Tensors| {
        interp::run(&module, function, &inputs, state, Rounding::Wide).expect("it runs").state
    };
    let seed = Tensors::from([("seed".into(), Tensor::scalar(DType::U32, 0.0))]);
    let state = call("init", seed, &Tensors::new());
    let slope = Tensor::new(DType::F32, &[rows, columns], gradient.to_vec()).expect("the sizes agree");
    let state = call("train", Tensors::from([("slope".into(), slope)]), &state);
    state["w"].data.iter().map(|x| x - value).collect()
}

#[track_caller]
fn close(have: &[f64], want: &[f64]) {
    let near = have.len() == want.len() && have.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(near, "{have:?} is not {want:?}");
}

#[test]
fn optimizers_take_their_first_step_as_by_hand() {
    let gradient = [3.0, -4.0, 0.0, 12.0];
    close(&first_change(Method::Sgd, 1.0, &gradient), &[-0.3, 0.4, 0.0, -1.2]);
    // With zero betas, AdamW moves by the sign of the gradient; the weight decay is 1 % of the rate.
    close(&first_change(Method::adamw(), 1.0, &gradient), &[-0.101, 0.099, -0.001, -0.101]);
    // Unfactored, Adafactor too; three of four elements move, which is below the limit of 1, and the rate is
    // relative to the root mean square of the parameter, 2.
    close(&first_change(Method::adafactor(), 2.0, &gradient), &[-0.2, 0.2, 0.0, -0.2]);
    // Factored: rows have mean squares 12.5 and 72, columns 4.5 and 80, all 42.25.
    let factored = Adafactor { factored_from: 2, clip: 100.0, relative: false, ..Adafactor::default() };
    let part = |g: f64, row: f64, column: f64| -0.1 * g / (row * column / 42.25f64).sqrt();
    let want = [part(3.0, 12.5, 4.5), part(-4.0, 12.5, 80.0), 0.0, part(12.0, 72.0, 80.0)];
    close(&first_change(Method::Adafactor(factored), 1.0, &gradient), &want);
}

#[test]
fn rates_rise_and_fall_as_their_schedule_says() {
    let rates = |decays: &[Decay]| {
        let schedule = LrSchedule { rate: 1.0, warmup: 4, decays: decays.to_vec(), steps: 12 };
        let p = Program::new("test");
        p.function("rate", |g| g.output("rate", schedule.rate(g.input("t", DType::F32, []))));
        let module = p.finish().expect("the program is legal");
        let at = |t: f64| {
            let inputs = Tensors::from([("t".into(), Tensor::scalar(DType::F32, t))]);
            let outcome = interp::run(&module, "rate", &inputs, &Tensors::new(), Rounding::Wide);
            number(&outcome.expect("it runs").outputs, "rate")
        };
        [1.0, 4.0, 8.0, 12.0, 16.0].map(at)
    };
    close(&rates(&[Decay::Constant]), &[0.25, 1.0, 1.0, 1.0, 1.0]);
    close(&rates(&[Decay::Rsqrt]), &[0.25, 1.0, 0.5f64.sqrt(), (1.0f64 / 3.0).sqrt(), 0.5]);
    close(&rates(&[Decay::Linear]), &[0.25, 1.0, 0.5, 0.0, 0.0]);
    close(&rates(&[Decay::Cosine]), &[0.25, 1.0, 0.5, 0.0, 0.0]);
    close(&rates(&[Decay::T5]), &[0.5, 0.5, 8f64.sqrt().recip(), 12f64.sqrt().recip(), 0.25]);
    close(&rates(&[Decay::Rsqrt, Decay::Linear]), &[0.25, 1.0, 0.5f64.sqrt() / 2.0, 0.0, 0.0]);
    close(&rates(&[Decay::T5, Decay::Cosine]), &[0.5, 0.5, 8f64.sqrt().recip() / 2.0, 0.0, 0.0]);
    close(&rates(&[]), &[0.25, 1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn numbers_that_make_no_model_are_named_at_the_models_line() {
    let switch =
        Switch { experts: 0, sparse_step: 0, capacity_factor: 0.0, jitter: 1.0, ..Switch::default() };
    let config = Config { heads: 0, buckets: 6, dropout: 1.0, switch: Some(switch), ..tiny() };
    let place = Site::new("model.rs", 9, 5, "");
    let mistakes = models::program(&config, &place).finish().expect_err("the numbers are wrong");
    let expect = [
        "model.rs:9:5: error: `heads` must be at least 1, got 0",
        "model.rs:9:5: error: `buckets` must be a multiple of 4 up to 1024 (half of them for each direction, \
         half of these for single distances), got 6",
        "model.rs:9:5: error: `dropout` must be in [0, 1), got 1",
        "model.rs:9:5: error: `experts` must be at least 1, got 0",
        "model.rs:9:5: error: `sparse_step` must be at least 1 (1 for all layers, 2 for every other), got 0",
        "model.rs:9:5: error: `capacity_factor` must be more than 0, got 0",
        "model.rs:9:5: error: `jitter` must be in [0, 1), got 1",
    ];
    assert_eq!(mistakes.to_string(), expect.join("\n"));
}

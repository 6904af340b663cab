//! Experts of several sizes in one layer: with equal sizes the layer is the plain one, and layouts do not
//! change a step.

use compiler::interp::{Tensor, Tensors};
use mesh::{DType, Dim};
use models::{
    Config, Method, Optimizer, Switch,
    optimizer::AdamW,
    switch::options::{EvalCapacity, RoutingMethod},
};
use tests::{
    steps::{evaluate, same, step, step_from},
    training::small_switch,
};

/// A model without noise, whose routers drop tokens.
fn config(sizes: &str, options: Switch) -> Config {
    let quiet = small_switch();
    let switch = Switch {
        experts: 8,
        expert_sizes: sizes.parse().unwrap(),
        capacity_factor: 0.75,
        min_capacity: 1,
        jitter: 0.0,
        expert_dropout: Some(0.0),
        ..options
    };
    let method = Method::AdamW(AdamW { epsilon: 1e-6, ..AdamW::default() });
    let optimizer = Optimizer { method, ..quiet.optimizer };
    Config {
        batch: 8,
        dropout: 0.0,
        switch: Some(switch),
        optimizer,
        encoder_layers: 1,
        decoder_layers: 1,
        ..quiet
    }
}

/// Divides every tensor with a dim `experts` into those of the sizes with `counts` experts each.
fn divided(state: &Tensors, counts: &[usize]) -> Tensors {
    let mut all = Tensors::new();
    for (name, x) in state {
        let Some(at) = x.dims().iter().position(|d| d.name == "experts") else {
            all.insert(name.clone(), x.clone());
            continue;
        };
        let inner: usize = x.dims()[at + 1..].iter().map(|d| d.size).product();
        let values: Vec<f64> = x.data.iter().copied().collect();
        let mut first = 0;
        for (i, count) in counts.iter().enumerate() {
            let rows = values.chunks(x.dims()[at].size * inner);
            let part = rows.flat_map(|row| row[first * inner..(first + count) * inner].iter().copied());
            let dims: Vec<Dim> = x
                .dims()
                .iter()
                .map(|d| if d.name == "experts" { d.sized(*count) } else { d.clone() })
                .collect();
            let part = Tensor::new(DType::F32, &dims, part.collect()).expect("the sizes agree");
            let (scope, leaf) = name.split_once("/ffn/").expect("experts are in feed-forward layers");
            all.insert(format!("{scope}/ffn/size_{i}/{leaf}").into(), part);
            first += count;
        }
    }
    all
}

#[test]
fn equal_sizes_are_the_plain_layer() {
    for options in [Switch::default(), Switch::top_2(8)] {
        let [plain, sized] = ["", "64x6,64x2"].map(|sizes| config(sizes, options.clone()));
        let (_, state) = step(&plain, "", "");
        let (says, after) = step_from(&plain, "", "", Some(&state));
        let (these, of_sized) = step_from(&sized, "", "", Some(&divided(&state, &[6, 2])));
        assert!(says["encoder_dropped"].data.sum() > 0.05, "some tokens are dropped");
        same("outputs", &says, &these);
        same("state", &divided(&after, &[6, 2]), &of_sized);
    }
}

#[test]
fn layouts_do_not_change_a_step() {
    let top_2 = Switch { routing: RoutingMethod::TopK, top_k: 2, ..Switch::default() };
    let config = config("48x4,96x4@1.5", top_2);
    let (says, state) = step(&config, "", "");
    for (mesh, zero) in [("expert=4,data=2", ""), ("data=2,expert=2,model=2", ""), ("data=8", "*:data")] {
        let (these, after) = step(&config, mesh, zero);
        same(mesh, &says, &these);
        same(mesh, &state, &after);
    }
}

/// A larger capacity of some experts drops fewer of their tokens, and no others.
#[test]
fn capacities_are_those_of_the_sizes() {
    let dropped =
        |sizes: &str| step(&config(sizes, Switch::default()), "", "").0["encoder_dropped"].data.sum();
    let [even, large, all] = ["64x4,64x4", "64x4,64x4@8", "64x4@8,64x4@8"].map(dropped);
    assert!(even > large && large > all && all == 0.0, "{even} {large} {all}");
}

#[test]
fn settings_of_sizes_are_checked() {
    let wrong = |sizes: &str, options: Switch| {
        let found = config(sizes, options).mistakes();
        found.iter().map(|m| m.message.clone()).collect::<Vec<_>>().join("; ")
    };
    let plain = Switch::default();
    assert_eq!(wrong("64x4,64x4", plain.clone()), "");
    let checks = [
        ("64by8", plain.clone(), "`expert_sizes` must be D_FFxEXPERTS for each size"),
        ("64x4,32x3", plain.clone(), "`experts` must be 7, the number of experts of `expert_sizes`, got 8"),
        ("64x8,0x0", plain.clone(), "`expert_sizes` must be numbers above 0, got 64x8,0x0"),
        (
            "64x4,32x4",
            Switch { dropless: true, ..plain.clone() },
            "`expert_sizes` does not work with `dropless`",
        ),
        ("64x4,32x4", Switch { expert_d_ff: 8, ..plain.clone() }, "does not work with `expert_d_ff`"),
        ("64x4,32x4@2", Switch { fixed_capacity: 8, ..plain }, "several capacities and `fixed_capacity`"),
    ];
    for (sizes, options, text) in checks {
        let found = wrong(sizes, options);
        assert!(found.contains(text), "{sizes}: {found}");
    }
}

/// Evaluation without dropped tokens takes the capacities that all sizes have in common.
#[test]
fn an_evaluation_can_drop_nothing() {
    let switch = Switch { eval_capacity: EvalCapacity::All, eval_capacity_factor: 0.25, ..Switch::default() };
    let config = config("48x4,96x4@1.5", switch);
    let evaluated = evaluate(&config, "");
    assert_eq!(evaluated["encoder_dropped"].data.sum(), 0.0);
    same("eight devices", &evaluated, &evaluate(&config, "expert=4,data=2"));
}

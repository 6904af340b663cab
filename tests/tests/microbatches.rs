//! Microbatches do not change a step: the same losses and gradients, on one and on eight devices.

use mesh::schedule::{AttentionMinor, Cast};
use models::{
    Config, Method, Optimizer,
    optimizer::AdamW,
    switch::options::{Balance, RoutingMethod, Scores},
};
use tests::{
    steps::{same, step},
    training::small_switch,
};

/// A model without noise, because each microbatch has separate random numbers; groups are sequences.
fn config(microbatches: usize) -> Config {
    let quiet = small_switch();
    let switch = quiet.switch.clone().map(|s| models::Switch { jitter: 0.0, expert_dropout: Some(0.0), ..s });
    let schedule = models::Schedule { microbatches, ..quiet.schedule };
    // Adam's update is the sign of a gradient near 0. Rounding decides that sign unless epsilon is larger.
    let method = Method::AdamW(AdamW { epsilon: 1e-6, ..AdamW::default() });
    let optimizer = Optimizer { method, ..quiet.optimizer };
    Config { batch: 16, schedule, dropout: 0.0, switch, optimizer, ..quiet }
}

#[test]
fn parts_add_up_to_the_whole() {
    let (says, state) = step(&config(1), "", "");
    assert!(says["loss"].data.sum() > 1.0 && says["grad_norm"].data.sum() > 1e-2);
    for parts in [2, 8] {
        let (these, after) = step(&config(parts), "", "");
        same(&format!("{parts} parts"), &says, &these);
        same(&format!("{parts} parts"), &state, &after);
    }
}

/// Groups of several sequences are the same groups in every microbatch. The capacity is too small for all
/// tokens, so that other groups would drop other tokens.
#[test]
fn groups_of_several_sequences_do_not_depend_on_microbatches() {
    for (group_size, parts) in [(64, 4), (32, 2)] {
        let [whole, split] = [1, parts].map(|microbatches| {
            let plain = config(microbatches);
            let switch =
                plain.switch.clone().map(|s| models::Switch { group_size, capacity_factor: 0.6, ..s });
            Config { switch, ..plain }
        });
        let ((says, _), (these, _)) = (step(&whole, "", ""), step(&split, "", ""));
        assert!(says["encoder_dropped"].data.sum() > 0.1, "groups of {group_size} tokens drop some");
        same(&format!("{parts} parts, groups of {group_size}"), &says, &these);
    }
}

#[test]
fn on_eight_devices_too() {
    let (says, state) = step(&config(1), "", "");
    for (mesh, zero) in [("expert=8", ""), ("data=2,expert=2,model=2", ""), ("data=2,expert=4", "*:data")] {
        let (these, after) = step(&config(2), mesh, zero);
        same(mesh, &says, &these);
        same(mesh, &state, &after);
    }
}

/// Biases for the choice fall where more than an even share of choices went, and rise elsewhere, by the same
/// rate; equally with microbatches and on eight devices.
#[test]
fn biases_move_against_the_load() {
    let with = |microbatches| {
        let plain = config(microbatches);
        let switch = plain.switch.clone().map(|s| models::Switch {
            routing: RoutingMethod::TopK,
            top_k: 2,
            scores: Scores::Sigmoid,
            balance_bias: 0.01,
            shared_experts: 1,
            expert_d_ff: 16,
            sparse_step: 2,
            ..s
        });
        Config { switch, encoder_layers: 4, ..plain }
    };
    let (says, state) = step(&with(1), "", "");
    let shares = &says["encoder_choices"].data;
    let biases = &state["encoder/block_1/ffn/balance_bias"].data;
    assert_eq!((shares.len(), biases.len()), (16, 16), "two sparse layers of 8 experts");
    for (share, bias) in shares.iter().zip(biases.iter()) {
        let expect = match share - 0.125 {
            excess if excess.abs() < 1e-6 => 0.0,
            excess => -0.01 * excess.signum(),
        };
        assert!((bias - expect).abs() < 1e-7, "{share}: {bias} is not {expect}");
    }
    assert!(biases.iter().any(|b| *b > 0.0) && biases.iter().any(|b| *b < 0.0), "{biases:?}");
    let wide = state["encoder/block_1/ffn/shared/wi"].data.len();
    assert_eq!(wide, 2 * 32 * 16, "layers, d_model, and one expert of 16");
    for (parts, mesh) in [(2, ""), (1, "data=2,expert=2,model=2"), (2, "expert=8")] {
        let (these, after) = step(&with(parts), mesh, "");
        same(mesh, &says, &these);
        same(mesh, &state, &after);
    }
}

/// The load-balancing loss over the whole batch is that of all microbatches together, and so is its
/// gradient; with a weight that lets it dominate the gradient of the router.
#[test]
fn balance_over_the_whole_batch_does_not_depend_on_microbatches() {
    let with = |balance, microbatches| {
        let plain = config(microbatches);
        let switch = plain.switch.clone().map(|s| models::Switch {
            routing: RoutingMethod::TopK,
            top_k: 2,
            balance,
            aux_loss: 1.0,
            router_z_loss: 0.01,
            ..s
        });
        Config { switch, encoder_layers: 1, decoder_layers: 1, ..plain }
    };
    let (says, state) = step(&with(Balance::Batch, 1), "", "");
    let (by_group, _) = step(&with(Balance::Group, 1), "", "");
    let apart = (says["aux_loss"].data.sum() - by_group["aux_loss"].data.sum()).abs();
    assert!(apart > 1e-3, "the balance of a group is another: {apart}");
    assert!(says.keys().eq(by_group.keys()), "both have the same metrics");
    for (parts, mesh) in [(4, ""), (1, "data=2,expert=2,model=2"), (2, "expert=8")] {
        let (these, after) = step(&with(Balance::Batch, parts), mesh, "");
        same(&format!("{parts} parts, {mesh}"), &says, &these);
        same(&format!("{parts} parts, {mesh}"), &state, &after);
    }
}

/// Schedule entries for attention layout, row sums and casts change only rounding.
#[test]
fn choices_for_tpus_change_nothing_but_rounding() {
    let plain = Config { precision: models::Precision::Selective, ..config(2) };
    let schedule =
        models::Schedule { attention_minor: AttentionMinor::Query, cast: Cast::Experts, ..plain.schedule };
    let tuned = Config { schedule, ..plain.clone() };
    let (says, _) = step(&plain, "", "");
    for mesh in ["", "expert=4,model=2"] {
        let (these, _) = step(&tuned, mesh, "");
        for name in ["loss", "grad_norm"] {
            let (a, b) = (says[name].data.sum(), these[name].data.sum());
            assert!((a - b).abs() <= 1e-2 * a.abs(), "{mesh}: {name}: {a} and {b}");
        }
    }
}

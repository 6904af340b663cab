//! Selective precision, read off the emitted HLO: nothing wide crosses an all-to-all, routers are float32,
//! forward and backward; and the same check finds that the other modes are not selective.

use compiler::{
    artefact::{self, Settings},
    hlo::{self, Platform},
    pipeline::{self, Placement},
};
use mesh::{Layout, Mesh, Module, Site};
use models::{Config, Precision, Switch, switch::options::RoutingMethod};
use proto::{precision_check, xla::HloModuleProto, xla::PrimitiveType};

/// A sparse model on eight devices with experts on different ones, each of its stacks a loop.
fn program(precision: Precision, switch: Switch) -> Module {
    let config = Config {
        batch: 8,
        input_length: 32,
        target_length: 16,
        d_model: 32,
        d_ff: 64,
        heads: 8,
        d_kv: 8,
        encoder_layers: 2,
        decoder_layers: 2,
        switch: Some(switch),
        precision,
        ..Config::default()
    };
    let mesh = Mesh::parse("data=2,expert=2,model=2").expect("the mesh is legal");
    let layout = Layout::parse(&config.layout()).expect("the model's layout is legal");
    let placement = Placement { mesh, layout, state_layout: Layout::default() };
    let module = models::program(&config, &Site::default()).finish().unwrap_or_else(|d| panic!("{d}"));
    let local = pipeline::compile(module, &placement, &mut pipeline::unobserved);
    local.unwrap_or_else(|d| panic!("{d}")).into_module()
}

fn emitted(local: &Module, function: &str) -> HloModuleProto {
    hlo::emit(local, function, Platform::of_target("cpu")).unwrap_or_else(|d| panic!("{d}")).module
}

/// Element types of exchanges: how many in evaluation, and in a training step, forward and backward.
fn exchanges(local: &Module) -> [Vec<PrimitiveType>; 2] {
    ["eval_step", "train_step"].map(|function| {
        precision_check::exchanged(&emitted(local, function)).into_iter().map(|(_, ty)| ty).collect()
    })
}

/// Whether all of a router is float32, in a training step.
fn routers_are_wide(local: &Module) -> bool {
    let of_routers = precision_check::of_routers(&emitted(local, "train_step"));
    // Two stacks, and in each the products forward, back to the input and back to the weights at least.
    assert!(of_routers.len() >= 6, "{of_routers:?}");
    of_routers.iter().all(|(_, ty)| *ty == PrimitiveType::F32)
}

#[test]
fn selective_precision_sends_bf16_and_routes_in_f32() {
    let ways = [RoutingMethod::Switch, RoutingMethod::TopK, RoutingMethod::ExpertChoice];
    for routing in ways {
        let local = program(Precision::Selective, Switch { routing, ..Switch::default() });
        let [forward, both] = exchanges(&local);
        // There and back in each stack; once more backward.
        assert_eq!(forward, [PrimitiveType::Bf16; 4], "{routing:?}");
        assert_eq!(both, [PrimitiveType::Bf16; 8], "{routing:?}");
        assert!(routers_are_wide(&local), "{routing:?}");
        for function in ["train_step", "eval_step"] {
            assert_eq!(precision_check::selective(&emitted(&local, function)), [], "{routing:?}");
        }
        artefact::build(&local, &Settings { target: "cpu".into(), ..Settings::default() })
            .unwrap_or_else(|d| panic!("{d}"));
    }
}

#[test]
fn the_other_modes_are_not_selective() {
    let wide = program(Precision::F32, Switch::default());
    assert_eq!(exchanges(&wide), [vec![PrimitiveType::F32; 4], vec![PrimitiveType::F32; 8]]);
    assert!(routers_are_wide(&wide));
    let narrow = program(Precision::Bf16, Switch::default());
    assert_eq!(exchanges(&narrow), [vec![PrimitiveType::Bf16; 4], vec![PrimitiveType::Bf16; 8]]);
    assert!(!routers_are_wide(&narrow));
    // Whoever says "selective" and is not gets no artefact.
    for mut liar in [wide, narrow] {
        let dtype = liar.meta.iter_mut().find(|entry| entry.key == *"dtype");
        dtype.expect("models state their precision").value = "selective".into();
        let mistake = artefact::build(&liar, &Settings { target: "cpu".into(), ..Settings::default() });
        let mistake = mistake.expect_err("it is not selective").to_string();
        assert!(mistake.contains("this is not selective precision"), "{mistake}");
    }
}

//! Selective precision in the emitted HLO: all-to-alls are bf16 and routers are f32, forward and backward.
//! The same check rejects the other precision modes.

use compiler::{
    artefact::{self, Settings},
    hlo::{self, Platform},
    pipeline::{self, Placement},
};
use mesh::{Layout, Mesh, Module, Site, schedule::Products};
use models::{Config, Precision, Switch, switch::options::RoutingMethod};
use proto::{
    precision_check,
    xla::{HloComputationProto, HloModuleProto, PrimitiveType},
};

/// A sparse model on eight devices with split experts; each stack is a loop.
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
    hlo::emit(local, function, Platform::of_target("cpu", false)).unwrap_or_else(|d| panic!("{d}")).module
}

/// Checks element types and numbers of all-to-alls in evaluation and in training, forward and backward.
fn exchanges(local: &Module) -> [Vec<PrimitiveType>; 2] {
    ["eval_step", "train_step"].map(|function| {
        precision_check::exchanged(&emitted(local, function)).into_iter().map(|(_, ty)| ty).collect()
    })
}

/// Checks that routers are f32 in a training step.
fn routers_are_wide(local: &Module) -> bool {
    let of_routers = precision_check::of_routers(&emitted(local, "train_step"));
    // Two stacks, each with at least the forward product and the products for both gradients.
    assert!(of_routers.len() >= 6, "{of_routers:?}");
    of_routers.iter().all(|(_, ty)| *ty == PrimitiveType::F32)
}

#[test]
fn selective_precision_sends_bf16_and_routes_in_f32() {
    let ways = [RoutingMethod::Switch, RoutingMethod::TopK, RoutingMethod::ExpertChoice];
    for routing in ways {
        let local = program(Precision::Selective, Switch { routing, ..Switch::default() });
        let [forward, both] = exchanges(&local);
        // Dispatch and combine in each stack, forward and backward.
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
fn processors_without_bf16_multiply_in_f32() {
    let check = |platform, products, narrow| {
        let mut local = program(Precision::Selective, Switch::default());
        local.schedule.products = products;
        let emitted = hlo::emit(&local, "train_step", platform).unwrap_or_else(|d| panic!("{d}"));
        assert_eq!(narrow_products(&emitted.module) > 0, narrow, "{platform:?} {products:?}");
        assert_eq!(precision_check::selective(&emitted.module), [], "{platform:?} {products:?}");
    };
    check(Platform::Cpu { lacks_bf16: false }, Products::Auto, true);
    check(Platform::Cpu { lacks_bf16: true }, Products::Auto, false);
    check(Platform::Cpu { lacks_bf16: true }, Products::Bf16, true);
    check(Platform::Cpu { lacks_bf16: false }, Products::F32, false);
    check(Platform::Accelerator, Products::F32, true);
}

/// The number of dots with a bf16 operand.
fn narrow_products(module: &HloModuleProto) -> usize {
    let narrow = |computation: &HloComputationProto| {
        let dtype = |id: &i64| {
            let operand = computation.instructions.iter().find(|inst| inst.id == *id);
            operand.and_then(|inst| inst.shape.as_ref()).map(|shape| shape.element_type())
        };
        let dots = computation.instructions.iter().filter(|inst| inst.opcode == "dot");
        dots.filter(|dot| dot.operand_ids.iter().any(|id| dtype(id) == Some(PrimitiveType::Bf16))).count()
    };
    module.computations.iter().map(narrow).sum()
}

#[test]
fn the_other_modes_are_not_selective() {
    let wide = program(Precision::F32, Switch::default());
    assert_eq!(exchanges(&wide), [vec![PrimitiveType::F32; 4], vec![PrimitiveType::F32; 8]]);
    assert!(routers_are_wide(&wide));
    let narrow = program(Precision::Bf16, Switch::default());
    assert_eq!(exchanges(&narrow), [vec![PrimitiveType::Bf16; 4], vec![PrimitiveType::Bf16; 8]]);
    assert!(!routers_are_wide(&narrow));
    // A program that claims to be selective and is not cannot be compiled.
    for mut liar in [wide, narrow] {
        let dtype = liar.meta.iter_mut().find(|entry| entry.key == *"dtype");
        dtype.expect("models state their precision").value = "selective".into();
        let mistake = artefact::build(&liar, &Settings { target: "cpu".into(), ..Settings::default() });
        let mistake = mistake.expect_err("it is not selective").to_string();
        assert!(mistake.contains("`meta dtype` is `selective`, but"), "{mistake}");
    }
}

//! A Switch layer with its gradient, as a case.
//!
//! Inputs and parameters are multiples of powers of two, so that the logits of the router and the inputs of
//! relu are exact: every correct backend then chooses the same experts, in any order of sums.

use crate::generate::{Case, rng::Rng};
use compiler::interp::{Tensor, Tensors};
use mesh::{DType, Dim, Layout, Mesh, Module, Name, Type, dsl::Program};
use models::{
    Activation, Config, Context, Switch, Weights,
    switch::{SwitchFfn, options::Exploration},
};
use std::collections::BTreeMap;

/// The function's name.
const LAYER: &str = "layer";

/// Returns the cases of a layer on a mesh: with the experts split over the last axis, so that tokens are
/// exchanged; with their hidden layer split over it, so that their outputs are summed; and with nothing split
/// if the mesh has one device.
pub fn cases(seed: u64, mesh: &Mesh) -> Vec<Case> {
    let axes: Vec<(&str, usize)> = mesh.axes().iter().map(|a| (a.name.as_str(), a.size)).collect();
    let Some(((last, parts), rest)) = axes.split_last() else {
        return vec![case(seed, mesh, 1, "")];
    };
    let joined = |axes: &[(&str, usize)]| axes.iter().map(|a| a.0).collect::<Vec<_>>().join("+");
    let rule = |dim: &str, axes: &[(&str, usize)]| match axes {
        [] => String::new(),
        _ => format!("{dim}:{},", joined(axes)),
    };
    let exchanged = format!("{}{}experts:{last}", rule("batch", &axes), rule("expert_batch", rest));
    let summed = format!("{}d_ff:{last}", rule("batch", rest));
    vec![case(seed, mesh, *parts, &exchanged), case(seed, mesh, *parts, &summed)]
}

/// Returns the case of a layer whose sizes divide into `parts`, and whose batch divides by all devices.
fn case(seed: u64, mesh: &Mesh, parts: usize, layout: &str) -> Case {
    let sizes = Sizes {
        batch: Dim::new("batch", 2 * mesh.devices()),
        length: Dim::new("length", 8),
        d_model: Dim::new("d_model", 8),
        d_ff: Dim::new("d_ff", 4 * parts),
        experts: if parts < 4 { 4_usize.next_multiple_of(parts) } else { parts },
    };
    let module = program(&sizes);
    let layout = Layout::parse(layout).expect("it names dims of the layer and axes of the mesh");
    let mut rng = Rng::new(seed);
    let function = &module.functions[0];
    let types = function.inputs.iter().zip(function.body.param_types());
    let inputs: Tensors = types.map(|(name, ty)| (name.clone(), tensor(&mut rng, name, ty))).collect();
    let states = module.env.states.iter();
    let state = states.map(|(_, s)| (s.name.clone(), tensor(&mut rng, &s.name, &s.ty))).collect();
    let inputs = BTreeMap::from([(Name::from(LAYER), inputs)]);
    Case { seed, module, mesh: mesh.clone(), layout, state_layout: Layout::default(), inputs, state }
}

struct Sizes {
    batch: Dim,
    length: Dim,
    d_model: Dim,
    d_ff: Dim,
    experts: usize,
}

/// Returns the program: `layer(x, tokens, cotangent)` gives `y`, the router's losses and metrics, and the
/// gradients of their weighted sum with respect to `x` and all parameters.
fn program(sizes: &Sizes) -> Module {
    let Sizes { batch, length, d_model, d_ff, experts } = sizes;
    let options = Switch {
        experts: *experts,
        exploration: Exploration::Argmax,
        // Some tokens are dropped.
        eval_capacity_factor: 1.0,
        min_capacity: 1,
        ..Switch::default()
    };
    let config = Config { dropout: 0.0, ..Config::default() };
    let p = Program::new("switch_layer");
    let weights = Weights::new(&p);
    let ffn = SwitchFfn::new(&weights, d_model, d_ff, Activation::Relu, &options);
    p.function(LAYER, |g| {
        let x = g.input("x", DType::F32, [batch, length, d_model]);
        let tokens = g.input("tokens", DType::S32, [batch, length]);
        let cotangent = g.input("cotangent", DType::F32, [batch, length, d_model]);
        let cx = Context::new(g, &config, None).with_tokens(tokens);
        let (y, metrics) = ffn.forward(&cx, x, batch, length);
        let losses = metrics.aux * options.aux_loss + metrics.z * 1e-3;
        let total = losses + (y * cotangent).sum_all();
        let all = weights.all();
        let values: Vec<_> = [x].into_iter().chain(all.iter().map(|w| w.state.read(g))).collect();
        let names = ["x".to_owned()].into_iter().chain(all.iter().map(|w| w.state.name().to_string()));
        g.output("y", y);
        for (name, metric) in [
            ("load", metrics.load),
            ("dropped", metrics.dropped),
            ("entropy", metrics.entropy),
            ("aux", metrics.aux),
            ("z", metrics.z),
        ] {
            g.output(name, metric);
        }
        for (name, gradient) in names.zip(g.grad(total, &values)) {
            g.output(format!("grad_{name}"), gradient);
        }
    });
    let mut module = p.finish().expect("the layer is legal");
    // The initial values are random, and those of this case are exact.
    module.functions.retain(|f| f.name == *LAYER);
    module
}

/// Returns random values of an input or parameter: floats as multiples of powers of two, small tokens of
/// which some are padding.
fn tensor(rng: &mut Rng, name: &Name, ty: &Type) -> Tensor {
    let dims: Vec<Dim> = ty.logical().cloned().collect();
    let number = |rng: &mut Rng| match (ty.dtype, name.as_str()) {
        (DType::F32 | DType::Bf16, "x" | "cotangent") => rng.between(-48, 48) as f64 / 16.0,
        (DType::F32 | DType::Bf16, "router") => rng.between(-16, 16) as f64 / 64.0,
        (DType::F32 | DType::Bf16, _) => rng.between(-48, 48) as f64 / 128.0,
        (DType::S32 | DType::U32 | DType::Pred, _) => rng.between(0, 3) as f64,
    };
    let elements = (0..ty.elements()).map(|_| number(rng)).collect();
    Tensor::new(ty.dtype, &dims, elements).expect("one number was drawn for each element")
}

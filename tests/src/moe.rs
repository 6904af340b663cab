//! A program with one sparse layer: its output, losses, assignment and gradients, in the interpreter and on
//! the plugin, on one device or many.

use crate::plugin;
use compiler::{
    interp::{self, Precision as Rounding, Tensor, Tensors},
    pipeline::{self, Placement},
};
use mesh::{
    DType, Dim, Layout, Mesh, Module,
    dsl::{Init, Program, Rng},
    verify::Local,
};
use models::{Activation, Config, Context, Precision, Schedule, Switch, Weights, switch::SwitchFfn};

/// A layer and the sizes of its inputs.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The options of the layer.
    pub options: Switch,
    /// Number of sequences.
    pub batch: usize,
    /// Tokens per sequence.
    pub length: usize,
    /// Size of `d_model`.
    pub d_model: usize,
    /// Size of `d_ff`.
    pub d_ff: usize,
    /// True for a training step.
    pub train: bool,
    /// Element types.
    pub precision: Precision,
    /// The schedule.
    pub schedule: Schedule,
}

/// The backend of a layer.
#[derive(Clone, Copy, Debug)]
pub enum Device {
    /// The reference interpreter.
    Interpreter,
    /// The CPU plugin.
    Plugin,
}

impl Layer {
    /// Returns the dims of the inputs.
    pub fn dims(&self) -> [Dim; 3] {
        [Dim::new("batch", self.batch), Dim::new("length", self.length), Dim::new("d_model", self.d_model)]
    }

    /// Returns the dims of the parameters: `router`, `wi` and `wo`, all as `[in, out]`, and those that
    /// options add.
    pub fn parameters(&self) -> Vec<(&'static str, Vec<Dim>)> {
        let experts = self.options.experts;
        let [_, _, d_model] = self.dims();
        let shared_d_model = d_model.clone();
        let (of_router, of_layer) = (Dim::new("experts_all", experts), Dim::new("experts", experts));
        let d_ff = Dim::new("d_ff", self.d_ff);
        let bias = self.options.router_bias.then(|| ("router_bias", vec![of_router.clone()]));
        let matrices = [
            ("router", vec![d_model.clone(), of_router]),
            ("wi", vec![of_layer.clone(), d_model.clone(), d_ff.clone()]),
            ("wo", vec![of_layer, d_ff, d_model]),
        ];
        let without_router = usize::from(self.options.routing.is_fixed());
        let biased = self.options.balance_bias > 0.0;
        let of_choice = biased.then(|| ("balance_bias", vec![Dim::new("experts_all", experts)]));
        // A dense layer stores both matrices with d_model first.
        let wide = Dim::new("d_ff", self.options.shared_experts * self.d_ff);
        let shared =
            ["shared/wi", "shared/wo"].map(|name| (name, vec![shared_d_model.clone(), wide.clone()]));
        let shared = shared.into_iter().filter(|_| self.options.shared_experts > 0);
        matrices.into_iter().skip(without_router).chain(bias).chain(of_choice).chain(shared).collect()
    }

    /// Returns the program: `layer(seed, x, tokens, cotangent)` gives `y`, the weighted `loss`, `dispatch`
    /// and `combine` (`[batch, tokens, experts, capacity]`), the router's metrics, and the gradients of
    /// `loss + Σ y · cotangent` as `grad_x`, `grad_router`, `grad_wi` and `grad_wo`, as far as the layer has
    /// them.
    #[track_caller]
    pub fn program(&self) -> Module {
        let p = Program::new("layer");
        let (precision, schedule) = (self.precision, self.schedule);
        let config = Config { dropout: 0.0, precision, schedule, ..Config::default() };
        let weights = Weights::new(&p);
        let [batch, length, d_model] = &self.dims();
        let d_ff = Dim::new("d_ff", self.d_ff);
        let ffn = SwitchFfn::new(&weights, d_model, &d_ff, Activation::Relu, &self.options);
        p.counter("unused", DType::S32, Init::Zeros);
        p.function("layer", |g| {
            let seed = g.input("seed", DType::U32, []);
            let x = g.input("x", DType::F32, [batch, length, d_model]);
            let tokens = g.input("tokens", DType::S32, [batch, length]);
            let cotangent = g.input("cotangent", DType::F32, [batch, length, d_model]);
            let rng = self.train.then(|| Rng::new(seed, seed));
            let cx = Context::new(g, &config, rng).with_tokens(tokens);
            let (y, routed) = ffn.routed(&cx, x.cast(cx.dtype()), batch, length);
            let y = y.cast(DType::F32);
            let m = &routed.metrics;
            let aux = m.aux * self.options.aux_loss;
            let loss = if self.train { aux + m.z * self.options.z_weight() } else { aux };
            let total = loss + (y * cotangent).sum_all();
            let all = weights.all();
            let named = |name: &str| all.iter().find(|w| &**w.state.name() == name).map(|w| w.state.read(g));
            let known = [("grad_x", Some(x)), ("grad_router", named("router"))];
            let known = known.into_iter().chain([("grad_wi", named("wi")), ("grad_wo", named("wo"))]);
            let (names, of): (Vec<_>, Vec<_>) = known.filter_map(|(name, x)| Some((name, x?))).unzip();
            let gradients = g.grad(total, &of);
            g.output("y", y);
            g.output("loss", loss);
            let (dispatch, combine) = routed.routing.masks(&routed.token);
            let capacity = Dim::new("capacity", routed.routing.capacity);
            let experts = Dim::new("experts_all", self.options.experts);
            for (name, mask) in [("dispatch", dispatch), ("combine", combine)] {
                g.output(name, mask.split("slots", [&experts, &capacity]));
            }
            for (name, metric) in
                [("load", m.load), ("dropped", m.dropped), ("entropy", m.entropy), ("aux", m.aux), ("z", m.z)]
            {
                g.output(name, metric);
            }
            if let Some(choices) = m.choices {
                g.output("choices", choices);
            }
            for (name, gradient) in names.into_iter().zip(gradients) {
                g.output(name, gradient);
            }
        });
        p.finish().unwrap_or_else(|d| panic!("the layer has mistakes:\n{d}"))
    }

    /// Returns the program of one device.
    #[track_caller]
    pub fn local(&self, mesh: &str, layout: &str) -> Local {
        let mesh = Mesh::parse(mesh).expect("the test's mesh is legal");
        let layout = Layout::parse(layout).expect("the test's layout is legal");
        let placement = Placement { mesh, layout, state_layout: Layout::default() };
        let mut module = self.program();
        module.functions.retain(|f| f.name == *"layer");
        let local = pipeline::compile(module, &placement, &mut pipeline::unobserved);
        local.unwrap_or_else(|d| panic!("{self:?} on {placement:?}:\n{d}"))
    }

    /// Returns the outputs for `inputs` and the parameters `state`.
    #[track_caller]
    pub fn run(&self, on: Device, mesh: &str, layout: &str, inputs: &Tensors, state: &Tensors) -> Tensors {
        let local = self.local(mesh, layout);
        match on {
            Device::Interpreter => {
                let outcome = interp::run(local.module(), "layer", inputs, state, Rounding::Normal);
                outcome.unwrap_or_else(|d| panic!("{d}")).outputs
            }
            Device::Plugin => {
                let outcome = plugin::run(local.module(), "layer", inputs, state);
                outcome.unwrap_or_else(|d| panic!("{d}")).outputs
            }
        }
    }

    /// Makes a float tensor with the dims of the inputs.
    pub fn activations(&self, elements: Vec<f64>) -> Tensor {
        Tensor::new(DType::F32, &self.dims(), elements).expect("as many elements as the dims have")
    }
}

/// Returns the largest difference relative to the largest element of `want`. `names` is the order of dims of
/// `want`; empty means the order of `have`.
pub fn error(have: &Tensor, names: &[&str], want: &[f64]) -> f64 {
    let names: Vec<mesh::Name> = match names.is_empty() {
        true => have.names.clone(),
        false => names.iter().map(|n| (*n).into()).collect(),
    };
    let have = have.ordered(&names).elements();
    assert_eq!(have.len(), want.len(), "{names:?}");
    let most = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let apart = have.iter().zip(want).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
    let apart = apart.fold(0.0f64, |worst, x| if x.is_nan() { f64::NAN } else { worst.max(x) });
    if apart == 0.0 { 0.0 } else { apart / most }
}

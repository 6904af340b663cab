//! Sparse layers against results of Mesh TensorFlow: `mtf_moe` of the reference folder.
//!
//! The folder is `../shared/oracle` beside the repository, or `MESH_ORACLE`. It is not part of the
//! repository; without it the tests are skipped with a message.

use compiler::interp::{Tensor, Tensors};
use mesh::DType;
use models::{
    Dispatch, Precision, Schedule, Switch,
    switch::options::{Exploration, SecondExpertPolicy},
};
use safetensors::SafeTensors;
use serde_json::Value;
use std::{fs, path::PathBuf};
use tests::{
    moe::{Device, Layer, error},
    oracle,
};

/// The tolerance, relative to the largest element of a tensor.
const NEAR: f64 = 1e-5;

/// A layer with the results of Mesh TensorFlow.
struct Case {
    name: String,
    layer: Layer,
    inputs: Tensors,
    state: Tensors,
    file: Vec<u8>,
}

/// Returns all cases; none if the folder does not exist.
fn cases() -> Vec<Case> {
    let Some(folder) = oracle::folder() else { return Vec::new() };
    let folder = folder.join("mtf_moe");
    let entries = fs::read_dir(&folder).expect("the folder can be listed");
    let mut names: Vec<PathBuf> = entries.map(|e| e.expect("an entry can be read").path()).collect();
    names.sort();
    assert!(names.len() >= 5, "{names:?}");
    names.into_iter().map(case).collect()
}

fn floats(file: &[u8], name: &str) -> Vec<f64> {
    let file = SafeTensors::deserialize(file).expect("the file is safetensors");
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(view.dtype(), safetensors::Dtype::F32, "{name}");
    let words = view.data().chunks_exact(4);
    words.map(|w| f64::from(f32::from_le_bytes(w.try_into().expect("four bytes")))).collect()
}

fn shape(file: &[u8], name: &str) -> Vec<usize> {
    let file = SafeTensors::deserialize(file).expect("the file is safetensors");
    file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).shape().to_vec()
}

fn options(meta: &Value) -> Switch {
    let hparams = &meta["hparams"];
    let number = |key: &str| hparams[key].as_f64().unwrap_or_else(|| panic!("`{key}` is a number"));
    let size = |key: &str| hparams[key].as_u64().unwrap_or_else(|| panic!("`{key}` is a size")) as usize;
    let policy = |key: &str| match hparams[key].as_str() {
        Some("all") => SecondExpertPolicy::All,
        Some("none") => SecondExpertPolicy::None,
        Some("threshold") => SecondExpertPolicy::Threshold,
        other => panic!("no case has the policy {other:?}"),
    };
    let base = match hparams["gating"].as_str() {
        Some("switch") => Switch::default(),
        Some("top_2") => Switch::top_2(8),
        other => panic!("no case has the gating {other:?}"),
    };
    assert_eq!(hparams["switch_policy_train"], "argmax");
    Switch {
        experts: size("num_experts"),
        exploration: Exploration::Argmax,
        second_policy: policy("second_policy_train"),
        eval_second_policy: policy("second_policy_eval"),
        second_threshold: number("second_threshold_train"),
        eval_second_threshold: number("second_threshold_eval"),
        second_place_loss: hparams["use_second_place_loss"].as_bool().expect("it is said"),
        capacity_factor: number("capacity_factor_train"),
        eval_capacity_factor: number("capacity_factor_eval"),
        min_capacity: size("min_expert_capacity"),
        group_size: size("group_size"),
        ignore_padding: meta["padded"].as_bool().expect("it is said"),
        aux_loss: number("loss_coef"),
        router_z_loss: hparams["z_loss"].as_f64().unwrap_or(0.0),
        router_z_scaled: true,
        ..base
    }
}

fn case(path: PathBuf) -> Case {
    let meta = fs::read(path.join("meta.json")).expect("a case has a meta.json");
    let meta: Value = serde_json::from_slice(&meta).expect("it is JSON");
    let file = fs::read(path.join("expected.safetensors")).expect("a case has its tensors");
    let (x, wi) = (shape(&file, "inputs"), shape(&file, "param.wi"));
    let layer = Layer {
        options: options(&meta),
        batch: x[0],
        length: x[1],
        d_model: x[2],
        d_ff: wi[2],
        train: meta["train"].as_bool().expect("it is said"),
        precision: Precision::F32,
        schedule: Schedule::default(),
    };
    let [batch, length, _] = layer.dims();
    let real = if layer.options.ignore_padding {
        floats(&file, "nonpadding")
    } else {
        vec![1.0; layer.batch * layer.length]
    };
    let inputs = Tensors::from([
        ("seed".into(), Tensor::scalar(DType::U32, 0.0)),
        ("x".into(), layer.activations(floats(&file, "inputs"))),
        ("tokens".into(), Tensor::new(DType::S32, &[batch, length], real).expect("one for each token")),
        ("cotangent".into(), layer.activations(floats(&file, "cotangent"))),
    ]);
    let state = layer.parameters().into_iter().map(|(name, dims)| {
        let theirs = if name == "router" { "gate" } else { name };
        let tensor = Tensor::new(DType::F32, &dims, floats(&file, &format!("param.{theirs}")));
        (name.into(), tensor.unwrap_or_else(|e| panic!("{name}: {e}")))
    });
    let state = state.collect();
    let name = meta["case"].as_str().expect("a case has a name").to_owned();
    Case { name, layer, inputs, state, file }
}

/// Our name, the dims in their order, and their name.
const TENSORS: [(&str, &[&str], &str); 8] = [
    ("y", &["batch", "length", "d_model"], "output"),
    ("loss", &[], "loss"),
    ("dispatch", &["batch", "TOKEN", "experts_all", "capacity"], "dispatch"),
    ("combine", &["batch", "TOKEN", "experts_all", "capacity"], "combine"),
    ("grad_x", &["batch", "length", "d_model"], "grad.inputs"),
    ("grad_router", &["d_model", "experts_all"], "grad.gate"),
    ("grad_wi", &["experts", "d_model", "d_ff"], "grad.wi"),
    ("grad_wo", &["experts", "d_ff", "d_model"], "grad.wo"),
];

impl Case {
    /// Number of groups, which a layout can split over `data`.
    fn groups(&self) -> usize {
        self.layer.options.groups(self.layer.batch, self.layer.length).0
    }

    #[track_caller]
    fn check(&self, dispatch: Dispatch, on: Device, mesh: &str, layout: &str) {
        let schedule = Schedule { dispatch, ..self.layer.schedule };
        let layer = Layer { schedule, ..self.layer.clone() };
        let outputs = layer.run(on, mesh, layout, &self.inputs, &self.state);
        let token = if self.groups() == layer.batch { "length" } else { "group" };
        for (ours, dims, theirs) in TENSORS {
            let dims: Vec<&str> = dims.iter().map(|d| if *d == "TOKEN" { token } else { d }).collect();
            let apart = error(&outputs[ours], &dims, &floats(&self.file, theirs));
            let place = format!("{} by {dispatch:?} on {on:?} {mesh} {layout}: {ours}", self.name);
            assert!(apart <= NEAR, "{place} is {apart:e} off");
            if theirs == "dispatch" {
                assert_eq!(apart, 0.0, "{place}: the same tokens in the same slots");
            }
        }
    }
}

const BOTH: [Dispatch; 2] = [Dispatch::Permute, Dispatch::Einsum];

#[test]
fn on_one_device_in_the_interpreter() {
    for case in cases() {
        BOTH.into_iter().for_each(|dispatch| case.check(dispatch, Device::Interpreter, "", ""));
    }
}

#[test]
fn on_one_device_of_the_plugin() {
    for case in cases() {
        BOTH.into_iter().for_each(|dispatch| case.check(dispatch, Device::Plugin, "", ""));
    }
}

/// Meshes of eight devices with layouts and the number of groups that they need.
const PLACES: [(usize, &str, &str); 7] = [
    (1, "model=8", "d_ff:model"),
    (1, "model=8", "d_model:model"),
    (1, "expert=2,model=4", "experts:expert,d_ff:model"),
    (2, "expert=2,model=4", "batch:expert,experts:expert,d_ff:model"),
    (2, "data=2,expert=2,model=2", "batch:data,expert_batch:data,experts:expert,d_ff:model"),
    (4, "data=2,expert=2,model=2", "batch:data+expert,expert_batch:data,experts:expert,d_ff:model"),
    (4, "expert=4,model=2", "batch:expert,experts:expert,d_model:model"),
];

#[test]
fn on_eight_devices_in_the_interpreter() {
    for case in cases() {
        let places = PLACES.iter().filter(|(groups, _, _)| case.groups().is_multiple_of(*groups));
        for (_, mesh, layout) in places {
            BOTH.into_iter().for_each(|dispatch| case.check(dispatch, Device::Interpreter, mesh, layout));
        }
    }
}

#[test]
fn on_eight_devices_of_the_plugin() {
    for case in cases() {
        let places = PLACES.iter().filter(|(groups, _, _)| *groups == case.groups());
        for ((_, mesh, layout), dispatch) in places.zip(BOTH.into_iter().cycle()) {
            case.check(dispatch, Device::Plugin, mesh, layout);
        }
    }
}

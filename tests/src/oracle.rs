//! Reference models and numbers of other systems.
//!
//! They are in `../shared/oracle` beside the repository, or in `MESH_ORACLE`. The folder is not part of the
//! repository; tests that need it are skipped with a message if it is missing.

use crate::say_skipped;
use models::{Activation, Config, Precision, Switch, hf};
use pjrt::ElementType;
use runtime::HostTensor;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// A model with inputs and expected outputs.
#[derive(Debug)]
pub struct Case {
    /// The name of its folder.
    pub name: String,
    /// Its configuration.
    pub json: Value,
    /// Tensors by name: parameters, inputs and expected outputs.
    pub tensors: [BTreeMap<String, HostTensor>; 3],
}

/// Returns the folder, or `None` if it does not exist.
pub fn folder() -> Option<PathBuf> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/oracle"));
    let named = std::env::var_os("MESH_ORACLE").map(PathBuf::from);
    let path = named.clone().unwrap_or_else(beside).join("public");
    match path.is_dir() {
        true => Some(path),
        false if named.is_some() => panic!("MESH_ORACLE: there is no {}", path.display()),
        false => {
            say_skipped(&format!("there is no {}; set MESH_ORACLE to the reference folder", path.display()));
            None
        }
    }
}

/// Reads a case of the folder; `None` if the folder does not exist.
#[track_caller]
pub fn case(name: &str) -> Option<Case> {
    let dir = folder()?.join(name);
    let read = |file: &str| fs::read(dir.join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
    let json = serde_json::from_slice(&read("config.json")).expect("the configuration is JSON");
    let tensors = ["model", "inputs", "expected"].map(|file| tensors(&read(&format!("{file}.safetensors"))));
    Some(Case { name: name.to_owned(), json, tensors })
}

fn tensors(bytes: &[u8]) -> BTreeMap<String, HostTensor> {
    let file = SafeTensors::deserialize(bytes).expect("the reference is in safetensors");
    let tensor = |view: safetensors::tensor::TensorView<'_>| {
        let dtype = match view.dtype() {
            Dtype::F32 => ElementType::F32,
            Dtype::BF16 => ElementType::Bf16,
            Dtype::I32 => ElementType::S32,
            other => panic!("the reference has no tensors of {other:?}"),
        };
        HostTensor { dtype, dims: view.shape().to_vec(), bytes: view.data().to_vec() }
    };
    file.tensors().into_iter().map(|(name, view)| (name, tensor(view))).collect()
}

impl Case {
    /// Returns the number of sequences and the input length.
    pub fn sizes(&self) -> (usize, usize) {
        let ids = &self.tensors[1]["input_ids"];
        (ids.dims[0], ids.dims[1])
    }

    /// Returns our configuration for `batch` sequences.
    pub fn config(&self, batch: usize, target_length: usize) -> Config {
        let size = |key: &str| self.json[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize;
        let capacity = self.json["expert_capacity"].as_u64();
        let switch = capacity.map(|capacity| Switch {
            sparse_step: size("num_layers") / size("num_sparse_encoder_layers"),
            decoder_sparse_step: size("num_decoder_layers") / size("num_sparse_decoder_layers"),
            ..Switch::hugging_face(size("num_experts"), capacity as usize)
        });
        Config {
            name: self.name.clone(),
            batch,
            input_length: self.sizes().1,
            target_length,
            vocab: size("vocab_size"),
            d_model: size("d_model"),
            d_ff: size("d_ff"),
            heads: size("num_heads"),
            d_kv: size("d_kv"),
            encoder_layers: size("num_layers"),
            decoder_layers: size("num_decoder_layers"),
            activation: match self.json["feed_forward_proj"].as_str() {
                Some("gated-gelu") => Activation::GatedGelu,
                Some(_) | None => Activation::Relu,
            },
            tied: self.json["tie_word_embeddings"].as_bool().unwrap_or(true),
            buckets: size("relative_attention_num_buckets"),
            max_distance: size("relative_attention_max_distance"),
            epsilon: self.json["layer_norm_epsilon"].as_f64().expect("a number"),
            switch,
            dropout: 0.0,
            precision: match self.json["dtype"].as_str() {
                Some("bfloat16") => Precision::Selective,
                Some(_) | None => Precision::F32,
            },
            ..Config::default()
        }
    }

    /// Returns our parameters.
    pub fn parameters(&self, config: &Config) -> BTreeMap<String, HostTensor> {
        let mut all: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
        for part in hf::tensors(config).expect("theirs has such models") {
            let theirs = self.tensors[0][&part.name].to_f64().expect("floats");
            let sizes: Vec<usize> = part.dims.iter().map(|d| d.1).collect();
            let whole = sizes.iter().product();
            let (_, ours) = all.entry(part.param).or_insert_with(|| (sizes.clone(), vec![0.0; whole]));
            // The position in our layout; theirs may be transposed.
            let columns = if part.transposed { part.sizes[0] } else { 1 };
            let rows = theirs.len() / columns;
            for n in 0..theirs.len() {
                let from = if part.transposed { n % columns * rows + n / columns } else { n };
                let (mut rest, mut index, mut stride) = (n, 0, 1);
                for d in (0..sizes.len()).rev() {
                    index += (part.start[d] + rest % part.part[d]) * stride;
                    rest /= part.part[d];
                    stride *= sizes[d];
                }
                ours[index] = theirs[from] as f32;
            }
        }
        all.into_iter().map(|(name, (sizes, values))| (name, HostTensor::f32(&sizes, &values))).collect()
    }

    /// Returns the token ids of the inputs for `batch` rows, with padding by the mask. Rows beyond those of
    /// the case are empty.
    pub fn inputs(&self, batch: usize) -> HostTensor {
        let [ids, mask] =
            ["input_ids", "attention_mask"].map(|n| self.tensors[1][n].to_f64().expect("numbers"));
        let mut rows: Vec<i32> = ids.iter().zip(mask).map(|(id, real)| (id * real) as i32).collect();
        let (_, length) = self.sizes();
        rows.resize(batch * length, 0);
        HostTensor::s32(&[batch, length], &rows)
    }
}

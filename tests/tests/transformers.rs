//! Folders that transformers 4.57 and 5.24 write, imported and run by the interpreter, against the logits and
//! greedy tokens of the version that wrote them.
//!
//! `tests/transformers/folders.py` writes the cases. They have no weights: every element is a function of
//! the tensor's name and the element's index, computed here as there.

use compiler::interp::{self, Precision, Tensor, Tensors};
use interchange::hf::{Folder, export::export, import};
use mesh::{DType, Dim, Site};
use models::{Config, probe};
use runtime::checkpoint::{Checkpoint, TOKENIZER};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

/// A description of a folder.
pub(crate) struct Case(Value);

impl Case {
    pub(crate) fn read(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("transformers/cases").join(format!("{name}.json"));
        let text = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self(serde_json::from_slice(&text).expect("the case is JSON"))
    }

    /// Returns the case with another description.
    pub(crate) fn edited(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        edit(&mut self.0);
        self
    }

    /// Returns an entry of the description.
    pub(crate) fn value(&self, key: &str) -> &Value {
        &self.0[key]
    }

    /// Returns rows of tokens among the inputs.
    pub(crate) fn inputs(&self, key: &str) -> Vec<Vec<f64>> {
        self.rows(&self.0["inputs"][key])
    }

    /// Writes the folder.
    pub(crate) fn write(&self, dir: &Path) {
        let json = |value: &Value| serde_json::to_vec(value).expect("it was JSON");
        fs::write(dir.join("config.json"), json(&self.0["config"])).expect("the folder is ours");
        if !self.0["tokenizer_config"].is_null() {
            let text = json(&self.0["tokenizer_config"]);
            fs::write(dir.join("tokenizer_config.json"), text).expect("the folder is ours");
        }
        let double = self.0["dtype"] == "float64";
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = self.0["tensors"]
            .as_object()
            .expect("tensors have names")
            .iter()
            .map(|(name, sizes)| {
                let sizes: Vec<usize> = numbers(sizes).iter().map(|n| *n as usize).collect();
                let like = self.0["same_as"][name].as_str().unwrap_or(name);
                let elements = elements(like, sizes.iter().product());
                let bytes = elements.flat_map(|x| match double {
                    true => x.to_le_bytes().to_vec(),
                    false => (x as f32).to_le_bytes().to_vec(),
                });
                (name.clone(), sizes, bytes.collect())
            })
            .collect();
        let dtype = if double { Dtype::F64 } else { Dtype::F32 };
        let views = tensors.iter().map(|(name, sizes, bytes)| {
            (name.as_str(), TensorView::new(dtype, sizes.clone(), bytes).expect("the sizes agree"))
        });
        let file = safetensors::serialize(views, None).expect("names are unique");
        fs::write(dir.join("model.safetensors"), file).expect("the folder is ours");
    }

    pub(crate) fn rows(&self, value: &Value) -> Vec<Vec<f64>> {
        value.as_array().expect("a matrix").iter().map(numbers).collect()
    }

    /// Checks logits and greedy tokens of the model in `dir`.
    fn check(&self, dir: &Path, name: &str) {
        let folder = Folder::open(dir).unwrap_or_else(|e| panic!("{name}: {e}"));
        let parameters = parameters(&folder);
        self.check_logits(&folder.config, &parameters, name);
        // Given the tokens before it, every greedy token is the most likely one.
        let greedy = self.rows(&self.0["greedy"]);
        let before: Vec<Vec<f64>> = greedy.iter().map(|row| row[..row.len() - 1].to_vec()).collect();
        let inputs = self.rows(&self.0["inputs"]["input_ids"]);
        let all = logits(&folder.config, &parameters, &inputs, &before);
        let mut rows = all.chunks_exact(folder.config.vocab);
        for (row, tokens) in greedy.iter().enumerate() {
            let mut ended = false;
            for (i, token) in tokens[1..].iter().enumerate() {
                let logits = rows.next().expect("there are logits for every token");
                let best =
                    (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
                assert!(
                    ended || best as f64 == *token,
                    "{name}: token {i} of row {row} is {best}, not {token}"
                );
                ended |= *token == 1.0;
            }
        }
    }

    /// Checks the logits of a model. Returns the largest difference as a share of the largest logit.
    pub(crate) fn check_logits(&self, config: &Config, parameters: &Tensors, name: &str) -> f64 {
        let [inputs, before] =
            ["input_ids", "decoder_input_ids"].map(|what| self.rows(&self.0["inputs"][what]));
        let got = logits(config, parameters, &inputs, &before);
        let want = numbers(&self.0["logits"]);
        assert_eq!(got.len(), want.len(), "{name}");
        let largest = want.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest;
        assert!(off < 1e-5, "{name}: logits are {off:e} off");
        off
    }
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// Returns the elements of a tensor: `element` of `elements.py`.
fn elements(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let hash = |seed: u32, byte: &u8| (seed ^ u32::from(*byte)).wrapping_mul(16_777_619);
    let seed = name.as_bytes().iter().fold(2_166_136_261u32, hash);
    let is_norm = name.ends_with("norm.weight");
    let is_table = ["shared.weight", "lm_head.weight", "model.embed_tokens.weight"].contains(&name)
        || name.contains("relative_attention_bias");
    (0..count as u32).map(move |i| {
        let x = seed.wrapping_add(i.wrapping_mul(2_654_435_761));
        let x = (x ^ (x >> 15)).wrapping_mul(2_246_822_519);
        let value = f64::from((x ^ (x >> 13)) >> 16) / 32768.0 - 1.0;
        match (is_norm, is_table) {
            (true, _) => 1.0 + value / 8.0,
            (false, true) => value,
            (false, false) => value / 2.0,
        }
    })
}

/// Returns the logits of a model, by row, position and token.
fn logits(config: &Config, parameters: &Tensors, inputs: &[Vec<f64>], before: &[Vec<f64>]) -> Vec<f64> {
    let config = Config {
        batch: inputs.len(),
        input_length: inputs[0].len(),
        target_length: before[0].len(),
        ..config.clone()
    };
    let module = probe::logits(&config, true, &Site::default()).finish().expect("the model is legal");
    let tokens = |rows: &[Vec<f64>], dim: &str| {
        let dims = [Dim::new("batch", rows.len()), Dim::new(dim, rows[0].len())];
        Tensor::new(DType::S32, &dims, rows.concat()).expect("rows have equal lengths")
    };
    let mask: Vec<Vec<f64>> =
        inputs.iter().map(|row| row.iter().map(|t| f64::from(*t != 0.0)).collect()).collect();
    let given: Tensors = [
        ("input_ids", tokens(inputs, "length")),
        ("attention_mask", tokens(&mask, "length")),
        ("decoder_input_ids", tokens(before, "target_length")),
    ]
    .into_iter()
    .map(|(name, tensor)| (name.into(), tensor))
    .collect();
    let outcome = interp::run(&module, "logits", &given, parameters, Precision::Normal);
    let outcome = outcome.unwrap_or_else(|e| panic!("{e}"));
    let order = ["batch", "target_length", "vocab"].map(mesh::Name::from);
    outcome.outputs["logits"].ordered(&order).elements()
}

/// Returns the parameters of a folder.
pub(crate) fn parameters(folder: &Folder) -> Tensors {
    let mut all: BTreeMap<String, (Vec<Dim>, Vec<f64>)> = BTreeMap::new();
    for tensor in &folder.tensors {
        let (_, part) = import::part(folder, tensor).expect("the folder is whole");
        let dims: Vec<Dim> = tensor.dims.iter().map(|(name, size)| Dim::new(name.as_str(), *size)).collect();
        let whole = dims.iter().map(|d| d.size).product();
        let (_, elements) = all.entry(tensor.param.clone()).or_insert_with(|| (dims, vec![f64::NAN; whole]));
        let strides =
            (0..tensor.dims.len()).map(|d| tensor.dims[d + 1..].iter().map(|d| d.1).product::<usize>());
        // A layer or an expert, whose dims are outermost: its elements are consecutive.
        let start: usize = strides.zip(&tensor.start).map(|(stride, start)| stride * start).sum();
        let part = part.to_f64().expect("parameters are floats");
        elements[start..start + part.len()].copy_from_slice(&part);
    }
    let tensor = |(name, (dims, elements)): (String, (Vec<Dim>, Vec<f64>))| {
        (name.as_str().into(), Tensor::new(DType::F32, &dims, elements).expect("it has every element"))
    };
    all.into_iter().map(tensor).collect()
}

/// Checks the folders of one kind of model, and what is imported and exported of them.
#[track_caller]
fn check(kind: &str, writers: &[&str]) {
    for writer in writers {
        let name = format!("{kind}_{writer}");
        let case = Case::read(&name);
        let place = tempfile::tempdir().expect("there is a place for temporary files");
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("theirs")).expect("the folder is new");
        case.write(&at("theirs"));
        case.check(&at("theirs"), &name);
        fs::write(at("theirs/tokenizer.json"), &name).expect("the folder is ours");
        let folder = Folder::open(&at("theirs")).expect("it was opened before");
        import::import(&folder, &at("ours")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let checkpoint = Checkpoint::open(&at("ours")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let tokenizer = checkpoint.tokenizer().unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = checkpoint.facts().get(TOKENIZER).is_some_and(|t| t == "bytes");
        let expect = (kind == "byt5", (kind != "byt5").then(|| name.as_bytes().to_vec()));
        assert_eq!((bytes, tokenizer), expect, "{name}");
        export(&at("ours"), None, &Default::default(), &at("again"), u64::MAX)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        if let Some(text) = case.0.get("tokenizer_config") {
            fs::write(at("again/tokenizer_config.json"), text.to_string()).expect("the folder is ours");
        }
        let again = Folder::open(&at("again")).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(again.config, folder.config, "{name}");
        assert_eq!(parameters(&again), parameters(&folder), "{name}");
    }
}

const WRITTEN: [&str; 2] = ["v4", "v5"];
/// Version 4.57 loses the separate output projections of 5.24: see `folders.py`.
const RESAVED_UNTIED: [&str; 3] = ["v4", "v5", "v4_resaved_v5"];
const RESAVED: [&str; 4] = ["v4", "v5", "v4_resaved_v5", "v5_resaved_v4"];

#[test]
fn t5_1_0() {
    check("t5_tied", &RESAVED);
    check("t5_double", &WRITTEN);
}

#[test]
fn t5_1_1() {
    check("t5_untied", &RESAVED_UNTIED);
}

#[test]
fn mt5() {
    check("mt5", &RESAVED);
    check("mt5_tied", &WRITTEN);
}

#[test]
fn umt5() {
    check("umt5_untied", &RESAVED_UNTIED);
    check("umt5_tied", &WRITTEN);
}

#[test]
fn ul2() {
    check("ul2", &WRITTEN);
}

#[test]
fn switch() {
    check("switch", &RESAVED);
}

#[test]
fn byt5() {
    check("byt5", &WRITTEN);
    for writer in WRITTEN {
        let place = tempfile::tempdir().expect("there is a place for temporary files");
        Case::read(&format!("byt5_{writer}")).write(place.path());
        let sentinels = Folder::open(place.path()).expect("it is a model").config.sentinels;
        assert_eq!(sentinels.map(|s| (s.first, s.count)), Some((258, 11)));
    }
}

#[test]
fn encoders_are_refused_by_name() {
    for writer in WRITTEN {
        let place = tempfile::tempdir().expect("there is a place for temporary files");
        Case::read(&format!("t5_encoder_{writer}")).write(place.path());
        let said = Folder::open(place.path()).expect_err("it has no decoder").to_string();
        assert!(said.contains("`architectures` is T5EncoderModel, an encoder without a decoder"), "{said}");
    }
}

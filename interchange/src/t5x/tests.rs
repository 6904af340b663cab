//! Checkpoints of T5X, written and read again, and damaged ones.

use super::{
    array::{Array, Block, Source},
    export::export,
    flax,
    folder::{Folder, TREE},
    import::{Imported, import},
};
use crate::{Overrides, facts, hf::file::Element};
use mesh::{Site, ir::StateKind};
use models::{Activation, Config, Method, Optimizer, Switch, optimizer::Adafactor};
use rmpv::Value;
use runtime::{
    ElementType, HostTensor,
    checkpoint::{Checkpoint, Facts, Kind, Writer},
};
use std::{collections::BTreeMap, fs, path::Path};
use tempfile::TempDir;

/// A small model whose matrices are factored. The axes of the attention's are equally large.
fn t5() -> Config {
    let method = Method::Adafactor(Adafactor { factored_from: 4, ..Adafactor::t5x() });
    Config {
        vocab: 16,
        d_model: 8,
        d_ff: 12,
        heads: 2,
        d_kv: 4,
        buckets: 8,
        max_distance: 16,
        encoder_layers: 2,
        decoder_layers: 2,
        optimizer: Optimizer { method, clip: 0.0, ..Optimizer::default() },
        ..Config::default()
    }
}

fn switch(sparse_step: usize) -> Config {
    let switch = Switch { experts: 3, sparse_step, router_bias: true, ..Switch::default() };
    Config { switch: Some(switch), layer_biases: true, ..t5() }
}

/// Writes a checkpoint of a model, with slots of Adafactor, at step 7.
fn checkpoint(dir: &Path, config: &Config, facts: &[(&str, &str)]) {
    checkpoint_at(dir, config, facts, 7);
}

/// The same at another step.
fn checkpoint_at(dir: &Path, config: &Config, facts: &[(&str, &str)], step: u64) {
    let (preset, settings) = config.described();
    let module = models::program::state(config, &Site::default()).finish().unwrap();
    let mut writer = Writer::create(dir).unwrap();
    let mut seed = 1u32;
    for (_, state) in module.env.states.iter() {
        let dims: Vec<(String, usize)> = state.ty.logical().map(|d| (d.name.to_string(), d.size)).collect();
        let sizes: Vec<usize> = dims.iter().map(|d| d.1).collect();
        let kind = match state.kind {
            StateKind::Param => Kind::Param,
            StateKind::Slot => Kind::Slot,
            StateKind::Counter => Kind::Counter,
        };
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((seed >> 8) as f32 / (1 << 24) as f32).to_le_bytes()
        };
        let value = if kind == Kind::Counter {
            let step: i32 = if &*state.name == "step" { 7 } else { 0 };
            HostTensor { dtype: ElementType::S32, dims: sizes, bytes: step.to_le_bytes().to_vec() }
        } else {
            let bytes = (0..sizes.iter().product()).flat_map(|_: usize| next()).collect();
            HostTensor { dtype: ElementType::F32, dims: sizes, bytes }
        };
        writer.tensor(&state.name, kind, &dims, value).unwrap();
    }
    let mut all = Facts::from([
        (facts::MODEL.to_owned(), preset.to_owned()),
        (facts::SETTINGS.to_owned(), settings),
        (facts::DTYPE.to_owned(), "f32".to_owned()),
    ]);
    all.extend(facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    writer.finish(all, step).unwrap();
}

fn read_in(dir: &Path, out: &Path, settings: &[&str]) -> anyhow::Result<Imported> {
    let settings = settings.iter().map(|s| (*s).to_owned()).collect();
    import(&Folder::open(dir)?, &Overrides { dtype: None, settings }, out)
}

/// Checks that a model is the same after an export and an import, and the export the same after both.
#[track_caller]
fn there_and_back(config: &Config, settings: &[&str], facts: &[(&str, &str)]) {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    checkpoint(&at("ours"), config, facts);
    let none = Overrides::default();
    let done = export(&at("ours"), None, &none, &at("theirs"), true).unwrap();
    let slots = done.slots.clone().unwrap();
    let settings = [&["factored_from=4"], settings].concat();
    let back = read_in(&at("theirs"), &at("back"), &settings).unwrap();
    assert_eq!((back.arrays, back.step, back.slots), (done.arrays, 7, Ok(slots)));
    let (ours, back) = (Checkpoint::open(&at("ours")).unwrap(), Checkpoint::open(&at("back")).unwrap());
    assert_eq!(ours.tensors().len(), back.tensors().len());
    for tensor in ours.tensors() {
        let found = back.tensor(&tensor.name).unwrap_or_else(|| panic!("{} is missing", tensor.name));
        assert_eq!((found.kind, &found.dims), (tensor.kind, &tensor.dims), "{}", tensor.name);
        assert!(ours.read(&tensor.name).unwrap() == back.read(&tensor.name).unwrap(), "{}", tensor.name);
    }
    export(&at("back"), None, &none, &at("again"), true).unwrap();
    assert_eq!(fs::read(at("again").join(TREE)).unwrap(), fs::read(at("theirs").join(TREE)).unwrap());
    let (theirs, again) = (Folder::open(&at("theirs")).unwrap(), Folder::open(&at("again")).unwrap());
    for name in theirs.arrays().keys() {
        for block in 0..theirs.blocks(name) {
            assert!(theirs.read(name, block).unwrap() == again.read(name, block).unwrap(), "{name}");
        }
    }
}

#[test]
fn models_and_slots_survive_both_ways() {
    there_and_back(&t5(), &[], &[]);
    let gated = Config { activation: Activation::GatedGelu, tied: false, ..t5() };
    there_and_back(&gated, &[], &[]);
    let method = Method::Adafactor(Adafactor { beta1: 0.9, factored_from: 4, ..Adafactor::t5x() });
    let moments = Config { optimizer: Optimizer { method, ..t5().optimizer }, ..t5() };
    there_and_back(&moments, &["beta1=0.9"], &[]);
    there_and_back(&switch(2), &[], &[]);
    there_and_back(&Config { activation: Activation::GatedGelu, ..switch(1) }, &[], &[]);
    for config in [switch(1), switch(2), Config { layer_biases: true, ..t5() }] {
        there_and_back(&config, &[], &[("t5x.layers", "scanned")]);
    }
}

/// A folder of a small model without slots.
fn small() -> (TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let optimizer = Optimizer { method: Method::Sgd, ..Optimizer::default() };
    checkpoint(&place.path().join("ours"), &Config { optimizer, ..switch(2) }, &[]);
    let dir = place.path().join("theirs");
    let done = export(&place.path().join("ours"), None, &Overrides::default(), &dir, false).unwrap();
    assert_eq!(done.slots, Err("it has none".to_owned()));
    (place, dir)
}

/// Checks the error after damage, and that nothing is written.
#[track_caller]
fn damaged(damage: impl FnOnce(&Path), expect: &[&str]) {
    let (place, dir) = small();
    damage(&dir);
    let out = place.path().join("out");
    let error = read_in(&dir, &out, &[]).map(|done| format!("{done:?}")).unwrap_err().to_string();
    for expect in expect {
        assert!(error.contains(expect), "{error}\ndoes not say\n{expect}");
    }
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn damage_is_refused_and_leaves_nothing() {
    let wi = "target.encoder.layers_1.mlp.expert.wi.kernel";
    damaged(
        |dir| fs::remove_file(dir.join(wi).join("0.0.0")).unwrap(),
        &[wi, "0.0.0` is missing: it is a chunk"],
    );
    damaged(
        |dir| fs::write(dir.join(wi).join("0.0.0"), [1, 2]).unwrap(),
        &[wi, "has 2 bytes instead of 1152"],
    );
    damaged(|dir| fs::remove_dir_all(dir.join(wi)).unwrap(), &["reading `", wi, ".zarray`"]);
    damaged(
        |dir| {
            let path = dir.join(wi).join(".zarray");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("<f4", "<u2")).unwrap();
        },
        &[wi, "has elements of `dtype` \"<u2\""],
    );
    damaged(
        |dir| {
            let path = dir.join("target.decoder.decoder_norm.scale/.zarray");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("[8]", "[9]")).unwrap();
        },
        &[
            "1 with wrong sizes",
            "`target/decoder/decoder_norm/scale` has sizes [9]; the other arrays require [8]",
        ],
    );
    damaged(|dir| fs::remove_file(dir.join(TREE)).unwrap(), &["checkpoint` cannot be read"]);
    damaged(|dir| fs::write(dir.join("manifest.ocdbt"), "").unwrap(), &["are in OCDBT, which is not read"]);
    damaged(
        |dir| {
            let bytes = fs::read(dir.join(TREE)).unwrap();
            fs::write(dir.join(TREE), &bytes[..bytes.len() / 2]).unwrap();
        },
        &["is not a msgpack file"],
    );
}

#[test]
fn steps_are_integers_that_are_not_negative() {
    let with = |element, sizes: &[usize], bytes: &[u8]| {
        let array = Array { element, sizes: sizes.to_vec() };
        let step = flax::inline(&array, bytes.to_vec());
        move |dir: &Path| {
            let bytes = fs::read(dir.join(TREE)).unwrap();
            let leaves = flax::parse(&bytes[..]).unwrap().into_iter().map(|(path, leaf)| match leaf {
                _ if path == "optimizer/state/step" => (path, step.clone()),
                flax::Leaf::Inline(array, bytes) => (path, flax::inline(&array, bytes)),
                flax::Leaf::Folder(name) => (path, Value::from(format!("PLACEHOLDER://{name}"))),
            });
            let bytes = flax::to_bytes(leaves.collect());
            fs::write(dir.join(TREE), bytes).unwrap();
        }
    };
    let negative = (-1i32).to_le_bytes();
    damaged(
        with(Element::I32, &[], &negative),
        &["has the step `state/step` -1", "a step is one int32 from 0"],
    );
    let float = 7f32.to_le_bytes();
    damaged(with(Element::F32, &[], &float), &["has the step `state/step` of sizes [] and type float32"]);
    damaged(with(Element::I32, &[2], &[0; 8]), &["has the step `state/step` of sizes [2] and type int32"]);
    let (_place, dir) = small();
    with(Element::I32, &[1], &9i32.to_le_bytes())(&dir);
    assert_eq!(Folder::open(&dir).unwrap().step(), 9);
}

/// A checkpoint with a step of more than 32 bits, as Mesh TensorFlow can have.
struct Late(Folder);
impl Source for Late {
    fn path(&self) -> &Path {
        self.0.path()
    }
    fn arrays(&self) -> &BTreeMap<String, Array> {
        self.0.arrays()
    }
    fn own_name(&self, name: &str) -> String {
        self.0.own_name(name)
    }
    fn blocks(&self, name: &str) -> usize {
        self.0.blocks(name)
    }
    fn read(&self, name: &str, block: usize) -> anyhow::Result<(Block, Vec<u8>)> {
        self.0.read(name, block)
    }
    fn rows_are_first(&self) -> bool {
        self.0.rows_are_first()
    }
    fn step(&self) -> u64 {
        1 << 31
    }
}

#[test]
fn steps_beyond_32_bits_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    checkpoint_at(&at("ours"), &t5(), &[], 1 << 31);
    let none = Overrides::default();
    let error = export(&at("ours"), None, &none, &at("theirs"), false).unwrap_err();
    assert!(error.to_string().contains("has the step 2147483648, and a step of T5X is an int32"), "{error}");
    assert!(!at("theirs").exists());
    checkpoint(&at("early"), &t5(), &[]);
    export(&at("early"), None, &none, &at("theirs"), false).unwrap();
    let late = Late(Folder::open(&at("theirs")).unwrap());
    let settings = Overrides { dtype: None, settings: vec!["factored_from=4".to_owned()] };
    let error = import(&late, &settings, &at("back")).unwrap_err();
    assert!(error.to_string().contains("the step 2147483648 does not fit the counter `step`"), "{error}");
    assert!(!at("back").exists());
}

#[test]
fn unknown_and_missing_arrays_are_listed() {
    let change = |change: fn(&str) -> String| {
        move |dir: &Path| {
            let bytes = fs::read(dir.join(TREE)).unwrap();
            let leaves = flax::parse(&bytes[..]).unwrap().into_iter().map(|(path, leaf)| {
                let value = match leaf {
                    flax::Leaf::Inline(array, bytes) => flax::inline(&array, bytes),
                    flax::Leaf::Folder(name) => Value::from(format!("PLACEHOLDER://{name}")),
                };
                (change(&path), value)
            });
            fs::write(dir.join(TREE), flax::to_bytes(leaves.collect())).unwrap();
        }
    };
    damaged(
        change(|path| path.replace("layers_0/pre_mlp", "layers_0/post_mlp")),
        &["2 missing", "`target/encoder/layers_0/pre_mlp_layer_norm/scale` [8]", "2 unexpected", "post_mlp"],
    );
    damaged(change(|path| path.replace("layers_1/mlp/expert", "layers_1/mlp/router")), &["unexpected"]);
    damaged(
        change(|path| path.replace("encoder/layers_1", "encoder/layers_2")),
        &["only its decoder has experts"],
    );
    damaged(change(|path| path.replace("target/decoder", "target/other")), &["an encoder and a decoder"]);
    damaged(
        change(|path| path.replace("token_embedder", "encoder/token_embedder")),
        &["share one embedding"],
    );
}

#[test]
fn settings_are_those_of_the_user_and_slots_are_taken_whole() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    checkpoint(&at("ours"), &t5(), &[]);
    export(&at("ours"), None, &Overrides::default(), &at("theirs"), true).unwrap();
    let done = read_in(&at("theirs"), &at("other"), &["optimizer=adamw", "dropout=0.25"]).unwrap();
    assert!(done.slots.unwrap_err().contains("is factored"), "AdamW has other slots");
    let other = Checkpoint::open(&at("other")).unwrap();
    assert!(other.facts()[facts::SETTINGS].contains("dropout=0.25"));
    assert!(other.tensors().iter().all(|tensor| tensor.kind == Kind::Param));
    let why = read_in(&at("theirs"), &at("small"), &[]).unwrap().slots.unwrap_err();
    assert!(
        why.contains("token_embedder/embedding/v_row` is factored, and `embedding` is not here"),
        "{why}"
    );
    assert_eq!(Checkpoint::open(&at("small")).unwrap().step(), 7);
}

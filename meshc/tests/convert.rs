//! `meshc convert`: import and export of Hugging Face models and of T5X's checkpoints, valid and damaged.

use crate::support::{Ran, TINY, Workplace, home, is_slow, oracle, say_skipped, text, tiny_switch, words};
use models::{Config, Switch, hf};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A tensor of a file: type, sizes, bytes.
type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// A small model and its `config.json`.
fn switch() -> (Config, String) {
    let config = Config {
        vocab: 16,
        d_model: 8,
        d_ff: 12,
        heads: 2,
        d_kv: 3,
        encoder_layers: 3,
        decoder_layers: 2,
        switch: Some(Switch { experts: 3, sparse_step: 2, decoder_sparse_step: 1, ..Switch::default() }),
        ..Config::default()
    };
    let text = r#"{
        "model_type": "switch_transformers", "vocab_size": 16, "d_model": 8, "d_ff": 12, "num_heads": 2, "d_kv": 3,
        "num_layers": 3, "num_decoder_layers": 2, "num_experts": 3, "num_sparse_encoder_layers": 1,
        "encoder_sparse_step": 2, "decoder_sparse_step": 1, "num_sparse_decoder_layers": 2, "expert_capacity": 4,
        "dropout_rate": 0.0
    }"#;
    (config, text.replace("\"num_sparse_encoder_layers\": 1,", ""))
}

/// A dense model with gated feed-forward layers and untied embeddings.
fn t5() -> (Config, String) {
    let config =
        Config { switch: None, activation: models::Activation::GatedGelu, tied: false, ..switch().0 };
    let text = r#"{
        "model_type": "t5", "vocab_size": 16, "d_model": 8, "d_ff": 12, "num_heads": 2, "d_kv": 3, "num_layers": 3,
        "num_decoder_layers": 2, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false
    }"#;
    (config, text.into())
}

/// Returns weights for a model: bytes that differ everywhere and are finite in every type.
fn weights(config: &Config, dtype: impl Fn(&str) -> Dtype) -> BTreeMap<String, Stored> {
    let mut seed = 1u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    let tensors = hf::tensors(config).expect("theirs has such models");
    let stored = tensors.into_iter().map(|t| {
        let (dtype, elements) = (dtype(&t.name), t.sizes.iter().product::<usize>());
        let size = if dtype == Dtype::F32 { 4 } else { 2 };
        // The last byte has the exponent, which must not mean infinity.
        let bytes = (0..elements * size).map(|i| if i % size == size - 1 { next() & 0xbb } else { next() });
        (t.name, (dtype, t.sizes, bytes.collect()))
    });
    stored.collect()
}

fn file(tensors: &BTreeMap<String, Stored>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, sizes, bytes))| {
        (name.clone(), TensorView::new(*dtype, sizes.clone(), bytes).expect("the sizes agree"))
    });
    safetensors::serialize(views, None).expect("the names are different")
}

fn read(dir: &Path) -> BTreeMap<String, Stored> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("the folder is there") {
        let path = entry.expect("entries can be read").path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            let bytes = fs::read(&path).expect("files can be read");
            for (name, view) in SafeTensors::deserialize(&bytes).expect("it is a safetensors file").tensors()
            {
                let stored = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
                assert!(all.insert(name.clone(), stored).is_none(), "{name} is in two files");
            }
        }
    }
    all
}

/// Writes a directory of a Hugging Face model.
fn folder(place: &Workplace, name: &str, text: &str, tensors: &BTreeMap<String, Stored>) {
    place.write(&format!("{name}/config.json"), text);
    place.write(&format!("{name}/model.safetensors"), file(tensors));
}

#[track_caller]
fn there_and_back((config, text): (Config, String), dtype: impl Fn(&str) -> Dtype) {
    let place = Workplace::new();
    let tensors = weights(&config, dtype);
    folder(&place, "theirs", &text, &tensors);
    let said = place.run(&["convert", "hf", "theirs", "ours"]).succeeds();
    assert!(said.out.contains(&format!("{} tensors", tensors.len())), "{}", said.out);
    place.run(&["checkpoint", "verify", "ours"]).succeeds();
    place.run(&["convert", "to-hf", "ours", "again"]).succeeds();
    assert!(read(&place.at("again")) == tensors, "the bytes are not the same");
    assert_eq!(fs::read_to_string(place.at("again/config.json")).expect("it is there"), text);
    // Export to several files, and import from them.
    place.run(&["convert", "to-hf", "ours", "parts", "--shard-size", "1000"]).succeeds();
    assert!(place.at("parts/model.safetensors.index.json").is_file());
    place.run(&["convert", "hf", "parts", "ours2"]).succeeds();
    place.run(&["convert", "to-hf", "ours2", "again2"]).succeeds();
    assert!(read(&place.at("again2")) == tensors, "the bytes are not the same");
    assert_eq!(place.entries(), ["again", "again2", "ours", "ours2", "parts", "theirs"]);
}

#[test]
fn what_is_imported_and_exported_has_the_same_bytes() {
    there_and_back(switch(), |_| Dtype::F32);
    there_and_back(t5(), |_| Dtype::BF16);
    // Several element types, as in models with f32 norms or routers.
    there_and_back(switch(), |name| match name {
        n if n.contains("layer_norm") => Dtype::F32,
        n if n.contains("router") => Dtype::BF16,
        _ => Dtype::F16,
    });
}

#[test]
fn reference_models_come_back_too() {
    for case in ["switch_tiny", "switch_bf16", "t5_v1_0", "t5_v1_1"] {
        let Some(dir) = oracle(case) else { continue };
        let place = Workplace::new();
        place.run(&["convert", "hf", &dir.display().to_string(), "ours"]).succeeds();
        place.run(&["convert", "to-hf", "ours", "again"]).succeeds();
        let original = fs::read(dir.join("model.safetensors")).expect("the case is whole");
        let original = SafeTensors::deserialize(&original).expect("the case is whole");
        let back = read(&place.at("again"));
        assert_eq!(back.len(), original.names().len());
        for (name, view) in original.tensors() {
            assert!(
                back[&name] == (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
                "{case}: {name}"
            );
        }
    }
}

#[test]
fn the_embedding_may_have_any_of_its_names_but_not_two_values() {
    let place = Workplace::new();
    let (config, text) = switch();
    let mut tensors = weights(&config, |_| Dtype::F32);
    let shared = tensors["shared.weight"].clone();
    for name in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"] {
        tensors.insert(name.into(), shared.clone());
    }
    folder(&place, "same", &text, &tensors);
    place.run(&["convert", "hf", "same", "ours"]).succeeds();
    for name in ["shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"] {
        tensors.remove(name);
    }
    folder(&place, "one", &text, &tensors);
    place.run(&["convert", "hf", "one", "ours2"]).succeeds();
    place.run(&["convert", "to-hf", "ours2", "again"]).succeeds();
    assert!(read(&place.at("again"))["shared.weight"] == shared);
    let mut different = shared.clone();
    different.2[0] ^= 1;
    tensors.insert("encoder.embed_tokens.weight".into(), different);
    folder(&place, "two", &text, &tensors);
    let ran = place.run(&["convert", "hf", "two", "ours3"]);
    ran.fails(&[
        "`decoder.embed_tokens.weight` differs from `encoder.embed_tokens.weight`",
        "models with two are not supported",
    ]);
}

#[test]
fn an_output_projection_is_separate_if_it_differs_from_the_embedding() {
    let place = Workplace::new();
    let (config, text) = t5();
    let text = text.replace("false", "true");
    let tensors = weights(&config, |_| Dtype::F32);
    folder(&place, "theirs", &text, &tensors);
    place.run(&["convert", "hf", "theirs", "ours"]).succeeds();
    place.run(&["convert", "to-hf", "ours", "again"]).succeeds();
    assert!(read(&place.at("again")) == tensors);
    // Tied tables whose output is not scaled are exported as two equal tables.
    let mut equal = tensors.clone();
    equal.insert("lm_head.weight".into(), tensors["shared.weight"].clone());
    folder(&place, "equal", &text.replace("true", "false"), &equal);
    place.run(&["convert", "hf", "equal", "ours2"]).succeeds();
    place.run(&["convert", "to-hf", "ours2", "again2"]).succeeds();
    assert!(read(&place.at("again2")) == equal);
    equal.remove("lm_head.weight");
    folder(&place, "without", &text.replace("true", "false"), &equal);
    place
        .run(&["convert", "hf", "without", "x"])
        .fails(&["there is no `lm_head.weight`", "tie_word_embeddings"]);
}

/// Imports a directory that `damage` has changed. The import must fail without output.
#[track_caller]
fn refused(damage: impl FnOnce(&mut BTreeMap<String, Stored>, &mut String), expect: &[&str]) {
    let (config, mut text) = switch();
    let mut tensors = weights(&config, |_| Dtype::F32);
    damage(&mut tensors, &mut text);
    let place = Workplace::new();
    folder(&place, "theirs", &text, &tensors);
    place.run(&["convert", "hf", "theirs", "ours"]).fails(expect);
    assert_eq!(place.entries(), ["theirs"], "nothing is left behind");
}

const WI: &str = "encoder.block.1.layer.1.mlp.experts.expert_2.wi.weight";

#[test]
fn tensors_that_are_missing_renamed_or_misshapen_are_listed() {
    refused(|t, _| drop(t.remove(WI)), &["1 missing", WI, "[12, 8]", "help"]);
    refused(
        |t, _| {
            let tensor = t.remove(WI).expect("it is there");
            t.insert(WI.replace("wi", "vi"), tensor);
        },
        &["1 missing", WI, "1 unexpected", "expert_2.vi.weight"],
    );
    refused(
        |t, _| t.get_mut(WI).expect("it is there").1.swap(0, 1),
        &["1 with wrong sizes", WI, "has sizes [8, 12]; the configuration requires [12, 8]"],
    );
    refused(
        |_, text| *text = text.replace("\"num_experts\": 3", "\"num_experts\": 4"),
        &["missing", "expert_3"],
    );
    refused(
        |_, text| *text = text.replace("\"num_experts\": 3", "\"num_experts\": 2"),
        &["unexpected", "expert_2"],
    );
}

#[test]
fn configurations_that_are_unknown_or_contradict_themselves_are_refused() {
    let with = |more: &'static str| {
        move |_: &mut BTreeMap<String, Stored>, text: &mut String| {
            *text = text.replacen('{', &format!("{{ {more},"), 1)
        }
    };
    refused(with("\"d_modle\": 3"), &["unknown key `d_modle`", "did you mean `d_model`?"]);
    refused(with("\"num_sparse_encoder_layers\": 3"), &["contradicts `num_sparse_encoder_layers`"]);
    refused(with("\"is_gated_act\": true"), &["`is_gated_act` is true"]);
    refused(|_, text| *text = "{".into(), &["is not a configuration"]);
    refused(|_, text| *text = text.replace("switch_transformers", "bert"), &["`model_type` is \"bert\""]);
    refused(
        |_, text| *text = text.replace("\"expert_capacity\": 4", "\"expert_capacity\": 0"),
        &["`expert_capacity` is 0"],
    );
}

/// Imports a weights file whose bytes `damage` has changed. The import must fail without output.
#[track_caller]
fn broken(damage: impl FnOnce(&mut Vec<u8>), expect: &[&str]) {
    let (config, text) = switch();
    let mut bytes = file(&weights(&config, |_| Dtype::F32));
    damage(&mut bytes);
    let place = Workplace::new();
    place.write("theirs/config.json", text);
    place.write("theirs/model.safetensors", bytes);
    place.run(&["convert", "hf", "theirs", "ours"]).fails(expect);
    assert_eq!(place.entries(), ["theirs"], "nothing is left behind");
}

/// Gives a tensor the offsets of another.
fn same_place(bytes: &mut Vec<u8>, tensor: &str, other: &str) {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let mut head: serde_json::Value =
        serde_json::from_slice(&bytes[8..8 + length]).expect("headers are JSON");
    head[tensor]["data_offsets"] = head[other]["data_offsets"].clone();
    let head = head.to_string();
    let start = [&(head.len() as u64).to_le_bytes()[..], head.as_bytes()].concat();
    bytes.splice(..8 + length, start);
}

#[test]
fn files_that_lie_are_refused() {
    broken(|b| b.truncate(b.len() - 1), &["it is truncated", "model.safetensors"]);
    broken(|b| b.truncate(200), &["not a valid safetensors file"]);
    broken(Vec::clear, &["it has 0 bytes"]);
    broken(|b| b[..8].copy_from_slice(&u64::MAX.to_le_bytes()), &["state a header of"]);
    broken(|b| b[..8].copy_from_slice(&50_000_000u64.to_le_bytes()), &["state a header of"]);
    broken(|b| b[0] = b[0].wrapping_sub(8), &["not a valid safetensors file"]);
    broken(|b| b.extend([0; 4]), &["4 bytes after the last tensor belong to no tensor"]);
    let of = |part: &str| format!("encoder.block.0.layer.0.SelfAttention.{part}.weight");
    broken(|b| same_place(b, &of("q"), &of("k")), &["overlap", &of("q"), &of("k")]);
}

#[test]
fn what_is_there_is_not_replaced() {
    let place = Workplace::new();
    let (config, text) = switch();
    folder(&place, "theirs", &text, &weights(&config, |_| Dtype::F32));
    place.write("ours/notes.txt", "mine");
    place.run(&["convert", "hf", "theirs", "ours"]).fails(&["`ours` already exists"]);
    place.run(&["convert", "hf", "theirs", "checkpoint"]).succeeds();
    place.run(&["convert", "to-hf", "checkpoint", "theirs"]).fails(&["`theirs` already exists"]);
    place
        .run(&["convert", "hf", "nowhere", "x"])
        .fails(&["nowhere/config.json`: No such file", "help: name the directory"]);
    place.run(&["convert", "--verify", "theirs"]).fails(&["has no inputs.safetensors"]);
    place.run(&["convert"]).fails_with(2, &["Usage"]);
}

#[test]
fn an_imported_model_is_trained_and_exported_again() {
    let place = Workplace::new();
    let (config, text) = switch();
    let tensors = weights(&Config { vocab: 261, ..config }, |_| Dtype::BF16);
    // Bytes are tokens 3 to 258. Values are like those of a real model, so that training is finite.
    let small = tensors.into_iter().map(|(name, (dtype, sizes, bytes))| {
        let bytes = bytes.chunks(2).flat_map(|b| [b[0], 0x3c | (b[1] & 0x80)]).collect();
        (name, (dtype, sizes, bytes))
    });
    let tensors: BTreeMap<String, Stored> = small.collect();
    let text = text.replace("\"vocab_size\": 16", "\"vocab_size\": 261");
    folder(&place, "theirs", &text, &tensors);
    place.run(&["convert", "hf", "theirs", "ours"]).succeeds();
    place.write("text.txt", "a text about nothing, a text for everyone. ".repeat(40));
    let sizes = ["--set", "batch=2", "--set", "input_length=16", "--set", "target_length=8"];
    // The imported folder has no tokenizer, and bytes are not assumed.
    let unknown = ["train", "ours", "--data", "text.txt", "--steps", "1", "--no-run-dir"];
    place
        .run_on_cpu(&[&unknown[..], &sizes].concat())
        .fails(&["does not say which tokenizer", "--tokenizer"]);
    let settings = [&sizes[..], &["--tokenizer", "bytes"]].concat();
    let train = [
        "train",
        "ours",
        "--data",
        "text.txt",
        "--steps",
        "2",
        "--checkpoint-dir",
        "run",
        "--save-every",
        "2",
    ];
    place.run_on_cpu(&[&train[..], &settings].concat()).succeeds();
    let trained = place.at("run/step_00000002").display().to_string();
    place.run(&["convert", "to-hf", &trained, "again"]).succeeds();
    // The folder is whole: its tokenizer is that of the run.
    let written = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(place.at(name)).expect("it is there")).expect("it is JSON")
    };
    assert_eq!(written("again/tokenizer_config.json")["tokenizer_class"], "ByT5Tokenizer");
    assert_eq!(written("again/generation_config.json")["decoder_start_token_id"], 0);
    assert!(fs::read_to_string(place.at("again/README.md")).expect("it is there").contains("step 2"));
    let again = read(&place.at("again"));
    let head = |all: &BTreeMap<String, Stored>| -> Vec<_> {
        all.iter().map(|(name, (_, sizes, _))| (name.clone(), sizes.clone())).collect()
    };
    assert_eq!(head(&again), head(&tensors));
    // Two steps change everything a little, because training starts from the imported parameters.
    let first = |all: &BTreeMap<String, Stored>| f32::from_le_bytes(wide(&all["shared.weight"]));
    assert!((first(&again) - first(&tensors)).abs() < 0.1, "{} {}", first(&again), first(&tensors));
    assert!(again.values().all(|t| t.0 == Dtype::F32), "the run was in f32");
    // The export can be imported again.
    place.run(&["convert", "hf", "again", "ours2"]).succeeds();
    // An odd vocabulary is padded and split; a step with rate 0 changes nothing, and the padding is not
    // exported.
    let padded = ["vocab_padding=1", "optimizer=sgd", "lr=0"].into_iter().flat_map(|set| ["--set", set]);
    let padded: Vec<&str> = ["--mesh", "model=2"].into_iter().chain(padded).collect();
    let train = ["train", "ours", "--data", "text.txt", "--steps", "1", "--checkpoint-dir", "padded"];
    place.run_on_cpu(&[&train[..], &settings, &padded].concat()).succeeds();
    let trained = place.at("padded/step_00000001").display().to_string();
    place.run(&["convert", "to-hf", &trained, "without"]).succeeds();
    for (name, (_, sizes, bytes)) in read(&place.at("without")) {
        let (_, own, narrow) = &tensors[&name];
        let wide: Vec<u8> = narrow.chunks(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
        assert!(sizes == *own && bytes == wide, "`{name}` is not the one that was imported");
    }
}

/// Returns the first element as a 32-bit float.
fn wide((dtype, _, bytes): &Stored) -> [u8; 4] {
    match dtype {
        Dtype::F32 => [bytes[0], bytes[1], bytes[2], bytes[3]],
        _ => [0, 0, bytes[0], bytes[1]],
    }
}

#[test]
fn a_program_can_be_made_of_an_imported_model() {
    let place = Workplace::new();
    let (config, text) = switch();
    folder(&place, "theirs", &text, &weights(&config, |_| Dtype::F32));
    place.run(&["convert", "hf", "theirs", "ours"]).succeeds();
    let settings = ["--set", "batch=4", "--set", "input_length=8", "--set", "target_length=6"];
    let ran = place.run(&[&["report", "ours", "--json"][..], &settings].concat()).succeeds();
    let report: serde_json::Value = serde_json::from_str(&ran.out).expect("--json prints JSON");
    let own: usize =
        hf::tensors(&config).expect("theirs has it").iter().map(|t| t.sizes.iter().product::<usize>()).sum();
    assert_eq!(report["parameters"], own);
    place.run(&["check", "ours", "--set", "d_modle=3"]).fails(&["no setting `d_modle`"]);
}

/// Trains a model for one step with the optimizer of T5X. Returns the checkpoint.
fn trained_like_t5x(place: &Workplace, model: &str, settings: &[&str]) -> &'static str {
    let data = text();
    let train = ["train", model, "--data", &data, "--steps", "1", "--checkpoint-dir", "run"];
    place.run_on_cpu(&[&train[..], settings, &T5X].concat()).succeeds();
    "run/step_00000001"
}

/// The settings of an imported checkpoint of T5X with slots, but a shorter warmup.
const T5X: [&str; 10] = [
    "--set",
    "optimizer=adafactor",
    "--set",
    "clip=0",
    "--set",
    "schedule=t5",
    "--set",
    "lr=1",
    "--set",
    "warmup=10",
];

/// Returns the files of a folder and its subfolders with their contents, by path.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("the folder is there") {
        let path = entry.expect("entries can be read").path();
        let name = path.file_name().expect("entries have names").to_string_lossy().into_owned();
        if path.is_dir() {
            all.extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            all.insert(name, fs::read(&path).expect("files can be read"));
        }
    }
    all
}

/// Exports a trained model for T5X, imports it again, and goes on training.
#[track_caller]
fn there_and_back_with_t5x(model: &str, settings: &[&str]) {
    let place = Workplace::new();
    let trained = trained_like_t5x(&place, model, settings);
    let said = place.run(&["convert", "to-t5x", trained, "theirs"]).succeeds();
    assert!(said.out.contains("optimizer slots") && !said.out.contains("none"), "{}", said.out);
    // The file's own settings, which T5X does not store, are those of the command line.
    let import = ["convert", "t5x", "theirs", "again/step_00000001"];
    let said = place.run(&[&import[..], settings, &T5X].concat()).succeeds();
    assert!(said.out.contains("step 1") && !said.out.contains("slots: none"), "{}", said.out);
    // Parameters, slots and counters have the same bits.
    let same = place.run(&["checkpoint", "diff", trained, "again/step_00000001"]).succeeds();
    assert!(same.out.contains("0 tensors differ"), "{}", same.out);
    place.run(&["convert", "to-t5x", "again", "twice"]).succeeds();
    assert_eq!(files(&place.at("twice")), files(&place.at("theirs")));
    // Training goes on from the step, and from the parameters.
    let data = text();
    let train = ["train", "--data", &data, "--tokenizer", "bytes"];
    let resume = ["again/step_00000001", "--checkpoint-dir", "again", "--resume", "--steps", "2"];
    place.run_on_cpu(&[&train[..], &resume, settings, &T5X].concat()).succeeds();
    assert!(place.at("again/step_00000002").is_dir());
    let from = [model, "--from", "again/step_00000001", "--steps", "1", "--no-run-dir"];
    place.run_on_cpu(&[&train[..], &from, settings].concat()).succeeds();
}

#[test]
fn trained_models_come_back_from_the_format_of_t5x() {
    there_and_back_with_t5x("t5_tiny", &TINY);
    there_and_back_with_t5x("switch_tiny", &tiny_switch());
}

#[test]
fn incomplete_checkpoints_of_other_systems_are_refused() {
    let place = Workplace::new();
    let trained = trained_like_t5x(&place, "t5_tiny", &TINY);
    place.run(&["convert", "to-t5x", trained, "theirs"]).succeeds();
    place.run(&["convert", "to-t5x", trained, "theirs"]).fails(&["`theirs` already exists"]);
    let chunk = "theirs/target.encoder.layers_0.mlp.wi.kernel/0.0";
    let bytes = fs::read(place.at(chunk)).expect("the array has one chunk");
    let refused = |from: &str, expect: &[&str]| {
        place.run(&["convert", "t5x", from, "ours"]).fails(expect);
        place.run(&["convert", "tf", from, "ours"]).fails(expect);
        assert_eq!(place.entries(), ["model.ckpt-1.index", "run", "theirs"], "nothing is left behind");
    };
    place.write("model.ckpt-1.index", "not an index");
    fs::remove_file(place.at(chunk)).expect("it was there");
    refused("theirs", &["target.encoder.layers_0.mlp.wi.kernel/0.0` is missing", "help: "]);
    fs::write(place.at(chunk), &bytes[..bytes.len() / 2]).expect("the folder is ours");
    refused("theirs", &["target.encoder.layers_0.mlp.wi.kernel/0.0` cannot be read", "help: "]);
    fs::write(place.at(chunk), bytes).expect("the folder is ours");
    fs::remove_file(place.at("theirs/checkpoint")).expect("it was there");
    refused("theirs", &["theirs/checkpoint`", "help: "]);
    refused("model.ckpt-1", &["model.ckpt-1.index`", "help: "]);
    refused("nowhere", &["nowhere", "help: "]);
}

/// Packages of the slow test; protobuf reads SentencePiece models.
const TRANSFORMERS: [&str; 5] =
    ["transformers==4.57.6", "torch", "safetensors==0.8.0", "sentencepiece==0.2.3", "protobuf"];

/// Returns a Python with transformers: `MESH_TRANSFORMERS_PYTHON`, or a new virtual environment.
fn transformers() -> PathBuf {
    if let Some(python) = std::env::var_os("MESH_TRANSFORMERS_PYTHON") {
        return python.into();
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("transformers");
    let python = place.join("bin/python");
    if !place.join("done").exists() {
        let done = Command::new("python3").args(["-m", "venv"]).arg(&place).status().expect("python3 starts");
        assert!(done.success(), "a virtual environment cannot be made");
        let install = ["-m", "pip", "install", "--quiet"];
        let done = Command::new(&python).args(install).args(TRANSFORMERS).status().expect("pip starts");
        assert!(done.success(), "{TRANSFORMERS:?} cannot be installed");
        fs::write(place.join("done"), "").expect("the folder is ours");
    }
    python
}

/// Trains a model with a tokenizer, and compares its greedy tokens with those of transformers for the export.
fn generates_as_transformers(tokenizer: &str, more: &[&str]) {
    let (place, data) = (Workplace::new(), text());
    let train = ["train", "t5_tiny", "--data", &data, "--tokenizer", tokenizer, "--steps", "20"];
    let into = ["--checkpoint-dir", "run", "--no-run-dir"];
    place.run_on_cpu(&[&train[..], &into, &TINY, more].concat()).succeeds();
    place.run(&["convert", "to-hf", "run", "theirs"]).succeeds();
    let texts = "let x = <extra_id_0>;\nfn main\nfor each value <extra_id_0> of <extra_id_1>\n";
    place.write("texts.txt", texts);
    let ours = place.run_on_cpu(&["generate", "run", "--input", "texts.txt", "--json"]).succeeds().out;
    let ours: Vec<serde_json::Value> = serde_json::from_str(&ours).expect("--json prints JSON");
    let script = home().join("meshc/tests/support/generated_by_transformers.py");
    let mut python = Command::new(transformers());
    python.current_dir(place.path()).arg(script).args(["theirs", "texts.txt", "15"]);
    let theirs = Ran::new(python.output().expect("Python starts")).succeeds().out;
    let theirs: Vec<serde_json::Value> =
        theirs.lines().map(|line| serde_json::from_str(line).expect("lines are JSON")).collect();
    assert_eq!((ours.len(), theirs.len()), (3, 3));
    // Generation ends with token 1 on either side.
    let tokens = |value: &serde_json::Value| -> Vec<i64> {
        let all: Vec<i64> = serde_json::from_value(value.clone()).expect("tokens are numbers");
        let end = all.iter().position(|token| *token == 1).map_or(all.len(), |at| at + 1);
        all[..end.min(15)].to_vec()
    };
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let [ours, theirs] = [&ours["sequences"][0]["tokens"], &theirs["tokens"]].map(tokens);
        assert_eq!(ours, theirs, "{tokenizer}");
    }
}

#[test]
fn transformers_loads_exported_folders_and_generates_the_same_tokens() {
    if !is_slow() {
        say_skipped("it installs transformers; run it with MESH_SLOW=1");
        return;
    }
    generates_as_transformers("bytes", &[]);
    let place = Workplace::new();
    let unigram = home().join("data/tests/sentencepiece/unigram_nmt_nfkc.model");
    let mut unigram = fs::read(unigram).expect("the model is in the repository");
    // `unk_id` = 2 in the options of training (field 2), as in T5's model: transformers uses it.
    unigram.extend([0x12, 3, 0xc0, 0x02, 2]);
    fs::write(place.at("spiece.model"), unigram).expect("the folder is ours");
    generates_as_transformers(&place.at("spiece.model").display().to_string(), &["--set", "vocab=192"]);
    let words = place.write("tokenizer.json", words()).display().to_string();
    generates_as_transformers(&words, &["--set", "vocab=64"]);
}

//! Folders of decoder-only models that transformers 4.57 and 5.24 write, imported, against the logits and
//! greedy tokens of the version that wrote them, and exported again.
//!
//! `tests/transformers/causal.py` writes the cases, in the form of `folders.py`.

use crate::transformers::{Case, numbers, parameters};
use compiler::interp::{self, Precision, Tensor, Tensors};
use driver::tokenizer::{self, Choice};
use interchange::hf::{Folder, export::export, import};
use mesh::{DType, Dim, Site};
use models::{Config, Generation, generate, hf::Causal, probe};
use proto::manifest::SpecialTokens;
use runtime::{
    Checkpoint, HostTensor,
    generate::{Generator, Options, Sizes},
};
use serde_json::Value;
use std::fs;
use tests::training::session_of;

/// Returns the logits after each of `rows`, whose tokens include the start token.
fn logits(config: &Config, parameters: &Tensors, rows: &[Vec<f64>]) -> Vec<f64> {
    let config = Config { batch: rows.len(), target_length: rows[0].len(), ..config.clone() };
    let module = probe::logits(&config, false, &Site::default()).finish().expect("the model is legal");
    let dims = [Dim::new("batch", rows.len()), Dim::new("target_length", rows[0].len())];
    let tokens = Tensor::new(DType::S32, &dims, rows.concat()).expect("rows have equal lengths");
    let given = Tensors::from([("input_ids".into(), tokens)]);
    let outcome = interp::run(&module, "logits", &given, parameters, Precision::Normal);
    let outcome = outcome.unwrap_or_else(|e| panic!("{e}"));
    let order = ["batch", "target_length", "vocab"].map(mesh::Name::from);
    outcome.outputs["logits"].ordered(&order).elements()
}

/// Checks the tokens that the generation program makes on the CPU plugin after the first four tokens, of
/// which the first is the start token.
#[track_caller]
fn generates(config: &Config, parameters: &Tensors, greedy: &[Vec<f64>], mesh: &str) {
    const PROMPT: usize = 4;
    let batch = if mesh.is_empty() { greedy.len() } else { 8 };
    let length = greedy[0].len() - PROMPT;
    let config = &Config { batch, target_length: length, ..config.clone() };
    let module = generate::program(config, &Generation::default(), &Site::default()).finish();
    let module = module.unwrap_or_else(|d| panic!("the model has mistakes:\n{d}"));
    let mut session = session_of(module, mesh, &config.layout(), "");
    for (name, tensor) in parameters {
        let value: Vec<f32> = tensor.elements().iter().map(|x| *x as f32).collect();
        let sizes: Vec<usize> = tensor.dims().iter().map(|d| d.size).collect();
        session.set_state(name, &HostTensor::f32(&sizes, &value)).unwrap_or_else(|e| panic!("{e}"));
    }
    let ids = |row: &[f64]| row.iter().map(|t| *t as i32).collect::<Vec<i32>>();
    let inputs: Vec<Vec<i32>> = greedy.iter().map(|row| ids(&row[1..PROMPT])).collect();
    let mut generator = Generator::new(&mut session).unwrap_or_else(|e| panic!("{e}"));
    let result = generator.run(&inputs, &Options::default(), &mut |number, sequences| {
        let mut tokens = sequences[0].tokens.clone();
        tokens.resize(length, 0);
        assert_eq!(tokens, ids(&greedy[number][PROMPT..]), "row {number}, {mesh}");
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("{e}"));
}

#[track_caller]
fn check(kind: &str, class: Causal) {
    for writer in ["v4", "v5"] {
        let name = format!("{kind}_{writer}");
        let case = Case::read(&name);
        let place = tempfile::tempdir().expect("there is a place for temporary files");
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("theirs")).expect("the folder is new");
        case.write(&at("theirs"));
        let folder = Folder::open(&at("theirs")).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(folder.described.causal, Some(class));
        let own = parameters(&folder);
        let got = logits(&folder.config, &own, &case.inputs("input_ids"));
        let want = numbers(case.value("logits"));
        assert_eq!(got.len(), want.len(), "{name}");
        let off = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(off < 2e-5, "{name}: logits are {off:e} off");
        let greedy = case.rows(case.value("greedy"));
        let meshes: &[&str] = if writer == "v4" { &["", "data=4,model=2"] } else { &[] };
        meshes.iter().for_each(|mesh| generates(&folder.config, &own, &greedy, mesh));

        import::import(&folder, &at("ours")).unwrap_or_else(|e| panic!("{name}: {e}"));
        // With the text of the import, and written from the settings.
        let stated = interchange::Overrides { settings: vec!["batch=2".into()], ..Default::default() };
        for (out, overrides) in [("again", Default::default()), ("anew", stated)] {
            export(&at("ours"), None, &overrides, &at(out), u64::MAX)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let again = Folder::open(&at(out)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let row = folder.config.target_length;
            assert_eq!(Config { target_length: row, ..again.config.clone() }, folder.config, "{name}");
            assert_eq!(parameters(&again), own, "{name}");
        }
    }
}

#[test]
fn mistral() {
    check("mistral", Causal::Mistral);
}

#[test]
fn mixtral() {
    check("mixtral", Causal::Mixtral);
}

#[test]
fn glm_4_moe() {
    check("glm4_moe", Causal::Glm4Moe);
}

/// Writes a folder of Mixtral with the tokenizer of `data/tests/llama` and these settings of it.
fn with_tokenizer(dir: &std::path::Path, settings: &str) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/tests/llama/tokenizer.json");
    let case = Case::read("mixtral_v4").edited(|case| {
        case["config"]["vocab_size"] = 320.into();
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            case["tensors"][name][0] = 320.into();
        }
    });
    fs::create_dir(dir).expect("the folder is new");
    case.write(dir);
    fs::copy(file, dir.join("tokenizer.json")).expect("the folder is ours");
    fs::write(dir.join("tokenizer_config.json"), settings).expect("the folder is ours");
}

#[test]
fn tokenizers_keep_the_token_ids_of_their_files() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let at = |name: &str| place.path().join(name);
    with_tokenizer(&at("theirs"), r#"{"tokenizer_class":"LlamaTokenizer","add_bos_token":true}"#);
    let imported = import::import(&Folder::open(&at("theirs")).expect("it is a model"), &at("ours"));
    let imported = imported.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(imported.warnings, [""; 0]);
    let checkpoint = Checkpoint::open(&at("ours")).unwrap_or_else(|e| panic!("{e}"));
    let special_tokens = SpecialTokens { pad: 0, eos: 2, sentinels: None };
    let sizes =
        Sizes { batch: 1, input_length: 9, target_length: 9, vocab: 320, continues: true, special_tokens };
    let codec = Choice(None).codec(sizes, &checkpoint).unwrap_or_else(|e| panic!("{e}"));
    let codec = codec.unwrap_or_else(|unknown| panic!("{}", unknown.error()));
    // The start token, 1, is the model's.
    let ids = tokenizer::encode(&codec, sizes, "the other hand").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ids, [281, 273, 283, 263, 277]);
    export(&at("ours"), None, &Default::default(), &at("again"), u64::MAX).unwrap_or_else(|e| panic!("{e}"));
    let read = |dir: &str, name: &str| fs::read(at(dir).join(name)).expect("the folder is ours");
    assert_eq!(read("again", "tokenizer.json"), read("theirs", "tokenizer.json"));
    let settings: Value =
        serde_json::from_slice(&read("again", "tokenizer_config.json")).expect("it is JSON");
    assert_eq!((&settings["bos_token"], &settings["eos_token"]), (&"<s>".into(), &"</s>".into()));

    for (settings, part) in [
        (r#"{"add_bos_token":false}"#, "it adds no start token"),
        (r#"{"tokenizer_class":"LlamaTokenizer","add_eos_token":true}"#, "it adds an end token"),
    ] {
        let name = part.replace(' ', "_");
        with_tokenizer(&at(&name), settings);
        let folder = Folder::open(&at(&name)).expect("it is a model");
        let imported = import::import(&folder, &at(&format!("of_{name}"))).unwrap_or_else(|e| panic!("{e}"));
        assert!(imported.warnings.iter().any(|w| w.contains(part)), "{:?}", imported.warnings);
    }
}

/// Writes exports for `causal.py check`, if the variable names a folder.
#[test]
fn exports_load_in_transformers() {
    let Some(python) = std::env::var_os("MESH_TRANSFORMERS_PYTHON") else {
        return tests::say_skipped(
            "MESH_TRANSFORMERS_PYTHON names a python with transformers that loads the exports",
        );
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/transformers/causal.py");
    for name in ["mistral_v4", "mixtral_v4", "glm4_moe_v4"] {
        let place = tempfile::tempdir().expect("there is a place for temporary files");
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("theirs")).expect("the folder is new");
        Case::read(name).write(&at("theirs"));
        let folder = Folder::open(&at("theirs")).unwrap_or_else(|e| panic!("{name}: {e}"));
        import::import(&folder, &at("ours")).unwrap_or_else(|e| panic!("{name}: {e}"));
        let anew = interchange::Overrides { settings: vec!["batch=2".into()], ..Default::default() };
        export(&at("ours"), None, &anew, &at("out"), u64::MAX).unwrap_or_else(|e| panic!("{name}: {e}"));
        let ran =
            std::process::Command::new(&python).arg(script).arg("check").arg(at("out")).arg(name).output();
        let ran = ran.expect("python starts");
        assert!(ran.status.success(), "{name}: {}", String::from_utf8_lossy(&ran.stderr));
        println!("{}", String::from_utf8_lossy(&ran.stdout));
    }
}

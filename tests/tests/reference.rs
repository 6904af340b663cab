//! Checkpoints that tensorstore, flax and tensorflow write, imported and exported.
//!
//! `tests/transformers/checkpoints.py` makes them of Hugging Face models, whose logits the imported
//! checkpoint must have. What is exported as a Hugging Face model must have the same bits, and what is
//! exported for T5X too.
//!
//! With `MESH_SLOW=1` the libraries are installed in virtual environments. `MESH_FLAX_PYTHON` and
//! `MESH_TENSORFLOW_PYTHON` name Pythons that have them.

use crate::transformers::Case;
use compiler::interp::{Tensor, Tensors};
use interchange::{
    Origin, Overrides, arrays,
    hf::{Folder, export::export},
};
use mesh::{DType, Dim};
use runtime::checkpoint::{Checkpoint, Kind};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/transformers/checkpoints.py");
const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/transformers/cases");
const FLAX: &[&str] = &["flax==0.12.8", "tensorstore==0.1.86", "safetensors==0.8.0"];
const TENSORFLOW: &[&str] = &["tensorflow-cpu==2.21.0", "safetensors==0.8.0"];
/// Settings that a checkpoint of T5X does not state: the sizes from which the script factors slots, and what
/// the cases have.
const SETTINGS: [&str; 4] = ["factored_from=4", "max_distance=16", "dropout=0", "z_loss=0"];

/// Returns a Python with these packages.
fn python(variable: &str, name: &str, packages: &[&str]) -> PathBuf {
    if let Some(python) = env::var_os(variable) {
        return python.into();
    }
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("interchange-{name}"));
    let python = place.join("bin/python");
    if !place.join("done").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&place));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages));
        fs::write(place.join("done"), "").expect("the environment can be written");
    }
    python
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// Runs the script.
fn script(python: &Path, words: &[&str], paths: &[&Path], last: Option<&str>) {
    run(Command::new(python).arg(HERE).args(words).args(paths).args(last));
}

fn overrides(more: &[&str]) -> Overrides {
    let settings = SETTINGS.iter().chain(more).map(|s| (*s).to_owned()).collect();
    Overrides { dtype: None, settings }
}

/// Checks that two folders of Hugging Face have the same tensors, bit for bit.
fn same(one: &Path, two: &Path) {
    let [one, two] = [one, two].map(|dir| Folder::open(dir).unwrap_or_else(|e| panic!("{e}")));
    // The settings may stack the same layers in another way.
    let shapes = |folder: &Folder| -> Vec<_> {
        folder.tensors.iter().map(|t| (t.name.clone(), t.sizes.clone())).collect()
    };
    assert_eq!(shapes(&one), shapes(&two));
    for tensor in &one.tensors {
        let (a, b) =
            (one.read(&tensor.name).expect("it is there"), two.read(&tensor.name).expect("it is there"));
        assert!(a == b, "{}", tensor.name);
    }
}

/// Imports a checkpoint of arrays and exports it as a Hugging Face model, which must be `theirs`. Returns the
/// summary of the import.
fn imported(from: &Path, theirs: &Path, place: &Path, more: &[&str]) -> String {
    let (ours, again) = (place.join("ours"), place.join("hf_again"));
    let said = arrays::import(from, &overrides(more), &ours).unwrap_or_else(|e| panic!("{e}"));
    export(&ours, None, &Overrides::default(), &again, u64::MAX).unwrap_or_else(|e| panic!("{e}"));
    same(theirs, &again);
    said
}

/// Checks the logits of an imported checkpoint against those of the Hugging Face model. Returns their largest
/// relative difference.
fn has_their_logits(case: &str, ours: &Path) -> f64 {
    let checkpoint = Checkpoint::open(ours).unwrap_or_else(|e| panic!("{e}"));
    let origin = Origin::of(&checkpoint, None, &Overrides::default()).unwrap_or_else(|e| panic!("{e}"));
    let config = origin.config().unwrap_or_else(|e| panic!("{e}"));
    let parameters = checkpoint.tensors().iter().filter(|entry| entry.kind == Kind::Param);
    let parameters: Tensors = parameters
        .map(|entry| {
            let dims: Vec<Dim> =
                entry.dims.iter().map(|(name, size)| Dim::new(name.as_str(), *size)).collect();
            let value = checkpoint.read(&entry.name).and_then(|value| value.to_f64());
            let value = value.unwrap_or_else(|e| panic!("{}: {e}", entry.name));
            let tensor = Tensor::new(DType::F32, &dims, value).expect("it has every element");
            (entry.name.as_str().into(), tensor)
        })
        .collect();
    Case::read(case).check_logits(&config, &parameters, case)
}

/// Runs one case: `how` is the command of the script.
fn check(case: &str, how: &str, slots: bool, dtype: Option<&str>, more: &[&str]) {
    let python_flax = python("MESH_FLAX_PYTHON", "flax", FLAX);
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let at = |name: &str| place.path().join(name);
    let description = Path::new(CASES).join(format!("{case}.json"));
    script(&python_flax, &["hf"], &[&description, &at("hf")], None);
    let writer = match how {
        "tf" => python("MESH_TENSORFLOW_PYTHON", "tensorflow", TENSORFLOW),
        _ => python_flax.clone(),
    };
    script(&writer, &[how], &[&at("hf"), &at("theirs")], dtype);
    let said = if dtype.is_some() {
        // Rounded, it is another model than that of the Hugging Face folder.
        arrays::import(&at("theirs"), &overrides(more), &at("ours")).unwrap_or_else(|e| panic!("{e}"))
    } else {
        imported(&at("theirs"), &at("hf"), place.path(), more)
    };
    assert!(said.contains("step 1234"), "{said}");
    // Rounded to bfloat16, it has other logits.
    let off = if dtype.is_none() { has_their_logits(case, &at("ours")) } else { 0.0 };
    assert_eq!(!said.contains("slots: none"), slots, "{case} {how}: {said}");
    let summary = arrays::export(&at("ours"), None, &Overrides::default(), &at("again"));
    let summary = summary.unwrap_or_else(|e| panic!("{e}"));
    match how {
        "tf" => {
            // As T5X's checkpoint it is the same model again.
            fs::rename(at("ours"), at("first")).expect("the folder is ours");
            fs::remove_dir_all(at("hf_again")).expect("the folder is ours");
            imported(&at("again"), &at("hf"), place.path(), more);
        }
        _ => script(&python_flax, &["compare"], &[&at("theirs"), &at("again")], None),
    }
    println!("{case} {how}: {said}; {summary}; logits are {off:e} off");
}

#[test]
fn checkpoints_of_the_real_libraries() {
    if env::var_os("MESH_SLOW").is_none_or(|v| v != "1") {
        println!("skipped: it installs flax and tensorflow; run it with MESH_SLOW=1");
        return;
    }
    let sparse = ["fixed_capacity=64", "jitter=0"];
    // The untied cases of transformers 5.24 share their table and do not scale the output, which T5X cannot
    // express. Those of 4.57 have an output projection.
    for how in ["t5x", "tf"] {
        check("t5_tied_v5", how, true, None, &[]);
        check("t5_untied_v4", how, true, None, &[]);
        check("switch_v5", how, true, None, &sparse);
    }
    check("umt5_untied_v4", "scanned", true, None, &[]);
    check("switch_v5", "t5x", true, Some("bfloat16"), &sparse);
}

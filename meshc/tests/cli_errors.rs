//! Invalid input: each mistake gives a message with the problem, its place and a remedy, an exit code other
//! than 0, and leaves no partial output.

use crate::support::{Workplace, cpu_plugin, home, model, say_skipped, text, tiny_switch};
use std::{fs, path::Path, process::Command};

/// Compiles models/matmul.rs with `args`, which must fail with `parts` in the message and leave nothing.
#[track_caller]
fn matmul_fails(args: &[&str], code: i32, parts: &[&str]) {
    let place = Workplace::new();
    let path = model("matmul.rs");
    place.run(&[&["compile", &path], args].concat()).fails_with(code, parts);
    assert!(place.entries().is_empty(), "{:?}", place.entries());
}

/// Compiles a model with this source, which must fail.
#[track_caller]
fn source_fails(source: &str, parts: &[&str]) -> Workplace {
    let place = Workplace::new();
    place.write("bad.rs", source);
    place.run(&["compile", "bad.rs"]).fails(parts);
    assert_eq!(place.entries(), ["bad.rs"]);
    place
}

// Layouts.

#[test]
fn a_layout_that_splits_a_dim_twice() {
    matmul_fails(
        &["--mesh", "data=2,model=2", "--layout", "batch:data,batch:model"],
        2,
        &["--layout", "splits dim `batch` twice", "`batch:axis+axis`"],
    );
}

#[test]
fn a_layout_that_puts_two_dims_of_a_tensor_over_one_axis() {
    matmul_fails(
        &["--mesh", "data=2", "--layout", "batch:data,d_ff:data"],
        1,
        &[
            "splits both `batch` and `d_ff`",
            "models/matmul.rs:21:",
            "einsum([x, w.read(g)]",
            "^^^^^^",
            "help: no other axis is free",
        ],
    );
}

#[test]
fn a_size_that_does_not_divide() {
    matmul_fails(
        &["--mesh", "data=3"],
        1,
        &[
            "dim `batch` of size 64 does not divide into 3 shards",
            "models/matmul.rs:",
            "help: `batch` can be split into 1, 2, 4",
        ],
    );
}

#[test]
fn an_unknown_dim_in_a_layout() {
    matmul_fails(
        &["--mesh", "data=2", "--layout", "bach:data"],
        1,
        &["splits dim `bach`, which no tensor of the program has", "did you mean `batch`?"],
    );
}

#[test]
fn an_unknown_axis_in_a_layout() {
    matmul_fails(
        &["--mesh", "data=2", "--layout", "batch:expert"],
        1,
        &["over axis `expert`, but the mesh has axes data", "help:", "--mesh"],
    );
    matmul_fails(&["--mesh", "data=2", "--state-layout", "w:exp"], 1, &["axis `exp`", "--state-layout"]);
}

#[test]
fn a_mesh_that_is_none() {
    matmul_fails(&["--mesh", "data"], 2, &["--mesh", "`data` has no size: write it as `data=2`"]);
    matmul_fails(&["--mesh", "data=0"], 2, &["size 0"]);
    matmul_fails(&["--mesh", "data=2,data=2"], 2, &["given twice"]);
    matmul_fails(&["--target", "tpu:v5e"], 2, &["tpu:v5e:2x4"]);
}

#[test]
fn a_slice_that_is_none() {
    matmul_fails(
        &["--target", "tpu:v9:2x2"],
        2,
        &["unknown TPU generation `v9`", "v2, v3, v4, v5e, v5p, v6e, tpu7x"],
    );
    matmul_fails(
        &["--target", "tpu:v5e:3x5"],
        2,
        &["`v5e:3x5` is not a valid slice", "shapes: 1x1, 2x2, 2x4"],
    );
    matmul_fails(&["--target", "tpu:v5e:2x4:megacore"], 2, &["`megacore` is not a mode of v5e"]);
    matmul_fails(
        &["--target", "tpu:v4:2x2x1", "--mesh", "data=2"],
        1,
        &["the mesh data=2 has 2 devices, but tpu:v4:2x2x1 has 8", "--mesh data=8"],
    );
    matmul_fails(
        &["--target", "tpu:v4:2x2x1", "--target-option", "chip_config_name=huge", "--mesh", "data=8"],
        1,
        &["v4 has no chip_config_name `huge`"],
    );
    matmul_fails(&["--target-option", "num_slices=2"], 1, &["has no effect on the target cpu"]);
}

#[test]
fn a_function_that_is_none() {
    matmul_fails(
        &["--function", "train_stop"],
        1,
        &["no function `train_stop`", "its functions are init, forward"],
    );
}

// Models.

#[test]
fn a_model_that_does_not_compile_in_rust() {
    source_fails(
        "fn main() {\n    let x: u32 = \"text\";\n}\n",
        // The message of rustc, followed by ours.
        &["error[E0308]", "bad.rs:2:18", "expected `u32`", "model `bad.rs` does not compile", "help:"],
    );
}

#[test]
fn a_model_that_panics() {
    source_fails(
        "fn main() {\n    let sizes: Vec<usize> = Vec::new();\n    panic!(\"no sizes: {sizes:?}\");\n}\n",
        &["model `bad.rs` panicked at bad.rs:3:5: no sizes: []", "help:"],
    );
}

#[test]
fn a_model_that_prints_something_else() {
    source_fails(
        "fn main() {\n    println!(\"hello\");\n}\n",
        &["the output of model `bad.rs` is not a program", "line 1, `hello`", "help:", "mesh::dsl::main"],
    );
    source_fails("fn main() {}\n", &["model `bad.rs` printed nothing", "help:"]);
    source_fails(
        "use std::io::Write;\nfn main() {\n    std::io::stdout().write_all(&[0xff, 0xfe]).unwrap();\n}\n",
        &["model `bad.rs`", "it is not text"],
    );
    source_fails(
        "fn main() {\n    eprintln!(\"my disk is full\");\n    std::process::exit(3);\n}\n",
        &["model `bad.rs` failed (exit status: 3)", "my disk is full"],
    );
}

const WRONG_DIMS: &str = r#"
use mesh::{DType, Dim, dsl::{self, Program}};
mod layers;

fn main() -> std::process::ExitCode {
    dsl::main(|_| {
        let p = Program::new("wrong");
        let (a, b) = (Dim::new("a", 4), Dim::new("b", 6));
        p.function("f", |g| {
            let x = g.input("x", DType::F32, [&a, &b]);
            g.output("y", layers::total(x));
            g.output("z", x.rename("c", "d"));
        });
        p
    })
}
"#;

#[test]
fn mistakes_of_a_model_are_shown_all_at_once_at_its_lines() {
    let place = Workplace::new();
    place.write("wrong.rs", WRONG_DIMS);
    place.write(
        "layers.rs",
        "use mesh::dsl::Tensor;\npub fn total(x: Tensor<'_>) -> Tensor<'_> {\n    x.sum([\"batch\"])\n}\n",
    );
    let ran = place.run(&["check", "wrong.rs"]).fails(&[
        "layers.rs:3:7",
        "x.sum([\"batch\"])",
        "wrong.rs:12:29",
        "2 mistakes in wrong.rs",
    ]);
    assert_eq!(ran.err.matches("help:").count(), 2, "{}", ran.err);
    // The same mistakes as JSON.
    let ran = place.run(&["check", "wrong.rs", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &said["ok"]), (Some(1), &false.into()));
    let mistakes = said["mistakes"].as_array().unwrap();
    assert_eq!(mistakes.len(), 2);
    assert_eq!((mistakes[0]["file"].as_str(), mistakes[0]["line"].as_u64()), (Some("layers.rs"), Some(3)));
    assert_eq!(place.entries(), ["layers.rs", "wrong.rs"]);
}

/// Calls a layer of the library with two dims of one name.
const LIBRARY: &str = r#"
use mesh::{Dim, dsl::{self, Program}};
use models::{Activation, feed_forward::FeedForward, weights::Weights};

fn layer(p: &Program) {
    let d = Dim::new("d", 8);
    FeedForward::new(&Weights::new(p), &d, &d, Activation::Relu);
}

fn main() -> std::process::ExitCode {
    dsl::main(|_| {
        let p = Program::new("bad");
        layer(&p);
        p
    })
}
"#;

#[test]
fn mistakes_in_library_code_are_shown_at_the_line_of_the_model() {
    source_fails(
        LIBRARY,
        &[
            "error[type_t1]",
            "--> bad.rs:7:5",
            "FeedForward::new(&Weights::new(p), &d, &d, Activation::Relu);",
            "note: in library code at models/src/feed_forward.rs:",
        ],
    );
}

#[test]
fn settings_that_the_model_does_not_have() {
    matmul_fails(&["--set", "bach=4"], 1, &["no setting `bach`", "did you mean `batch`?"]);
    matmul_fails(&["--set", "batch=many"], 1, &["got `many`", "whole number"]);
}

#[test]
fn mistakes_in_mesh_text() {
    let place = Workplace::new();
    let text = "module m\n\nfunc f(%0 x: f32[a=4]) -> (y: f32[a=4]) {\n  %1 = relo %0\n  return %1\n}\n";
    place.write("m.mesh", text);
    place.run(&["compile", "m.mesh"]).fails(&["m.mesh:4:8", "relo %0", "1 mistake in m.mesh"]);
    place
        .run(&["compile", "m.mesh", "--set", "a=5"])
        .fails(&["has no settings", "leave out --dtype, --set and --schedule"]);
    place.write("n.mesh", b"module \xff");
    place.run(&["compile", "n.mesh"]).fails(&["`n.mesh` is not text", "byte 7"]);
    place.run(&["check", "switch_bsae"]).fails(&["no built-in model", "did you mean `switch_base`?"]);
    place.run(&["check", "t5_tiny", "--schedule", "preset=xxl"]).fails(&["no preset", "switch_xxl-v4"]);
    place.run(&["check", "t5_tiny", "--schedule", "remat=none"]).fails(&["`remat` must be one of", "`none`"]);
    place.run(&["check", "o.mesh"]).fails(&["no model file and no built-in model `o.mesh`", "help:"]);
    place.run(&["check", "."]).fails(&["`.` is a directory"]);
    place.write("m.txt", text);
    place.run(&["check", "m.txt"]).fails(&["`m.txt` is neither", ".rs or .mesh"]);
    assert_eq!(place.entries(), ["m.mesh", "m.txt", "n.mesh"]);
}

#[test]
fn a_source_tree_that_is_gone() {
    let place = Workplace::new();
    let output = place.meshc(&["check", &model("matmul.rs")]).env("MESH_HOME", "/nowhere").output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("MESH_HOME names `/nowhere`") && err.contains("set MESH_HOME"), "{err}");
}

#[test]
fn a_cache_that_cannot_be_written() {
    let place = Workplace::new();
    place.write("file", "");
    let output = place
        .meshc(&["check", &model("matmul.rs")])
        .env("MESH_CACHE", place.at("file/cache"))
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("the cache `") && err.contains("set MESH_CACHE"), "{err}");
}

// Artefacts.

#[test]
fn a_folder_that_is_no_artefact_is_not_replaced() {
    let place = Workplace::new();
    place.write("notes/n.txt", "mine");
    place.run(&["compile", &model("matmul.rs"), "-o", "notes"]).fails(&["`notes` already exists", "-o"]);
    assert_eq!(fs::read_to_string(place.at("notes/n.txt")).unwrap(), "mine");
    assert_eq!(place.entries(), ["notes"]);
    // A path below a file.
    place.run(&["compile", &model("matmul.rs"), "-o", "notes/n.txt/x"]).fails(&["notes/n.txt"]);
}

/// Returns the sorted names of the files of a directory.
fn place_files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Flips bits of every file of an artefact of switch_tiny: 1,000 in this process, of which some are also
/// given to every command that reads an artefact.
#[test]
fn flipped_bits_of_a_large_artefact_are_found() {
    if std::env::var_os("MESH_SLOW").is_none_or(|v| v != "1") {
        say_skipped("MESH_SLOW=1 runs it");
        return;
    }
    const FLIPS: u64 = 1000;
    const WITH_COMMANDS: u64 = 10;
    let place = Workplace::new();
    place.run(&["compile", "switch_tiny", "--mesh", "data=2,expert=2", "-o", "a"]).succeeds();
    runtime::Artefact::open(&place.at("a")).unwrap();
    let data = home().join("LICENSE").display().to_string();
    let mut seed = 1u64;
    for name in place_files(&place.at("a")) {
        let path = place.at("a").join(&name);
        let whole = fs::read(&path).unwrap();
        for n in 0..FLIPS {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bit = (seed >> 16) as usize % (8 * whole.len());
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            assert!(runtime::Artefact::open(&place.at("a")).is_err(), "bit {bit} of {name}");
            if n >= WITH_COMMANDS {
                continue;
            }
            for command in [
                &["report", "a"][..],
                &["run", "a", "init", "--seed", "1", "--outputs", "s"],
                &["train", "a", "--data", &data],
            ] {
                place.run(command).fails(&[]);
            }
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(place.entries(), ["a"]);
}

#[test]
fn artefacts_that_are_truncated_or_altered() {
    let place = Workplace::new();
    let run = |place: &Workplace| {
        place.run(&["run", "matmul", "init", "--seed", "1", "--outputs", "s.safetensors"])
    };
    run(&place)
        .fails(&["there is no artefact, no model file and no built-in model `matmul`", "meshc compile"]);
    place.matmul("data=2");
    let file = |name: &str| place.at("matmul").join(name);
    let (hlo, manifest) = (fs::read(file("init.hlo.pb")).unwrap(), fs::read(file("manifest.pb")).unwrap());

    fs::write(file("init.hlo.pb"), &hlo[..hlo.len() / 2]).unwrap();
    run(&place).fails(&[
        "artefact `matmul`",
        "`init.hlo.pb` is altered or truncated",
        "help: compile the model again",
    ]);
    let mut altered = hlo.clone();
    altered[100] ^= 1;
    fs::write(file("init.hlo.pb"), altered).unwrap();
    run(&place).fails(&["`init.hlo.pb` is altered"]);
    fs::remove_file(file("init.hlo.pb")).unwrap();
    run(&place).fails(&["init.hlo.pb", "No such file"]);
    fs::write(file("init.hlo.pb"), &hlo).unwrap();

    fs::write(file("manifest.pb"), &manifest[..manifest.len() / 2]).unwrap();
    run(&place).fails(&["artefact `matmul`", "manifest.pb", "help:"]);
    fs::write(file("manifest.pb"), "").unwrap();
    run(&place).fails(&["artefact `matmul`", "manifest.pb", "help:"]);
    fs::remove_file(file("manifest.pb")).unwrap();
    run(&place).fails(&["`matmul` is not an artefact: it has no manifest.pb"]);
    fs::write(file("manifest.pb"), &manifest).unwrap();

    // Every command that reads an artefact verifies every file of it.
    place.run(&["report", "matmul"]).succeeds();
    for name in place_files(&file("")) {
        let whole = fs::read(file(&name)).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 4;
        fs::write(file(&name), flipped).unwrap();
        for command in [
            &["report", "matmul"][..],
            &["run", "matmul", "init", "--seed", "1", "--outputs", "s"],
            &["train", "matmul"],
        ] {
            let data = home().join("LICENSE").display().to_string();
            let more: &[&str] = if command[0] == "train" { &["--data", &data] } else { &[] };
            place
                .run(&[command, more].concat())
                .fails(&["artefact `matmul`", "help: compile the model again"]);
        }
        fs::write(file(&name), whole).unwrap();
    }
    assert_eq!(place.entries(), ["matmul"]);
}

#[test]
fn tensors_that_do_not_fit() {
    let place = Workplace::new();
    place.matmul("data=2");
    let tensor = |name: &str, shape: &[usize]| {
        let bytes = vec![0; shape.iter().product::<usize>() * 4];
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &bytes).unwrap();
        place.write(&format!("{name}.safetensors"), safetensors::serialize([(name, view)], None).unwrap());
        format!("{name}.safetensors")
    };
    let (w, x, y) = (tensor("w", &[128, 256]), tensor("x", &[128, 64]), tensor("xx", &[1]));
    let call = |inputs: &[&str]| {
        let mut args = vec!["run", "matmul", "forward", "--outputs", "out.safetensors"];
        inputs.iter().for_each(|file| args.extend(["--inputs", file]));
        place.run_on_cpu(&args)
    };
    call(&[&x]).fails(&["`forward` reads the state `w`", "meshc run ARTEFACT init"]);
    call(&[&w]).fails(&["`forward` needs `x`", "--inputs"]);
    call(&[&w, &y]).fails(&["tensor `xx`, which `forward` does not take", "did you mean `x`?"]);
    call(&[&w, &x]).fails(&["input `x` of `forward` is f32[128, 64]", "f32[batch=64, d_model=128]"]);
    call(&[&w, &w]).fails(&["tensor `w`", "earlier file"]);
    call(&["none.safetensors"]).fails(&["none.safetensors`: No such file", "help: name a safetensors file"]);
    place.write("junk.safetensors", "junk");
    call(&["junk.safetensors"]).fails(&["`junk.safetensors` is not a safetensors file"]);
    place
        .run_on_cpu(&["run", "matmul", "backward", "--outputs", "out.safetensors"])
        .fails(&["no function `backward`", "forward"]);
    assert!(!place.at("out.safetensors").exists());
}

// Data and devices.

#[track_caller]
fn train_fails(place: &Workplace, args: &[&str], parts: &[&str]) {
    let path = model("switch_tiny.rs");
    place.run_on_cpu(&[&["train", &path, "--steps", "2"][..], &tiny_switch(), args].concat()).fails(parts);
}

#[test]
fn data_that_is_missing_or_empty() {
    let place = Workplace::new();
    train_fails(&place, &["--data", "none.txt"], &["data file `none.txt` does not exist", "help:"]);
    place.write("empty.txt", "");
    train_fails(&place, &["--data", "empty.txt"], &["`empty.txt` is empty", "help: remove it from the data"]);
    place.write("short.txt", "short");
    train_fails(&place, &["--data", "short.txt"], &["too short: 5 bytes", "help:"]);
    let ran = place.run(&["train", &model("switch_tiny.rs")]);
    ran.fails_with(2, &["--data"]);
    assert_eq!(place.entries(), ["empty.txt", "short.txt"]);
}

#[test]
fn a_mesh_larger_than_the_devices() {
    let place = Workplace::new();
    place.matmul("data=4");
    let two = "cpu_device_count=2";
    place
        .run_on_cpu(&[
            "run",
            "matmul",
            "init",
            "--seed",
            "1",
            "--outputs",
            "s.safetensors",
            "--client-option",
            two,
        ])
        .fails(&["the mesh has 4 devices", "offers 2", "help: use a smaller mesh"]);
    assert_eq!(place.entries(), ["matmul"]);
}

#[test]
fn metrics_that_cannot_be_written() {
    let place = Workplace::new();
    let data = text();
    train_fails(&place, &["--data", &data, "--metrics", "no/such/folder.jsonl"], &["no/such/folder.jsonl"]);
    assert!(place.entries().is_empty());
}

// Plugins.

/// Compiles a shared library.
fn library(place: &Workplace, name: &str, source: &str) -> String {
    let c = place.write(&format!("{name}.c"), source);
    let library = place.at(&format!("{name}.so"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&c).status();
    assert!(built.expect("these tests need a C compiler called `cc`").success());
    library.display().to_string()
}

/// Returns the source of a plugin of this version whose table has empty functions at these places.
fn table(major: i32, places: &str) -> String {
    format!(
        "#include <stddef.h>
        static void *nothing(void *args) {{ return 0; }}
        static struct {{ size_t size; void *ext; size_t version_size; void *version_ext; int major, minor;
            void *functions[118]; }} api = {{ sizeof api, 0, 24, 0, {major}, 90, {{ {places} }} }};
        void *use = (void *)nothing;
        void *GetPjrtApi(void) {{ return &api; }}"
    )
}

#[test]
fn plugins_that_are_none() {
    let place = Workplace::new();
    place.matmul("data=2");
    let run = |plugin: &str, parts: &[&str]| {
        let args = ["run", "matmul", "init", "--seed", "1", "--outputs", "s.safetensors", "--plugin", plugin];
        place.run(&args).fails(parts);
    };
    run("/no/such/plugin.so", &["--plugin names the plugin `/no/such/plugin.so`", "no such file", "help:"]);
    let text = place.write("text.so", "This is not a library.").display().to_string();
    run(&text, &["cannot load the PJRT plugin", "text.so"]);
    let other = library(&place, "other", "int GetSomethingElse(void) { return 1; }");
    run(&other, &["other.so", "does not export GetPjrtApi"]);
    let newer = library(&place, "newer", &table(1, "[0 ... 117] = (void *)nothing"));
    run(&newer, &["newer.so", "1.90", "major version 0"]);
    let lacking = library(&place, "lacking", &table(0, "[0 ... 1] = (void *)nothing"));
    run(&lacking, &["lacking.so", "PJRT_Error"]);
    assert!(!place.at("s.safetensors").exists());
    // The doctor reports the same problems, and none for the CPU plugin.
    let cpu = cpu_plugin().display().to_string();
    let ran = place.run(&["plugin", "doctor", "--json", &text, &newer, &cpu]).fails(&["text.so", "newer.so"]);
    let seen: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(seen[0]["problems"].as_array().unwrap().len(), 1, "{seen}");
    assert_eq!(seen[2]["problems"].as_array().unwrap().len(), 0, "{seen}");
    assert!(seen[2]["devices"].as_u64().unwrap() > 0, "{seen}");
    assert!(!ran.err.contains(&cpu), "{}", ran.err);
}

#[test]
fn a_plugin_that_crashes_does_not_take_the_doctor_with_it() {
    let place = Workplace::new();
    let source = "#include <stdlib.h>\nvoid *GetPjrtApi(void) { abort(); }";
    let crashing = library(&place, "crashing", source);
    let ran = place.run(&["plugin", "doctor", &crashing]).fails(&["no program can run on", "crashing.so"]);
    assert!(ran.out.contains("it ended its process"), "{}", ran.out);
}

#[test]
fn plugins_that_are_not_installed_here() {
    let place = Workplace::new();
    place.run(&["plugin", "install", "tpu"]).fails(&["`tpu`", "pip install libtpu"]);
    place.run(&["plugin", "install", "abacus"]).fails(&["`abacus`", "cpu, gpu and tpu"]);
}

#[test]
fn options_of_a_model_for_an_artefact() {
    let place = Workplace::new();
    place.matmul("data=2");
    place.run(&["report", "matmul", "--mesh", "data=4"]).fails(&["`matmul` is compiled", "--mesh"]);
    assert!(Path::new(&place.at("matmul/manifest.pb")).is_file());
}

#[test]
fn a_run_directory_in_a_bucket_is_refused() {
    let place = Workplace::new();
    place.write("text.txt", "some text to train on\n".repeat(100));
    let args = ["train", "switch_tiny", "--data", "text.txt", "--steps", "1", "--run-dir", "gs://b/run"];
    let ran = place.run(&[&args[..], &tiny_switch()].concat());
    ran.fails(&["`--run-dir` must be a local directory (got gs://b/run)", "--checkpoint-dir"]);
    assert_eq!(place.entries(), ["text.txt"]);
}

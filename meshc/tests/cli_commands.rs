//! The commands, through the command line.

use crate::{
    cli_training::artefact,
    support::{Ran, Workplace, cpu_plugin, model, text, tiny_switch},
};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
    thread,
};

/// Returns the files of a directory.
fn files(place: &Workplace, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(place.at(folder)).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[test]
fn compiling_twice_gives_the_same_bytes_and_builds_the_model_once() {
    let place = Workplace::new();
    let source = fs::read_to_string(model("matmul.rs")).unwrap();
    place.write("elsewhere/my model.rs", &source);
    let compile = |out: &str| {
        let args = [
            "compile",
            "elsewhere/my model.rs",
            "--mesh",
            "data=2,model=2",
            "--emit",
            "hlo,mesh,report",
            "-o",
            out,
        ];
        place.run(&args).succeeds()
    };
    let first = compile("a");
    assert!(first.err.contains("building elsewhere/my model.rs"), "{}", first.err);
    assert!(first.out.contains("parameters"), "{}", first.out);
    let second = compile("b");
    assert_eq!(second.err, "");
    let (a, b) = (files(&place, "a"), files(&place, "b"));
    assert_eq!(a, b);
    let names: Vec<&str> = a.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "SHA256SUMS",
            "forward.compile_options.pb",
            "forward.hlo.pb",
            "global.mesh",
            "init.compile_options.pb",
            "init.hlo.pb",
            "local.mesh",
            "manifest.json",
            "manifest.pb",
            "report.json"
        ]
    );
    // The name of a model is the path that the user gave.
    let global = String::from_utf8(a["global.mesh"].clone()).unwrap();
    assert!(global.contains("\"elsewhere/my model.rs\":"), "{global}");
    let manifest: serde_json::Value = serde_json::from_slice(&a["manifest.json"]).unwrap();
    assert_eq!(manifest["source"]["name"], "elsewhere/my model.rs");
    assert_eq!(manifest["layout"], "batch:data,d_ff:model");

    // An artefact is replaced, and a changed model is rebuilt.
    place.write("elsewhere/my model.rs", source.replace("(\"batch\", 64)", "(\"batch\", 32)"));
    let third = compile("b");
    assert!(third.err.contains("building"), "{}", third.err);
    assert_ne!(files(&place, "b")["forward.hlo.pb"], b["forward.hlo.pb"]);
    assert_eq!(place.entries(), ["a", "b", "elsewhere"]);
}

#[test]
fn processes_share_the_cache() {
    let place = Workplace::new();
    let source = fs::read_to_string(model("matmul.rs")).unwrap();
    place.write("shared.rs", source);
    thread::scope(|scope| {
        let checks: Vec<_> =
            (0..4).map(|_| scope.spawn(|| place.run(&["check", "shared.rs"]).succeeds())).collect();
        let built =
            checks.into_iter().map(|c| c.join().unwrap()).filter(|ran| ran.err.contains("building")).count();
        assert_eq!(built, 1);
    });
}

#[test]
fn the_program_after_each_stage() {
    let place = Workplace::new();
    let path = model("matmul.rs");
    let base = ["compile", &path, "--mesh", "data=2", "--stop-after", "partition"];
    let ran = place.run(&base).succeeds();
    assert!(ran.out.contains("batch=64@data"), "{}", ran.out);
    assert!(place.entries().is_empty());
    place.run(&[&base[..], &["--dump", "stages"]].concat()).succeeds();
    let names: Vec<String> = files(&place, "stages").into_keys().collect();
    assert_eq!(names.len(), 5, "{names:?}");
    assert_eq!((names[0].as_str(), names[4].as_str()), ("01-verify.mesh", "05-partition.mesh"));
    // Program text is accepted like a model.
    place.run(&["check", "stages/04-simplify-gradients.mesh", "--mesh", "data=4"]).succeeds();
    let ran = place.run(&["compile", &path, "--stop-after", "hlo", "--timings"]).succeeds();
    assert!(ran.out.contains("HloModule"), "{}", ran.out);
    assert!(ran.err.contains("partition") && ran.err.contains(" ms"), "{}", ran.err);
}

#[test]
fn a_dump_of_one_devices_program_is_taken_back() {
    let place = Workplace::new();
    let path = model("switch_tiny.rs");
    let split = ["--mesh", "data=2,expert=2"];
    place.run(&[&["compile", &path, "--dump", "d", "-o", "whole"][..], &split].concat()).succeeds();
    let dump = "d/06-simplify-local.mesh";
    let ran = place.run(&["check", dump]).succeeds();
    assert!(ran.out.contains("4 devices (data=2,expert=2), already partitioned"), "{}", ran.out);
    place.run(&["compile", dump, "-o", "again"]).succeeds();
    let hlo = |folder: &str| {
        let mut files = files(&place, folder);
        files.retain(|name, _| name.ends_with(".hlo.pb"));
        files
    };
    assert!(!hlo("whole").is_empty());
    assert!(hlo("whole") == hlo("again"), "the HLO differs");
    place.run(&["check", dump, "--layout", "batch:data"]).fails(&["already partitioned", "--layout"]);
}

#[test]
fn a_dump_computes_the_same_as_the_model() {
    let place = Workplace::new();
    let path = model("matmul.rs");
    // The contraction over d_model is summed over the axis `model`.
    let split = ["--mesh", "data=2,model=2", "--layout", "batch:data,d_model:model"];
    place.run(&[&["compile", &path, "--dump", "d"][..], &split].concat()).succeeds();
    let x: Vec<u8> = (0..64 * 128).flat_map(|i| ((i * 7 % 13) as f32 / 3.0).to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![64, 128], &x).unwrap();
    place.write("x.safetensors", safetensors::serialize([("x", view)], None).unwrap());
    let results = |program: &str, options: &[&str]| {
        let run = |args: &[&str]| {
            place.run_on_cpu(&[&["run", program], args, options].concat()).succeeds();
        };
        run(&["init", "--seed", "3", "--outputs", "w.safetensors"]);
        run(&[
            "forward",
            "--inputs",
            "w.safetensors",
            "--inputs",
            "x.safetensors",
            "--outputs",
            "y.safetensors",
        ]);
        ["w", "y"].map(|name| fs::read(place.at(&format!("{name}.safetensors"))).unwrap())
    };
    let expected = results(&path, &split);
    assert!(expected == results("d/04-simplify-gradients.mesh", &split), "04 differs");
    assert!(expected == results("d/05-partition.mesh", &[]), "05 differs");
    assert!(expected == results("d/06-simplify-local.mesh", &[]), "06 differs");
    let local = fs::read_to_string(place.at("d/06-simplify-local.mesh")).unwrap();
    assert!(local.contains("all_reduce"), "{local}");
    place
        .run_on_cpu(&["run", "d/05-partition.mesh", "init", "--outputs", "w", "--set", "d_ff=8"])
        .fails(&["program text", "--set"]);
}

#[test]
fn reports_have_the_keys_that_others_read() {
    let place = Workplace::new();
    let keys =
        ["parameters", "flops_per_sequence", "flops_per_device", "peak_bytes_per_device", "collectives"];
    let used = ["kind", "axes", "dtype", "bytes", "wire_bytes", "count", "direction", "source"];
    let of = |args: &[&str]| -> serde_json::Value {
        serde_json::from_str(&place.run(args).succeeds().out).unwrap()
    };
    let path = model("matmul.rs");
    let made = of(&["report", &path, "--mesh", "model=2", "--layout", "d_model:model", "--json"]);
    assert!(keys.iter().all(|key| made.get(key).is_some()), "{made:#}");
    assert_eq!(made["parameters"], 128 * 256);
    // The contraction over d_model leaves a pending sum over half of the devices.
    let sum = &made["collectives"][0];
    assert!(used.iter().all(|key| sum.get(key).is_some()), "{sum:#}");
    assert_eq!((&sum["kind"], &sum["bytes"]), (&"all_reduce".into(), &(64 * 256 * 4).into()));
    // The report of an artefact is the same.
    place.run(&["compile", &path, "--mesh", "model=2", "--layout", "d_model:model"]).succeeds();
    assert_eq!(of(&["report", "matmul.artefact", "--json"]), made);
    assert_eq!(of(&["report", "matmul.artefact", "--json", "--function", "init"])["function"], "init");
    place
        .run(&["report", "matmul.artefact", "--function", "initt"])
        .fails(&["no function `initt`", "init, forward"]);
}

#[test]
fn a_run_computes_what_the_program_says() {
    let place = Workplace::new();
    place.matmul("data=2,model=2");
    place.run_on_cpu(&["run", "matmul", "init", "--seed", "3", "--outputs", "w.safetensors"]).succeeds();
    let x: Vec<f32> = (0..64 * 128).map(|i| ((i * 7 % 13) as f32 - 6.0) / 4.0).collect();
    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![64, 128], &bytes).unwrap();
    place.write("x.safetensors", safetensors::serialize([("x", view)], None).unwrap());
    let ran = place.run_on_cpu(&[
        "run",
        "matmul",
        "forward",
        "--inputs",
        "w.safetensors",
        "--inputs",
        "x.safetensors",
        "--outputs",
        "y.safetensors",
    ]);
    ran.succeeds();
    let read = |file: &str, name: &str| -> Vec<f32> {
        let bytes = fs::read(place.at(file)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let (w, y) = (read("w.safetensors", "w"), read("y.safetensors", "y"));
    assert!(w.iter().any(|v| *v != 0.0));
    for (i, j) in [(0, 0), (1, 255), (40, 17), (63, 128)] {
        let sum: f32 = (0..128).map(|k| x[i * 128 + k] * w[k * 256 + j]).sum();
        let got = y[i * 256 + j];
        assert!((got - sum.max(0.0)).abs() < 1e-4, "y[{i}, {j}] is {got}, not {sum}");
    }

    // The reference interpreter computes the same from the model itself, and needs no plugin.
    let path = model("matmul.rs");
    let interpret = |args: &[&str]| {
        let words = ["run", args[0], args[1], "--plugin", "interpreter", "--mesh", "data=2,model=2"];
        let mut command = place.meshc(&[&words, &args[2..]].concat());
        Ran::new(command.env("MESH_PJRT_PLUGIN", "/no/plugin.so").output().unwrap())
    };
    let tensors = ["--inputs", "w2.safetensors", "--inputs", "x.safetensors", "--outputs", "y2.safetensors"];
    interpret(&[&path, "init", "--seed", "3", "--outputs", "w2.safetensors"]).succeeds();
    interpret(&[&[path.as_str(), "forward"][..], &tensors].concat()).succeeds();
    for (file, name, want) in [("w2.safetensors", "w", w), ("y2.safetensors", "y", y)] {
        let got = read(file, name);
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-5), "{name}");
    }
    let seed = ["--seed", "3", "--outputs", "no.safetensors"];
    interpret(&[&["matmul", "init"][..], &seed].concat()).fails(&["`matmul` is compiled", "name the model"]);
    interpret(&[&[path.as_str(), "init", "--profile", "p"][..], &seed].concat())
        .fails(&["`--profile` has no effect on the interpreter"]);
    interpret(&[&path, "forward", "--inputs", "w2.safetensors", "--outputs", "no.safetensors"])
        .fails(&["`forward` needs `x`"]);
    let wrong = ["--inputs", "y2.safetensors", "--outputs", "no.safetensors"];
    place
        .run(&[&["selftest", "--programs", "1", "--plugin", "interpreter"][..]].concat())
        .fails(&["`--plugin interpreter` works with `meshc run` and `meshc train` only"]);
    interpret(&[&[path.as_str(), "forward", "--inputs", "x.safetensors"][..], &wrong].concat())
        .fails(&["`forward` reads the state `w`"]);
    assert!(!place.at("no.safetensors").exists());
}

#[test]
fn training_writes_metrics_and_a_summary() {
    let place = Workplace::new();
    let (path, data) = (model("switch_tiny.rs"), text());
    let args = [
        "train",
        &path,
        "--data",
        &data,
        "--mesh",
        "data=2,expert=2",
        "--steps",
        "4",
        "--seed",
        "5",
        "--metrics",
        "m.jsonl",
        "--json",
        "--eval-every",
        "2",
        "--eval-batches",
        "1",
    ];
    let ran = place.run_on_cpu(&[&args[..], &tiny_switch()].concat()).succeeds();
    for part in ["switch_tiny", "parameters", "layout", "memory", "step 4/4: loss", "held-out text"] {
        assert!(ran.err.contains(part), "`{part}` is not in:\n{}", ran.err);
    }
    let summary: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&summary["step"], &summary["stopped"]), (&4.into(), &false.into()));
    let metrics = fs::read_to_string(place.at("m.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = metrics.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["step"], i + 1);
        assert!(["loss", "tokens_per_s", "step_ms"].iter().all(|key| line[key].is_number()), "{line}");
        assert_eq!(line["eval"]["loss"].is_number(), i % 2 == 1, "{line}");
    }
    let last = |value: &serde_json::Value| value.as_f64().unwrap() as f32;
    assert_eq!(last(&summary["last_loss"]), last(&lines[3]["loss"]));
    assert_eq!(place.entries(), ["m.jsonl"]);
}

#[test]
fn a_signal_stops_training_after_the_steps_under_way() {
    let place = Workplace::new();
    let (path, data) = (model("switch_tiny.rs"), text());
    let args = ["train", &path, "--data", &data, "--steps", "1000000", "--metrics", "m.jsonl"];
    let mut training = place
        .meshc(&[&args[..], &tiny_switch()].concat())
        .env("MESH_PJRT_PLUGIN", cpu_plugin())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut lines = BufReader::new(training.stderr.take().unwrap()).lines().map_while(Result::ok);
    for line in lines.by_ref() {
        said.push(line);
        if said.last().is_some_and(|l| l.starts_with("step ")) {
            break;
        }
    }
    let kill =
        std::process::Command::new("kill").args(["-INT", &training.id().to_string()]).status().unwrap();
    assert!(kill.success(), "{said:?}");
    said.extend(lines);
    let output = training.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{said:?}");
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains("stopped after step") && out.contains("m.jsonl"), "{out}");
    // The metrics are complete up to the last step of the summary.
    let metrics = fs::read_to_string(place.at("m.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert!(out.contains(&format!("stopped after step {}", last["step"])), "{out}\n{last}");
}

#[test]
fn plugins_are_listed() {
    let place = Workplace::new();
    let cpu = cpu_plugin().display().to_string();
    let listed: serde_json::Value =
        serde_json::from_str(&place.run_on_cpu(&["plugin", "list", "--json"]).succeeds().out).unwrap();
    let first = &listed.as_array().unwrap()[0];
    assert_eq!((&first["platform"], &first["path"]), (&"cpu".into(), &cpu.as_str().into()));
    assert_eq!(first["source"], "MESH_PJRT_PLUGIN");
    let ran = place.run(&["plugin", "doctor", &cpu]).succeeds();
    assert!(ran.out.contains("API") && ran.out.contains("platform  cpu"), "{}", ran.out);
}

/// A library that computes, installed as the package of a version with publicly reported wrong results.
#[test]
fn commands_warn_of_plugins_with_known_faults() {
    let place = Workplace::new();
    let library = place.at("site/package/pjrt_c_api_cpu_plugin.so");
    fs::create_dir_all(library.parent().unwrap()).unwrap();
    fs::create_dir(place.at("site/jax_cuda13_pjrt-0.11.1.dist-info")).unwrap();
    if fs::hard_link(cpu_plugin(), &library).is_err() {
        fs::copy(cpu_plugin(), &library).unwrap();
    }
    let library = library.display().to_string();
    let (matmul, text) = (model("matmul.rs"), text());
    let words = [
        "jax_cuda13_pjrt 0.11.1 is reported to compute wrong results: ",
        "https://github.com/jax-ml/jax/issues/40633",
        "use version 0.10.2",
    ];
    let compile = ["compile", &matmul, "--emit", "executable", "-o", "a"];
    let train = ["train", artefact(), "--data", &text, "--steps", "1", "--no-run-dir"];
    for args in [&compile[..], &train] {
        let run = |plugin: &str| {
            let ran = place.meshc(args).env("MESH_PJRT_PLUGIN", plugin).output();
            Ran::new(ran.expect("meshc starts")).succeeds()
        };
        let ran = run(&library);
        let warnings: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("warning: ")).collect();
        assert!(warnings.len() == 1 && words.iter().all(|part| warnings[0].contains(part)), "{}", ran.err);
        let sound = run(&cpu_plugin().display().to_string());
        assert!(!sound.err.contains("wrong results"), "{}", sound.err);
    }
    let doctor = place.run(&["plugin", "doctor", &library]).succeeds();
    assert!(words.iter().all(|part| doctor.out.contains(part)), "{}", doctor.out);
    let doctor = place.run(&["plugin", "doctor", "--json", &library]).succeeds();
    let seen: serde_json::Value = serde_json::from_str(&doctor.out).unwrap();
    assert_eq!(seen[0]["faults"].as_array().map(Vec::len), Some(1), "{seen}");
}

#[test]
fn built_in_models_need_no_source_tree() {
    let place = Workplace::new();
    let run = |args: &[&str]| {
        let output = place.meshc(args).env("MESH_HOME", place.at("nowhere")).output();
        Ran::new(output.expect("meshc can be started"))
    };
    let ran = run(&["check", "t5_tiny", "--mesh", "data=2", "--schedule", "preset=switch_xxl-v4"]).succeeds();
    assert!(ran.err.is_empty(), "{}", ran.err);
    // Names of the schedule's entries that were settings are explained, and so are files of a model's name.
    place.write("t5_tiny", "");
    let ran = run(&["check", "t5_tiny", "--set", "remat=long"]).succeeds();
    assert!(ran.err.contains("write `--schedule remat=long`"), "{}", ran.err);
    assert!(ran.err.contains("write `./t5_tiny` for the file"), "{}", ran.err);
    let ran = run(&["models"]).succeeds();
    assert!(ran.out.contains("switch_xxl ") && ran.out.contains("switch_xxl-v4"), "{}", ran.out);
}

#[test]
fn a_plan_ranks_meshes_of_the_slice() {
    let place = Workplace::new();
    let path = model("matmul.rs");
    let plan = |more: &[&str]| {
        let args = ["plan", &path, "--target", "tpu:v5e:2x4", "--function", "forward", "--verify", "0"];
        place.run(&[&args[..], more].concat())
    };
    let json: serde_json::Value =
        serde_json::from_str(&plan(&["--json"]).succeeds().out).expect("it prints JSON");
    let candidates = json["candidates"].as_array().expect("there are candidates");
    assert!(candidates.len() > 1, "{json}");
    let times: Vec<f64> = candidates.iter().map(|c| c["step_seconds"].as_f64().expect("a number")).collect();
    assert!(times.is_sorted() && times[0] > 0.0, "{times:?}");
    for candidate in candidates {
        let text = candidate["candidate"]["mesh"].as_str().expect("a mesh");
        assert_eq!(mesh::Mesh::parse(text).expect("it is one").devices(), 8, "{text}");
    }
    // The output ends with a command for the best candidate.
    let ran = plan(&[]).succeeds();
    let command = ran.out.lines().last().expect("it says something").to_owned();
    let words: Vec<&str> = command.split(' ').skip(1).map(|w| w.trim_matches('\'')).collect();
    place.run(&[&words[..], &["-o", "x"]].concat()).succeeds();
    // A compilation without a mesh takes the best candidate, and shows the options that pin it.
    let ran = place.run(&["compile", &path, "--target", "tpu:v5e:2x4", "--function", "forward", "-o", "y"]);
    let pinned = &command[command.find("--mesh").expect("it has a mesh")..];
    assert!(ran.succeeds().err.contains(pinned), "{pinned}");

    plan(&["--mesh", "data=2"]).fails(&["the mesh data=2 has 2 devices, but tpu:v5e:2x4 has 8"]);
    let cpu = ["plan", &path, "--target", "cpu"];
    place.run(&cpu).fails(&["`--target cpu`", "--target tpu:v5e:4x8"]);
    let args = ["plan", &path, "--target", "tpu:v5e:2x4"];
    place.run(&args).fails(&["no function `train_step`", "it has"]);
}

#[test]
fn check_warns_of_a_layout_that_repeats_work_and_names_the_missing_rule() {
    let place = Workplace::new();
    let check = |more: &[&str]| {
        let mut args = vec!["check", "switch_tiny", "--mesh", "data=2,expert=4"];
        args.extend(more);
        place.run(&args)
    };
    let own = check(&["--deny", "all"]).succeeds();
    assert_eq!(own.err, "");
    // The library's layout without `expert_batch:data`.
    let forgotten = ["--layout", "batch:data+expert,experts:expert"];
    let warned = check(&forgotten).succeeds();
    let parts =
        ["warning[wasteful_layout]", "1.6 times", "(13.8 G FLOPs", "axis `data`", "computes 8.81 G FLOPs"];
    for part in parts {
        assert!(warned.err.contains(part), "{part}: {}", warned.err);
    }
    check(&[&forgotten[..], &["--deny", "wasteful_layout"]].concat()).fails(&["error[wasteful_layout]"]);
    check(&["--deny", "wastefull"]).fails(&["--deny wastefull", "wasteful_layout"]);
}

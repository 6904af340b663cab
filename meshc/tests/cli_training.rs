//! Training runs through the command line: configuration, caches, stops, pages.

use crate::support::{Ran, TINY, Workplace, cpu_plugin, home, model, say, sized, text, tiny_switch};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// An artefact of a small model on eight devices, compiled once for all tests of this file.
pub(crate) fn artefact() -> &'static str {
    static ONCE: OnceLock<(Workplace, String)> = OnceLock::new();
    let (_, path) = ONCE.get_or_init(|| {
        let place = Workplace::new();
        let path = model("switch_tiny.rs");
        let first = ["compile", &path, "--mesh", "data=2,expert=4", "-o", "a"];
        let settings: Vec<&str> =
            tiny_switch().into_iter().map(|s| if s == "batch=4" { "batch=8" } else { s }).collect();
        place.run(&[&first[..], &settings].concat()).succeeds();
        let path = place.at("a").display().to_string();
        (place, path)
    });
    path
}

/// Runs `meshc train` in a directory with a separate, empty cache.
pub(crate) fn train(place: &Workplace, args: &[&str]) -> Command {
    let mut command = place.meshc(&[&["train"][..], args].concat());
    command.env("MESH_PJRT_PLUGIN", cpu_plugin()).env("MESH_CACHE", place.at("cache"));
    command
}

fn runs(place: &Workplace, args: &[&str]) -> Ran {
    Ran::new(train(place, args).output().unwrap())
}

fn losses(lines: &[Value]) -> Vec<&Value> {
    lines.iter().map(|line| &line["loss"]).collect()
}

#[test]
fn a_configuration_a_run_folder_and_nothing_compiled_twice() {
    let place = Workplace::new();
    place.write(
        "t.toml",
        format!(
            "model = {:?}\ndata = [{:?}]\nsteps = 100\nsave_every = 2\nrun-dir = \"run\"\nseed = 5\n",
            artefact(),
            text()
        ),
    );
    let first =
        runs(&place, &["--config", "t.toml", "--steps", "4", "--timings", "--profile", "2"]).succeeds();
    for part in [
        "steps = 4",
        "# flag",
        "seed = 5",
        "# t.toml:6",
        "metrics = \"run/metrics.jsonl\"",
        "# default",
        "# settings.batch = 8 ",
    ] {
        assert!(first.out.contains(part), "`{part}`: {}", first.out);
    }
    for part in [
        "init: compiled in",
        "train_step: compiled in",
        "no FLOPs utilization",
        "target cpu",
        "s to the end of the first step:",
        " s  program and data",
        " s  initializing the state",
        "the plugin has no profiler",
        "profile: run/profile/trace.json",
    ] {
        assert!(first.err.contains(part), "`{part}`: {}", first.err);
    }
    let config = fs::read_to_string(place.at("run/config.toml")).unwrap();
    assert!(config.contains("steps = 4") && config.contains("save-every = 2"), "{config}");
    assert_eq!(place.folders("run/checkpoints"), ["step_00000002", "step_00000004"]);
    let lines = place.metrics("run/metrics.jsonl");
    assert_eq!(lines.len(), 4);
    assert!(lines[0]["host_memory"].as_f64() > Some(1e6) && lines[0].get("mfu").is_none(), "{}", lines[0]);
    let events = fs::read_dir(place.at("run/tensorboard")).unwrap().next().unwrap().unwrap();
    assert!(events.metadata().unwrap().len() > 1000);
    let about: Value = serde_json::from_slice(&fs::read(place.at("run/run.json")).unwrap()).unwrap();
    assert_eq!(
        (&about["program"], &about["executables"][1]["cached"]),
        (&"switch_tiny".into(), &false.into())
    );

    let trace: Value =
        serde_json::from_slice(&fs::read(place.at("run/profile/trace.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().expect("a list");
    let named = |name: &str| events.iter().filter(|event| event["name"] == name).count();
    // The first step and two more are recorded.
    assert_eq!(
        (named("step 1"), named("step 3"), named("step 4"), named("train_step")),
        (1, 1, 0, 3),
        "{trace}"
    );

    let starts = about["starts"].as_array().expect("a list");
    let command = starts[0]["command"].as_array().expect("a list");
    assert!(command.iter().any(|word| word == "--config") && starts[0]["host"].is_string(), "{starts:?}");
    assert_eq!(starts[0]["plugin"]["blake3"].as_str().map(str::len), Some(16), "{starts:?}");
    assert!(lines.windows(2).all(|l| l[0]["time"].as_f64() <= l[1]["time"].as_f64()), "{lines:?}");
    assert!(first.err.contains("compiling init (1 of 2)") && first.err.contains("(2 of 2)"), "{}", first.err);

    // The resolved options are a valid option file: the run resumes with it, and compiles nothing.
    let again = runs(&place, &["--config", "run/config.toml", "--resume", "--steps", "6"]).succeeds();
    assert!(
        again.err.contains("train_step: from the cache in") && !again.err.contains("compiled"),
        "{}",
        again.err
    );
    let about: Value = serde_json::from_slice(&fs::read(place.at("run/run.json")).unwrap()).unwrap();
    assert_eq!(about["starts"].as_array().map(Vec::len), Some(2), "a restart is recorded: {about}");
    // The same bits as an uninterrupted run, whose programs also come from the cache.
    let straight = runs(&place, &["--config", "t.toml", "--steps", "6", "--run-dir", "straight"]).succeeds();
    assert!(straight.err.contains("init: from the cache"), "{}", straight.err);
    let (a, b) = (place.metrics("run/metrics.jsonl"), place.metrics("straight/metrics.jsonl"));
    assert_eq!((losses(&a), a.len()), (losses(&b), 6));
    let diff = ["run", "straight"].map(|run| format!("{run}/checkpoints/step_00000006"));
    place.run(&["checkpoint", "diff", &diff[0], &diff[1]]).succeeds();

    // Damaged entries are rebuilt; without the cache nothing is read or written.
    let cache = place.at("cache/executables");
    for entry in fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()) {
        let mut bytes = fs::read(&entry).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(entry, bytes).unwrap();
    }
    let damaged = runs(&place, &["--config", "run/config.toml", "--resume", "--steps", "7"]).succeeds();
    assert!(
        damaged.err.contains("was damaged") && damaged.err.contains("train_step: compiled"),
        "{}",
        damaged.err
    );
    fs::remove_dir_all(&cache).unwrap();
    let without = ["--config", "run/config.toml", "--resume", "--steps", "8", "--no-executable-cache"];
    let without = runs(&place, &without).succeeds();
    assert!(without.err.contains("train_step: compiled") && !cache.exists(), "{}", without.err);

    // A page of one run, and of two runs.
    let page = place.run(&["runs", "run"]).succeeds();
    assert_eq!(page.out.trim(), "run/index.html");
    let html = fs::read_to_string(place.at("run/index.html")).unwrap();
    for part in ["Throughput", "load of experts, encoder", "data:image/png;base64,", "switch_tiny"] {
        assert!(html.contains(part), "`{part}`");
    }
    // The name space of SVG is no address that a browser asks.
    assert!(!html.replace("http://www.w3.org/2000/svg", "").contains("http"), "the page needs no network");
    assert!(html.contains("id=\"controls\"") && html.contains("settings.batch"), "{html}");
    place.run(&["runs", "run", "straight"]).fails(&["-o FILE.html"]);
    place.run(&["runs", "run", "straight", "-o", "both.html"]).succeeds();
    let both = place.run(&["runs", "run", "straight", "--json"]).succeeds();
    let both: Value = serde_json::from_str(&both.out).unwrap();
    assert_eq!(
        (&both["runs"][0]["last_step"], &both["runs"][1]["numbers"]["loss"]["last"]["step"]),
        (&8.into(), &6.into())
    );
    assert_eq!(both["runs"][0]["about"]["program"], "switch_tiny");
    place.run(&["runs", "cache"]).fails(&["`cache` is not a run", "--run-dir"]);

    place.write("slip.toml", "steps = 4\nsave_evry = 2\n");
    let slip = runs(&place, &["--config", "slip.toml"]);
    slip.fails(&["slip.toml:2: unknown option `save_evry`", "did you mean `save-every`?"]);
}

#[test]
fn training_stops_when_nothing_gets_better_and_keeps_the_best() {
    let place = Workplace::new();
    let text = text();
    let more = [
        "--steps",
        "1000",
        "--eval-every",
        "2",
        "--eval-batches",
        "1",
        "--patience",
        "2",
        "--min-delta",
        "100",
    ];
    let keep =
        ["--run-dir", "r", "--save-every", "1", "--keep", "2", "--keep-every", "3", "--keep-best", "1"];
    let license = home().join("LICENSE").display().to_string();
    let first = [artefact(), "--data", &text, "--eval-data", &license];
    let ran = runs(&place, &[&first[..], &more, &keep].concat()).succeeds();
    assert!(ran.out.contains("stopped early after step 6"), "{}", ran.out);
    let lines = place.metrics("r/metrics.jsonl");
    let evals: Vec<f64> = lines.iter().filter_map(|l| l["eval"]["loss"].as_f64()).collect();
    assert_eq!((lines.len(), evals.len()), (6, 3));
    let best = (1..=3).min_by(|a, b| evals[a - 1].total_cmp(&evals[b - 1])).unwrap() * 2;
    let mut kept = vec![3, best as u64, 5, 6];
    kept.sort_unstable();
    kept.dedup();
    let kept: Vec<String> = kept.iter().map(|step| format!("step_{step:08}")).collect();
    assert_eq!(place.folders("r/checkpoints"), kept);
    // A restarted run knows that it has stopped early.
    let again = [&first[..], &more, &keep, &["--resume"]].concat();
    assert!(runs(&place, &again).succeeds().out.contains("stopped early after step 6"));
}

/// A running process and the lines it prints.
pub(crate) struct Running {
    pub(crate) child: Child,
    said: Vec<String>,
    pub(crate) lines: std::io::Lines<BufReader<ChildStderr>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, said: Vec::new(), lines }
    }

    /// Reads until a line begins with `begin`.
    #[track_caller]
    pub(crate) fn until(&mut self, begin: &str) {
        loop {
            let line =
                self.lines.next().unwrap_or_else(|| panic!("no `{begin}` in {:#?}", self.said)).unwrap();
            self.said.push(line);
            if self.said.last().is_some_and(|line| line.starts_with(begin)) {
                return;
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Waits for the end, and returns the exit code and all lines.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        self.said.extend(self.lines.map_while(Result::ok));
        (self.child.wait().unwrap().code(), self.said.join("\n"))
    }
}

#[test]
fn a_signal_while_a_plugin_is_installed_ends_it_at_once() {
    let place = Workplace::new();
    let bin = place.write("bin/python3", "#!/bin/sh\n[ \"$1\" = -c ] && exit 0\nexec sleep 20\n");
    Command::new("chmod").arg("+x").arg(&bin).status().unwrap();
    let path = format!("{}:{}", bin.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let data = text();
    let mut command = train(&place, &[artefact(), "--data", &data, "--run-dir", "r"]);
    command.env_remove("MESH_PJRT_PLUGIN").env_remove("VIRTUAL_ENV").env("PATH", path);
    let mut running = Running::start(command);
    running.until("no CPU plugin found: installing");
    let begin = Instant::now();
    running.signal("-TERM");
    let id = running.child.wait().unwrap().code();
    assert_eq!(id, Some(143));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_signal_while_compiling_saves_what_there_is() {
    let place = Workplace::new();
    let data = text();
    let args = [artefact(), "--data", &data, "--run-dir", "r", "--seed", "3"];
    let mut running = Running::start(train(&place, &[&args[..], &["--steps", "1000000"]].concat()));
    running.until("compiling train_step");
    running.signal("-TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(143), "{said}");
    assert!(said.contains("step 0: saved in r/checkpoints/step_00000000"), "{said}");
    // The resumed run equals an uninterrupted one.
    runs(&place, &[&args[..], &["--steps", "3", "--resume"]].concat()).succeeds();
    let whole = [&args[..4], &["other", "--seed", "3", "--steps", "3"]].concat();
    runs(&place, &whole).succeeds();
    let (a, b) = (place.metrics("r/metrics.jsonl"), place.metrics("other/metrics.jsonl"));
    assert_eq!((losses(&a), a.len()), (losses(&b), 3));

    // The second signal does not wait for a compiler.
    fs::remove_dir_all(place.at("cache")).unwrap();
    let mut running = Running::start(train(&place, &[&args[..4], &["third", "--steps", "10"]].concat()));
    running.until("compiling train_step");
    running.signal("-INT");
    running.until("stopping");
    running.signal("-INT");
    let (code, said) = running.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(!said.contains("saved") && place.folders("third/checkpoints").is_empty(), "{said}");
}

#[test]
fn a_signal_while_evaluating_and_a_second_writer() {
    let place = Workplace::new();
    let data = text();
    // An evaluation that takes a while.
    place.write("long.txt", fs::read(home().join("LICENSE")).unwrap().repeat(200));
    let long = ["--eval-data", "long.txt", "--eval-every", "1"];
    let args = [artefact(), "--data", &data, "--run-dir", "r", "--steps"];
    let mut running = Running::start(train(&place, &[&args[..], &["1000000"], &long].concat()));
    running.until("eval_step: compiled");
    check_second_run(&place, &data);
    running.until("evaluating");
    running.signal("-TERM");
    let (code, said) = running.end();
    assert_eq!(code, Some(143), "{said}");
    assert_eq!(place.folders("r/checkpoints"), ["step_00000001"], "{said}");
    let before = place.metrics("r/metrics.jsonl");
    assert!(before.len() == 1 && before[0].get("eval").is_none(), "{before:?}");
    // The pending evaluation runs first, and its step's line contains it.
    let short = ["--eval-batches", "1", "--resume"];
    runs(&place, &[&args[..], &["2"], &long, &short].concat()).succeeds();
    let after = place.metrics("r/metrics.jsonl");
    assert!(after.len() == 2 && after.iter().all(|l| l["eval"]["loss"].is_f64()), "{after:?}");
    assert_eq!(after[0]["loss"], before[0]["loss"]);
    assert!(!Path::new(&place.at("r/checkpoints/.lock")).exists());
}

/// Asserts that a second run in the directory `r` is refused before its model is built and compiled. Its
/// cache stays empty: it would have the built model, its program and the executables.
#[track_caller]
fn check_second_run(place: &Workplace, data: &str) {
    let before = place.entries();
    for subject in [artefact(), &model("switch_tiny.rs")] {
        let mut second =
            train(place, &[subject, "--data", data, "--run-dir", "r", "--steps", "5", "--resume"]);
        let second = Ran::new(second.env("MESH_CACHE", place.at("empty")).output().unwrap());
        let second = second.fails(&["`r/checkpoints` is being written to by process", "help:"]);
        for word in ["building", "compiling", "compiled", "warning"] {
            assert!(!second.err.contains(word), "{subject}: `{word}` is in:\n{}", second.err);
        }
        assert_eq!(second.out, "", "{subject}");
        // Neither a cache nor anything else.
        assert_eq!(place.entries(), before, "{subject}");
    }
}

/// Returns sentences that a model learns fast, and `odd` unpredictable ones among them.
fn sentences(odd: usize) -> String {
    let mut out = "the cat sat on the mat. ".repeat(3000);
    let mut seed = 1u64;
    for i in 0..odd {
        let noise: String = (0..40)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(33 + (seed >> 33) as u8 % 90)
            })
            .collect();
        let at = (i + 1) * out.len() / (odd + 2) / 24 * 24;
        out.insert_str(at, &noise);
    }
    out
}

#[test]
fn a_loss_that_jumps_is_taken_back_and_its_batches_left_out() {
    let place = Workplace::new();
    place.write("noisy.txt", sentences(8));
    let path = model("t5_tiny.rs");
    let fast = ["--set", "lr=0.02", "--set", "warmup=10"];
    place.run(&[&["compile", &path, "-o", "dense"][..], &TINY, &fast].concat()).succeeds();
    let args = |dir: &'static str, steps: &'static str| {
        let first =
            ["dense", "--data", "noisy.txt", "--run-dir", dir, "--steps", steps, "--save-every", "10"];
        [&first[..], &["--spike-sigmas", "5", "--spike-window", "20"]].concat()
    };
    let ran = runs(&place, &args("r", "200")).succeeds();
    let lines = place.metrics("r/metrics.jsonl");
    assert_eq!(lines.len(), 200, "{}", ran.err);
    let back: Vec<&Value> = lines.iter().filter_map(|l| l.get("rollback")).collect();
    assert!(!back.is_empty() && ran.out.contains("rollbacks"), "{}", ran.err);
    let first = back[0];
    let number = |key: &str| first[key].as_u64().unwrap();
    assert!(number("to") % 10 == 0 && number("from") > number("to"), "{first}");
    assert!(first["loss"].as_f64() > first["limit"].as_f64(), "{first}");
    // The data continues after the batch with the spike, and checkpoints record that.
    let left_out: u64 =
        back.iter().map(|b| b["batches"][1].as_u64().unwrap() - b["batches"][0].as_u64().unwrap()).sum();
    let listed = place.run(&["checkpoint", "list", "r/checkpoints/step_00000200", "--json"]).succeeds();
    let facts: Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(facts["facts"]["data_position"], (200 + left_out).to_string());

    // A run that is interrupted before and after the first rollback is the same.
    let steps = |step: u64| -> &'static str { Box::leak(step.to_string().into_boxed_str()) };
    runs(&place, &args("s", steps(number("to")))).succeeds();
    for step in [number("to") + 10, 200] {
        runs(&place, &[&args("s", steps(step))[..], &["--resume"]].concat()).succeeds();
    }
    let resumed = place.metrics("s/metrics.jsonl");
    assert_eq!(losses(&resumed), losses(&lines));

    // The limit of rollbacks.
    let ran = runs(&place, &[&args("u", "200")[..], &["--max-rollbacks", "0"]].concat());
    ran.fails(&["the loss of step", "after 0 rollbacks", "learning rate"]);
}

#[test]
fn a_teacher_is_distilled_into_a_student_that_needs_it_no_longer() {
    let place = Workplace::new();
    let data = text();
    let fixed = ["--data", &data, "--seed", "3"];
    let run = |args: &[&str]| runs(&place, &[args, &fixed, &TINY].concat());
    run(&["switch_tiny", "--steps", "1", "--set", "experts=4", "--checkpoint-dir", "t"]).succeeds();
    let student = run(&["t5_tiny", "--steps", "2", "--teacher", "t", "--run-dir", "s"]).succeeds();
    for part in ["parameters from t/step_00000001 (step 1)", "teacher/*=*", "initialized", "(same name)"] {
        assert!(student.err.contains(part), "`{part}` is not in:\n{}", student.err);
    }
    let lines = place.metrics("s/metrics.jsonl");
    let all = ["loss", "soft_loss", "teacher_loss"].map(|name| lines[0][name].as_f64().unwrap());
    assert!(all.iter().all(|loss| (1.0..20.0).contains(loss)), "{all:?}");
    // A resumed run has its own parameters.
    let again = ["t5_tiny", "--steps", "3", "--teacher", "t", "--run-dir", "s", "--resume"];
    assert!(!run(&again).succeeds().err.contains("parameters from"));
    let eval = ["eval", "s/checkpoints", "--data", &data, "--batches", "1"];
    let eval =
        Ran::new(place.meshc(&eval).env("MESH_PJRT_PLUGIN", cpu_plugin()).output().unwrap()).succeeds();
    assert!(eval.out.contains("loss"), "{}", eval.out);
    let wrong = ["t5_tiny", "--steps", "1", "--teacher", "t", "--set", "teacher.vocab=99"];
    run(&wrong).fails(&["the teacher has another vocabulary: `teacher.vocab` is 99, `vocab` is 384"]);
    let wrong = ["t5_tiny", "--steps", "1", "--set", "teacher=t5_tiny"];
    run(&wrong).fails(&["`t5_tiny` takes parameters from a checkpoint", "--from CHECKPOINT"]);
}

/// The same steps on the CPU plugin and by the reference interpreter, which needs no plugin.
#[test]
fn tiny_models_train_without_a_plugin() {
    let place = Workplace::new();
    let (path, text) = (model("t5_tiny.rs"), text());
    let sizes =
        ["--set", "layers=1", "--set", "input_length=16", "--set", "target_length=8", "--set", "d_ff=16"];
    let base = ["train", &path, "--data", &text, "--eval-every", "2", "--eval-batches", "1", "--seed", "7"];
    let base = sized(&[&base[..], &sizes].concat(), &["batch=2"]);
    let run = |more: &[&str], plugin: &str| {
        let mut command = place.meshc(&[&base[..], more].concat());
        Ran::new(command.env("MESH_PJRT_PLUGIN", plugin).output().unwrap())
    };
    let interpret = |more: &[&str]| run(&[&["--plugin", "interpreter"][..], more].concat(), "/no/plugin.so");
    let begin = Instant::now();
    let ran = interpret(&["--run-dir", "i", "--steps", "2", "--mesh", "data=2"]).succeeds();
    assert!(!ran.err.contains("compil"), "{}", ran.err);
    interpret(&["--run-dir", "i", "--steps", "3", "--mesh", "data=2", "--resume"]).succeeds();
    say(&format!("3 steps by the interpreter: {:.1?}", begin.elapsed()));
    let cpu = cpu_plugin().display().to_string();
    run(&["--run-dir", "p", "--steps", "3"], &cpu).succeeds();
    let (a, b) = (place.metrics("i/metrics.jsonl"), place.metrics("p/metrics.jsonl"));
    assert_eq!((a.len(), b.len()), (3, 3));
    for (a, b) in a.iter().zip(&b) {
        for value in ["/loss", "/accuracy", "/eval/loss"] {
            let [a, b] = [a, b].map(|line| line.pointer(value).and_then(Value::as_f64));
            let is_close = a.zip(b).map_or(a == b, |(a, b)| (a - b).abs() < 1e-4 * b.abs().max(1.0));
            assert!(is_close, "{value}: {a:?} by the interpreter, {b:?} on the plugin");
        }
    }
    assert!(a[0]["loss"] != a[2]["loss"] && a[1]["eval"]["loss"].is_f64(), "{a:?}");
    // Its checkpoints are those of any run.
    let named = ["checkpoint", "list", "i/checkpoints/step_00000003"];
    place.run(&named).succeeds();
    let record: Value = serde_json::from_slice(&fs::read(place.at("i/run.json")).unwrap()).unwrap();
    assert_eq!(record["starts"].as_array().map(Vec::len), Some(2), "{record}");
    assert_eq!(record["starts"][0]["plugin"]["platform"], "interpreter");
    run(&["--run-dir", "i", "--steps", "4", "--resume"], &cpu).succeeds();

    let refused =
        |more: &[&str], part: &str| interpret(&[&["--run-dir", "x"][..], more].concat()).fails(&[part]);
    refused(&["--profile", "1"], "`--profile` has no effect on the interpreter");
    refused(&["--flag", "a=b"], "`--flag a=b` has no effect on the interpreter");
    refused(&["--client-option", "a=1"], "`--client-option a` has no effect on the interpreter");
    let compiled = ["train", artefact(), "--data", &text, "--plugin", "interpreter", "--no-run-dir"];
    place.run(&compiled).fails(&["is compiled, and the interpreter runs programs"]);
    assert!(!place.at("x").exists());
}

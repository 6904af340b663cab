//! Commands in several processes through the command line.

use crate::support::{
    Ran, Workplace, cpu_plugin, home,
    job::{self, Job, bigram},
    model, say_skipped, tiny_switch, words,
};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// An artefact of a small model with experts on four devices, compiled once for all tests of this file.
fn artefact() -> &'static str {
    static ONCE: OnceLock<(Workplace, String)> = OnceLock::new();
    let (_, path) = ONCE.get_or_init(|| {
        let place = Workplace::new();
        let path = model("switch_tiny.rs");
        let first = ["compile", &path, "--mesh", "data=2,expert=2", "--several-hosts", "-o", "a"];
        let settings: Vec<&str> =
            tiny_switch().into_iter().map(|s| if s == "batch=4" { "batch=8" } else { s }).collect();
        place.run(&[&first[..], &settings].concat()).succeeds();
        let path = place.at("a").display().to_string();
        (place, path)
    });
    path
}

fn license() -> String {
    home().join("LICENSE").display().to_string()
}

/// The command that trains the model with experts.
fn train(place: &Workplace, more: &[&str]) -> Command {
    let data = license();
    let fixed = ["train", artefact(), "--data", &data, "--seed", "3"];
    let mut command = place.meshc(&[&fixed[..], more].concat());
    command.env("MESH_PJRT_PLUGIN", cpu_plugin());
    command
}

fn losses(lines: &[Value]) -> Vec<Value> {
    lines.iter().map(|line| line["loss"].clone()).collect()
}

#[test]
fn one_two_and_four_processes_train_to_the_same_bits() {
    let place = Workplace::new();
    let run = |size: &str| {
        let folder = format!("run{size}");
        let more = ["--steps", "20", "--processes", size, "--run-dir", &folder];
        Ran::new(train(&place, &more).output().unwrap()).succeeds();
        losses(&place.metrics(&format!("{folder}/metrics.jsonl")))
    };
    let one = run("1");
    assert_eq!(one.len(), 20);
    for size in ["2", "4"] {
        assert_eq!(run(size), one, "{size} processes: losses");
        let pair =
            ["run1/checkpoints/step_00000020".to_owned(), format!("run{size}/checkpoints/step_00000020")];
        let diff = place.run(&["checkpoint", "diff", &pair[0], &pair[1]]);
        assert_eq!(diff.code, Some(0), "{size} processes: {}\n{}", diff.out, diff.err);
    }
    let logs = fs::read_to_string(place.at("run2/logs/rank-1.log")).unwrap();
    assert!(logs.contains("rank 1 of 2 by --processes"), "{logs}");
}

#[test]
fn one_and_two_processes_take_the_same_parameters_by_name() {
    let place = Workplace::new();
    let more = ["--steps", "1", "--checkpoint-dir", "c"];
    Ran::new(train(&place, &more).output().unwrap()).succeeds();
    let run = |size: &str| {
        let folder = format!("run{size}");
        let rules = ["--map", "decoder/*=decoder/*", "--allow-missing", "encoder/*", "--ignore", "encoder/*"];
        let from = ["--from", "c/step_00000001", "--steps", "2", "--processes", size, "--run-dir", &folder];
        let ran = Ran::new(train(&place, &[&from[..], &rules].concat()).output().unwrap()).succeeds();
        for part in ["parameters from c/step_00000001 (step 1)", "taken", "initialized  encoder/*", "left "] {
            assert!(ran.err.contains(part), "`{part}` is not in:\n{}", ran.err);
        }
        let loaded = fs::read_to_string(place.at(&format!("{folder}/loaded.json"))).unwrap();
        let loaded: Value = serde_json::from_str(&loaded).unwrap();
        assert_eq!(loaded["rows"][2]["fate"], "initialized", "{loaded}");
        (losses(&place.metrics(&format!("{folder}/metrics.jsonl"))), loaded)
    };
    assert_eq!(run("1"), run("2"));
    let wrong = ["--from", "c/step_00000001", "--steps", "1", "--map", "student/*=*", "--processes", "2"];
    let ran = Ran::new(train(&place, &wrong).output().unwrap());
    ran.fails(&["`--map student/*=*` applies to no parameter of the program"]);
    let ran = Ran::new(train(&place, &["--steps", "1", "--ignore", "x"]).output().unwrap());
    ran.fails(&["`--map`, `--allow-missing` and `--ignore` need a checkpoint", "--from CHECKPOINT"]);
    let ran = Ran::new(train(&place, &["--steps", "1", "--map", "a/*=b"]).output().unwrap());
    ran.fails_with(2, &["--map", "the same number of `*` (got 1 and 0)"]);
}

#[test]
fn a_lost_local_process_is_named_and_the_job_starts_again() {
    let place = Workplace::new();
    let (mut launcher, steps) = (launched(&place, &["--restarts", "1"]), 60);
    let log = fs::read_to_string(place.at("r/logs/rank-1.log")).unwrap();
    let (_, pid) = log.split_once("process ").unwrap();
    let pid = pid.split_whitespace().next().unwrap();
    assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    let (code, output) = end(&place, &mut launcher);
    assert_eq!(code, Some(0), "{output}");
    for part in ["lost rank 1 (", "rank 1 was ended by signal 9", "starting all 2 processes again"] {
        assert!(output.contains(part), "`{part}` is not in:\n{output}");
    }
    assert_eq!(place.metrics("r/metrics.jsonl").len(), steps);
}

#[test]
fn a_signal_to_the_launcher_stops_all_processes_at_one_step() {
    let place = Workplace::new();
    let mut launcher = launched(&place, &["--steps", "100000"]);
    assert!(Command::new("kill").args(["-TERM", &launcher.id().to_string()]).status().unwrap().success());
    let (code, output) = end(&place, &mut launcher);
    assert_eq!(code, Some(143), "{output}");
    let done = place.metrics("r/metrics.jsonl").len();
    assert_eq!(place.folders("r/checkpoints").pop().unwrap(), format!("step_{done:08}"), "{output}");
}

/// Starts two processes with `--processes` and waits until they have saved a checkpoint.
#[track_caller]
fn launched(place: &Workplace, more: &[&str]) -> Child {
    let steps: &[&str] = if more.contains(&"--steps") { &[] } else { &["--steps", "60"] };
    let fixed = ["--save-every", "5", "--run-dir", "r", "--processes", "2", "--dead-after", "4"];
    let output = fs::File::create(place.at("out")).unwrap();
    let mut command = job::train(place, &bigram(), &[steps, &fixed, more].concat());
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let mut launcher = command.spawn().unwrap();
    let begin = Instant::now();
    let text = || fs::read_to_string(place.at("out")).unwrap();
    while !text().contains("saved in") {
        let ended = launcher.try_wait().unwrap().is_some();
        assert!(!ended && begin.elapsed() < Duration::from_secs(120), "no checkpoint:\n{}", text());
        thread::sleep(Duration::from_millis(5));
    }
    launcher
}

/// Waits for the launcher to end, and returns its exit code and its output.
#[track_caller]
fn end(place: &Workplace, launcher: &mut Child) -> (Option<i32>, String) {
    let begin = Instant::now();
    let text = || fs::read_to_string(place.at("out")).unwrap();
    loop {
        if let Some(status) = launcher.try_wait().unwrap() {
            return (status.code(), text());
        }
        if begin.elapsed() > Duration::from_secs(120) {
            let _ = launcher.kill();
            panic!("the launcher does not end:\n{}", text());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts two ranks, and checks that both refuse with all `parts` before they compile.
#[track_caller]
fn refused(command: impl Fn(&Workplace, usize) -> Command, place: Workplace, parts: &[&str]) {
    let mut job = Job::start(place, 2, |place, rank| {
        let mut command = command(place, rank);
        command.args(["--join-within", "60"]);
        command
    });
    job.all_end(1, parts);
    assert!(!job.outputs().contains("compiling"), "{}", job.outputs());
}

/// A host with its own copies of all files, of which those of rank 1 differ.
fn host(place: &Workplace, rank: usize) -> PathBuf {
    let write = |name: &str, text: &str| place.write(&format!("host-{rank}/{name}"), text);
    let (rate, line, word, batches) =
        if rank == 0 { ("0.1", "one", "d", "2") } else { ("0.2", "two", "e", "3") };
    write("model.mesh", &job::BIGRAM.replace("value=0.1}", &format!("value={rate}}}")));
    write("text.txt", &format!("{}{line}\n", "a b c d\n".repeat(900)));
    write("words.json", &words().replace("\"d\"", &format!("\"{word}\"")));
    write("run.toml", &format!("eval-every = 2\neval-batches = {batches}\n"));
    let folder = place.at(&format!("host-{rank}"));
    if rank == 0 {
        job::copy_begun(&folder);
    }
    folder
}

/// Returns `command` with another program.
fn by(program: &Path, command: &Command) -> Command {
    let mut other = Command::new(program);
    other.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

/// Copies a file and appends a byte, which an executable or a library does not read.
fn altered(place: &Workplace, file: &Path) -> PathBuf {
    let copy = place.at(&file.file_name().unwrap().to_string_lossy());
    fs::copy(file, &copy).unwrap();
    fs::File::options().append(true).open(&copy).unwrap().write_all(&[0]).unwrap();
    copy
}

#[test]
fn differences_are_refused_before_compilation_with_both_values() {
    let place = Workplace::new();
    let (binary, plugin) = (Path::new(env!("CARGO_BIN_EXE_meshc")), cpu_plugin());
    let (other_binary, other_plugin) = (altered(&place, binary), altered(&place, plugin));
    let folders = [host(&place, 0), host(&place, 1)];
    let command = |place: &Workplace, rank: usize| {
        let fixed = ["train", "model.mesh", "--data", "text.txt", "--mesh", "data=2,model=2", "--seed", "3"];
        let files =
            ["--config", "run.toml", "--tokenizer", "words.json", "--checkpoint-dir", "c", "--resume"];
        let mut command = place.meshc(&[&fixed[..], &files].concat());
        command.env("MESH_PJRT_PLUGIN", plugin);
        if rank == 1 {
            command = by(&other_binary, &command);
            command.args(["--max-skipped", "7"]).env("MESH_PJRT_PLUGIN", &other_plugin);
            command.env("XLA_FLAGS", "--xla_backend_optimization_level=1");
            command.env("LIBTPU_INIT_ARGS", "--xla_a=1").env("MEGASCALE_NUM_SLICES", "2");
            command.env("TPU_HOST_BOUNDS", "2,2,1");
        } else {
            command.env("XLA_FLAGS", "--xla_backend_optimization_level=0");
        }
        command.current_dir(&folders[rank]);
        command
    };
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let both = |fact: &str, own: &str, other: &str| {
        let name = name.trim();
        format!("{fact}: {own} on rank 0 ({name}); {other} on rank 1 ({name})")
    };
    let digests = |fact: &str| format!("\n  {fact}: ");
    let lines = [
        "the processes of this job differ:".to_owned(),
        both("option `max-skipped`", "10", "7"),
        both("option `eval-batches`", "2", "3"),
        both("checkpoint to resume from", "step 3", "none"),
        both(
            "variable XLA_FLAGS",
            "--xla_backend_optimization_level=0",
            "--xla_backend_optimization_level=1",
        ),
        both("variable LIBTPU_INIT_ARGS", "none", "--xla_a=1"),
        both("variable MEGASCALE_NUM_SLICES", "none", "2"),
        both("variable TPU_HOST_BOUNDS", "none", "2,2,1"),
        digests("binary"),
        digests("plugin"),
        digests("program"),
        digests("data"),
        digests("tokenizer"),
    ];
    refused(command, place, &lines.each_ref().map(String::as_str));
}

#[test]
fn a_process_with_invalid_input_is_named_by_all() {
    let command = |place: &Workplace, rank: usize| {
        let more: &[&str] =
            if rank == 0 { &[] } else { &["--eval-every", "2", "--eval-data", "missing.txt"] };
        job::train(place, &bigram(), more)
    };
    refused(command, Workplace::new(), &["rank 1 (", "failed", "missing.txt"]);
}

#[test]
fn checkpoints_on_local_disks_are_refused() {
    let place = Workplace::new();
    let folders = ["host-0", "host-1"].map(|name| place.at(name));
    folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
    let command = |place: &Workplace, rank: usize| {
        let mut command = job::train(place, &bigram(), &["--checkpoint-dir", "c"]);
        command.current_dir(&folders[rank]);
        command
    };
    let parts = ["`c` is not the folder that rank 0 on ", "one folder for all of them: a shared file system"];
    refused(command, place, &parts);
}

#[test]
fn processes_of_another_job_are_refused() {
    let mut job = Job::start(Workplace::new(), 2, |place, rank| {
        let mut command = job::train(place, &bigram(), &["--join-within", "2"]);
        command.env("MESH_JOB_TOKEN", if rank == 0 { "secret" } else { "another" });
        command
    });
    for (rank, part) in [(0, "these ranks have not joined: 1"), (1, "another job's token (MESH_JOB_TOKEN)")] {
        assert_eq!(job.end(rank, Duration::from_secs(60)), Some(1), "{}", job.outputs());
        assert!(job.output(rank).contains(part), "{}", job.outputs());
    }
}

#[test]
fn a_rank_that_is_started_twice_is_refused() {
    let place = Workplace::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut processes: Vec<Child> = Vec::new();
    for (number, rank) in ["0", "1", "1"].into_iter().enumerate() {
        let mut command =
            job::train(&place, &bigram(), &["--hosts", "3", "--rank", rank, "--coordinator", &free]);
        let output = fs::File::create(place.at(&format!("out-{number}"))).unwrap();
        processes.push(command.env("MESH_JOB_TOKEN", "x").stderr(output).spawn().unwrap());
    }
    let text =
        || [1, 2].map(|number| fs::read_to_string(place.at(&format!("out-{number}"))).unwrap()).concat();
    let begin = Instant::now();
    while !text().contains("error: rank 1 was started twice: by process ") {
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", text());
        thread::sleep(Duration::from_millis(10));
    }
    for mut process in processes {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn invalid_places_are_refused() {
    let place = Workplace::new();
    let run = |more: &[&str]| {
        let mut command = job::train(&place, &bigram(), more);
        Ran::new(command.env("MESH_JOB_TOKEN", "x").output().unwrap())
    };
    let rank = ["--hosts", "2", "--rank", "2", "--coordinator", "127.0.0.1:1"];
    run(&rank).fails(&["`--rank` must be below `--hosts` (got 2 of 2)"]);
    let nobody = ["--hosts", "2", "--rank", "1", "--coordinator", "127.0.0.1:1", "--join-within", "1"];
    run(&nobody).fails(&["rank 1 cannot reach the coordinator at 127.0.0.1:1 within 1 s"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let missing = ["--hosts", "2", "--rank", "0", "--coordinator", &free, "--join-within", "1"];
    run(&missing).fails(&["these ranks have not joined: 1", "within 1 s (--join-within)"]);
    run(&["--processes", "3", "--steps", "1"])
        .fails(&["the mesh has 4 devices, which 3 processes cannot share"]);
    run(&["--hosts", "2"]).fails_with(2, &["--rank"]);
    run(&["--restarts", "2"]).fails_with(2, &["--processes"]);
    run(&["--limit", "load=3"]).fails_with(2, &["--limit", "(got `load`)"]);
}

/// Returns a place with a checkpoint `ck` of a small model with experts, and inputs of the commands.
fn trained() -> Workplace {
    let place = Workplace::new();
    let (path, data) = (model("switch_tiny.rs"), license());
    let train = ["train", &path, "--data", &data, "--steps", "2", "--seed", "3", "--checkpoint-dir", "ck"];
    place.run_on_cpu(&[&train[..], &tiny_switch()].concat()).succeeds();
    place.write("in.txt", "let x = <extra_id_0>;\nfn main\nuse std\n");
    place.write("pairs.tsv", "fn main\t{}\nlet x\t= 3;\n");
    place
}

/// The commands with parameters. Each prints numbers to standard output.
fn commands() -> [Vec<String>; 4] {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let eval = format!("eval ck --mesh data=2 --data {} --batches 2 --json", license());
    [
        words("generate ck --mesh data=2 --input in.txt --max-length 6 --json"),
        words("score ck --mesh expert=2 --input pairs.tsv"),
        words("generate ck --mesh expert=2 --input in.txt --max-length 6 --json --method beam --beams 2"),
        words(&eval),
    ]
}

#[test]
fn two_processes_generate_score_and_evaluate_as_one() {
    let place = trained();
    let is_slow = std::env::var_os("MESH_SLOW").is_some_and(|v| v == "1");
    if !is_slow {
        say_skipped("MESH_SLOW=1 also searches with beams, evaluates, and runs one process");
    }
    for words in commands().iter().take(if is_slow { 4 } else { 2 }) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let alone = place.run_on_cpu(&words).succeeds().out;
        for processes in if is_slow { &["2", "1"][..] } else { &["2"] } {
            let several = place.run_on_cpu(&[&words[..], &["--processes", processes]].concat()).succeeds();
            assert_eq!(several.out, alone, "{words:?} in {processes} processes");
        }
    }
}

#[test]
fn two_hosts_generate_as_one_and_rank_0_writes() {
    let place = trained();
    let words = ["generate", "ck", "--mesh", "data=2", "--input", "in.txt", "--max-length", "6"];
    let alone = place.run_on_cpu(&words).succeeds().out;
    let ranks = |place: Workplace, more: &[&str]| {
        Job::start(place, 2, |place, rank| {
            let of_rank = if rank == 1 { more } else { &[] };
            let places = ["--output", "out.txt", "--profile", "p"];
            let words = [&words[..], &["--join-within", "60"], &places, of_rank];
            let mut command = place.meshc(&words.concat());
            command.env("MESH_PJRT_PLUGIN", cpu_plugin());
            command
        })
    };
    let mut job = ranks(place, &[]);
    job.all_end(0, &["of 2 by flags"]);
    assert_eq!([0, 1].map(|rank| job.output(rank).contains("profile: p/trace.json")), [true, false]);
    let place = job.into_place();
    assert!(place.at("p/trace.json").exists());
    assert_eq!(fs::read_to_string(place.at("out.txt")).unwrap(), alone);
    fs::remove_file(place.at("out.txt")).unwrap();
    // Both ranks refuse what differs, and the inputs that one of them cannot read.
    let mut job = ranks(place, &["--min-length", "2"]);
    job.all_end(1, &["the processes of this job differ:\n  command line: "]);
    let mut job = ranks(job.into_place(), &["--tokenizer", "none.json"]);
    job.all_end(1, &["rank 1 (", "none.json"]);
    assert!(!job.place.at("out.txt").exists());
}

#[test]
fn commands_of_one_process_refuse_to_run_in_several() {
    let place = Workplace::new();
    let path = model("t5_tiny.rs");
    for words in [&["plan", &path][..], &["report", &path], &["run", &path, "init", "--outputs", "o"]] {
        place.run(&[words, &["--processes", "2"]].concat()).fails_with(2, &["'--processes'"]);
        let of_rank = |rank: &str| {
            let mut command = place.meshc(words);
            let job = [("SLURM_PROCID", rank), ("SLURM_STEP_NUM_TASKS", "4"), ("SLURM_STEP_NODELIST", "a")];
            Ran::new(command.envs(job).output().unwrap())
        };
        let refusal = format!("`meshc {}` runs in one process, and this is rank 2 of 4 by SLURM", words[0]);
        of_rank("2").fails(&[&refusal, "rank 0 runs it"]);
        if words[0] == "report" {
            of_rank("0").succeeds();
        }
    }
    place.run(&["convert", "hf", "none", "--processes", "2"]).fails_with(2, &["'--processes'"]);
    let standard_input = ["generate", "ck", "--input", "-", "--processes", "2"];
    place.run(&standard_input).fails(&["only one process can read standard input", "--input"]);
}

//! Commands in several processes through the command line.

use crate::support::{Ran, Workplace, cpu_plugin, home, model, say_skipped, tiny_switch};
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
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

fn text() -> String {
    home().join("LICENSE").display().to_string()
}

/// The arguments of every run: seed, data, and a short time after which a process counts as lost.
fn train(place: &Workplace, more: &[&str]) -> Command {
    let data = text();
    let fixed = ["train", artefact(), "--data", &data, "--seed", "3", "--dead-after", "4"];
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

/// Waits until the process of a rank has written `word` to its output.
#[track_caller]
fn wait_for(path: &Path, word: &str) {
    let begin = Instant::now();
    while !fs::read_to_string(path).is_ok_and(|text| text.contains(word)) {
        let text = || fs::read_to_string(path).unwrap_or_default();
        assert!(begin.elapsed() < Duration::from_secs(240), "`{word}` is not in:\n{}", text());
        thread::sleep(Duration::from_millis(10));
    }
}

/// Starts the ranks of a job that trains one by one, as on several hosts. Their output goes to `out-RANK`.
fn start(place: &Workplace, size: usize, more: impl Fn(usize) -> Vec<&'static str>) -> Vec<Child> {
    start_ranks(place, size, |rank, flags| train(place, &[flags, &more(rank)].concat()))
}

/// Starts the ranks of a job with the flags of their places. Their output goes to `out-RANK`.
fn start_ranks(place: &Workplace, size: usize, command: impl Fn(usize, &[&str]) -> Command) -> Vec<Child> {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let start = |rank: usize| {
        let (rank_word, size) = (rank.to_string(), size.to_string());
        let mut command = command(rank, &["--hosts", &size, "--rank", &rank_word, "--coordinator", &free]);
        let output = fs::File::create(place.at(&format!("out-{rank}"))).unwrap();
        command.env("MESH_JOB_TOKEN", "secret").stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        command.spawn().unwrap()
    };
    (0..size).map(start).collect()
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
}

/// Waits for a process to end, and returns its exit code and its output.
#[track_caller]
fn end(place: &Workplace, rank: usize, child: &mut Child) -> (Option<i32>, String) {
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let output = || fs::read_to_string(place.at(&format!("out-{rank}"))).unwrap();
        if begin.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            panic!("rank {rank} does not end:\n{}", output());
        }
        thread::sleep(Duration::from_millis(5));
    };
    (status.code(), fs::read_to_string(place.at(&format!("out-{rank}"))).unwrap())
}

/// Ends or stops `victim` at a moment, and checks that the survivors end and name it. Prints the time.
#[track_caller]
fn lose(how: &str, moment: &str, victim: usize) {
    let place = Workplace::new();
    let steps = ["--steps", "100000", "--save-every", "3", "--checkpoint-dir", "c"];
    let mut ranks = start(&place, 2, |_| steps.to_vec());
    wait_for(&place.at("out-0"), moment);
    let begin = Instant::now();
    signal(&ranks[victim], how);
    let survivor = 1 - victim;
    let (code, output) = end(&place, survivor, &mut ranks[survivor]);
    eprintln!("{how} of rank {victim} at `{moment}`: rank {survivor} ended after {:?}", begin.elapsed());
    signal(&ranks[victim], "-KILL");
    ranks[victim].wait().unwrap();
    assert_eq!(code, Some(42), "{output}");
    assert!(output.contains(&format!("lost rank {victim} (")), "{output}");
    // The next start resumes.
    let again = ["--steps", "6", "--processes", "2", "--checkpoint-dir", "c", "--resume"];
    Ran::new(train(&place, &again).output().unwrap()).succeeds();
}

#[test]
fn survivors_of_a_killed_process_end_and_name_it() {
    lose("-KILL", "saved in", 1);
}

#[test]
fn survivors_of_a_lost_coordinator_end_and_name_it() {
    lose("-KILL", "compiling", 0);
}

#[test]
fn survivors_of_a_halted_process_end_and_name_it() {
    lose("-STOP", "saved in", 1);
}

#[test]
fn a_signal_to_one_process_stops_all_at_one_step_and_the_run_resumes() {
    let place = Workplace::new();
    let more = ["--steps", "100000", "--checkpoint-dir", "c", "--save-every", "2", "--metrics", "m.jsonl"];
    let mut ranks = start(&place, 2, |_| more.to_vec());
    wait_for(&place.at("out-0"), "saved in");
    signal(&ranks[1], "-TERM");
    for (rank, child) in ranks.iter_mut().enumerate() {
        let (code, output) = end(&place, rank, child);
        assert_eq!(code, Some(143), "{output}");
        assert!(output.contains("stopped"), "{output}");
    }
    let done = place.metrics("m.jsonl").len();
    let newest = place.folders("c").pop().unwrap();
    assert_eq!(newest, format!("step_{done:08}"));
    let steps = (done + 2).to_string();
    let again = ["--steps", &steps, "--checkpoint-dir", "c", "--processes", "4", "--resume"];
    Ran::new(train(&place, &again).output().unwrap()).succeeds();
}

#[test]
fn a_lost_local_process_is_named_and_the_job_starts_again() {
    let place = Workplace::new();
    let more =
        ["--steps", "40", "--save-every", "5", "--run-dir", "r", "--processes", "2", "--restarts", "1"];
    let output = fs::File::create(place.at("out-0")).unwrap();
    let mut command = train(&place, &more);
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let mut launcher = command.spawn().unwrap();
    wait_for(&place.at("out-0"), "saved in");
    let log = fs::read_to_string(place.at("r/logs/rank-1.log")).unwrap();
    let (_, pid) = log.split_once("process ").unwrap();
    let pid = pid.split_whitespace().next().unwrap();
    assert!(Command::new("kill").args(["-KILL", pid]).status().unwrap().success());
    let (code, output) = end(&place, 0, &mut launcher);
    assert_eq!(code, Some(0), "{output}");
    for part in ["lost rank 1 (", "rank 1 was ended by signal 9", "starting all 2 processes again"] {
        assert!(output.contains(part), "`{part}` is not in:\n{output}");
    }
    assert_eq!(place.metrics("r/metrics.jsonl").len(), 40);
}

/// Starts two ranks with different arguments, and checks that both refuse before they compile.
#[track_caller]
fn differ(of_rank_1: &'static [&'static str], parts: &[&str]) {
    let place = Workplace::new();
    let mut ranks = start(&place, 2, |rank| {
        let fixed = vec!["--steps", "3", "--join-within", "60"];
        if rank == 0 { fixed } else { [&fixed[..], of_rank_1].concat() }
    });
    for (rank, child) in ranks.iter_mut().enumerate() {
        let (code, output) = end(&place, rank, child);
        assert_eq!(code, Some(1), "{output}");
        assert!(!output.contains("compiling"), "{output}");
        for part in parts {
            assert!(output.contains(part), "rank {rank}: `{part}` is not in:\n{output}");
        }
    }
}

#[test]
fn differences_are_refused_before_compilation_with_both_values() {
    let value = &["the processes of this job differ", "on rank 0 (", "on rank 1 ("];
    differ(
        &["--eval-every", "2"],
        &[&value[..], &["option `eval-every`: none on rank 0", "; 2 on rank 1"]].concat(),
    );
    differ(
        &["--max-skipped", "7"],
        &[&value[..], &["option `max-skipped`: 10 on rank 0", "; 7 on rank 1"]].concat(),
    );
    differ(&["--from", "nowhere"], &["option `from`: none on rank 0"]);
}

#[test]
fn a_process_with_invalid_input_is_named_by_all() {
    differ(&["--eval-every", "2", "--eval-data", "missing.txt"], &["rank 1 (", "failed", "missing.txt"]);
}

#[test]
fn invalid_places_are_refused() {
    let place = Workplace::new();
    let run = |more: &[&str]| Ran::new(train(&place, more).env("MESH_JOB_TOKEN", "x").output().unwrap());
    let rank = ["--hosts", "2", "--rank", "2", "--coordinator", "127.0.0.1:1"];
    run(&rank).fails(&["`--rank` must be below `--hosts` (got 2 of 2)"]);
    let nobody = ["--hosts", "2", "--rank", "1", "--coordinator", "127.0.0.1:1", "--join-within", "1"];
    run(&nobody).fails(&["rank 1 cannot reach the coordinator at 127.0.0.1:1 within 1 s"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let missing = ["--hosts", "2", "--rank", "0", "--coordinator", &free, "--join-within", "1"];
    run(&missing).fails(&["these ranks have not joined: 1"]);
    run(&["--processes", "3", "--steps", "1"])
        .fails(&["the mesh has 4 devices, which 3 processes cannot share"]);
    run(&["--hosts", "2"]).fails_with(2, &["--rank"]);
    run(&["--restarts", "2"]).fails_with(2, &["--processes"]);
}

#[test]
fn many_losses_at_random_moments() {
    if std::env::var_os("MESH_SLOW").is_none_or(|v| v != "1") {
        say_skipped("MESH_SLOW=1 runs it");
        return;
    }
    let moments = ["rank 0 of 2", "compiling", "compiled in", "saved in", "step "];
    for attempt in 0..50 {
        lose("-KILL", moments[attempt % moments.len()], attempt % 2);
    }
    for attempt in 0..10 {
        lose("-STOP", moments[attempt % moments.len()], attempt % 2);
    }
}

/// Returns a place with a checkpoint `ck` of a small model with experts, and inputs of the commands.
fn trained() -> Workplace {
    let place = Workplace::new();
    let (path, data) = (model("switch_tiny.rs"), text());
    let train = ["train", &path, "--data", &data, "--steps", "2", "--seed", "3", "--checkpoint-dir", "ck"];
    place.run_on_cpu(&[&train[..], &tiny_switch()].concat()).succeeds();
    place.write("in.txt", "let x = <extra_id_0>;\nfn main\nuse std\n");
    place.write("pairs.tsv", "fn main\t{}\nlet x\t= 3;\n");
    place
}

/// The commands with parameters. Each prints numbers to standard output.
fn commands() -> [Vec<String>; 4] {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let eval = format!("eval ck --mesh data=2 --data {} --batches 2 --json", text());
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
    let ranks = |more: [&'static [&'static str]; 2]| {
        start_ranks(&place, 2, |rank, flags| {
            let words = [&words[..], flags, &["--join-within", "60", "--output", "out.txt"], more[rank]];
            let mut command = place.meshc(&words.concat());
            command.env("MESH_PJRT_PLUGIN", cpu_plugin());
            command
        })
    };
    for (rank, child) in ranks([&[], &[]]).iter_mut().enumerate() {
        let (code, output) = end(&place, rank, child);
        assert_eq!(code, Some(0), "{output}");
        assert!(output.contains(&format!("rank {rank} of 2 by flags")), "{output}");
    }
    assert_eq!(fs::read_to_string(place.at("out.txt")).unwrap(), alone);
    fs::remove_file(place.at("out.txt")).unwrap();
    // Both ranks refuse what differs, and the inputs that one of them cannot read.
    for (rank, child) in ranks([&[], &["--min-length", "2"]]).iter_mut().enumerate() {
        let (code, output) = end(&place, rank, child);
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains("the processes of this job differ:\n  command line: "), "{output}");
    }
    for (rank, child) in ranks([&[], &["--tokenizer", "none.json"]]).iter_mut().enumerate() {
        let (code, output) = end(&place, rank, child);
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains("rank 1 (") && output.contains("none.json"), "{output}");
    }
    assert!(!place.at("out.txt").exists());
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

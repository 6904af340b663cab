#!/usr/bin/env python3
"""Runs campaigns: lists of training runs, described by TOML files, that survive interruptions.

  run.py CAMPAIGN.toml… --meshc PATH --state DIR [--jobs 1|2]   runs unfinished runs, in the order of the files
  run.py CAMPAIGN.toml… --state DIR --status                    prints the progress of every run
  run.py CAMPAIGN.toml… --state DIR --collect DIR               writes DIR/NAME.jsonl, one JSON line per run

The same command starts a campaign and resumes it after an interruption: finished runs are skipped, others continue
from their last checkpoint. Needs only Python's standard library (3.11 or later).

A campaign file:

  name = "experts"
  base = "base.toml"               # a file beside it with any of the keys below; keys given here take precedence
  data = "tokens"                  # a folder of `meshc data prepare`, relative to the state folder; or several corpora:
                                   # "de=tokens/de fr=tokens/fr"
  mix-temperature = 3.33           # of the mixture, if there are several
  steps = 4000
  eval-every = 200                 # steps between evaluations
  eval-batches = 24                # batches of an evaluation
  held-out = 0.02                  # share of the text that is evaluated on and never trained on
  save-every = 100                 # steps between checkpoints
  dtype = "f32"
  teacher = "experts/e8-seed1"     # CAMPAIGN/RUN: distil its newest checkpoint; default: none

  [set]                            # settings of all models, as `--set` takes them
  batch = 32

  [models.dense]
  program = "models/t5_tiny.rs"    # relative to MESH_HOME, or the name of a built-in model
  rate-from = { campaign = "rates", model = "dense" }   # `lr` is that of the model's best finished run there
  set = { d_ff = 256 }             # settings of this model
  dtype = "bf16"                   # and any of the keys above

  [[runs]]                         # groups, in the order in which they run
  models = ["dense"]
  seeds = [1]
  steps = 600                      # any of the keys above
  vary = { lr = [0.01, 0.02] }     # one run for each combination
  stages = [200, 400]              # train all runs of the group to step 200, then all to 400, then to the end

The seed of a run is the seed of its initial values, dropout and order of the data.
"""
import argparse
import fcntl
import hashlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

PER_RUN = {"steps": int, "eval-every": int, "eval-batches": int, "held-out": float, "save-every": int, "dtype": str,
           "data": str, "mix-temperature": float, "teacher": str}
DEFAULTS = {"eval-batches": 24, "held-out": 0.02, "save-every": 100, "dtype": "f32"}


class Mistake(Exception):
    """Something the user has to change."""


# ------------------------------------------------------------------------------ campaign files


@dataclass
class Run:
    """One training run."""
    campaign: str
    model: str
    program: str
    seed: int
    settings: dict
    options: dict
    varied: dict
    rate_from: dict | None = None
    stages: tuple = ()

    @property
    def name(self):
        varied = [f"{key}={word(value)}" for key, value in sorted(self.varied.items())]
        return "-".join([self.model, *varied, f"seed{self.seed}"])

    @property
    def key(self):
        return f"{self.campaign}/{self.name}"


def word(value):
    """A value as `--set` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def check_keys(where, table, allowed):
    for key in table:
        if key not in allowed:
            raise Mistake(f"{where}: unknown key `{key}`; allowed are {', '.join(sorted(allowed))}")


def options_of(where, table):
    found = {}
    for key, kind in PER_RUN.items():
        if key not in table:
            continue
        value = table[key]
        if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
            raise Mistake(f"{where}: `{key}` must be {kind.__name__}, got {value!r}")
        found[key] = value
    return found


def read_table(path):
    """A campaign file with what it takes from its base; of tables, key by key."""
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Mistake(f"{path}: {error}") from error
    check_keys(path, table, {"name", "about", "base", "set", "models", "runs", *PER_RUN})
    if "base" not in table:
        return table
    base = read_table(path.parent / table["base"])
    both = {key: base.get(key, {}) | table.get(key, {}) for key in ["set", "models"]}
    return base | table | both


def load(path):
    """The runs of a campaign file, in order."""
    table = read_table(Path(path))
    for key in ["name", "models", "runs"]:
        if key not in table:
            raise Mistake(f"{path}: `{key}` is missing")
    runs = []
    for number, group in enumerate(table["runs"], 1):
        where = f"{path}, group {number} of `runs`"
        check_keys(where, group, {"models", "seeds", "vary", "set", "stages", *PER_RUN})
        for seed, model in itertools.product(group.get("seeds", [1]), group.get("models", list(table["models"]))):
            if model not in table["models"]:
                raise Mistake(f"{where}: there is no model `{model}`")
            runs += runs_of(path, table, group, model, seed)
    names = [run.name for run in runs]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise Mistake(f"{path}: two runs are called `{twice.pop()}`")
    return runs


def runs_of(path, table, group, model, seed):
    about = table["models"][model]
    where = f"{path}, model `{model}`"
    check_keys(where, about, {"program", "rate-from", "set", *PER_RUN})
    if "program" not in about:
        raise Mistake(f"{where}: `program` is missing")
    options = DEFAULTS | options_of(path, table) | options_of(where, about) | options_of(f"{path}, `runs`", group)
    for key in ["steps", "eval-every", "data"]:
        if key not in options:
            raise Mistake(f"{where}: `{key}` is missing")
    vary = group.get("vary", {})
    for values in itertools.product(*vary.values()):
        varied = dict(zip(vary, values))
        own = {key: varied[key] for key in PER_RUN if key in varied}
        settings = {**table.get("set", {}), **about.get("set", {}), **group.get("set", {})}
        settings |= {key: value for key, value in varied.items() if key not in PER_RUN}
        rate_from = about.get("rate-from") if "lr" not in settings else None
        stages = tuple(stage for stage in group.get("stages", []) if stage < (options | own)["steps"])
        yield Run(table["name"], model, about["program"], seed, settings, options | own, varied, rate_from, stages)


# ------------------------------------------------------------------------------ what runs left


def read_metrics(path):
    """The lines of a metrics file that are whole."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def mean(values):
    return sum(values) / len(values)


def summarize(lines):
    """What is worth keeping of a metrics file."""
    curve, since = [], []
    for line in lines:
        since.append(line)
        if "eval" not in line:
            continue
        row = {"step": line["step"], "eval_loss": number(line["eval"].get("loss")),
               "train_loss": round_to(mean([x["loss"] for x in since if x.get("loss") is not None] or [float("nan")]))}
        if "dropped" in line["eval"]:
            row["eval_dropped"] = number(line["eval"]["dropped"])
        for stack in ["encoder", "decoder"]:
            if f"{stack}_dropped" in line:
                row[f"{stack}_dropped"] = [round_to(v) for v in by_layer(since, f"{stack}_dropped")]
                loads = [[max(layer) * len(layer) for layer in x[f"{stack}_load"]] for x in since]
                row[f"{stack}_max_load"] = [round_to(mean(v)) for v in zip(*loads)]
                idle = [[sum(e * len(layer) < 0.1 for e in layer) for layer in x[f"{stack}_load"]] for x in since]
                row[f"{stack}_idle"] = [round_to(mean(v)) for v in zip(*idle)]
                row[f"{stack}_entropy"] = [round_to(v) for v in by_layer(since, f"{stack}_entropy")]
        curve.append(row)
        since = []
    # A step after an evaluation counts from its own start, but the first two steps of a process warm up.
    times = [line["step_ms"] for line in lines[2:] if "step_ms" in line]
    summary = {"steps_done": lines[-1]["step"] if lines else 0, "curve": curve}
    if times:
        summary["step_ms_median"] = round_to(statistics.median(times))
        summary["step_ms_p10"] = round_to(sorted(times)[len(times) // 10])
    norms = [line["grad_norm"] for line in lines if line.get("grad_norm") is not None]
    if norms:
        summary["grad_norm_median"] = round_to(statistics.median(norms))
    if lines:
        summary["skipped_steps"] = lines[-1].get("skipped_steps", 0)
        first = [line for line in lines if line["step"] in (1, 10, 25, 50, 100, 150, 200, 300, 400, 500, 1000)]
        summary["train_at"] = {str(line["step"]): number(line.get("loss")) for line in first}
    return summary


def by_layer(lines, key):
    """The mean over lines of each layer of a metric; a metric of one layer may be a bare number."""
    values = [x[key] if isinstance(x[key], list) else [x[key]] for x in lines if x.get(key) is not None]
    return [mean(v) for v in zip(*values)]


def round_to(value, digits=5):
    return round(value, digits) if value == value else None


def number(value):
    return None if value is None else round_to(value)


# ------------------------------------------------------------------------------ one run


@dataclass
class Driver:
    """Where everything is."""
    state: Path
    meshc: str = ""
    runs: list = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    children: set = field(default_factory=set)
    building: threading.Lock = field(default_factory=threading.Lock)

    def folder(self, run):
        return self.state / "runs" / run.campaign / run.name

    def result(self, run):
        """The line of a finished run, or None: a run whose file asks for more steps by now is not finished."""
        path = self.folder(run) / "result.json"
        line = json.loads(path.read_text()) if path.exists() else None
        return line if line and line["steps_done"] >= run.options["steps"] else None

    def settings(self, run):
        """With the rate of the best run of another campaign, where the model asks for it; fixed once the run began."""
        path = self.folder(run) / "about.json"
        if not path.exists():
            return run.settings | ({"lr": self.best_rate(run)} if run.rate_from else {})
        began = json.loads(path.read_text())["settings"]
        for key in sorted(began.keys() | run.settings.keys()):
            if key not in run.settings and key == "lr" and run.rate_from:
                continue
            if began.get(key) != run.settings.get(key):
                raise Mistake(f"{run.key}: `{key}` was {began.get(key)} when the run began, the campaign file says "
                              f"{run.settings.get(key)}; put it back, or remove {self.folder(run)} to start again")
        return began

    def best_rate(self, run):
        wanted = run.rate_from
        kind = [r for r in self.runs if (r.campaign, r.model) == (wanted["campaign"], wanted["model"])]
        missing = [r.key for r in kind if self.result(r) is None]
        if missing:
            raise Mistake(f"{run.key}: takes the best rate of campaign `{wanted['campaign']}`, whose run {missing[0]} is "
                          "not finished")
        found = []
        for path in (self.state / "runs" / wanted["campaign"]).glob("*/result.json"):
            line = json.loads(path.read_text())
            if line["model"] == wanted["model"] and line["final_loss"] is not None:
                found.append((line["final_loss"], line["settings"]["lr"]))
        if not found:
            raise Mistake(f"{run.key}: no finished run of model `{wanted['model']}` in campaign "
                          f"`{wanted['campaign']}` to take the rate from; run that campaign first")
        return min(found)[1]

    def call(self, command, log):
        """Runs a command to its end; its output goes to a file. Returns the exit code and the processor time."""
        with open(log, "ab") as out:
            child = subprocess.Popen(command, stdout=out, stderr=out)
        self.children.add(child)
        if self.stopping.is_set():
            child.terminate()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        self.children.discard(child)
        return child.returncode, usage.ru_utime + usage.ru_stime

    def program(self, run, alone=False):
        """The program of a run with its settings, as meshc takes them; `alone` is without those of distillation."""
        program = Path(run.program)
        if program.suffix and not program.is_absolute():
            program = Path(os.environ.get("MESH_HOME", ".")) / program
        sets = [part for words in self.words(run, alone) for part in ("--set", words)]
        return [str(program), *sets, "--dtype", run.options["dtype"]]

    def words(self, run, alone=False):
        """The settings of a run, as `--set` takes them; `alone` is without those of distillation."""
        settings = sorted(self.settings(run).items())
        return [f"{key}={word(value)}" for key, value in settings if not (alone and key.startswith("distill"))]

    def subject(self, run):
        """What `meshc train` trains: the artefact, or with a teacher the program, which the teacher is added to."""
        if "teacher" not in run.options:
            return [str(self.artefact(run))]
        teacher = self.state / "runs" / run.options["teacher"]
        if not (teacher / "result.json").exists():
            raise Mistake(f"{run.key}: its teacher {run.options['teacher']} is not finished; run its campaign first")
        return [*self.program(run), "--teacher", str(teacher / "checkpoints")]

    def artefact(self, run):
        """The compiled program of a run; runs with the same settings, except those of distillation, share it."""
        version = hashlib.sha256(Path(self.meshc).read_bytes()).hexdigest()
        about = json.dumps([version, run.program, run.options["dtype"], self.words(run, alone=True)])
        folder = self.state / "artefacts" / hashlib.sha256(about.encode()).hexdigest()[:16]
        with self.building:
            if not folder.exists():
                log = self.folder(run) / "compile.log"
                command = [self.meshc, "compile", *self.program(run, alone=True), "-o", str(folder)]
                code, _ = self.call(command, log)
                if code != 0:
                    raise Mistake(f"{run.key}: `{' '.join(command)}` failed with {code}, see {log}")
        return folder

    def size(self, artefact):
        """Parameters and operations of a program."""
        reports = json.loads((artefact / "report.json").read_text())
        step = next(report for report in reports if report["function"] == "train_step")
        keys = ["parameters", "flops_per_sequence", "flops_per_device", "flops_per_device_by_purpose"]
        return {key: step.get(key) for key in keys}

    def train(self, run, steps):
        """Trains a run to a step, or until the driver is asked to stop."""
        folder = self.folder(run)
        if self.done(run) >= run.options["steps"]:
            # The campaign file asks for fewer steps than when the run was interrupted.
            return write(folder / "result.json", json.dumps(self.line(run)) + "\n")
        folder.mkdir(parents=True, exist_ok=True)
        settings = self.settings(run)
        artefact, options = self.artefact(run), run.options
        write(folder / "about.json", json.dumps({"settings": settings} | self.size(artefact)) + "\n")
        data = [self.corpus(word) for word in options["data"].split()]
        mixed = ["--mix-temperature", str(options["mix-temperature"])] if "mix-temperature" in options else []
        command = [
            self.meshc, "train", *self.subject(run), "--data", *data, *mixed, "--steps", str(steps), "--seed",
            str(run.seed), "--metrics", str(folder / "metrics.jsonl"), "--checkpoint-dir", str(folder / "checkpoints"),
            "--save-every", str(options["save-every"]), "--keep", "1", "--held-out", str(options["held-out"]),
            "--eval-every", str(options["eval-every"]), "--eval-batches", str(options["eval-batches"]), "--resume",
            "--allow-non-finite", "--json",
        ]
        started = time.time()
        code, cpu = self.call(command, folder / "train.log")
        self.note(run, {"seconds": round(time.time() - started, 1), "cpu_seconds": round(cpu, 1), "exit": code})
        if self.stopping.is_set():
            return
        if code != 0:
            raise Mistake(f"{run.key}: `meshc train` ended with {code}, see {folder / 'train.log'}")
        if steps == options["steps"]:
            write(folder / "result.json", json.dumps(self.line(run)) + "\n")

    def corpus(self, word):
        """A corpus as `--data` takes it, with the path of its folder."""
        name, equals, folder = word.rpartition("=")
        return f"{name}{equals}{self.state / folder}"

    def done(self, run):
        """The steps of a run that are done."""
        lines = read_metrics(self.folder(run) / "metrics.jsonl")
        return lines[-1]["step"] if lines else 0

    def note(self, run, about):
        """One line for each process that worked on a run."""
        with open(self.folder(run) / "processes.jsonl", "a") as out:
            out.write(json.dumps(about) + "\n")

    def line(self, run):
        """What is known of a run."""
        folder = self.folder(run)
        lines = read_metrics(folder / "metrics.jsonl")
        about = {"campaign": run.campaign, "run": run.name, "model": run.model, "program": run.program,
                 "varied": run.varied, "seed": run.seed, "options": run.options}
        about |= json.loads((folder / "about.json").read_text())
        processes = read_metrics(folder / "processes.jsonl")
        about["cpu_seconds"] = round(sum(x["cpu_seconds"] for x in processes), 1)
        about |= summarize(lines)
        losses = [row["eval_loss"] for row in about["curve"]]
        about["final_loss"] = losses[-1] if losses and about["steps_done"] >= run.options["steps"] else None
        about["finished"] = about["steps_done"] >= run.options["steps"]
        return about

    def stop(self, *_):
        """Asks every child to save its state and end."""
        self.stopping.set()
        for child in list(self.children):
            child.terminate()


def write(path, text):
    """Writes a file so that it is whole or not there."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.rename(path)


# ------------------------------------------------------------------------------ all runs


def order(runs):
    """What there is to do, pairs of a run and a step to train it to: the stages of a group go through all its runs."""
    for _, group in itertools.groupby(runs, lambda run: (run.campaign, run.stages)):
        group = list(group)
        for stage in group[0].stages:
            yield from ((run, stage) for run in group)
        yield from ((run, run.options["steps"]) for run in group)


def work(driver, runs, jobs):
    """Trains what is not finished. Returns what went wrong, a list of messages."""
    waiting = list(order(runs))
    lock, wrong, busy = threading.Lock(), {}, set()

    def take():
        """The next run that nobody works on and that is not there yet."""
        with lock:
            for i, (run, steps) in enumerate(waiting):
                if run.key in busy:
                    continue
                del waiting[i]
                if run.key in wrong or driver.result(run) or steps < run.options["steps"] and driver.done(run) >= steps:
                    return take_again
                busy.add(run.key)
                return run, steps
        return None

    take_again = object()

    def worker():
        while not driver.stopping.is_set():
            item = take()
            if item is None:
                return
            if item is take_again:
                continue
            run, steps = item
            say(f"{run.key}: to step {steps}")
            try:
                driver.train(run, steps)
            except Mistake as mistake:
                say(f"error: {mistake}")
                wrong[run.key] = str(mistake)
            busy.discard(run.key)
            say(f"{run.key}: at step {driver.done(run)}")

    threads = [threading.Thread(target=worker) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(wrong.values())


def say(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


def status(driver, runs):
    for run in runs:
        evaluated = [line for line in read_metrics(driver.folder(run) / "metrics.jsonl") if "eval" in line]
        done = driver.done(run)
        last = f"{evaluated[-1]['eval']['loss']:.4f} at {evaluated[-1]['step']}" if evaluated else "-"
        state = "finished" if driver.result(run) else "runs or waits" if done else "not started"
        print(f"{run.key:48} {done:6} / {run.options['steps']:<6} {last:18} {state}")


def collect(driver, runs, out):
    """Writes one line for each run that was evaluated at least once, finished or not."""
    out.mkdir(parents=True, exist_ok=True)
    by_campaign = {}
    for run in runs:
        if not read_metrics(driver.folder(run) / "metrics.jsonl"):
            continue
        line = driver.line(run)
        if line["curve"]:
            by_campaign.setdefault(run.campaign, []).append(line)
    for name, lines in by_campaign.items():
        write(out / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        print(f"{out / (name + '.jsonl')}: {len(lines)} runs, {sum(line['finished'] for line in lines)} finished")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaigns", nargs="+", metavar="CAMPAIGN.toml")
    parser.add_argument("--state", type=Path, required=True, help="folder of data, checkpoints and metrics")
    parser.add_argument("--meshc", default="", help="the program; needed to train")
    parser.add_argument("--jobs", type=int, choices=[1, 2], default=1, help="runs at a time")
    parser.add_argument("--status", action="store_true", help="print how far every run is")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="write one JSON line per run")
    return parser.parse_args(arguments)


def main(arguments):
    args = parse(arguments)
    runs = [run for path in args.campaigns for run in load(path)]
    driver = Driver(args.state, args.meshc, runs)
    if args.status:
        return status(driver, runs)
    if args.collect:
        return collect(driver, runs, args.collect)
    if not args.meshc or not os.access(args.meshc, os.X_OK):
        raise Mistake(f"--meshc must name the program, got {args.meshc!r}")
    args.state.mkdir(parents=True, exist_ok=True)
    with open(args.state / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Mistake(f"another driver runs campaigns in {args.state}") from None
        signal.signal(signal.SIGTERM, driver.stop)
        signal.signal(signal.SIGINT, driver.stop)
        wrong = work(driver, runs, args.jobs)
    if wrong:
        raise Mistake(f"{len(wrong)} runs failed, the first: {wrong[0]}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Mistake as mistake:
        sys.exit(f"error: {mistake}")

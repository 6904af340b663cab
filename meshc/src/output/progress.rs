//! Progress of training on standard error: a bar on a terminal, lines elsewhere.

use super::stream::errln;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtime::{
    Compilation,
    checkpoint::Table,
    train::{Observer, Step},
};
use std::{
    io::{IsTerminal, stderr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Least time between two lines.
const LINE: Duration = Duration::from_secs(2);

/// An observer of training that prints its progress.
pub struct Progress {
    steps: u64,
    bar: ProgressBar,
    is_terminal: bool,
    /// Milliseconds per step, smoothed.
    pace: Option<f64>,
    /// True after the first evaluation.
    evaluates: bool,
    last_line: Option<Instant>,
    ended: Arc<AtomicBool>,
    /// An action for the start of the run.
    first: Option<Box<dyn FnOnce() -> anyhow::Result<()>>>,
    /// An action for the moment from which there is state to save.
    state: Option<Box<dyn FnOnce()>>,
    /// The first warnings, for the record of the run.
    warnings: Vec<String>,
}

/// Most warnings in the record of a run.
const WARNINGS: usize = 100;

impl Progress {
    /// Returns an observer for training up to step `steps`. Prints a message once `stop` is set, because the
    /// step in progress may take a while.
    pub fn new(steps: u64, stop: Arc<AtomicBool>) -> Self {
        let is_terminal = stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        // The template is a valid constant; the default style would do as well.
        if let Ok(style) = ProgressStyle::with_template("{elapsed} [{bar:24}] {pos}/{len} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        let ended = Arc::new(AtomicBool::new(false));
        let (told, over) = (bar.clone(), ended.clone());
        thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if stop.load(Ordering::Relaxed) {
                    let words = "stopping after the current steps; press Ctrl-C again to stop at once";
                    if is_terminal {
                        told.println(words)
                    } else {
                        errln!("{words}")
                    }
                    return;
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        Self {
            steps,
            bar,
            is_terminal,
            pace: None,
            evaluates: false,
            last_line: None,
            ended,
            first: None,
            state: None,
            warnings: Vec::new(),
        }
    }

    /// Adds an action for the start of the run. Its failure is a warning.
    pub fn first(mut self, act: impl FnOnce() -> anyhow::Result<()> + 'static) -> Self {
        self.first = Some(Box::new(act));
        self
    }

    /// Adds an action for the moment from which there is state to save.
    pub fn at_state(mut self, act: impl FnOnce() + 'static) -> Self {
        self.state = Some(Box::new(act));
        self
    }

    /// Returns the first warnings.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Removes the bar.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.bar.abandon();
    }

    fn say(&self, line: &str) {
        if self.is_terminal {
            self.bar.println(page::visible::visible(line));
        } else {
            errln!("{line}");
        }
    }

    fn line(&self, step: &Step) -> String {
        let mut line = format!("loss {:.4}, {:.0} tokens/s", step.loss, step.tokens_per_s);
        if let Some(pace) = self.pace.filter(|_| step.step < self.steps) {
            line += &format!(", {} left", duration(pace * (self.steps - step.step) as f64));
        }
        line
    }
}

impl Observer for Progress {
    fn on_start(&mut self) {
        if let Some(Err(error)) = self.first.take().map(|act| act()) {
            self.on_warning(&format!("{error:#}"));
        }
    }

    fn on_state(&mut self) {
        self.state.take().into_iter().for_each(|act| act());
    }

    fn on_step(&mut self, step: &Step) {
        let smooth = |pace: f64| 0.9 * pace + 0.1 * step.step_ms;
        self.pace = Some(self.pace.map_or(step.step_ms, smooth));
        let line = self.line(step);
        let eval = step.eval.as_ref().map(|eval| {
            let values: Vec<String> = eval.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
            format!("step {}: held-out text: {}", step.step, values.join(", "))
        });
        let is_due = self.last_line.is_none_or(|last| last.elapsed() >= LINE)
            || eval.is_some()
            || step.step == self.steps;
        if is_due {
            self.last_line = Some(Instant::now());
        }
        if self.is_terminal {
            self.bar.set_position(step.step);
            self.bar.set_message(line);
        } else if is_due {
            errln!("step {}/{}: {line}", step.step, self.steps);
        }
        for (name, text) in step.prints.iter().filter(|_| is_due) {
            self.say(&format!("step {}: {name} = {text}", step.step));
        }
        eval.iter().for_each(|eval| self.say(eval));
    }

    fn on_loaded(&mut self, table: &Table) {
        self.say(&table.to_string());
    }

    fn on_phase(&mut self, what: &str) {
        if self.is_terminal {
            self.bar.set_message(what.to_owned());
            self.bar.tick();
        } else if what != "saving" && !(what == "evaluating" && self.evaluates) {
            // These phases are frequent and print a line at their end. Only the first evaluation is
            // announced.
            self.evaluates |= what == "evaluating";
            errln!("{what}");
        }
    }

    fn on_note(&mut self, what: &str) {
        self.say(what);
    }

    fn on_compiled(&mut self, compilation: &Compilation) {
        let Compilation { function, elapsed, .. } = compilation;
        let how = if compilation.cached { "from the cache" } else { "compiled" };
        self.say(&format!("{function}: {how} in {:.2} s", elapsed.as_secs_f64()));
        compilation.note.iter().for_each(|note| self.say(&format!("note: {note}")));
    }

    fn on_rollback(&mut self, step: u64) {
        self.bar.set_position(step);
    }

    fn on_saved(&mut self, step: u64, dir: &Path) {
        self.say(&format!("step {step}: saved in {}", dir.display()));
    }

    fn on_warning(&mut self, what: &str) {
        if self.warnings.len() < WARNINGS {
            self.warnings.push(what.to_owned());
        }
        self.say(&format!("warning: {what}"));
    }
}

fn duration(ms: f64) -> String {
    let s = (ms / 1e3).round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!(
            [400.0, 59_000.0, 61_000.0, 3.7e6].map(duration),
            ["0 s", "59 s", "1 min 01 s", "1 h 01 min"]
        );
    }
}

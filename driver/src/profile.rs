//! Profiles of runs: phases of the host and calls of executables as a Chrome trace, and the profile of the
//! plugin, if it has a profiler.
//!
//! The folder of a profile has `trace.json`, which <https://ui.perfetto.dev> and `chrome://tracing` open, and
//! with a profiler `plugins/profile/run/HOST.xplane.pb`, the place where xprof and TensorBoard look.

use crate::files::write_file;
use anyhow::{Context, Result};
use pjrt::{Plugin, Profiler};
use runtime::{
    CallSpan, Calls, Compilation,
    checkpoint::Table,
    train::{EVALUATING, Observer, Step, WAITING_TO_EVALUATE},
};
use serde_json::{Value, json};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The file of the phases and calls.
pub const TRACE: &str = "trace.json";

/// A part of a run, from its start.
#[derive(Clone, PartialEq, Debug)]
struct Span {
    name: String,
    /// The row of the trace.
    row: Row,
    begin: Duration,
    end: Duration,
}

/// The rows of a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Row {
    Phases,
    Steps,
    Data,
    Executables,
}

impl Row {
    const ALL: [Self; 4] = [Self::Phases, Self::Steps, Self::Data, Self::Executables];

    fn name(self) -> &'static str {
        match self {
            Self::Phases => "phases",
            Self::Steps => "steps",
            Self::Data => "waiting for data",
            Self::Executables => "executables",
        }
    }
}

/// A profile that is being recorded.
pub struct Profile {
    start: Instant,
    spans: Vec<Span>,
    /// The phase that has begun.
    phase: Option<(String, Instant)>,
    device: Option<Profiler>,
    warnings: Vec<String>,
    /// The first step of this process, once it is known.
    first: Option<u64>,
    /// True if the last step that is recorded has been added.
    ended: bool,
}

impl Profile {
    /// Starts a profile with the phase `name`.
    pub fn start(name: &str) -> Self {
        let start = Instant::now();
        let phase = Some((name.to_owned(), start));
        Self {
            start,
            spans: Vec::new(),
            phase,
            device: None,
            warnings: Vec::new(),
            first: None,
            ended: false,
        }
    }

    /// Ends the current phase, and begins the phase `name`, unless the last recorded step has ended.
    pub fn phase(&mut self, name: &str) {
        if !self.ended {
            self.begin_phase(Some(name.to_owned()));
        }
    }

    /// Returns the phases up to now and their times, one a line.
    pub fn timings(&self) -> String {
        let is_start = |span: &&Span| matches!(span.row, Row::Phases | Row::Steps);
        let line = |span: &Span| {
            let seconds = span.end.saturating_sub(span.begin).as_secs_f64();
            format!("  {seconds:8.2} s  {}\n", span.name)
        };
        let all: String = self.spans.iter().filter(is_start).map(line).collect();
        format!("start-up, {:.2} s to the end of the first step:\n{all}", self.start.elapsed().as_secs_f64())
    }

    /// Starts the profiler of the plugin. A plugin without one, or an error, is a warning.
    fn start_device(&mut self, plugin: &Plugin) {
        match Profiler::start(plugin) {
            Ok(Some(profiler)) => self.device = Some(profiler),
            Ok(None) => self.warnings.push(
                "the plugin has no profiler: the profile has phases of the host and times of executables"
                    .into(),
            ),
            Err(error) => self.warnings.push(format!("the profile has no devices: {error}")),
        }
    }

    /// Stops the profiler of the plugin, and writes what it recorded below `folder`.
    fn stop_device(&mut self, folder: &Path) -> Result<()> {
        let Some(profiler) = self.device.take() else { return Ok(()) };
        let bytes = profiler.stop().context("collecting the profile of the plugin")?;
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "host" } else { host.trim() };
        let folder = folder.join("plugins/profile/run");
        fs::create_dir_all(&folder).with_context(|| format!("creating `{}`", folder.display()))?;
        write_file(&folder.join(format!("{host}.xplane.pb")), &bytes)
    }

    /// Adds calls of executables.
    fn add_calls(&mut self, calls: &[CallSpan]) {
        for call in calls {
            self.add(call.function.clone(), Row::Executables, call.begin, call.end);
        }
    }

    /// Returns the warnings since the last call of this.
    fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Writes the trace to `folder`. Returns its path.
    ///
    /// # Errors
    /// The plugin reports an error, or a file cannot be written.
    pub fn end(mut self, folder: &Path) -> Result<PathBuf> {
        self.begin_phase(None);
        self.stop_device(folder)?;
        fs::create_dir_all(folder).with_context(|| format!("creating the folder `{}`", folder.display()))?;
        let path = folder.join(TRACE);
        write_file(&path, format!("{:#}\n", trace(&self.spans)).as_bytes())?;
        Ok(path)
    }

    fn add(&mut self, name: String, row: Row, begin: Instant, end: Instant) {
        let since = |at: Instant| at.saturating_duration_since(self.start);
        let (begin, end) = (since(begin), since(end));
        self.spans.push(Span { name, row, begin, end });
    }

    /// Ends the current phase, and begins the next one.
    fn begin_phase(&mut self, name: Option<String>) {
        let now = Instant::now();
        if let Some((name, begin)) = self.phase.take() {
            self.add(name, Row::Phases, begin, now);
        }
        self.phase = name.map(|name| (name, now));
    }

    /// Adds a step, unless the last recorded step has ended: that is the one `steps` after the first. Returns
    /// true if it is this step.
    fn record_step(&mut self, step: &Step, steps: u64) -> bool {
        if self.ended {
            return false;
        }
        let first = *self.first.get_or_insert(step.step);
        self.add_step(step);
        self.ended = step.step >= first.saturating_add(steps);
        self.ended
    }

    /// Adds a step that has just ended, or that ended when its evaluation began.
    fn add_step(&mut self, step: &Step) {
        self.begin_phase(None);
        let end = self.end_of(step);
        let took = step.step_ms.max(0.0);
        let begin = end.saturating_sub(Duration::from_secs_f64(took / 1e3));
        // The phase before a step ends when the step begins, which is known only now.
        let phases = self.spans.iter_mut().rev().take_while(|span| span.row == Row::Phases);
        phases.filter(|span| span.begin < begin && begin < span.end).for_each(|span| span.end = begin);
        let wait = begin + Duration::from_secs_f64(step.wait_ms.clamp(0.0, took) / 1e3);
        let mut push = |name: &str, row, begin, end| {
            self.spans.push(Span { name: name.to_owned(), row, begin, end });
        };
        push(&format!("step {}", step.step), Row::Steps, begin, end);
        push("wait", Row::Data, begin, wait);
        push("train_step", Row::Executables, wait, end);
    }

    /// Returns the end of a step that is reported now: the begin of its evaluation, if there was one.
    fn end_of(&self, step: &Step) -> Duration {
        let mut phases = self.spans.iter().rev().take_while(|span| span.row == Row::Phases);
        let evaluation = phases.next().filter(|span| step.eval.is_some() && span.name == EVALUATING);
        let Some(evaluation) = evaluation else { return self.start.elapsed() };
        phases.next().filter(|span| span.name == WAITING_TO_EVALUATE).unwrap_or(evaluation).begin
    }
}

/// Returns spans as a Chrome trace: complete events, in microseconds.
fn trace(spans: &[Span]) -> Value {
    let micros = |time: Duration| (time.as_secs_f64() * 1e9).round() / 1e3;
    let number = |row: Row| Row::ALL.iter().position(|other| *other == row).unwrap_or(0);
    let rows = Row::ALL.iter().map(|row| {
            json!({ "ph": "M", "name": "thread_name", "pid": 1, "tid": number(*row), "args": { "name": row.name() } })
        });
    let spans = spans.iter().map(|span| {
        json!({ "ph": "X", "name": span.name, "pid": 1, "tid": number(span.row), "ts": micros(span.begin),
                "dur": micros(span.end.saturating_sub(span.begin)) })
    });
    json!({ "displayTimeUnit": "ms", "traceEvents": rows.chain(spans).collect::<Vec<_>>() })
}

/// A profile of a command that calls executables: it begins when the session is opened.
#[derive(Clone)]
pub struct Recorder {
    folder: PathBuf,
    calls: Calls,
    profile: Arc<Mutex<Option<Profile>>>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recorder").field(&self.folder).finish()
    }
}

impl Recorder {
    /// Returns a recorder whose profile is to be written to `folder`.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), calls: Calls::default(), profile: Arc::default() }
    }

    /// Begins the profile, unless another session has. Returns the record for the calls of the session.
    pub(crate) fn begin(&self, plugin: &Plugin) -> Calls {
        let mut profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner);
        profile.get_or_insert_with(|| {
            let mut profile = Profile::start("calls");
            profile.start_device(plugin);
            profile
        });
        self.calls.clone()
    }

    /// Writes the profile, and passes the path of its trace and its warnings to `say`.
    ///
    /// # Errors
    /// The plugin reports an error, or a file cannot be written.
    pub fn end(&self, say: fn(&str)) -> Result<()> {
        let profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut profile) = profile else { return Ok(()) };
        profile.add_calls(&self.calls.lock().unwrap_or_else(PoisonError::into_inner));
        profile.take_warnings().iter().for_each(|warning| say(&format!("warning: {warning}")));
        say(&format!("profile: {}", profile.end(&self.folder)?.display()));
        Ok(())
    }
}

/// An observer that records a profile of a training run and passes all reports on.
pub struct Profiled<'a> {
    inner: &'a mut dyn Observer,
    profile: Profile,
    plugin: Option<Plugin>,
    recorded: Option<(u64, PathBuf)>,
    timings: Option<fn(&str)>,
}

impl<'a> Profiled<'a> {
    /// Returns an observer that passes all reports to `inner`. `recorded` has the number of steps after the
    /// first one in which devices are recorded, and the folder of the profile; `None` means that only the
    /// start is recorded. Without a `plugin`, there are no devices to record. `timings` gets the times of the
    /// start, if they are wanted.
    pub fn new(
        inner: &'a mut dyn Observer,
        profile: Profile,
        plugin: Option<&Plugin>,
        recorded: Option<(u64, PathBuf)>,
        timings: Option<fn(&str)>,
    ) -> Self {
        Self { inner, profile, plugin: plugin.cloned(), recorded, timings }
    }
}

impl Profiled<'_> {
    /// Writes the profile, if one is wanted. Failures are warnings.
    pub fn end(self) {
        let Self { inner, profile, recorded, .. } = self;
        let Some((_, folder)) = recorded else { return };
        match profile.end(&folder) {
            Ok(path) => inner.on_note(&format!("profile: {}", path.display())),
            Err(error) => inner.on_warning(&format!("{error:#}")),
        }
    }

    fn warn(&mut self) {
        self.profile.take_warnings().iter().for_each(|warning| self.inner.on_warning(warning));
    }
}

impl Observer for Profiled<'_> {
    fn on_step(&mut self, step: &Step) {
        let is_first = self.profile.first.is_none();
        let steps = self.recorded.as_ref().map_or(0, |(steps, _)| *steps);
        let is_last = self.profile.record_step(step, steps);
        if let Some((_, folder)) = &self.recorded {
            if is_first {
                self.plugin.iter().for_each(|plugin| self.profile.start_device(plugin));
            }
            if is_last && let Err(error) = self.profile.stop_device(folder) {
                self.inner.on_warning(&format!("{error:#}"));
            }
        }
        self.warn();
        self.inner.on_step(step);
        if let Some(say) = self.timings.take() {
            say(self.profile.timings().trim_end());
        }
    }

    fn on_phase(&mut self, what: &str) {
        self.profile.phase(what);
        self.inner.on_phase(what);
    }

    fn on_note(&mut self, what: &str) {
        self.inner.on_note(what);
    }

    fn on_start(&mut self) {
        self.inner.on_start();
    }

    fn on_state(&mut self) {
        self.inner.on_state();
    }

    fn on_compiled(&mut self, compilation: &Compilation) {
        self.profile.begin_phase(None);
        self.inner.on_compiled(compilation);
    }

    fn on_loaded(&mut self, table: &Table) {
        self.inner.on_loaded(table);
    }

    fn on_rollback(&mut self, step: u64) {
        self.inner.on_rollback(step);
    }

    fn on_saved(&mut self, step: u64, dir: &Path) {
        self.inner.on_saved(step, dir);
    }

    fn on_warning(&mut self, what: &str) {
        self.inner.on_warning(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, thread::sleep};

    fn span(name: &str, row: Row, begin: u64, end: u64) -> Span {
        let (begin, end) = (Duration::from_micros(begin), Duration::from_micros(end));
        Span { name: name.to_owned(), row, begin, end }
    }

    #[test]
    fn a_trace_names_its_rows_and_has_spans_in_microseconds() {
        let spans =
            [span("compiling", Row::Phases, 0, 1500), span("train_step", Row::Executables, 1500, 1900)];
        let trace = trace(&spans);
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), Row::ALL.len() + 2);
        assert_eq!(events[3]["args"]["name"], "executables");
        let expected =
            json!({ "ph": "X", "name": "train_step", "pid": 1, "tid": 3, "ts": 1500.0, "dur": 400.0 });
        assert_eq!(events[5], expected);
    }

    /// Returns a report of a step of 3 ms.
    fn step(step: u64, has_eval: bool) -> Step {
        Step { step, step_ms: 3.0, eval: has_eval.then(BTreeMap::new), ..Step::default() }
    }

    /// Records a profile whose first phase is the first report. Reports are phases, for 6 ms each, `-` for
    /// 6 ms without a phase, and numbers of steps, with `+` if they were evaluated. Checks the names of
    /// phases and steps in the order of time, that none overlap, and that steps take 3 ms.
    #[track_caller]
    fn check(reports: &[&str], expected: &[&str]) {
        let mut profile = Profile::start(reports[0]);
        sleep(Duration::from_millis(6));
        for report in &reports[1..] {
            if let Ok(number) = report.trim_end_matches('+').parse() {
                assert!(!profile.record_step(&step(number, report.ends_with('+')), 99));
                continue;
            }
            if *report != "-" {
                profile.phase(report);
            }
            sleep(Duration::from_millis(6));
        }
        let mut spans = profile.spans;
        spans.retain(|span| matches!(span.row, Row::Phases | Row::Steps));
        spans.sort_by_key(|span| span.begin);
        assert_eq!(spans.iter().map(|span| span.name.as_str()).collect::<Vec<_>>(), expected);
        for pair in spans.windows(2) {
            assert!(pair[0].begin < pair[0].end && pair[0].end <= pair[1].begin, "{pair:?}");
        }
        for span in spans.iter().filter(|span| span.row == Row::Steps) {
            assert_eq!(span.end - span.begin, Duration::from_millis(3), "{span:?}");
        }
    }

    #[test]
    fn phases_and_steps_do_not_overlap() {
        let (eval, wait) = (EVALUATING, WAITING_TO_EVALUATE);
        check(&["restoring", "1"], &["restoring", "step 1"]);
        check(
            &["a", "1", "saving", "2", "rolled back", "2"],
            &["a", "step 1", "saving", "step 2", "rolled back", "step 2"],
        );
        check(&["a", "1", "-", eval, "2+", "-", "3"], &["a", "step 1", "step 2", eval, "step 3"]);
        check(&["a", "1", "saving", eval, "2+"], &["a", "step 1", "saving", "step 2", eval]);
        check(&["a", "1", "-", wait, eval, "2+"], &["a", "step 1", "step 2", wait, eval]);
        // The evaluation that an earlier run has abandoned.
        check(&["a", eval, "1"], &["a", eval, "step 1"]);
        check(&["a", wait, eval, eval, "1+"], &["a", wait, eval, "step 1", eval]);
    }

    #[test]
    fn nothing_is_recorded_after_the_last_step() {
        let mut profile = Profile::start("a");
        assert!(!profile.record_step(&step(7, false), 1));
        profile.phase("saving");
        assert!(profile.record_step(&step(8, false), 1));
        let all = profile.spans.len();
        profile.phase("saving");
        // A step that is repeated after a rollback.
        assert!(!profile.record_step(&step(8, false), 1));
        assert!(profile.phase.is_none());
        assert_eq!(profile.spans.len(), all);
        let mut whole = Profile::start("a");
        assert!(!whole.record_step(&step(7, false), u64::MAX));
        let mut start = Profile::start("a");
        assert!(start.record_step(&step(1, false), 0));
    }
}

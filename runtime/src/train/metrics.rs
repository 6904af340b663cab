//! Metrics of a step, and the metrics file.
//!
//! The file has one JSON object per line: `step`, `loss`, `tokens_per_s`, `step_ms`, `wait_ms`, then every
//! output of the program under its name (tensors as nested lists), then the losses by corpus, utilization and
//! memory if known, `eval` after an evaluation, and `rollback` in the first step after a rollback. JSON has
//! no NaN and no infinity: they are written as `null`, and `non_finite` lists their names. `time` is the wall
//! clock at the end of the step, in seconds since 1970.

use super::observer::{Rollback, Step};
use crate::{Contract, Error, HostTensor, Outputs, Result, watched};
use data::Batch;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The metrics of a step.
#[derive(Clone, PartialEq, Debug)]
pub struct Record {
    /// The part that observers see.
    pub step: Step,
    /// All outputs of the program except [`ROW_LOSS`], in the program's order: name, dims, values.
    outputs: Vec<(String, Vec<usize>, Vec<f64>)>,
    /// Each row's contribution to the loss, if the program returns it.
    rows: Vec<f64>,
    /// Metrics by corpus.
    texts: Vec<(String, f64)>,
}

/// The output with each row's contribution to `loss`.
const ROW_LOSS: &str = "row_loss";

impl Record {
    /// Waits for the outputs of a step.
    ///
    /// # Errors
    /// The step failed, or the program has no output with the role `loss`.
    pub fn new(step: u64, outputs: Outputs, contract: &Contract) -> Result<Self> {
        let names: Vec<String> = outputs.values.iter().map(|o| o.name.clone()).collect();
        let mut values = outputs.wait()?;
        let in_order = names.into_iter().filter_map(|name| {
            let value = values.remove(&name)?;
            Some((contract.output_role(&name).to_owned(), value))
        });
        Self::from_values(step, in_order.collect())
    }

    pub(super) fn from_values(step: u64, values: Vec<(String, HostTensor)>) -> Result<Self> {
        let (mut outputs, mut rows) = (Vec::new(), Vec::new());
        for (name, value) in values {
            let numbers = value.to_f64()?;
            if name == ROW_LOSS {
                rows = numbers;
            } else {
                outputs.push((name, value.dims, numbers));
            }
        }
        let scalars = outputs.iter().filter(|(_, dims, _)| dims.is_empty());
        let metrics: BTreeMap<String, f64> = scalars.map(|(name, _, v)| (name.clone(), v[0])).collect();
        let loss = *metrics.get("loss").ok_or_else(|| {
            Error::input("`train_step` has no output `loss`", "give the program a scalar output `loss`")
        })?;
        let prints = outputs.iter().filter_map(|(name, dims, values)| {
            Some((watched::printed(name)?.to_owned(), watched::text(dims, values)))
        });
        let step = Step { step, loss, prints: prints.collect(), metrics, ..Step::default() };
        Ok(Self { step, outputs, rows, texts: Vec::new() })
    }

    /// Adds the loss and the number of target tokens of each corpus, as `NAME/loss` and `NAME/tokens`.
    /// Corpora that are not in the batch are left out.
    pub fn by_text<'a>(&mut self, batch: &Batch, names: impl Iterator<Item = &'a str>) {
        if self.rows.len() != batch.corpora.len() {
            return;
        }
        let all = batch.target_tokens() as f64;
        for (text, name) in names.enumerate() {
            let own = batch.corpora.iter().zip(batch.row_target_tokens()).zip(&self.rows);
            let own =
                own.filter(|((of, _), _)| **of == text).map(|((_, tokens), loss)| (tokens as f64, loss));
            let (tokens, loss) = own.fold((0.0, 0.0), |(a, b), (tokens, loss)| (a + tokens, b + loss));
            if tokens > 0.0 {
                // A row's loss is its share of the mean over the batch. Rounded to 32 bits, in which programs
                // compute.
                let mean = f64::from((loss * all / tokens) as f32);
                self.texts.extend([(format!("{name}/loss"), mean), (format!("{name}/tokens"), tokens)]);
            }
        }
    }

    /// Adds times: `took` from the end of the previous step, `wait` for data.
    pub fn timing(&mut self, tokens: usize, took: Duration, wait: Duration) {
        let milliseconds = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
        let step = &mut self.step;
        step.step_ms = milliseconds(took);
        step.wait_ms = milliseconds(wait);
        // Rounded to tenths. The minimum avoids a division by zero.
        step.tokens_per_s = (tokens as f64 / took.as_secs_f64().max(1e-9) * 10.0).round() / 10.0;
        step.metrics.insert("wait_ms".to_owned(), step.wait_ms);
    }

    /// Returns all metrics as name, dims and values.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<f64>)> {
        let step = &self.step;
        let mut all = self.outputs.clone();
        let mut add = |name: String, value: f64| all.push((name, Vec::new(), vec![value]));
        self.texts.iter().for_each(|(name, value)| add(name.clone(), *value));
        if step.step_ms > 0.0 {
            add("tokens_per_s".to_owned(), step.tokens_per_s);
            add("step_ms".to_owned(), step.step_ms);
        }
        for (name, value) in step.measured() {
            add(name.to_owned(), value);
        }
        for (name, value) in step.eval.iter().flatten() {
            add(format!("eval/{name}"), *value);
        }
        all
    }

    /// Returns the JSON object for the metrics file.
    pub fn to_json(&self) -> Value {
        let step = &self.step;
        let mut object = Map::new();
        let mut odd = Vec::new();
        object.insert("step".into(), step.step.into());
        for (name, value) in [
            ("loss", step.loss),
            ("tokens_per_s", step.tokens_per_s),
            ("step_ms", step.step_ms),
            ("wait_ms", step.wait_ms),
        ] {
            object.insert(name.into(), number(value, name, &mut odd));
        }
        for (name, dims, values) in &self.outputs {
            // These names take precedence over the program's.
            if !object.contains_key(name) {
                object.insert(name.clone(), nested(dims, values, name, &mut odd));
            }
        }
        for (name, value) in &self.texts {
            object.insert(name.clone(), number(*value, name, &mut odd));
        }
        for (name, value) in step.measured() {
            object.insert(name.into(), number(value, name, &mut odd));
        }
        if let Some(eval) = &step.eval {
            object.insert("eval".into(), evaluated(eval, &mut odd));
        }
        if let Some(Rollback { from, to, loss, limit, batches }) = &step.rollback {
            let rollback = json!({
                "from": from, "to": to, "loss": number(*loss, "rollback.loss", &mut odd),
                "limit": number(*limit, "rollback.limit", &mut odd), "batches": [batches.0, batches.1],
            });
            object.insert("rollback".into(), rollback);
        }
        if !odd.is_empty() {
            object.insert("non_finite".into(), odd.into());
        }
        object.into()
    }
}

fn evaluated(eval: &BTreeMap<String, f64>, odd: &mut Vec<String>) -> Value {
    let means = eval.iter().map(|(name, v)| (name.clone(), number(*v, &format!("eval.{name}"), odd)));
    Value::Object(means.collect())
}

fn number(value: f64, name: &str, odd: &mut Vec<String>) -> Value {
    if !value.is_finite() {
        if odd.last().is_none_or(|last| last != name) {
            odd.push(name.to_owned());
        }
        return Value::Null;
    }
    // Programs compute in 32 bits, so the shortest decimal that reads back as the same 32-bit number is
    // written.
    let short = value as f32;
    let exact = f64::from(short) == value;
    (if exact { short.to_string().parse().unwrap_or(value) } else { value }).into()
}

fn nested(dims: &[usize], values: &[f64], name: &str, odd: &mut Vec<String>) -> Value {
    match dims {
        [] => number(values[0], name, odd),
        [first, rest @ ..] => {
            let part: usize = rest.iter().product();
            (0..*first).map(|i| nested(rest, &values[i * part..(i + 1) * part], name, odd)).collect()
        }
    }
}

/// The metrics file. Does nothing without a path.
#[derive(Debug)]
pub struct Log {
    file: Option<(PathBuf, BufWriter<File>)>,
}

impl Log {
    /// Creates the file, or opens it as it is if the run is resumed.
    pub fn create(path: Option<&Path>, go_on: bool) -> Result<Self> {
        let Some(path) = path else { return Ok(Self { file: None }) };
        let mut options = File::options();
        let opened = options.create(true).write(true).read(true).truncate(!go_on).open(path);
        let file = opened.map_err(Error::io("creating the metrics file", path))?;
        Ok(Self { file: Some((path.to_owned(), BufWriter::new(file))) })
    }

    /// Removes the lines of steps after `done`, written by an interrupted run and computed again by this one.
    /// Lines that are not a step's metrics are moved to a file beside it, and named in the warning that is
    /// returned.
    pub fn keep(&mut self, done: u64) -> Result<Option<String>> {
        let Some((path, file)) = &mut self.file else { return Ok(None) };
        let file = file.get_mut();
        // A device has no lines to keep, and reading it may never end.
        if !file.metadata().is_ok_and(|about| about.is_file()) {
            return Ok(None);
        }
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut text))
            .map_err(Error::io("reading the metrics file", &*path))?;
        let lines = Lines::of(&text, done);
        if lines.bad.is_empty() {
            // Good lines that are all kept are the beginning of the file.
            let end = lines.good.len() as u64;
            file.set_len(end)
                .and_then(|()| file.seek(SeekFrom::Start(end)))
                .map_err(Error::io("writing the metrics file", &*path))?;
            return Ok(None);
        }
        let (aside, numbers) = (aside(path), lines.numbers());
        match lines.repair(path, &aside) {
            Ok(repaired) => {
                *file = repaired;
                Ok(Some(format!(
                    "{numbers} of `{}` are not metrics of a step: moved to `{}`",
                    path.display(),
                    aside.display()
                )))
            }
            Err(error) => {
                file.seek(SeekFrom::End(0)).map_err(Error::io("writing the metrics file", &*path))?;
                Ok(Some(format!(
                    "{numbers} of `{}` are not metrics of a step, and cannot be moved to `{}`: {error}",
                    path.display(),
                    aside.display()
                )))
            }
        }
    }

    /// Adds an evaluation that was interrupted and done later to the last line, if that line is of step
    /// `step`.
    pub fn amend(&mut self, step: u64, eval: &BTreeMap<String, f64>) -> Result<()> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let file = file.get_mut();
        if !file.metadata().is_ok_and(|about| about.is_file()) {
            return Ok(());
        }
        let failed = || Error::io("writing the metrics file", &*path);
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_string(&mut text)).map_err(failed())?;
        let start = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
        let Ok(Value::Object(mut object)) = serde_json::from_str(&text[start..]) else { return Ok(()) };
        if object.get("step").and_then(Value::as_u64) != Some(step) {
            return Ok(());
        }
        object.insert("eval".into(), evaluated(eval, &mut Vec::new()));
        file.set_len(start as u64)
            .and_then(|()| file.seek(SeekFrom::Start(start as u64)))
            .and_then(|_| writeln!(file, "{}", Value::Object(object)))
            .map_err(failed())
    }

    /// Writes a line, so that readers see every finished step. A failed write leaves no part of a line.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let mut value = record.to_json();
        if let Value::Object(object) = &mut value {
            // Milliseconds are exact enough to compare runs.
            object.insert("time".into(), ((now() * 1e3).round() / 1e3).into());
        }
        let line = format!("{value}\n");
        append(file.get_mut(), line.as_bytes()).map_err(Error::io("writing the metrics file", &*path))
    }
}

/// Returns the seconds since 1970.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The lines of a metrics file.
struct Lines<'t> {
    /// Those of the steps to keep.
    good: Vec<u8>,
    /// Those that are not metrics of a step, with their numbers from 1.
    bad: Vec<(usize, &'t [u8])>,
}

impl<'t> Lines<'t> {
    /// Divides the text of a file into lines up to step `done`, bad lines, and lines of later steps, which
    /// are computed again.
    fn of(text: &'t [u8], done: u64) -> Self {
        let (mut good, mut bad, mut is_later) = (Vec::new(), Vec::new(), false);
        for (number, line) in (1..).zip(text.split_inclusive(|b| *b == b'\n')) {
            let is_whole = line.ends_with(b"\n");
            let step = serde_json::from_slice::<Value>(line).ok().and_then(|v| v["step"].as_u64());
            match step {
                Some(step) if is_whole && step <= done && !is_later => good.extend_from_slice(line),
                Some(_) => is_later = true,
                None if is_whole => bad.push((number, line)),
                // An incomplete line, written when the run was killed.
                None => {}
            }
        }
        Self { good, bad }
    }

    /// Names the bad lines.
    fn numbers(&self) -> String {
        let shown: Vec<String> = self.bad.iter().take(10).map(|(number, _)| number.to_string()).collect();
        let more = if self.bad.len() > shown.len() { ", …" } else { "" };
        format!("{} line(s) ({}{more})", self.bad.len(), shown.join(", "))
    }

    /// Appends the bad lines to the file `aside`, and replaces the file `path` by one with the good lines.
    /// Returns it, open at its end.
    fn repair(&self, path: &Path, aside: &Path) -> io::Result<File> {
        let mut file = File::options().create(true).append(true).open(aside)?;
        self.bad.iter().try_for_each(|(_, line)| file.write_all(line))?;
        file.sync_all()?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut new =
            tempfile::Builder::new().permissions(fs::metadata(path)?.permissions()).tempfile_in(folder)?;
        new.write_all(&self.good)?;
        new.as_file().sync_all()?;
        Ok(new.persist(path)?)
    }
}

/// Returns the path of the file for the bad lines of a metrics file.
fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bad");
    name.into()
}

/// Appends bytes to a file in one piece. After a failed write, the part that was written is removed again, so
/// that a disk that was full for a while leaves a readable file.
pub(super) fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    // Pipes have no position.
    let end = file.stream_position().ok();
    let written = file.write_all(bytes);
    if let (Err(_), Some(end)) = (&written, end) {
        // Best effort: the error of the write is reported.
        let _ = file.set_len(end).and_then(|()| file.seek(SeekFrom::Start(end)));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_repeated_steps_are_removed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("m");
        let kept = |before: &str, done: u64| {
            fs::write(&path, before).unwrap();
            let mut log = Log::create(Some(&path), true)?;
            log.keep(done)?;
            log.write(&record(0.5, &[0.0; 2]))?;
            let text = fs::read_to_string(&path).unwrap();
            Ok::<_, Error>(text.lines().map(|l| l.chars().take(10).collect::<String>()).collect::<Vec<_>>())
        };
        let three = "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n";
        assert_eq!(kept(three, 2).unwrap(), ["{\"step\":1}", "{\"step\":2}", "{\"step\":7,"]);
        assert_eq!(kept(three, 0).unwrap(), ["{\"step\":7,"]);
        assert_eq!(kept(&three[..three.len() - 5], 3).unwrap().len(), 3);
        assert_eq!(kept(&three[..three.len() - 1], 3).unwrap().len(), 3);
    }

    #[test]
    fn bad_lines_are_moved_to_another_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("m");
        let aside = place.path().join("m.bad");
        let check = |before: &[u8], numbers: &str, good: usize, bad: &[u8]| {
            fs::write(&path, before).unwrap();
            let mut log = Log::create(Some(&path), true).unwrap();
            let warning = log.keep(2).unwrap().unwrap();
            assert!(warning.contains(numbers) && warning.contains("m.bad"), "{warning}");
            log.write(&record(0.5, &[0.0; 2])).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            let steps: Vec<Value> =
                text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].clone()).collect();
            assert_eq!(steps[..good], (1..=good).map(Value::from).collect::<Vec<_>>());
            assert_eq!(steps[good..], [7]);
            assert_eq!(fs::read(&aside).unwrap(), bad);
        };
        check(b"{\"step\":1}\nxx\n{\"step\":2}\n{\"step\":3}\n{}\n{\"st", "2 line(s) (2, 5)", 2, b"xx\n{}\n");
        // Earlier bad lines stay. Bytes that are no text are kept as they are.
        check(b"\xff\0\n{\"step\":1}\n", "1 line(s) (1)", 1, b"xx\n{}\n\xff\0\n");
        // If the lines cannot be moved, they stay, and the run goes on.
        fs::remove_file(&aside).unwrap();
        fs::create_dir(&aside).unwrap();
        fs::write(&path, "xx\n").unwrap();
        let mut log = Log::create(Some(&path), true).unwrap();
        let warning = log.keep(2).unwrap().unwrap();
        assert!(warning.contains("cannot be moved"), "{warning}");
        log.write(&record(0.5, &[0.0; 2])).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("xx\n{\"step\":7"), "{text}");
    }

    #[test]
    fn an_evaluation_is_added_to_the_last_line() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("m");
        fs::write(&path, "{\"step\":6}\n{\"step\":7,\"loss\":0.5}\n").unwrap();
        let mut log = Log::create(Some(&path), true).unwrap();
        log.keep(7).unwrap();
        let eval = BTreeMap::from([("loss".to_owned(), 0.25)]);
        log.amend(6, &eval).unwrap();
        log.amend(7, &eval).unwrap();
        log.write(&record(1.0, &[0.0; 2])).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let start = "{\"step\":6}\n{\"step\":7,\"loss\":0.5,\"eval\":{\"loss\":0.25}}\n{\"step\":7,";
        assert!(text.starts_with(start), "{text}");
        // A rollback to step 6 while the file is open.
        log.keep(6).unwrap();
        log.write(&record(1.0, &[0.0; 2])).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    fn record(loss: f32, load: &[f32]) -> Record {
        let values = vec![
            ("loss".to_owned(), HostTensor::f32(&[], &[loss])),
            ("load".to_owned(), HostTensor::f32(&[2, load.len() / 2], load)),
            ("step_ms".to_owned(), HostTensor::f32(&[], &[-1.0])),
        ];
        let mut record = Record::from_values(7, values).unwrap();
        record.timing(1000, Duration::from_micros(12_345), Duration::ZERO);
        record
    }

    #[test]
    fn a_line_has_numbers_and_nested_lists() {
        let line = record(0.1, &[0.5, 1.0, 2.0, 0.25]).to_json().to_string();
        let expected = r#"{"step":7,"loss":0.1,"tokens_per_s":81004.5,"step_ms":12.345,"wait_ms":0.0,"load":[[0.5,1.0],[2.0,0.25]]}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn losses_are_reported_by_corpus() {
        let loss = ("loss".to_owned(), HostTensor::f32(&[], &[2.0]));
        let rows = ("row_loss".to_owned(), HostTensor::f32(&[3], &[0.5, 1.25, 0.25]));
        let of = |texts: Vec<usize>| {
            let mut record = Record::from_values(1, vec![loss.clone(), rows.clone()]).unwrap();
            // Rows of 1, 2 and 1 tokens.
            let targets = vec![5, 0, 5, 6, 7, 0];
            record.by_text(
                &Batch { size: 3, targets, corpora: texts, ..Batch::default() },
                ["a", "b", "c"].into_iter(),
            );
            let mut line = record.to_json();
            for timing in ["step", "tokens_per_s", "step_ms", "wait_ms"] {
                line.as_object_mut().unwrap().remove(timing);
            }
            line
        };
        let expected = json!({ "loss": 2.0, "a/loss": 1.5, "a/tokens": 2.0, "c/loss": 2.5, "c/tokens": 2.0 });
        assert_eq!(of(vec![0, 2, 0]), expected);
        assert_eq!(of(Vec::new()), json!({ "loss": 2.0 }), "of one text there is nothing more to say");
    }

    #[test]
    fn non_finite_values_are_null_and_listed() {
        let mut record = record(f32::NAN, &[f32::INFINITY, 1.0, f32::NAN, 0.5]);
        assert!(record.step.loss.is_nan());
        record.step.eval = Some(BTreeMap::from([("loss".to_owned(), f64::NAN)]));
        let json = record.to_json();
        assert!(json["loss"].is_null() && json["eval"]["loss"].is_null());
        assert_eq!(json["load"].to_string(), "[[null,1.0],[null,0.5]]");
        assert_eq!(json["non_finite"].to_string(), r#"["loss","load","eval.loss"]"#);
    }

    #[test]
    fn the_file_is_created_at_once_and_has_every_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = Log::create(Some(&path), false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        for n in 1..=2 {
            log.write(&record(n as f32, &[1.0, 1.0])).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), n);
        }
        let error = Log::create(Some(&dir.path().join("no/metrics")), false).unwrap_err().to_string();
        assert!(error.contains("creating the metrics file") && error.contains("no/metrics"), "{error}");
        Log::create(None, false).unwrap().write(&record(1.0, &[1.0, 1.0])).unwrap();
    }

    #[test]
    fn a_program_without_a_loss_is_refused() {
        let error = Record::from_values(1, Vec::new()).unwrap_err().to_string();
        assert!(error.contains("`loss`"), "{error}");
    }
}

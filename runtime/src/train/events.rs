//! Metrics for TensorBoard: a file of records, each an `Event` message of TensorFlow.
//!
//! A record is its length (8 bytes, little-endian), the masked CRC-32C of the length, the message, and the
//! masked CRC-32C of the message (TFRecord). A scalar output becomes a scalar; a vector with one value per
//! layer becomes one scalar per layer; a matrix, such as loads by layer and expert, becomes one histogram per
//! layer with a bucket for each expert. The options of the run are a text, and values of the plugin
//! `hparams`, by which TensorBoard compares runs.

use super::{
    metrics::{Record, append, now},
    options::Settings,
};
use crate::{Error, Result};
use proto::{
    Message,
    tensorflow::{
        Event, HParams, HistogramProto, SessionLog, Setting, Summary, SummaryMetadata, TensorProto,
        TensorShapeProto,
        event::What,
        h_params::Session,
        session_log::SessionStatus,
        setting::Kind,
        summary,
        summary::value::Value,
        summary_metadata::{DataClass, PluginData},
        tensor_proto::DataType,
        tensor_shape_proto::Dim,
    },
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process,
};

/// An event file. Does nothing without a folder.
#[derive(Debug)]
pub(super) struct Events {
    file: Option<(PathBuf, File)>,
}

impl Events {
    /// Creates a new file in `folder`, which may contain files of earlier parts of the run.
    pub(super) fn create(folder: Option<&Path>) -> Result<Self> {
        let Some(folder) = folder else { return Ok(Self { file: None }) };
        fs::create_dir_all(folder).map_err(Error::io("creating the folder", folder))?;
        let name = format!("events.out.tfevents.{:.6}.{}.{}", now(), super::lock::host(), process::id());
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(Error::io("creating the file of events", &path))?;
        let mut events = Self { file: Some((path, file)) };
        events.write(0, What::FileVersion("brain.Event:2".to_owned()))?;
        Ok(events)
    }

    /// Marks the start of step `step`. TensorBoard discards later steps of earlier parts of the run.
    pub(super) fn begin(&mut self, step: u64) -> Result<()> {
        self.write(step, What::SessionLog(SessionLog { status: SessionStatus::Start.into() }))
    }

    /// Adds the options of the run.
    pub(super) fn describe(&mut self, settings: &Settings) -> Result<()> {
        if *settings == Settings::default() {
            return Ok(());
        }
        let value = vec![configuration(&settings.text), hparams(settings)];
        self.write(0, What::Summary(Summary { value }))
    }

    /// Adds the metrics of a step.
    pub(super) fn add(&mut self, record: &Record) -> Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let mut value = Vec::new();
        for (name, dims, numbers) in record.tensors() {
            let name = tag(&name);
            match dims.as_slice() {
                [] => value.push(scalar(name, numbers[0])),
                [_] => {
                    value.extend(numbers.iter().enumerate().map(|(i, n)| scalar(format!("{name}/{i}"), *n)))
                }
                [_, rest @ ..] => {
                    let part = rest.iter().product::<usize>().max(1);
                    let layers = numbers.chunks(part).enumerate();
                    value.extend(layers.map(|(i, layer)| histogram(format!("{name}/{i}"), layer)));
                }
            }
        }
        self.write(record.step.step, What::Summary(Summary { value }))
    }

    fn write(&mut self, step: u64, what: What) -> Result<()> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let event = Event { wall_time: now(), step, what: Some(what) }.encode_to_vec();
        append(file, &framed(&event)).map_err(Error::io("writing the file of events", &*path))
    }
}

/// Returns the tag of a metric: its name below `learning/`, `perf/`, `router/`, `data/` or `eval/`, by which
/// TensorBoard groups cards.
fn tag(name: &str) -> String {
    const PERF: [&str; 8] = [
        "tokens_per_s",
        "step_ms",
        "wait_ms",
        "mfu",
        "device_memory",
        "host_memory",
        "slowest_rank",
        "slowest_ms",
    ];
    const ROUTER: [&str; 5] = ["_load", "_dropped", "_entropy", "_aux", "_z"];
    let group = if name.starts_with("eval/") {
        return name.to_owned();
    } else if PERF.contains(&name) {
        "perf"
    } else if name.contains('/') {
        // Losses and tokens by corpus.
        "data"
    } else if ROUTER.iter().any(|end| name.ends_with(end)) {
        "router"
    } else {
        "learning"
    };
    format!("{group}/{name}")
}

fn scalar(tag: String, value: f64) -> summary::Value {
    summary::Value { tag, value: Some(Value::SimpleValue(value as f32)), metadata: None }
}

/// Makes a histogram in which bucket `i` ends at `i + 1` and holds the value of expert `i`.
fn histogram(tag: String, values: &[f64]) -> summary::Value {
    let sum: f64 = values.iter().sum();
    let centre = |i: usize| i as f64 + 0.5;
    let of_centres = |power: i32| values.iter().enumerate().map(|(i, v)| v * centre(i).powi(power)).sum();
    let histogram = HistogramProto {
        min: 0.0,
        max: values.len() as f64,
        num: sum,
        sum: of_centres(1),
        sum_squares: of_centres(2),
        bucket_limit: (1..=values.len()).map(|i| i as f64).collect(),
        bucket: values.to_vec(),
    };
    summary::Value { tag, value: Some(Value::Histo(histogram)), metadata: None }
}

/// Returns the text of the options. TensorBoard shows Markdown, in which indented lines are code.
fn configuration(text: &str) -> summary::Value {
    let code: String = text.lines().map(|line| format!("    {line}\n")).collect();
    let tensor = TensorProto {
        dtype: DataType::DtString.into(),
        tensor_shape: Some(TensorShapeProto::default()),
        string_val: vec![code.into_bytes()],
        ..TensorProto::default()
    };
    of_plugin("configuration/text_summary", tensor, "text", Vec::new())
}

/// Returns the options as the values of a session of the plugin `hparams`.
fn hparams(settings: &Settings) -> summary::Value {
    let hparams = settings.values.iter().map(|(key, value)| (key.clone(), setting(value))).collect();
    let session = Session { hparams, start_time_secs: now() };
    let content = HParams { version: 0, session_start_info: Some(session) }.encode_to_vec();
    // The value itself is not read, but there must be one.
    let tensor = TensorProto {
        dtype: DataType::DtFloat.into(),
        tensor_shape: Some(TensorShapeProto { dim: vec![Dim { size: 1 }] }),
        float_val: vec![0.0],
        ..TensorProto::default()
    };
    of_plugin("_hparams_/session_start_info", tensor, "hparams", content)
}

/// Returns a setting: a number or a bool if its text is one.
fn setting(text: &str) -> Setting {
    let number = text.parse::<f64>().ok().filter(|x| x.is_finite()).map(Kind::NumberValue);
    let kind = number.or_else(|| text.parse().ok().map(Kind::BoolValue));
    Setting { kind: Some(kind.unwrap_or_else(|| Kind::StringValue(text.to_owned()))) }
}

fn of_plugin(tag: &str, tensor: TensorProto, plugin: &str, content: Vec<u8>) -> summary::Value {
    let plugin_data = Some(PluginData { plugin_name: plugin.to_owned(), content });
    let metadata = SummaryMetadata { plugin_data, data_class: DataClass::Tensor.into() };
    summary::Value { tag: tag.to_owned(), value: Some(Value::Tensor(tensor)), metadata: Some(metadata) }
}

/// Frames a message as a record.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let crc = |bytes: &[u8]| masked(crc32c::crc32c(bytes)).to_le_bytes();
    [&length[..], &crc(&length), message, &crc(message)].concat()
}

/// Masks a CRC as TFRecord, LevelDB and TensorFlow do, so that the CRC of data with embedded CRCs is not a
/// special case.
pub fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostTensor;

    /// CRC-32C bit by bit (RFC 3720, appendix B.4), to compare with.
    fn plain_crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg()))
        })
    }

    /// Parses a message into field numbers and contents; varints and fixed-size numbers as bytes.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                value |= u64::from(byte & 127) << shift;
                if byte < 128 {
                    return value;
                }
                shift += 7;
            }
        }
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let length = match tag & 7 {
                0 => {
                    all.push((tag >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            all.push((tag >> 3, bytes[..length].to_vec()));
            bytes = &bytes[length..];
        }
        all
    }

    /// Reads the messages of a file by the format's specification alone.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let unmasked = |crc: u32| crc.wrapping_sub(0xa282_ead8).rotate_left(15);
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(unmasked(number(&bytes[8..12])), plain_crc(&bytes[..8]));
            let message = &bytes[12..12 + length];
            assert_eq!(unmasked(number(&bytes[12 + length..16 + length])), plain_crc(message));
            all.push(message.to_vec());
            bytes = &bytes[16 + length..];
        }
        all
    }

    #[test]
    fn an_independent_reader_finds_every_value() {
        assert_eq!(plain_crc(b"123456789"), 0xe306_9283, "the check value of CRC-32C");
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("tb");
        let mut events = Events::create(Some(&folder)).unwrap();
        events.begin(7).unwrap();
        let values = vec![
            ("loss".to_owned(), HostTensor::f32(&[], &[1.5])),
            ("encoder_entropy".to_owned(), HostTensor::f32(&[2], &[0.5, 0.25])),
            ("encoder_load".to_owned(), HostTensor::f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
        ];
        events.add(&Record::from_values(7, values).unwrap()).unwrap();
        let path = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
        assert!(path.file_name().unwrap().to_str().unwrap().starts_with("events.out.tfevents."));
        let records = records(&fs::read(path).unwrap());
        let get =
            |record: &[u8], number: u64| fields(record).into_iter().find(|f| f.0 == number).map(|f| f.1);
        assert_eq!(get(&records[0], 3).unwrap(), b"brain.Event:2");
        assert_eq!(get(&get(&records[1], 7).unwrap(), 1).unwrap()[0], 1, "START");
        assert_eq!(get(&records[1], 2).unwrap()[0], 7);
        let time = f64::from_le_bytes(get(&records[2], 1).unwrap().try_into().unwrap());
        assert!((now() - time).abs() < 60.0);
        let values: Vec<Vec<u8>> = fields(&get(&records[2], 5).unwrap()).into_iter().map(|f| f.1).collect();
        let tag = |value: &Vec<u8>| String::from_utf8(get(value, 1).unwrap()).unwrap();
        assert_eq!(
            values.iter().map(tag).collect::<Vec<_>>(),
            [
                "learning/loss",
                "router/encoder_entropy/0",
                "router/encoder_entropy/1",
                "router/encoder_load/0",
                "router/encoder_load/1"
            ]
        );
        let tags = ["eval/loss", "german/loss", "step_ms", "grad_norm", "aux_loss"].map(super::tag);
        assert_eq!(
            tags,
            ["eval/loss", "data/german/loss", "perf/step_ms", "learning/grad_norm", "learning/aux_loss"]
        );
        assert_eq!(get(&values[2], 2).unwrap(), 0.25f32.to_le_bytes());
        let buckets = get(&get(&values[4], 5).unwrap(), 7).unwrap();
        let buckets: Vec<f64> =
            buckets.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(buckets, [4.0, 5.0, 6.0]);
        Events::create(None).unwrap().begin(1).unwrap();
    }

    #[test]
    fn options_are_a_text_and_values_of_hparams() {
        let place = tempfile::tempdir().unwrap();
        let mut events = Events::create(Some(place.path())).unwrap();
        events.describe(&Settings::default()).unwrap();
        let values = [("lr", "0.5"), ("resume", "true"), ("layout", "batch:data")];
        let values = values.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
        events.describe(&Settings { text: "lr = 0.5\n".to_owned(), values }).unwrap();
        let path = fs::read_dir(place.path()).unwrap().next().unwrap().unwrap().path();
        let records = records(&fs::read(path).unwrap());
        assert_eq!(records.len(), 2, "the default says nothing");
        // The path of field numbers of a message, by its specification alone.
        let get = |bytes: &[u8], path: &[u64]| {
            path.iter().fold(bytes.to_vec(), |bytes, number| {
                fields(&bytes).into_iter().find(|f| f.0 == *number).expect("the field is there").1
            })
        };
        let all: Vec<Vec<u8>> = fields(&get(&records[1], &[5])).into_iter().map(|f| f.1).collect();
        assert_eq!(get(&all[0], &[1]), b"configuration/text_summary");
        assert_eq!(get(&all[0], &[8, 8]), b"    lr = 0.5\n");
        assert_eq!(get(&all[0], &[8, 1])[0], 7, "DT_STRING");
        assert_eq!(get(&all[0], &[9, 1, 1]), b"text");
        assert_eq!(get(&all[1], &[1]), b"_hparams_/session_start_info");
        assert_eq!(get(&all[1], &[9, 1, 1]), b"hparams");
        let session = get(&all[1], &[9, 1, 2, 3]);
        let entries: Vec<Vec<u8>> = fields(&session).into_iter().filter(|f| f.0 == 1).map(|f| f.1).collect();
        let keys: Vec<Vec<u8>> = entries.iter().map(|entry| get(entry, &[1])).collect();
        assert_eq!(keys, [&b"layout"[..], b"lr", b"resume"]);
        assert_eq!(get(&entries[0], &[2, 3]), b"batch:data");
        assert_eq!(get(&entries[1], &[2, 2]), 0.5f64.to_le_bytes());
        assert_eq!(get(&entries[2], &[2, 4])[0], 1);
        assert!(f64::from_le_bytes(get(&session, &[5]).try_into().unwrap()) > 1e9);
    }
}

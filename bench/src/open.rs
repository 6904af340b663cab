//! Time to open a checkpoint, by the number of boxes of its tensor.

use anyhow::{Result, ensure};
use runtime::{
    Checkpoint, HostTensor,
    checkpoint::{Facts, Kind, Writer},
};
use serde_json::{Value, json};
use std::time::Instant;
use tempfile::TempDir;

/// Opens a checkpoint of one tensor with `boxes` boxes `rounds` times, and one with half as many.
///
/// # Errors
/// Among others, if the time grows faster than the number of boxes: twice as many take three times as long.
pub fn measure(boxes: usize, rounds: usize) -> Result<Value> {
    ensure!(boxes >= 200 && rounds > 0, "BOXES must be at least 200, and the number of rounds at least 1");
    let [half, all] = [written(boxes / 2)?, written(boxes)?];
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (checkpoint, times) in [&half, &all].into_iter().zip(&mut times) {
            times.push(checkpoint.open()?);
        }
    }
    times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
    let [half_ms, open_ms] = [&times[0], &times[1]].map(|times| times[rounds / 2]);
    // The shortest times are those with the least noise.
    let growth = times[1][0] / times[0][0];
    ensure!(growth < 3.0, "twice as many boxes take {growth:.1} times as long: {half_ms} ms, {open_ms} ms");
    let worst_ms = times[1][rounds - 1];
    Ok(
        json!({ "boxes": all.boxes, "open_ms": open_ms, "worst_ms": worst_ms, "half_ms": half_ms, "growth": growth }),
    )
}

/// A checkpoint of one tensor.
struct Written {
    place: TempDir,
    boxes: usize,
}

/// Writes a checkpoint of one tensor with about `boxes` boxes of one element each.
fn written(boxes: usize) -> Result<Written> {
    let place = tempfile::tempdir()?;
    let mut writer = Writer::create(&place.path().join("checkpoint"))?;
    let dims = [("rows".to_owned(), boxes.div_ceil(100)), ("columns".to_owned(), 100)];
    for row in 0..dims[0].1 {
        for column in 0..dims[1].1 {
            let one = HostTensor::f32(&[1, 1], &[1.0]);
            writer.part("weights", Kind::Param, &dims, &[row, column], one)?;
        }
    }
    writer.finish(Facts::new(), 0)?;
    Ok(Written { place, boxes: dims[0].1 * dims[1].1 })
}

impl Written {
    /// Opens it. Returns the time in milliseconds.
    fn open(&self) -> Result<f64> {
        let begin = Instant::now();
        let checkpoint = Checkpoint::open(&self.place.path().join("checkpoint"))?;
        let time = begin.elapsed().as_secs_f64() * 1e3;
        ensure!(checkpoint.tensors()[0].boxes.len() == self.boxes, "a box is missing");
        Ok(time)
    }
}

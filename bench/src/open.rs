//! Time to open a checkpoint, by the number of boxes of its tensor.

use anyhow::{Result, ensure};
use runtime::{
    Checkpoint, HostTensor,
    checkpoint::{Facts, Kind, Writer},
};
use serde_json::{Value, json};
use std::time::Instant;

/// Opens a checkpoint of one tensor with `boxes` boxes `rounds` times.
pub fn measure(boxes: usize, rounds: usize) -> Result<Value> {
    ensure!(boxes > 0 && rounds > 0, "BOXES and the number of rounds must be at least 1");
    let place = tempfile::tempdir()?;
    let dir = place.path().join("checkpoint");
    let mut writer = Writer::create(&dir)?;
    let dims = [("rows".to_owned(), boxes.div_ceil(100)), ("columns".to_owned(), 100)];
    for row in 0..dims[0].1 {
        for column in 0..dims[1].1 {
            let one = HostTensor::f32(&[1, 1], &[1.0]);
            writer.part("weights", Kind::Param, &dims, &[row, column], one)?;
        }
    }
    writer.finish(Facts::new(), 0)?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        let checkpoint = Checkpoint::open(&dir)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(checkpoint.tensors()[0].boxes.len() == dims[0].1 * dims[1].1, "a box is missing");
    }
    times.sort_by(f64::total_cmp);
    Ok(json!({ "boxes": dims[0].1 * dims[1].1, "open_ms": times[rounds / 2], "worst_ms": times[rounds - 1] }))
}

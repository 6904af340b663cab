//! One checkpoint written by all processes of a job.
//!
//! 1. Rank 0 creates the destination and names it to all.
//! 2. Every process writes the boxes that it owns and, except for rank 0, a part of the manifest.
//! 3. The processes meet. If one of them failed, all remove their files.
//! 4. Rank 0 merges the parts, checks that the boxes cover every tensor once and that every file is there,
//!    and commits. The processes meet again.
//!
//! Every process returns the same result. A process that fails leaves the previous checkpoint as it is.
//! A process that loses the others keeps its files, since the checkpoint may be committed with them; rank 0
//! of a later run removes what was not.

use super::{
    Facts,
    manifest::{Entry, FORMAT, File, Manifest, VERSION},
    meeting::Processes,
    sink::Sink,
    writer::Writer,
};
use crate::{Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// The manifest of what one process wrote.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Part {
    rank: u32,
    step: u64,
    files: Vec<File>,
    tensors: Vec<Entry>,
}

/// A checkpoint to be written at a path, in place of an earlier one there.
#[derive(Debug)]
pub(crate) struct Together<'j> {
    pub processes: Processes<'j>,
    /// Distinguishes this attempt from the others of the job; the same in all processes.
    pub attempt: String,
}

impl Together<'_> {
    /// Writes a checkpoint. `fill` adds the boxes that this process owns. The facts of rank 0 count.
    ///
    /// # Errors
    /// A process could not write, or the boxes do not cover a tensor: the same error in all processes, and no
    /// checkpoint. [`Error::Job`] if a process is lost: then the checkpoint may or may not be committed.
    pub fn write(
        &self,
        dir: &Path,
        (step, facts): (u64, Facts),
        fill: impl FnOnce(&mut Writer) -> Result<()>,
    ) -> Result<()> {
        let mut host = None;
        let attempt = self.processes.of_first(&self.name("begin"), || {
            let sink = host.insert(Sink::replace(dir)?);
            Ok(sink.attempt().into_bytes())
        })?;
        let mut writer = None;
        // From here on, an error must reach the meeting, where the others wait.
        let own = self.join(dir, host, &String::from_utf8_lossy(&attempt)).and_then(|joined| {
            let writer = writer.insert(joined);
            fill(writer)?;
            let (files, tensors) = writer.complete()?;
            self.publish(writer, Part { rank: self.processes.job.rank(), step, files, tensors })
        });
        if own.is_err() && !self.processes.job.is_first() {
            // Removes its files while rank 0 still keeps the destination.
            writer = None;
        }
        let (part, digest) =
            own.map_or_else(|error| (None, Err(error)), |(part, digest)| (Some(part), Ok(digest)));
        let met = self.processes.all(&self.name("written"), digest);
        if let (Err(Error::Job(_)), false) = (&met, self.processes.job.is_first()) {
            writer.take().into_iter().for_each(Writer::keep);
        }
        let digests = met?;
        let (part, writer) = part.zip(writer).expect("a process without a part has failed at the meeting");
        self.commit(writer, part, &digests, facts)
    }

    /// Starts the writer of this process. `host` is the destination on rank 0.
    fn join(&self, dir: &Path, host: Option<Sink>, attempt: &str) -> Result<Writer> {
        let job = self.processes.job;
        let prefix = if job.size() > 1 { format!("{:05}-", job.rank()) } else { String::new() };
        let sink = host.map_or_else(|| Sink::join(dir, attempt), Ok)?;
        Ok(Writer::of(dir, sink, prefix))
    }

    /// Writes the part of the manifest for rank 0, and returns it with its digest. Rank 0 has its own part.
    fn publish(&self, writer: &mut Writer, part: Part) -> Result<(Part, Vec<u8>)> {
        if self.processes.job.is_first() {
            return Ok((part, Vec::new()));
        }
        let text = serde_json::to_vec(&part).expect("numbers and texts are JSON");
        let digest = blake3::hash(&text).to_hex().to_string();
        let name = part_name(writer.sink(), part.rank);
        writer.sink().write(&name)(vec![Bytes::from(text)])?;
        Ok((part, digest.into_bytes()))
    }

    /// Commits on rank 0, and tells the others.
    fn commit(&self, mut writer: Writer, own: Part, digests: &[Vec<u8>], facts: Facts) -> Result<()> {
        let name = self.name("committed");
        if self.processes.job.is_first() {
            let facts = writer.with_tokenizer(facts);
            let committed = merged(writer.sink(), own, digests, facts).and_then(|all| writer.commit(&all));
            return self.processes.all(&name, committed.map(|()| Vec::new())).map(drop);
        }
        let met = self.processes.all(&name, Ok(Vec::new()));
        if matches!(met, Ok(_) | Err(Error::Job(_))) {
            writer.keep();
        }
        met.map(drop)
    }

    fn name(&self, what: &str) -> String {
        format!("checkpoint {} {what}", self.attempt)
    }
}

fn part_name(sink: &Sink, rank: u32) -> String {
    sink.name(&format!("part-{rank:05}"), "json")
}

/// Returns the manifest of all parts, and removes those of the other ranks. `digests` are their digests by
/// rank.
fn merged(sink: &Sink, own: Part, digests: &[Vec<u8>], facts: Facts) -> Result<Manifest> {
    let step = own.step;
    let mut parts = vec![own];
    for (rank, digest) in (0u32..).zip(digests).skip(1) {
        parts.push(read_part(sink, rank, digest, step)?);
    }
    let files: Vec<File> = parts.iter().flat_map(|part| part.files.iter().cloned()).collect();
    let sizes = sink.sizes()?;
    if let Some(file) = files.iter().find(|file| sizes.get(&file.name) != Some(&file.bytes)) {
        let has = sizes.get(&file.name).map_or("is missing".to_owned(), |bytes| format!("has {bytes} bytes"));
        return Err(Error::input(
            format!("the file `{}` {has}, but its process wrote {} bytes", file.name, file.bytes),
            NOT_SHARED,
        ));
    }
    let tensors = tensors(parts)?;
    for (rank, _) in (0u32..).zip(digests).skip(1) {
        sink.remove(&part_name(sink, rank))?;
    }
    Ok(Manifest { format: FORMAT.into(), version: VERSION, step, facts, files, tensors })
}

/// Reads the part of a rank.
fn read_part(sink: &Sink, rank: u32, digest: &[u8], step: u64) -> Result<Part> {
    let name = part_name(sink, rank);
    let bug = |why: &str| {
        Error::input(format!("`{name}`, the part of the manifest of rank {rank}, {why}"), NOT_SHARED)
    };
    let text = sink.read(&name)?;
    if blake3::hash(&text).to_hex().as_bytes() != digest {
        return Err(bug("is not the one that the rank wrote: the digests differ"));
    }
    let part: Part = serde_json::from_slice(&text).map_err(|e| bug(&format!("cannot be parsed: {e}")))?;
    if (part.rank, part.step) != (rank, step) {
        return Err(bug(&format!("is of rank {} and step {}, not of step {step}", part.rank, part.step)));
    }
    Ok(part)
}

/// Merges the boxes of all parts. Tensors are in the order in which they first occur, boxes in that of their
/// regions.
fn tensors(parts: Vec<Part>) -> Result<Vec<Entry>> {
    let mut all: Vec<Entry> = Vec::new();
    let mut index = BTreeMap::new();
    for part in parts {
        for entry in part.tensors {
            let number = *index.entry(entry.name.clone()).or_insert(all.len());
            let Some(known) = all.get_mut(number) else {
                all.push(entry);
                continue;
            };
            if (known.kind, &known.dtype, &known.dims) != (entry.kind, &entry.dtype, &entry.dims) {
                return Err(Error::input(
                    format!(
                        "tensor `{}` is {} in rank {} and {} in an earlier rank",
                        entry.name,
                        entry.shape(),
                        part.rank,
                        known.shape()
                    ),
                    "all processes must run the same program",
                ));
            }
            known.boxes.extend(entry.boxes);
        }
    }
    for entry in &mut all {
        entry.boxes.sort_by(|a, b| a.start.cmp(&b.start));
    }
    Ok(all)
}

const NOT_SHARED: &str = "the folder must be on a file system that all processes share, with working writes";

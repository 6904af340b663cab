//! State from devices into checkpoints, and back under whatever layout the session has.

use super::{Checkpoint, Entry, Facts, Kind, Writer};
use crate::{
    Error, HostTensor, Result, Session,
    shard::{self, Region},
    tensor::element_type,
};
use pjrt::{Buffer, ElementType, PendingRead};
use proto::manifest::{StateEntry, StateKind, Tensor};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// What to restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Which {
    /// All state of the program.
    All,
    /// The parameters alone. Whatever else the checkpoint has is not looked at.
    Params,
}

/// A copy of a session's state in the host's memory: the session may go on while it is written.
#[derive(Debug)]
pub struct Snapshot {
    boxes: VecDeque<Copied>,
    held: Held,
}

/// A box of some state.
#[derive(Debug)]
struct Copied {
    name: String,
    kind: Kind,
    dims: Vec<(String, usize)>,
    dtype: ElementType,
    region: Region,
    read: PendingRead,
}

/// Memory of copies, as long as they are there.
#[derive(Debug)]
pub(crate) struct Held {
    /// That of all copies.
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Held {
    fn new(all: &Arc<AtomicUsize>, bytes: usize) -> Self {
        all.fetch_add(bytes, Ordering::Relaxed);
        Self { all: all.clone(), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Snapshot {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.held.bytes
    }

    /// Hands all of it to a writer. Memory is freed as it is written.
    pub fn write(self, writer: &mut Writer) -> Result<()> {
        writer.hold(self.held);
        self.boxes.into_iter().try_for_each(|copied| copied.write(writer))
    }
}

impl Copied {
    fn bytes(&self) -> usize {
        self.region.sizes.iter().product::<usize>() * self.dtype.byte_size().unwrap_or(0)
    }

    /// Waits until the copy has ended, well or not.
    fn arrived(&self) -> Result<()> {
        let failed = || Error::pjrt(format!("reading state `{}`", self.name));
        while !self.read.is_ready().map_err(failed())? {
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn write(self, writer: &mut Writer) -> Result<()> {
        let bytes = self.read.wait().map_err(Error::pjrt(format!("reading state `{}`", self.name)))?;
        let value = HostTensor { dtype: self.dtype, dims: self.region.sizes, bytes };
        writer.part(&self.name, self.kind, &self.dims, &self.region.start, value)
    }
}

impl Session {
    /// Writes all state, one box at a time.
    pub fn save(&self, writer: &mut Writer) -> Result<()> {
        let states = &self.artefact().manifest.state;
        states.iter().try_for_each(|entry| {
            // All devices copy at the same time.
            self.copies(entry)?.into_iter().try_for_each(|copied| copied.write(writer))
        })
    }

    /// A copy of all state in host memory: of all parts at the same time. Waits for the steps under way.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut boxes = VecDeque::new();
        for entry in &self.artefact().manifest.state {
            boxes.extend(self.copies(entry)?);
        }
        // All copies are under way at once; none may be overtaken by a step that changes what it reads.
        for copied in &boxes {
            copied.arrived()?;
        }
        let bytes = boxes.iter().map(Copied::bytes).sum();
        Ok(Snapshot { boxes, held: Held::new(self.held(), bytes) })
    }

    /// What a checkpoint should say about the program: its name, how it lay on devices, and which model it is, if
    /// the program says so.
    pub fn checkpoint_facts(&self) -> Facts {
        let manifest = &self.artefact().manifest;
        let axes = manifest.mesh.iter().flat_map(|m| &m.axes);
        let mesh: Vec<String> = axes.map(|a| format!("{}={}", a.name, a.size)).collect();
        let facts = [
            ("program", manifest.program.clone()),
            ("producer", manifest.producer.clone()),
            ("mesh", mesh.join(",")),
            ("layout", manifest.layout.clone()),
            ("state_layout", manifest.state_layout.clone()),
        ];
        let model = ["model", "settings", "dtype"].into_iter();
        let model = model.filter_map(|name| Some((name, manifest.facts.get(name)?.clone())));
        facts.into_iter().chain(model).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Takes state from a checkpoint, whatever mesh and layout it was written under. Of each tensor, a device
    /// gets the part that it holds; the host has one part of one tensor at a time. If anything is missing,
    /// left over, of another shape or damaged, the session keeps what it has.
    pub fn restore(&mut self, checkpoint: &Checkpoint, which: Which) -> Result<()> {
        let wanted: Vec<StateEntry> = self.artefact().manifest.state.clone();
        let wanted: Vec<&StateEntry> = wanted.iter().filter(|s| which.has(kind(s))).collect();
        let wrong = differences(&wanted, checkpoint, which);
        if !wrong.is_empty() {
            return Err(Error::input(
                format!(
                    "the checkpoint `{}` does not fit the program `{}`:\n    {}",
                    checkpoint.dir().display(),
                    self.artefact().manifest.program,
                    wrong.join("\n    ")
                ),
                "give the model the settings that the checkpoint was made with; `meshc checkpoint list` shows what is in it",
            ));
        }
        let mut restored = BTreeMap::new();
        for entry in wanted {
            restored.insert(entry.name.clone(), self.restore_one(entry, checkpoint)?);
        }
        self.put_state(restored);
        Ok(())
    }

    fn restore_one(&self, entry: &StateEntry, checkpoint: &Checkpoint) -> Result<Vec<Buffer>> {
        let tensor = tensor_of(entry);
        let devices = self.state_devices()?;
        let mut buffers: Vec<Option<Buffer>> = devices.iter().map(|_| None).collect();
        for (region, holders) in regions(tensor, self.mesh(), devices.len()) {
            let part = checkpoint.read_box(&entry.name, &region.start, &region.sizes)?;
            for device in holders {
                buffers[device] = Some(self.send(&part, &devices[device])?);
            }
        }
        Ok(buffers.into_iter().map(|b| b.expect("every device holds some part")).collect())
    }

    /// Begins to copy every box of some state, one copy of each.
    fn copies(&self, entry: &StateEntry) -> Result<Vec<Copied>> {
        let (tensor, buffers) = (tensor_of(entry), self.state_buffers(&entry.name)?);
        let dims: Vec<(String, usize)> =
            tensor.dims.iter().map(|d| (d.name.clone(), d.size as usize)).collect();
        let dtype = element_type(&tensor.dtype)?;
        let copy = |(region, holders): (Region, Vec<usize>)| {
            let read = buffers[holders[0]].start_read();
            let read = read.map_err(Error::pjrt(format!("reading state `{}`", entry.name)))?;
            Ok(Copied {
                name: entry.name.clone(),
                kind: kind(entry),
                dims: dims.clone(),
                dtype,
                region,
                read,
            })
        };
        regions(tensor, self.mesh(), buffers.len()).into_iter().map(copy).collect()
    }
}

impl Which {
    fn has(self, kind: Kind) -> bool {
        match self {
            Self::All => true,
            Self::Params => kind == Kind::Param,
        }
    }
}

/// Distinct parts of a tensor, with the devices that hold each.
fn regions(tensor: &Tensor, mesh: &proto::manifest::Mesh, devices: usize) -> Vec<(Region, Vec<usize>)> {
    let mut all: Vec<(Region, Vec<usize>)> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for device in 0..devices {
        let region = shard::region(tensor, mesh, device);
        let i = *index.entry(region.clone()).or_insert_with(|| {
            all.push((region, Vec::new()));
            all.len() - 1
        });
        all[i].1.push(device);
    }
    all
}

/// Everything that stands between a checkpoint and the state that is wanted.
fn differences(wanted: &[&StateEntry], checkpoint: &Checkpoint, which: Which) -> Vec<String> {
    let mut wrong = Vec::new();
    for entry in wanted {
        let ours = shape(tensor_of(entry));
        match checkpoint.tensor(&entry.name) {
            None => wrong.push(format!("missing: `{}`, {ours}", entry.name)),
            Some(theirs) if theirs.shape() != ours => {
                wrong.push(format!("`{}` is {}, the program wants {ours}", entry.name, theirs.shape()));
            }
            Some(_) => {}
        }
    }
    let known = |e: &&Entry| wanted.iter().any(|s| s.name == e.name);
    let left_over = checkpoint.tensors().iter().filter(|e| which.has(e.kind) && !known(e));
    wrong.extend(left_over.map(|e| format!("left over: `{}`, {}", e.name, e.shape())));
    wrong
}

fn shape(tensor: &Tensor) -> String {
    let dims: Vec<String> = tensor.dims.iter().map(|d| format!("{}={}", d.name, d.size)).collect();
    format!("{}[{}]", tensor.dtype, dims.join(", "))
}

fn tensor_of(entry: &StateEntry) -> &Tensor {
    entry.tensor.as_ref().expect("the artefact was checked")
}

fn kind(entry: &StateEntry) -> Kind {
    match entry.kind() {
        StateKind::Param => Kind::Param,
        StateKind::Slot => Kind::Slot,
        // Manifests without a kind are refused when artefacts are read.
        StateKind::Counter | StateKind::Unspecified => Kind::Counter,
    }
}

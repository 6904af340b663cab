//! State between devices and checkpoints, under whatever layout the session has.

use super::{
    manifest::{Entry, Facts, Kind},
    padding::{UsedParts, common, padded, within},
    reader::Checkpoint,
    writer::Writer,
};
use crate::{
    Error, HostTensor, Result, Session,
    session::{Buffer, PendingRead, SnapshotBytes},
    shard::Region,
    tensor::element_type,
};
use pjrt::ElementType;
use proto::{
    manifest::{StateEntry, StateKind, Tensor},
    padded::PADDED,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    thread,
    time::Duration,
};

/// The state to restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoreScope {
    /// All state of the program.
    All,
    /// The parameters only. Other tensors of the checkpoint are ignored.
    Params,
}

/// A session's state at one point in time, in host memory. The session can continue while it is written.
#[derive(Debug)]
pub struct Snapshot {
    boxes: VecDeque<SnapshotBox>,
    memory: SnapshotBytes,
}

/// A box of a tensor of the state.
#[derive(Debug)]
struct SnapshotBox {
    name: String,
    kind: Kind,
    dims: Vec<(String, usize)>,
    dtype: ElementType,
    region: Region,
    contents: Contents,
}

/// The contents of a box.
#[derive(Debug)]
enum Contents {
    /// A copy to the host in flight.
    Copy(PendingRead),
    /// The session's own buffer, which is not changed while it is shared.
    Share(Arc<Buffer>),
}

impl Snapshot {
    /// Returns the bytes of host memory that it takes.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Writes the snapshot. Memory is freed as it is written.
    pub fn write(self, writer: &mut Writer) -> Result<()> {
        writer.count_snapshot(self.memory);
        self.boxes.into_iter().try_for_each(|taken| taken.write(writer))
    }
}

impl SnapshotBox {
    fn bytes(&self) -> usize {
        self.region.sizes.iter().product::<usize>() * self.dtype.byte_size().unwrap_or(0)
    }

    /// Waits until a copy has ended, so that later steps cannot change its contents.
    fn wait_for_copy(&self) -> Result<()> {
        let Contents::Copy(read) = &self.contents else { return Ok(()) };
        while !read.is_ready(&self.name)? {
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn write(self, writer: &mut Writer) -> Result<()> {
        let read = match self.contents {
            Contents::Copy(read) => read,
            // The buffer is no longer shared once it is copied.
            Contents::Share(buffer) => buffer.start_read(&self.name)?,
        };
        let bytes = read.wait(&self.name)?;
        let value = HostTensor { dtype: self.dtype, dims: self.region.sizes, bytes };
        writer.part(&self.name, self.kind, &self.dims, &self.region.start, value)
    }
}

impl Session {
    /// Writes the state that this process saves, one box at a time: all of it, if the process is alone.
    ///
    /// # Errors
    /// State has no value, a device cannot be read, or a file cannot be written.
    pub fn save(&self, writer: &mut Writer) -> Result<()> {
        (0..self.artefact().manifest.state.len()).try_for_each(|number| {
            // The devices copy concurrently.
            self.boxes(number, false)?.into_iter().try_for_each(|copied| copied.write(writer))
        })
    }

    /// Takes a snapshot of the state that this process saves: all of it, if the process is alone.
    ///
    /// On devices that use host memory, the snapshot shares the session's buffers and returns at once: the
    /// next call replaces a copy that the plugin makes, and the old buffers are freed once they are written.
    /// Otherwise it copies the state to the host, all shards concurrently, and waits for the copies and for
    /// steps in flight: on API 0.115 a step that replaces state was seen to overtake a copy of it.
    ///
    /// # Errors
    /// State has no value, or a device cannot be read.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let (mut boxes, share) = (VecDeque::new(), self.uses_host_memory()?);
        for number in 0..self.artefact().manifest.state.len() {
            boxes.extend(self.boxes(number, share)?);
        }
        boxes.iter().try_for_each(SnapshotBox::wait_for_copy)?;
        let bytes = boxes.iter().map(SnapshotBox::bytes).sum();
        Ok(Snapshot { boxes, memory: self.count_snapshot(bytes, share) })
    }

    /// Returns the facts of a checkpoint about the program: its name, mesh and layout, and the model, if the
    /// program states it.
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
        let model = ["model", "settings", "schedule", "dtype", PADDED].into_iter();
        let model = model.filter_map(|name| Some((name, manifest.meta.get(name)?.clone())));
        facts.into_iter().chain(model).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Restores state from a checkpoint, whatever mesh, layout and padding it was written under. Each device
    /// receives its shard of each tensor; the host holds one region of one tensor at a time. Padding that the
    /// checkpoint lacks becomes 0.
    ///
    /// # Errors
    /// Tensors are missing, superfluous, of another shape or damaged. The session's state is then unchanged.
    pub fn restore(&mut self, checkpoint: &Checkpoint, scope: RestoreScope) -> Result<()> {
        let wanted: Vec<StateEntry> = self.artefact().manifest.state.clone();
        let wanted: Vec<&StateEntry> = wanted.iter().filter(|s| scope.has(kind(s))).collect();
        let used = self.used_parts();
        let wrong = differences(&wanted, &used, checkpoint, scope);
        if !wrong.is_empty() {
            return Err(Error::input(
                format!(
                    "the checkpoint `{}` does not fit the program `{}`:\n    {}",
                    checkpoint.dir().display(),
                    self.artefact().manifest.program,
                    wrong.join("\n    ")
                ),
                "use the settings of the checkpoint's model; `meshc checkpoint list` shows its tensors",
            ));
        }
        let mut restored = BTreeMap::new();
        for entry in wanted {
            restored.insert(entry.name.clone(), self.restore_one(entry, &used, checkpoint)?);
        }
        self.put_state(restored);
        Ok(())
    }

    /// Takes the parameters of another session, through the host, tensor by tensor.
    ///
    /// # Errors
    /// The other session lacks a parameter of this program, or it has another type there.
    pub fn copy_parameters(&mut self, from: &Session) -> Result<()> {
        let wanted: Vec<StateEntry> = self.artefact().manifest.state.clone();
        for entry in wanted.iter().filter(|s| RestoreScope::Params.has(kind(s))) {
            self.set_state(&entry.name, &from.state(&entry.name)?)?;
        }
        Ok(())
    }

    /// Returns the used parts of the program's padded dims.
    pub(super) fn used_parts(&self) -> UsedParts {
        UsedParts::parse(self.artefact().manifest.meta.get(PADDED))
    }

    fn restore_one(
        &self,
        entry: &StateEntry,
        used: &UsedParts,
        checkpoint: &Checkpoint,
    ) -> Result<Vec<Buffer>> {
        let theirs = checkpoint.tensor(&entry.name).expect("the shapes were compared");
        let limits = common_part((entry, used), (theirs, &used_by(checkpoint)));
        let limits = limits.expect("the shapes were compared");
        let mut buffers: Vec<Option<Buffer>> = (0..self.assignment().shards()).map(|_| None).collect();
        for (region, holders) in self.assignment().regions(tensor_of(entry)) {
            let part = read_within(checkpoint, theirs, &region, &limits)?;
            for local in holders {
                buffers[local] = Some(self.send(&part, local)?);
            }
        }
        Ok(buffers.into_iter().map(|b| b.expect("every device holds some region")).collect())
    }

    /// Returns the boxes of a tensor of the state that this process saves: shared buffers, or else copies in
    /// flight. `number` is the tensor's index in the manifest.
    fn boxes(&self, number: usize, share: bool) -> Result<Vec<SnapshotBox>> {
        let entry = &self.artefact().manifest.state[number];
        let (tensor, buffers) = (tensor_of(entry), self.shards(&entry.name)?);
        let dims: Vec<(String, usize)> =
            tensor.dims.iter().map(|d| (d.name.clone(), d.size as usize)).collect();
        let dtype = element_type(&tensor.dtype)?;
        let take = |(region, local): &(Region, usize)| {
            let buffer = &buffers[*local];
            let contents = if share {
                Contents::Share(buffer.clone())
            } else {
                Contents::Copy(buffer.start_read(&entry.name)?)
            };
            Ok(SnapshotBox {
                name: entry.name.clone(),
                kind: kind(entry),
                dims: dims.clone(),
                dtype,
                region: region.clone(),
                contents,
            })
        };
        self.owned()[number].iter().map(take).collect()
    }
}

impl RestoreScope {
    fn has(self, kind: Kind) -> bool {
        match self {
            Self::All => true,
            Self::Params => kind == Kind::Param,
        }
    }
}

/// Lists all differences between a checkpoint and the state of the program.
fn differences(
    wanted: &[&StateEntry],
    used: &UsedParts,
    checkpoint: &Checkpoint,
    scope: RestoreScope,
) -> Vec<String> {
    let (mut wrong, their_used) = (Vec::new(), used_by(checkpoint));
    for entry in wanted {
        let ours = shape(tensor_of(entry));
        match checkpoint.tensor(&entry.name) {
            None => wrong.push(format!("missing: `{}`, {ours}", entry.name)),
            Some(theirs) if common_part((entry, used), (theirs, &their_used)).is_none() => {
                wrong.push(format!("`{}` is {}, the program expects {ours}", entry.name, theirs.shape()));
            }
            Some(_) => {}
        }
    }
    let known = |e: &&Entry| wanted.iter().any(|s| s.name == e.name);
    let left_over = checkpoint.tensors().iter().filter(|e| scope.has(e.kind) && !known(e));
    wrong.extend(left_over.map(|e| format!("left over: `{}`, {}", e.name, e.shape())));
    wrong
}

/// Returns the sizes of the part that a tensor of the state and one of a checkpoint have in common. `None`
/// means that they differ in more than padding.
fn common_part(
    (ours, our_used): (&StateEntry, &UsedParts),
    (theirs, their_used): (&Entry, &UsedParts),
) -> Option<Vec<usize>> {
    let tensor = tensor_of(ours);
    let dims: Vec<(String, usize)> = tensor.dims.iter().map(|d| (d.name.clone(), d.size as usize)).collect();
    let found = common((&dims, our_used), (&theirs.dims, their_used));
    found.filter(|_| tensor.dtype == theirs.dtype)
}

/// Returns the used parts of a checkpoint's padded dims.
pub(super) fn used_by(checkpoint: &Checkpoint) -> UsedParts {
    UsedParts::parse(checkpoint.facts().get(PADDED))
}

/// Reads a region of a tensor, with zeros for what lies beyond `limits`.
fn read_within(
    checkpoint: &Checkpoint,
    entry: &Entry,
    region: &Region,
    limits: &[usize],
) -> Result<HostTensor> {
    let Some(sizes) = within(region, limits) else {
        let dtype = element_type(&entry.dtype)?;
        let element = dtype.byte_size().expect("element types of manifests have a size");
        let bytes = vec![0; region.sizes.iter().product::<usize>() * element];
        return Ok(HostTensor { dtype, dims: region.sizes.clone(), bytes });
    };
    let part = checkpoint.read_box(&entry.name, &region.start, &sizes)?;
    if sizes == region.sizes {
        return Ok(part);
    }
    let element = part.dtype.byte_size().expect("element types of manifests have a size");
    let bytes = padded(&part.bytes, sizes, element, region);
    Ok(HostTensor { dtype: part.dtype, dims: region.sizes.clone(), bytes })
}

fn shape(tensor: &Tensor) -> String {
    let dims: Vec<String> = tensor.dims.iter().map(|d| format!("{}={}", d.name, d.size)).collect();
    format!("{}[{}]", tensor.dtype, dims.join(", "))
}

fn tensor_of(entry: &StateEntry) -> &Tensor {
    entry.tensor.as_ref().expect("artefacts are checked when they are read")
}

fn kind(entry: &StateEntry) -> Kind {
    match entry.kind() {
        StateKind::Param => Kind::Param,
        StateKind::Slot => Kind::Slot,
        // Artefacts with state of unspecified kind are refused when they are read.
        StateKind::Counter | StateKind::Unspecified => Kind::Counter,
    }
}

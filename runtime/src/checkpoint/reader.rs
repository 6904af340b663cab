//! Reading a checkpoint: whole tensors or parts of them, checked against their digests.

use super::{
    manifest::{
        COMMIT, Entry, Facts, File, MANIFEST, Manifest, TOKENIZER, TOKENIZER_FILE, TensorBox, commit_of,
    },
    objects::{Objects, is_url},
    storage::Storage,
};
use crate::{
    Error, HostTensor, Result,
    shard::{self, Region},
    tensor::element_type,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Bytes read at a time.
const BLOCK: usize = 8 << 20;

/// Returns true if there is a finished checkpoint, valid or damaged, at a path or URL.
pub fn is_checkpoint(path: &Path) -> bool {
    if is_url(path) {
        let marker = Objects::open(path).and_then(|o| o.has(COMMIT).map_err(Error::io("looking at", path)));
        marker.unwrap_or(false)
    } else {
        path.join(COMMIT).is_file()
    }
}

/// An open checkpoint. The manifest and the headers of its files are checked when it is opened; tensors are
/// checked when they are read.
#[derive(Debug)]
pub struct Checkpoint {
    storage: Storage,
    manifest: Manifest,
    /// Of the manifest, which contains those of all tensors.
    digest: String,
    /// Index into the manifest's tensors by name.
    index: BTreeMap<String, usize>,
    /// Boxes, by tensor and index, whose digests were verified.
    checked: Mutex<BTreeSet<(usize, usize)>>,
}

impl Checkpoint {
    /// Opens a checkpoint.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is incomplete, altered or of a newer version; [`Error::Io`] if it cannot
    /// be read.
    pub fn open(dir: &Path) -> Result<Self> {
        let broken = |reason: String| damaged(dir, reason);
        let storage = Storage::open(dir)?;
        if let Some(what) = storage.problem() {
            return Err(broken(what.into()));
        }
        let marker = storage.read(COMMIT).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                broken(format!("it has no {COMMIT}: it is not a checkpoint, or an unfinished one"))
            }
            _ => Error::io("reading", dir.join(COMMIT))(e),
        })?;
        let text = storage.read(MANIFEST).map_err(Error::io("reading", dir.join(MANIFEST)))?;
        if marker != commit_of(&text).as_bytes() {
            return Err(broken(format!("{MANIFEST} or {COMMIT} was altered: the digests differ")));
        }
        let manifest = Manifest::parse(&text).map_err(|reason| broken(format!("{MANIFEST}: {reason}")))?;
        for file in &manifest.files {
            check_head(&storage, file)?;
        }
        let index = manifest.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        let digest = blake3::hash(&text).to_hex()[..16].to_owned();
        Ok(Self { storage, manifest, digest, index, checked: Mutex::default() })
    }

    /// Returns its path or URL.
    pub fn dir(&self) -> &Path {
        self.storage.path()
    }
    /// Returns the number of training steps that led to its state.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }
    /// Returns the digest of its contents, of 16 hexadecimal digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }
    /// Returns the facts that the writer added.
    pub fn facts(&self) -> &Facts {
        &self.manifest.facts
    }
    /// Reads the file of the tokenizer. `None` means that the checkpoint has none: its tokens are bytes, or
    /// it only identifies the tokenizer, or it says nothing.
    ///
    /// # Errors
    /// The file cannot be read, or is not the one that was written.
    pub fn tokenizer(&self) -> Result<Option<Vec<u8>>> {
        let Some(name) = self.facts().get(TOKENIZER_FILE) else { return Ok(None) };
        if name.contains(['/', '\\']) {
            return Err(damaged(self.dir(), format!("`{name}` is not the name of a file")));
        }
        let bytes = self.storage.read(name).map_err(Error::io("reading", self.dir().join(name)))?;
        let digest = format!("blake3:{}", blake3::hash(&bytes).to_hex());
        if self.facts().get(TOKENIZER) != Some(&digest) {
            return Err(damaged(self.dir(), format!("`{name}` was altered: the digests differ")));
        }
        Ok(Some(bytes))
    }
    /// Returns all tensors, in the order in which they were written.
    pub fn tensors(&self) -> &[Entry] {
        &self.manifest.tensors
    }
    /// Returns the tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|i| &self.manifest.tensors[*i])
    }
    /// Returns the total size of its files with tensors, in bytes.
    pub fn bytes(&self) -> u64 {
        self.manifest.files.iter().map(|f| f.bytes).sum()
    }

    /// Reads a whole tensor.
    ///
    /// # Errors
    /// As for [`Checkpoint::read_box`].
    pub fn read(&self, name: &str) -> Result<HostTensor> {
        let entry = self.entry(name)?.1;
        let (start, size) = (vec![0; entry.dims.len()], entry.sizes());
        self.read_box(name, &start, &size)
    }

    /// Reads the region of a tensor that begins at `start` and has these sizes. Reads only the boxes that
    /// overlap it, and verifies their digests first.
    ///
    /// # Errors
    /// There is no such tensor or region, or a box is damaged.
    pub fn read_box(&self, name: &str, start: &[usize], size: &[usize]) -> Result<HostTensor> {
        let (number, entry) = self.entry(name)?;
        let want = Region { start: start.to_vec(), sizes: size.to_vec() };
        let dims = entry.sizes();
        if !shard::inside(&want, &dims) {
            return Err(Error::input(
                format!("tensor `{name}` of sizes {dims:?} has no region {want}"),
                "request a region within the tensor",
            ));
        }
        let dtype = element_type(&entry.dtype)?;
        let element = dtype.byte_size().expect("element types of manifests have a size");
        let mut bytes = vec![0; size.iter().product::<usize>() * element];
        for (i, part) in entry.boxes.iter().enumerate() {
            // Most boxes of a large tensor are elsewhere: no region is created for them.
            if !shard::overlap((&part.start, &part.size), (&want.start, &want.sizes)) {
                continue;
            }
            let have = part.region();
            let Some(common) = shard::common(&have, &want) else { continue };
            if have == want {
                self.read_exactly(part, &mut bytes)?;
                self.check(number, i, Some(&bytes))?;
            } else {
                self.check(number, i, None)?;
                self.copy_part(part, element, &common, &want, &mut bytes)?;
            }
        }
        Ok(HostTensor { dtype, dims: want.sizes, bytes })
    }

    /// Reads all files, verifies all digests, and returns the number of bytes.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with a list of all damage.
    pub fn verify(&self) -> Result<u64> {
        let mut wrong = Vec::new();
        let mut by_file: BTreeMap<&str, Vec<(&Entry, &TensorBox)>> = BTreeMap::new();
        for entry in &self.manifest.tensors {
            for part in &entry.boxes {
                by_file.entry(&part.file).or_default().push((entry, part));
            }
        }
        for file in &self.manifest.files {
            let boxes = by_file.get(file.name.as_str()).map_or(&[][..], Vec::as_slice);
            if let Err(error) = check_head(&self.storage, file).and_then(|()| self.check_names(file, boxes)) {
                wrong.push(reason_of(error));
            }
        }
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for (number, entry) in self.manifest.tensors.iter().enumerate() {
            for i in 0..entry.boxes.len() {
                if let Err(error) = self.check(number, i, None) {
                    wrong.push(reason_of(error));
                }
            }
        }
        if wrong.is_empty() { Ok(self.bytes()) } else { Err(damaged(self.dir(), wrong.join("; "))) }
    }

    fn entry(&self, name: &str) -> Result<(usize, &Entry)> {
        let number = *self.index.get(name).ok_or_else(|| {
            Error::input(
                format!("checkpoint `{}` has no tensor `{name}`", self.dir().display()),
                "`meshc checkpoint list` shows its tensors",
            )
        })?;
        Ok((number, &self.manifest.tensors[number]))
    }

    /// Verifies the digest of a box. `bytes` are its contents, if they were read already.
    fn check(&self, tensor: usize, number: usize, bytes: Option<&[u8]>) -> Result<()> {
        let known = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        let (entry, key) = (&self.manifest.tensors[tensor], (tensor, number));
        let part = &entry.boxes[number];
        let digest = match bytes {
            Some(bytes) => blake3::hash(bytes),
            None if known().contains(&key) => return Ok(()),
            None => self.hash_of(part)?,
        };
        if digest.to_hex().as_str() != part.blake3 {
            return Err(damaged(
                self.dir(),
                format!(
                    "the box {} of tensor `{}` in `{}` was altered: its digest is {}, the manifest has {}",
                    part.region(),
                    entry.name,
                    part.file,
                    digest.to_hex(),
                    part.blake3
                ),
            ));
        }
        known().insert(key);
        Ok(())
    }

    fn hash_of(&self, part: &TensorBox) -> Result<blake3::Hash> {
        let file = self.storage.known(&part.file)?;
        let mut hasher = blake3::Hasher::new();
        let mut block = vec![0; BLOCK.min(part.bytes as usize)];
        let mut done = 0;
        while done < part.bytes {
            let len = (BLOCK as u64).min(part.bytes - done) as usize;
            file.read_at(&mut block[..len], part.offset + done)?;
            hasher.update(&block[..len]);
            done += len as u64;
        }
        Ok(hasher.finalize())
    }

    fn read_exactly(&self, part: &TensorBox, bytes: &mut [u8]) -> Result<()> {
        self.storage.known(&part.file)?.read_at(bytes, part.offset)
    }

    /// Copies `common`, the overlap of a box and the region `want`, into a tensor of that region. Copies
    /// slices along the outermost dim, as many at a time as fit into a block.
    fn copy_part(
        &self,
        part: &TensorBox,
        element: usize,
        common: &Region,
        want: &Region,
        bytes: &mut [u8],
    ) -> Result<()> {
        let file = self.storage.known(&part.file)?;
        let have = part.region();
        // Both regions have at least one dim: a scalar has only one region, which is read exactly.
        let slice = have.sizes[1..].iter().product::<usize>() * element;
        let at_once = (BLOCK / slice.max(1)).max(1);
        let mut block = Vec::new();
        let (first, end) = (common.start[0], common.start[0] + common.sizes[0]);
        for from in (first..end).step_by(at_once) {
            let count = at_once.min(end - from);
            block.resize(count * slice, 0);
            let offset = part.offset + ((from - have.start[0]) * slice) as u64;
            file.read_at(&mut block, offset)?;
            let mut slices = have.clone();
            (slices.start[0], slices.sizes[0]) = (from, count);
            let mut piece = common.clone();
            (piece.start[0], piece.sizes[0]) = (from, count);
            let cut = shard::cut(&block, &slices.sizes, element, &piece.relative_to(&slices));
            shard::paste(bytes, &want.sizes, element, &piece.relative_to(want), &cut);
        }
        Ok(())
    }

    /// Checks that the file's header lists `boxes`, those of the manifest.
    fn check_names(&self, file: &File, boxes: &[(&Entry, &TensorBox)]) -> Result<()> {
        let mut head = vec![0; file.header_bytes as usize];
        self.storage.known(&file.name)?.read_at(&mut head, 0)?;
        let differs = |why: String| damaged(self.dir(), format!("the header of `{}` {why}", file.name));
        let own: serde_json::Value =
            serde_json::from_slice(&head[8..]).map_err(|e| differs(format!("is not JSON: {e}")))?;
        let has = own.as_object().map_or(0, |o| o.keys().filter(|k| *k != "__metadata__").count());
        for (entry, part) in boxes {
            let begin = part.offset - file.header_bytes;
            let offsets = &own[part.name_in_file(entry)]["data_offsets"];
            if offsets[0].as_u64() != Some(begin) || offsets[1].as_u64() != Some(begin + part.bytes) {
                return Err(differs(format!("does not have `{}`", part.name_in_file(entry))));
            }
        }
        let wanted = boxes.len();
        if has == wanted { Ok(()) } else { Err(differs(format!("has {has} tensors, not {wanted}"))) }
    }
}

/// Checks that a file has the size and the header that the manifest states.
fn check_head(storage: &Storage, file: &File) -> Result<()> {
    let dir = storage.path();
    let (opened, len) = storage.file(&file.name).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => damaged(dir, format!("the file `{}` is missing", file.name)),
        _ => Error::io("opening", dir.join(&file.name))(e),
    })?;
    if len != file.bytes {
        return Err(damaged(
            dir,
            format!("the file `{}` has {len} bytes, the manifest has {}", file.name, file.bytes),
        ));
    }
    let mut head = vec![0; file.header_bytes as usize];
    opened.read_at(&mut head, 0)?;
    if blake3::hash(&head).to_hex().as_str() != file.header_blake3 {
        return Err(damaged(dir, format!("the header of the file `{}` was altered", file.name)));
    }
    Ok(())
}

fn damaged(dir: &Path, reason: String) -> Error {
    Error::Checkpoint {
        path: dir.to_owned(),
        reason,
        help: "use another checkpoint: `meshc checkpoint verify` tells which ones are valid".to_owned(),
    }
}

/// Returns an error's reason without the path.
fn reason_of(error: Error) -> String {
    match error {
        Error::Checkpoint { reason, .. } => reason,
        Error::Io { .. }
        | Error::Artefact { .. }
        | Error::Input { .. }
        | Error::Assertion { .. }
        | Error::Data(_)
        | Error::Job(_)
        | Error::Disagreement(_)
        | Error::Pjrt { .. } => error.to_string(),
    }
}

//! Runs of a probe program.
//!
//! If the batch of the inputs is not divisible by the number of shards, it is repeated. Means over sequences
//! and tokens, and thus all losses and gradients, do not change by repetition.

use super::backend::Backend;
use crate::{
    failure,
    hf::{elements::transposed, folder::Folder, import},
};
use anyhow::Result;
use mesh::Site;
use models::{Config, hf, probe};
use runtime::{ElementType, HostTensor, Session};
use std::collections::BTreeMap;

/// The losses that are differentiated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Total {
    /// Cross-entropy only.
    Ce,
    /// Cross-entropy and the router losses, summed over layers.
    Layersum,
    /// Cross-entropy and the router losses as Hugging Face's code combines them.
    Hf,
}

impl Total {
    /// All losses.
    pub const ALL: [Self; 3] = [Self::Ce, Self::Layersum, Self::Hf];

    /// Returns the name in tensors and losses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ce => "ce",
            Self::Layersum => "layersum",
            Self::Hf => "hf",
        }
    }
}

/// The results of one call.
#[derive(Clone, Debug)]
pub struct Got {
    /// Outputs of the model for the original batch.
    pub tensors: BTreeMap<String, Vec<f64>>,
    /// Losses, by layer and kind.
    numbers: BTreeMap<String, f64>,
    /// Gradients under Hugging Face's names, in Hugging Face's order of elements.
    pub gradients: BTreeMap<String, Vec<f64>>,
    /// Gradients under our names.
    own: BTreeMap<String, HostTensor>,
}

/// A model on devices.
pub struct Run {
    session: Session,
    /// Devices, mesh, layout, batch and precision, for messages.
    pub placed: String,
    inputs: BTreeMap<String, HostTensor>,
    /// Number of sequences of the inputs.
    batch: usize,
    config: Config,
    tensors: Vec<hf::Tensor>,
}

impl Run {
    /// Compiles the program and loads the weights.
    pub fn new(
        folder: &Folder,
        config: &Config,
        inputs: &BTreeMap<String, HostTensor>,
        gradients: bool,
        backend: &dyn Backend,
    ) -> Result<Self> {
        let [batch, length, target_length] = sizes(folder, inputs)?;
        let of = |rows: usize| Config { batch: rows, input_length: length, target_length, ..config.clone() };
        let site = Site::new(folder.dir.display().to_string(), 0, 0, "");
        let build = |rows| probe::program(&of(rows), gradients, &site);
        let Loaded { session, rows, placed } = load(folder, batch, config, &build, backend)?;
        let precision = config.precision.name();
        let placed = format!("{placed}, {} x {batch} sequences, {precision}", rows / batch);
        let inputs = inputs.iter().map(|(n, t)| (n.clone(), repeated(t, rows / batch))).collect();
        Ok(Self { session, placed, inputs, batch, config: of(rows), tensors: folder.tensors.clone() })
    }

    /// Calls the program once and differentiates `total`.
    pub fn probe(&mut self, total: Total) -> Result<Got> {
        let mut inputs = self.inputs.clone();
        for (name, weight) in probe::WEIGHTS.into_iter().zip(self.weights(total)) {
            inputs.insert(name.to_owned(), HostTensor::f32(&[], &[weight as f32]));
        }
        let results = self.session.call("probe", &inputs)?.wait()?;
        let mut got = Got {
            tensors: BTreeMap::new(),
            numbers: BTreeMap::new(),
            gradients: BTreeMap::new(),
            own: BTreeMap::new(),
        };
        for (name, value) in results {
            if let Some(param) = name.strip_prefix("grad/") {
                got.own.insert(param.to_owned(), value);
            } else if name.starts_with("loss.") {
                got.numbers.insert(name, value.to_f64()?.first().copied().unwrap_or(f64::NAN));
            } else {
                let elements = value.to_f64()?;
                let once = elements.len() / self.config.batch * self.batch;
                got.tensors.insert(name, elements[..once].to_vec());
            }
        }
        for tensor in &self.tensors {
            if let Some(own) = got.own.get(&tensor.param) {
                got.gradients.insert(tensor.name.clone(), cut(own, tensor).to_f64()?);
            }
        }
        Ok(got)
    }

    /// Returns the weights of the parts of a loss, in the order of [`probe::WEIGHTS`].
    fn weights(&self, total: Total) -> [f64; 5] {
        let (aux, z) = self.config.switch.as_ref().map_or((0.0, 0.0), |s| (s.aux_loss, s.router_z_loss));
        match total {
            Total::Ce => [1.0, 0.0, 0.0, 0.0, 0.0],
            Total::Layersum => [1.0, aux, z, 0.0, 0.0],
            Total::Hf => [1.0, 0.0, 0.0, aux, z],
        }
    }

    /// Returns all losses, including the totals.
    pub fn losses(&self, got: &Got) -> BTreeMap<String, f64> {
        let mut all = got.numbers.clone();
        if self.config.switch.is_none() {
            return all;
        }
        let sum = |start: &str, end: &str| -> f64 {
            got.numbers.iter().filter(|(n, _)| n.starts_with(start) && n.ends_with(end)).map(|(_, v)| v).sum()
        };
        let parts = [
            sum("loss.ce", ""),
            sum("loss.aux.", ""),
            sum("loss.z.", ""),
            sum("loss.hf_", "_aux_loss"),
            sum("loss.hf_", "_z_loss"),
        ];
        for total in [Total::Layersum, Total::Hf] {
            let weighted = parts.iter().zip(self.weights(total)).map(|(p, w)| p * w).sum();
            all.insert(format!("loss.{}", total.name()), weighted);
        }
        all
    }

    /// Takes a step of gradient descent.
    pub fn descend(&mut self, got: &Got, rate: f64) -> Result<()> {
        for (param, gradient) in &got.own {
            let mut value = self.session.state(param)?;
            let rate = rate as f32;
            for (x, g) in value.bytes.chunks_exact_mut(4).zip(gradient.bytes.chunks_exact(4)) {
                let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                let next = float(x) - rate * float(g);
                x.copy_from_slice(&next.to_le_bytes());
            }
            self.session.set_state(param, &value)?;
        }
        Ok(())
    }
}

/// A program on devices with loaded weights.
pub(super) struct Loaded {
    pub session: Session,
    /// Number of sequences of the program, a multiple of those of the inputs.
    pub rows: usize,
    /// Devices, mesh and layout, in words.
    pub placed: String,
}

/// Opens the program that `build` makes for a divisible number of sequences, and loads the weights.
pub(super) fn load(
    folder: &Folder,
    batch: usize,
    config: &Config,
    build: &dyn Fn(usize) -> mesh::dsl::Program,
    backend: &dyn Backend,
) -> Result<Loaded> {
    let rows = |shards: usize| (1..).map(|n| n * batch).find(|r| r.is_multiple_of(shards)).unwrap_or(batch);
    let name = folder.dir.display().to_string();
    let opened = backend.open(&name, &config.layout(), &|shards| build(rows(shards)))?;
    let mut session = opened.session;
    for (param, value) in parameters(folder)? {
        session.set_state(&param, &value)?;
    }
    Ok(Loaded { session, rows: rows(opened.shards), placed: opened.placed })
}

/// Checks the four inputs, and returns the numbers of sequences, input tokens and target tokens.
pub(super) fn sizes(folder: &Folder, inputs: &BTreeMap<String, HostTensor>) -> Result<[usize; 3]> {
    let path = folder.dir.join("inputs.safetensors").display().to_string();
    let wrong =
        |why: String| failure(format!("`{path}` {why}"), "see docs/interchange.md for what it must have");
    let of = |name: &str| {
        let tensor = inputs.get(name).ok_or_else(|| wrong(format!("has no tensor `{name}`")))?;
        match tensor.dims[..] {
            [batch, length] if batch > 0 && length > 0 && tensor.dtype == ElementType::S32 => {
                Ok([batch, length])
            }
            _ => Err(wrong(format!(
                "has `{name}` of type {} and sizes {:?}; it must be an I32 matrix",
                tensor.dtype, tensor.dims
            ))),
        }
    };
    let (ids, mask) = (of("input_ids")?, of("attention_mask")?);
    let (labels, before) = (of("labels")?, of("decoder_input_ids")?);
    if ids != mask || labels != before || ids[0] != labels[0] {
        return Err(wrong(format!(
            "has sizes that do not match: input_ids {ids:?}, attention_mask {mask:?}, labels {labels:?}, \
             decoder_input_ids {before:?}"
        )));
    }
    let others = ["input_ids", "attention_mask", "labels", "decoder_input_ids"];
    if let Some(name) = inputs.keys().find(|n| !others.contains(&n.as_str())) {
        return Err(wrong(format!("has an unknown tensor `{name}`")));
    }
    Ok([ids[0], ids[1], labels[1]])
}

/// Reads all parameters under our names.
fn parameters(folder: &Folder) -> Result<BTreeMap<String, HostTensor>> {
    let mut all: BTreeMap<String, HostTensor> = BTreeMap::new();
    for tensor in &folder.tensors {
        let (_, part) = import::part(folder, tensor)?;
        let dims: Vec<usize> = tensor.dims.iter().map(|d| d.1).collect();
        let whole = all.entry(tensor.param.clone()).or_insert_with(|| HostTensor {
            dtype: ElementType::F32,
            bytes: vec![0; dims.iter().product::<usize>() * 4],
            dims: dims.clone(),
        });
        let (at, count) = span(tensor);
        whole.bytes[at * 4..(at + count) * 4].copy_from_slice(&part.bytes);
    }
    Ok(all)
}

/// Returns the first element and the number of elements of a tensor within our parameter. The tensor is
/// contiguous there, because it is a layer or an expert, and these dims are outermost.
fn span(tensor: &hf::Tensor) -> (usize, usize) {
    let mut stride = 1;
    let mut at = 0;
    for d in (0..tensor.dims.len()).rev() {
        at += tensor.start[d] * stride;
        stride *= tensor.dims[d].1;
    }
    (at, tensor.part.iter().product())
}

/// Extracts a Hugging Face tensor from one of our parameters.
fn cut(whole: &HostTensor, tensor: &hf::Tensor) -> HostTensor {
    let (at, count) = span(tensor);
    let bytes = whole.bytes[at * 4..(at + count) * 4].to_vec();
    let bytes = if tensor.transposed { transposed(&bytes, tensor.sizes[1], tensor.sizes[0]) } else { bytes };
    HostTensor { dtype: whole.dtype, dims: tensor.sizes.clone(), bytes }
}

/// Repeats the batch.
pub(super) fn repeated(tensor: &HostTensor, times: usize) -> HostTensor {
    let mut dims = tensor.dims.clone();
    dims[0] *= times;
    HostTensor { dtype: tensor.dtype, dims, bytes: tensor.bytes.repeat(times) }
}

//! Directories of Hugging Face models: `config.json` and safetensors files, checked against each other.

use super::{
    config::Described,
    elements::widened,
    file::{Element, Entry, Fields, Tensors},
};
use crate::{exported::shortened, failure, origin::resolved};
use anyhow::{Context, Result};
use models::{Config, hf};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Names of the embedding, which a folder may have under one or several of them. The first is the one that
/// is exported.
pub(super) const EMBEDDINGS: [&str; 3] =
    ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
/// The same of decoder-only models.
const CAUSAL_EMBEDDINGS: [&str; 1] = ["model.embed_tokens.weight"];
/// The output projection.
pub(super) const HEAD: &str = "lm_head.weight";
/// A tensor of old T5 checkpoints that transformers also ignores.
const IGNORED: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";

/// Files with weights in a form that can run programs when it is read.
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Files of tokenizers. The first also names the sentinels, which are not in models of SentencePiece.
const TOKENIZERS: [&str; 2] = ["tokenizer.json", "spiece.model"];

/// The tokenizer of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tokenizer {
    /// Tokens are bytes, as in ByT5.
    Bytes,
    /// The contents of the tokenizer's file.
    File(Vec<u8>),
    /// The directory does not say.
    Unknown,
}

/// A directory with a model. It has exactly the tensors of the model, with the right sizes.
#[derive(Debug)]
pub struct Folder {
    /// The path.
    pub dir: PathBuf,
    /// The settings in `config.json`.
    pub described: Described,
    /// The configuration in mesh.
    pub config: Config,
    /// The tensors of the model.
    pub tensors: Vec<hf::Tensor>,
    stored: Stored,
}

impl Folder {
    /// Opens a directory and checks everything except the elements.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut described = Described::read(dir)?;
        let stored = Stored::open(dir, described.causal.is_some())?;
        described.set_head(stored.has_own_head()?).map_err(|why| {
            failure(
                format!("the tensors in `{}` do not match its config.json: {why}", dir.display()),
                "for an output projection that shares the embedding set \"tie_word_embeddings\": true in config.json",
            )
        })?;
        let name = dir.join("config.json").display().to_string();
        let config = resolved(described.model, &described.line(), described.dtype, &name)?;
        let tensors = hf::tensors(&config).map_err(|why| {
            failure(format!("`{name}` describes no Hugging Face model: {why}"), "see docs/interchange.md")
        })?;
        let folder = Self { dir: dir.to_owned(), described, config, tensors, stored };
        folder.check()?;
        Ok(folder)
    }

    /// Returns the tokenizer.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        if self.described.of_bytes {
            return Ok(Tokenizer::Bytes);
        }
        let path = TOKENIZERS.into_iter().map(|name| self.dir.join(name)).find(|path| path.is_file());
        let Some(path) = path else { return Ok(Tokenizer::Unknown) };
        proto::regular::read(&path)
            .map(Tokenizer::File)
            .with_context(|| format!("reading `{}`", path.display()))
    }

    /// Reads the bytes of an existing tensor, and their type.
    pub fn read(&self, name: &str) -> Result<(Element, Vec<u8>)> {
        self.stored.read(name)
    }

    /// Checks names and sizes against the configuration.
    fn check(&self) -> Result<()> {
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for tensor in &self.tensors {
            match self.stored.entry(&tensor.name) {
                None => missing.push(format!("`{}` {:?}", tensor.name, tensor.sizes)),
                Some(entry) if entry.sizes != tensor.sizes => misshapen.push(format!(
                    "`{}` has sizes {:?}; the configuration requires {:?}",
                    tensor.name, entry.sizes, tensor.sizes
                )),
                Some(entry) if entry.element == Element::I32 => {
                    misshapen.push(format!("`{}` has integer elements", tensor.name));
                }
                Some(_) => {}
            }
        }
        let known = |name: &str| name == IGNORED || name == HEAD || self.stored.embeddings.contains(&name);
        // A set, because thousands of experts would make a linear search quadratic.
        let names: std::collections::BTreeSet<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        let left: Vec<String> = self
            .stored
            .index
            .keys()
            .filter(|n| !names.contains(n.as_str()) && !known(n))
            .map(|n| format!("`{n}`"))
            .collect();
        let mut wrong = Vec::new();
        for (what, list) in [("missing", missing), ("with wrong sizes", misshapen), ("unexpected", left)] {
            if !list.is_empty() {
                wrong.push(format!("{} {what}:\n    {}", list.len(), shortened(&list)));
            }
        }
        if !wrong.is_empty() {
            return Err(failure(
                format!(
                    "the tensors in `{}` do not match its config.json\n  {}",
                    self.dir.display(),
                    wrong.join("\n  ")
                ),
                "config.json and the weights must belong to the same model, with the names of transformers",
            ));
        }
        match self.stored.other_embedding()? {
            None => Ok(()),
            Some([one, two]) => Err(failure(
                format!("`{}`: tensor `{two}` differs from `{one}`", self.dir.display()),
                "encoder and decoder share one embedding in mesh: models with two are not supported",
            )),
        }
    }
}

/// The weights files of a directory.
#[derive(Debug)]
struct Stored {
    files: Vec<Tensors>,
    /// File number and position in the file, by tensor name.
    index: BTreeMap<String, (usize, usize)>,
    /// The name of the embedding in the index.
    embedding: &'static str,
    /// The names under which the embedding is stored.
    embeddings: Vec<&'static str>,
}

impl Stored {
    fn open(dir: &Path, causal: bool) -> Result<Self> {
        let names: &'static [&'static str] = if causal { &CAUSAL_EMBEDDINGS } else { &EMBEDDINGS };
        let files = open_files(dir)?;
        let mut index = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for (j, entry) in file.entries.iter().enumerate() {
                if let Some((other, _)) = index.insert(entry.name.clone(), (i, j)) {
                    let (one, two): (&Tensors, &Tensors) = (&files[other], file);
                    return Err(failure(
                        format!(
                            "tensor `{}` is in `{}` and in `{}`",
                            entry.name,
                            one.path().display(),
                            two.path().display()
                        ),
                        "remove it from one of the files",
                    ));
                }
            }
        }
        let embeddings: Vec<&str> = names.iter().copied().filter(|name| index.contains_key(*name)).collect();
        // From here on the embedding is found under its first name.
        if let Some(name) = embeddings.first() {
            index.insert(names[0].to_owned(), index[*name]);
        }
        Ok(Self { files, index, embedding: names[0], embeddings })
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|(i, j)| &self.files[*i].entries[*j])
    }

    fn read(&self, name: &str) -> Result<(Element, Vec<u8>)> {
        let (i, j) = *self.index.get(name).with_context(|| format!("there is no tensor `{name}`"))?;
        let entry = &self.files[i].entries[j];
        Ok((entry.element, self.files[i].read(entry)?))
    }

    /// Returns `None` without an output projection, else true if it differs from the embedding.
    fn has_own_head(&self) -> Result<Option<bool>> {
        let (Some(_), Some(_)) = (self.entry(HEAD), self.entry(self.embedding)) else {
            return Ok(self.entry(HEAD).map(|_| true));
        };
        Ok(Some(!self.equal(HEAD, self.embedding)?))
    }

    /// Returns the names of two embeddings that differ, the one that would be used first.
    fn other_embedding(&self) -> Result<Option<[&'static str; 2]>> {
        for pair in self.embeddings.windows(2) {
            if !self.equal(pair[0], pair[1])? {
                return Ok(Some([pair[0], pair[1]]));
            }
        }
        Ok(None)
    }

    /// Returns true if two tensors have the same sizes and the same elements, in whatever type.
    fn equal(&self, one: &str, two: &str) -> Result<bool> {
        if self.entry(one).map(|e| &e.sizes) != self.entry(two).map(|e| &e.sizes) {
            return Ok(false);
        }
        let ((a, left), (b, right)) = (self.read(one)?, self.read(two)?);
        Ok(if a == b { left == right } else { widened(a, left) == widened(b, right) })
    }
}

fn open_files(dir: &Path) -> Result<Vec<Tensors>> {
    let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
    if single.is_file() {
        return Ok(vec![Tensors::open(&single)?]);
    }
    if !index.is_file() && PICKLED.iter().any(|name| dir.join(name).exists()) {
        let load = "from transformers import AutoModelForSeq2SeqLM as M; M.from_pretrained";
        return Err(failure(
            format!("the weights of `{}` are pickled by PyTorch, which is not read", dir.display()),
            format!("python -c \"{load}('{}').save_pretrained('NEW')\" writes safetensors", dir.display()),
        ));
    }
    if !index.is_file() {
        return Err(failure(
            format!("`{}` has neither model.safetensors nor model.safetensors.index.json", dir.display()),
            "convert weights of other formats with `save_pretrained` of transformers",
        ));
    }
    let wrong =
        |why: String| failure(format!("`{}` {why}", index.display()), "copy or download the directory again");
    let text = proto::regular::read(&index).with_context(|| format!("reading `{}`", index.display()))?;
    let fields: Fields = serde_json::from_slice(&text).map_err(|e| wrong(format!("is not an index: {e}")))?;
    let map = fields.0.into_iter().find(|(key, _)| key == "weight_map").map(|(_, value)| value);
    let map = map.as_ref().and_then(|m| m.as_object()).ok_or_else(|| wrong("has no `weight_map`".into()))?;
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let file = file.as_str().filter(|f| !f.contains(['/', '\\']) && !f.is_empty());
        let file = file.ok_or_else(|| wrong(format!("has no plain file name for tensor `{tensor}`")))?;
        wanted.entry(file).or_default().push(tensor);
    }
    let mut files = Vec::new();
    for (name, tensors) in wanted {
        let file = Tensors::open(&dir.join(name))?;
        let has: std::collections::BTreeSet<&str> = file.entries.iter().map(|e| e.name.as_str()).collect();
        let lacks: Vec<String> =
            tensors.iter().filter(|t| !has.contains(*t)).map(|t| format!("`{t}`")).collect();
        let more = has.len() + lacks.len() - tensors.len();
        if !lacks.is_empty() || more > 0 {
            let lacks = if lacks.is_empty() { "none".to_owned() } else { shortened(&lacks) };
            return Err(wrong(format!(
                "and `{name}` disagree: the file lacks {lacks}, and has {more} tensors that the index does not list"
            )));
        }
        files.push(file);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pickled_weights_are_refused_with_the_command_that_converts_them() {
        let dir = tempfile::tempdir().expect("there is a place for temporary files");
        let said = |dir: &Path| open_files(dir).expect_err("there are no weights").to_string();
        assert!(said(dir.path()).contains("has neither model.safetensors"), "{}", said(dir.path()));
        std::fs::write(dir.path().join(PICKLED[0]), "").expect("the folder is ours");
        for expect in ["are pickled by PyTorch, which is not read", "save_pretrained('NEW')"] {
            assert!(said(dir.path()).contains(expect), "{}", said(dir.path()));
        }
    }
}

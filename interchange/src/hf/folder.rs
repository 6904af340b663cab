//! A folder with a Hugging Face model: `config.json` and safetensors files, checked against each other.

use super::{
    config::Described,
    file::{Element, Entry, Fields, Tensors},
};
use crate::{failure, origin::settled};
use anyhow::{Context, Result};
use models::{Config, hf};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Tensors that are the embedding once more.
const EMBEDDINGS: [&str; 2] = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
/// A tensor of old T5 checkpoints that transformers ignores too.
const IGNORED: &str = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight";
/// How many names a message lists.
const LISTED: usize = 20;

/// A folder with a model: every tensor is there, has the right sizes, and no other is.
#[derive(Debug)]
pub struct Folder {
    /// Where it is.
    pub dir: PathBuf,
    /// What `config.json` says.
    pub described: Described,
    /// The same as a configuration of ours.
    pub config: Config,
    /// The model's tensors.
    pub tensors: Vec<hf::Tensor>,
    files: Vec<Tensors>,
    /// File and place in it, by name.
    index: BTreeMap<String, (usize, usize)>,
}

impl Folder {
    /// Opens a folder and checks everything but the elements.
    pub fn open(dir: &Path) -> Result<Self> {
        let described = Described::read(dir)?;
        let name = dir.join("config.json").display().to_string();
        let config = settled(described.model, &described.line(), described.dtype, &name)?;
        let tensors = hf::tensors(&config).map_err(|why| {
            failure(format!("`{name}` describes no model of theirs: {why}"), "see docs/interchange.md")
        })?;
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
                        "leave it in one file",
                    ));
                }
            }
        }
        let folder = Self { dir: dir.to_owned(), described, config, tensors, files, index };
        folder.check()?;
        Ok(folder)
    }

    /// The bytes of a tensor that is there, and their type.
    pub fn read(&self, name: &str) -> Result<(Element, Vec<u8>)> {
        let (i, j) = *self.index.get(name).with_context(|| format!("there is no tensor `{name}`"))?;
        let entry = &self.files[i].entries[j];
        Ok((entry.element, self.files[i].read(entry)?))
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.index.get(name).map(|(i, j)| &self.files[*i].entries[*j])
    }

    /// Names and sizes against what the configuration asks for.
    fn check(&self) -> Result<()> {
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        for tensor in &self.tensors {
            match self.entry(&tensor.name) {
                None => missing.push(format!("`{}` {:?}", tensor.name, tensor.sizes)),
                Some(entry) if entry.sizes != tensor.sizes => misshapen.push(format!(
                    "`{}` has sizes {:?}, the configuration makes it {:?}",
                    tensor.name, entry.sizes, tensor.sizes
                )),
                Some(entry) if entry.element == Element::I32 => {
                    misshapen.push(format!("`{}` has whole numbers as elements", tensor.name));
                }
                Some(_) => {}
            }
        }
        let mut doubles: Vec<&str> = EMBEDDINGS.to_vec();
        if self.config.tied {
            doubles.push("lm_head.weight");
        }
        let known = |name: &str| {
            name == IGNORED || doubles.contains(&name) || self.tensors.iter().any(|t| t.name == name)
        };
        // By set, so that thousands of experts are no square of thousands.
        let names: std::collections::BTreeSet<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        let left: Vec<String> = self
            .index
            .keys()
            .filter(|n| !names.contains(n.as_str()) && !known(n))
            .map(|n| format!("`{n}`"))
            .collect();
        let mut wrong = Vec::new();
        for (what, list) in [("missing", missing), ("of other sizes", misshapen), ("left over", left)] {
            if !list.is_empty() {
                wrong.push(format!("{} {what}:\n    {}", list.len(), shortened(&list)));
            }
        }
        if !wrong.is_empty() {
            return Err(failure(
                format!(
                    "the tensors in `{}` are not those of its config.json\n  {}",
                    self.dir.display(),
                    wrong.join("\n  ")
                ),
                "config.json and the weights must be of one model, whole and under the names of transformers",
            ));
        }
        for double in doubles.into_iter().filter(|d| self.index.contains_key(*d)) {
            self.check_double(double)?;
        }
        Ok(())
    }

    /// A tensor that must be the embedding.
    fn check_double(&self, name: &str) -> Result<()> {
        if self.read(name)? == self.read("shared.weight")? {
            return Ok(());
        }
        Err(failure(
            format!(
                "`{}`: tensor `{name}` is not the same as `shared.weight`, which config.json says that it is",
                self.dir.display()
            ),
            "if the output projection is its own, config.json has \"tie_word_embeddings\": false",
        ))
    }
}

fn open_files(dir: &Path) -> Result<Vec<Tensors>> {
    let (single, index) = (dir.join("model.safetensors"), dir.join("model.safetensors.index.json"));
    if single.is_file() {
        return Ok(vec![Tensors::open(&single)?]);
    }
    if !index.is_file() {
        return Err(failure(
            format!("`{}` has neither model.safetensors nor model.safetensors.index.json", dir.display()),
            "weights in other formats are written as safetensors by `save_pretrained` of transformers",
        ));
    }
    let wrong =
        |why: String| failure(format!("`{}` {why}", index.display()), "copy or download the folder again");
    let text = fs::read(&index).with_context(|| format!("reading `{}`", index.display()))?;
    let fields: Fields = serde_json::from_slice(&text).map_err(|e| wrong(format!("is no index: {e}")))?;
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
                "and `{name}` do not agree: the file lacks {lacks}, and has {more} tensors that the index does not name"
            )));
        }
        files.push(file);
    }
    Ok(files)
}

/// A list for a message.
pub(super) fn shortened(list: &[String]) -> String {
    let mut text = list.iter().take(LISTED).cloned().collect::<Vec<_>>().join("\n    ");
    if list.len() > LISTED {
        text += &format!("\n    and {} more", list.len() - LISTED);
    }
    text
}

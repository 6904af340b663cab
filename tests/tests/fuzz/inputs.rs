//! Inputs of every kind, and the code that reads them.

use super::{mutate::Files, options};
use data::{Pieces, PreparedTokens, Reading, Stats, Tokenizer, Tokens};
use interchange::hf::{self, file::Element};
use models::Config;
use proto::{Message, xla::HloModuleProto};
use runtime::{
    Artefact, Checkpoint, HostTensor,
    artefact::{DIGESTS, digests},
    checkpoint::{Kind as StateKind, Writer},
};
use std::{fs, path::Path};

/// The result of reading a damaged input.
pub enum Read {
    /// With an error.
    Refused,
    /// Without one. Where a digest says what the contents are, they are those of the seed.
    Same,
}

/// Reads the input in a folder; the flag is true if the input was altered. The error is a finding.
pub type Reader = dyn Fn(&Path, bool) -> Result<Read, String>;

/// A kind of input.
pub struct Kind {
    pub name: &'static str,
    pub seeds: Vec<Files>,
    pub read: Box<Reader>,
}

/// All kinds. Seeds are made in `place`.
pub fn kinds(place: &Path) -> Vec<Kind> {
    vec![
        data_files(),
        tokenizers(),
        prepared(&place.join("prepared")),
        programs(),
        names_of_programs(),
        configurations(),
        options::option_files(),
        options::task_files(),
        artefacts(),
        whole_artefacts(),
        modules(),
        compile_options(),
        runs(),
        checkpoints(&place.join("checkpoint")),
        hugging_face(),
    ]
}

const TEXT: &str = "Tiếng Việt, naïve café and 12,000 words.\nA line </s> <extra_id_0>\n\u{1f600}\n";

fn refused_or<T, E>(result: Result<T, E>) -> Result<Read, String> {
    Ok(if result.is_ok() { Read::Same } else { Read::Refused })
}

/// Returns one file.
pub fn one(name: &str, bytes: impl Into<Vec<u8>>) -> Files {
    vec![(name.to_owned(), bytes.into())]
}

/// The files of a folder without folders.
pub fn files_of(dir: &Path) -> Files {
    let mut files: Files = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn data_files() -> Kind {
    let line = serde_json::json!({ "id": 1, "text": TEXT }).to_string() + "\n";
    // zstd's output for `hello`.
    let zst = b"\x28\xb5\x2f\xfd\x24\x06\x31\0\0hello\n\x53\x88\xbd\x91";
    // gzip's output for `hello`.
    let gz = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48\xcd\xc9\xc9\xe7\x02\0\x20\x30\x3a\x36\x06\0\0\0";
    let seeds = vec![
        one("a.txt", TEXT),
        one("a.jsonl", line.repeat(3)),
        one("a.json", line),
        one("a.txt.zst", *zst),
        one("a.txt.gz", *gz),
        one("a.parquet", "PAR1 not much PAR1"),
        vec![("a.txt".into(), TEXT.into()), ("b.jsonl".into(), "{\"text\": \"x\"}\n".into())],
    ];
    let read = |dir: &Path, _| {
        let reading = Reading { max_decompressed: 1 << 24, ..Reading::default() };
        refused_or(Stats::of_files(&[dir.to_owned()], &reading, &Tokenizer::Bytes))
    };
    Kind { name: "data files", seeds, read: Box::new(read) }
}

fn tokenizers() -> Kind {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/sentencepiece");
    let models = files_of(&folder).into_iter().filter(|(name, _)| name.ends_with(".model"));
    let mut seeds: Vec<Files> = models.map(|(_, bytes)| one("t", bytes)).collect();
    let unigram = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{ "id": 0, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true }],
        "normalizer": { "type": "NFKC" },
        "pre_tokenizer": { "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true },
        "post_processor": null,
        "decoder": { "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true },
        "model": { "type": "Unigram", "unk_id": 2, "byte_fallback": false,
                   "vocab": [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["\u{2581}a", -1.5], ["n", -2.0]] }
    });
    let bpe = serde_json::json!({
        "version": "1.0", "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false,
                   "vocab": { "a": 0, "n": 1, "an": 2, "and": 3, "d": 4 }, "merges": ["a n", "an d"] }
    });
    seeds.extend([one("t", unigram.to_string()), one("t", bpe.to_string())]);
    let read = |dir: &Path, _| {
        let Ok(tokenizer) = data::tokenizer::open(&dir.join("t")) else { return Ok(Read::Refused) };
        for text in [TEXT, "", " ", "\0</s>", "aaaa....----"] {
            let Ok(tokens) = tokenizer.encode(text) else { return Ok(Read::Refused) };
            let limit = tokenizer.tokens() as i32;
            if let Some(wrong) = tokens.iter().find(|token| !(0..limit).contains(token)) {
                return Err(format!("token {wrong} of {limit}"));
            }
            let _ = tokenizer.decode(&tokens);
        }
        let some: Vec<i32> = (-3..400).collect();
        refused_or(tokenizer.decode(&some))
    };
    Kind { name: "tokenizers", seeds, read: Box::new(read) }
}

fn prepared(place: &Path) -> Kind {
    fs::create_dir_all(place).unwrap();
    fs::write(place.join("a.jsonl"), serde_json::json!({ "text": TEXT }).to_string() + "\n").unwrap();
    fs::write(place.join("b.txt"), TEXT).unwrap();
    let paths = [place.join("a.jsonl"), place.join("b.txt")];
    let out = place.join("out");
    data::prepared::prepare(&paths, &Reading::default(), &Tokenizer::Bytes, &out, &mut |_, _| ()).unwrap();
    let contents = |dir: &Path| -> data::Result<_> {
        let prepared = PreparedTokens::open(dir)?;
        let manifest = prepared.manifest().clone();
        let stats = Stats::of_prepared(&prepared)?;
        let tokens = Tokens::of_prepared(prepared, None)?;
        Ok((manifest, tokens.read(0..tokens.len())?, tokens.ends()?, stats))
    };
    let expected = contents(&out).unwrap();
    let read = move |dir: &Path, _| match contents(dir) {
        Err(_) => Ok(Read::Refused),
        Ok(found) if found == expected => Ok(Read::Same),
        Ok((manifest, tokens, _, _)) => {
            let what = if tokens == expected.1 { "manifest" } else { "tokens" };
            Err(format!("other contents are accepted: {what} {:?}", manifest.tokenizer))
        }
    };
    Kind { name: "prepared tokens", seeds: vec![files_of(&out)], read: Box::new(read) }
}

fn programs() -> Kind {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let mut seeds = Vec::new();
    for folder in ["autodiff", "infer", "partition", "text"] {
        seeds.extend(files_of(&root.join(folder)).into_iter().map(|(_, text)| one("p.mesh", text)));
    }
    Kind { name: "programs", seeds, read: Box::new(read_program) }
}

fn read_program(dir: &Path, _: bool) -> Result<Read, String> {
    let bytes = fs::read(dir.join("p.mesh")).map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let Ok(module) = mesh::text::parse(&text, "p.mesh") else { return Ok(Read::Refused) };
    let printed = mesh::text::print(&module);
    let Ok(again) = mesh::text::parse(&printed, "p.mesh") else {
        return Err("the printed program cannot be parsed".into());
    };
    if mesh::text::print(&again) != printed {
        return Err("the printed program prints as another one".into());
    }
    match mesh::verify::Global::new(module) {
        Err(_) => Ok(Read::Refused),
        // Strings in text are quoted: a verified program has control characters in meta values at most.
        Ok(program) => match names(program.module()).find_map(|name| mesh::Name::fault("name", name)) {
            Some(fault) => Err(fault),
            None => Ok(Read::Same),
        },
    }
}

/// Returns the names of a program that other programs see.
fn names(module: &mesh::Module) -> impl Iterator<Item = &str> {
    let states = module.env.states.iter().map(|(_, state)| state);
    let types = module.env.states.iter().map(|(_, state)| &state.ty);
    let values = module.functions.iter().flat_map(|f| f.body.values.iter().map(|(_, value)| &value.ty));
    let dims = types.chain(values).flat_map(|ty| &ty.dims).map(|d| d.dim.name.as_str());
    let of_functions =
        module.functions.iter().flat_map(|f| [&f.name].into_iter().chain(&f.inputs).chain(&f.outputs));
    let keys = module.meta.iter().map(|entry| &entry.key);
    let names = states.map(|state| &state.name).chain(of_functions).chain(keys);
    dims.chain(names.map(mesh::Name::as_str)).chain([module.name.as_str()])
}

/// Programs whose names are replaced by other text, in quotes and escaped.
fn names_of_programs() -> Kind {
    let text = "module \"m\"\nmeta \"k\" = \"v\"\nstate param \"w\": f32[\"a\"=4]\n\n\
                func \"f\"(%x \"x\": f32[\"a\"=4]) -> (\"y\": f32[\"b\"=4]) {\n  %1 = rename %x {pairs=[\"a\" -> \"b\"]} : \
                f32[\"b\"=4]\n  return %1\n}\n";
    let telling =
        ["\\n", "\\r\\n", "\\t", "\\u{0}", "\\u{1b}[31m", "\\u{85}", "\\u{2028}", "\\\"", "a b", "é", ""];
    let long = "x".repeat(70_000);
    let replaced = |name: &str| text.replace("\"a\"", &format!("\"{name}\""));
    let all = ["\"m\"", "\"k\"", "\"w\"", "\"f\"", "\"x\"", "\"y\"", "\"b\""];
    let mut seeds: Vec<Files> =
        telling.iter().chain([&long.as_str()]).map(|name| one("p.mesh", replaced(name))).collect();
    for (i, quoted) in all.iter().enumerate() {
        let name = telling[i % telling.len()];
        seeds.push(one("p.mesh", text.replace(quoted, &format!("\"{name}\""))));
    }
    Kind { name: "names of programs", seeds, read: Box::new(read_program) }
}

fn configurations() -> Kind {
    let mixture = "temperature = 3.33\ncap = 5\n\n[sources.en]\nfiles = [\"en/*.jsonl.gz\"]\nrate = 2.0\n\n\
                   [sources.sw]\nfiles = [\"sw\"]\ntext_field = \"body\"\n";
    let seeds = vec![
        one("c", mixture),
        one("c", "batch:data, experts:expert, ff:model"),
        one("c", "data=2,expert=4,model=8"),
        one("c", "remat=long, microbatches=4, unroll=2"),
    ];
    let read = |dir: &Path, _| {
        let bytes = fs::read(dir.join("c")).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&bytes);
        let all = [
            toml::from_str::<data::MixtureSpec>(&text).is_ok(),
            mesh::Layout::parse(&text).is_ok(),
            mesh::Mesh::parse(&text).is_ok(),
            mesh::Schedule::parse(&text).is_ok(),
        ];
        Ok(if all.contains(&true) { Read::Same } else { Read::Refused })
    };
    Kind { name: "configurations", seeds, read: Box::new(read) }
}

/// The files of an artefact of a small program, with collectives if it is for several devices.
fn small_artefact(mesh: &str) -> Files {
    let text = "module m\n\nfunc f(%x x: f32[a=4]) -> (y: f32[]) {\n  %y = reduce_sum %x {dims=[a]} : f32[]\n  \
                return %y\n}\n";
    tests::training::files_of_text(text, mesh, if mesh.is_empty() { "" } else { "a:data" })
}

/// Damaged artefacts whose digests are right, so that what they protect is read.
fn artefacts() -> Kind {
    let read = |dir: &Path, _| {
        let files = files_of(dir);
        fs::write(dir.join(DIGESTS), digests(&files)).map_err(|e| e.to_string())?;
        let Ok(artefact) = Artefact::open(dir) else { return Ok(Read::Refused) };
        proto::manifest_json::to_json(&artefact.manifest);
        Ok(Read::Same)
    };
    let seeds = vec![small_artefact(""), small_artefact("data=2")];
    Kind { name: "artefacts", seeds, read: Box::new(read) }
}

/// Serialized HLO, as artefacts and plugins have it.
fn modules() -> Kind {
    let seeds = ["", "data=2"].iter().flat_map(|mesh| small_artefact(mesh));
    let seeds =
        seeds.filter(|(name, _)| name.ends_with("hlo.pb")).map(|(_, bytes)| one("m", bytes)).collect();
    let read = |dir: &Path, _| {
        let bytes = fs::read(dir.join("m")).map_err(|e| e.to_string())?;
        let Ok(module) = HloModuleProto::decode(&bytes[..]) else { return Ok(Read::Refused) };
        let problems = proto::hlo_check::check(&module, 2);
        proto::hlo_text::print(&module, &proto::hlo_text::Options::default());
        proto::precision_check::selective(&module);
        let _ = proto::hlo_processes::for_processes(&bytes, 0);
        report::optimized::count(&module, &mesh::Mesh::parse("data=2").map_err(|e| e.to_string())?, None);
        Ok(if problems.is_empty() { Read::Same } else { Read::Refused })
    };
    Kind { name: "modules", seeds, read: Box::new(read) }
}

fn compile_options() -> Kind {
    let seeds = small_artefact("data=2").into_iter().filter(|(name, _)| name.ends_with("options.pb"));
    let seeds = seeds.map(|(_, bytes)| one("o", bytes)).collect();
    let read = |dir: &Path, _| {
        let bytes = fs::read(dir.join("o")).map_err(|e| e.to_string())?;
        refused_or(proto::compile_options_check::check(&bytes, 2))
    };
    Kind { name: "compile options", seeds, read: Box::new(read) }
}

/// The metrics of a run, for its page.
fn runs() -> Kind {
    let line = |step: u64| {
        let loads = [[0.25, 0.75], [0.5, 0.5]];
        let mut line =
            serde_json::json!({ "step": step, "loss": 5.5, "tokens_per_s": 10.0, "encoder_load": loads });
        if step == 2 {
            line["eval"] = serde_json::json!({ "loss": 5.25 });
            line["rollback"] =
                serde_json::json!({ "from": 2, "to": 1, "loss": 9.0, "limit": 8.0, "batches": [1, 2] });
        }
        format!("{line}\n")
    };
    let metrics: String = (1..4).map(line).collect();
    let about =
        serde_json::json!({ "program": "m", "mesh": "data=2", "parameters": 7, "meta": {}, "warnings": [] });
    let seeds = vec![vec![("about".into(), about.to_string().into()), ("metrics".into(), metrics.into())]];
    let read = |dir: &Path, _| {
        let read = |name: &str| fs::read(dir.join(name)).unwrap_or_default();
        let about = serde_json::from_slice(&read("about")).unwrap_or_default();
        let run = page::run::Run::parse("run", about, &read("metrics"));
        run.summary();
        let html = page::run_page::page(&[run.clone(), run]);
        if html.contains(['\u{1b}', '\u{7}']) {
            return Err("a page has control characters".into());
        }
        Ok(Read::Same)
    };
    Kind { name: "runs", seeds, read: Box::new(read) }
}

/// Whole directories: every change is refused, or changes nothing that is read.
fn whole_artefacts() -> Kind {
    let mut seed = small_artefact("data=2");
    seed.push((DIGESTS.to_owned(), digests(&seed)));
    let contents = |artefact: &Artefact| {
        let files = artefact.manifest.functions.iter().flat_map(|f| [&f.module, &f.compile_options]);
        let files: Vec<Vec<u8>> =
            files.map(|file| artefact.file(file).map(<[u8]>::to_vec).unwrap_or_default()).collect();
        (artefact.manifest.clone(), files)
    };
    let dir = tempfile::tempdir().unwrap();
    seed.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).unwrap());
    let expected = contents(&Artefact::open(dir.path()).unwrap());
    let read = move |dir: &Path, _| match Artefact::open(dir) {
        Err(_) => Ok(Read::Refused),
        Ok(found) if contents(&found) == expected => Ok(Read::Same),
        Ok(found) => Err(format!("another program is accepted: {:?}", found.manifest)),
    };
    Kind { name: "whole artefacts", seeds: vec![seed], read: Box::new(read) }
}

fn checkpoints(place: &Path) -> Kind {
    let mut writer = Writer::create(place).unwrap();
    let dims = |sizes: &[usize]| -> Vec<(String, usize)> {
        sizes.iter().zip(["a", "b"]).map(|(size, name)| (name.to_owned(), *size)).collect()
    };
    let values: Vec<f32> = (0..12).map(|n| n as f32).collect();
    writer.tensor("w", StateKind::Param, &dims(&[3, 4]), HostTensor::f32(&[3, 4], &values)).unwrap();
    writer.tensor("step", StateKind::Counter, &[], HostTensor::s32(&[], &[7])).unwrap();
    writer.finish([("program".to_owned(), "m".to_owned())].into(), 7).unwrap();
    let contents = |dir: &Path| -> runtime::Result<_> {
        let checkpoint = Checkpoint::open(dir)?;
        checkpoint.verify()?;
        let all: Vec<(String, HostTensor)> = checkpoint
            .tensors()
            .iter()
            .map(|entry| Ok((entry.name.clone(), checkpoint.read(&entry.name)?)))
            .collect::<runtime::Result<_>>()?;
        Ok((checkpoint.step(), checkpoint.facts().clone(), all))
    };
    let expected = contents(place).unwrap();
    let read = move |dir: &Path, _| match contents(dir) {
        Err(_) => Ok(Read::Refused),
        Ok(found) if found == expected => Ok(Read::Same),
        Ok((step, facts, _)) => Err(format!("other contents are accepted: step {step}, {facts:?}")),
    };
    Kind { name: "checkpoints", seeds: vec![files_of(place)], read: Box::new(read) }
}

fn hugging_face() -> Kind {
    let config = Config {
        vocab: 16,
        d_model: 4,
        d_ff: 4,
        heads: 1,
        d_kv: 2,
        encoder_layers: 1,
        decoder_layers: 1,
        switch: None,
        ..Config::default()
    };
    let text = hf::config::write(&config, "float32").unwrap();
    let tensors = models::hf::tensors(&config).unwrap();
    let list: Vec<(String, Element, Vec<usize>)> =
        tensors.iter().map(|t| (t.name.clone(), Element::F32, t.sizes.clone())).collect();
    let bytes: usize = list.iter().map(|(_, _, sizes)| sizes.iter().product::<usize>() * 4).sum();
    let file = [hf::file::header(&list), vec![0; bytes]].concat();
    let seeds = vec![vec![("config.json".into(), text.into_bytes()), ("model.safetensors".into(), file)]];
    let read = |dir: &Path, _| {
        let Ok(folder) = hf::Folder::open(dir) else { return Ok(Read::Refused) };
        refused_or(folder.tensors.iter().try_for_each(|tensor| folder.read(&tensor.name).map(|_| ())))
    };
    Kind { name: "Hugging Face folders", seeds, read: Box::new(read) }
}

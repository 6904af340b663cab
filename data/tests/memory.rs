//! Memory of texts: at most 2 bytes a token, and a constant.
//!
//! A normal run measures a few MiB of text, `MESH_SLOW=1` more of it in files of every kind. Each
//! measurement is that of a process.

use data::{Reading, Tokenizer, Tokens};
use flate2::{Compression, write::GzEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

const MIB: usize = 1 << 20;
/// Memory of blocks that are read, tokenized and collected at a time.
const CONSTANT: usize = 64 * MIB;
/// Memory in which two measurements may differ for other reasons than their tokens.
const NOISE: usize = 6 * MIB;

/// 8 KiB of text in lines.
fn block() -> String {
    "The cat sat on the mat, and a dog did not. It was nine.\n12345678".repeat(128)
}

/// Writes a file with `mib` MiB of text, without having it in memory.
fn write(path: &Path, mib: usize) {
    let name = path.to_string_lossy();
    let text = block();
    let lines = text.lines().map(|line| format!("{{\"text\": \"{line}\"}}\n")).collect::<String>();
    let some = if name.contains(".jsonl") { lines } else { text };
    let some = some.repeat(MIB / block().len());
    let mut file = fs::File::create(path).expect("the file can be created");
    if name.ends_with(".gz") {
        let mut gzip = GzEncoder::new(file, Compression::fast());
        (0..mib).for_each(|_| gzip.write_all(some.as_bytes()).expect("the file can be written"));
        gzip.finish().expect("the file can be written");
        return;
    }
    let some = match name.ends_with(".zst") {
        true => compress_to_vec(some.as_bytes(), CompressionLevel::Fastest),
        false => some.into_bytes(),
    };
    (0..mib).for_each(|_| file.write_all(&some).expect("the file can be written"));
}

/// The variables of a process that measures: the files, one a line, and the file of the tokenizer.
const FILES: &str = "MESH_MEASURED_FILES";
const TOKENIZER: &str = "MESH_MEASURED_TOKENIZER";

/// Returns a number of bytes in `/proc/self/status`.
fn memory(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel has it");
    let kib = line.trim().strip_suffix("kB").and_then(|kib| kib.trim().parse::<usize>().ok());
    kib.expect("a number of KiB") * 1024
}

/// Reads files, and prints the number of tokens and the bytes of memory that they took at most.
fn measure(files: &str) {
    let tokenizer = match env::var_os(TOKENIZER) {
        Some(path) => {
            Tokenizer::Pieces(data::tokenizer::open(Path::new(&path)).unwrap_or_else(|e| panic!("{e}")))
        }
        None => Tokenizer::Bytes,
    };
    let before = memory("VmRSS:");
    let paths: Vec<PathBuf> = files.lines().map(PathBuf::from).collect();
    let tokens =
        Tokens::open(&paths, &Reading::default(), Some(&tokenizer)).unwrap_or_else(|e| panic!("{e}"));
    println!("\nmeasured {} {}", tokens.len(), memory("VmHWM:") - before);
}

/// Returns the number of tokens of files and the bytes of memory that they take at most, in a process of
/// their own: memory that was freed before would not count.
fn measured(paths: &[PathBuf], tokenizer: Option<&Path>) -> (usize, usize) {
    let files: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut command = Command::new(env::current_exe().expect("the test has a file"));
    command.args(["--exact", "text_takes_two_bytes_a_token", "--nocapture"]).env(FILES, files.join("\n"));
    tokenizer.map(|path| command.env(TOKENIZER, path));
    // The C library maps blocks of this size one by one, and so returns freed ones to the system. `meshc` has
    // an allocator that reuses them.
    command.env("MALLOC_MMAP_THRESHOLD_", "131072");
    let output = command.output().expect("the test starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let numbers =
        said.lines().find_map(|line| line.strip_prefix("measured ")).and_then(|n| n.split_once(' '));
    let (tokens, bytes) =
        numbers.unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&output.stderr)));
    (tokens.parse().expect("a number"), bytes.parse().expect("a number"))
}

/// Checks the memory of files of these names with `mib` MiB of text each, and with four times as much.
#[track_caller]
fn check(names: &[&str], tokenizer: Option<&Path>, mib: usize) {
    let folder = tempfile::tempdir().expect("a folder for the files");
    let [few, many] = [mib, 4 * mib].map(|mib| {
        let paths: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
        paths.iter().for_each(|path| write(path, mib));
        measured(&paths, tokenizer)
    });
    let [a, b] = [few, many].map(|(tokens, bytes)| format!("{tokens} tokens take {} KiB", bytes / 1024));
    println!(
        "{names:?} with `{}`: {a}, {b}",
        tokenizer.map_or("bytes".into(), |path| path.to_string_lossy())
    );
    assert!(many.1 <= 2 * many.0 + CONSTANT, "{names:?}: {b}");
    assert!(many.1 <= few.1 + 2 * (many.0 - few.0) + NOISE, "{names:?}: {a}, but {b}");
}

#[test]
fn text_takes_two_bytes_a_token() {
    if let Ok(files) = env::var(FILES) {
        return measure(&files);
    }
    if !cfg!(target_os = "linux") {
        return eprintln!("skipped: only Linux tells the memory of a process");
    }
    check(&["a.txt"], None, 5);
    if env::var_os("MESH_SLOW").is_none_or(|v| v != "1") {
        return eprintln!("skipped: MESH_SLOW=1 measures files of every kind");
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sentencepiece/unigram_nmt_nfkc.model");
    for tokenizer in [None, Some(&*model)] {
        for name in ["a.txt", "a.jsonl", "a.txt.gz", "a.jsonl.zst"] {
            check(&[name], tokenizer, 5);
        }
    }
    // An end token follows the text, which is in bytes until then.
    check(&["a.txt", "b.jsonl"], None, 5);
}

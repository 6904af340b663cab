#!/usr/bin/env python3
"""Makes the campaigns' text and tokenizer from the sources of crates, and nothing that is not reproducible.

  text.py list LOCK > crates.txt              the newest version of each crate of a Cargo.lock that cargo has unpacked
  text.py make DIR [--registry DIR]           text.jsonl and text.model in DIR

`make` reads the crates that crates.txt names from cargo's registry; `cargo fetch` puts them there. It keeps every Rust source
that is not mostly a copy of one before it: of its lines of 20 characters or more, half must be new. One JSON line for
each file, in the order of a digest of its name, so that the end of the text (which runs hold out) is a sample of
all crates. Evaluations read that end from its beginning, and not all of it: there, files are cut into pieces, which are in
the order of a digest, too. Then it trains a SentencePiece unigram model of T5's kind (white space of any kind is one space) on every
tenth file. Needs the Python package `sentencepiece` 0.2.0 for that.
"""
import argparse
import hashlib
import io
import json
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIECES = 1020  # and 4 more that text never gives: the models' vocabulary is 1,024
SHORT_LINE = 20
HELD_OUT = 0.019  # a little less than what runs hold out
PIECE = 1500  # characters
LONGEST_LINE = 4000  # files with longer ones are data, not source


def version_key(version):
    core = version.split("+")[0].split("-")[0]
    return [int(part) for part in core.split(".")]


def list_crates(lock, registry):
    """Prints `name version checksum` of the newest version of each crate that the registry folder holds."""
    unpacked = {path.name for root in registry.iterdir() for path in root.iterdir()}
    newest = {}
    for package in tomllib.loads(Path(lock).read_text())["package"]:
        if "checksum" not in package or f"{package['name']}-{package['version']}" not in unpacked:
            continue
        known = newest.get(package["name"])
        if known is None or version_key(package["version"]) > version_key(known["version"]):
            newest[package["name"]] = package
    for name in sorted(newest):
        print(name, newest[name]["version"], newest[name]["checksum"])


def sources(registry):
    """(name of the file, its text) of all Rust sources of the crates, in the order of a digest of the name."""
    roots = sorted(path for path in registry.iterdir() if path.is_dir())
    found, missing = [], []
    for line in (HERE / "crates.txt").read_text().splitlines():
        name, version, _ = line.split()
        folders = [root / f"{name}-{version}" for root in roots if (root / f"{name}-{version}").is_dir()]
        if not folders:
            missing.append(f"{name}-{version}")
            continue
        for path in folders[0].rglob("*.rs"):
            found.append((f"{name}/{path.relative_to(folders[0]).as_posix()}", path))
    if missing:
        sys.exit(f"{len(missing)} crates of crates.txt are not in {registry}, the first is {missing[0]}: "
                 "run `cargo fetch` in a checkout whose Cargo.lock has them, or list the crates anew")
    found.sort(key=lambda item: hashlib.sha256(item[0].encode()).digest())
    return found


def deduplicated(files):
    """The files of which at least half the long lines did not occur in those before."""
    seen = set()
    for name, path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        lines = [line.strip() for line in text.splitlines()]
        if max(map(len, lines), default=0) > LONGEST_LINE:
            continue
        digests = [hash_line(line) for line in lines if len(line) >= SHORT_LINE]
        new = [digest for digest in digests if digest not in seen]
        if not digests or 2 * len(new) < len(digests):
            continue
        seen.update(new)
        yield name, text


def mixed_at_the_end(documents):
    """The documents, but the last of them, a share of HELD_OUT, in pieces whose order is that of a digest."""
    total, end = sum(len(text) for _, text in documents), len(documents)
    taken = 0
    while taken < HELD_OUT * total:
        end -= 1
        taken += len(documents[end][1])
    pieces = []
    for name, text in documents[end:]:
        lines = text.splitlines(keepends=True)
        while lines:
            size, count = 0, 0
            while count < len(lines) and size < PIECE:
                size += len(lines[count])
                count += 1
            pieces.append((f"{name}#{len(pieces)}", "".join(lines[:count])))
            lines = lines[count:]
    pieces.sort(key=lambda piece: hashlib.sha256(piece[0].encode()).digest())
    return documents[:end] + pieces


def hash_line(line):
    return hashlib.blake2b(line.encode(), digest_size=8).digest()


def train_pieces(texts, path):
    import sentencepiece

    model = io.BytesIO()

    lines = (line for text in texts for line in text.splitlines() if line.strip() and len(line) < 1000)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, vocab_size=PIECES, model_type="unigram", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, num_threads=1, input_sentence_size=200_000, shuffle_input_sentence=False)
    path.write_bytes(model.getvalue())


def make(folder, registry):
    folder.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    documents = list(deduplicated(sources(registry)))
    with open(folder / "text.jsonl", "w", encoding="utf-8") as out:
        for name, text in mixed_at_the_end(documents):
            line = json.dumps({"name": name, "text": text}, ensure_ascii=False) + "\n"
            out.write(line)
            digest.update(line.encode())
            size += len(text.encode())
    print(f"{len(documents)} files, {size} bytes of text, sha256 {digest.hexdigest()}", file=sys.stderr)
    train_pieces([text for _, text in documents[::10]], folder / "text.model")
    print(f"sha256 of text.model {hashlib.sha256((folder / 'text.model').read_bytes()).hexdigest()}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    listing, making = commands.add_parser("list"), commands.add_parser("make")
    listing.add_argument("lock")
    making.add_argument("folder", type=Path)
    for command in [listing, making]:
        command.add_argument("--registry", type=Path, default=Path.home() / ".cargo/registry/src")
    arguments = parser.parse_args()
    if arguments.command == "list":
        list_crates(arguments.lock, arguments.registry)
    else:
        make(arguments.folder, arguments.registry)


if __name__ == "__main__":
    main()

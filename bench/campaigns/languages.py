#!/usr/bin/env python3
"""Makes the text of languages.toml from the manual pages of Debian, and a tokenizer of all languages.

  languages.py DEBS OUT [LANG…]        OUT/LANG.jsonl for each language, and OUT/text.model

DEBS is a folder with packages such as manpages-de and manpages-de-dev (`apt-get download`); those of other names are ignored.
A page is one JSON line, without the marks of roff; paragraphs that occurred before, such as licences, are left out. Pages are
in the order of a digest of their names, so that the end of a text (which runs hold out) is a sample of all pages. The
SentencePiece unigram model has 2,044 pieces, of equally many characters of every language; other characters become bytes.
Needs `dpkg-deb`, and the Python package `sentencepiece` 0.2.0.
"""
import argparse
import gzip
import hashlib
import json
import re
import subprocess
import tempfile
from pathlib import Path

LANGUAGES = ["cs", "de", "es", "fr", "it", "ja", "nl", "pl", "pt_BR", "ro", "ru", "uk"]
PIECES = 2044  # and 4 more that text never gives: the models' vocabulary is 2,048
SAMPLE = 100_000  # characters of each language that the tokenizer is trained on
SHORTEST = 40  # characters of a paragraph

ESCAPE = re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\[sd][+-]?\d*|\\[&|^%:/,]|\\\*\([^\s]{2}|\\\(..|\\\[[^\]]*\]")


def text_of(roff):
    """The paragraphs of a page: what is printed, without its marks."""
    paragraphs, lines = [], []
    for line in roff.splitlines():
        if line.startswith(('.\\"', "'\\\"", ".\\}", ".TH")):
            continue
        if line.startswith((".", "'")):
            name, _, rest = line[1:].strip().partition(" ")
            if name in {"B", "I", "BR", "IR", "RB", "RI", "BI", "IB"}:
                parts = re.findall(r'"([^"]*)"|(\S+)', rest)
                words = [quoted or plain for quoted, plain in parts]
                line = (" " if name in {"B", "I"} else "").join(words)
            else:
                if lines:
                    paragraphs.append(" ".join(lines))
                lines = []
                if name not in {"SH", "SS"}:
                    continue
                line = rest.strip('"')
        line = ESCAPE.sub("", line).replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ").strip()
        if line:
            lines.append(line)
    return paragraphs + ([" ".join(lines)] if lines else [])


def pages(debs, language):
    """(name, text) of all pages of a language."""
    found = {}
    package = "manpages-" + language.lower().replace("_", "-")
    for deb in sorted(debs.glob(f"{package}*.deb")):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["dpkg-deb", "-x", deb, folder], check=True)
            for path in sorted(Path(folder, "usr/share/man", language).rglob("*.gz")):
                if path.is_file() and not path.is_symlink():
                    found[path.name] = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    seen, texts = set(), []
    for name in sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest()):
        new = [p for p in text_of(found[name]) if len(p) >= SHORTEST and p not in seen]
        seen.update(new)
        if new:
            texts.append((name, "\n".join(new)))
    return texts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("debs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("languages", nargs="*", default=LANGUAGES)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sample = args.out / "sample.txt"
    with open(sample, "w") as all_languages:
        for language in args.languages:
            texts = pages(args.debs, language)
            if not texts:
                raise SystemExit(f"{args.debs} has no pages in `{language}`: download manpages-{language.lower()}")
            lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for _, text in texts]
            (args.out / f"{language}.jsonl").write_text("".join(lines))
            print(language, len(texts), "pages,", sum(len(text) for _, text in texts), "characters")
            all_languages.write("\n".join(text for _, text in texts)[:SAMPLE] + "\n")
    import sentencepiece
    sentencepiece.SentencePieceTrainer.train(
        input=str(sample), model_prefix=str(args.out / "text"), model_type="unigram", vocab_size=PIECES,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, byte_fallback=True, character_coverage=0.999,
        max_sentence_length=20000, num_threads=2, minloglevel=1)
    sample.unlink()


if __name__ == "__main__":
    main()

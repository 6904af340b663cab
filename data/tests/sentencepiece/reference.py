"""Models of every kind, and the tokens and texts that the SentencePiece library gives for hard texts.

    python reference.py DIR COUNT SEED [tiny]

writes into DIR `texts.jsonl` (one text a line) and for each model NAME.model and NAME.jsonl: one line
[tokens, decoded text] for each text. With `tiny` the models are small enough to be committed. Needs the
packages `sentencepiece` and `protobuf`.
"""

import io
import json
import pathlib
import random
import sys
import unicodedata

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

USER = ["\n", "<sep>", "<extra_id_0>", "==", "=====", "  ", "\u2581\u2581", "foo bar", "a\u0301"]
CONTROL = ["<pad>", "<ctl>", "q"]
NONE = dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
T5 = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
# A few rules in place of the tables of the library, whose size is 240 KB.
RULES = {
    "e\u0302\u0301": "\u1ebf", "e\u0323\u0302": "\u1ec7", "a\u0302\u0301": "\u1ea5", "e\u0301": "\u00e9",
    "o\u0302": "\u00f4", "A": "a", "B": "b", "T": "t", "\uff76": "\u30ab", "\uff76\uff9e": "\u30ac",
    "\u1100\u1161": "\uac00", "\u1100\u1161\u11a8": "\uac01", "\u00bd": "1\u20442", "\u3000": " ", "\t": " ",
    "\u00a0": " ", "\u200b": "", "\ufeff": "", "\u2026": "...", "\ufb01": "fi", "\uff01": "!", "\u337f":
    "\u682a\u5f0f\u4f1a\u793e", "\u00a8": " \u0308", "\r": " ", "...": "\u2026", "\U0001d400": "A",
}
KINDS = {
    "unigram_nmt_nfkc": dict(model_type="unigram", normalization_rule_name="nmt_nfkc", **T5),
    "unigram_nfkc": dict(model_type="unigram", normalization_rule_name="nfkc", **NONE),
    "unigram_identity_no_prefix": dict(
        model_type="unigram", normalization_rule_name="identity", add_dummy_prefix=False, **NONE),
    "unigram_all_spaces": dict(
        model_type="unigram", normalization_rule_name="nmt_nfkc_cf", remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, **T5),
    "unigram_suffix_user": dict(
        model_type="unigram", normalization_rule_name="nfkc_cf", treat_whitespace_as_suffix=True,
        user_defined_symbols=USER, control_symbols=CONTROL, **NONE),
    "unigram_bytes": dict(
        model_type="unigram", normalization_rule_name="nmt_nfkc", byte_fallback=True,
        user_defined_symbols=USER, **T5),
    "bpe_nmt_nfkc": dict(model_type="bpe", normalization_rule_name="nmt_nfkc", **NONE),
    "bpe_bytes_user": dict(
        model_type="bpe", normalization_rule_name="identity", byte_fallback=True, add_dummy_prefix=False,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, user_defined_symbols=USER, **NONE),
    "bpe_across_spaces": dict(
        model_type="bpe", normalization_rule_name="nfkc", split_by_whitespace=False, **T5),
    "bpe_unused": dict(model_type="bpe", normalization_rule_name="nfkc", **NONE),
    "unigram_unused_denormalized": dict(model_type="unigram", normalization_rule_name="nfkc", **NONE),
    "unigram_unescaped": dict(
        model_type="unigram", normalization_rule_name="nfkc", split_by_whitespace=False, **T5),
    "char": dict(model_type="char", normalization_rule_name="nmt_nfkc", user_defined_symbols=USER, **NONE),
    "word": dict(model_type="word", normalization_rule_name="nmt_nfkc", hard_vocab_limit=False, **T5),
}
RANGES = [
    (0x20, 0x7E), (0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x17F), (0x300, 0x345), (0x370, 0x3FF), (0x400, 0x45F),
    (0x5D0, 0x5EA), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE5B), (0x1100, 0x11FF), (0x1E00, 0x1EFF),
    (0x2000, 0x206F), (0x2070, 0x218F), (0x2460, 0x24FF), (0x2580, 0x2583), (0x2E80, 0x2FD5), (0x3000, 0x30FF),
    (0x3130, 0x318F), (0x3200, 0x33FF), (0x4E00, 0x4EFF), (0xAC00, 0xAC80), (0xE000, 0xE010), (0xF900, 0xFA2F),
    (0xFB00, 0xFDFF), (0xFE20, 0xFEFF), (0xFF00, 0xFFEF), (0x1D400, 0x1D4FF), (0x1F1E6, 0x1F64F),
    (0x2F800, 0x2F8FF), (0xE0020, 0xE007F), (0x0, 0x1F), (0x7F, 0x9F), (0xFFF0, 0xFFFF), (0x10FFF0, 0x10FFFF),
]
PHRASES = [
    "Tiếng Việt rất đẹp và khó", "ガギグゲゴ カタカナ", "한국어 문장입니다 각", "Ünïcödé naïve café", "½ ¾ ⅓ ﬁ ﬂ ㌀ ㍿ ①",
    "</s>", "<s>", "<unk>", "<pad>", "<0x41>", "<0x0A>", "<extra_id_0>", "<ctl>", "<sep>", "=====", "foo bar", "q",
    "...", "... ....", "..........", "aaaaaaaaaa", "- - - -", "\u2581", "\u2581\u2581a", "The quick brown fox",
    "mesh compiles programs over named dims", "👩‍👩‍👧‍👦", "\u0000</s>", "\ufeff", "\u200b", "a\u0301e\u0302\u0301",
    "1234567890", "http://example.org/?a=b&c=%20", "{\"text\": 1}", "\t\t", " \u3000 ", "\r\n", "  ", " ",
]


def piece_of_text(rng, words, pieces):
    kind = rng.randrange(12)
    if kind < 3:
        return " ".join(rng.choice(words) for _ in range(rng.randrange(1, 7)))
    if kind < 5:
        low, high = rng.choice(RANGES)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 6)))
    if kind == 5:
        return rng.choice(PHRASES)
    if kind == 6:
        return unicodedata.normalize(rng.choice(["NFD", "NFC", "NFKD"]), rng.choice(PHRASES))
    if kind == 7:
        return rng.choice([" ", "  ", "   ", "\n", "\t", "\u00a0", "\u3000", "\u2003", "\u200b", "\u00ad"])
    if kind == 8:
        return "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 6))).replace("\u2581", " ")
    if kind == 9:
        return rng.choice(".-=_*aeo!?\u2581 ") * rng.randrange(1, 20)
    if kind == 10:
        return chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)]))
    return "".join(rng.choice("ab ./e\u0301\u0302\u0323") for _ in range(rng.randrange(1, 9)))


def texts(count, seed, words, pieces):
    rng = random.Random(seed)
    yield from PHRASES
    for number in range(count - len(PHRASES)):
        parts = 8000 if number == 5000 else 60 if number % 500 == 0 else rng.randrange(1, 7)
        glue = rng.choice(["", "", " "])
        yield glue.join(piece_of_text(rng, words, pieces) for _ in range(parts))


def corpus():
    """Text to train on: the documentation of this repository, and the phrases above."""
    root = pathlib.Path(__file__).resolve().parents[3]
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))[:12]]
    lines = [line for page in pages for line in page.read_text().splitlines() if line.strip()]
    return [line for line in lines + PHRASES * 3 if "\0" not in line and not line.startswith("<") and line.strip()]


def altered(name, data):
    """Sets what the trainer has no option for."""
    model = pb.ModelProto.FromString(data)
    rng = random.Random(name)
    if "unused" in name:
        for piece in model.pieces:
            if piece.type == piece.NORMAL and len(piece.piece) > 1 and rng.random() < 0.4:
                piece.type = piece.UNUSED
    if "denormalized" in name:
        model.denormalizer_spec.precompiled_charsmap = model.normalizer_spec.precompiled_charsmap
        model.denormalizer_spec.add_dummy_prefix = False
        model.denormalizer_spec.escape_whitespaces = False
        model.trainer_spec.unk_surface = "?"
    if "unescaped" in name:
        model.normalizer_spec.escape_whitespaces = False
        for piece in model.pieces:
            piece.piece = piece.piece.replace("\u2581", " ")
    return model.SerializeToString()


def train(name, options, folder, tiny):
    lines, out = corpus(), io.BytesIO()
    size = {"char": 60, "word": 60}.get(options["model_type"], 420 if "bytes" in name else 160) if tiny else \
        {"char": 300, "word": 300}.get(options["model_type"], 1100)
    options = dict(options)
    if tiny and options["normalization_rule_name"] != "identity":
        rules = str(folder) + "/rules.tsv"
        with open(rules, "w", encoding="utf-8") as file:
            for key, value in RULES.items():
                code = lambda text: " ".join("%X" % ord(c) for c in text)
                file.write("%s\t%s\n" % (code(key), code(value)))
        options.update(normalization_rule_tsv=rules)
        del options["normalization_rule_name"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=size, minloglevel=2, num_threads=1,
        character_coverage=0.98 if tiny else 0.9995, train_extremely_large_corpus=False,
        **dict(dict(hard_vocab_limit=False), **options))
    data = altered(name, out.getvalue())
    if tiny:
        model = pb.ModelProto.FromString(data)
        spec = pb.TrainerSpec()
        for field in ("model_type", "treat_whitespace_as_suffix", "byte_fallback", "unk_surface"):
            if model.trainer_spec.HasField(field):
                setattr(spec, field, getattr(model.trainer_spec, field))
        model.trainer_spec.CopyFrom(spec)
        model.normalizer_spec.ClearField("normalization_rule_tsv")
        data = model.SerializeToString()
    with open("%s/%s.model" % (folder, name), "wb") as file:
        file.write(data)
    return sentencepiece.SentencePieceProcessor(model_proto=data)


def main(folder, count, seed, tiny=False):
    models = {name: train(name, options, folder, tiny) for name, options in KINDS.items()}
    pieces = [model.id_to_piece(rng) for model in models.values() for rng in range(len(model))]
    words = " ".join(corpus()).split()
    all_texts = list(texts(count, seed, words, pieces))
    dump = lambda value: json.dumps(value, separators=(",", ":")) + "\n"
    with open(folder + "/texts.jsonl", "w") as file:
        file.writelines(map(dump, all_texts))
    for name, model in models.items():
        with open("%s/%s.jsonl" % (folder, name), "w") as file:
            for text in all_texts:
                tokens = model.encode(text)
                file.write(dump([tokens, model.decode(tokens)]))
        print(name, len(model), "pieces")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "tiny" in sys.argv[4:])

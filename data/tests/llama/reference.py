"""Writes tokenizer.json and reference.json beside it: a small BPE tokenizer with byte fallback, as those of Llama and
Mixtral, and the token ids and texts that transformers make of texts with it.

    v4/bin/python data/tests/llama/reference.py

The virtual environment is that of tests/transformers/folders.py. The merges are learned from words that are made here.
"""

import json
import pathlib

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import LlamaTokenizerFast, PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
WORDS = "the other then there these mother another and sand band hand land a an in on to at it is was one two".split()
TEXTS = [
    "the other hand", " the  hand\n", "", " ", "Zoë was in the land; 数 and 🦀", "a\tb\r\nc", "another mother's sand",
    "1 + 2 = 3", "thethethe", "\u00a0x", "<extra_id_0> and on",
]


def trained():
    special = [AddedToken(name, normalized=False, special=True) for name in ("<unk>", "<s>", "</s>")]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    first = [str(token.content) for token in special] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=first, show_progress=False)
    lines = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 9)) for i in range(60)]
    tokenizer.train_from_iterator([line.replace(" ", " ") for line in lines], trainer)
    made = json.loads(tokenizer.to_str())
    # Bytes are ordinary tokens, in which the model falls back.
    made["added_tokens"] = [token for token in made["added_tokens"] if token["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


if __name__ == "__main__":
    trained().save(str(HERE / "tokenizer.json"), pretty=False)
    names = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast = PreTrainedTokenizerFast(tokenizer_file=str(HERE / "tokenizer.json"), **names)
    llama = LlamaTokenizerFast(tokenizer_file=str(HERE / "tokenizer.json"), **names)
    cases = []
    for text in TEXTS:
        ids = fast(text)["input_ids"]
        assert ids == llama(text)["input_ids"], text
        cases.append(dict(text=text, ids=ids, decoded=fast.decode(ids, skip_special_tokens=True)))
    said = dict(transformers=transformers.__version__, tokens=len(fast), cases=cases)
    (HERE / "reference.json").write_text(json.dumps(said, indent=1) + "\n")
    print(len(fast), cases[:3])

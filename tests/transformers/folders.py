"""Writes the cases of tests/tests/transformers.rs: folders of Hugging Face models, each with its logits.

    python -m venv v4 && v4/bin/pip install transformers==4.57.6 torch safetensors
    python -m venv v5 && v5/bin/pip install transformers==5.24.0 torch safetensors
    v4/bin/python tests/transformers/folders.py write FOLDERS
    v5/bin/python tests/transformers/folders.py write FOLDERS
    v4/bin/python tests/transformers/folders.py resave FOLDERS
    v5/bin/python tests/transformers/folders.py resave FOLDERS

Each command writes the folders that the installed transformers make, in FOLDERS, and a description of each
in tests/transformers/cases/. `resave` loads the folders that `write` made with the other version, and saves
them again.

A description is JSON: the configuration, the tensors, inputs, logits, and greedy tokens. It has no weights.
Every element is a function of the tensor's name and the element's index (elements.py).
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from elements import element
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    MT5Config,
    MT5ForConditionalGeneration,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

HERE = pathlib.Path(__file__).parent
MAJOR = transformers.__version__.split(".")[0]
SIZES = dict(
    vocab_size=24, d_model=8, d_ff=12, d_kv=3, num_layers=3, num_heads=2, dropout_rate=0.0,
    relative_attention_num_buckets=8, relative_attention_max_distance=16, decoder_start_token_id=0,
    num_decoder_layers=2,
)
GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
SPARSE = dict(
    num_experts=3, num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, expert_capacity=64,
    router_jitter_noise=0.0,
)
INPUT = [[5, 9, 23, 3, 1, 0, 0], [4, 4, 7, 12, 20, 8, 1]]
DECODER_INPUT = [[0, 6, 7, 2, 11], [0, 19, 3, 3, 22]]

CASES = {
    "t5_tied": (T5ForConditionalGeneration, T5Config, {}),
    "t5_untied": (T5ForConditionalGeneration, T5Config, GATED),
    "t5_double": (T5ForConditionalGeneration, T5Config, {}),
    "byt5": (T5ForConditionalGeneration, T5Config, dict(GATED, tokenizer_class="ByT5Tokenizer", vocab_size=272)),
    "ul2": (T5ForConditionalGeneration, T5Config, dict(GATED, feed_forward_proj="gated-silu")),
    "mt5": (MT5ForConditionalGeneration, MT5Config, {}),
    "mt5_tied": (MT5ForConditionalGeneration, MT5Config, dict(tie_word_embeddings=True)),
    "umt5_tied": (UMT5ForConditionalGeneration, UMT5Config, {}),
    "umt5_untied": (UMT5ForConditionalGeneration, UMT5Config, dict(tie_word_embeddings=False)),
    "switch": (SwitchTransformersForConditionalGeneration, SwitchTransformersConfig, SPARSE),
    "t5_encoder": (T5EncoderModel, T5Config, {}),
}
RESAVED = ["t5_tied", "t5_untied", "mt5", "umt5_untied", "switch"]


def fill(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = element(name, parameter.numel()).reshape(parameter.shape)
            parameter.copy_(torch.tensor(values, dtype=parameter.dtype))


def tensors(folder):
    """Element types, sizes, and the tensors whose elements a tensor of another name has."""
    dtypes, sizes, same_as = set(), {}, {}
    with safe_open(folder / "model.safetensors", "np") as file:
        for name in sorted(file.keys()):
            value = file.get_tensor(name)
            same = lambda other: np.array_equal(element(other, value.size).reshape(value.shape), value)
            like = next((other for other in (name, "shared.weight", "lm_head.weight") if same(other)), None)
            assert like, f"{folder}: {name} is no tensor that was filled"
            dtypes.add(str(value.dtype))
            sizes[name] = list(value.shape)
            if like != name:
                same_as[name] = like
    (dtype,) = dtypes
    return {"dtype": dtype, "tensors": sizes, "same_as": same_as}


def describe(name, folder):
    """Describes a folder by what the installed transformers make of it."""
    said = {
        "transformers": transformers.__version__,
        "config": json.loads((folder / "config.json").read_text()),
        **tensors(folder),
    }
    if (folder / "tokenizer_config.json").is_file():
        text = json.loads((folder / "tokenizer_config.json").read_text())
        said["tokenizer_config"] = {"tokenizer_class": text["tokenizer_class"]}
    if "encoder" not in name:
        ids = torch.tensor(INPUT)
        # A larger vocabulary has more logits.
        before = [row[:2] for row in DECODER_INPUT] if "byt5" in name else DECODER_INPUT
        inputs = dict(input_ids=ids, attention_mask=(ids != 0).long())
        model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = model(**inputs, decoder_input_ids=torch.tensor(before)).logits
            greedy = model.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=1)
        said["inputs"] = {"input_ids": INPUT, "decoder_input_ids": before}
        said["logits"] = [float(f"{x:.7g}") for x in logits.double().flatten()]
        said["greedy"] = greedy.tolist()
    cases = HERE / "cases"
    cases.mkdir(exist_ok=True)
    lines = [f'  {json.dumps(key)}: {json.dumps(value)}' for key, value in said.items()]
    (cases / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(name, transformers.__version__)


def write(out):
    for name, (model, config, more) in CASES.items():
        if model is T5EncoderModel:
            made = model(config(**SIZES))
        else:
            made = model(config(**{**SIZES, **more}))
        made = made.double() if "double" in name else made
        fill(made)
        folder = out / f"{name}_v{MAJOR}"
        made.save_pretrained(folder)
        if name == "byt5":
            transformers.ByT5Tokenizer().save_pretrained(folder)
        describe(folder.name, folder)


def resave(out):
    other = {"4": "5", "5": "4"}[MAJOR]
    for name in RESAVED:
        if MAJOR == "4" and "untied" in name:
            # 4.57 ties the tables of such a folder and loses the output projection. It scales the output of
            # what it then saves, 5.24 does not: there is no one right answer.
            continue
        folder = out / f"{name}_v{other}_resaved_v{MAJOR}"
        AutoModelForSeq2SeqLM.from_pretrained(out / f"{name}_v{other}").save_pretrained(folder)
        describe(folder.name, folder)


if __name__ == "__main__":
    command, out = sys.argv[1], pathlib.Path(sys.argv[2])
    {"write": write, "resave": resave}[command](out)

"""Writes the cases of tests/tests/repetition.rs: tokens that transformers make with a repetition penalty, a block of
n-grams and a decoder prompt, for models of the cases of folders.py and causal.py.

    v4/bin/python tests/transformers/repetition.py
    v5/bin/python tests/transformers/repetition.py

The virtual environments are those of folders.py. A case has the name of its model, the options of generation, the
inputs without the start token, and for each input the tokens without the start token and without the input.
"""

import json
import pathlib
import tempfile

import torch
import transformers
from elements import element
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

HERE = pathlib.Path(__file__).parent
MAJOR = transformers.__version__.split(".")[0]
NEW = 9
MODELS = ["t5_tied", "switch", "mixtral", "mistral"]
PENALTY, BLOCK = dict(repetition_penalty=1.7), dict(no_repeat_ngram_size=2)
BEAMS = dict(num_beams=3, num_return_sequences=3, length_penalty=1.5, early_stopping=False)
OPTIONS = [
    PENALTY,
    dict(repetition_penalty=0.6),
    BLOCK,
    dict(no_repeat_ngram_size=3),
    dict(no_repeat_ngram_size=1),
    {**PENALTY, **BLOCK},
    {**PENALTY, **BLOCK, **BEAMS},
    {**BLOCK, **BEAMS},
    {**PENALTY, **BEAMS},
]
PROMPT = [7, 19, 4]
PROMPTED = [{}, PENALTY, {**BLOCK, **BEAMS}, BEAMS]


def opened(name, folder):
    case = json.loads((HERE / "cases" / f"{name}_v{MAJOR}.json").read_text())
    (folder / "config.json").write_text(json.dumps(case["config"]))
    tensors = {
        tensor: torch.tensor(element(case["same_as"].get(tensor, tensor), torch.Size(sizes).numel()).reshape(sizes),
                             dtype=torch.float32)
        for tensor, sizes in case["tensors"].items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    encodes = case["config"].get("is_encoder_decoder", False)
    kind = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
    rows = case["inputs"]["input_ids"]
    if encodes:
        rows = [[token for token in row if token] for row in rows]
    else:
        rows = [row[:4] for row in rows]
    return kind.from_pretrained(folder).eval(), encodes, rows


def generated(model, encodes, row, options, prompt):
    """The tokens for one input, without the start token and the input."""
    ids = torch.tensor([row])
    before = {"decoder_input_ids": torch.tensor([[0] + prompt])} if prompt else {}
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW - len(prompt), do_sample=False, pad_token_id=0,
        **before, **{"num_beams": 1, **options},
    )
    return [sequence[1 if encodes else len(row):] for sequence in made.tolist()]


def cases():
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            model, encodes, rows = opened(name, pathlib.Path(folder))
            for prompt, all_options in (([], OPTIONS), (PROMPT if encodes else None, PROMPTED)):
                for options in all_options if prompt is not None else []:
                    tokens = [generated(model, encodes, row, options, prompt) for row in rows]
                    inputs = [row if encodes else row[1:] for row in rows]
                    yield dict(model=f"{name}_v{MAJOR}", options=options, prompt=prompt, inputs=inputs, tokens=tokens)


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(case) for case in cases())
    text = f'{{"transformers": "{transformers.__version__}", "new": {NEW}, "cases": [\n{lines}\n]}}\n'
    (HERE / "cases" / f"repetition_v{MAJOR}.json").write_text(text)
    print(transformers.__version__)
